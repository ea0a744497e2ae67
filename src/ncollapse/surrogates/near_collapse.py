"""The multilayer model on data that are nearly collapsed, in closed form to first order."""

from __future__ import annotations

import math
from dataclasses import KW_ONLY, dataclass, replace
from functools import cached_property

import torch
from scipy.optimize import brentq
from torch import Tensor

from ncollapse.surrogates.mufm import MUFM
from ncollapse.surrogates.solving.arguments import check_balanced, check_counts, check_positive
from ncollapse.surrogates.solving.solution import Solution


@dataclass(frozen=True)
class NearCollapse:
    r"""The multilayer model (``MUFM``, mean squared error, no bias) on features close to an orthogonal frame.

    .. math:: \min_{W, H} \frac{1}{2N} \lVert W H - Y \rVert^2 + \frac{\lambda_W}{2} \lVert W \rVert^2
        + \frac{\lambda_H}{2} \lVert H - X \rVert^2

    Let :math:`X = a Q_y + E` with :math:`Q^T Q = I_K` and a small E that is centered in every class. To first order the
    minimizer is :math:`H^* = m Q_y + S E` and :math:`W = w Q^T`. Here m > a solves :math:`\lambda_H N (m - a) = K \lambda_W m /
    (m^2 + K \lambda_W)^2`, and :math:`w = m/(m^2 + K \lambda_W)`. S is :math:`\sigma = \lambda_H / (w^2/N + \lambda_H)` on the
    span of Q and 1 outside.

    Attributes:
        counts: Samples of each class, all alike: ``balanced(K, n)``.
        scale: a, with :math:`3 a^2 \ge K \lambda_W`, so that moving inwards never pays.
        lambda_w: λ_W, positive.
        lambda_h: λ_H, cost of moving, summed over samples, positive.

    Reference:
        Tirer, Huang & Niles-Weed (2023), ICML, for the model; the formulas are derived.

    Example:
        >>> model = NearCollapse((25,) * 4, scale=1.3, lambda_w=0.05, lambda_h=0.02)
        >>> round(model.weight_scale, 10), round(model.feature_scale, 10), round(model.shrink, 10)
        (0.6738724571, 1.3340397714, 0.8149613578)
    """

    counts: tuple[int, ...]
    _: KW_ONLY
    scale: float
    lambda_w: float
    lambda_h: float

    def __post_init__(self) -> None:
        check_counts(self.counts)
        check_balanced(self.counts, "NearCollapse")
        check_positive(scale=self.scale, lambda_w=self.lambda_w, lambda_h=self.lambda_h)
        if 3 * self.scale**2 < self.num_classes * self.lambda_w:
            least = math.sqrt(self.num_classes * self.lambda_w / 3)
            raise ValueError(f"The formula needs scale >= √(K λ_W / 3) = {least:.6g}, got {self.scale}. Scale the features up.")

    @classmethod
    def from_means(cls, counts: tuple[int, ...], *, scale: float, lambda_w: float, lambda_h: float) -> NearCollapse:
        r"""Make the model from the decays of the paper, which are of means: :math:`\lambda_W/2K` and :math:`\lambda_H/2Kn`."""
        return cls(counts, scale=scale, lambda_w=lambda_w / len(counts), lambda_h=lambda_h / sum(counts))

    @property
    def num_classes(self) -> int:
        """The number of classes, K."""
        return len(self.counts)

    @cached_property
    def feature_scale(self) -> float:
        """The scale m of the class means at the minimizer, which is larger than that of the data."""
        decay, price = self.num_classes * self.lambda_w, self.lambda_h * self.num_classes * self.counts[0]

        def slope(m: float) -> float:
            return price * (m - self.scale) - decay * m / (m**2 + decay) ** 2

        # The pull falls with m, so that it moves the means by no more than it would at the start.
        return float(brentq(slope, self.scale, self.scale - slope(self.scale) / price, xtol=1e-15, rtol=1e-15))

    @property
    def weight_scale(self) -> float:
        """The scale w of the classifier."""
        return self.feature_scale / (self.feature_scale**2 + self.num_classes * self.lambda_w)

    @property
    def shrink(self) -> float:
        """The factor σ < 1 on deviations within the span of the class means."""
        samples = sum(self.counts)
        return self.lambda_h / (self.weight_scale**2 / samples + self.lambda_h)

    def ratio(self, inside: float, outside: float) -> float:
        r"""Compute PFC1 of the minimizer over PFC1 of the data.

        Args:
            inside: v_in, squared norm of the deviations in the span of the class means, :math:`\lVert Q^T E \rVert^2`.
            outside: v_out, that of the rest.

        Returns:
            :math:`(a/m)^2 (\sigma^2 v_{in} + v_{out}) / (v_{in} + v_{out})`, below 1.

        Raises:
            ValueError: If one is negative or both are zero.
        """
        if min(inside, outside) < 0 or inside + outside <= 0:
            raise ValueError(
                f"Squared norms must be at least 0 and not both 0, got {inside} and {outside}. Pass those that spread() "
                "computes."
            )
        kept = (self.shrink**2 * inside + outside) / (inside + outside)
        return (self.scale / self.feature_scale) ** 2 * kept

    def sensitivities(self, inside: float, outside: float) -> tuple[float, float]:
        """Differentiate log ``ratio`` by log λ_H and by log λ_W. In the paper the first is by far the larger one."""

        def change(name: str) -> float:
            ratios = [
                replace(self, **{name: getattr(self, name) * math.exp(step)}).ratio(inside, outside) for step in (1e-5, -1e-5)
            ]
            return math.log(ratios[0] / ratios[1]) / 2e-5

        return change("lambda_h"), change("lambda_w")

    def inputs(self, dim: int, noise: float, seed: int) -> tuple[Tensor, Tensor]:
        """Draw data with class means on the first axes and normal deviations of size ``noise``, centered in every class.

        Returns:
            X of shape (N, d) and sorted labels.

        Raises:
            ValueError: If d < K.
        """
        if dim < self.num_classes:
            raise ValueError(f"Orthogonal class means need dim >= {self.num_classes}, got {dim}. Raise dim.")
        generator = torch.Generator().manual_seed(seed)
        spread = noise * torch.randn(self.num_classes, self.counts[0], dim, generator=generator, dtype=torch.float64)
        spread = spread - spread.mean(dim=1, keepdim=True)
        means = self.scale * torch.eye(self.num_classes, dim, dtype=torch.float64)
        labels = torch.arange(self.num_classes).repeat_interleave(self.counts[0])
        return (means.unsqueeze(1) + spread).reshape(-1, dim), labels

    def problem(self, inputs: Tensor, labels: Tensor) -> MUFM:
        """Make the multilayer model on data of shape (N, d)."""
        return MUFM(inputs, labels, lambda_w=self.lambda_w, lambda_h=self.lambda_h)

    def spread(self, inputs: Tensor) -> tuple[float, float]:
        """Compute the arguments of ``ratio`` from data."""
        grouped = inputs.reshape(self.num_classes, self.counts[0], -1)
        squares = (grouped - grouped.mean(dim=1, keepdim=True)).square().sum(dim=(0, 1))
        return float(squares[: self.num_classes].sum()), float(squares[self.num_classes :].sum())

    def closed_form(self, inputs: Tensor, labels: Tensor) -> Solution:
        """Return the minimizer to first order in the deviations. Its gap is of second order."""
        K = self.num_classes
        means = torch.eye(K, inputs.shape[1], dtype=torch.float64)
        deviations = inputs - self.scale * means[labels]
        factors = torch.ones(inputs.shape[1], dtype=torch.float64)
        factors[:K] = self.shrink
        point = {"weight": self.weight_scale * means, "features": self.feature_scale * means[labels] + factors * deviations}
        return self.problem(inputs, labels).solution(point, "first order in the deviations")
