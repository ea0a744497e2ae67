"""Metrics of the population that a sample was drawn from, each with a standard error."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ncollapse.metrics.population import (
    FEW_SAMPLES,
    NOISE_ONLY,
    RESOLVED,
    Population,
    PopulationEstimate,
    jackknife,
    jackknife_by_class,
    without_overlap,
)
from ncollapse.statistics.centers import ClassCenters
from ncollapse.statistics.decisions import ClassDecisions


def within_between(p: Population) -> PopulationEstimate:
    """Estimate PFC1, the ratio of unbiased traces."""
    if not p.between(p.gram) > 0:
        return NOISE_ONLY
    return p.estimate(lambda gram, variances: p.within(variances) / p.between(gram))


def etf_distance(p: Population) -> PopulationEstimate:
    r"""Estimate PFC2, :math:`\sqrt{2(1 - \mathrm{tr} G / \sqrt{(K-1) \lVert G \rVert_F^2})}` of unbiased trace and norm."""
    if not p.has_parts:
        return FEW_SAMPLES
    (norm, changes), trace = p.squared_norm(p.centering), (p.centering * p.gram).sum()
    if not (trace > 0 and norm > 0):
        return NOISE_ONLY
    share = 2 / math.sqrt(p.num_classes - 1)
    extra = share * trace / (2 * norm**1.5) * changes
    return _root(p.estimate(lambda gram, _: 2 - share * (p.centering * gram).sum() / norm.sqrt(), extra))


def participation_ratio(p: Population) -> PopulationEstimate:
    r"""Estimate the participation ratio of Σ_B, :math:`(\mathrm{tr} \Sigma_B)^2 / \lVert \Sigma_B \rVert_F^2`."""
    if not p.has_parts:
        return FEW_SAMPLES
    (norm, changes), trace = p.squared_norm(p.weighting), p.between(p.gram)
    if not (trace > 0 and norm > 0):
        return NOISE_ONLY
    return p.estimate(lambda gram, _: p.between(gram) ** 2 / norm, -((trace / norm) ** 2) * changes)


def equinorm(p: Population) -> PopulationEstimate:
    """Estimate the variation of the norms of centered class means, without the part that noise adds to it."""
    K, ddof, squares = p.num_classes, p.parts.ddof, _centered(p, p.gram).diagonal()
    if not squares.amin() > 0:
        return NOISE_ONLY
    noise = without_overlap(jackknife_by_class(_square_changes(p)), 2 * p.noise_overlap.diagonal()) / (4 * squares)

    def squared(gram: Tensor, _: Tensor) -> Tensor:
        norms = _centered(p, gram).diagonal().sqrt()
        return (norms.var(correction=ddof) - (K - 1) / (K - ddof) * noise.mean()) / norms.mean().square()

    return _root(p.estimate(squared))


def equiangularity(p: Population) -> PopulationEstimate:
    """Estimate the spread of the cosines between centered class means, without the part that noise adds to it."""
    K, squares = p.num_classes, _centered(p, p.gram).diagonal()
    if K == 2 or not squares.amin() > 0:
        return NOISE_ONLY if K > 2 else PopulationEstimate(squares.new_zeros(()), squares.new_zeros(()))
    pairs = ~torch.eye(K, dtype=torch.bool)
    # To first order in the noise of each class: the center moves by 1/K of it, which is left out.
    norms = squares.sqrt()
    cosines = _centered(p, p.gram) / norms.outer(norms)
    changes = p.inner_shifts / norms.outer(norms) - cosines * (_square_changes(p) / (2 * squares)).unsqueeze(2)
    by_class = jackknife_by_class(changes)
    noise = without_overlap(by_class + by_class.T, p.noise_overlap / squares.outer(squares))[pairs].mean()

    def squared(gram: Tensor, _: Tensor) -> Tensor:
        centered = _centered(p, gram)
        lengths = centered.diagonal().sqrt()
        return (centered / lengths.outer(lengths))[pairs].var(correction=0) - noise

    return _root(p.estimate(squared))


def between_inverse_trace(p: Population, centers: ClassCenters, decisions: ClassDecisions) -> PopulationEstimate:
    """Estimate NC1 over the directions of Σ_B that are told apart from noise, without the error of Σ_W."""
    values, vectors, kept = _resolved(p)
    if not bool(kept.any()):
        return PopulationEstimate(values.new_tensor(math.nan), None, ("unresolved",))
    along = (p.weighting @ centers.coordinates).T @ vectors[:, kept]
    name = p.parts.within
    unbiased = (p.within(p.variances) / centers.moments.within_trace(name)).nan_to_num(nan=1.0)
    variances = ((decisions.within_on_span(name) @ along) * along).sum(dim=0) / along.square().sum(dim=0) * unbiased
    sides, divisor = p.weighting.T @ vectors[:, kept], p.num_classes if p.parts.nc1_per_class else 1
    slope = -(sides * (variances / values[kept].square())) @ sides.T / divisor
    value = (variances / values[kept]).sum() / divisor
    missing = int(kept.sum()) < min(p.num_classes - 1, centers.moments.dim)
    return PopulationEstimate(value, jackknife(p.changes(slope)), ("unresolved",) if missing else ())


def resolved_rank(p: Population) -> PopulationEstimate:
    """Count the eigenvalues of Σ_B that are more than four standard errors above zero."""
    return PopulationEstimate(_resolved(p)[2].sum().double(), None)


def _resolved(p: Population) -> tuple[Tensor, Tensor, Tensor]:
    """Return the eigenvalues of the unbiased Σ_B, its eigenvectors over classes, and which are told apart from noise."""
    values, vectors = torch.linalg.eigh(_weighted(p, p.gram))
    sides = p.weighting.T @ vectors
    first = 2 * (p.shifts @ (p.means.T @ sides)) * sides
    errors = jackknife(first + sides.square() * p.square_shifts.unsqueeze(2))
    resolved = values > torch.maximum(RESOLVED * errors, 1e-10 * values.abs().amax())
    # In fewer dimensions than classes the smallest ones are noise that was subtracted and nothing else.
    resolved[: -min(p.num_classes - 1, p.means.shape[1])] = False
    return values, vectors, resolved


def _weighted(p: Population, gram: Tensor) -> Tensor:
    return p.weighting @ gram @ p.weighting.T


def _centered(p: Population, gram: Tensor) -> Tensor:
    return p.around @ gram @ p.around.T


def _square_changes(p: Population) -> Tensor:
    """Return the changes of the squared norms of centered class means by their own parts, to first order, shape (4, K)."""
    return 2 * p.inner_shifts.diagonal(dim1=1, dim2=2) + p.square_shifts


def _root(squared: PopulationEstimate) -> PopulationEstimate:
    """Take the root of an estimated square, at least 0."""
    value, error = squared.value.clamp(min=0).sqrt(), squared.standard_error
    assert error is not None
    # Near 0 the root is steep. Two errors below the value are the root of the square less two of its errors, or 0.
    lower = (squared.value - 2 * error).clamp(min=0).sqrt()
    return PopulationEstimate(value, torch.maximum(value - lower, error.sqrt() * (lower == 0)) / 1.9)
