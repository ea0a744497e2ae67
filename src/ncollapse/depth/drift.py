"""How far the class means of a layer, their shape and their nearest simplex ETF move between two measurements."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ncollapse.etf import nearest_etf
from ncollapse.statistics.moments import ClassMoments

# The frame nearest to class means is not unique where they span fewer than K-1 dimensions. Means whose smallest extent is
# below this share of the largest are taken to do so: their frame would have lost more than half of its digits.
_LEAST_EXTENT = 1e-8


def mean_drift(before: ClassMoments, after: ClassMoments) -> float:
    r"""Return how far the class means have moved, :math:`\lVert M_b/\lVert M_b\rVert_F - M_a/\lVert M_a\rVert_F \rVert_F`.

    M are the class means, centered at their mean. A shift of all features and their scale do not count, a rotation does.

    Args:
        before: Moments of a layer.
        after: Moments of the same layer later, with the same classes.

    Returns:
        In [0, 2]: 0 if the means are the same up to shift and scale, √2 if they are orthogonal, 2 if opposite. nan if the
        dimensions differ, a class has no samples, or all class means coincide.
    """
    a, b = _unit_means(before), _unit_means(after)
    return math.nan if a.shape != b.shape else float(torch.linalg.norm(b - a))


def shape_drift(before: ClassMoments, after: ClassMoments) -> float:
    r"""Return what is left of the drift of the class means after the best rotation.

    :math:`\min_Q \lVert M_b Q / \lVert M_b\rVert_F - M_a / \lVert M_a\rVert_F \rVert_F` over orthogonal matrices Q (an
    orthogonal Procrustes problem; where the dimensions differ, the smaller one is filled up with zeros). It compares networks
    whose features have no common axes, such as those of two seeds.

    Args:
        before: Moments of a layer.
        after: Moments of the same layer later, or of another network, with the same classes.

    Returns:
        In [0, √2], at most ``mean_drift``: 0 if the means have one shape, as any two simplex ETFs. nan if a class has no
        samples, or all class means coincide.

    Reference:
        Schönemann (1966), Psychometrika, "A generalized solution of the orthogonal Procrustes problem".
    """
    a, b = _unit_means(before), _unit_means(after)
    if bool(a.isnan().any()) or bool(b.isnan().any()):
        return math.nan
    # In bases of their spans both are K × K at most. The difference is computed itself: its closed form cancels near 0.
    a, b = (torch.linalg.qr(means.T, mode="r").R.T for means in (a, b))
    # Of one width first: a rotation must not lose what the narrower one has no room for.
    width = max(a.shape[1], b.shape[1])
    a, b = _padded(a, width), _padded(b, width)
    left, _, right = torch.linalg.svd(b.T @ a)
    return float(torch.linalg.norm(b @ left @ right - a))


def frame_drift(before: ClassMoments, after: ClassMoments) -> float:
    r"""Return how far the simplex ETF nearest to the class means has turned, :math:`\lVert F_b - F_a \rVert_F / \sqrt{K}`.

    F is the frame of ``ncollapse.etf.nearest_etf``, unit vectors as rows: the polar factor of the class means, found by an
    orthogonal Procrustes problem.

    Args:
        before: Moments of a layer.
        after: Moments of the same layer later, with the same classes.

    Returns:
        In [0, 2]: 0 if the means have one nearest frame, √2 if the frames are orthogonal. nan if the dimensions differ, a class
        has no samples, or the means do not span K-1 dimensions, where the nearest frame is not unique.
    """
    a, b = _frame(before), _frame(after)
    if a is None or b is None or a.shape != b.shape:
        return math.nan
    return float(torch.linalg.norm(b - a)) / math.sqrt(len(a))


def _unit_means(moments: ClassMoments) -> Tensor:
    """Return the centered class means over their norm; nan where they coincide or one is missing."""
    means = moments.centered_means()
    coincide = means.square().sum(dim=1).mean() <= moments.rounding_floor
    return means * math.nan if bool(coincide) else means / torch.linalg.norm(means)


def _frame(moments: ClassMoments) -> Tensor | None:
    means = _unit_means(moments)
    rank = len(means) - 1
    if rank < 1 or means.shape[1] < rank or bool(means.isnan().any()):
        return None
    extents = torch.linalg.svdvals(means)
    return None if bool(extents[rank - 1] <= _LEAST_EXTENT * extents[0]) else nearest_etf(means).frame


def _padded(matrix: Tensor, width: int) -> Tensor:
    return torch.nn.functional.pad(matrix, (0, width - matrix.shape[1]))
