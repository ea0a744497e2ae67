"""Random damages of runs: ``python damaged_runs.py FOLDER NUMBER`` prints how many were mended, refused and overlooked."""

import json
import random
import shutil
import sys
import warnings
from collections import Counter
from pathlib import Path

import torch

from ncollapse.records import ReportError, read_run
from ncollapse.records.verification import verify
from ncollapse.studies import override, recipe_by_name, run_recipe

SETTINGS = [
    "data.name=gaussian_mixture", "data.per_class=10", "train.epochs=6", "train.checkpoint_every=1", "train.batch_size=50",
    "model.width=8", "model.num_blocks=2", "measure.epochs=[0,2,5]", "measure.transport_samples=50",
]  # fmt: skip
KINDS = ("bit", "cut", "doubled", "deleted", "swapped")
RESULTS = ("measurements.csv", "depth.json", "history.csv", "checkpoint.safetensors")


class Stopped(Exception):
    """Ends a run after some epochs."""


def run(out: Path, last: int) -> None:
    """Begin or continue a run up to an epoch."""

    def on_epoch(record, _epochs):
        if record.epoch == last:
            raise Stopped

    try:
        run_recipe(override(recipe_by_name("demo"), SETTINGS), out, resume=True, on_epoch=on_epoch)
    except Stopped:
        return


def damage(rng: random.Random, file: Path, others: list[Path], kind: str) -> None:
    """Damage a file."""
    content = file.read_bytes()
    place = rng.randrange(len(content))
    if kind == "deleted":
        file.unlink()
    elif kind == "bit":
        file.write_bytes(content[:place] + bytes([content[place] ^ 1 << rng.randrange(8)]) + content[place + 1 :])
    elif kind == "doubled":
        lines = content.splitlines(keepends=True)
        row = rng.randrange(len(lines))
        file.write_bytes(b"".join([*lines[: row + 1], *lines[row:]]))
    else:
        file.write_bytes(content[:place] if kind == "cut" else rng.choice(others).read_bytes())


def outcome(rng: random.Random, source: Path, whole: Path, out: Path, kind: str) -> str:
    """Damage a copy of a run, and say what became of it."""
    shutil.copytree(source, out)
    files = sorted(file for file in out.rglob("*") if file.is_file())
    file = rng.choice(files)
    before = file.read_bytes()
    damage(rng, file, [other for other in files if other.read_bytes() != before], kind)
    name, (found,) = str(file.relative_to(out)), verify(out)
    # A swapped manifest may be a true one of another save: then the files that differ are named.
    named = {item.name for item in (*found.files, *found.earlier) if item.meaning}
    if found.state == "whole" or not ({name, str(file.parent.relative_to(out))} & named or file.name == "manifest.json"):
        return f"overlooked: {kind} {name}"
    try:
        table = read_run(out).rows
    except ReportError:
        table = None
    if table is not None and repr(table) != repr(read_run(source).rows):
        return f"overlooked by a reader: {kind} {name}"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            run(out, -1)
    except ValueError:
        return "refused"
    same = all((out / result).read_bytes() == (whole / result).read_bytes() for result in RESULTS)
    return "mended" if same else f"other numbers: {kind} {name}"


def main(folder: Path, number: int) -> Counter:
    """Damage a finished and an unfinished run in turn."""
    torch.set_num_threads(1)
    rng, found = random.Random(0), Counter()
    run(folder / "whole", -1)
    run(folder / "half", 4)
    for index in range(number):
        source = folder / ("whole", "half")[index % 2]
        found[outcome(rng, source, folder / "whole", folder / f"run-{index}", KINDS[index % len(KINDS)])] += 1
        shutil.rmtree(folder / f"run-{index}")
    return found


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), int(sys.argv[2]))))
