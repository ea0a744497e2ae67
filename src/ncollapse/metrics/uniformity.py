"""Generalized NC2 and NC3: uniformity of the class means on the sphere and of the classifier's alignment with them.

An energy is the mean, over pairs of directions i < j, of a kernel: "log", "riesz" with an exponent s, or "distance" (see
``pair_energy``). It is nan for a single row, if a row is zero, or if two rows have the same direction (except for "distance").
A variation is a "std", "var", or "cov", the standard deviation over the mean's absolute value.

Reference:
    Liu et al. (2023), ICLR, "Generalizing and decoupling neural collapse via hyperspherical uniformity gap", for the energies;
    Wu & Papyan (2024), NeurIPS, "Linguistic collapse", for the variations (their code reports mean and std).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from ncollapse.metrics.pairs import TILE, PairTile, add_pairs
from ncollapse.polytopes import hull_distances

Kernel = Literal["log", "riesz", "distance"]
Variation = Literal["std", "cov", "var"]

# Unit vectors nearer to each other than this are equal up to rounding.
_COINCIDENT = 16 * torch.finfo(torch.float64).eps
# Squared distances below twice this are computed from explicit differences, since 2 - 2 cos would lose their digits.
_NEAR = 5e-3


@dataclass(frozen=True, eq=False)
class PairEnergy:
    r"""Mean and standard deviation of a kernel over all pairs of unit vectors, in units of ``exp(log_scale)``.

    With a large exponent the values of a Riesz kernel leave the range of float64; the scale keeps them representable. It is 0
    for the other kernels.

    Attributes:
        mean: Mean over pairs i < j, 0-d, float64.
        std: Standard deviation over pairs (divided by their number), 0-d, float64.
        log_scale: Natural logarithm of the unit of both, 0-d, float64.
    """

    mean: Tensor
    std: Tensor
    log_scale: Tensor

    @property
    def energy(self) -> Tensor:
        """The mean itself; inf or 0 if it leaves the range of float64."""
        return self.mean * torch.exp(self.log_scale)

    @property
    def log_energy(self) -> Tensor:
        """Natural logarithm of the mean's absolute value, at any exponent."""
        return self.mean.abs().log() + self.log_scale

    def variation(self, statistic: Variation = "std") -> Tensor:
        """Return how much the kernel differs between pairs; 0 if all pairs are at one distance.

        Raises:
            ValueError: If the statistic is unknown.
        """
        _check_statistic(statistic)
        if statistic == "cov":
            return self.std / self.mean.abs()
        value = self.std * torch.exp(self.log_scale)
        return value if statistic == "std" else value.square()


def pair_energy(rows: Tensor, *, kernel: Kernel = "log", exponent: float | None = None, tile: int = TILE) -> PairEnergy:
    r"""Return mean and deviation of a kernel over all pairs of unit vectors :math:`v_k = r_k / \lVert r_k \rVert`.

    "log": :math:`-\log \lVert v_i - v_j \rVert`; "riesz": :math:`\mathrm{sign}(s) \lVert v_i - v_j \rVert^{-s}`; "distance":
    :math:`\lVert v_i - v_j \rVert`. Mean and deviation of the tiles are merged exactly (Chan), in one pass, O(tile²) memory.

    Args:
        kernel: One of the three above.
        exponent: s of the Riesz kernel, not 0; None is d - 2 as in the code of Wu & Papyan (1 for d = 2).
        tile: Rows of a tile; it changes the result by rounding only.

    Raises:
        ValueError: If the kernel is unknown, the exponent is 0, or the tile is not positive.
    """
    if kernel not in get_args(Kernel):
        raise ValueError(f"kernel must be one of {', '.join(get_args(Kernel))}, got {kernel!r}. Pick one of these.")
    power = float(rows.shape[1] - 2 or 1) if exponent is None else float(exponent)
    if power == 0:
        raise ValueError("exponent must not be 0, got 0. Pass a positive s, or kernel='log' for the limit s → 0.")
    if tile < 1:
        raise ValueError(f"tile must be at least 1, got {tile}. Pass a positive number of rows.")
    sums = EnergySums(rows, kernel, power)
    add_pairs(rows, [sums], tile)
    return sums.result()


