"""The same commands in two checkouts: whatever number one and the other both write must be equal to the last digit.

python benchmarks/compare_checkouts.py OLD NEW [--conv]
"""

import argparse
import csv
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from math import isnan
from pathlib import Path
from typing import Any

DEMO = "demo --set train.epochs=10"
RUNS = {
    "demo": f"run {DEMO}",
    "deep": "run deep_rn1_small --set train.epochs=20 model.num_blocks=2 measure.epochs=[10,20]",
}
# Needs the files of Fashion-MNIST.
CONV = {"conv": "run conv_fashion_mnist_small --set train.epochs=2 data.per_class=40"}
# A model by the words of version 0.1 and by those of 0.2.
MODELS = {
    "layer_peeled": (
        "layer_peeled --classes 10 --majority 5 --e-h 5 --e-w 1",
        "layer_peeled counts=10x1 energy_h=5 energy_w=1",
    ),
    "mixon_flow": ("mixon_flow", "unregularized_ufm"),
    "le_sde": ("le_sde --classes 3 --alpha 1 --beta 0.1", "locally_elastic_sde counts=3x100 alpha=1 beta=0.1"),
}


def ncollapse(checkout: Path, words: list[str]) -> str:
    """Return what the command of a checkout prints, with one thread."""
    environment = {**os.environ, "PYTHONPATH": str(checkout / "src"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "ncollapse", *words]
    return subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True).stdout


def numbers(run: Path) -> dict[str, float]:
    """Every number in a run directory, by its place."""
    found: dict[str, float] = {}
    with (run / "measurements.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            place = " ".join(row[column] for column in ("epoch", "split", "layer", "metric"))
            found[f"measurements: {place}"] = float(row["value"])
    with (run / "history.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            found |= {f"history: {row['epoch']} {name}": float(value) for name, value in row.items()}
    for name in ("depth", "objective"):
        file_path = run / f"{name}.json"
        if file_path.exists():
            found |= {f"{name}: {place}": value for place, value in leaves(json.loads(file_path.read_text()))}
    return found


def leaves(value: Any, place: str = "") -> Iterator[tuple[str, float]]:
    """Numbers in a JSON value with their places."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from leaves(item, f"{place}.{key}")
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from leaves(item, f"{place}[{index}]")
    elif isinstance(value, int | float):
        yield place, float(value)


def compare(name: str, old: dict[str, float], new: dict[str, float]) -> bool:
    """Print how two sets of numbers agree; true where every number of both is equal, or nan in both."""
    common = old.keys() & new.keys()
    other = sorted(place for place in common if old[place] != new[place] and not (isnan(old[place]) and isnan(new[place])))
    gone, added = old.keys() - common, len(new) - len(common)
    print(f"{name}: {len(common) - len(other)} of {len(common)} numbers equal; only old {len(gone)}, only new {added}")
    for place in other[:10]:
        print(f"    {place}: {old[place]!r} became {new[place]!r}")
    for place in sorted({place.split(" ")[-1].split("[")[0] for place in gone}):
        print(f"    only old: {place}")
    return bool(common) and not other


def main() -> None:
    """Run everything in both checkouts and exit with 1 if a number moved."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    parser.add_argument("--conv", action="store_true", help="also a convolutional network on Fashion-MNIST")
    options = parser.parse_args()
    old, new = options.old.resolve(), options.new.resolve()
    equal = True
    with tempfile.TemporaryDirectory() as folder:
        for name, words in (RUNS | (CONV if options.conv else {})).items():
            places = [Path(folder, side, name) for side in ("old", "new")]
            for checkout, place in zip((old, new), places, strict=True):
                ncollapse(checkout, [*words.split(), "--out", str(place)])
            equal &= compare(name, numbers(places[0]), numbers(places[1]))
        ncollapse(old, ["run", *DEMO.split(), "seed=1", "--out", f"{folder}/solo"])
        sweep = ["sweep", *DEMO.split(), "--over", "train.weight_decay=0.01", "--seeds", "2"]
        ncollapse(new, [*sweep, "--out", f"{folder}/sweep"])
        runs = [path.parent for path in Path(folder, "sweep").rglob("recipe.json")]
        (swept,) = (run for run in runs if json.loads((run / "recipe.json").read_text())["seed"] == 1)
        equal &= compare("seed 1 alone (old) and in a sweep (new)", numbers(Path(folder, "solo")), numbers(swept))
    for name, (before, after) in MODELS.items():
        values = [
            dict(leaves(json.loads(ncollapse(checkout, ["solve", *words.split(), "--json", *extra]))))
            for checkout, words, extra in ((old, before, []), (new, after, ["--all"]))
        ]
        equal &= compare(f"solve {name}", *values)
    sys.exit(0 if equal else 1)


if __name__ == "__main__":
    main()
