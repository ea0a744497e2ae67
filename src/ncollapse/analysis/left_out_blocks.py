"""Leaving a block out: the accuracy of the network when the value at a layer is replaced by that at the layer before."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from itertools import pairwise
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ncollapse.analysis.network_features import FeatureReader
from ncollapse.hooks.capture import first_feature
from ncollapse.hooks.tap import INPUT
from ncollapse.statistics.centers import largest_logit


class _DoesNotFit(Exception):
    """The layer before has another shape or type."""


def left_out_accuracies(
    reader: FeatureReader, batches: Iterable[Any], layers: Sequence[str], most_samples: int
) -> dict[str, float]:
    """Return the accuracy on the first samples without what lies between a layer and the one before; nan if shapes differ."""
    found = dict.fromkeys(layers, math.nan)
    if reader.plan.logits is None:
        return found
    places = {tap.label: tap.name for tap in reader.plan.all_taps}
    for before, layer in pairwise(layers):
        try:
            found[layer] = _accuracy(reader, batches, most_samples, places[before], places[layer])
        except _DoesNotFit:
            continue
    return found


def _accuracy(reader: FeatureReader, batches: Iterable[Any], most_samples: int, before: str, name: str) -> float:
    correct = count = 0
    for batch in reader.batches(batches, most_samples):
        # Hooks for each batch: a pass over the data begins with the network as it was, without hooks of others.
        with _replaced(reader.model, before, name):
            logits = reader.taps.logits(batch.inputs, batch.labeled)
        if logits is None:
            return math.nan
        correct += int((largest_logit(logits).cpu() == batch.labels.cpu()).sum())
        count += len(batch.labels)
    return correct / count


def _replaced(model: nn.Module, before: str, name: str) -> ExitStack:
    """Replace the value at one place by that at another, in every forward pass while the context is open."""
    seen: list[Tensor] = []

    def keep(value: Tensor) -> Tensor | None:
        # A later operation may work in place.
        seen[:] = [value.clone()]
        return None

    def replace(value: Tensor) -> Tensor:
        if not seen or seen[0].shape != value.shape or seen[0].dtype != value.dtype:
            raise _DoesNotFit
        return seen[0]

    stack = ExitStack()
    for place, change in ((before, keep), (name, replace)):
        stack.callback(_on_value(model, place, change).remove)
    return stack


def _on_value(model: nn.Module, place: str, change: Callable[[Tensor], Tensor | None]) -> RemovableHandle:
    """Call a function with the value at a place; what it returns takes the value's place."""
    modules = dict(model.named_modules(remove_duplicate=False))

    def output_hook(module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        value = first_feature(output)
        new = None if value is None else change(value)
        if new is None or isinstance(output, Tensor):
            return new
        # A block of a transformer returns the hidden state with others.
        if not isinstance(output, tuple) or output[0] is not value:
            raise _DoesNotFit
        return (new, *output[1:])

    def input_hook(module: nn.Module, args: tuple[Any, ...]) -> Any:
        new = change(args[0]) if args and isinstance(args[0], Tensor) else None
        return None if new is None else (new, *args[1:])

    if place in modules:
        # In front of the network's own hooks, so that they see the new value.
        return modules[place].register_forward_hook(output_hook, prepend=True)
    return modules[place.removesuffix(INPUT)].register_forward_pre_hook(input_hook, prepend=True)
