"""Sums over all pairs of rows, in one walk over tiles of their inner products that every metric of pairs shares."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from ncollapse.statistics.moments import symmetric_product

# Rows of a tile of pairs. 512² float64 numbers are 2 MB, so that 50 000 classes need no K×K matrix.
TILE = 256
REPORT_TILES: ContextVar[Callable[[int, int], None] | None] = ContextVar("REPORT_TILES", default=None)
"""What a walk over more than one tile calls after each, with the tiles done and all of them; a measurement sets it."""
# Numbers of one block of explicit differences.
_BLOCK = 2**18


class PairTile(NamedTuple):
    """The pairs of rows of one slice with rows of another."""

    first: slice  # slice of the rows i
    second: slice  # slice of the rows j
    products: Tensor  # inner products, shape (..., i, j)
    keep: Tensor | None  # which pairs have i < j, shape (i, j); None if all have

    def pairs(self, values: Tensor) -> Tensor:
        """Return the values of the pairs i < j, shape (..., P)."""
        return values.flatten(-2) if self.keep is None else values[..., self.keep]

    def sums(self, per_row: Tensor) -> Tensor:
        """Add a number of row i and one of row j, shape (..., i, j)."""
        return per_row[..., self.first].unsqueeze(-1) + per_row[..., self.second].unsqueeze(-2)

    def squared_distances(self, squares: Tensor, rows: Tensor, near: float) -> Tensor:
        """Compute squared distances from products and squared norms; those of near pairs, from differences of ``rows``."""
        # |v_i|² + |v_j|² - 2 <v_i, v_j> loses the digits of near pairs, those below this share of the squares.
        sums = self.sums(squares)
        distances = torch.sub(sums, self.products, alpha=2)
        close = distances < near * sums
        if self.keep is not None:
            close &= self.keep
        left, right = rows[..., self.first, :], rows[..., self.second, :]
        for pairs in close.nonzero().split(max(1, _BLOCK // rows.shape[-1])):
            *layer, i, j = pairs.unbind(1)
            distances[(*layer, i, j)] = (left[(*layer, i)] - right[(*layer, j)]).square().sum(dim=-1)
        return distances


class PairSums(Protocol):
    """Sums over pairs, to which tiles are added."""

    def add(self, tile: PairTile) -> None:
        """Add the pairs of one tile."""


def pair_tiles(rows: Tensor, tile: int = TILE) -> Iterator[PairTile]:
    """Yield all pairs i < j of rows of shape (..., K, d)."""
    num_rows = rows.shape[-2]
    for start in range(0, num_rows, tile):
        first = slice(start, min(start + tile, num_rows))
        for other in range(start, num_rows, tile):
            second = slice(other, min(other + tile, num_rows))
            products = rows[..., first, :] @ rows[..., second, :].mT
            keep = torch.ones(products.shape[-2:], dtype=torch.bool, device=rows.device).triu(1) if start == other else None
            yield PairTile(first, second, products, keep)


def add_pairs(rows: Tensor, sums: Sequence[PairSums], tile: int = TILE) -> None:
    """Add all pairs of rows to several sums."""
    report, parts = REPORT_TILES.get(), -(-rows.shape[-2] // tile)
    for done, pairs in enumerate(pair_tiles(rows, tile), start=1):
        for total in sums:
            total.add(pairs)
        if report is not None and parts > 1:
            report(done, parts * (parts + 1) // 2)


def cosine_spread(rows: Tensor) -> Tensor:
    r"""Compute the standard deviation of the cosines over pairs from d×d sums, for more than 2 d rows of shape (..., K, d)."""
    # Let u_k = u + v_k be the rows over their norms, with mean u. The squared deviations of the cosines, summed over ordered
    # pairs k ≠ l, are ‖VᵀV‖² - (tr VᵀV)² / (K-1) + K/2 Σ (|v_k|² - mean |v|²)². Near parallel rows nothing cancels, since only
    # the v enter. Since (tr VᵀV)² <= d ‖VᵀV‖², the difference keeps the share 1 - d/(K-1) of its first term, so with K > 2 d it
    # doubles the rounding at most.
    units = rows / torch.linalg.vector_norm(rows, dim=-1, keepdim=True)
    parts, num_rows = units - units.mean(dim=-2, keepdim=True), rows.shape[-2]
    product, lengths = symmetric_product(parts, parts), parts.square().sum(dim=-1)
    directions = product.square().sum(dim=(-2, -1)) - lengths.sum(dim=-1).square() / (num_rows - 1)
    unequal = (lengths - lengths.mean(dim=-1, keepdim=True)).square().sum(dim=-1)
    return ((directions + num_rows / 2 * unequal) / (num_rows * (num_rows - 1))).sqrt()


def are_many(rows: Tensor) -> bool:
    """Return whether ``cosine_spread`` takes these rows."""
    return rows.shape[-2] > 2 * rows.shape[-1]


class CosineSums:
    """Spread of the cosines between rows, and their distance from those of a simplex ETF."""

    # The spread of many rows needs no pairs. What needs pairs walks over them when it is asked for, unless they were added.

    def __init__(self, rows: Tensor) -> None:
        self.rows, self.norms, self.num_rows = rows, torch.linalg.vector_norm(rows, dim=-1), rows.shape[-2]
        self.num_pairs, self.walked = self.num_rows * (self.num_rows - 1) // 2, False
        # The sum of all cosines follows from that of the unit vectors. Around their mean nothing cancels.
        resultant = (rows / self.norms.unsqueeze(-1)).sum(dim=-2).square().sum(dim=-1)
        self.mean = (resultant - self.num_rows) / (2 * self.num_pairs) if self.num_pairs else resultant * math.nan
        self.deviations, self.squares, self.from_frame = (torch.zeros_like(self.mean) for _ in range(3))

    def add(self, tile: PairTile) -> None:
        """Add the pairs of one tile."""
        self.walked = True
        cosines = tile.pairs(tile.products / self._outer(tile))
        self.from_frame += (cosines + 1.0 / (self.num_rows - 1)).abs().sum(dim=-1) if self.num_rows > 1 else math.nan
        if are_many(self.rows):
            return
        deviations = cosines - self.mean.unsqueeze(-1)
        self.deviations += deviations.sum(dim=-1)
        self.squares += deviations.square().sum(dim=-1)

    def _outer(self, tile: PairTile) -> Tensor:
        return self.norms[..., tile.first].unsqueeze(-1) * self.norms[..., tile.second].unsqueeze(-2)

    def _walk(self) -> None:
        if not self.walked:
            add_pairs(self.rows, [self])

    @property
    def equiangularity(self) -> Tensor:
        """Standard deviation of the cosines over pairs."""
        if not self.num_pairs:
            return self.mean
        if are_many(self.rows):
            return cosine_spread(self.rows)
        self._walk()
        variance = self.squares / self.num_pairs - (self.deviations / self.num_pairs).square()
        return variance.clamp(min=0).sqrt()

    @property
    def max_angle(self) -> Tensor:
        """Mean distance of the cosines from -1/(K-1)."""
        self._walk()
        return self.from_frame / self.num_pairs if self.num_pairs else self.mean
