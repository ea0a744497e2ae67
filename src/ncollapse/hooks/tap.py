"""A tap: a module of a network, and how its output becomes one row of features per sample."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

Pool = Literal["flatten", "mean", "cls", "last_token"]

# Ends the name of a tap that reads what a module takes instead of what it returns.
INPUT = ".input"


class Placement(NamedTuple):
    """Where the rows of the labels are in a layer's output.

    Attributes:
        axis: The dimension that counts the samples.
        first: The first position with a label, if every token has one.
        extra: How many positions it has beyond those of the labels.
    """

    axis: int = 0
    first: int = 0
    extra: int = 0


@dataclass(frozen=True)
class Tap:
    """A module to measure, and how its output becomes one row of features per sample.

    Attributes:
        name: A module's name as in ``model.named_modules()``, or a pattern: "*" stops at a dot, "**" does not. "fc.input" is
            what the module "fc" takes, for example after an activation that is no module.
        pool: "flatten" uses all numbers of a sample. "mean" averages over positions, in float32 or finer: over the tokens
            (N, T, D) that the attention mask marks, or over pixels (N, C, H, W). "cls" reads the first token,
            "last_token" the last one that the attention mask marks. A function maps the output to (N, d).
    """

    name: str
    pool: Pool | Callable[[Tensor], Tensor] = "flatten"

    @property
    def label(self) -> str:
        """The layer's name in tables."""
        if self.pool == "flatten":
            return self.name
        return f"{self.name}:{self.pool if isinstance(self.pool, str) else getattr(self.pool, '__name__', 'function')}"

    def read(self, output: Tensor, mask: Tensor | None) -> Tensor:
        """Return one row per sample.

        Args:
            output: The module's output, shape (N, ...).
            mask: Which tokens are real, shape (N, T), or None for all.

        Returns:
            Shape (N, d). For "flatten" a view of the output if its memory layout allows.

        Raises:
            ValueError: If the output has no positions to pool, or a function does not return (N, d).
        """
        if callable(self.pool):
            rows = self.pool(output)
            if not isinstance(rows, Tensor) or rows.ndim != 2:
                got = tuple(rows.shape) if isinstance(rows, Tensor) else type(rows).__name__
                raise ValueError(
                    f"The pool of tap {self.label!r} must return a tensor of shape (N, d), got {got}. Change the function."
                )
            return rows
        if self.pool == "flatten":
            return output.flatten(1)
        if self.pool == "mean" and output.ndim == 4:
            return output.mean(dim=(2, 3), dtype=_precision(output))
        if output.ndim != 3:
            raise ValueError(
                f"Tap {self.label!r} needs an output of shape (N, T, D), got {tuple(output.shape)}. Use pool='flatten'."
            )
        return _POOLS[self.pool](output, None if mask is None else self._mask_of(output, mask.to(output.device) != 0))

    def _mask_of(self, output: Tensor, mask: Tensor) -> Tensor:
        """Return which positions are real: further ones, as of virtual tokens, are in front."""
        further = output.shape[1] - mask.shape[1]
        if further < 0 and self.pool != "cls" and not bool(mask.all()):
            raise ValueError(
                f"Tap {self.label!r} needs one position per token ({mask.shape[1]}) to know which are padding, got "
                f"{output.shape[1]}. Pass a function: Tap({self.name!r}, pool=function)."
            )
        return torch.cat([mask.new_ones(len(mask), max(further, 0)), mask], dim=1)[:, : output.shape[1]]


def _mean(output: Tensor, mask: Tensor | None) -> Tensor:
    if mask is None:
        return output.mean(dim=1, dtype=_precision(output))
    # Selected by the mask, not multiplied with it: padding may contain inf or nan.
    return torch.where(mask.unsqueeze(2), output, 0).sum(dim=1, dtype=_precision(output)) / mask.sum(dim=1, keepdim=True)


def _precision(output: Tensor) -> torch.dtype:
    """Return float32 or finer, so that a mean of half-precision features is not rounded to half precision."""
    return torch.promote_types(output.dtype, torch.float32)


def _cls(output: Tensor, mask: Tensor | None) -> Tensor:
    return output[:, 0].clone()  # a view would keep all tokens in memory


def _last_token(output: Tensor, mask: Tensor | None) -> Tensor:
    last = torch.full(output.shape[:1], output.shape[1] - 1, device=output.device)
    if mask is not None:
        positions = torch.arange(mask.shape[1], device=mask.device)
        last = torch.where(mask, positions, -1).amax(dim=1)
    return output[torch.arange(len(output), device=output.device), last]


_POOLS = {"mean": _mean, "cls": _cls, "last_token": _last_token}
