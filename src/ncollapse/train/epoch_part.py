"""The batches of an epoch that a stopped training has seen: what the next process needs to end it with the same bits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ncollapse.train.parallel import Team

# Of one batch on this process: its share of the loss, the norm of the gradient, how many of its samples were right.
Step = tuple[Tensor, Tensor, Tensor]


@dataclass(frozen=True, eq=False)
class EpochPart:
    """One number for each batch that was trained on, in order.

    Attributes:
        losses: Mean loss of each batch, shape (B,), float64.
        norms: Norm of each gradient before clipping, shape (B,), float64.
        correct: Correctly classified samples of each batch, shape (B,), int64.
    """

    losses: Tensor
    norms: Tensor
    correct: Tensor

    @classmethod
    def empty(cls) -> EpochPart:
        """Return the part of an epoch that has not begun."""
        none = torch.zeros(0, dtype=torch.float64)
        return cls(none, none, none.long())

    def __len__(self) -> int:
        return len(self.losses)

    def followed_by(self, steps: Sequence[Step], team: Team) -> EpochPart:
        """Append steps, added up over all processes."""
        if not steps:
            return self
        losses, norms, correct = (torch.stack(numbers) for numbers in zip(*steps, strict=True))
        # Shares of a loss in float32 add up without rounding in float64: in any order, and in parts, to the same bits.
        new = EpochPart(team.sum(losses.double()).cpu(), norms.double().cpu(), team.sum(correct).cpu())
        return replace(
            new,
            losses=torch.cat([self.losses, new.losses]),
            norms=torch.cat([self.norms, new.norms]),
            correct=torch.cat([self.correct, new.correct]),
        )


class TrainingStopped(Exception):
    """Training has stopped between two batches because it was asked to.

    Attributes:
        epoch: The epoch that is not finished.
        part: Its batches so far; none if it had not begun.
        num_batches: Batches in an epoch.
    """

    def __init__(self, epoch: int, part: EpochPart, num_batches: int) -> None:
        super().__init__(f"stopped in epoch {epoch}, after batch {len(part)} of {num_batches}")
        self.epoch, self.part, self.num_batches = epoch, part, num_batches
