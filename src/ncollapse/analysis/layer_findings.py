"""Findings of a diagnosis at one layer: decisions by center, probe and neighbors, spectrum, strangers, and transfer."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from ncollapse.analysis.class_findings import decided_classes
from ncollapse.analysis.few_shot import few_shot_accuracy
from ncollapse.analysis.linear_probe import least_squares_probe
from ncollapse.analysis.network_features import NetworkFeatures
from ncollapse.analysis.representation import alpha_req, lidar, rankme
from ncollapse.analysis.strangers import StrangerScores, detection
from ncollapse.depth.neighbors import neighbor_predictions
from ncollapse.statistics.centers import ClassCenters, LinearClassifier
from ncollapse.statistics.cross_moments import CrossMoments
from ncollapse.statistics.moments import ClassMoments


class Value(NamedTuple):
    """One value of a layer."""

    metric: str
    split: str
    value: float
    standard_error: float | None = None


@dataclass(frozen=True, eq=False)
class DiagnosedData:
    """The features that a diagnosis is made from; labels count the K classes that are present."""

    splits: dict[str, NetworkFeatures]  # "train", and "test" if it was given
    strangers: dict[str, NetworkFeatures]  # by name
    tasks: dict[str, NetworkFeatures]  # features and new labels, by name
    num_classes: int
    k: int  # number of neighbors
    most_neighbors: int  # rows of each split that k-NN decisions are made from and for
    ridge: float  # of the linear probe
    shots: int  # of a new class

    @property
    def decided(self) -> str:
        """The split that verdicts are about."""
        return list(self.splits)[-1]

    def without_layers(self) -> DiagnosedData:
        """Return the labels and logits without the features, which need the most memory."""
        splits, strangers, tasks = (
            {name: replace(found, layers={}) for name, found in part.items()}
            for part in (self.splits, self.strangers, self.tasks)
        )
        return replace(self, splits=splits, strangers=strangers, tasks=tasks)


@dataclass(frozen=True, eq=False)
class LayerFinding:
    """The values of one layer, and the decisions by the nearest class center by split."""

    values: list[Value]
    moments: ClassMoments
    decided: dict[str, Tensor]


def find_in_layer(name: str, data: DiagnosedData, head: LinearClassifier | None, logits: str | None) -> LayerFinding:
    """Return what is found at a layer."""
    # `head` is the network's own classifier if this layer feeds it; the scores of the layer `logits` use the network's logits.
    train = data.splits["train"]
    features = train.layers[name]
    cross = CrossMoments.from_labels(features, train.labels, data.num_classes)
    moments = ClassMoments.from_batch(features, train.labels, data.num_classes)
    centers, probe = ClassCenters.from_moments(moments), least_squares_probe(cross, ridge=data.ridge)
    decided = {split: decided_classes(found.layers[name], found.labels, centers) for split, found in data.splits.items()}
    values = [Value("ncc", split, _share(classes, data.splits[split].labels)) for split, classes in decided.items()]
    for split, found in data.splits.items():
        values.append(Value("probe", split, _share(probe.choices(found.layers[name]), found.labels)))
    values += _neighbors(name, data)
    values += [Value("rankme", "train", float(rankme(cross))), Value("lidar", "train", float(lidar(cross)))]
    values.append(Value("alpha_req", "train", float(alpha_req(cross))))
    values += _strangers(name, data, StrangerScores.of(cross, head or probe), name == logits)
    for task, found in data.tasks.items():
        values += _transfer(task, found.layers[name], found.labels, data)
    return LayerFinding(values, moments, decided)


def _share(decided: Tensor, labels: Tensor) -> float:
    return float((decided == labels).double().mean())


def spread_rows(count: int, most: int) -> Tensor:
    """Return the indices of at most so many rows, evenly spread."""
    return torch.arange(count) if count <= most else torch.arange(most) * count // most


def _neighbors(name: str, data: DiagnosedData) -> list[Value]:
    # Distances are computed from differences, in time N² d.
    parts = {split: found.select(spread_rows(len(found.labels), data.most_neighbors)) for split, found in data.splits.items()}
    train = parts["train"]
    k = min(data.k, len(train.labels) - 1)
    values = []
    for split, part in parts.items():
        queries = None if split == "train" else part.layers[name]
        vote = neighbor_predictions(train.layers[name], train.labels, num_classes=data.num_classes, k=k, queries=queries)
        values.append(Value("knn", split, _share(vote, part.labels)))
    return values


def _strangers(name: str, data: DiagnosedData, scores: StrangerScores, uses_logits: bool) -> list[Value]:
    if not data.strangers:
        return []
    sets: Mapping[str, NetworkFeatures] = {"": data.splits[data.decided], **data.strangers}

    def of_set(chosen: str) -> dict[str, Tensor]:
        found = sets[chosen]
        return scores.of_samples(found.layers[name], found.logits if uses_logits else None)

    values = []
    for key, (area, rate) in detection(of_set, "", data.strangers).items():
        values += [Value(f"auroc.{key}", data.decided, area), Value(f"fpr95.{key}", data.decided, rate)]
    return values


def _transfer(task: str, features: Tensor, labels: Tensor, data: DiagnosedData) -> list[Value]:
    found = few_shot_accuracy(features, labels, shots=data.shots)
    error = None if math.isnan(found.standard_error) else found.standard_error
    return [
        Value(f"few_shot.{task}", data.decided, found.accuracy, error),
        Value(f"few_shot_bound.{task}", data.decided, found.bound),
    ]
