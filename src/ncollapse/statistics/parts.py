"""Interleaved parts of every class: independent quarters of the samples, for estimates of a population and their errors."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ncollapse.statistics.batch import LabelGroups, Workspace, check_labels, flatten_features
from ncollapse.statistics.moments import ClassMoments

PARTS = 4


def part_labels(labels: Tensor, before: Tensor) -> Tensor:
    """Return labels in [0, 4K) that also name each sample's part: its rank within its class, modulo 4."""
    return labels * PARTS + ranks_in_class(labels, before) % PARTS


def ranks_in_class(labels: Tensor, before: Tensor) -> Tensor:
    """Return for each sample of a batch how many of its class came before it; ``before`` counts earlier batches, (K,)."""
    order = torch.argsort(labels, stable=True)
    sizes = torch.bincount(labels, minlength=len(before))
    ranks = torch.empty_like(order)
    ranks[order] = torch.arange(len(order), device=order.device) - (sizes.cumsum(0) - sizes)[labels[order]]
    return before[labels] + ranks


@dataclass(frozen=True, eq=False)
class ClassParts:
    r"""Moments of four interleaved parts of every class: the i-th sample of a class belongs to part i modulo 4.

    The parts of a class are of equal size up to one sample, whatever the order of the loader, and independent of one another if
    the samples are. Memory for 4·K·d numbers; merging is exact.

    Attributes:
        moments: Moments of 4K groups; part p of class k is group 4k + p.

    Example:
        >>> parts = ClassParts.from_batch(torch.arange(6.0)[:, None], torch.zeros(6, dtype=torch.int64), num_classes=1)
        >>> parts.moments.counts.tolist(), parts.moments.means.flatten().tolist()
        ([2, 2, 1, 1], [2.0, 3.0, 2.0, 3.0])
    """

    moments: ClassMoments

    @classmethod
    def empty(cls, num_classes: int, dim: int, device: torch.device | str | None = None) -> ClassParts:
        """Return the neutral element of ``merge``."""
        return cls(ClassMoments.empty(PARTS * num_classes, dim, device))

    @classmethod
    def from_batch(cls, features: Tensor, labels: Tensor, num_classes: int) -> ClassParts:
        """Return the parts of one batch.

        Args:
            features: Shape (N, ...), any floating dtype; trailing dimensions are flattened.
            labels: Class indices in [0, K), shape (N,).
        """
        features = flatten_features(features)
        labels = check_labels(labels, features.shape[0], num_classes).to(features.device)
        before = torch.zeros(num_classes, dtype=torch.int64, device=features.device)
        parts = cls.empty(num_classes, features.shape[1], features.device)
        return parts.add_(features, part_labels(labels, before))

    def add_(self, features: Tensor, labels: Tensor, workspace: Workspace | None = None) -> ClassParts:
        """Add flat features whose labels name their parts to this value's own buffers, and return it."""
        groups = LabelGroups.from_labels(labels, self.moments.num_classes, self.moments.counts)
        self.moments.merge_groups_(features, groups, workspace)
        return self

    def merge(self, other: ClassParts) -> ClassParts:
        """Merge the parts of two sets of samples, the smallest parts of a class with the largest of the other set."""
        # Which part is which is arbitrary. Each set began with part 0, so that the parts of many small sets, as of processes
        # with few samples of a class each, would be unequal if they were merged by number.
        own, more = self.moments, other.moments
        own.check_same_shape(more)
        up = own.counts.view(-1, PARTS).argsort(dim=1, stable=True)
        down = more.counts.view(-1, PARTS).argsort(dim=1, descending=True, stable=True)
        first = torch.arange(0, own.num_classes, PARTS, device=own.counts.device).unsqueeze(1)
        index = (first + torch.empty_like(down).scatter_(1, up, down)).flatten()
        return ClassParts(own.merge(more.select(index)))

    def select(self, classes: Tensor) -> ClassParts:
        """Return the parts of some classes, by their indices."""
        groups = classes.unsqueeze(1) * PARTS + torch.arange(PARTS, device=classes.device)
        return ClassParts(self.moments.select(groups.flatten()))

    def to(self, device: torch.device | str) -> ClassParts:
        """Return the same value on another device."""
        return ClassParts(self.moments.to(device))