class EnergySums:
    """Running mean and sum of squared deviations of a kernel, over tiles of pairs that each have their own unit."""

    def __init__(self, rows: Tensor, kernel: Kernel = "log", exponent: float = 1.0) -> None:
        self.kernel, self.exponent = kernel, exponent
        self.norms = torch.linalg.vector_norm(rows, dim=-1)
        self.units = rows / self.norms.unsqueeze(-1)
        self.ones = torch.ones_like(self.norms)
        self.count = 0
        self.mean, self.squares = rows.new_zeros(rows.shape[:-2]), rows.new_zeros(rows.shape[:-2])
        self.log_scale = rows.new_full(rows.shape[:-2], -math.inf)

    def add(self, tile: PairTile) -> None:
        """Add the pairs of one tile."""
        cosines = tile.products / self.norms[..., tile.first].unsqueeze(-1) / self.norms[..., tile.second].unsqueeze(-2)
        squared = tile._replace(products=cosines).squared_distances(self.ones, self.units, _NEAR)
        values, log_scale = _kernel_values(tile.pairs(squared), self.kernel, self.exponent)
        size = values.shape[-1]
        if size == 0:
            return
        scale = torch.maximum(self.log_scale, log_scale)
        # Both sides are first brought to the larger unit, then merged as in ClassMoments.merge.
        old_factor, new_factor = torch.exp(self.log_scale - scale), torch.exp(log_scale - scale)
        mean = values.mean(dim=-1)
        squares = (values - mean.unsqueeze(-1)).square().sum(dim=-1) * new_factor.square()
        count, delta = self.count + size, mean * new_factor - self.mean * old_factor
        share = size / count
        self.squares = self.squares * old_factor.square() + squares + delta.square() * self.count * share
        self.mean, self.count, self.log_scale = self.mean * old_factor + delta * share, count, scale

    def result(self) -> PairEnergy:
        """Return mean and standard deviation."""
        if self.count == 0:
            nan = self.mean * math.nan
            return PairEnergy(nan, nan, nan)
        return PairEnergy(self.mean, (self.squares / self.count).sqrt(), self.log_scale)


def _kernel_values(squared: Tensor, kernel: Kernel, exponent: float) -> tuple[Tensor, Tensor]:
    """Compute kernel values over exp(log_scale), and log_scale; nan if directions coincide and the kernel is singular."""
    zero = squared.new_zeros(squared.shape[:-1])
    if kernel == "distance":
        return squared.sqrt(), zero
    log_distance = 0.5 * torch.where(squared > _COINCIDENT**2, squared, math.nan).log()
    if kernel == "log":
        return -log_distance, zero
    logs = -exponent * log_distance
    scale = logs.amax(dim=-1) if logs.shape[-1] else zero
    return math.copysign(1.0, exponent) * torch.exp(logs - scale.unsqueeze(-1)), scale


def hyperspherical_energy(rows: Tensor, *, kernel: Kernel = "log", exponent: float | None = None) -> Tensor:
    r"""Return the hyperspherical energy, the mean of ``pair_energy``.

    The log energy is at least :math:`-\frac{1}{2} \log(2K/(K-1))`, and only a simplex ETF attains this (K <= d+1).

    Example:
        >>> from ncollapse.etf import simplex_etf
        >>> round(float(hyperspherical_energy(simplex_etf(5, 8))), 6)
        -0.458145
    """
    return pair_energy(rows, kernel=kernel, exponent=exponent).energy


def hyperspherical_variation(
    rows: Tensor, *, kernel: Kernel = "log", exponent: float | None = None, statistic: Variation = "std"
) -> Tensor:
    """Return GNC2, the variation over pairs of the kernel whose mean is the hyperspherical energy, in [0, inf).

    0 whenever all directions are equally far apart; trivially for K = 2. Unlike NC2 it is meaningful for K > d + 1, for which
    no simplex ETF exists.
    """
    return pair_energy(rows, kernel=kernel, exponent=exponent).variation(statistic)


