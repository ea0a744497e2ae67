"""The experiments on real data of Wang et al. (arXiv 2405.00985), small: most on 5,000 images of MNIST and five blocks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from ncollapse.claims import gains, predicates
from ncollapse.claims.evidence import RunTest, Value
from ncollapse.data.labeled import LabeledData
from ncollapse.experiments.experiment import Experiment, Found, Panel, Point
from ncollapse.experiments.work import Work, recipe_of
from ncollapse.models.build import build_model
from ncollapse.models.fc_resnet import FCResNet
from ncollapse.probe import measure_features
from ncollapse.recipes.training import TrainConfig
from ncollapse.records.depth import Curve
from ncollapse.records.reading import Run
from ncollapse.train.loop import train

_METRICS = {"pfc1": "PFC1", "pfc2": "PFC2", "pfc3_error": "1 − PFC3"}
_DEPTH = "layer"

Draw = Callable[[Run], list[Point]]


def _trained(work: Work, test: RunTest, draw: Draw, before: bool = True) -> Found:
    """Test the run that all of these experiments share, and the same run before its training."""
    run = work.run("fc_mnist" if work.at_paper_size else "fc_mnist_small")
    return Found(test(run), tuple(draw(run)), test(run, 0) if before else None)


def over_depth(run: Run, metrics: Sequence[str] = tuple(_METRICS)) -> list[Point]:
    """Points of metrics of the layers before and after training."""
    return [
        Point(_METRICS[metric], words, depth, value)
        for words, epoch in (("after training", None), ("before training", 0))
        for metric in metrics
        for depth, value in enumerate(run.over_depth(metric, epoch))
    ]


def over_epochs(run: Run) -> list[Point]:
    """Points of the three metrics of every layer at every measured epoch."""
    return [
        Point(title, f"layer {index}", epoch, value)
        for metric, title in _METRICS.items()
        for index, depth in enumerate(run.depths)
        for epoch, value in zip(run.epochs, run.over_epochs(metric, depth), strict=True)
    ]


def along_line(run: Run) -> list[Point]:
    """Points of the layers, and of the straight line and the baseline where each layer projects on the chord."""
    places = [place if place is not None else np.nan for place in run.last.positions["projection"]]
    points = over_depth(run, ("pfc1", "pfc2"))
    points = [point for point in points if point.line == "after training"]
    for words, curve in (("straight line", run.last.curve), ("baseline", run.last.baseline)):
        for metric in ("pfc1", "pfc2"):
            values = _at(curve, getattr(curve, metric), places)
            points += [Point(_METRICS[metric], words, depth, value) for depth, value in enumerate(values)]
    return points


def _at(curve: Curve, values: Sequence[float | None], places: Sequence[float]) -> list[float | None]:
    """Read a curve between its points: linear in the logarithm."""
    logs = np.log([np.nan if value is None else value for value in values])
    return [float(np.exp(found)) if np.isfinite(found) else None for found in np.interp(places, curve.t, logs)]


def pairing_costs(run: Run) -> list[Point]:
    """Points of the costs of the network's own pairing and of a random one over that of the best, before training and after."""
    points = []
    for words, record in (("after training", run.last), ("before training", run.records[0])):
        energy = record.energy
        if energy is None or not energy.wasserstein2:
            continue
        costs = {"of the network": energy.identity_cost_sample, "random": energy.random_cost_sample}
        points += [Point(_COSTS.title, words, x, None if y is None else y / energy.wasserstein2) for x, y in costs.items()]
    return points


def _before_the_effective_depth(work: Work, metric: str) -> Found:
    """Test the conjecture where it speaks of several layers: a network chosen for its effective depth (docs/claims.md)."""
    run = work.run("fc_mnist_1d", "model.width=64", "model.num_blocks=10")
    test = predicates.falls_before_effective_depth(metric)
    return Found(test(run), tuple(over_depth(run, (metric,))), test(run, 0))


def _is_as_deep_as_it_is(run: Run) -> Value | None:
    found = run.effective_depth
    return None if found is None else found.reached and found.depth == len(run.depths) - 1


def trained_by_layers(network: FCResNet, data: LabeledData, config: TrainConfig, work: Work) -> dict[str, Tensor]:
    """Train the stem, then block after block on what those below give, under a classifier of its own; return the layers."""
    hidden, layers = data.inputs, dict[str, Tensor]()
    for name in network.collapse_stages:
        part, below = network.get_submodule(name), replace(data, inputs=hidden, image_shape=None)
        alone = nn.Sequential(part, deepcopy(network.head))
        for record in train(alone, below, config, seed=work.seed, should_stop=work.should_stop):
            work.say(f"{name} alone: epoch {record.epoch} of {config.epochs}")
        part.eval()
        with torch.no_grad():
            layers[name] = hidden = part(hidden)
    return layers


def _cascade(work: Work) -> Found:
    """Train the network of the demo layer by layer, beside the run from end to end and what both begin with."""
    run = work.run("demo")
    recipe, data = recipe_of(run), work.samples(run)
    network = build_model(recipe.model, (data.input_dim,), data.num_classes, work.seed)
    assert isinstance(network, FCResNet)
    layers = trained_by_layers(network, data, recipe.train, work)
    found = measure_features(layers, data.labels, num_classes=data.num_classes, metrics=["pfc1"])
    alone = [found.value("pfc1", name) for name in layers]
    lines: dict[str, Sequence[float | None]] = {
        "layer by layer": alone,
        "end to end": run.over_depth("pfc1"),
        "before training": run.over_depth("pfc1", 0),
    }
    points = [Point("PFC1", words, depth, value) for words, values in lines.items() for depth, value in enumerate(values)]
    return Found(predicates.falls(alone), tuple(points), predicates.falls(lines["before training"]))


