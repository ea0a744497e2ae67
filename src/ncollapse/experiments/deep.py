"""The experiments of Súkeník et al. (arXiv 2505.15239), small: 200 samples and up to eight blocks."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

from torch import nn

from ncollapse.claims.quantities import BY_KEY
from ncollapse.experiments.experiment import Experiment, Found, Panel, Point, least
from ncollapse.experiments.work import Work, recipe_of
from ncollapse.recipes.data import DataName
from ncollapse.records.reading import Run
from ncollapse.studies.objective import relative_gradient
from ncollapse.surrogates import GUFM, balanced
from ncollapse.surrogates.gufm import layer_norm
from ncollapse.surrogates.solving.flows import descend

_METRICS = {"pfc1": "NC1", "nc2_etf_weights": "NC2", "nc3_cosine": "NC3"}
_APPROACH = {"excess": "excess of the objective over GUFM's minimum", "distance": "distance from GUFM's minimizers"}
_PAPER_DEPTHS = (1, 2, 4, 8, 16, 32)
_NEAR = Panel("Distance from the minimizers", "objective minus minimum", log_x=True)
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

    def gain(self, runs: dict[int, Run], metric: str, epoch: int | None) -> float | None:
        """Return by how many decades runs of L > 1 are below the network of one block, on average; None if one is not there."""
        read = BY_KEY[metric].read
        values = [read(self.deep[1], epoch), *(read(run, epoch) for depth, run in runs.items() if depth > 1)]
        known = [value for value in values if value is not None and value > 0]
        return mean_decades(known) if len(known) == len(values) else None

    def points(self, metric: str, title: str) -> tuple[Point, ...]:
        """Return the values of all runs."""
        read = BY_KEY[metric].read
        return tuple(Point(title, name, depth, read(run)) for name, arm in self.arms.items() for depth, run in arm.items())


def mean_decades(values: Sequence[float]) -> float:
    """Return by how many decades numbers are below the first of them, on average."""
    return statistics.fmean(math.log10(values[0] / value) for value in values[1:])


def _is_floor(work: Work, depths: Sequence[int] = (1, 2, 4, 8)) -> Found:
    """Solve GUFM, and compare its minimum with the objectives of networks at every measured epoch."""
    runs = {depth: work.run("deep_rn1_small", f"model.num_blocks={depth}") for depth in depths}
    floor = runs[1].objective[0].floor
    found = GUFM(balanced(10, 2), dim=64, lambda_w=5e-3).solve(seed=work.seed)
    values = found.metrics(["pfc1", "pfc2", "nc3"])
    solved = (
        found.certified and all(value < 1e-4 for value in values.values()) and math.isclose(found.value, floor, rel_tol=1e-6)
    )
    points = [
        Point("Objective", f"L = {depth}", epoch, record.objective)
        for depth, run in runs.items()
        for epoch, record in run.objective.items()
    ]
    points += [Point("Objective", "minimum of GUFM", epoch, found.value) for epoch in runs[1].objective]
    above = all(record.objective >= found.value for run in runs.values() for record in run.objective.values())
    return Found(solved and above, tuple(points))


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
    return Found(least(gains) - 1, tuple(points))


def _near_minimizers(work: Work) -> Found:
    """Follow descent in GUFM from three starts, and compare distance from the minimizers with height above the minimum."""
    model, right, points = GUFM(balanced(4, 5), dim=8, lambda_w=5e-3), True, []
    for number in range(3):
        path = descend(model, model.start(3 * work.seed + number), 5.0, 1500)
        for variables, value in list(zip(path.path, path.history, strict=True))[::-10]:
            distance, gap = model.distance(variables["weight"], layer_norm(variables["raw"])), value - model.minimum
            right &= distance <= 3 * math.sqrt(gap)
            points.append(Point(_NEAR.title, f"descent {number + 1}", gap, distance))
        right &= path.gap < 1e-3
    return Found(right, tuple(points))


@dataclass(frozen=True)
class _Row:
    """A row of a figure, in which each metric is a statement of its own."""

    name: str
    item: str
    title: str
    what: str
    recipe: str
    settings: Sequence[str] = ()
    depths: Sequence[int] = (1, 2, 4, 8)
    falling: bool = False
    sign: int = 1
    metrics: dict[str, str] = field(default_factory=lambda: _METRICS)
    says: str = "{metric} of the last layer falls as the number of blocks L grows."
    seeds: int = 3
    needs: tuple[DataName, ...] = ()

    def measure(self, work: Work, key: str, panel: Panel) -> Found:
        """Train the networks of a seed, and compare deeper ones with the control: one block with the same λ and steps."""
        sweep = _Sweep(work, self.recipe, self.settings, self.depths, self.falling)

        def gain(epoch: int | None = None) -> float | None:
            # Where λ is one for all depths, the control is the first of the networks, and gains nothing.
            deep, control = (sweep.gain(runs, key, epoch) for runs in (sweep.deep, sweep.control))
            return None if deep is None or control is None else self.sign * (deep - control)

        # No base rate of the negative control: that nothing comes of depth may well be so before training too.
        return Found(gain(), sweep.points(key, panel.title), gain(0) if self.sign > 0 else None)

    def experiment(self, key: str, metric: str) -> Experiment:
        """Return the experiment about a metric; those of a row share their runs."""
        minus = "Decades" if self.sign > 0 else "Minus the decades (so the test asks for more: that it gets worse)"
        alone = ", minus those of one block with the λ of each L, so that the effect of λ alone is taken out" * self.falling
        panel = Panel(metric[0].upper() + metric[1:], "blocks L", log_x=True)
        return Experiment(
            f"{self.name}-{metric.split()[0].lower()}",
            f"{self.item}, {metric}",
            f"{self.title}, after equal steps",
            self.says.format(metric=metric),
            f"{minus} by which networks of L > 1 are below that of one block in {metric}, on average{alone}; "
            f"{self.what}, L = {', '.join(map(str, self.depths))}. {_IN_STEPS}",
            partial(self.measure, key=key, panel=panel),
            (panel,),
            seeds=self.seeds,
            needs=("mnist",) if self.settings[:1] == _MNIST else self.needs,
            has_paper_size=True,
        )


_IN_STEPS = (
    "All networks take equal steps, which need not have led to an optimum: the row is about training in these steps, not about "
    "optima."
)
_SHORT, _MNIST = ("train.epochs=1000", "measure.epochs=0,500"), ("data.name=mnist",)
_ROWS = (
    _Row(
        "deep:fig1-rn1",
        "Figure 1, first row",
        "L-RN1: one linear layer per block",
        "200 digits in place of CIFAR-10",
        "deep_rn1_small",
        seeds=6,
    ),
    _Row(
        "deep:fig1-t11",
        "Figure 1, second row",
        "L-T11: a transformer with one linear layer per part",
        "200 digits in place of CIFAR-10",
        "deep_t11_small",
        _SHORT,
        (1, 2, 4),
    ),
    _Row(
        "deep:fig1-preln_t11",
        "Figure 1, third row",
        "Pre-LN L-T11: a transformer on texts",
        "200 glosses of WordNet in place of IMDB",
        "deep_preln_t11_small",
        _SHORT,
        (1, 2, 4),
        seeds=2,
        needs=("wordnet",),
    ),
    _Row(
        "deep:fig1-rn2",
        "Figure 1, fourth row",
        "L-RN2 with λ in proportion to 1/L: two linear layers per block",
        "200 images of MNIST",
        "deep_rn2_small",
        _MNIST,
    ),
    _Row(
        "deep:fig1-rn2-control",
        "Beyond the paper",
        "L-RN2 with λ in proportion to 1/L, beside one block with the same λ",
        "200 images of MNIST",
        "deep_rn2_small",
        _MNIST,
        falling=True,
        says="{metric} of the last layer is lower in a network of L blocks than in one block with the same λ.",
    ),
    _Row(
        "deep:fig2-rn1",
        "Figure 2, first column",
        "L-RN1 on MNIST",
        "200 images",
        "deep_rn1_small",
        _MNIST,
    ),
    _Row(
        "deep:fig2-t11",
        "Figure 2, second column",
        "L-T11 on MNIST",
        "200 images in patches of 14×14",
        "deep_t11_small",
        (*_MNIST, "model.patch=14", *_SHORT),
        (1, 2, 4),
    ),
    _Row(
        "deep:fig2-rn2",
        "Figure 2, third column",
        "L-RN2 with constant λ on MNIST, the negative control",
        "200 images of MNIST",
        "deep_rn2_constant_small",
        _MNIST,
        sign=-1,
        says="With two linear layers per block and a λ that does not fall with L, {metric} does not improve as L grows.",
    ),
    _Row(
        "deep:thm4.1",
        "Theorem 4.1 and Corollary 4.2",
        "Deep networks approach the optima of GUFM",
        "L-RN1 on 200 digits, where trained networks stand in for global optima",
        "deep_rn1_small",
        metrics=_APPROACH,
        says="Global optima of deep regularized networks approach those of GUFM as depth grows, and so they collapse.",
        seeds=6,
    ),
)

DEEP_EXPERIMENTS = (
    *(row.experiment(*metric) for row in _ROWS for metric in row.metrics.items()),
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
        (_NEAR,),
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
)
