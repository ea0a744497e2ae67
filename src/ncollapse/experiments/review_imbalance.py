"""The review's experiments on imbalanced classes (arXiv 2206.04041, Section 3.1.5) in real networks, small."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from statistics import fmean
from typing import NamedTuple

from torch import Tensor, nn

from ncollapse.data.batches import Batches
from ncollapse.data.labeled import LabeledData
from ncollapse.experiments.experiment import Experiment, Found, Panel, Point
from ncollapse.experiments.review_testing import at_end, on_fashion, small_run
from ncollapse.experiments.work import Work
from ncollapse.probe import collect_features
from ncollapse.records.depth import EPSILON
from ncollapse.records.reading import Run
from ncollapse.studies.run_metrics import mean_cosine
from ncollapse.surrogates import LayerPeeled, minority_cosine, minority_threshold

# The last five of ten classes have 1/R of the samples of the first five.
_MAJORITY, _CLASSES = 5, 10
_RATIOS = (1, 3, 10, 30, 100)
# Strong enough that the energies of the layer-peeled model bind.
_STRONG = ("train.weight_decay=0.03", "train.decay=all")
_RATIO = 30
_NONE = "none"
_REMEDIES = {
    "oversampling": ("train.balance=sampling",),
    "weights": ("train.balance=weights",),
    "logit adjustment": ("train.balance=logits",),
    "fixed ETF": ("model.head=fixed_etf",),
    "ETF, dot regression": ("model.head=fixed_etf", "train.loss=dot_regression"),
}
# Two ratios within a factor of two are taken for one.
_NEAR = math.log10(2)
_ENERGIES = (1.0, 2.0, 3.0, 4.0, 5.0)


class Merging(NamedTuple):
    """How far the classifier rows of the minorities have merged at a ratio."""

    cosine: float  # mean cosine between them in the network
    peeled: float  # the same at the optimum of the layer-peeled model with the network's energies
    threshold: float | None  # the ratio from which on they are one there; None if it is beyond a million


def _run(work: Work, ratio: float, *settings: str) -> Run:
    imbalance = (f"data.imbalance={ratio}", f"data.minority={_CLASSES - _MAJORITY}") if ratio > 1 else ()
    return small_run(work, *imbalance, *settings)


def energies(model: nn.Module, data: LabeledData) -> tuple[float, float]:
    r"""Return :math:`E_W` and :math:`E_H` of a network: mean squared norm of classifier rows, and of features (Equation 14)."""
    features, labels = collect_features(model, Batches(data, 1000), num_classes=data.num_classes)
    squares = list(features.values())[-1].double().square().sum(dim=1)
    by_class = [float(squares[labels == k].mean()) for k in range(data.num_classes)]
    return float(_rows(model).square().sum(dim=1).mean()), fmean(by_class)


def _rows(model: nn.Module) -> Tensor:
    head = model.get_submodule("head")
    assert isinstance(head, nn.Linear)
    return head.weight.detach().double()


def merging(work: Work) -> dict[int, Merging]:
    """Return how far the minorities have merged, by ratio."""
    found = {}
    for ratio in _RATIOS:
        run = _run(work, ratio, *_STRONG)
        model = work.network(run)
        energy_w, energy_h = energies(model, work.samples(run))
        peeled = LayerPeeled.imbalanced(_CLASSES, _MAJORITY, ratio, energy_w=energy_w, energy_h=energy_h).solve()
        found[ratio] = Merging(
            float(mean_cosine(_rows(model)[_MAJORITY:])), minority_cosine(peeled, _MAJORITY), _threshold(energy_w, energy_h)
        )
    return found


def _threshold(energy_w: float, energy_h: float) -> float | None:
    try:
        return minority_threshold(_CLASSES, _MAJORITY, energy_w=energy_w, energy_h=energy_h, tolerance=1e-3)
    except ValueError:  # beyond a million
        return None


def _drawn(found: dict[int, Merging]) -> tuple[Point, ...]:
    points: list[Point] = []
    for ratio, item in found.items():
        points += [
            Point(_COSINE.title, "network", ratio, item.cosine),
            Point(_COSINE.title, "layer-peeled", ratio, item.peeled),
        ]
        points += [Point(_THRESHOLD.title, "threshold", ratio, item.threshold), Point(_THRESHOLD.title, "R", ratio, ratio)]
    return tuple(points)


def minorities_merge(work: Work) -> Found:
    """Compare the cosine between classifier rows of minorities at the largest ratio with that at balance."""
    found = merging(work)
    return Found(found[_RATIOS[-1]].cosine - found[1].cosine, _drawn(found))


def minorities_merge_as_peeled(work: Work) -> Found:
    """Compare the ratio at which the minorities of the network have half merged with that of the layer-peeled model."""
    found = merging(work)
    network = crossing(_RATIOS, [item.cosine for item in found.values()])
    peeled = crossing(_RATIOS, [item.peeled for item in found.values()])
    if network is None or peeled is None:
        return Found(None, _drawn(found))
    return Found(_NEAR - abs(math.log10(network / peeled)), _drawn(found))


def crossing(ratios: Sequence[float], cosines: Sequence[float], level: float = 0.5) -> float | None:
    """Return the first ratio at which a cosine rises to a level, between two ratios linear in the logarithm; None if none."""
    for (low, before), (high, after) in pairwise(zip(ratios, cosines, strict=True)):
        if before < level <= after:
            return float(low * (high / low) ** ((level - before) / (after - before)))
    return None


def _with_remedies(work: Work) -> dict[str, Run]:
    return {name: _run(work, _RATIO, *settings) for name, settings in ({_NONE: ()} | _REMEDIES).items()}


def remedies(work: Work) -> Found:
    """Compare the test accuracy of the minorities with each remedy and without."""
    runs = _with_remedies(work)
    few = {name: at_end(run, "accuracy.few", "test") for name, run in runs.items()}
    points = [Point(_GROUPS.title, "few samples", name, y) for name, y in few.items()]
    points += [Point(_GROUPS.title, "many samples", name, at_end(run, "accuracy.many", "test")) for name, run in runs.items()]
    return Found(fmean(few[name] for name in _REMEDIES) - few[_NONE], tuple(points))


def fixed_etf(work: Work) -> Found:
    """Compare the distance of the class means to a simplex ETF with a fixed ETF as the classifier and without."""
    runs = _with_remedies(work)
    points = [Point(_ETF.title, "PFC2", name, at_end(run, "pfc2")) for name, run in runs.items()]
    points += [Point(_ANGLES.title, "minorities", name, at_end(run, "cosine.few")) for name, run in runs.items()]
    points += [Point(_ANGLES.title, "majorities", name, at_end(run, "cosine.many")) for name, run in runs.items()]
    fixed = fmean(at_end(runs[name], "pfc2") for name in list(_REMEDIES)[-2:])
    return Found(at_end(runs[_NONE], "pfc2") - fixed, tuple(points))


def depth_of_minorities(work: Work) -> Found:
    """Compare the first layer that separates the minorities by nearest centers with that of the majorities."""
    run = _run(work, _RATIO)
    accuracies = {words: [run.value(f"pfc3.{words}", depth) for depth in run.depths] for words in ("few", "many")}
    points = [
        Point(_DEPTHS[split].title, f"{words} samples", depth, run.value(f"pfc3.{words}", depth, None, split))
        for split in _DEPTHS
        for words in accuracies
        for depth in run.depths
    ]
    firsts = [next((d for d, y in enumerate(ys) if y is not None and 1 - y <= EPSILON), None) for ys in accuracies.values()]
    few, many = firsts
    return Found(None if few is None or many is None else float(few - many), tuple(points))


def threshold_rises(work: Work) -> Found:
    """Compute the threshold of the layer-peeled model for several energies of the features."""
    found = [minority_threshold(_CLASSES, _MAJORITY, energy_w=1.0, energy_h=energy) for energy in _ENERGIES]
    points = [Point(_RISES.title, "ten classes, five of them minorities", x, y) for x, y in zip(_ENERGIES, found, strict=True)]
    return Found(all(a < b for a, b in pairwise(found)), tuple(points))


_COSINE = Panel("Mean cosine between classifier rows of minorities", "R", log_x=True)
_THRESHOLD = Panel("Threshold at the network's energies", "R", log_x=True)
_GROUPS = Panel("Test accuracy", "remedy")
_ETF = Panel("PFC2 of the last layer", "remedy")
_ANGLES = Panel("Mean cosine between class means", "remedy")
_DEPTHS = {split: Panel(f"Nearest-center accuracy, {split}", "layer") for split in ("train", "test")}
_RISES = Panel("Threshold R₀", "E_H")
_SETTING = "Five of ten classes have 1/R of the samples of the others"

IMBALANCE_EXPERIMENTS = (
    on_fashion(
        "review:minority",
        "Section 3.1.5",
        "Minorities collapse together",
        "With growing imbalance the minority classes collapse to one point.",
        f"{_SETTING}. Mean cosine between the minorities' rows of the classifier at R = {_RATIOS[-1]} minus that in the same "
        "training with balanced classes. In a simplex ETF it is -1/9, and 1 once they have merged.",
        minorities_merge,
        (_COSINE, _THRESHOLD),
    ),
    on_fashion(
        "review:minority-threshold",
        "Section 3.1.5",
        "Minorities merge at the ratio of the layer-peeled model",
        "The layer-peeled model describes from which ratio on minorities collapse in networks.",
        "The mean cosine between the minorities' rows reaches one half at a ratio within a factor of two of that of the "
        "layer-peeled model, which has the network's energies at each ratio: decades from that factor, positive if within.",
        minorities_merge_as_peeled,
        (_COSINE, _THRESHOLD),
    ),
    Experiment(
        "review:threshold",
        "Section 3.1.5",
        "The threshold rises with the energy of the features",
        "With a larger E_H, there is more leeway on imbalance before minorities collapse.",
        "The threshold of the layer-peeled model rises with E_H, for E_W = 1.",
        threshold_rises,
        (_RISES,),
        seeds=1,
        checks_code=True,
    ),
    on_fashion(
        "review:remedies",
        "Section 3.1.5",
        "Remedies against imbalance",
        "The network can be made to treat classes as if they were balanced.",
        f"{_SETTING}, R = {_RATIO}. Test accuracy of the minorities, mean over five remedies, minus that without one.",
        remedies,
        (_GROUPS,),
    ),
    on_fashion(
        "review:fixed-etf",
        "Section 3.1.5",
        "A fixed simplex ETF as the classifier",
        "With a fixed simplex ETF as the classifier, features tend to it even though classes are imbalanced.",
        f"{_SETTING}, R = {_RATIO}. PFC2, the distance of the training set's class means to a simplex ETF, with a trained "
        "classifier minus that with a fixed one, mean over cross-entropy and dot regression.",
        fixed_etf,
        (_ETF, _ANGLES),
    ),
    on_fashion(
        "review:minority-depth",
        "Section 5, open question",
        "Do minorities need more depth?",
        "How imbalance acts on the effective depth is open.",
        f"{_SETTING}, R = {_RATIO}. The first layer with a nearest-center error on the training set of at most {EPSILON:g} "
        "among the minorities, minus that among the majorities.",
        depth_of_minorities,
        tuple(_DEPTHS.values()),
    ),
)