_CONJECTURE = {
    "pfc1": ("pfc1", "After training, features get nearer to their class means from layer to layer."),
    "pfc2": ("pfc2", "After training, class means get nearer to a simplex ETF from layer to layer."),
    "pfc3": ("pfc3_error", "After training, the nearest class center is right for more samples from layer to layer."),
}
_COSTS = Panel("Cost over that of the best pairing", "pairing")
_three = tuple(Panel(title, _DEPTH) for title in _METRICS.values())
_shared = partial(Experiment, needs=("mnist",), seeds=3, has_paper_size=True)

PFC_EXPERIMENTS = (
    _shared(
        "pfc:fig2",
        "Figure 2",
        "PFC1, PFC2 and PFC3 of every layer during training",
        "The metrics of all layers begin in no order, at a random initialization, and end in the order of the layers.",
        "Share of the steps from layer to layer at which a metric rises, before training minus after it; positive if training "
        "brings the order.",
        partial(_trained, test=gains.order_gained, draw=over_epochs, before=False),
        tuple(Panel(title, "epoch", log_x=True) for title in _METRICS.values()),
    ),
    _shared(
        "pfc:fig3",
        "Figure 3",
        "The layers and the straight line between first and last features",
        "The metrics of the layers lie near those along the straight line from the first to the last features.",
        "The RMS error in PFC1 of the straight line over the interior layers, in decades, is below that of the baseline: "
        "log-linear interpolation between the ends. Layers are placed at their projection on the chord.",
        partial(_trained, test=gains.line_lead("pfc1"), draw=along_line),
        _three[:2],
    ),
    *(
        _shared(
            f"pfc:conj1-{name}",
            f"Conjecture 1, {name.upper()}",
            "Collapse progresses from layer to layer",
            says,
            f"{_METRICS[metric]} rises at no step from layer to layer, and falls over all.",
            partial(_trained, test=predicates.falls_over_depth(metric), draw=partial(over_depth, metrics=(metric,))),
            (Panel(_METRICS[metric], _DEPTH),),
        )
        for name, (metric, says) in _CONJECTURE.items()
    ),
    *(
        Experiment(
            f"pfc:conj1-mnist1d-{name}",
            f"Conjecture 1, before the effective depth, {name.upper()}",
            "Collapse progresses from layer to layer where classes separate late",
            says,
            f"{_METRICS[metric]} rises at no step from layer to layer up to the effective depth, and falls over these. "
            "MNIST-1D, 10 blocks of width 64: the effective depth was 4 or 5 when the network was chosen, without a look at "
            "PFC1 and PFC2.",
            partial(_before_the_effective_depth, metric=metric),
            (Panel(_METRICS[metric], _DEPTH),),
            seeds=3,
        )
        for name, (metric, says) in _CONJECTURE.items()
    ),
    _shared(
        "pfc:table1",
        "Table I",
        "Does the small network need all of its layers, as those of the paper do?",
        "The networks are chosen such that nearest class centers are right at the last layer and at none before it.",
        "The effective depth (first layer with nearest-center error of at most 0.005) is the number of blocks. The small "
        "network was not chosen so: where this fails, its last layers are beyond what the conjecture is about.",
        partial(_trained, test=lambda run, epoch=None: _is_as_deep_as_it_is(run), draw=over_depth, before=False),
        _three[2:],
    ),
    _shared(
        "pfc:prop1",
        "Proposition 1 and Assumption 1",
        "A trained ResNet moves its features by optimal transport",
        "With weight decay, the path of the features is near to a geodesic of the Wasserstein-2 distance.",
        "The network's own pairing of first and last features costs more than the best one by at most 1 % of what a random "
        "pairing costs more, on 1,000 samples.",
        partial(_trained, test=predicates.nearly_optimal_pairing, draw=pairing_costs),
        (_COSTS,),
    ),
    _shared(
        "pfc:thm1",
        "Theorem 1",
        "PFC1 falls along the straight line",
        "If class means at both ends correlate, PFC1 falls all the way along the line to a collapsed end.",
        "PFC1 falls all the way between the measured ends, which need not be collapsed.",
        partial(_trained, test=predicates.recorded("theorem1.monotone"), draw=along_line),
        _three[:1],
    ),
    _shared(
        "pfc:thm2",
        "Theorem 2",
        "PFC2 falls along the straight line",
        "If the cost of transport is small enough, PFC2 falls all the way along the line to a collapsed end.",
        "PFC2 falls all the way between the measured ends, which need not be collapsed.",
        partial(_trained, test=predicates.recorded("theorem2.monotone"), draw=along_line),
        _three[1:2],
    ),
    Experiment(
        "pfc:cascade",
        "Section V",
        "A network that is trained layer by layer",
        "Along a gradient flow PFC1 falls (Tirer et al.), so it falls from layer to layer if each is trained on top of "
        "those below.",
        "The stem and each block of the demo, one after the other, are trained for 150 epochs on the fixed features below, "
        "each under a classifier of its own: PFC1 rises at no step from layer to layer, and falls over all.",
        _cascade,
        (Panel("PFC1", _DEPTH),),
        seeds=12,
    ),
)
