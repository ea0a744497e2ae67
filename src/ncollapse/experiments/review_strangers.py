"""Experiments on data that a network should not know, by layer: what collapse gives for their detection."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from statistics import fmean
from typing import NamedTuple

import torch
from scipy import stats
from torch import Tensor, nn

from ncollapse.analysis.linear_probe import least_squares_probe
from ncollapse.analysis.strangers import StrangerScores
from ncollapse.data.batches import Batches
from ncollapse.data.labeled import LabeledData
from ncollapse.experiments.experiment import Experiment, Found, Panel, Point
from ncollapse.experiments.review_testing import small_run
from ncollapse.experiments.review_transfer import untrained
from ncollapse.experiments.work import Work
from ncollapse.metrics import auroc, ood_orthogonality, within_between_ratio
from ncollapse.probe import collect_features
from ncollapse.records.reading import Run
from ncollapse.statistics.centers import LinearClassifier
from ncollapse.statistics.cross_moments import CrossMoments
from ncollapse.statistics.moments import ClassMoments

_KNOWN = 6
_SETS = ("new classes", "digits", "noise")
_SCORES = {
    "neco": "NECO",
    "nci": "NCI",
    "mahalanobis": "Mahalanobis",
    "energy": "energy",
    "softmax": "largest probability",
}


class Data(NamedTuple):
    """Training and test samples of six classes of Fashion-MNIST, and of what is none of them."""

    train: LabeledData
    test: LabeledData
    strangers: dict[str, LabeledData]


class LayerFound(NamedTuple):
    """What is found at a layer: AUROC by set and score, NC5 by set, and PFC1."""

    areas: dict[tuple[str, str], float]
    cosines: dict[str, float]
    collapse: float

    @property
    def mean_area(self) -> float:
        """The mean AUROC over all sets and scores."""
        return fmean(self.areas.values())


def _data(work: Work, run: Run) -> Data:
    test = work.samples(run, "data.split=test", "data.per_class=500", "data.largest_classes=null")
    digits = work.samples(run, "data.name=mnist", "data.split=test", "data.largest_classes=null")
    known = test.labels < _KNOWN
    noise = torch.randn(1000, test.input_dim, generator=torch.Generator().manual_seed(work.seed))
    # As long as images are in the mean.
    noise *= test.inputs.square().sum(dim=1).mean().sqrt() / math.sqrt(test.input_dim)
    strangers = {
        "new classes": test.subset(~known),
        "digits": digits,
        "noise": LabeledData(noise, torch.zeros(1000, dtype=torch.int64), 1, "noise", test.image_shape),
    }
    return Data(work.samples(run), test.subset(known), strangers)


def by_layer(model: nn.Module, data: Data) -> list[LayerFound]:
    """Return what is found at every layer of a network; its own classifier judges the last one, linear probes the others."""
    num_classes = data.train.num_classes

    def read(part: LabeledData) -> tuple[dict[str, Tensor], Tensor]:
        return collect_features(model.eval(), Batches(part, 1000), num_classes=max(part.num_classes, num_classes))

    (train, labels), (test, _) = read(data.train), read(data.test)
    foreign = {name: read(part)[0] for name, part in data.strangers.items()}
    last = model.get_submodule("head")
    assert isinstance(last, nn.Linear)
    head = LinearClassifier.from_parameters(last.weight, last.bias)
    found = []
    for name, features in train.items():
        own = head if name == list(train)[-1] else None
        others = {key: layers[name] for key, layers in foreign.items()}
        moments = ClassMoments.from_batch(features, labels, num_classes)
        found.append(
            LayerFound(
                areas_of(features, labels, test[name], others, own),
                {key: float(ood_orthogonality(moments, rows)) for key, rows in others.items()},
                float(within_between_ratio(moments)),
            )
        )
    return found


def areas_of(
    features: Tensor, labels: Tensor, known: Tensor, others: Mapping[str, Tensor], head: LinearClassifier | None
) -> dict[tuple[str, str], float]:
    """Return the AUROC of each score by set and score, given training features, and those of known and other samples."""
    cross = CrossMoments.from_labels(features, labels, int(labels.max()) + 1)
    head = head or least_squares_probe(cross, ridge=1e-3)
    scores = StrangerScores.of(cross, head)

    def scored(rows: Tensor) -> dict[str, Tensor]:
        logits = rows.double() @ head.weight.double().T + head.bias.double()
        return scores.of_samples(rows, logits) | {"softmax": logits.softmax(dim=1).amax(dim=1)}

    own, foreign = scored(known), {name: scored(rows) for name, rows in others.items()}
    return {(name, score): auroc(own[score], foreign[name][score]) for name in others for score in _SCORES}


def _measured(work: Work) -> tuple[list[LayerFound], list[LayerFound]]:
    """Return what is found after and before training."""
    run = small_run(work, f"data.largest_classes={_KNOWN}")
    data = _data(work, run)
    return by_layer(work.network(run), data), by_layer(untrained(run), data)


def scores_by_layer(work: Work) -> Found:
    """Compare the scores that collapse has led to with the largest probability."""
    after, before = _measured(work)
    points = [
        Point(_AREAS[name].title, words, depth, layer.areas[name, score])
        for name in _SETS
        for score, words in _SCORES.items()
        for depth, layer in enumerate(after)
    ]
    return Found(_lead(after[-1]), tuple(points), _lead(before[-1]))


def _lead(layer: LayerFound) -> float:
    return fmean((layer.areas[n, "neco"] + layer.areas[n, "nci"]) / 2 - layer.areas[n, "softmax"] for n in _SETS)


def orthogonal_strangers(work: Work, name: str) -> Found:
    """Compare the cosines between class means and the mean of strangers of one kind before and after training."""
    after, before = _measured(work)
    points = [
        Point(_NC5.title, words, depth, layer.cosines[name])
        for words, layers in (("trained", after), ("not trained", before))
        for depth, layer in enumerate(layers)
    ]
    return Found(math.log10(before[-1].cosines[name] / after[-1].cosines[name]), tuple(points))


def detection_by_collapse(work: Work) -> Found:
    """Correlate the ranks of layers by collapse with those by how well they detect strangers."""
    after, before = _measured(work)
    points = [
        Point(_TRADE.title, words, layer.collapse, layer.mean_area)
        for words, layers in (("trained", after), ("not trained", before))
        for layer in layers
    ]
    return Found(_correlation(after), tuple(points), _correlation(before))


def _correlation(layers: list[LayerFound]) -> float:
    return -float(stats.spearmanr([layer.collapse for layer in layers], [layer.mean_area for layer in layers]).statistic)


_AREAS = {name: Panel(f"AUROC against {name}", "layer") for name in _SETS}
_NC5 = Panel("NC5", "layer")
_TRADE = Panel("Mean AUROC", "PFC1 of the layer", log_x=True)
_WHO = {
    "new classes": "four classes of Fashion-MNIST that were not trained on",
    "digits": "digits of MNIST",
    "noise": "noise as long as images are in the mean",
}
_ALL_KINDS = f"Strangers are {_WHO['new classes']}, {_WHO['digits']}, and noise"
_known = partial(Experiment, needs=("fashion_mnist", "mnist"), seeds=6)

STRANGERS_EXPERIMENTS = (
    *(
        _known(
            f"review:strangers-nc5-{name.split()[-1]}",
            f"Beyond the review: NECO (Ammar et al. 2024), {name}",
            "Strangers become orthogonal to the class means",
            "As a network collapses, the mean of the features of strangers becomes orthogonal to the class means (NC5).",
            "Decades by which NC5, the mean absolute cosine of their angle to the class means, falls in training at the last "
            f"layer. Strangers are {who}.",
            partial(orthogonal_strangers, name=name),
            (_NC5,),
        )
        for name, who in _WHO.items()
    ),
    _known(
        "review:strangers",
        "Beyond the review: NECO (Ammar et al. 2024) and NCI (Liu and Qin 2025)",
        "Scores that come from collapse detect strangers better",
        "Scores that come from the geometry of collapse detect strangers better than the largest probability does.",
        "AUROC of NECO and NCI, their mean, minus that of the largest probability, at the last layer. "
        f"{_ALL_KINDS}; the mean over the three.",
        scores_by_layer,
        tuple(_AREAS.values()),
    ),
    _known(
        "review:strangers-depth",
        "Beyond the review: Controlling neural collapse (Harun et al. 2025)",
        "More collapsed layers detect strangers better",
        "The more a layer collapses, the better strangers are detected there, and the worse it transfers.",
        "Rank correlation (Spearman) over the layers of collapse (minus PFC1) with the mean AUROC of five scores against three "
        f"kinds of strangers. {_ALL_KINDS}. How well the layers transfer is shown by review:few-shot-depth.",
        detection_by_collapse,
        (_TRADE,),
    ),
)
