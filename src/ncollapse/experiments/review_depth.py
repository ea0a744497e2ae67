"""The review's experiments on depth (arXiv 2206.04041, Section 4.1.1): nearest class centers and nearest neighbors by layer."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from statistics import fmean
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ncollapse.analysis import truncate
from ncollapse.data.batches import Batches
from ncollapse.data.labeled import LabeledData
from ncollapse.depth.neighbors import neighbor_predictions, neighbor_scores
from ncollapse.experiments.experiment import Found, Panel, Point
from ncollapse.experiments.review_testing import at_end, on_fashion, small_run
from ncollapse.experiments.work import Work, recipe_of
from ncollapse.probe import collect_features
from ncollapse.recipes import FCResNetConfig
from ncollapse.records.depth import EPSILON
from ncollapse.records.reading import Run
from ncollapse.studies.ncc_depth import compare_ncc_depths

_BLOCKS = (2, 5, 10)
_KINDS = ("true", "random")
# What cutting a network may cost in accuracy.
_COST = 0.005
# Accuracies that differ by less are taken for one.
_NEAR = 0.05
# Probability that a label of the second half is drawn again: about the test error of these networks.
_CORRUPTION = 0.2


def _first_layers(work: Work, kind: str) -> dict[int, tuple[Run, int | None]]:
    """Return a run of every depth, and the first layer that separates its training set by nearest centers."""
    runs = {blocks: small_run(work, f"model.num_blocks={blocks}", random=kind == "random") for blocks in _BLOCKS}
    return {blocks: (run, _first_layer(run)) for blocks, run in runs.items()}


def _first_layer(run: Run) -> int | None:
    found = run.effective_depth
    return found.depth if found is not None and found.reached else None


def _by_layer(found: Mapping[int, tuple[Run, int | None]], kind: str) -> list[Point]:
    return [
        Point(_FIG9[kind].title, f"{blocks} blocks", layer, y)
        for blocks, (run, _) in found.items()
        for layer, y in enumerate(run.over_depth("pfc3"))
    ]


def minimal_depth(work: Work) -> Found:
    """Test whether the deeper networks separate the training set at one layer before their last."""
    found = {kind: _first_layers(work, kind) for kind in _KINDS}
    firsts = [found["true"][blocks][1] for blocks in _BLOCKS[1:]]
    points = tuple(point for kind in _KINDS for point in _by_layer(found[kind], kind))
    if None in firsts:
        return Found(False, points)
    middle, deep = (first or 0 for first in firsts)
    return Found(middle < _BLOCKS[1] and deep < _BLOCKS[2] and abs(middle - deep) <= 1, points)


def depth_of_random_labels(work: Work) -> Found:
    """Compare the first layer that separates random labels with that for true ones."""
    firsts = {kind: [first for _, first in list(_first_layers(work, kind).values())[1:]] for kind in _KINDS}
    points = [
        Point(_FIRST.title, f"{kind} labels", blocks, first)
        for kind in _KINDS
        for blocks, first in zip(_BLOCKS[1:], firsts[kind], strict=True)
    ]
    later = [b - a for a, b in zip(firsts["true"], firsts["random"], strict=True) if a is not None and b is not None]
    return Found(fmean(later) if later else None, tuple(points))


def depth_bound(work: Work) -> Found:
    """Test whether a network on half of the data needs less depth than all of it with partly random labels."""
    run = small_run(work)
    recipe, data = recipe_of(run), work.samples(run)
    assert isinstance(recipe.model, FCResNetConfig)
    shuffled = data.subset(torch.randperm(data.num_samples, generator=torch.Generator().manual_seed(work.seed)))
    found = compare_ncc_depths(
        shuffled, _BLOCKS[:2], model=recipe.model, training=recipe.training, corruption=_CORRUPTION, draws=1, seeds=(work.seed,)
    )
    trained, minimal = found.trained[0], found.minimal[0]
    points = [
        Point(_BOUND.title, "all samples, partly random labels", blocks, error) for blocks, error in minimal.errors.items()
    ]
    return Found(found.frequency == 0 and trained.reached, tuple(points))


def neighbors_by_depth(work: Work) -> Found:
    """Compare where nearest neighbors learn random labels with where they learn true ones."""
    points, first = [], {}
    for kind in _KINDS:
        run, (train, test), decided = _features_of(work, kind)
        own = neighbor_scores(train.features, train.labels, num_classes=10, predictions=decided[0])
        judged = partial(neighbor_scores, queries=test.features, query_labels=test.labels, predictions=decided[1])
        other = judged(train.features, train.labels, num_classes=10)
        for split, scores in (("train", own), ("test", other)):
            points += [Point(_FIG10[kind].title, split, depth, score.accuracy) for depth, score in enumerate(scores)]
        points += [Point(_FIG10[kind].title, "agrees with the network, test", d, s.agreement) for d, s in enumerate(other)]
        points.append(Point(_FIG10[kind].title, "network, test", len(own) - 1, at_end(run, "accuracy", "test")))
        first[kind] = next(depth for depth, score in enumerate(own) if score.accuracy >= own[-1].accuracy - _NEAR)
    return Found(float(first["random"] - first["true"]), tuple(points))


def neighbors_agree(work: Work) -> Found:
    """Compare how nearest neighbors decide about test data with how a network trained on random labels does."""
    _, (train, test), (_, decided) = _features_of(work, "random")
    last = list(train.features)[-1]
    shares = {
        "last layer": beyond_chance(_votes(train.features[last], train.labels, test.features[last]), decided),
        "pixels": beyond_chance(_votes(train.inputs, train.labels, test.inputs), decided),
    }
    points = tuple(Point(_AGREEMENT.title, "random labels", place, share) for place, share in shares.items())
    return Found(shares["last layer"], points, shares["pixels"])


def _votes(features: Tensor, labels: Tensor, queries: Tensor) -> Tensor:
    return neighbor_predictions(features, labels, num_classes=10, queries=queries)


def beyond_chance(one: Tensor, other: Tensor) -> float:
    """Return the share of samples on which two agree, minus that of two who decide as often for each class at random."""
    shares = [torch.bincount(decided, minlength=10).double() / len(decided) for decided in (one, other)]
    return float((one == other).double().mean() - shares[0] @ shares[1])


class _Split(NamedTuple):
    features: dict[str, Tensor]
    labels: Tensor
    inputs: Tensor


def _features_of(work: Work, kind: str) -> tuple[Run, list[_Split], list[Tensor]]:
    """Return a run, and of its training samples and 1,000 of the test set the features and the network's decisions."""
    run = small_run(work, random=kind == "random")
    model = work.network(run)
    data = [work.samples(run), work.samples(run, "data.split=test", "data.corrupt=0.0")]
    features = [collect_features(model, Batches(part, 1000), num_classes=10) for part in data]
    splits = [_Split(found, labels, part.inputs) for (found, labels), part in zip(features, data, strict=True)]
    return run, splits, [decisions(model, part) for part in data]


