"""Selection of classes: the statistics of some classes only, for data in which many classes are rare."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from ncollapse.statistics.moments import ClassMoments


class SelectedClasses(NamedTuple):
    """Moments of some classes, and their indices.

    Attributes:
        moments: Moments of the selected classes, in their order.
        classes: Their indices among all classes, shape (K',), ascending. They also select the rows of a classifier.
    """

    moments: ClassMoments
    classes: Tensor


def select_classes(moments: ClassMoments, *, min_per_class: int = 1, max_per_class: int | None = None) -> SelectedClasses:
    r"""Return the moments of the classes with :math:`n_{min} \le n_k \le n_{max}` samples, and their indices.

    This is for vocabularies of tokens, in which many classes never occur and a few make up most of the data. The result is
    the same as if only the selected classes had been collected.

    Args:
        min_per_class: Least number of samples; 1 drops the classes that do not occur.
        max_per_class: Largest number of samples; None sets no limit.

    Raises:
        ValueError: If no class is left.

    Reference:
        Wu & Papyan (2024), NeurIPS, "Linguistic collapse".

    Example:
        >>> moments = ClassMoments.from_batch(torch.eye(3), torch.tensor([0, 0, 2]), num_classes=3)
        >>> select_classes(moments).classes.tolist(), select_classes(moments, min_per_class=2).classes.tolist()
        ([0, 2], [0])
    """
    kept = moments.counts >= min_per_class
    if max_per_class is not None:
        kept &= moments.counts <= max_per_class
    if not bool(kept.any()):
        limit = "any number" if max_per_class is None else max_per_class
        raise ValueError(
            f"select_classes needs a class with {min_per_class} to {limit} samples, got counts from "
            f"{int(moments.counts.min())} to {int(moments.counts.max())}. Widen the range."
        )
    classes = torch.nonzero(kept).flatten()
    return SelectedClasses(moments.select(classes), classes)


@dataclass(frozen=True, eq=False)
class ClassSelection:
    """Some of the K classes that labels count, in ascending order."""

    classes: Tensor
    num_labels: int

    @cached_property
    def positions(self) -> Tensor:
        """Index of every class among the selected ones, -1 for the others, shape (K,)."""
        found = torch.full((self.num_labels,), -1, dtype=torch.int64, device=self.classes.device)
        found[self.classes] = torch.arange(len(self.classes), device=self.classes.device)
        return found

    def rows(self, labels: Tensor) -> Tensor | None:
        """Return the positions of labels of the selected classes, None if these are all."""
        kept = self.renumber(labels) >= 0
        return None if bool(kept.all()) else kept.nonzero().flatten()

    def renumber(self, labels: Tensor) -> Tensor:
        """Return the indices of labels among the selected classes, -1 for others and for what is no class."""
        known = (labels >= 0) & (labels < self.num_labels)
        return torch.where(known, self.positions.to(labels.device)[torch.where(known, labels, 0)], -1)
