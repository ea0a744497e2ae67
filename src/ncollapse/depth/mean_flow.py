"""The flow of class means: the affine-invariant geodesic between two Gram matrices, what it costs, and how paths compare."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor

from ncollapse.etf import helmert_basis

# Directions in which the means spread less than this share of the largest spread do not count, as for the K-gon.
_RESOLVED = 1e-6
# Between which exponents a path is looked for: the flow has 0, the straight line 1/2.
_EXPONENTS = (-1.5, 2.5)


@dataclass(frozen=True, eq=False)
class MeanFlow:
    r"""The affine-invariant geodesic :math:`G(\tau) = G_0^{1/2} (G_0^{-1/2} G_L G_0^{-1/2})^\tau G_0^{1/2}` of class means.

    G is the Gram matrix of the centered class means on the complement of the vector of ones. The flow multiplies: each
    direction grows by one factor per unit of time. Blocks :math:`h + Wh` that bring :math:`G_0` to :math:`G_L` at the least sum
    of squared weights take it (docs/theory.md, 3.16). All paths :math:`G_0^{1/2} ((1-s) I + s R^q)^{1/q} G_0^{1/2}`
    with :math:`R = G_0^{-1/2} G_L G_0^{-1/2}` have the same ends: q → 0 is the flow, q = 1/2 a straight line of class means.

    Attributes:
        squared_lengths: Squared lengths of the columns of :math:`C = G_0^{1/2} P`, P the eigenvectors of R; shape (K-1,).
        products: Squared entries of :math:`C^T C`, shape (K-1, K-1): all that PFC2 needs.
        growth: :math:`\log \rho_i`, half the logarithms of the eigenvalues of R, falling, shape (K-1,).

    Reference:
        Derived here; we did not search the literature for it.
    """

    squared_lengths: Tensor
    products: Tensor
    growth: Tensor

    @classmethod
    def between(cls, first: Tensor, last: Tensor) -> MeanFlow | None:
        """Return the flow between class means (K, d) of two layers; None if either Gram matrix is not of full rank K-1.

        The layers may have different dimensions, each K-1 or more.
        """
        start, end = _reduced(first), _reduced(last)
        if not (_has_full_rank(start) and _has_full_rank(end)):
            return None
        left, values, _ = torch.linalg.svd(start, full_matrices=False)
        frame, ratios, _ = torch.linalg.svd((left / values) @ (left.T @ end), full_matrices=False)
        columns = (left * values) @ (left.T @ frame)
        gram = columns.T @ columns
        return cls(gram.diagonal().clone(), gram.square(), ratios.log())

    def pfc2(self, times: Sequence[float], exponent: float = 0.0) -> Tensor:
        """Return PFC2 at times from 0 to 1 of the flow, or of the path of another exponent; known to about 1e-8."""
        return self._distance(self._factors(torch.as_tensor(times, dtype=torch.float64), exponent))

    def position(self, times: Sequence[float]) -> Tensor:
        r"""Return where the flow is on its own chord, :math:`t(\tau)`, which always rises from 0 to 1.

        With :math:`A = \tfrac12 \log R`:
        :math:`t(\tau) = \mathrm{tr}\, G_0 (e^{\tau A} - 1)(e^A - 1) / \mathrm{tr}\, G_0 (e^A - 1)^2`.
        """
        return self._position(torch.as_tensor(times, dtype=torch.float64))

    def _position(self, times: Tensor) -> Tensor:
        ends = torch.expm1(self.growth)
        moved = torch.expm1(times[..., None] * self.growth)
        return (moved * ends) @ self.squared_lengths / (ends.square() @ self.squared_lengths)

    def time_at(self, positions: Sequence[float]) -> list[float]:
        """Return the times at which the flow is at these positions on its chord; nan beyond times -1 and 2."""
        return _crossings(self._position, positions, -1.0, 2.0)[0].tolist()

    def cost_bound(self, num_blocks: int, power: float = 2.0) -> float:
        r"""Return the least :math:`\sum_l \sum_i \sigma_i(W_l)^r` of blocks :math:`I + W_l` between the two Gram matrices.

        :math:`L \sum_i (\rho_i^{1/L} - 1)_+^r` for L blocks and r ≥ 1: Proposition B of docs/theory.md, 3.16. It is
        attained iff nothing has to shrink, by the flow at equal times.
        """
        steps = torch.expm1(self.growth / num_blocks).clamp(min=0)
        return float(num_blocks * (steps**power).sum())

    @property
    def squared_distance(self) -> float:
        r"""Squared length :math:`d^2 = \sum_i \log^2 \rho_i` of the flow, half the affine-invariant distance, squared.

        Blocks :math:`h + Wh/\sigma(t)` of a continuous depth cost at least :math:`d^2 / \int \sigma^{-2}` (Proposition C).
        """
        return float(self.growth.square().sum())

    def exponent(self, traces: Sequence[float], pfc2: Sequence[float]) -> float:
        r"""Return the exponent q whose path comes nearest to the layers' PFC2 where its trace is theirs: no clock is assumed.

        Args:
            traces: tr G of every layer, the ends included.
            pfc2: PFC2 of every layer.

        Returns:
            q between -1.5 and 2.5, by the least RMS of log10 over interior layers; nan if there are none, if a trace is not
            between those of the ends, or if the least is at a bound.
        """
        measured = torch.tensor(pfc2[1:-1], dtype=torch.float64)
        lengths = [float(self.squared_lengths.sum()) * trace / traces[0] for trace in traces[1:-1]]
        low, high = _EXPONENTS
        for _ in range(4):
            grid = torch.linspace(low, high, 41, dtype=torch.float64)[:, None]
            shares = partial(self._squared_length, exponent=grid)
            times = _crossings(shares, lengths, 0.0, 1.0, len(grid))
            errors = (self._distance(self._factors(times, grid)) / measured).log10().square().mean(dim=1)
            best = int(errors.argmin())
            if not bool(torch.isfinite(errors).all()) or grid[best] in _EXPONENTS:
                return math.nan
            low, high = float(grid[max(best - 1, 0)]), float(grid[min(best + 1, 40)])
        return float(grid[best])

    def _squared_length(self, times: Tensor, exponent: Tensor) -> Tensor:
        return self._factors(times, exponent) @ self.squared_lengths

    def _factors(self, times: Tensor, exponent: Tensor | float) -> Tensor:
        """Return by what each direction's squared length is multiplied, with a last axis of directions."""
        times, q = times[..., None], torch.as_tensor(exponent, dtype=torch.float64)[..., None]
        mean = (times * torch.expm1(2 * q * self.growth)).log1p() / torch.where(q == 0, 1.0, q)
        return torch.where(q == 0, 2 * times * self.growth, mean).exp()

    def _distance(self, factors: Tensor) -> Tensor:
        norms = ((factors @ self.products) * factors).sum(dim=-1).sqrt()
        cosines = factors @ self.squared_lengths / (norms * math.sqrt(len(self.growth)))
        return (2 * (1 - cosines)).clamp(min=0).sqrt()


