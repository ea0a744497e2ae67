"""Conversion between a dataclass of tensors and a flat list of these tensors."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import fields, is_dataclass
from functools import cache
from typing import Any, get_type_hints

import torch
from torch import Tensor

# Dataclasses may be nested; a tensor by itself counts as a list of one. A field may be None: its class is known from the
# annotations.


def num_tensors(kind: Any) -> int:
    """Count the tensors that a class has."""
    parts = _fields_of(kind)
    return 1 if parts is None else sum(num_tensors(part) for _, part in parts)


def tensors_of(value: Any) -> Iterable[Tensor | None]:
    """Yield all tensors of a value, in the order of its fields."""
    if not is_dataclass(value):
        yield value
        return
    for item in fields(value):
        yield from tensors_of(getattr(value, item.name))


def from_tensors(kind: Any, tensors: Iterator[Tensor | None]) -> Any:
    """Build a value of a class from its tensors."""
    parts = _fields_of(kind)
    return next(tensors) if parts is None else kind(**{name: from_tensors(part, tensors) for name, part in parts})


def on_cpu(kind: Any, value: Any) -> Any:
    """Return a value with its tensors on the CPU."""
    return from_tensors(kind, (None if tensor is None else tensor.cpu() for tensor in tensors_of(value)))


def stacked_tensors(kind: Any, values: Sequence[Any]) -> Any:
    """Stack each tensor of several values of a class along a first dimension; a field that one lacks, all lack."""
    columns = zip(*map(tensors_of, values), strict=True)
    return from_tensors(kind, (None if column[0] is None else torch.stack(column) for column in columns))


@cache
def _fields_of(kind: Any) -> list[tuple[str, Any]] | None:
    """Return names and classes of a dataclass's fields; None for a tensor."""
    if not is_dataclass(kind):
        return None
    hints = get_type_hints(kind)
    return [(item.name, hints[item.name]) for item in fields(kind)]
