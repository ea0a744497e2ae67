"""How the batches of a loader are read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ncollapse.default_device import as_the_user
from ncollapse.hooks.batch_io import Arguments, Call, Unpack, length_of, map_tensors, tensors_of_arrays, unpack_batch
from ncollapse.hooks.label_rows import LabelRows, Rows, class_indices
from ncollapse.hooks.tapped_network import TappedNetwork
from ncollapse.probe.layer_batch import NetworkBatch

_END = object()


@dataclass(frozen=True, eq=False)
class BatchPlan:
    """How a batch is read: the arguments of ``measure``, and what a trainer does to its batches first."""

    unpack: Unpack = unpack_batch
    call: Call | None = None
    ignore_index: int | None = None
    rows: Rows | None = None
    prepare: Callable[[Any], Any] | None = None

    def read(self, batch: Any, index: int, of_tokens: bool = False) -> tuple[Any, LabelRows]:
        """Return a batch's inputs and its labels that count; ``of_tokens`` if every token had a label in earlier batches."""
        batch = batch if self.prepare is None else self.prepare(batch)
        try:
            with as_the_user():
                inputs, labels = self.unpack(batch)
        except TypeError as error:
            hint = ""
            if isinstance(batch, Tensor | str | int | float):
                hint = " Put one pair into a list. If it is one sample, not a batch: wrap it in a DataLoader."
            raise TypeError(f"Batch {index}: {error}{hint}") from error
        labels = class_indices(labels, f" in batch {index}")
        if labels.ndim == 0:
            raise TypeError(
                f"Batch {index} must have one label per sample, got one label: {labels.item()}. This is one sample, not a "
                "batch: wrap it in a DataLoader."
            )
        rows = self.rows(batch) if callable(self.rows) else self.rows
        return (
            inputs if self.call is None else Arguments((inputs,), {}, self.call),
            LabelRows.of(labels, self.ignore_index, rows, f" in batch {index}", of_tokens),
        )


def _theirs(batches: Iterable[Any]) -> Iterator[Any]:
    """Yield the batches, each made as the user's loader makes it."""
    with as_the_user():
        source = iter(batches)
    while True:
        with as_the_user():
            batch = next(source, _END)
        if batch is _END:
            return
        yield batch


def network_batches(
    taps: TappedNetwork,
    batches: Iterable[Any],
    reading: BatchPlan,
    device: torch.device,
    report: Callable[[int, int | None], None],
) -> Iterator[NetworkBatch]:
    """Yield the batches of one pass. Those without a label that counts are left out: they would prove nothing to a look."""
    taps.rewind()
    precision = next((part.dtype for part in taps.model.parameters() if part.is_floating_point()), torch.get_default_dtype())
    total, of_tokens = length_of(batches), False
    for index, batch in enumerate(_theirs(batches)):
        inputs, labeled = reading.read(batch, index, of_tokens)
        of_tokens = of_tokens or len(labeled.shape) == 2
        if len(labeled.labels):
            inputs = map_tensors(lambda tensor: tensor.to(device), tensors_of_arrays(inputs, precision))
            yield NetworkBatch(taps, inputs, labeled, device.type == "cpu")
        report(index + 1, total)