def mean_path_cost(means: Sequence[Tensor], power: float = 2.0) -> float:
    r"""Return the cost of a path of class means, :math:`\sum_l \sum_i \sigma_i(W_l)^r` of the least maps from layer to layer.

    :math:`W_l = (M_{l+1} - M_l) M_l^+` is the smallest linear map by which :math:`I + W_l` takes the centered class means of a
    layer (columns) to those of the next. The cost is at least ``MeanFlow.cost_bound`` of the ends, whatever the network is;
    what a network's own weights cost is another number.

    Args:
        means: Class means (K, d) of every layer, of one dimension.
        power: r, 1 or more: 2 for one linear layer per block under weight decay, 1 for two.

    Returns:
        The cost; nan where a layer but the last has a Gram matrix that is not of full rank.
    """
    layers, total = [_reduced(each) for each in means], 0.0
    for before, after in pairwise(layers):
        if not _has_full_rank(before):
            return math.nan
        left, values, _ = torch.linalg.svd(before, full_matrices=False)
        step = (left / values).T @ (after - before)
        total += float((torch.linalg.svdvals(step) ** power).sum())
    return total


def _reduced(means: Tensor) -> Tensor:
    """Return the rows of class means in a basis of the complement of the vector of ones, (K-1, d)."""
    means = means.double().cpu()
    if len(means) < 2:
        return means[:0]
    return helmert_basis(len(means)) @ (means - means.mean(dim=0))


def _has_full_rank(rows: Tensor) -> bool:
    """Test whether all directions of rows are resolved."""
    if not 0 < len(rows) <= rows.shape[1] or not bool(torch.isfinite(rows).all()):
        return False
    values = torch.linalg.svdvals(rows)
    return bool(values[-1] > _RESOLVED * values[0])


def _crossings(function: Callable[[Tensor], Tensor], levels: Sequence[float], low: float, high: float, rows: int = 1) -> Tensor:
    """Return where functions, one a row, cross each level once between two times; nan where it is not between the ends."""
    target = torch.tensor(levels, dtype=torch.float64).expand(rows, -1)
    lower, upper = torch.full_like(target, low), torch.full_like(target, high)
    start, end = function(lower), function(upper)
    sign = (end - start).sign()
    inside = (sign * (target - start) >= 0) & (sign * (end - target) >= 0) & (sign != 0)
    for _ in range(60):
        middle = (lower + upper) / 2
        below = sign * (function(middle) - target) < 0
        lower, upper = torch.where(below, middle, lower), torch.where(below, upper, middle)
    return torch.where(inside, (lower + upper) / 2, math.nan)
