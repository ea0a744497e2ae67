"""Class moments: counts, class means and within-class scatter traces, as values that merge exactly."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import get_args

import torch
from torch import Tensor

from ncollapse.statistics.batch import LabelGroups, Workspace, check_labels, flatten_features
from ncollapse.statistics.conventions import ClassWeights, Convention, convention_parts

# Class means closer than this, relative to their distance from the origin, differ only by the rounding of float64 sums.
_RESOLUTION = 1e-13
# A symmetric product of this many columns or more is computed in blocks, those above the diagonal alone.
_COLUMNS = 128
_LEAST_SQUARE = torch.finfo(torch.float64).tiny / torch.finfo(torch.float64).eps


@dataclass(frozen=True, eq=False)
class ClassMoments:
    r"""Counts, class means and scatter traces of K classes in d dimensions: O(K d) memory, exact merging.

    For every class k these are n_k, :math:`\mu_k`, and :math:`\mathrm{tr} S_k = \sum_i \lVert h_{k,i} - \mu_k \rVert^2` (Chan,
    Golub & LeVeque 1979). Metrics also take those of several layers of one size, stacked along a first dimension of each.

    Attributes:
        counts: n_k, shape (K,), int64.
        means: Class means, shape (K, d), float64; a row of zeros for a class without samples (see ``class_means``).
        scatter_traces: tr S_k, shape (K,), float64.

    Example:
        >>> h = torch.tensor([[1.0, 0.0], [3.0, 0.0], [0.0, 5.0]])
        >>> moments = ClassMoments.from_batch(h, torch.tensor([0, 0, 1]), num_classes=2)
        >>> moments.means.tolist(), moments.scatter_traces.tolist()
        ([[2.0, 0.0], [0.0, 5.0]], [2.0, 0.0])
    """

    counts: Tensor
    means: Tensor
    scatter_traces: Tensor

    @classmethod
    def empty(cls, num_classes: int, dim: int, device: torch.device | str | None = None) -> ClassMoments:
        """Return the neutral element of ``merge``."""
        if num_classes < 1 or dim < 1:
            raise ValueError(
                f"num_classes and dim must be at least 1, got {num_classes} and {dim}. Pass the sizes of the features."
            )
        zeros = torch.zeros(num_classes, dim, dtype=torch.float64, device=device)
        return cls(torch.zeros(num_classes, dtype=torch.int64, device=device), zeros, zeros.new_zeros(num_classes))

    @classmethod
    def from_batch(cls, features: Tensor, labels: Tensor, num_classes: int) -> ClassMoments:
        """Return the moments of one batch."""
        features = flatten_features(features)
        labels = check_labels(labels, features.shape[0], num_classes).to(features.device)
        moments = cls.empty(num_classes, features.shape[1], features.device)
        return moments.merge_groups_(features, LabelGroups.from_labels(labels, num_classes))

    def merge_groups_(self, features: Tensor, groups: LabelGroups, workspace: Workspace | None = None) -> ClassMoments:
        """Merge a batch in place.

        Only for a running total that nobody else holds; it saves copying K × d numbers.

        Args:
            features: Flat features of shape (N, d).
            groups: The batch's classes; its ``new`` are those without samples in this value.
            workspace: Memory to use again for many batches; None allocates some.

        Returns:
            This value.
        """
        workspace = Workspace() if workspace is None else workspace
        counts, means, traces = (tensor.unsqueeze(1) for tensor in (self.counts, self.means, self.scatter_traces))
        merge_stacked_groups_(counts, means, traces, [features], groups, workspace)
        return self

    def merge(self, other: ClassMoments) -> ClassMoments:
        """Merge the moments of two sets of samples."""
        # Chan, Golub & LeVeque: with n = n_a + n_b and δ = m_b - m_a, m = m_a + δ n_b/n and tr S = tr S_a + tr S_b +
        # (n_a n_b/n) |δ|². The usual formula, sum |h|² - n |mean|², is a difference of large numbers: for features collapsed to
        # 1e-8 of their distance from the origin it keeps none of float64's digits. Here every term is non-negative, so nothing
        # cancels, wherever the origin is and in whatever order batches, streams and processes are merged.
        self.check_same_shape(other)
        n_a, n_b = self.counts.double(), other.counts.double()
        delta = other.means - self.means
        share = n_b / (n_a + n_b).clamp(min=1)
        # A side without samples has share 0 or 1 and weight 0 in the cross term. Its mean is arbitrary, hence the where.
        means = torch.where((n_a > 0).unsqueeze(1), self.means + delta * share.unsqueeze(1), other.means)
        traces = self.scatter_traces + other.scatter_traces + n_a * share * delta.square().sum(dim=1)
        return ClassMoments(self.counts + other.counts, means, traces)

    def check_same_shape(self, other: ClassMoments) -> None:
        """Check that two values may be merged.

        Raises:
            ValueError: If K or d differ.
        """
        if self.means.shape != other.means.shape:
            raise ValueError(
                f"Moments to merge must have the same (K, d), got {tuple(self.means.shape)} and {tuple(other.means.shape)}. "
                "Measure the same layer with the same num_classes."
            )

    def to(self, device: torch.device | str) -> ClassMoments:
        """Return the same value on another device."""
        return ClassMoments(self.counts.to(device), self.means.to(device), self.scatter_traces.to(device))

    def apart(self) -> ClassMoments:
        """Return the same value in memory of its own, if it is part of a larger one."""
        return ClassMoments(self.counts.contiguous(), self.means.contiguous(), self.scatter_traces.contiguous())

    def select(self, classes: Tensor) -> ClassMoments:
        """Return the moments of some classes.

        Args:
            classes: Their indices, shape (K',), int64.

        Returns:
            Moments of K' classes, the same as if only these had been collected.
        """
        return ClassMoments(self.counts[classes], self.means[classes], self.scatter_traces[classes])

    @property
    def num_classes(self) -> int:
        """Number of classes, K."""
        return self.means.shape[-2]

    @property
    def dim(self) -> int:
        """Dimension of the features, d."""
        return self.means.shape[-1]

    @property
    def num_samples(self) -> int:
        """N, the sum of the counts."""
        return int(self.counts.sum())

    @property
    def class_means(self) -> Tensor:
        """Class means (K, d), with rows of nan for classes without samples, so that they cannot be used unnoticed."""
        return torch.where((self.counts > 0).unsqueeze(-1), self.means, math.nan)

    @property
    def class_variances(self) -> Tensor:
        r""":math:`\mathrm{Var}_k = \mathrm{tr} S_k / n_k`, shape (K,); nan for classes without samples."""
        return self.scatter_traces / self.counts

    def class_weights(self, weights: ClassWeights = "class") -> Tensor:
        """Return the weights of the classes, which sum to one, shape (K,).

        Raises:
            ValueError: If the name is unknown.
        """
        if weights not in get_args(ClassWeights):
            raise ValueError(f"weights must be 'class' or 'sample', got {weights!r}. Conventions have names of their own.")
        if weights == "sample":
            return self.counts.double() / self.counts.sum(dim=-1, keepdim=True)
        return self.means.new_full(self.counts.shape, 1.0 / self.num_classes)

    def global_mean(self, weights: ClassWeights = "class") -> Tensor:
        r"""Return :math:`\mu_\alpha = \sum_k \alpha_k \mu_k`, shape (d,); nan for "class" if a class has no samples."""
        return weighted_sum(self.class_weights(weights), self.means if weights == "sample" else self.class_means)

    def centered_means(self, center: ClassWeights = "class") -> Tensor:
        r"""Return the centered class means :math:`\mu_k - \mu_\alpha`, shape (K, d); ``center`` weighs the global mean."""
        # The first class mean is subtracted first, to keep a large common offset out of the weighted sum.
        shifted = self.class_means - self.means[..., :1, :]
        return shifted.sub_(weighted_sum(self.class_weights(center), shifted).unsqueeze(-2))

    def within_trace(self, weights: ClassWeights = "class") -> Tensor:
        r"""Return :math:`\mathrm{tr} \Sigma_W = \sum_k \alpha_k \mathrm{tr} S_k / n_k`, 0-d; 0 at exact collapse."""
        return (self.class_weights(weights) * self.class_variances).sum(dim=-1)

    def between_trace(self, convention: Convention = "class") -> Tensor:
        r"""Return :math:`\mathrm{tr} \Sigma_B = \sum_k \alpha_k \lVert \mu_k - \mu \rVert^2`, weighted as in the convention."""
        parts = convention_parts(convention)
        squares = self.centered_means(parts.center).square().sum(dim=-1)
        return (self.class_weights(parts.between) * squares).sum(dim=-1)

    @property
    def rounding_floor(self) -> Tensor:
        """The squared distance below which two class means differ only by the rounding of their float64 sums."""
        # Squares below the second term have lost digits to the end of float64's range.
        return torch.clamp(_RESOLUTION**2 * self.means.square().sum(dim=-1).amax(dim=-1), min=_LEAST_SQUARE)


def weighted_sum(weights: Tensor, rows: Tensor) -> Tensor:
    """Compute the weighted sum of rows (..., K, d), shape (..., d)."""
    return (weights.unsqueeze(-2) @ rows).squeeze(-2)


def symmetric_product(left: Tensor, right: Tensor) -> Tensor:
    """Compute AᵀB, of (..., N, d), that is known to be symmetric."""
    size = left.shape[-1]
    product = left.new_empty(*left.shape[:-2], size, size)
    for start in range(0, size, _COLUMNS):
        end = min(start + _COLUMNS, size)
        product[..., start:end, start:] = left[..., start:end].mT @ right[..., start:]
        product[..., end:, start:end] = product[..., start:end, end:].mT
    return product


def first_of_coincident(moments: ClassMoments) -> Tensor:
    """Return for each class the first one whose mean is the same up to rounding, shape (..., K): mostly the class itself."""
    # Equal means have equal projections on any direction, so they are neighbors in the order of their projections on one. Then
    # K differences are enough, instead of K² distances.
    means = moments.means - moments.means[..., :1, :]
    direction = torch.randn(moments.dim, generator=torch.Generator().manual_seed(0), dtype=means.dtype).to(means.device)
    order = torch.argsort(means @ direction, dim=-1)
    near = means.gather(-2, order.unsqueeze(-1).expand_as(means)).diff(dim=-2).square().sum(dim=-1)
    apart = (near > moments.rounding_floor.unsqueeze(-1)).cumsum(-1)
    group = torch.zeros_like(order).scatter_(-1, order[..., 1:], apart)
    labels = torch.arange(moments.num_classes, device=order.device).expand_as(order)
    return torch.full_like(order, moments.num_classes).scatter_reduce_(-1, group, labels, "amin").gather(-1, group)


def merge_stacked_groups_(
    counts: Tensor, means: Tensor, traces: Tensor, layers: Sequence[Tensor], groups: LabelGroups, workspace: Workspace
) -> None:
    """Merge one batch of L layers of features (N, d) into counts (K, L), means (K, L, d) and scatter traces (K, L)."""
    # Residuals are taken around the running mean, at first around a sample of the class. On the scale of the total scatter
    # it is never far from the batch's own mean, so that the correction below loses at most log10(n_batch/n_before) digits.
    for index, features in enumerate(layers if len(groups.new) else ()):
        means[groups.new, index] = features[groups.first].double()
    sums, squares = _shifted_sums(layers, groups, means, workspace)
    present = groups.present
    counts.index_add_(0, present, groups.counts.unsqueeze(1).expand(-1, len(layers)))
    seen = counts.index_select(0, present)
    moved = sums.div_(seen.clamp(min=1).unsqueeze(-1))
    means.index_add_(0, present, moved)
    traces.index_add_(0, present, squares - seen * torch.linalg.vector_norm(moved, dim=-1).square())


def _shifted_sums(layers: Sequence[Tensor], groups: LabelGroups, shift: Tensor, workspace: Workspace) -> tuple[Tensor, Tensor]:
    """Sum the residuals around a shift per class, (P, L, d), and their squared norms, (P, L), in one traversal."""
    sums = shift.new_zeros(len(groups.present), *shift.shape[1:])
    norms = shift.new_empty(len(groups.labels), len(layers))
    for rows, block in workspace.rows(layers):
        shifts = workspace.room("shift", block)
        block.sub_(torch.index_select(shift, 0, groups.labels[rows], out=shifts))
        sums.index_add_(0, groups.index[rows], block)
        torch.linalg.vector_norm(block, dim=-1, out=norms[rows])
    return sums, shift.new_zeros(sums.shape[:-1]).index_add_(0, groups.index, norms.square_())