def one_vs_rest_distance(rows: Tensor) -> Tensor:
    r"""Return the one-versus-rest distance of directions, :math:`\min_k \mathrm{dist}(u_k, \mathrm{conv}\{u_l : l \ne k\})`.

    :math:`u_k = v_k / \lVert v_k \rVert`, and conv is the convex hull. It is the largest margin at which every direction is
    separated from all others by a plane. In [0, 2]: 0 if a direction lies in the hull of others; nan if a row is zero or K = 1.
    One problem of least squares for each row, in min(K, d) + 1 dimensions.

    Reference:
        Jiang et al. (2024), ICML, arXiv 2310.05351.

    Example:
        >>> from ncollapse.etf import simplex_etf
        >>> round(one_vs_rest_distance(simplex_etf(5, 8)).item(), 6)
        1.25
    """
    if rows.ndim > 2:
        return torch.stack([one_vs_rest_distance(layer) for layer in rows])
    units = rows / torch.linalg.vector_norm(rows, dim=-1, keepdim=True)
    if len(rows) < 2 or not torch.isfinite(units).all():
        return rows.sum() * math.nan
    if rows.shape[1] > len(rows):
        # The same inner products in fewer coordinates.
        units = torch.linalg.qr(units.T)[1].T
    return rows.new_tensor(hull_distances(units.cpu().numpy()).min())


def softmax_code_gap(rows: Tensor) -> Tensor:
    r"""Return how far the one-versus-rest distance of the rows falls short of a softmax code's, which is the largest possible.

    :math:`1 - \rho / \rho^*` with the distance ρ of ``one_vs_rest_distance``. Its maximum ρ* over K unit vectors of size d is
    K/(K-1) for K <= d+1, which only a simplex ETF has, and :math:`1 - \cos(2\pi/K)` for d = 2, which only a regular polygon
    has. It is 1 for d+1 < K <= 2d: the orthoplex has it, and so have simplices in orthogonal subspaces.

    In [0, 1]; identically 0 for K = 2. nan if a row is zero, and for K > 2d > 4, where no closed form of ρ* is known. Norms do
    not matter: see ``equinorm``.

    Args:
        rows: Centered class means, or classifier rows, shape (K, d), float64. A code whose vectors do not sum to zero, as an
            orthoplex without some of its corners, is moved by centering.

    Reference:
        Jiang et al. (2024), ICML, arXiv 2310.05351; for d+1 < K <= 2d also Alcala et al. (2026), arXiv 2603.20587.

    Example:
        >>> triangles = torch.block_diag(*[torch.eye(3, dtype=torch.float64) - 1 / 3] * 2)
        >>> round(softmax_code_gap(triangles @ torch.linalg.svd(triangles)[0][:, :4]).item(), 6)
        0.0
    """
    num_classes, dim = rows.shape[-2:]
    if num_classes <= dim + 1:
        largest = num_classes / max(1, num_classes - 1)
    elif dim == 2:
        largest = 1 - math.cos(2 * math.pi / num_classes)
    elif num_classes <= 2 * dim:
        largest = 1.0
    else:
        return rows.sum(dim=(-2, -1)) * math.nan
    # Rounding may exceed the maximum.
    return (1 - one_vs_rest_distance(rows) / largest).clamp(min=0)


def uniform_duality(weight: Tensor, centered_means: Tensor, *, statistic: Variation = "std") -> Tensor:
    r"""Return UNC3, the variation over classes of :math:`\cos(w_k, \mu_k - \mu)`, classifier row against class mean.

    It measures whether all classes are equally aligned, not how well; in [0, 1] for "std". Invariant to the scale of single
    rows of either argument too. nan if a row is zero.
    """
    norms = torch.linalg.vector_norm(weight, dim=-1) * torch.linalg.vector_norm(centered_means, dim=-1)
    return _variation((weight * centered_means).sum(dim=-1) / norms, statistic)


def log_equinorm(rows: Tensor, *, statistic: Variation = "std") -> Tensor:
    r"""Return the variation over classes of the log norms, :math:`\log \lVert v_k \rVert`, in [0, inf).

    For "std" it is close to ``equinorm`` if that is small; "cov" is not invariant to scale. nan if a row is zero.
    """
    return _variation(torch.linalg.vector_norm(rows, dim=-1).log(), statistic)


def _variation(values: Tensor, statistic: Variation) -> Tensor:
    _check_statistic(statistic)
    std = torch.std(values, dim=-1, correction=0)
    return {"std": std, "var": std.square(), "cov": std / values.mean(dim=-1).abs()}[statistic]


def _check_statistic(statistic: str) -> None:
    if statistic not in get_args(Variation):
        raise ValueError(f"statistic must be one of {', '.join(get_args(Variation))}, got {statistic!r}. Pick one of these.")
