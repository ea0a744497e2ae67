"""The Gram matrix of a population's class means, estimated from a sample, and standard errors of what follows from it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from ncollapse.statistics.conventions import ClassWeights, Convention, ConventionParts, convention_parts
from ncollapse.statistics.moments import ClassMoments
from ncollapse.statistics.parts import PARTS, ClassParts

# What is nearer to zero than this many standard errors is not told apart from it.
RESOLVED = 4.0

# A number from the Gram matrix (K, K) and the variances (K,).
Statistic = Callable[[Tensor, Tensor], Tensor]


class PopulationEstimate(NamedTuple):
    """An estimate of a population's value."""

    value: Tensor  # 0-d tensor, float64; nan if undefined
    standard_error: Tensor | None  # standard error of the value, 0-d tensor; None if it is not estimated
    flags: tuple[str, ...] = ()  # keys of `FLAGS`


FEW_SAMPLES = PopulationEstimate(torch.tensor(math.nan), None, ("few_samples",))
NOISE_ONLY = PopulationEstimate(torch.tensor(math.nan), None, ("noise_only",))


@dataclass(frozen=True, eq=False)
class Population:
    """Unbiased estimates of the class means' Gram matrix and of the variances, with their changes if samples are left out."""

    # A class mean of n_k samples carries noise, E|m_k|² = |μ_k|² + τ_k with τ_k = tr Σ_k / n_k, which is independent of that of
    # the other classes.

    counts: Tensor  # n_k, shape (K,), float64
    means: Tensor  # class means around a common center, shape (K, d)
    variances: Tensor  # tr S_k / (n_k - 1), unbiased for tr Σ_k, shape (K,)
    part_means: Tensor  # means of the parts of the classes around that center, shape (4, K, d)
    shifts: Tensor  # changes of the class means if a part is left out, shape (4, K, d); 0 for an empty part
    variance_shifts: Tensor  # changes of the variances, shape (4, K)
    noise_shifts: Tensor  # changes of τ, shape (4, K)
    convention: Convention  # class weights of the covariances

    @classmethod
    def from_parts(cls, moments: ClassMoments, parts: ClassParts, convention: Convention = "class") -> Population:
        """Prepare the estimates from the moments of all samples, at least two per class, and of their parts."""
        center, n = moments.means.mean(dim=0), moments.counts.double()
        means, variances = moments.means - center, moments.scatter_traces / (n - 1)
        counts, scatters = (x.view(-1, PARTS).T.double() for x in (parts.moments.counts, parts.moments.scatter_traces))
        part_means = parts.moments.means.view(-1, PARTS, moments.dim).transpose(0, 1) - center
        left = n - counts
        share = torch.where(left > 0, counts / left, 0.0)
        offsets = means - part_means
        # Chan's update backwards, for the samples that are left.
        scatter = (moments.scatter_traces - scatters - n * share * offsets.square().sum(dim=2)).clamp(min=0)
        changed = (counts > 0) & (left > 1)
        fewer = torch.where(changed, scatter / (left - 1), variances)
        noise_shifts = torch.where(changed, fewer / left, variances / n) - variances / n
        shifts = share.unsqueeze(2) * offsets
        return cls(n, means, variances, part_means, shifts, fewer - variances, noise_shifts, convention)

    @property
    def has_parts(self) -> bool:
        """Whether no part of a class is empty."""
        return bool((self.counts >= PARTS).all())

    @property
    def num_classes(self) -> int:
        """Number of classes, K."""
        return len(self.counts)

    @cached_property
    def gram(self) -> Tensor:
        r"""The unbiased Gram matrix :math:`M M^T - \mathrm{diag}(\tau)` of class means around the common center."""
        return self.means @ self.means.T - torch.diag(self.variances / self.counts)

    @cached_property
    def centering(self) -> Tensor:
        r""":math:`I - \frac{1}{K} 1 1^T`."""
        return torch.eye(self.num_classes, dtype=torch.float64) - 1.0 / self.num_classes

    @property
    def parts(self) -> ConventionParts:
        """The parts of the convention."""
        return convention_parts(self.convention)

    @cached_property
    def around(self) -> Tensor:
        r""":math:`I - 1 \beta^T`, which takes class means around the global mean of the convention."""
        return torch.eye(self.num_classes, dtype=torch.float64) - self._weights(self.parts.center)

    @cached_property
    def weighting(self) -> Tensor:
        r"""Q with :math:`\Sigma_B = (Q M)^T Q M`, shape (K, K)."""
        return self._weights(self.parts.between).sqrt().unsqueeze(1) * self.around

    def within(self, variances: Tensor) -> Tensor:
        """Compute tr Σ_W from the variances of the classes."""
        return self._weights(self.parts.within) @ variances

    def between(self, gram: Tensor) -> Tensor:
        """Compute tr Σ_B from a Gram matrix."""
        return ((self.weighting @ gram) * self.weighting).sum()

    def _weights(self, name: ClassWeights) -> Tensor:
        return self.counts / self.counts.sum() if name == "sample" else torch.full_like(self.counts, 1.0 / self.num_classes)

    def squared_norm(self, weighting: Tensor) -> tuple[Tensor, Tensor]:
        r"""Estimate :math:`\lVert Q G Q^T \rVert_F^2` without bias, and its changes if a part is left out, shape (4, K)."""
        # The square of an unbiased G is biased. A product of independent estimates is not: <M_a M_b', M_c M_d'> of four parts,
        # over the three ways to pair them. For the error a part of one class is replaced by the mean of its other parts.
        parts = self.part_means.clone().requires_grad_()
        a, b, c, d = (weighting @ part for part in parts)
        value = (_product(a, b, c, d) + _product(a, c, b, d) + _product(a, d, b, c)) / 3
        (slope,) = torch.autograd.grad(value, parts)
        return value.detach(), ((self.means + self.shifts - self.part_means) * slope).sum(dim=2)

    def estimate(self, statistic: Statistic, extra: Tensor | float = 0.0) -> PopulationEstimate:
        """Return a function of the Gram matrix and the variances with its standard error by the jackknife."""
        # One part of one class is left out at a time, since all samples are independent; `extra` are changes of shape (4, K)
        # that come on top of those of `evaluate`.
        value, changes = self.evaluate(statistic)
        return PopulationEstimate(value, jackknife(changes + extra))

    def evaluate(self, statistic: Statistic) -> tuple[Tensor, Tensor]:
        """Return a function of the Gram matrix and the variances, and its changes if a part is left out, shape (4, K)."""
        # The change of the Gram matrix is exact, that of the function is its derivative times it.
        gram, variances = self.gram.clone().requires_grad_(), self.variances.clone().requires_grad_()
        value = statistic(gram, variances)
        slopes = torch.autograd.grad(value, (gram, variances), materialize_grads=True, allow_unused=True)
        return value.detach(), self.changes((slopes[0] + slopes[0].T) / 2) + slopes[1] * self.variance_shifts

    def changes(self, slope: Tensor) -> Tensor:
        """Compute the changes of <A, Gram matrix> for a symmetric A if a part is left out, shape (4, K)."""
        along = 2 * (self.shifts * (slope @ self.means)).sum(dim=2)
        return along + slope.diagonal() * self.square_shifts

    @cached_property
    def square_shifts(self) -> Tensor:
        """Changes of the Gram matrix's diagonal beyond those of first order, shape (4, K)."""
        return self.shifts.square().sum(dim=2) - self.noise_shifts

    @cached_property
    def noise_overlap(self) -> Tensor:
        r"""Estimates of :math:`\mathrm{tr}(\Sigma_k \Sigma_l) / (n_k n_l)`, (K, K), with one effective dimension for all."""
        rows = self.shifts.transpose(0, 1).flatten(0, 1)
        sizes, others = self.shifts.square().sum(dim=(0, 2)), self.centering < 0
        squares = (rows @ rows.T).square().view(self.num_classes, PARTS, self.num_classes, PARTS).sum(dim=(1, 3))
        tau = self.variances / self.counts
        return (squares[others].sum() / sizes.outer(sizes)[others].sum()).nan_to_num() * tau.outer(tau)

    @cached_property
    def inner_shifts(self) -> Tensor:
        """Changes of the inner products of a class mean (second axis) with all others (third), (4, K, K), around the center."""
        return self.shifts @ (self.around @ self.means).T


def jackknife(changes: Tensor) -> Tensor:
    """Combine the changes by left-out parts, shape (4, K, ...), to a standard error."""
    return ((PARTS - 1) / PARTS * (changes - changes.mean(dim=0)).square().sum(dim=(0, 1))).sqrt()


def jackknife_by_class(changes: Tensor) -> Tensor:
    """Combine changes of shape (4, ...) by the left-out parts of each class to variances."""
    return (PARTS - 1) / PARTS * (changes - changes.mean(dim=0)).square().sum(dim=0)


def without_overlap(variance: Tensor, overlap: Tensor) -> Tensor:
    """Subtract from a variance by the jackknife what the noise of both factors adds, at most half of it."""
    # A change is the product of a noisy mean and a noisy shift. What the noise of both adds is twice what it should be.
    return torch.maximum(variance - overlap, variance / 2)


def _product(a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
    left, right = a @ b.T, c @ d.T
    return ((left + left.T) * (right + right.T)).sum() / 4
