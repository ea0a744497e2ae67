"""The logits in a network's output: which of the tensors that it returns decides the class, and how."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor


class Logits(NamedTuple):
    """Where a network's logits are: the position of a returned tensor, and whether it holds one probability of two classes."""

    position: int
    probability: bool = False

    def read(self, output: Any, num_classes: int | None, tokens: bool) -> Tensor | None:
        """Return logits (N, K), or (N, T, K) of tokens, from a network's output, None if there are none."""
        returned = returned_tensors(output)[self.position :][:1]
        if not returned:
            return None
        return class_logits(returned[0].detach() - 0.5 if self.probability else returned[0].detach(), num_classes, tokens)


def returned_tensors(output: Any) -> list[Tensor]:
    """Return the tensors in a network's output that may be logits, those named "logits" first."""
    parts: Sequence[Any] = [output]
    if is_dataclass(output) and not isinstance(output, type | Mapping):
        output = {item.name: getattr(output, item.name) for item in fields(output)}
    if isinstance(output, Mapping):
        parts = [output[key] for key in sorted(output, key=lambda key: key != "logits")]
    elif isinstance(output, tuple | list):
        parts = output
    dense = (part for part in parts if isinstance(part, Tensor) and not part.is_nested)
    return [part for part in dense if part.is_floating_point() and part.ndim >= 1]


def class_logits(output: Tensor, num_classes: int | None, tokens: bool) -> Tensor | None:
    """Return logits (N, K), or (N, T, K) of tokens, if a returned tensor has their shape; one logit z is (-z/2, z/2)."""
    if tokens and output.ndim == 4:
        output = output.flatten(2).transpose(1, 2)  # (N, K, H, W): pixels are tokens
    dims = 3 if tokens else 2
    while output.ndim > dims and output.shape[-1] == 1 and not (output.ndim == dims + 1 and tokens):
        output = output.squeeze(-1)
    if output.ndim == dims and (num_classes is None or output.shape[-1] == num_classes):
        return output
    # One logit for two classes comes with a last dimension of one, or without it.
    if num_classes != 2 or not (output.ndim == dims - 1 or (output.ndim == dims and output.shape[-1] == 1)):
        return None
    half = output.reshape(*output.shape[: dims - 1], 1) / 2
    return torch.cat([-half, half], dim=-1)


def is_single(output: Tensor, num_classes: int | None, tokens: bool) -> bool:
    """Return whether a returned tensor holds one number for two classes."""
    return num_classes == 2 and not (output.ndim == (3 if tokens else 2) and output.shape[-1] == 2)


def before_probabilities(output: Tensor) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Yield a returned tensor, and its logits if it may hold probabilities: the kind, the logits, and which are usable."""
    yield "", output, torch.isfinite(output)
    if bool((output >= 0).all() and (output <= 1).all()):
        total = output.double().sum(dim=-1)
        if output.ndim > 1 and output.shape[-1] > 1 and torch.allclose(total, torch.ones_like(total), atol=1e-2):
            yield "softmax", output.log(), output > 0
        else:
            # Close to 1 the rounding of a probability is large in its logit.
            yield "sigmoid", output.logit(), (output > 0) & (output < 0.95)