def decisions(model: nn.Module, data: LabeledData) -> Tensor:
    """Return the classes that a network decides for."""
    with torch.no_grad():
        return torch.cat([model.eval()(inputs).argmax(dim=1) for inputs, _ in Batches(data, 1000)])


def early_exit(work: Work) -> Found:
    """Cut the network at the first layer that separates the training set, and decide there by the nearest class center."""
    run = small_run(work, "model.num_blocks=10")
    first = _first_layer(run)
    if first is None:
        return Found(None)
    train, test = work.samples(run), work.samples(run, "data.split=test", "data.per_class=1000")
    model = work.network(run)
    whole, found = at_end(run, "accuracy", "test"), []
    for depth in sorted({0, first, len(run.layers) - 1}):
        layer, batches = run.layers[depth], Batches(train, 1000)
        cut = truncate(model, layer, batches, num_classes=10, head="ncc", test=Batches(test, 1000), repeats=1).truncation
        found.append((depth, cut.test_accuracy))
    points = [Point(_EXIT.title, "nearest class center", depth, y) for depth, y in found]
    points += [Point(_EXIT.title, "whole network", depth, whole) for depth, _ in found]
    by_depth = dict(found)
    return Found(by_depth[first] - whole + _COST, tuple(points), by_depth[0] - whole + _COST)


