"""CDNV of a population, from noisy squared distances of class means, and the ends of an interval for it."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ncollapse.metrics.population import (
    NOISE_ONLY,
    RESOLVED,
    Population,
    PopulationEstimate,
    jackknife_by_class,
    without_overlap,
)
from ncollapse.statistics.parts import PARTS

# The prior of squared distances is at least and at most this wide, as variance over squared mean.
_NARROWEST, _WIDEST = 0.01, 0.8
_PAIRS = 2**14
# Steps to the largest CDNV within the errors of distances, and the growth by which they end.
_STEPS, _CLOSE = 30, 1e-3


def cdnv(p: Population) -> PopulationEstimate:
    """Return an estimate of CDNV, with the expected inverse of each squared distance of class means given its estimate."""
    # The inverse of a noisy distance is biased without bound. So the distances are taken as draws of a Gamma distribution whose
    # mean and variance are those of the estimated distances less the noise, and each inverse is averaged over what its own
    # estimate leaves possible (empirical Bayes). Where noise is small the estimate alone decides.
    if not _mean_distance(p) > 0:
        return NOISE_ONLY
    k, j = _pairs(p)
    noise = _distance_noise(p)[k, j]

    def statistic(gram: Tensor, variances: Tensor) -> Tensor:
        squares = _distances(gram)[k, j]
        mean = squares.mean()
        width = ((squares.var(correction=0) - noise.mean()) / mean.square()).clamp(_NARROWEST, _WIDEST)
        blocks = [(squares[i : i + _PAIRS] / mean, noise[i : i + _PAIRS] / mean.square()) for i in range(0, len(k), _PAIRS)]
        inverse = torch.cat([_Recomputed.apply(*block, width) for block in blocks])  # type: ignore[no-untyped-call]
        return ((variances[k] + variances[j]) / 2 * inverse).mean() / mean

    estimate = p.estimate(statistic)
    # A distance that is not told apart from 0 may be arbitrarily small, and then its inverse is most of the mean.
    if bool((_distances(p.gram)[k, j] < RESOLVED * noise.sqrt()).any()):
        return PopulationEstimate(estimate.value, None, ("unresolved",))
    return estimate


def cdnv_low(p: Population) -> PopulationEstimate:
    """Return the lower end of an interval for CDNV, which holds for any class means."""
    # A tangent lies below the convex 1/D, 1/D >= 2a - a² D, and its right side is linear in D. So its estimate
    # 2a - a² D̂ + 2 s² a da/dD̂ is at most 1/D in the mean, whatever the a; s is the error of D̂, and the last term is what the
    # dependence of a on the same D̂ adds (Stein). The bound is close if a is about 1/D.
    if not _mean_distance(p) > 0:
        return NOISE_ONLY
    k, j = _pairs(p)
    noise = _distance_noise(p)[k, j]

    def bound(gram: Tensor, variances: Tensor) -> Tensor:
        squares = _distances(gram)[k, j]
        mean = squares.mean()
        # 1/a is D̂, moved to the mean by the share of noise in how distances differ, and kept above 0.
        kept = (1 - noise.mean() / squares.var(correction=0)).nan_to_num().clamp(min=0)
        near = mean + kept * (squares - mean)
        root = (near.square() + 4 * kept * noise).sqrt()
        a = 2 / (near + root)
        return (
            (variances[k] + variances[j]) / 2 * (2 * a - a.square() * squares - 2 * noise * a.square() * kept / root)
        ).mean()

    value, changes = p.evaluate(bound)
    spread = jackknife_by_class(changes)
    low = value * torch.exp(-_quantile(spread) * spread.sum().sqrt() / value) if value > 0 else torch.zeros_like(value)
    return PopulationEstimate(low, None)


def cdnv_high(p: Population) -> PopulationEstimate:
    """Return the upper end of an interval for CDNV: its largest value over distances and variances within their errors."""
    # It is ∞ if some distance may be 0: no interval that is always finite covers the inverse of a distance that may be.
    if not _mean_distance(p) > 0:
        return NOISE_ONLY
    region = _Region(p)
    point, value = (region.squares, region.variances), region.ratio(region.squares, region.variances)
    # A power method: the farthest point along the slope, again and again. Its limit depends on the start: along the distance
    # that may be nearest to 0, and along all.
    for slopes in ((region.closest, torch.zeros_like(region.variances)), region.slopes(*point)):
        for _ in range(_STEPS):
            point = region.farthest(*slopes)
            if bool((point[0] <= 0).any()):
                return PopulationEstimate(torch.full_like(value, math.inf), None, ("unbounded",))
            before, value = value, torch.maximum(value, region.ratio(*point))
            if value <= (1 + _CLOSE) * before:
                break
            slopes = region.slopes(*point)
    return PopulationEstimate(value, None)


class _Region:
    """Squared distances and variances within their errors, which the changes by left-out parts span."""

    def __init__(self, p: Population) -> None:
        changes, self.variances = _distance_changes(p), p.variances
        size, by_class = _distance_noise(p), jackknife_by_class(changes)
        self.squares = _distances(p.gram).fill_diagonal_(math.inf)
        self.changes = (changes - changes.mean(dim=0)) * (size / (by_class + by_class.T)).nan_to_num().sqrt()
        self.variance_changes = p.variance_shifts - p.variance_shifts.mean(dim=0)
        closeness = self.squares / size.sqrt()
        self.closest = -(closeness == closeness.amin()).double()

    def ratio(self, squares: Tensor, variances: Tensor) -> Tensor:
        """Compute CDNV; the diagonal of the distances is ∞."""
        K = len(variances)
        return ((variances.unsqueeze(1) + variances) / squares).sum() / (2 * K * (K - 1))

    def slopes(self, squares: Tensor, variances: Tensor) -> tuple[Tensor, Tensor]:
        """Return the derivatives of CDNV, up to a factor."""
        return -(variances.unsqueeze(1) + variances) / squares.square(), (1 / squares).sum(dim=1)

    def farthest(self, by_squares: Tensor, by_variances: Tensor) -> tuple[Tensor, Tensor]:
        """Return the point of the region that is farthest along a direction."""
        along = (by_squares * self.changes).sum(dim=2) + by_variances * self.variance_changes
        by_class = jackknife_by_class(along)
        size = ((PARTS - 1) / PARTS * _quantile(by_class) / by_class.sum().sqrt()).nan_to_num(posinf=0.0)
        half = (along.unsqueeze(2) * self.changes).sum(dim=0)
        return self.squares + size * (half + half.T), self.variances + size * (along * self.variance_changes).sum(dim=0)


def _quantile(by_class: Tensor) -> Tensor:
    """Return the 97.5 % quantile of Student's t with the degrees of freedom of these variances by class (Satterthwaite)."""
    freedom = ((PARTS - 1) * by_class.sum().square() / by_class.square().sum()).nan_to_num(nan=1.0)
    z = 1.959964
    return z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom.square())


