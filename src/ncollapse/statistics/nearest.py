"""Decisions by the nearest class center: over all centers, or over those that a screen in float32 leaves."""

from __future__ import annotations

import torch
from torch import Tensor

from ncollapse.statistics.batch import row_blocks
from ncollapse.statistics.centers import TIE, ClassCenters, first_true
from ncollapse.statistics.screen import Screen

# Up to this many classes the K×K squared distances of the class means are kept if they are needed.
_MOST_DISTANCES = 4096
# Numbers of one block of explicit differences.
_BLOCK = 2**18
# The fewest samples whose margins are computed at once, however many classes there are: each block reads all coordinates.
_MARGIN_ROWS = 64


def nearest_centers(centers: ClassCenters, residual: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return the nearest class center, the smallest index on ties, and its margin over the sample's own class, both (N,)."""
    # Distances are compared with the one to the own class k: |h - μ_j|² - |h - μ_k|² = 2 ⟨r, μ_k - μ_j⟩ + |μ_k - μ_j|² with
    # r = h - μ_k, of which `residual` holds the coordinates in the span of the means. This separates two centers even if they
    # are much closer to each other than to the rest (minority collapse). Margins are at most 0 up to rounding, and exactly 0
    # for the own class.
    #
    # Ties happen: if class means coincide, or features have low precision, two exact distances are equal. Then the rounding
    # of the computed ones would decide, and the result would depend on the batch size and the processor. Therefore all
    # centers within rounding of the smallest margin count as nearest, and the smallest index wins. The rounding of a margin
    # is that of its terms, 2 |r| |μ_k - μ_j| and |μ_k - μ_j|², not that of the much larger |h|². Means that coincide differ
    # by the rounding of their own sums, which is larger, so the first of them is chosen afterwards.
    screen = None
    if centers.separations is None:
        screen = Screen.of(centers.coordinates, -0.5 * torch.linalg.vector_norm(centers.coordinates, dim=1).square())
    if screen is None:
        blocks = row_blocks(residual, centers.moments.num_classes, _MARGIN_ROWS)
        parts = [_nearest_of_all(centers, residual[rows], labels[rows]) for rows in blocks]
    else:
        parts = [_nearest_by(centers, screen, residual[rows], labels[rows]) for rows in screen.blocks(len(labels))]
    nearest, margins = zip(*parts, strict=True) if parts else ((labels,), (residual.new_zeros(0),))
    return torch.cat(nearest), torch.cat(margins)


def _nearest_of_all(centers: ClassCenters, residual: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    margins, separations, reach = _margins(centers, residual, labels)
    smallest, at = margins.min(dim=1, keepdim=True)
    # Mostly one center is nearest by more than any rounding of the row, and no rounding of single margins is needed.
    most = _rounding(
        centers.separations.amax() if centers.separations is not None else separations.amax(dim=1, keepdim=True), reach
    )
    if int((margins <= smallest + 4 * most).sum()) == len(labels):
        chosen = centers.first[at.squeeze(1)]
    else:
        rounding = _rounding(separations, reach)
        chosen = centers.first[first_true(margins <= smallest + rounding + rounding.gather(1, at))]
    return chosen, margins.gather(1, chosen.unsqueeze(1)).squeeze(1) * (chosen != labels)


def _nearest_by(centers: ClassCenters, screen: Screen, residual: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Decide as ``_nearest_of_all``, by the margins of those centers alone that may be nearest."""
    # The nearest center is that of the largest <x, c_j> - |c_j|²/2 with x = r + c_k. Centers whose margins are equal up to
    # rounding are nearer to each other than the screen can tell, so that all of them are left.
    screened = screen.largest(centers.coordinates.index_select(0, labels).add_(residual), labels)
    chosen, margins = screened.largest, torch.zeros_like(residual[:, 0])
    others = (chosen != labels).index_fill_(0, screened.open, value=False).nonzero().flatten()
    margins[others] = _margins_of(centers, residual, labels, others, chosen[others])[0]
    if not len(screened.open):
        return chosen, margins
    at, classes = screened.may_win.nonzero().unbind(1)
    pair_margins, rounding = _margins_of(centers, residual, labels, screened.open[at], classes)
    every = residual.new_full((len(screened.open),), torch.inf)
    smallest = every.scatter_reduce(0, at, pair_margins, "amin")
    is_smallest = pair_margins == smallest[at]
    limit = smallest + torch.zeros_like(every).scatter_reduce(0, at, rounding * is_smallest, "amax")
    last = torch.full_like(screened.open, len(centers.first))
    near = torch.where(pair_margins <= limit[at] + rounding, classes, len(centers.first))
    nearest = centers.first[last.scatter_reduce(0, at, near, "amin")]
    chosen[screened.open] = nearest
    margins[screened.open] = torch.zeros_like(every).index_add(0, at, pair_margins * (classes == nearest[at]))
    return chosen, margins


def _margins_of(
    centers: ClassCenters, residual: Tensor, labels: Tensor, rows: Tensor, classes: Tensor
) -> tuple[Tensor, Tensor]:
    """Compute the margins of single pairs of a sample and a center from explicit differences, and their rounding."""
    parts = [residual.new_zeros(2, 0)]
    for some in _blocks_of_pairs(len(rows), residual):
        own, left = labels[rows[some]], residual[rows[some]]
        step = centers.coordinates[own].sub_(centers.coordinates[classes[some]])
        separations = step.square().sum(dim=1)
        reach = torch.linalg.vector_norm(left, dim=1)
        rounding = TIE * (separations.sqrt() * reach + separations)
        parts.append(torch.stack([2 * (left * step).sum(dim=1) + separations, rounding]))
    margins, rounding = torch.cat(parts, dim=1)
    return margins, rounding


def own_is_nearest(centers: ClassCenters, residual: Tensor, labels: Tensor, squares: Tensor) -> Tensor:
    """Return whether the own class's center is nearest to a sample that is left out of its mean, (N,), bool."""
    # Without its sample h the mean of n samples moves away from it, to n/(n-1) times its distance |h - μ_k|; the other means
    # stay. `squares` are those distances in all dimensions, squared. On ties the smallest index is nearest, as above.
    blocks = row_blocks(residual, centers.moments.num_classes, _MARGIN_ROWS)
    found = [_own_is_nearest(centers, residual[rows], labels[rows], squares[rows]) for rows in blocks]
    return torch.cat([labels[:0] > 0, *found])


def _own_is_nearest(centers: ClassCenters, residual: Tensor, labels: Tensor, squares: Tensor) -> Tensor:
    margins, separations, reach = _margins(centers, residual, labels)
    # A sample alone in its class, at distance 0 from its mean, gets 0/0: nan, which is never nearest.
    n = centers.moments.counts[labels].double()
    farther = (squares * (2 * n - 1) / (n - 1).square()).unsqueeze(1)
    # The margin of a mean that coincides with the own one has the rounding of their sums.
    coincident = centers.first == centers.first[labels].unsqueeze(1)
    rounding = _rounding(separations, reach).add_(TIE * farther).add_(coincident * centers.moments.rounding_floor)
    ahead = margins - farther
    later = torch.arange(len(centers.first), device=labels.device) > labels.unsqueeze(1)
    wins = torch.where(ahead.abs() <= rounding, later, ahead > 0).scatter_(1, labels.unsqueeze(1), value=True)
    return wins.all(dim=1)


def _margins(centers: ClassCenters, residual: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return what the squared distances to all centers exceed that to the own one by, (N, K), and what it is rounded by."""
    products = residual @ centers.coordinates.T
    separations = _separations_from(centers, labels)
    margins = torch.sub(products.gather(1, labels.unsqueeze(1)), products).mul_(2).add_(separations)
    return margins, separations, torch.linalg.vector_norm(residual, dim=1, keepdim=True)


def _rounding(separations: Tensor, reach: Tensor) -> Tensor:
    """Compute the rounding of margins between centers so far from each other, for residuals of this length."""
    return (separations.sqrt() * reach).add_(separations).mul_(TIE)


def _separations_from(centers: ClassCenters, labels: Tensor) -> Tensor:
    if centers.separations is not None or len(centers.first) <= _MOST_DISTANCES:
        known = centers.all_separations if centers.separations is None else centers.separations
        return known.index_select(0, labels)
    own, norms = centers.coordinates[labels], centers.coordinates.square().sum(dim=1)
    both = norms[labels].unsqueeze(1) + norms
    found = both - 2 * own @ centers.coordinates.T
    # Between near means the two terms cancel: what has lost more than a digit is computed again from their difference.
    rows, others = (16 * found < both).nonzero().unbind(1)
    for some in _blocks_of_pairs(len(rows), own):
        found[rows[some], others[some]] = (own[rows[some]] - centers.coordinates[others[some]]).square().sum(dim=1)
    return found


def _blocks_of_pairs(number: int, coordinates: Tensor) -> tuple[Tensor, ...]:
    """Cut the indices of pairs of rows, so that a block of their differences stays in a cache."""
    return torch.arange(number, device=coordinates.device).split(max(1, _BLOCK // coordinates.shape[1]))
