"""Bounds of the Wasserstein-2 distance for samples too large for an assignment, and the rate of pairs that cross."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ncollapse.default_device import on_the_cpu
from ncollapse.depth.transport import checked_pair

_BLOCK_ELEMENTS = 2**22
_FEWEST_DIRECTIONS = 200


@dataclass(frozen=True)
class SlicedBound:
    r"""Lower bounds of :math:`W_2^2` from projections on lines.

    Attributes:
        maximum: :math:`\max_\theta W_2^2(\theta)` over the directions drawn: a bound whatever was drawn, weak for large d.
        scaled_mean: :math:`d` times the mean over directions. It estimates
            :math:`d\, \mathbb{E}_\theta W_2^2(\theta) \le W_2^2`, and may itself exceed :math:`W_2^2` by chance.
        standard_error: Standard error of ``scaled_mean``, from the spread over directions.
    """

    maximum: float
    scaled_mean: float
    standard_error: float
    num_directions: int


@on_the_cpu
def sliced_wasserstein2(first: Tensor, last: Tensor, *, num_directions: int = 500, seed: int = 0) -> SlicedBound:
    r"""Return sliced lower bounds of the squared Wasserstein-2 distance, in O(N log N) per direction.

    On a line, optimal transport pairs the sorted samples: :math:`W_2^2(\theta) = \frac{1}{N} \sum_i (\langle\theta,
    x\rangle_{(i)} - \langle\theta, y\rangle_{(i)})^2`. For θ uniform on the sphere :math:`\mathbb{E}_\theta \langle\theta,
    v\rangle^2 = \lVert v \rVert^2 / d`, which explains the factor d. For d = 1 both bounds are exact.

    Args:
        num_directions: Directions to draw, 200 or more.

    Raises:
        ValueError: If the shapes differ or there are too few directions for the mean.

    Reference:
        Rabin, Peyré, Delon & Bernot (2012), SSVM; the factor d: docs/theory.md, 3.8.
    """
    x, y = checked_pair(first, last)
    if num_directions < _FEWEST_DIRECTIONS:
        raise ValueError(
            f"num_directions must be {_FEWEST_DIRECTIONS} or more for a mean over directions, got {num_directions}. "
            "The default is 500."
        )
    directions = torch.randn(num_directions, x.shape[1], generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    directions = torch.nn.functional.normalize(directions, dim=1).to(x.device)
    block = max(1, _BLOCK_ELEMENTS // len(x))
    distances = torch.cat(
        [((x @ d.T).sort(dim=0).values - (y @ d.T).sort(dim=0).values).square().mean(dim=0) for d in directions.split(block)]
    )
    scaled = distances * x.shape[1]
    return SlicedBound(
        float(distances.max()), float(scaled.mean()), float(scaled.std() / math.sqrt(num_directions)), num_directions
    )


@dataclass(frozen=True, eq=False)
class SwapBound:
    r"""An upper bound of :math:`W_2^2` with the pairing that attains it.

    Attributes:
        cost: :math:`\frac{1}{N} \sum_i \lVert x_i - y_{\sigma(i)} \rVert^2`, at most the cost of the identity.
        swaps: Swaps that were made.
        order: σ, shape (N,).
    """

    cost: float
    swaps: int
    order: Tensor


@on_the_cpu
def swap_bound(first: Tensor, last: Tensor, *, rounds: int = 1000, seed: int = 0) -> SwapBound:
    r"""Return an upper bound of :math:`W_2^2` at any number of rounds: the given pairing, improved by swaps (2-opt).

    Every round, in O(N d), matches the samples at random in pairs, and swaps the targets of those with :math:`\langle x_i -
    x_j, y_{\sigma(i)} - y_{\sigma(j)} \rangle < 0`. This lowers the total by twice that product. For d > 1 a pairing without
    such pairs need not be optimal: longer cycles may be left.

    Args:
        rounds: Number of random matchings; about N of them visit every pair once.

    Raises:
        ValueError: If the shapes differ.
    """
    x, y = checked_pair(first, last)
    generator = torch.Generator().manual_seed(seed)
    order, half, swaps = torch.arange(len(x), device=x.device), len(x) // 2, 0
    for _ in range(rounds):
        matching = torch.randperm(len(x), generator=generator).to(x.device)
        i, j = matching[:half], matching[half : 2 * half]
        crossing = _products(x, y[order], i, j) < 0
        i, j = i[crossing], j[crossing]
        order[i], order[j] = order[j], order[i]
        swaps += len(i)
    return SwapBound(float((x - y[order]).square().sum(dim=1).mean()), swaps, order.cpu())


@dataclass(frozen=True)
class PairViolations:
    r"""The number of pairs of samples that a swap would improve: 0 is necessary for an optimal pairing, not sufficient.

    Attributes:
        violating: Pairs with :math:`\langle x_i - x_j, y_i - y_j \rangle < 0`.
        exact: Whether these were all pairs, each once.
    """

    violating: int
    num_pairs: int
    exact: bool

    @property
    def rate(self) -> float:
        """Share of violating pairs in [0, 1]; nan without pairs."""
        return self.violating / self.num_pairs if self.num_pairs else math.nan


@on_the_cpu
def pair_violations(first: Tensor, last: Tensor, *, num_pairs: int = 10**6, seed: int = 0) -> PairViolations:
    """Return the number of pairs of samples that a swap of their targets would improve.

    Args:
        num_pairs: If there are at most so many pairs, all are counted; else so many are drawn, with replacement.

    Raises:
        ValueError: If the shapes differ or no pair is wanted.
    """
    x, y = checked_pair(first, last)
    if num_pairs < 1:
        raise ValueError(f"num_pairs must be 1 or more, got {num_pairs}. The default is a million.")
    count = len(x)
    exact = count * (count - 1) // 2 <= num_pairs
    if exact:
        i, j = torch.triu_indices(count, count, 1)
    else:
        generator = torch.Generator().manual_seed(seed)
        i = torch.randint(count, (num_pairs,), generator=generator)
        j = torch.randint(count - 1, (num_pairs,), generator=generator)
        j += j >= i  # any other sample, all with the same chance
    return PairViolations(_num_crossing(x, y, i.to(x.device), j.to(x.device)), len(i), exact)


def _num_crossing(x: Tensor, y: Tensor, i: Tensor, j: Tensor) -> int:
    """Count the pairs with a negative product of differences."""
    surely = 0
    if len(x) ** 2 <= _BLOCK_ELEMENTS:
        # One product of all samples shows the sign of nearly all pairs, for a twentieth of the cost. The pairs within its
        # rounding, at most 4 (d + 3) u |x| |y| here and as much for the differences, are left.
        products = x @ y.T
        own = products.diagonal()
        values = own[i] + own[j] - products[i, j] - products[j, i]
        lengths = (torch.linalg.vector_norm(part, dim=1).amax() for part in (x, y))
        rounding = 8 * (x.shape[1] + 8) * torch.finfo(torch.float64).eps * math.prod(lengths)
        surely, left = int((values < -rounding).sum()), ~(values.abs() > rounding)
        i, j = i[left], j[left]
    block = max(1, _BLOCK_ELEMENTS // max(1, x.shape[1]))
    pairs = zip(i.split(block), j.split(block), strict=True)
    return surely + sum(int((_products(x, y, a, b) < 0).sum()) for a, b in pairs)


def _products(x: Tensor, y: Tensor, i: Tensor, j: Tensor) -> Tensor:
    """Compute ⟨x_i − x_j, y_i − y_j⟩ from differences, since the four separate products would cancel for near samples."""
    return ((x[i] - x[j]) * (y[i] - y[j])).sum(dim=1)
