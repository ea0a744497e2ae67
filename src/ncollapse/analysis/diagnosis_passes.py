"""The passes of a diagnosis over its data sets: one for each group of layers whose features fit the memory."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from numbers import Integral
from typing import Any

import torch
from torch import Tensor

from ncollapse.analysis.kept_layers import KeptLayers
from ncollapse.analysis.layer_findings import DiagnosedData, LayerFinding, find_in_layer, spread_rows
from ncollapse.analysis.network_features import FeatureReader, NetworkFeatures
from ncollapse.statistics.batch import check_labels
from ncollapse.statistics.centers import LinearClassifier, largest_logit

# Rows that CKA is computed from.
_CKA_ROWS = 500
# Logits of two passes over the same data differ by rounding at most.
_SAME = 1e-4


@dataclass(frozen=True, eq=False)
class Sources:
    """The data sets that ``diagnose`` is given, and how they are judged; see there."""

    train: Iterable[Any]
    test: Iterable[Any] | None
    strangers: Mapping[str, Iterable[Any]]
    new_labels: Mapping[str, Any]
    num_classes: int
    most: int | None
    k: int
    most_neighbors: int
    ridge: float
    shots: int

    def read(self, reader: FeatureReader, kept: KeptLayers) -> tuple[DiagnosedData, dict[str, float], Tensor]:
        """Return the features of all data sets, the network's accuracy by split, and the classes with training samples."""
        given = {"train": self.train} | ({} if self.test is None else {"test": self.test})
        splits = {name: reader.read(data, kept, self.most) for name, data in given.items()}
        foreign = {name: reader.read(data, kept, self.most, labeled=False) for name, data in self.strangers.items()}
        own = {name: reader.read(data, kept, self.most) for name, data in self.new_labels.items() if not _is_map(data)}
        labels = splits["train"].labels
        check_labels(labels, len(labels), self.num_classes)
        present = labels.unique()
        accuracy = {name: _accuracy(found) for name, found in splits.items()}
        splits = {name: _of_classes(found, present) for name, found in splits.items()}
        last = list(splits.values())[-1]
        tasks = {
            name: own[name] if name in own else replace(last, labels=self._coarse(name, data)[present][last.labels])
            for name, data in self.new_labels.items()
        }
        data = DiagnosedData(splits, foreign, tasks, len(present), self.k, self.most_neighbors, self.ridge, self.shots)
        return data, accuracy, present

    def _coarse(self, name: str, given: Any) -> Tensor:
        coarse = torch.as_tensor(given)
        if coarse.shape != (self.num_classes,) or int(coarse.min()) < 0:
            raise ValueError(
                f"new_labels[{name!r}] must map {self.num_classes} classes to integers of 0 or more, got shape "
                f"{tuple(coarse.shape)}, least value {int(coarse.min()) if coarse.numel() else None}. Pass one integer for "
                "each class."
            )
        return coarse.long()


@dataclass(frozen=True, eq=False)
class Passes:
    """What all passes found."""

    findings: dict[str, LayerFinding]  # by layer, in order of depth
    rows: dict[str, Tensor]  # features of some training samples by layer, for the similarity of layers
    data: DiagnosedData  # the data sets without their features
    accuracy: dict[str, float]  # of the network, by split
    present: Tensor  # classes with training samples

    @classmethod
    def over(cls, reader: FeatureReader, sources: Sources, budget: int) -> Passes:
        """Read the data as often as needed, so that kept features stay within the budget or are those of one layer."""
        found, left = cls._once(reader, sources, KeptLayers(budget))
        while left:
            more, left = cls._once(reader, sources, KeptLayers(budget, left))
            _check_same(found.data, more.data)
            found.findings.update(more.findings)
            found.rows.update(more.rows)
        return found

    @classmethod
    def _once(cls, reader: FeatureReader, sources: Sources, kept: KeptLayers) -> tuple[Passes, list[str]]:
        """Return what one pass found, and the layers that did not fit."""
        data, accuracy, present = sources.read(reader, kept)
        own, train = _own_head(reader, len(present)), data.splits["train"]
        chosen = spread_rows(len(train.labels), _CKA_ROWS)
        findings = {name: find_in_layer(name, data, own.get(name), next(iter(own), None)) for name in train.layers}
        rows = {name: layer[chosen] for name, layer in train.layers.items()}
        return cls(findings, rows, data.without_layers(), accuracy, present), kept.dropped


def _own_head(reader: FeatureReader, num_classes: int) -> dict[str, LinearClassifier]:
    """Return the network's classifier by the layer that feeds it, if it is known."""
    head = reader.classifier()
    if head is None or len(head[1].weight) < num_classes:
        return {}
    return {head[0]: LinearClassifier.from_parameters(head[1].weight, head[1].bias).to("cpu")}


def _accuracy(found: NetworkFeatures) -> float:
    return math.nan if found.logits is None else float((largest_logit(found.logits) == found.labels).double().mean())


def _of_classes(found: NetworkFeatures, present: Tensor) -> NetworkFeatures:
    """Return the samples of the classes that the training set has, with labels that count these classes."""
    if len(present) < 2:
        raise ValueError(f"At least two classes must have training samples, got {len(present)}. Pass data of more classes.")
    known = torch.isin(found.labels, present)
    kept = found if bool(known.all()) else found.select(known.nonzero().flatten())
    return replace(kept, labels=torch.searchsorted(present, kept.labels))


def _is_map(given: Any) -> bool:
    """Return whether new labels are coarser ones of the classes, not data of their own."""
    return isinstance(given, Tensor) or (isinstance(given, Sequence) and all(isinstance(item, Integral) for item in given))


def _check_same(first: DiagnosedData, again: DiagnosedData) -> None:
    """Check that two passes saw the same samples in the same order, as far as labels and logits tell."""
    for split, found in first.splits.items():
        other = again.splits[split]
        same = torch.equal(found.labels, other.labels)
        if same and found.logits is not None and other.logits is not None:
            off = (found.logits.double() - other.logits.double()).abs().amax()
            same = bool(off <= _SAME * found.logits.double().abs().amax())
        if not same:
            raise ValueError(
                f"Features exceed memory_budget, so the data is read again, and every pass must see the same samples in the "
                f"same order, but the {split} set differs. Turn off shuffling and random augmentation, or raise memory_budget."
            )
