"""Batches of features, in memory or streamed layer by layer while a network runs, and the checks of their layers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from typing import Any, NamedTuple

from torch import Tensor

from ncollapse.hooks.label_rows import LabelRows, class_indices
from ncollapse.hooks.tapped_network import TappedNetwork
from ncollapse.measurement.path_choice import PathChoice, path_layers
from ncollapse.statistics.batch import LabelGroups, check_labels, flatten_features
from ncollapse.statistics.centers import largest_logit
from ncollapse.statistics.moments import ClassMoments
from ncollapse.statistics.parts import part_labels
from ncollapse.statistics.selection import ClassSelection

# Samples of one part of a large batch.
_FEWEST_ROWS, _MOST_ROWS = 256, 4096

# A function of a layer's name and its flat features (N, d).
Receive = Callable[[str, Tensor], None]


class Streamed(NamedTuple):
    """After the layers: the classes (N,) that the network chooses, and the classifier."""

    choices: Tensor | None
    classifier: str | None


class LayerBatch(NamedTuple):
    """Features of all layers for one batch, in memory."""

    features: dict[str, Tensor]
    labels: Tensor
    choices: Tensor | None = None
    classifier: str | None = None
    reuses_memory: bool = False

    def parts(self, num_classes: int) -> Iterator[LayerBatch]:
        """Cut a large batch into parts."""
        dim = max((layer.shape[1] for layer in self.features.values()), default=1)
        for rows in parts_of_rows(len(self.labels), num_classes, dim):
            layers = {name: layer[rows] for name, layer in self.features.items()}
            yield LayerBatch(layers, self.labels[rows], None if self.choices is None else self.choices[rows])

    def stream(self, receive: Receive, hold: bool) -> Streamed:
        """Pass the features of every layer to ``receive``, in order of depth."""
        for name, features in self.features.items():
            receive(name, features)
        return Streamed(self.choices, self.classifier)


class NetworkBatch(NamedTuple):
    """Inputs and labels of one batch, and the network."""

    taps: TappedNetwork
    inputs: Any
    labeled: LabelRows
    reuses_memory: bool

    @property
    def labels(self) -> Tensor:
        """The labels that count, shape (N,)."""
        return self.labeled.labels

    def stream(self, receive: Receive, hold: bool) -> Streamed:
        """Run the network, and pass every layer's features to ``receive`` inside its hook."""
        logits = self.taps.forward(self.inputs, self.labeled, receive, hold).logits
        plan = self.taps.plan
        # The choices alone are kept: logits of a vocabulary would need more memory than all features.
        return Streamed(None if logits is None else largest_logit(logits), None if plan is None else plan.classifier)

    def whole(self) -> LayerBatch:
        """Run the network and return all features and its choices, on the CPU."""
        features, logits = self.taps.forward(self.inputs, self.labeled)
        choices = None if logits is None else largest_logit(logits).cpu()
        return LayerBatch({name: layer.cpu() for name, layer in features.items()}, self.labels.cpu(), choices)


# One batch whose layers arrive one by one. If it reuses memory, its features will be overwritten: those to keep are copied.
Batch = LayerBatch | NetworkBatch


def named_layers(features: Tensor | Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the flat features of the layers that a user passes, by name; one layer alone is called "features"."""
    named = features if isinstance(features, Mapping) else {"features": features}
    if not named:
        raise ValueError("features must contain at least one layer, got an empty mapping. Pass {name: features}.")
    return {name: flatten_features(layer) for name, layer in named.items()}


def row_parts(batch: LayerBatch, num_classes: int) -> Iterator[LayerBatch]:
    """Check a batch and cut it into parts of a few thousand samples, so that what is computed of them takes little memory."""
    whole = CheckedLayers(batch.labels, num_classes, "", None)
    layers = {name: whole.take(name, features) for name, features in batch.features.items()}
    yield from LayerBatch(layers, whole.labels).parts(num_classes)


def parts_of_rows(num_samples: int, num_classes: int, dim: int) -> Iterator[slice]:
    """Cut a large batch into parts that are worked on at once; an empty one is one part."""
    size = rows_of_a_part(num_classes, dim)
    for start in range(0, num_samples, size) or [0]:
        yield slice(start, start + size)


def rows_of_a_part(num_classes: int, dim: int) -> int:
    """Return how many samples of a large batch are worked on at once, given the features of its largest layer."""
    # The projection of one part on the span of class means takes 8 MB.
    return min(_MOST_ROWS, max(_FEWEST_ROWS, 2**20 // min(num_classes, dim)))


class CheckedLayers:
    """The layers of one batch in order of arrival: checked, restricted to a selection, on the device of their statistics."""

    def __init__(
        self,
        labels: Tensor,
        num_classes: int,
        place: str,
        known: Mapping[str, ClassMoments] | None,
        selection: ClassSelection | None = None,
    ) -> None:
        """Check the labels once for all layers; the place ends a sentence, such as " in batch 3"."""
        labels = class_indices(labels, place)
        self.labels = check_labels(labels, len(labels), num_classes, place)
        self._num_samples, self.rows = len(self.labels), None if selection is None else selection.rows(self.labels)
        self.labels = self.labels if self.rows is None else self.labels[self.rows]
        self._num_classes, self._place, self._known = num_classes, place, known
        self._seen: set[str] = set()

    @cached_property
    def groups(self) -> LabelGroups:
        """The classes of the batch, on the device of the first layer. Read it before the batch's moments are merged."""
        before = next(iter(self._known.values())).counts if self._known else None
        return LabelGroups.from_labels(self.labels, self._num_classes, before)

    @cached_property
    def part_labels(self) -> Tensor:
        """Labels that also name the samples' parts. Read them before the batch's moments are merged."""
        counts = next(iter(self._known.values())).counts if self._known else self.labels.new_zeros(self._num_classes)
        return part_labels(self.labels, counts)

    def take(self, name: str, features: Tensor) -> Tensor:
        """Check one layer, and return its features of the selected classes."""
        if features.shape[0] != self._num_samples:
            raise ValueError(
                f"Layer {name!r} must have one row per label, got {features.shape[0]} rows for {self._num_samples} labels"
                f"{self._place}. Check that every sample has a label and that the layer's first dimension is the samples."
            )
        if self._known is not None and name not in self._known:
            raise ValueError(f"Layers must run in every batch, but {name!r} is new{self._place}. Name layers that always run.")
        if not self._seen:
            # Apple's GPUs have no float64: statistics are computed on the CPU instead.
            self.labels = self.labels.to("cpu" if features.device.type == "mps" else features.device)
            self.rows = None if self.rows is None else self.rows.to(self.labels.device)
        self._seen.add(name)
        return self.selected(features)

    def selected(self, rows: Tensor) -> Tensor:
        """Return those of one row per sample that belong to selected classes, on the device of the statistics."""
        rows = rows.to(self.labels.device)
        return rows if self.rows is None else rows.index_select(0, self.rows)

    def finish(self) -> None:
        """Check that no layer is missing."""
        missing = [name for name in self._known or () if name not in self._seen]
        if missing:
            raise ValueError(
                f"Layers must run in every batch, but {missing[0]!r} did not run{self._place}. Name layers that always run."
            )


def along_path(batch: LayerBatch, choice: PathChoice) -> dict[str, Tensor]:
    """Return the features of the layers of the path."""
    dims = {name: features.shape[1] for name, features in batch.features.items()}
    return {name: batch.features[name] for name in path_layers(dims, choice)}