_FIG9 = {kind: Panel(f"Nearest-center accuracy, {kind} labels", "layer") for kind in _KINDS}
_FIRST = Panel("First layer that separates the training set", "blocks")
_BOUND = Panel("Nearest-center error at the last layer", "blocks")
_FIG10 = {kind: Panel(f"Nearest neighbors, {kind} labels", "layer") for kind in _KINDS}
_AGREEMENT = Panel("Agreement beyond chance", "nearest neighbors by")
_EXIT = Panel("Test accuracy", "cut at layer")

DEPTH_EXPERIMENTS = (
    on_fashion(
        "review:fig9",
        "Figure 9",
        "There is a minimal depth for nearest class centers",
        "Networks that are deep enough separate their training set by nearest class centers at a layer before the last, the "
        "minimal NCC depth, whatever their own depth.",
        f"Networks of {_BLOCKS[1]} and {_BLOCKS[2]} blocks both have a nearest-center error of at most {EPSILON:g} before "
        "their last layer, first at layers that differ by at most one.",
        minimal_depth,
        tuple(_FIG9.values()),
    ),
    on_fashion(
        "review:fig9-random",
        "Section 4.1.1, after Figure 9",
        "Random labels need more depth",
        "Random labels are learned too, but only by enough depth.",
        f"How many layers later the nearest-center error on the training set is first at most {EPSILON:g} with random labels "
        f"than with true ones, mean over networks of {_BLOCKS[1]} and {_BLOCKS[2]} blocks that reach it.",
        depth_of_random_labels,
        (_FIRST,),
    ),
    on_fashion(
        "review:fig9-bound",
        "Section 4.1.1, minimal NCC depth",
        "What the bound by minimal depth asks for",
        "A network generalizes if it needs less depth than its data with some labels made random (Galanti 2022).",
        f"The first layer with a nearest-center error of at most {EPSILON:g} of a network of {_BLOCKS[1]} blocks, trained on "
        f"half of the samples, is less than the number of blocks, {_BLOCKS[0]} or {_BLOCKS[1]}, that all need if each "
        f"label of the other half is drawn again with probability {_CORRUPTION:g}.",
        depth_bound,
        (_BOUND,),
    ),
    on_fashion(
        "review:fig10",
        "Figure 10",
        "Nearest neighbors by depth",
        "Layers learn gradually what nearest neighbors need if the data is proper, and only with enough depth if labels are "
        "random.",
        "How many layers later the leave-one-out accuracy of 10 nearest neighbors on the training set comes within "
        f"{_NEAR:g} of that at the last layer, with random labels than with true ones.",
        neighbors_by_depth,
        tuple(_FIG10.values()),
    ),
    on_fashion(
        "review:fig10-agreement",
        "Figure 10",
        "Networks decide as nearest neighbors do",
        "What a network decides is what nearest neighbors of its features decide.",
        "Share of 1,000 test images on which 10 nearest neighbors at the last layer decide as the network does, minus that of "
        "chance. Labels are random, so that being right is no reason to agree. The base rate is that of neighbors by pixels.",
        neighbors_agree,
        (_AGREEMENT,),
        base="on the pixels",
    ),
    on_fashion(
        "review:early-exit",
        "Section 4.1.1, open question",
        "Does an exit at the minimal depth keep the accuracy?",
        "Layers after the effective depth are redundant and can be pruned.",
        "Test accuracy of nearest class centers at the first layer that separates the training set, of a network of 10 blocks, "
        f"minus that of the network, plus {_COST:g}: positive if the cut costs less. The base rate is that of the first layer.",
        early_exit,
        (_EXIT,),
        base="at the first layer",
    ),
)
