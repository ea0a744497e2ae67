"""The demo's finding over seeds: does collapse grow layer by layer? Each seed is reported, good or bad.

python benchmarks/demo_seeds.py [--recipe demo] [--seeds 0 1 2 3 4]
"""

import argparse
import csv
import json
import tempfile
import time
from pathlib import Path

from ncollapse.studies import override, recipe_by_name, run_recipe


def report(path: Path, seconds: float, seed: int) -> list[str]:
    """One line of the table, read from the run's files."""
    depth = json.loads((path / "depth.json").read_text())["epochs"][-1]
    status = json.loads((path / "status.json").read_text())
    with (path / "measurements.csv").open(newline="") as file:
        last = [row for row in csv.DictReader(file) if int(row["epoch"]) == status["epochs"]]

    def values_of(metric: str) -> list[float]:
        if metric == "pfc3_error":
            return [1 - value for value in values_of("pfc3")]
        return [float(row["value"]) for row in last if row["metric"] == metric]

    def ends(metric: str) -> str:
        values = values_of(metric)
        return f"{values[0]:.3f} -> {values[-1]:.3f}"

    def rises(metric: str) -> str:
        found = depth["progression"][metric]["violations"]
        return "none" if not found else ",".join(found)

    cells = [str(seed), f"{status['train_accuracy']:.4f}", str(status["first_perfect_epoch"])]
    for metric in ("pfc1", "pfc2", "pfc3_error"):
        cells += [ends(metric), rises(metric)]
    error = depth["prediction_error"]["projection"]
    line, null = error["line"]["pfc1"], error["null"]["pfc1"]
    return [*cells, f"{depth['straightness']['mean']:.3f}", f"{line:.3f} / {null:.3f}", f"{seconds:.1f}"]


def main() -> None:
    """Run the seeds one after another and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="demo")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    options = parser.parse_args()
    header = ["seed", "accuracy", "perfect at", "PFC1", "rises", "PFC2", "rises", "PFC3 error", "rises"]
    table = [[*header, "straightness", "line/null, decades", "s"]]
    with tempfile.TemporaryDirectory() as folder:
        for seed in options.seeds:
            start = time.perf_counter()
            path = Path(folder) / str(seed)
            run_recipe(override(recipe_by_name(options.recipe), [f"seed={seed}"]), path)
            table.append(report(path, time.perf_counter() - start, seed))
    print(f"{options.recipe}, {len(options.seeds)} seeds, first layer -> last; 'rises' names layers where the metric rose")
    widths = [max(len(row[column]) for row in table) for column in range(len(table[0]))]
    for row in table:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)))


if __name__ == "__main__":
    main()
