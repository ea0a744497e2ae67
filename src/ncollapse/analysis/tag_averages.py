"""Multi-label collapse: how far the means of samples with several tags lie from the average of their tags' means."""

from __future__ import annotations

import math
from typing import NamedTuple

from torch import Tensor

from ncollapse.statistics.moments import ClassMoments


class TagAverage(NamedTuple):
    """How samples with one number of tags have collapsed.

    Attributes:
        tags: Number of tags of a sample, m.
        sets: Number of sets of m tags that have samples, S.
        scale: c_m, how much longer than the average of its tags' means the mean of a set is, 0 or more.
        distance: Squared distance of the sets' means from c_m times their averages, relative to the means, in [0, 1].
        variability: Variance within a set over the squared distance of its mean from the center, means over sets, 0 or more.
    """

    tags: int
    sets: int
    scale: float
    distance: float
    variability: float


def tag_averages(moments: ClassMoments, sets: Tensor) -> tuple[TagAverage, ...]:
    r"""Return how far features of samples with several tags are from the tag-wise average, by number of tags from 2 on.

    The statistic is that of single labels: each set of tags counts as a class. Let :math:`\mu_S` be the mean of the samples
    whose tags are exactly S. The center is the mean of the :math:`\mu_{\{k\}}` over the K tags, and both :math:`v_S = \mu_S -
    \mathrm{center}` and :math:`t_S = \frac{1}{m} \sum_{k \in S} v_{\{k\}}` are relative to it. Over the sets with m tags

    .. math:: \mathrm{distance} = \min_{c \ge 0} \frac{\sum_S \lVert v_S - c\, t_S \rVert^2}{\sum_S \lVert v_S \rVert^2},

    with the minimizer c_m as ``scale`` and ``variability`` :math:`\sum_S \mathrm{Var}_S / \sum_S \lVert v_S \rVert^2`. At
    collapse distance and variability are 0. The distance is near 1 for means that have nothing to do with their tags. Noise
    adds about variability/n to it if each set has n samples. Translation, rotation and scale of the features change nothing.
    All three are nan where all averages or all means are at the center, such as for the one set of all tags.

    Args:
        moments: Moments of the features whose classes are sets of tags, of one layer.
        sets: The tags of each of these classes, shape (S, K), 0 or 1. Each tag alone must be one of them. The set without a
            tag is left out, and so are sets without samples.

    Raises:
        ValueError: If sets are not of this form, or a tag has no sample that carries it alone.

    Reference:
        Li, Li, Wang & Qu (2024), ICML, "Neural collapse in multi-label learning with pick-all-label loss": at the optimum of
        unconstrained features the means of samples with m tags are the scaled averages of the single tags' means. The abstract
        was read; the distance, its center and its one scale for each m are ours.

    Example:
        >>> import torch
        >>> from ncollapse.etf import simplex_etf
        >>> tags = torch.tensor([[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0], [0, 1, 1]])
        >>> sets, index = torch.unique(tags, dim=0, return_inverse=True)
        >>> features = tags.float() @ simplex_etf(3, 4).float()
        >>> found = tag_averages(ClassMoments.from_batch(features, index, len(sets)), sets)
        >>> [(pair.tags, pair.sets, round(pair.scale, 3), round(pair.distance, 6)) for pair in found]
        [(2, 2, 2.0, 0.0)]
    """
    sizes = _checked(moments, sets.to(moments.means.device))
    single = sets[sizes == 1].to(moments.means).argmax(dim=1).argsort()
    # The first single mean is subtracted first, to keep a large common offset out of the sums.
    origin = moments.means[sizes == 1][single[0]]
    corners = moments.means[sizes == 1][single] - origin
    center = corners.mean(dim=0)
    corners, means = corners - center, moments.means - origin - center
    return tuple(
        _of_size(m, means[rows], sets[rows].to(means) @ corners / m, moments.class_variances[rows], moments.rounding_floor)
        for m in sizes.unique().tolist()
        if m > 1
        for rows in [sizes == m]
    )


def _of_size(m: int, means: Tensor, averages: Tensor, variances: Tensor, floor: Tensor) -> TagAverage:
    squares, of_averages = means.square().sum(), averages.square().sum()
    if min(squares, of_averages) <= len(means) * floor:
        return TagAverage(m, len(means), math.nan, math.nan, math.nan)
    scale = ((means * averages).sum() / of_averages).clamp(min=0)
    distance = (means - scale * averages).square().sum() / squares
    return TagAverage(m, len(means), float(scale), float(distance), float(variances.sum() / squares))


def _checked(moments: ClassMoments, sets: Tensor) -> Tensor:
    """Return the number of tags of each set, 0 for one without samples."""
    binary = sets.ndim == 2 and bool(((sets == 0) | (sets == 1)).all())
    if not binary or len(sets) != moments.num_classes or len(sets.unique(dim=0)) != len(sets):
        raise ValueError(
            f"`sets` must be {moments.num_classes} different rows of 0 and 1, one for each class of the moments, got shape "
            f"{tuple(sets.shape)}. Take both from `torch.unique(tags, dim=0, return_inverse=True)`."
        )
    sizes = sets.long().sum(dim=1) * (moments.counts > 0)
    missing = (sets[sizes == 1].long().sum(dim=0) == 0).nonzero().flatten().tolist()
    if missing:
        raise ValueError(
            f"Each tag needs samples that carry it alone, got none for tags {missing[:10]}. Measure more samples, or leave "
            "these tags out of all samples."
        )
    return sizes
