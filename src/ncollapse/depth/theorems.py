"""Tests of the theorems about the straight line on measured features, with the quantities that decide them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch

from ncollapse.depth.geodesic import GeodesicCurve, LineDecisions
from ncollapse.records.theorems import PolarAlignment, Theorem1, Theorem2, Theorem3

# Relative sizes below which a coefficient is the rounding of its terms.
_ROUNDING = 1e-12
_NEGLIGIBLE = 1e-10
# Distance from 1, and PFC2 of the end, that count as rounding.
_ALIGNED = 1e-9


def theorem1(curve: GeodesicCurve) -> Theorem1:
    """Return an exact test of Theorem 1: whether PFC1 never rises along the line.

    The derivative of PFC1 has the sign of a(1-t)² + βt(1-t) + ct², with a = w₁b₀ - w₀b₁, β = w₂b₀ - w₀b₂ and c = w₂b₁ - w₁b₂
    from the coefficients of ``GeodesicCurve``. Then PFC1 never rises iff a, β and c are at most 0. For a collapsed end
    (w₁ = w₂ = 0) this is b₁ >= 0, the paper's condition.

    Reference:
        Progressive feedforward collapse, arXiv 2405.00985, Theorem 1; the equivalence is derived: docs/theory.md, 3.2.
    """
    w, b = ([float(x) for x in part] for part in (curve.within_coefficients(), curve.between_coefficients()))
    if not has_distinct_means(curve):
        return Theorem1(
            holds=None,
            correlation=b[1],
            normalized=math.nan,
            monotone=None,
            argmax_t=math.nan,
            coefficients=_slope(w, b)[0],
        )
    # In units of the largest, since products of variances leave the range of float64 for features beyond 1e77.
    unit = max(w[0], w[2]) or 1.0, max(b[0], b[2])
    (a, beta, c), rounding = _slope([x / unit[0] for x in w], [x / unit[1] for x in b])
    # PFC1 is largest at an end or where its derivative is zero.
    stationary_or_end = [0.0, 1.0, *_roots(a, beta, c)]
    peak = stationary_or_end[int(curve.pfc1(stationary_or_end).nan_to_num(nan=-math.inf).argmax())]
    normalized = b[1] / (math.sqrt(b[0]) * math.sqrt(b[2]))
    # Class means that all cross at one t make PFC1 infinite there, unless every sample crosses its own mean there too.
    cross = (b[0] - b[1]) / (b[0] - 2 * b[1] + b[2]) if normalized <= -1 + _ROUNDING else 0.0
    if cross and (1 - cross) ** 2 * w[0] + 2 * cross * (1 - cross) * w[1] + cross**2 * w[2] > _ROUNDING * max(w):
        peak = cross
    return Theorem1(
        holds=b[1] >= 0,
        correlation=b[1],
        normalized=normalized,
        monotone=max(a, beta, c) <= rounding,
        argmax_t=peak,
        coefficients=_slope(w, b)[0],
    )


def _slope(w: Sequence[float], b: Sequence[float]) -> tuple[tuple[float, float, float], float]:
    """Compute (a, β, c) of the derivative of PFC1, and their rounding."""
    # At a collapsed end w₁ and w₂ are rounding errors, and so is c. It must not decide.
    rounding = _ROUNDING * max(abs(w[0] * b[1]), abs(w[1] * b[0]), abs(w[0] * b[2]), abs(w[2] * b[0]))
    return (w[1] * b[0] - w[0] * b[1], w[2] * b[0] - w[0] * b[2], w[2] * b[1] - w[1] * b[2]), rounding


def _roots(a: float, beta: float, c: float) -> list[float]:
    """Find the t in (0, 1) at which a(1-t)² + βt(1-t) + ct² is zero."""
    # In s = t/(1-t), without subtracting near numbers: a leading coefficient that is rounding moves no root but itself.
    discriminant = beta * beta - 4 * a * c
    if discriminant < 0:
        return []
    q = -(beta + math.copysign(math.sqrt(discriminant), beta)) / 2
    found = [numerator / denominator for numerator, denominator in ((q, c), (a, q)) if denominator]
    return [s / (1 + s) for s in found if s > 0 and math.isfinite(s)]


def has_distinct_means(curve: GeodesicCurve) -> bool:
    """Return whether the class means differ by more than rounding at each end; False if a class has no samples."""
    ends = (curve.paired.first, curve.paired.last)
    spreads = [moments.centered_means("class").square().sum() for moments in ends]
    return all(
        bool(spread > moments.num_classes * moments.rounding_floor) for spread, moments in zip(spreads, ends, strict=True)
    )


def theorem2(curve: GeodesicCurve) -> Theorem2:
    r"""Return an exact test of Theorem 2: where PFC2 rises along the line, and whether two sufficient conditions hold.

    Let s = t/(1-t), and let T(s) = tr G and 𝒩(s) = ‖G‖_F² belong to the Gram matrix on the line, up to the factor (1-t)². Then
    PFC2² is :math:`2(1 - T/\sqrt{(K-1)\mathcal{N}})`. It falls where the quartic :math:`Q = 2T'\mathcal{N} - T\mathcal{N}'` is
    not negative. The paper asks for a "sufficiently small transport cost". No constant would do: there are directions in which
    PFC2 rises at any cost.

    Reference:
        Progressive feedforward collapse, arXiv 2405.00985, Theorem 2; the exact test is derived: docs/theory.md, 3.3.
    """
    if not has_distinct_means(curve):
        return Theorem2(None, (), None, None, math.nan, math.nan)
    start, cross, end = (gram.cpu().numpy() for gram in curve.gram_coefficients())
    # In units in which both ends have trace one, so that the cut-off does not depend on their size; s is scaled back.
    unit = math.sqrt(np.trace(start) / np.trace(end))
    negative = _negative_intervals(_pfc2_slope(start / np.trace(start), cross * unit / np.trace(start), end / np.trace(end)))
    intervals = tuple((_to_t(lower * unit), _to_t(upper * unit)) for lower, upper in negative)
    # In units in which the end has trace one, since products of products leave the range of float64.
    sufficient_a, sufficient_b = etf_conditions(*(gram / np.trace(end) for gram in (start, cross, end)))
    first, last = curve.paired.first.centered_means(), curve.paired.last.centered_means()
    cost = float(torch.linalg.norm(first - last) / torch.linalg.norm(last))
    return Theorem2(
        monotone=not intervals,
        intervals=intervals,
        sufficient_a=sufficient_a,
        sufficient_b=sufficient_b,
        relative_cost=cost,
        end_distance=float(curve.pfc2([1.0])),
    )


def _pfc2_slope(start: np.ndarray, cross: np.ndarray, end: np.ndarray) -> np.ndarray:
    """Compute the coefficients of Q(s) = 2T'𝒩 - T𝒩', ascending; those that are rounding are set to zero."""
    trace = np.polynomial.Polynomial([np.trace(start), 2 * np.trace(cross), np.trace(end)])
    norm = np.polynomial.Polynomial(
        [
            np.sum(start * start),
            4 * np.sum(start * cross),
            4 * np.sum(cross * cross) + 2 * np.sum(start * end),
            4 * np.sum(cross * end),
            np.sum(end * end),
        ]
    )
    rising, falling = 2 * trace.deriv() * norm, trace * norm.deriv()
    terms = max(np.abs(rising.coef).max(), np.abs(falling.coef).max())
    slope = (rising - falling).coef
    return np.where(np.abs(slope) < _NEGLIGIBLE * terms, 0.0, slope)


def _to_t(s: float) -> float:
    return 1.0 if math.isinf(s) else s / (1 + s)


def _negative_intervals(coefficients: np.ndarray) -> list[tuple[float, float]]:
    """Find the maximal intervals of s >= 0 on which a polynomial (ascending coefficients) is negative."""
    polynomial = np.polynomial.Polynomial(coefficients).trim()
    found = [complex(root) for root in polynomial.roots()]
    roots = sorted({root.real for root in found if abs(root.imag) <= 1e-9 * (1 + abs(root)) and root.real > 0})
    edges = [0.0, *roots, math.inf]
    negative: list[tuple[float, float]] = []
    for lower, upper in pairwise(edges):
        middle = 2 * lower + 1.0 if math.isinf(upper) else (lower + upper) / 2
        if polynomial(middle) >= 0:
            continue
        if negative and negative[-1][1] == lower:
            negative[-1] = (negative[-1][0], upper)
        else:
            negative.append((lower, upper))
    return negative


def etf_conditions(start: np.ndarray, cross: np.ndarray, end: np.ndarray) -> tuple[bool, bool]:
    """Return whether condition (A), and whether (B), of docs/theory.md, 3.3, holds."""
    # With Δ = M̄_0 - M̄_L, S = M̄_LᵀΔ + ΔᵀM̄_L and D = ΔᵀΔ, their traceless parts S_0 and D_0, their traces s̄ and d̄ over K-1, and
    # that of M̄_LᵀM̄_L, c²: (A) ⟨S_0, D_0⟩ >= 0 and ‖Δ‖ <= ‖M̄_L‖. (B) d̄ < c², ‖S_0‖ > ‖D_0‖ and
    # (c² - d̄)(‖S_0‖ - ‖D_0‖) >= (c² + max(s̄, 0) + d̄) ‖D_0‖.
    m = len(start) - 1
    projector = np.eye(m + 1) - 1.0 / (m + 1)
    shift = 2 * (cross - end)  # M̄_L'Δ + Δ'M̄_L
    spread = start - 2 * cross + end  # Δ'Δ
    scale, shift_mean, spread_mean = float(np.trace(end)) / m, float(np.trace(shift)) / m, float(np.trace(spread)) / m
    shift0, spread0 = shift - shift_mean * projector, spread - spread_mean * projector
    a = bool(np.sum(shift0 * spread0) >= 0 and np.trace(spread) <= np.trace(end))
    shift_norm, spread_norm = float(np.linalg.norm(shift0)), float(np.linalg.norm(spread0))
    enough = (scale - spread_mean) * (shift_norm - spread_norm) >= (scale + max(shift_mean, 0.0) + spread_mean) * spread_norm
    return a, bool(spread_mean < scale and shift_norm > spread_norm and enough)


def polar_alignment(curve: GeodesicCurve) -> PolarAlignment:
    r"""Return the alignment of first and last class means, and whether it guarantees that PFC2 never rises along the line.

    The alignment is :math:`\mathrm{tr}(\bar M_0^T \bar M_L) / \lVert \bar M_L \bar M_0^T \rVert_*`, with the K centered means
    as columns. The nuclear norm is the largest trace that a rotation of the last means can reach. The alignment is therefore 1
    iff no rotation brings the last means nearer to the first, that is, iff :math:`\bar M_L \bar M_0^T` is symmetric positive
    semidefinite. It does not change if both ends are rotated together or either is scaled.

    *Theorem.* Let :math:`\bar M_L = c Q` be a simplex ETF and the alignment 1, so that Q is a polar factor of
    :math:`\bar M_0 = Q S`. Then PFC2 never rises on [0, 1], for every c > 0 and however large the transport cost. The
    converse is false: PFC2 falls towards many other ETFs too.
    The Gram matrix on the line is a square whose roots move linearly to one value, so they only become more equal.

    Reference:
        Derived: docs/theory.md, 3.3. Unlike Theorem 2 of progressive feedforward collapse, arXiv 2405.00985, it does not need
        a small transport cost, but it needs the rotation.
    """
    end_distance = float(curve.pfc2([1.0]))
    if not has_distinct_means(curve) or math.isnan(end_distance):
        return PolarAlignment(math.nan, end_distance, None)
    first, last = (moments.centered_means("class") for moments in (curve.paired.first, curve.paired.last))
    # The product of the triangular factors has the singular values of the d×d product, which would be large.
    factors = [torch.linalg.qr(means.T, mode="r").R for means in (last, first)]
    largest = float(torch.linalg.svdvals(factors[0] @ factors[1].T).sum())
    if not largest > 0:
        return PolarAlignment(math.nan, end_distance, None)
    alignment = float((first * last).sum()) / largest
    return PolarAlignment(alignment, end_distance, alignment >= 1 - _ALIGNED and end_distance <= _ALIGNED)


def theorem3(line: LineDecisions) -> Theorem3:
    """Return the test of Theorem 3, the guarantee for PFC3, from the pairs counted over the whole data set."""
    num_pairs, num_steps = int(line.num_pairs), len(line.times) - 1
    if bool(line.violating_pairs.isnan()):
        return Theorem3(None, None, num_pairs, None, num_steps)
    violating, falls = int(line.violating_pairs), int((line.correct.diff() < 0).sum())
    return Theorem3(violating == 0, violating, num_pairs, falls, num_steps)