def _pairs(p: Population) -> Tensor:
    return torch.triu_indices(p.num_classes, p.num_classes, 1)


def _distances(gram: Tensor) -> Tensor:
    return gram.diagonal().unsqueeze(1) + gram.diagonal() - 2 * gram


def _mean_distance(p: Population) -> Tensor:
    k, j = _pairs(p)
    return _distances(p.gram)[k, j].mean()


def _distance_changes(p: Population) -> Tensor:
    """Return the changes of the squared distances from a class mean (second axis) to all others by its parts, (4, K, K)."""
    own = p.inner_shifts.diagonal(dim1=1, dim2=2).unsqueeze(2)
    return 2 * (own - p.inner_shifts) + p.square_shifts.unsqueeze(2)


def _distance_noise(p: Population) -> Tensor:
    """Estimate the variances of the squared distances of class means, shape (K, K)."""
    by_class = jackknife_by_class(_distance_changes(p))
    own_overlap = p.noise_overlap.diagonal()
    return without_overlap(by_class + by_class.T, 2 * (own_overlap.unsqueeze(1) + own_overlap + 2 * p.noise_overlap))


def _expected_inverse(squares: Tensor, noise: Tensor, width: Tensor) -> Tensor:
    """Average 1/D over the posterior of D ~ Gamma of mean 1, given estimates with normal noise."""
    # As fine as the noise of the estimate, and no wider than where prior and likelihood are.
    near = squares.detach()
    low = (near - 8 * noise.sqrt()).clamp(math.exp(-5), math.exp(3))
    high = torch.maximum((near + 8 * noise.sqrt()).clamp(max=math.exp(3)), low)
    log_grid = low.log().unsqueeze(1) + (high / low).log().unsqueeze(1) * torch.linspace(0, 1, 160, dtype=torch.float64)
    grid, shape = log_grid.exp(), 1 / width
    # A step of the grid is as long as D in D, hence shape instead of shape - 1.
    misfit = (squares.unsqueeze(1) - grid).square() / (2 * noise.unsqueeze(1).clamp(min=1e-30))
    return (torch.softmax(shape * (log_grid - grid) - misfit, dim=1) / grid).sum(dim=1)


class _Recomputed(torch.autograd.Function):
    """Expected inverses that are computed again for their derivative, so that one block of pairs takes memory at a time."""

    # torch.utils.checkpoint does the same, but imports the compiler of torch, which takes seconds.

    @staticmethod
    def forward(ctx: Any, *inputs: Tensor) -> Tensor:
        ctx.save_for_backward(*inputs)
        return _expected_inverse(*inputs)

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor, ...]:
        inputs = [part.detach().requires_grad_() for part in ctx.saved_tensors]
        with torch.enable_grad():
            # Of a number: with slopes of their own autograd imports as much.
            value = (slopes[0] * _expected_inverse(*inputs)).sum()
        return torch.autograd.grad(value, inputs)
