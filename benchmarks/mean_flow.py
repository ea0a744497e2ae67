"""Does the flow of class means predict PFC2 between the first and the last layer? A rule, and settings that nobody has seen.

nice -n 19 python benchmarks/mean_flow.py OUT [--seeds 100 101 102 103 104]

One command: runs that are finished in OUT are read, others are trained or resumed, then the table is printed.

The rule, frozen before any run of these settings:
- Predictor: the affine-invariant geodesic between the Gram matrices of the centered class means of the first and the last
  layer (`ncollapse.depth.MeanFlow`), with each layer at its projection on the chord. Nothing is fitted.
- Rivals, at the same projections: the straight line, and the baseline (log-linear interpolation of PFC2).
- Error: RMS of log10 of measured over predicted PFC2, over interior layers, at the last epoch, in decades. Less is better.
- In a setting the flow beats a rival if the 95 % t interval of (rival − flow) over the seeds is above 0, loses if it is below
  0, else it is undecided. Every run whose flow is defined counts, whatever its accuracy.
- The claim holds if over all settings the mean error of the flow is below that of both rivals, and the flow loses to the
  baseline in no setting. Settings in which line and flow differ by less than 0.02 decades are marked: nothing to tell.
"""

import argparse
import math
import statistics
from pathlib import Path

from scipy.stats import t as student

from ncollapse.records.depth import APART
from ncollapse.records.reading import Run, read_run
from ncollapse.studies import override, recipe_by_name, run_recipe

SMALL = ["data.name=digits", "data.per_class=60", "measure.transport_samples=0", "train.epochs=80"]
SETTINGS = {
    "conv": ("conv_fashion_mnist_small", [*SMALL, "model.channels=16", "model.blocks=5", "model.stem_pool=false"]),
    "conv, pre-activation, decay 0.003, 8 blocks": (
        "conv_fashion_mnist_small",
        [*SMALL, "model.channels=16", "model.blocks=8", "model.stem_pool=false", "model.block=pre", "train.weight_decay=0.003"],
    ),
    "transformer, pre-norm": ("vit_digits", SMALL),
    "transformer, post-norm, 8 blocks, decay 0.01": (
        "vit_digits",
        [*SMALL, "model.norm=post", "model.num_blocks=8", "train.weight_decay=0.01"],
    ),
    "FC, 12 blocks, decay 0.003": ("demo", [*SMALL, "model.num_blocks=12", "train.weight_decay=0.003"]),
    "FC, post-norm, decay 0.03": ("demo", [*SMALL, "model.normalization=post", "train.weight_decay=0.03"]),
    "FC, single-layer blocks, AdamW 0.1": (
        "demo",
        [*SMALL, "model.block=single", "model.num_blocks=8", "train.optimizer=adamw", "train.learning_rate=0.003",
         "train.weight_decay=0.1"],
    ),
    "layer-norm network, 6 blocks": (
        "deep_rn2_small",
        [*SMALL, "model.num_blocks=6", "train.epochs=300", "measure.epochs=0,300"],
    ),
}  # fmt: skip


def folder(name: str) -> str:
    """Return the name of a setting's folder."""
    return "".join(letter if letter.isalnum() else "_" for letter in name)


def run(out: Path, name: str, seed: int) -> Run:
    """Read a finished run, or train it."""
    base, settings = SETTINGS[name]
    last = 300 if "train.epochs=300" in settings else 80
    path = out / folder(name) / str(seed)
    run_recipe(override(recipe_by_name(base), [*settings, f"measure.epochs=0,{last}", f"seed={seed}"]), path, resume=True)
    return read_run(path)


def compare(differences: list[float]) -> str:
    """Say whether the flow beats a rival over the seeds."""
    mean, n = statistics.fmean(differences), len(differences)
    reach = float(student.ppf(0.975, n - 1)) * statistics.stdev(differences) / math.sqrt(n) if n > 1 else math.inf
    verdict = "better" if mean > reach else "worse" if mean < -reach else "undecided"
    return f"{verdict} ({mean:+.3f} ± {reach:.3f})"


def row(name: str, runs: list[Run]) -> list[str]:
    """Return the line of a setting, from the runs in which the flow is defined."""
    told = [(found.flow_error(), *found.prediction_errors("pfc2"), found) for found in runs if found.flow_error() is not None]
    if not told:
        return [name, "0", *["–"] * 8]
    flow, line, baseline = ([item[i] for item in told] for i in range(3))
    paths = [found.last.mean_path for *_, found in told]
    gap = statistics.fmean(path.gap for path in paths)
    exponents = [path.exponent for path in paths if path.exponent is not None]
    return [
        name, str(len(told)), f"{statistics.fmean(found.status.train_accuracy for *_, found in told):.3f}",
        f"{gap:.3f}" + ("" if gap >= APART else " (too little)"),
        *(f"{statistics.fmean(errors):.3f}" for errors in (line, baseline, flow)),
        compare([b - f for b, f in zip(baseline, flow, strict=True)]),
        f"{statistics.fmean(exponents):.2f}" if exponents else "–",
        " to ".join(f"{end(path.cost for path in paths if path.cost):.1f}" for end in (min, max)),
    ]  # fmt: skip


def main() -> None:
    """Train what is missing and print the table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[100, 101, 102, 103, 104])
    options = parser.parse_args()
    # Seed by seed, so that a run that was stopped has all settings with the seeds that it reached.
    runs: dict[str, list[Run]] = {name: [] for name in SETTINGS}
    for seed in options.seeds:
        for name in SETTINGS:
            runs[name].append(run(options.out, name, seed))
    header = [
        "setting",
        "n",
        "accuracy",
        "line to flow",
        "line",
        "baseline",
        "flow",
        "flow against baseline",
        "exponent",
        "cost",
    ]
    for cells in (header, ["---"] * len(header), *(row(name, found) for name, found in runs.items())):
        print(f"| {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
