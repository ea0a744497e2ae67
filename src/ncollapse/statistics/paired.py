"""Paired moments: class moments of two layers and their within-class cross traces, which determine the line between them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from ncollapse.statistics.batch import LabelGroups, Workspace, check_labels, flatten_features
from ncollapse.statistics.conventions import ClassWeights
from ncollapse.statistics.moments import ClassMoments, first_of_coincident, merge_stacked_groups_


@dataclass(frozen=True, eq=False)
class PairedMoments:
    r"""Joint class moments of two layers x and y of one dimension d, for the straight line :math:`(1-t) x + t y`.

    These are the moments of both layers and, for every class, :math:`\mathrm{tr} S_k^{xy} = \sum_i \langle x_i - \mu_k^x, y_i -
    \mu_k^y \rangle`. O(K d) memory. The cross covariance of the class means follows from the means and is not stored.

    Attributes:
        cross_traces: tr S_k^{xy}, shape (K,), float64; may be negative.
    """

    first: ClassMoments
    last: ClassMoments
    cross_traces: Tensor

    @classmethod
    def empty(cls, num_classes: int, dim: int, device: torch.device | str | None = None) -> PairedMoments:
        """Return the neutral element of ``merge``."""
        first = ClassMoments.empty(num_classes, dim, device)
        return cls(first, ClassMoments.empty(num_classes, dim, device), torch.zeros_like(first.scatter_traces))

    @classmethod
    def from_batch(
        cls, first: Tensor, last: Tensor, labels: Tensor, num_classes: int, workspace: Workspace | None = None
    ) -> PairedMoments:
        """Return the paired moments of one batch, of features x and y of the same samples in the same order.

        Raises:
            ValueError: If the two layers differ in the number of samples or in dimension.
        """
        first, last = flatten_features(first), flatten_features(last)
        if first.shape != last.shape:
            raise ValueError(
                f"A line needs two layers of one shape (N, d), got {tuple(first.shape)} and {tuple(last.shape)}. "
                "Choose layers of one stage."
            )
        labels = check_labels(labels, first.shape[0], num_classes).to(first.device)
        # Both layers side by side, in two walks: their means, and the products of the residuals around these.
        layers, groups = [first, last], LabelGroups.from_labels(labels, num_classes)
        workspace = Workspace() if workspace is None else workspace
        counts = torch.zeros(num_classes, 2, dtype=torch.int64, device=first.device)
        means = torch.zeros(num_classes, 2, first.shape[1], dtype=torch.float64, device=first.device)
        traces, cross = means.new_zeros(num_classes, 2), means.new_zeros(num_classes)
        merge_stacked_groups_(counts, means, traces, layers, groups, workspace)
        for rows, block in workspace.rows(layers):
            block.sub_(torch.index_select(means, 0, labels[rows], out=workspace.room("shift", block)))
            cross.index_add_(0, labels[rows], (block[:, 0] * block[:, 1]).sum(dim=1))
        x, y = (ClassMoments(counts[:, i], means[:, i], traces[:, i]).apart() for i in range(2))
        return cls(x, y, cross)

    def merge(self, other: PairedMoments) -> PairedMoments:
        """Merge the moments of two sets of samples."""
        # The traces of Chan's update for two variables: C = C_a + C_b + (n_a n_b/n) <δx, δy>.
        self.first.check_same_shape(other.first)
        n_a, n_b = self.first.counts.double(), other.first.counts.double()
        delta_x = other.first.means - self.first.means
        delta_y = other.last.means - self.last.means
        between = n_a * n_b / (n_a + n_b).clamp(min=1) * (delta_x * delta_y).sum(dim=1)
        return PairedMoments(
            self.first.merge(other.first), self.last.merge(other.last), self.cross_traces + other.cross_traces + between
        )

    def select(self, classes: Tensor) -> PairedMoments:
        """Return the moments of some classes, by their indices."""
        return PairedMoments(self.first.select(classes), self.last.select(classes), self.cross_traces[classes])

    def to(self, device: torch.device | str) -> PairedMoments:
        """Return the same value on another device."""
        return PairedMoments(self.first.to(device), self.last.to(device), self.cross_traces.to(device))

    def within_cross_trace(self, weights: ClassWeights = "class") -> Tensor:
        r"""Return :math:`w_1 = \sum_k \alpha_k \mathrm{tr} S_k^{xy} / n_k`, the trace of the within-class cross covariance."""
        return self.first.class_weights(weights) @ (self.cross_traces / self.first.counts)

    @cached_property
    def coincident(self) -> tuple[Tensor, Tensor]:
        """Whether the means of two classes are the same up to rounding, at the first layer and at the last, (K, K) each."""
        first, last = (first_of_coincident(moments) for moments in (self.first, self.last))
        return first.unsqueeze(1) == first, last.unsqueeze(1) == last

    @cached_property
    def separations(self) -> tuple[Tensor, Tensor, Tensor]:
        r"""Products of the differences of class means, :math:`\langle \mu_k^a - \mu_j^a, \mu_k^b - \mu_j^b \rangle`.

        For (a, b) = (x, x), (x, y) and (y, y): three matrices (K, K), nan for classes without samples. They are computed one
        class at a time, which needs memory for K·d numbers, and from explicit differences, which keep the digits of near means.
        """

        def products(a: Tensor, b: Tensor) -> Tensor:
            return torch.stack([((a[k] - a) * (b[k] - b)).sum(dim=1) for k in range(len(a))])

        x, y = self.first.class_means, self.last.class_means
        return products(x, x), products(x, y), products(y, y)
