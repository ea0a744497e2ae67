"""The experiments of Súkeník et al. (arXiv 2505.15239), small: 200 samples, up to eight blocks, one step per epoch."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from functools import partial

from torch import nn

from ncollapse.claims.quantities import BY_KEY
from ncollapse.experiments.experiment import Experiment, Found, Panel, Point
from ncollapse.experiments.work import Work, recipe_of
from ncollapse.records.reading import Run
from ncollapse.studies.objective import relative_gradient
from ncollapse.surrogates import GUFM, balanced
from ncollapse.surrogates.gufm import layer_norm
from ncollapse.surrogates.solving.flows import descend

_METRICS = {"pfc1": "NC1", "nc2_etf_weights": "NC2", "nc3_cosine": "NC3"}
_APPROACH = {"excess": "Objective above its floor", "distance": "Distance from the minimizers"}
_PAPER_DEPTHS = (1, 2, 4, 8, 16, 32)
_GRADIENT = Panel("Relative gradient of the objective", "blocks L")
# Descent to a stationary point: L-BFGS on all samples, the ReLU's kink rounded off.
_ROUNDED = (
    "model.rounding=0.01",
    "train.optimizer=lbfgs",
    "train.learning_rate=1",
    "train.schedule=steps",
    "train.milestones=[]",
    "train.epochs=400",
    "measure.epochs=[0,100]",
)
_NETWORKS, _CONTROL = "networks", "one block with the λ of that depth"


class _Sweep:
    """The runs of a seed over the number of blocks L, and for each L one block with the same λ and steps."""

    def __init__(self, work: Work, recipe: str, settings: Sequence[str], depths: Sequence[int], falling: bool) -> None:
        if work.at_paper_size:
            recipe, settings, depths = recipe.removesuffix("_small"), (), _PAPER_DEPTHS
        self.deep = {depth: work.run(recipe, *settings, f"model.num_blocks={depth}") for depth in depths}
        self.control = {depth: self.deep[1] for depth in depths}
        for depth in depths[1:] if falling else ():
            decay = f"train.weight_decay={5e-3 / depth:g}"
            self.control[depth] = work.run(recipe, *settings, "model.num_blocks=1", decay)
        self.arms = {_NETWORKS: self.deep} | ({_CONTROL: self.control} if falling else {})

    def gains(self, runs: dict[int, Run], metrics: Iterable[str]) -> list[float]:
        """Return for each metric by how many decades runs of L > 1 are below the network of one block, on average."""
        read = [BY_KEY[key].read for key in metrics]
        values = [[one(self.deep[1]), *(one(runs[L]) for L in runs if L > 1)] for one in read]
        known = [[value for value in row if value is not None and value > 0] for row in values]
        return [mean_decades(row) if len(row) == len(runs) else math.nan for row in known]

    def points(self, metrics: dict[str, str]) -> tuple[Point, ...]:
        """Return the values of all runs."""
        return tuple(
            Point(title, name, depth, BY_KEY[key].read(run))
            for key, title in metrics.items()
            for name, arm in self.arms.items()
            for depth, run in arm.items()
        )


def mean_decades(values: Sequence[float]) -> float:
    """Return by how many decades numbers are below the first of them, on average."""
    return statistics.fmean(math.log10(values[0] / value) for value in values[1:])


def _least(gains: Sequence[float]) -> float | None:
    return None if any(map(math.isnan, gains)) else min(gains)


def _tightens(
    work: Work,
    recipe: str,
    settings: Sequence[str] = (),
    depths: Sequence[int] = (1, 2, 4, 8),
    falling: bool = False,
    metrics: dict[str, str] | None = None,
) -> Found:
    """Test whether all metrics are lower in deeper networks than in the control: one block with the same λ and steps."""
    metrics = _METRICS if metrics is None else metrics
    sweep = _Sweep(work, recipe, settings, depths, falling)
    # Where λ is one for all depths, the control is the first of the networks, and gains nothing.
    deep, control = (_least(sweep.gains(runs, metrics)) for runs in (sweep.deep, sweep.control))
    return Found(None if deep is None or control is None else deep - control, sweep.points(metrics))


def _does_not_tighten(work: Work, recipe: str, settings: Sequence[str], depths: Sequence[int] = (1, 2, 4, 8)) -> Found:
    sweep = _Sweep(work, recipe, settings, depths, falling=False)
    return Found(_least([-gain for gain in sweep.gains(sweep.deep, _METRICS)]), sweep.points(_METRICS))


def _is_floor(work: Work, depths: Sequence[int] = (1, 2, 4, 8)) -> Found:
    """Solve GUFM, and compare its minimum with the objectives of networks at every measured epoch."""
    runs = {depth: work.run("deep_rn1_small", f"model.num_blocks={depth}") for depth in depths}
    floor = runs[1].objective[0].floor
    found = GUFM(balanced(10, 2), dim=64, lambda_w=5e-3).solve(seed=work.seed)
    values = found.metrics(["pfc1", "pfc2", "nc3"])
    solved = found.certified and max(values.values()) < 1e-4 and math.isclose(found.value, floor, rel_tol=1e-6)
    points = [
        Point("Objective", f"L = {depth}", epoch, record.objective)
        for depth, run in runs.items()
        for epoch, record in run.objective.items()
    ]
    points += [Point("Objective", "minimum of GUFM", epoch, found.value) for epoch in runs[1].objective]
    return Found(solved and all(_above(run, found.value) for run in runs.values()), tuple(points))


def _above(run: Run, floor: float) -> bool:
    return all(record.objective >= floor for record in run.objective.values())


def _stands_on_kinks(work: Work) -> Found:
    """Compare the gradient at the end of a training with rounded ReLUs with that of the same weights with ReLUs."""
    gains, points = [], []
    for depth in (1, 4):
        run = work.run("deep_rn1_plain", *_ROUNDED, f"model.num_blocks={depth}")
        model, recipe, data = work.network(run), recipe_of(run), work.samples(run)
        assert run.last_objective is not None
        assert run.last_objective.relative_gradient is not None
        rounded = run.last_objective.relative_gradient
        for index in range(depth):
            model.get_submodule(f"blocks.{index}.branch").add_module("1", nn.ReLU())
        kinked = relative_gradient(model, data, recipe)
        gains.append(math.log10(kinked / rounded))
        points += [Point(_GRADIENT.title, words, depth, y) for words, y in (("rounded", rounded), ("ReLU", kinked))]
    return Found(min(gains) - 1, tuple(points))


def _near_minimizers(work: Work) -> Found:
    """Follow descent in GUFM from three starts, and compare distance from the minimizers with height above the minimum."""
    model, right, points = GUFM(balanced(4, 5), dim=8, lambda_w=5e-3), True, []
    for number in range(3):
        path = descend(model, model.start(3 * work.seed + number), 5.0, 1500)
        for variables, value in list(zip(path.path, path.history, strict=True))[::-10]:
            distance, gap = model.distance(variables["weight"], layer_norm(variables["raw"])), value - model.minimum
            right &= distance <= 3 * math.sqrt(gap)
            points.append(Point(_APPROACH["distance"], f"descent {number + 1}", gap, distance))
        right &= path.gap < 1e-3
    return Found(right, tuple(points))


def _tested(what: str, depths: str, *, falling: bool = False) -> str:
    control = ", minus the least such gain of one block with the λ of each L, so that a smaller λ is no gain" if falling else ""
    return (
        f"Decades by which networks of L > 1 are below that of one block, on average, in whichever of the metrics gains least"
        f"{control}; {what}, L = {depths}. {_IN_STEPS}"
    )


_IN_STEPS = (
    "All networks take equal steps, which need not have led to an optimum: the row is about training in these steps, not about "
    "optima."
)
_panels = tuple(Panel(title, "blocks L", log_x=True) for title in _METRICS.values())
_falls = partial(
    Experiment,
    says="NC1, NC2 and NC3 of the last layer fall as the number of blocks L grows.",
    panels=_panels,
    takes_least=True,
)
_SHORT, _MNIST = ("train.epochs=1000", "measure.epochs=0,500"), ("data.name=mnist",)

DEEP_EXPERIMENTS = (
    _falls(
        name="deep:fig1-rn1",
        item="Figure 1, first row",
        title="L-RN1: one linear layer per block, after equal steps",
        tested=_tested("200 digits in place of CIFAR-10", "1, 2, 4, 8"),
        measure=partial(_tightens, recipe="deep_rn1_small"),
        seeds=6,
        has_paper_size=True,
    ),
    _falls(
        name="deep:fig1-t11",
        item="Figure 1, second row",
        title="L-T11: a transformer with one linear layer per part, after equal steps",
        tested=_tested("200 digits in place of CIFAR-10", "1, 2, 4"),
        measure=partial(_tightens, recipe="deep_t11_small", settings=_SHORT, depths=(1, 2, 4)),
        has_paper_size=True,
    ),
    _falls(
        name="deep:fig1-preln_t11",
        item="Figure 1, third row",
        title="Pre-LN L-T11: a transformer on texts, after equal steps",
        tested=_tested("200 glosses of WordNet in place of IMDB", "1, 2, 4"),
        measure=partial(_tightens, recipe="deep_preln_t11_small", settings=_SHORT, depths=(1, 2, 4)),
        seeds=2,
        needs=("wordnet",),
        has_paper_size=True,
    ),
    _falls(
        name="deep:fig1-rn2",
        item="Figure 1, fourth row",
        title="L-RN2 with λ in proportion to 1/L: two linear layers per block, after equal steps",
        tested=_tested("200 images of MNIST", "1, 2, 4, 8", falling=True),
        measure=partial(_tightens, recipe="deep_rn2_small", settings=_MNIST, falling=True),
        needs=("mnist",),
        has_paper_size=True,
    ),
    _falls(
        name="deep:fig2-rn1",
        item="Figure 2, first column",
        title="L-RN1 on MNIST, after equal steps",
        tested=_tested("200 images", "1, 2, 4, 8"),
        measure=partial(_tightens, recipe="deep_rn1_small", settings=_MNIST),
        needs=("mnist",),
        has_paper_size=True,
    ),
    _falls(
        name="deep:fig2-t11",
        item="Figure 2, second column",
        title="L-T11 on MNIST, after equal steps",
        tested=_tested("200 images in patches of 14×14", "1, 2, 4"),
        measure=partial(_tightens, recipe="deep_t11_small", settings=(*_MNIST, "model.patch=14", *_SHORT), depths=(1, 2, 4)),
        needs=("mnist",),
        has_paper_size=True,
    ),
    Experiment(
        "deep:fig2-rn2",
        "Figure 2, third column",
        "L-RN2 with constant λ on MNIST, after equal steps: the negative control",
        "With two linear layers per block and a λ that does not fall with L, NC1, NC2 and NC3 do not improve as L grows.",
        "Minus the decades by which networks of L > 1 are below that of one block, on average, in whichever of NC1, NC2 and "
        f"NC3 gains most; 200 images of MNIST, L = 1, 2, 4, 8. {_IN_STEPS}",
        partial(_does_not_tighten, recipe="deep_rn2_constant_small", settings=_MNIST),
        _panels,
        takes_least=True,
        needs=("mnist",),
        has_paper_size=True,
    ),
    Experiment(
        "deep:kinks",
        "Beyond the paper",
        "Descent on ReLU networks ends on kinks",
        "Not in the paper, whose theorems are about minima: whether a network stands at one is judged by its gradient.",
        "Decades by which the relative gradient of the objective falls if the ReLU is rounded within 0.01 of its kink, at the "
        "weights where L-BFGS on the rounded network ends, the smaller of L = 1 and 4, minus one: positive if to less than a "
        "tenth. L-RN1 without stem on 200 digits.",
        _stands_on_kinks,
        (_GRADIENT,),
        takes_least=True,
    ),
    Experiment(
        "deep:lemma4.0",
        "Lemma 4.0",
        "Near-minimizers of GUFM are near its minimizers",
        "The closer a point's objective is to the minimum, the closer every such point is to the set of minimizers.",
        "At points along three descents, which end less than 0.001 above the minimum, the relative distance is at most three "
        "times the square root of the height above the minimum.",
        _near_minimizers,
        (Panel(_APPROACH["distance"], "objective minus minimum", log_x=True),),
        seeds=12,
        checks_code=True,
    ),
    Experiment(
        "deep:gufm",
        "Section 4",
        "The generalized unconstrained features model bounds every network",
        "GUFM's global optima are collapsed, and a network's regularized objective is never below GUFM's minimum.",
        "Descent from a random start ends at the minimum with NC1, NC2 and NC3 below 1e-4, and the objectives of L-RN1 with 1, "
        "2, 4 and 8 blocks on 200 digits are above it at every measured epoch.",
        _is_floor,
        (Panel("Objective", "epoch"),),
        seeds=6,
        checks_code=True,
    ),
    Experiment(
        "deep:thm4.1",
        "Theorem 4.1 and Corollary 4.2",
        "Deep networks after equal steps approach the optima of GUFM",
        "Global optima of deep regularized networks approach the set of GUFM's optima as depth grows, and so they collapse.",
        "Decades by which networks of L > 1 are below that of one block in the excess of their objective over GUFM's minimum "
        "and in the distance from its minimizers, whichever gains least; L-RN1 on 200 digits, L = 1, 2, 4, 8. Trained "
        f"networks stand in for global optima. {_IN_STEPS}",
        partial(_tightens, recipe="deep_rn1_small", metrics=_APPROACH),
        tuple(Panel(title, "blocks L", log_x=True) for title in _APPROACH.values()),
        takes_least=True,
        seeds=6,
        has_paper_size=True,
    ),
)
