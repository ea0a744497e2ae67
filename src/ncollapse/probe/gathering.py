"""Small batches gathered to larger ones, since the calls for a batch of 64 samples cost more than its sums."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ncollapse.probe.layer_batch import LayerBatch
from ncollapse.statistics.centers import UNDECIDED

# Rows of a gathered batch, and the most numbers of all of its layers: 16 MB in float32.
_ROWS, _ELEMENTS = 2048, 2**22


class Gathering:
    """Copies of small batches, in memory that is used again and again."""

    def __init__(self, num_classes: int) -> None:
        self.num_batches = 0
        self._num_classes, self._filled = num_classes, 0
        self._layers: dict[str, Tensor] = {}
        self._labels = torch.zeros(0, dtype=torch.int64)
        self._choices: Tensor | None = None
        self._classifier: str | None = None

    def add(self, batch: LayerBatch) -> bool:
        """Add a batch if it is small, fits and cannot raise an error of its own; return whether it was added."""
        end = self._filled + len(batch.labels)
        if end > len(self._labels) or not self._is_alike(batch) or not self._is_sound(batch):
            return False
        rows = slice(self._filled, end)
        for name, features in batch.features.items():
            self._layers[name][rows] = features.detach()
        self._labels[rows] = batch.labels
        if self._choices is not None and batch.choices is not None:
            self._choices[rows] = batch.choices
        self.num_batches, self._filled = self.num_batches + 1, end
        return True

    def whole(self) -> LayerBatch:
        """Return what was gathered as one batch, which the next batches overwrite."""
        rows = slice(0, self._filled)
        layers = {name: room[rows] for name, room in self._layers.items()}
        choices = None if self._choices is None else self._choices[rows]
        return LayerBatch(layers, self._labels[rows], choices, self._classifier, reuses_memory=True)

    def clear(self) -> None:
        """Forget what was gathered, and keep the memory."""
        self.num_batches = self._filled = 0

    def make_room(self, batch: LayerBatch) -> None:
        """Make room for batches like this one, whose layers have been accepted."""
        # On accelerators the check of every batch would wait for the device.
        width = sum(features.shape[1] for features in batch.features.values())
        if self._filled or self._is_alike(batch) or any(features.device.type != "cpu" for features in batch.features.values()):
            return
        capacity = min(_ROWS, _ELEMENTS // width)
        with torch.inference_mode(False):
            self._layers = {
                name: torch.empty(capacity, features.shape[1], dtype=features.dtype)
                for name, features in batch.features.items()
            }
            self._labels = torch.empty(capacity, dtype=torch.int64)
            self._choices = None if batch.choices is None else torch.empty(capacity, dtype=torch.int64)
        self._classifier = batch.classifier

    def _is_alike(self, batch: LayerBatch) -> bool:
        def kinds(layers: dict[str, Tensor]) -> list[tuple[str, int, torch.dtype, torch.device]]:
            return [(name, layer.shape[1], layer.dtype, layer.device) for name, layer in layers.items()]

        same = batch.classifier == self._classifier and (batch.choices is None) == (self._choices is None)
        return same and kinds(batch.features) == kinds(self._layers)

    def _is_sound(self, batch: LayerBatch) -> bool:
        labels, size = batch.labels, len(batch.labels)
        if labels.ndim != 1 or labels.is_floating_point() or labels.is_complex() or not 0 < 2 * size <= len(self._labels):
            return False
        if any(len(features) != size for features in batch.features.values()):
            return False
        lowest, highest = torch.aminmax(labels)
        if int(lowest) < 0 or int(highest) >= self._num_classes:
            return False
        if batch.choices is not None and bool((batch.choices == UNDECIDED).any()):
            return False
        # A sum is finite only if all its terms are. Where it is not, the whole check follows.
        return all(math.isfinite(features.sum()) for features in batch.features.values())
