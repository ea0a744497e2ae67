"""The flattening theorem of PFC2, for ends that are no simplex ETF, and how far class means are from each hypothesis."""

from __future__ import annotations

import math

import numpy as np
import scipy

from ncollapse.depth.geodesic import GeodesicCurve
from ncollapse.depth.theorems import etf_conditions, has_distinct_means
from ncollapse.records.theorems import Flattening

# Singular values of the first means below this share of the largest are zero, and distances below it are rounding.
_ROUNDING = 1e-9


def flattening(curve: GeodesicCurve) -> Flattening:
    r"""Return how far the last class means are from the hypotheses under which PFC2 cannot rise along the line.

    Let the centered class means be :math:`\bar M_0 = P \mathrm{diag}(s) Q^T` and :math:`\bar M_L = P \mathrm{diag}(c) Q^T` with
    s, c > 0, one class a row. If :math:`s_i \ge s_j` implies :math:`1 \le c_i/c_j \le s_i/s_j`, PFC2 never rises on [0, 1], at
    any transport cost. It stays so for every change Z of :math:`\bar M_L` with :math:`\lVert Z \rVert_F \le` ``radius``.
    Distances are Frobenius norms relative to that of :math:`\bar M_L`: how far it would have to move, with :math:`\bar M_0` as
    it is.

    Reference:
        Derived here: docs/theory.md, 3.3, which has the proofs.
    """
    if not has_distinct_means(curve):
        return Flattening(math.nan, math.nan, math.nan, None, math.nan, math.nan, None)
    first, last = (moments.centered_means("class").cpu().numpy() for moments in (curve.paired.first, curve.paired.last))
    # A unit of the first means moves points along the line, but not what PFC2 does on it: both ends have norm one.
    first, last = first / np.linalg.norm(first), last / np.linalg.norm(last)
    left, s, right = np.linalg.svd(first, full_matrices=False)
    rank = min(len(first) - 1, int((s > _ROUNDING * s[0]).sum()))
    left, s, right = left[:, :rank], s[:rank], right[:rank]
    along = np.einsum("kr,kd,rd->r", left, last, right)
    nearest = _project(along, s)
    misalignment = float(np.linalg.norm(last - (left * along) @ right))
    ratio_defect = float(np.linalg.norm(along - nearest))
    reach = _radius(s, nearest)
    etf_distance, sufficient = _to_etf(first, last)
    # An ETF takes all K - 1 dimensions.
    aligned = max(0.0, along.mean()) * left @ right
    polar_distance = float(np.linalg.norm(last - aligned)) if rank == len(first) - 1 else math.nan
    defect = math.hypot(misalignment, ratio_defect)
    guaranteed = bool(nearest.min() > 0 and defect <= max(reach, _ROUNDING))
    return Flattening(misalignment, ratio_defect, etf_distance, sufficient, polar_distance, reach, guaranteed)


def _project(along: np.ndarray, s: np.ndarray) -> np.ndarray:
    """Return the nearest c with c_i >= c_(i+1) and c_i / s_i <= c_(i+1) / s_(i+1), for s in descending order."""
    # By Moreau's decomposition: the projection on the polar cone is a least-squares problem with non-negative variables.
    upper, lower = np.eye(len(s))[:-1], np.eye(len(s))[1:]
    constraints = np.concatenate([upper - lower, lower - upper * (s[1:] / s[:-1])[:, None]])
    return along if not len(constraints) else along + constraints.T @ scipy.optimize.nnls(constraints.T, -along)[0]


def _radius(s: np.ndarray, c: np.ndarray) -> float:
    """Return an ε so that no change of the last means by at most ε lets PFC2 rise; 0 if the condition is nowhere strict."""
    low = np.minimum(s, c)
    pairs = low[:, None] * low * (low[:, None] + low) * np.minimum(s[:, None] - s, c[:, None] - c)
    margin = float(np.triu(pairs * (s[:, None] * c - s * c[:, None]), 1).clip(min=0).sum())
    longest, speed = float(max(np.linalg.norm(s), np.linalg.norm(c))), float(np.linalg.norm(c - s))

    def excess(change: float) -> float:
        return change * (longest + change) ** 4 * (10 * (speed + change) + 2 * (longest + change)) - margin

    return float(scipy.optimize.brentq(excess, 0.0, margin / longest**5 + 1e-300)) if margin > 0 else 0.0


def _to_etf(first: np.ndarray, last: np.ndarray) -> tuple[float, bool | None]:
    """Return the distance from the nearest simplex ETF, and whether Theorem 2's conditions hold with that ETF as the end."""
    m = len(last) - 1
    left, sizes, right = np.linalg.svd(last, full_matrices=False)
    if len(sizes) < m:
        return math.nan, None
    scale = float(sizes[:m].sum()) / m
    end = scale * left[:, :m] @ right[:m]
    cross = first @ end.T
    holds = any(etf_conditions(first @ first.T, (cross + cross.T) / 2, end @ end.T))
    return float(np.linalg.norm(last - end)), holds
