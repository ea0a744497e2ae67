"""A network with its batches, and what is measured and seen of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from ncollapse.hooks.batch_io import Arguments, copy_of, map_tensors
from ncollapse.hooks.label_rows import class_indices
from ncollapse.hooks.logits import class_logits, returned_tensors
from ncollapse.hooks.untouched import device_of
from ncollapse.measurement.measurement import Measurement
from ncollapse.probe.collect_features import collect_features
from ncollapse.probe.measure import measure
from ncollapse.testing.plain_hooks import LabeledBatch, Seen, read_layers

# How many roundings may add up in a product or a mean of a network's own precision.
_ROUNDINGS = 1e3
_MOST = 0.05


@dataclass(frozen=True, eq=False)
class Subject:
    """A network with its batches, and what is measured of it."""

    model: nn.Module
    batches: list[Any]
    num_classes: int
    options: dict[str, Any]

    @property
    def copies(self) -> list[Any]:
        """The batches; copies, since the network may overwrite its inputs."""
        return [copy_of(batch) for batch in self.batches]

    @cached_property
    def measured(self) -> Measurement:
        """The measurement with kept features."""
        return self.measure(memory_budget="1TiB")

    def measure(self, **more: Any) -> Measurement:
        """Measure all batches."""
        return measure(self.model, self.copies, num_classes=self.num_classes, check=True, **self.options, **more)

    def collect(self) -> dict[str, Tensor]:
        """Collect the features of all batches, as the library reads them."""
        options = self.options
        if isinstance(options["classifier"], tuple):
            options = {**options, "classifier": None}
        return collect_features(self.model, self.copies, num_classes=self.num_classes, **options)[0]

    @cached_property
    def seen(self) -> Seen:
        """What plain hooks see."""
        return read_layers(self.model, self.measured.layers, list(self.pairs()), self.ignored, self.measured.chosen)

    @property
    def ignored(self) -> int | None:
        """The label to ignore."""
        return self.options["ignore_index"]

    def pairs(self) -> Iterator[LabeledBatch]:
        """Yield inputs on the network's device, and labels."""
        device = device_of(self.model)
        for batch in self.copies:
            inputs, labels = self.options["unpack"](batch)
            inputs = map_tensors(lambda tensor: tensor.to(device), inputs)
            call = self.options["call"]
            rows = self.options["rows"]
            inputs = inputs if call is None else Arguments((inputs,), {}, call)
            yield LabeledBatch.of(inputs, class_indices(labels).cpu(), rows(batch) if callable(rows) else rows)

    @property
    def tolerance(self) -> float:
        """The relative deviation that rounding in the network's own precision explains."""
        return min(_MOST, _ROUNDINGS * self.seen.precision)

    @property
    def per_position(self) -> bool:
        """Whether tokens or pixels have labels."""
        return next(self.pairs()).labels.ndim > 1

    def outputs(self) -> Iterator[Tensor]:
        """Yield the returned tensors that may hold logits, joined over the batches."""
        parts = [returned_tensors(output) for output in self.seen.outputs]
        for tensors in zip(*parts, strict=False):
            if class_logits(tensors[0], self.num_classes, self.per_position) is not None:
                yield torch.cat([tensor.detach().double().cpu() for tensor in tensors])

    def counted(self, logits: Tensor) -> Tensor:
        """Return one row of logits per label that counts."""
        batches, rows = list(self.pairs()), logits.flatten(0, -2)
        sizes = [batch.labels.numel() if batch.where is None else batch.where.numel() for batch in batches]
        if sum(sizes) != len(rows):  # the network returns something for the labels' positions alone
            sizes = [batch.labels.numel() for batch in batches]
        parts = zip(batches, rows.split(sizes), strict=True)
        return torch.cat([batch.at_labels(part)[batch.counted(self.ignored)] for batch, part in parts])
