"""Does the flow of class means predict PFC2 between the first and the last layer? A rule, and settings that nobody has seen.

nice -n 19 python benchmarks/mean_flow.py OUT [--seeds 100 101 102 103 104] [--versions]

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

``--versions`` asks on what the first test left open. The rule, frozen before any run of these settings with seeds from 200 on:
- *A clock from the ends alone.* Layer l of L is predicted by the flow at the time l/L ("equal times"), and where the length
  √tr G of the flow is l/L of the way between those of its ends ("equal lengths"). Rivals: line and baseline at l/L. Errors of
  PFC2 as above.
- *PFC1.* At the projection: tr Σ_W log-linear in the flow's time, over the flow's tr G. Rivals: line and baseline at the
  projection. Errors of PFC1 as above.
- *Eigenvectors.* The distance of whole Gram matrices of norm one, RMS over interior layers: flow against line, both at the
  projection.
- A version holds if its mean error over all settings is below that of each rival, and it loses to none in any setting.
"""

import argparse
import math
import statistics
from collections.abc import Callable
from pathlib import Path

import torch
from scipy.optimize import brentq
from scipy.stats import t as student
from torch import Tensor

from ncollapse.data import Batches, load_samples
from ncollapse.depth import MeanFlow, prediction_error
from ncollapse.etf import helmert_basis
from ncollapse.experiments.work import recipe_of
from ncollapse.probe import collect_features
from ncollapse.records.depth import APART
from ncollapse.records.reading import Run, read_run
from ncollapse.statistics import ClassMoments
from ncollapse.studies import override, recipe_by_name, run_recipe
from ncollapse.targets import load_network

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


VERSIONS = {
    "PFC2, equal times": ("line at index", "baseline at index"),
    "PFC2, equal lengths": ("line at index", "baseline at index"),
    "PFC1": ("PFC1, line", "PFC1, baseline"),
    "whole Gram matrix": ("Gram, line",),
}


def versions(found: Run) -> dict[str, float]:
    """Return the errors of all versions and their rivals in one run."""
    recipe, layers = recipe_of(found), found.last.layers
    data = load_samples(recipe.data)
    network = load_network(found.path, device="cpu")
    features, labels = collect_features(network, Batches(data, 256), num_classes=data.num_classes, layers=list(layers))
    moments = [ClassMoments.from_batch(features[layer].double(), labels, data.num_classes) for layer in layers]
    means = [helmert_basis(data.num_classes) @ each.centered_means() for each in moments]
    grams, within = [each @ each.T for each in means], [float(each.within_trace("class")) for each in moments]
    flow = MeanFlow.between(moments[0].centered_means(), moments[-1].centered_means())
    assert flow is not None
    places = list(found.last.positions["projection"])
    index, times = [i / (len(layers) - 1) for i in range(len(layers))], flow.time_at(places)
    pfc1, pfc2 = list(found.over_depth("pfc1")), list(found.over_depth("pfc2"))
    lengths = [math.sqrt(float(gram.trace())) for gram in (grams[0], grams[-1])]

    def length_gap(time: float, share: float) -> float:
        return math.sqrt(float(gram_at(grams[0], grams[-1], time).trace())) - (1 - share) * lengths[0] - share * lengths[1]

    # The ends are on the flow; its length may pass them in between, where equal lengths have no time.
    even = [time if time in (0, 1) else crossing(length_gap, time) for time in index]
    carried = [
        within[0] ** (1 - time) * within[-1] ** time * data.num_classes / float(gram_at(grams[0], grams[-1], time).trace())
        for time in times
    ]
    on_line = [(1 - place) * means[0] + place * means[-1] for place in places]
    at_index, at_projection = found.last.prediction_error["index"], found.last.prediction_error["projection"]
    return {
        "PFC2, equal times": prediction_error(pfc2, flow.pfc2(index).tolist()),
        "PFC2, equal lengths": prediction_error(pfc2, flow.pfc2(even).tolist()),
        "line at index": at_index.line["pfc2"],
        "baseline at index": at_index.baseline["pfc2"],
        "PFC1": prediction_error(pfc1, carried),
        "PFC1, line": at_projection.line["pfc1"],
        "PFC1, baseline": at_projection.baseline["pfc1"],
        "whole Gram matrix": shape_error(grams, [gram_at(grams[0], grams[-1], time) for time in times]),
        "Gram, line": shape_error(grams, [each @ each.T for each in on_line]),
    }


def crossing(function: Callable[[float, float], float], share: float) -> float:
    """Return the time at which the flow's length is a share of the way between its ends; nan where it is not monotone."""
    ends = function(0.0, share), function(1.0, share)
    return float(brentq(function, 0.0, 1.0, args=(share,))) if ends[0] * ends[1] < 0 else math.nan


def gram_at(first: Tensor, last: Tensor, time: float) -> Tensor:
    """Return a Gram matrix of the flow."""
    values, vectors = torch.linalg.eigh(first)
    root, inverse = (vectors * values**power @ vectors.T for power in (0.5, -0.5))
    values, vectors = torch.linalg.eigh(inverse @ last @ inverse)
    return root @ (vectors * values**time) @ vectors.T @ root


def shape_error(measured: list[Tensor], predicted: list[Tensor]) -> float:
    """Return the RMS distance of Gram matrices of norm one over interior layers."""
    pairs = list(zip(measured, predicted, strict=True))[1:-1]
    return math.sqrt(statistics.fmean(float((a / a.norm() - b / b.norm()).square().sum()) for a, b in pairs))


def print_versions(runs: dict[str, list[Run]]) -> None:
    """Print each version against its rivals, by setting and over all."""
    errors = {name: [versions(found) for found in runs[name] if found.flow_error() is not None] for name in SETTINGS}
    errors = {name: found for name, found in errors.items() if found}
    for version, rivals in VERSIONS.items():
        print(f"\n| {version} | its error | {' | '.join(f'{rival} | against it' for rival in rivals)} |")
        print("|---" * (2 + 2 * len(rivals)) + "|")
        for name, found in errors.items():
            cells = [name, f"{statistics.fmean(one[version] for one in found):.3f}"]
            for rival in rivals:
                cells += [f"{statistics.fmean(one[rival] for one in found):.3f}"]
                cells += [compare([one[rival] - one[version] for one in found])]
            print(f"| {' | '.join(cells)} |")
        keys = (version, *rivals)
        means = [statistics.fmean(statistics.fmean(one[key] for one in found) for found in errors.values()) for key in keys]
        print(f"mean of settings: {', '.join(f'{key} {mean:.3f}' for key, mean in zip(keys, means, strict=True))}")


def main() -> None:
    """Train what is missing and print the table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[100, 101, 102, 103, 104])
    parser.add_argument("--versions", action="store_true", help="other clocks, PFC1 and eigenvectors instead")
    options = parser.parse_args()
    # Seed by seed, so that a run that was stopped has all settings with the seeds that it reached.
    runs: dict[str, list[Run]] = {name: [] for name in SETTINGS}
    for seed in options.seeds:
        for name in SETTINGS:
            runs[name].append(run(options.out, name, seed))
    if options.versions:
        print_versions(runs)
        return
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
