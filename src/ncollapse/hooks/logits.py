"""The logits in a network's output: which of the tensors that it returns decides the class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import Tensor


def returned_tensors(output: Any) -> list[Tensor]:
    """Return the tensors in a network's output that may be logits, those named "logits" first."""
    parts: Sequence[Any] = [output]
    if is_dataclass(output) and not isinstance(output, type) and not isinstance(output, Mapping):
        output = {item.name: getattr(output, item.name) for item in fields(output)}
    if isinstance(output, Mapping):
        parts = [output[key] for key in sorted(output, key=lambda key: key != "logits")]
    elif isinstance(output, tuple | list):
        parts = output
    dense = (part for part in parts if isinstance(part, Tensor) and not part.is_nested)
    return [part for part in dense if part.is_floating_point() and part.ndim >= 1]


def class_logits(output: Tensor, num_classes: int | None, tokens: bool) -> Tensor | None:
    """Return logits (N, K), or (N, T, K) of tokens, if a returned tensor has their shape; one logit z is (-z/2, z/2)."""
    dims = 3 if tokens else 2
    if output.ndim == dims and (num_classes is None or output.shape[-1] == num_classes):
        return output
    # One logit for two classes comes with a last dimension of one, or without it.
    single = output.ndim == dims - 1 or (output.ndim == dims and output.shape[-1] == 1)
    if num_classes != 2 or not single:
        return None
    half = output.reshape(*output.shape[: dims - 1], 1) / 2
    return torch.cat([-half, half], dim=-1)
