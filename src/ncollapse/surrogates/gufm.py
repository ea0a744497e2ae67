"""The generalized unconstrained features model: features on the sphere that normalization layers project to."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from functools import cached_property
from typing import Literal

import torch
from scipy.optimize import brentq, minimize_scalar
from torch import Tensor

from ncollapse.etf import helmert_basis, simplex_etf
from ncollapse.statistics.batch import check_labels
from ncollapse.surrogates.solving.arguments import check_balanced, check_choice, check_counts, check_finite, check_positive
from ncollapse.surrogates.solving.losses import LossName
from ncollapse.surrogates.solving.problem import CountsProblem
from ncollapse.surrogates.solving.solution import Certificate, Inequality, Solution, Variables
from ncollapse.surrogates.solving.solvers import LBFGS, GradientDescent


def layer_norm(raw: Tensor) -> Tensor:
    """Center every row of a matrix and scale it to norm one: layer normalization without parameters, over √d."""
    return torch.nn.functional.normalize(raw - raw.mean(dim=1, keepdim=True), dim=1)


@dataclass(frozen=True)
class GUFM(CountsProblem):
    r"""Generalized unconstrained features model, balanced classes.

    .. math:: \min_{W, h_i, b}\; \ell(W H + b 1^T) + \frac{\lambda}{2} \lVert W \rVert^2 \quad \text{with} \quad
        1^T h_i = 0, \quad \lVert h_i \rVert = 1

    This is the objective of a ResNet or transformer with a final normalization layer, without the decay of the other layers.
    Its minimum is therefore a lower bound for every such network of the same λ. For normalization to norm √d take λ/d.

    Attributes:
        counts: Samples of each class, all alike: ``balanced(K, n)``.
        dim: d, at least 2.
        loss: "cross_entropy" or "mse".
        lambda_w: λ, positive.
        bias: "none" or "free"; under "cross_entropy" the best bias is zero.

    Reference:
        arXiv 2505.15239; the optima are derived.

    Example:
        >>> model = GUFM((1, 1, 1, 1), dim=5, lambda_w=5e-3)
        >>> round(model.scale, 10), round(model.minimum, 10)
        (3.0916069111, 0.1430641596)
    """

    counts: tuple[int, ...]
    dim: int
    _: KW_ONLY
    loss: LossName = "cross_entropy"
    lambda_w: float
    bias: Literal["none", "free"] = "none"

    def __post_init__(self) -> None:
        check_choice("loss", self.loss, LossName)
        check_choice("bias", self.bias, Literal["none", "free"])
        check_counts(self.counts)
        check_balanced(self.counts, "GUFM")
        check_positive(lambda_w=self.lambda_w)
        if self.dim < 2:
            raise ValueError(f"dim must be at least 2, got {self.dim}: centering leaves dim - 1 dimensions. Raise dim.")

    solvers = (LBFGS, GradientDescent)

    @cached_property
    def scale(self) -> float:
        r"""The ratio of classifier rows to features at the optimum.

        Cross-entropy: the root s of :math:`\lambda s = 1/(e^{sK/(K-1)} + K - 1)`. MSE: :math:`r/(K(1 + r\lambda))` with the
        rank r of ``minimum``.
        """
        K, decay = self.num_classes, self.lambda_w
        if self.loss == "mse":
            return self._spanned / (K * (1 + self._spanned * decay))
        # Since e^(sK/(K-1)) is at least 1, s <= 1/(K λ); for s >= 1 the root has λ e^s <= 1. The exponential stays finite.
        highest = min(1 / (K * decay), math.log1p(1 / decay) + 1)
        return float(brentq(lambda s: decay * s * (math.exp(s * K / (K - 1)) + K - 1) - 1, 0, highest, xtol=1e-15))

    @property
    def minimum(self) -> float:
        r"""The global minimum. No network with the same λ has a smaller objective.

        Cross-entropy: :math:`\log(1 + (K-1) e^{-sK/(K-1)}) + \lambda K s^2/2`. MSE:
        :math:`(m - r)/2K + \frac{\lambda}{2} \frac{r^2}{K(1 + r\lambda)}` with m = K without bias, K-1 with one, and
        r = min(m, d-1). Where ``exact`` is false, it is a lower bound only.
        """
        K, decay = self.num_classes, self.lambda_w
        if self.loss == "cross_entropy":
            return math.log1p((K - 1) * math.exp(-self.scale * K / (K - 1))) + decay * K * self.scale**2 / 2
        return (self._most_spanned - self._spanned) / (2 * K) + decay / 2 * self._spanned**2 / (K * (1 + self._spanned * decay))

    @property
    def has_distance(self) -> bool:
        """Whether minimizers are images of one another, so that ``distance`` is defined: d is not too small for the frame."""
        return self._spanned == self._most_spanned

    @property
    def _most_spanned(self) -> int:
        """The rank of the optimal features with dimensions to spare."""
        return self.num_classes if self.loss == "mse" and self.bias == "none" else self.num_classes - 1

    @property
    def _spanned(self) -> int:
        return min(self._most_spanned, self.dim - 1)

    @property
    def exact(self) -> bool:
        """Whether the minimum is known to be reached in d dimensions.

        Under the cross-entropy only with room for the simplex. MSE: always without a bias; with one not if K is odd and r is 1
        or K-2. There no tight frame of K unit vectors has a mean of zero.
        """
        if self._spanned == self._most_spanned or self.loss == "cross_entropy":
            return self._spanned == self._most_spanned
        return self.bias == "none" or has_zero_mean_frame(self.num_classes, self._spanned)

    @cached_property
    def frame(self) -> Tensor:
        """Optimal features, a row per class, shape (K, r): a simplex ETF; "mse" without bias: orthonormal.

        Under "mse" in too few dimensions it is a tight frame of unit vectors, one of many.
        """
        if self.loss == "mse" and self._spanned < self._most_spanned:
            return unit_tight_frame(self.num_classes, self._spanned, with_mean=self.bias == "none")
        if self.loss == "mse" and self.bias == "none":
            return torch.eye(self.num_classes, dtype=torch.float64)
        return simplex_etf(self.num_classes, self.num_classes - 1)

    def draw(self, normal: Callable[..., Tensor]) -> Variables:
        """Draw standard normal weight and unnormalized features, and a bias of zero."""
        weight, raw = normal(self.num_classes, self.dim), normal(self.num_samples, self.dim)
        return {"weight": weight, "raw": raw} | ({} if self.bias == "none" else {"bias": weight.new_zeros(self.num_classes)})

    def complete(self, variables: Variables) -> Variables:
        """Normalize the features."""
        return {"features" if name == "raw" else name: layer_norm(v) if name == "raw" else v for name, v in variables.items()}

    def objective(self, variables: Variables) -> Tensor:
        """Loss and decay of "weight" (K, d), "raw" (N, d), which is normalized to the features, and a free "bias" (K,)."""
        weight = variables["weight"]
        logits = layer_norm(variables["raw"]) @ weight.T + variables.get("bias", 0.0)
        return self._mean_loss(self.loss, logits) + self.lambda_w / 2 * weight.square().sum()

    def certificate(self, variables: Variables) -> Certificate:
        """Return the global minimum. Under the cross-entropy an inequality says where d dimensions do not reach it."""
        if self.exact or self.loss == "mse":
            return Certificate(self.minimum)
        return Certificate(
            self.minimum, Inequality("rank of the frame <= d - 1", self._most_spanned, self.dim - 1), weak="d < K"
        )

    def closed_form(self) -> Solution:
        """Return the global minimum where it is ``exact``: the optimal frame, orthogonal to the all-ones vector."""
        if not self.exact:
            rank = self._most_spanned
            raise ValueError(f"The optimum, a frame of rank {rank}, needs dim >= {rank + 1}, got {self.dim}. Raise dim.")
        means = self.frame @ helmert_basis(self.dim)[: self._spanned]
        point = {"weight": self.scale * means, "raw": means[self.labels]}
        if self.bias == "free":
            value = 1 / self.num_classes if self.loss == "mse" else 0.0
            point["bias"] = torch.full((self.num_classes,), value, dtype=torch.float64)
        return self.solution(point, "closed form")

    def distance(self, weight: Tensor, features: Tensor, labels: Tensor | None = None) -> float:
        r"""Compute the distance of a network's last layer and features from the global minimizers, relative to their norm.

        All minimizers are images of one pair (W_c, H_c) under isometries into the complement of the all-ones vector. With
        :math:`C = (I - 11^T/d)(H H_c^T + W^T W_c)` the least squared distance is :math:`\lVert W \rVert^2 + \lVert W_c
        \rVert^2 + \lVert H \rVert^2 + \lVert H_c \rVert^2 - 2 \lVert C \rVert_*`.

        Args:
            weight: W, shape (K, d).
            features: H, shape (N, d).
            labels: The classes of the features; None takes those of the model.

        Returns:
            0 at a minimizer.

        Raises:
            ValueError: If the model's d is too small for the frame, shapes do not fit, the features are not finite, or the
                classes are not balanced.
        """
        if not self.has_distance:
            raise ValueError(
                f"distance needs dim >= {self._most_spanned + 1}, got {self.dim}. Below it minimizers are not images "
                "of one another."
            )
        fitting = (self.num_classes, features.shape[1])
        if weight.shape != fitting:
            found, of = tuple(weight.shape), tuple(features.shape)
            raise ValueError(f"distance needs weights {fitting} for features {of}, got {found}. Pass both of one solution.")
        check_finite("distance", features)
        if labels is None and len(features) != len(self.labels):
            lengths = f"{len(self.labels)} labels of the model and {len(features)} features"
            raise ValueError(f"distance needs as many labels as features, got {lengths}. Pass labels.")
        labels = self.labels if labels is None else check_labels(labels, len(features), self.num_classes)
        counts = torch.bincount(labels, minlength=self.num_classes).tolist()
        check_balanced(counts, "distance", "Drop samples of the larger ones.")
        optimal_features, optimal_weight = self.frame[labels], self.scale * self.frame
        overlap = features.T @ optimal_features + weight.T @ optimal_weight
        overlap = overlap - overlap.mean(dim=0)
        size = optimal_weight.square().sum() + optimal_features.square().sum()
        # Sums of squares, not the difference of large numbers, once the best isometry is known.
        left, _, right = torch.linalg.svd(overlap, full_matrices=False)
        isometry = left @ right
        gap = (features - optimal_features @ isometry.T).square().sum() + (weight - optimal_weight @ isometry.T).square().sum()
        return float((gap / size).sqrt())


def has_zero_mean_frame(num_vectors: int, rank: int) -> bool:
    """Return whether K unit vectors of mean zero can span r < K dimensions evenly (spherical 2-designs; Mimura 1990)."""
    return num_vectors % 2 == 0 or rank not in {1, num_vectors - 2}


def unit_tight_frame(num_vectors: int, rank: int, *, with_mean: bool) -> Tensor:
    """Return K unit vectors that span r < K dimensions evenly, (K, r): harmonics of the circle; of mean zero on request."""
    if not with_mean and num_vectors % 2 and rank % 2:
        return _odd_frame(num_vectors, rank)
    turns = 2 * math.pi / num_vectors * torch.arange(num_vectors, dtype=torch.float64)
    columns = [wave(number * turns) for number in range(1, rank // 2 + 1) for wave in (torch.cos, torch.sin)]
    if rank % 2:
        alternating = torch.cos(turns * num_vectors / 2).round()
        columns.append((torch.ones_like(turns) if with_mean else alternating) / math.sqrt(2))
    return math.sqrt(2 / rank) * torch.stack(columns, dim=1)


def _odd_frame(num_vectors: int, rank: int) -> Tensor:
    """Return the frame of mean zero for odd K and odd r: two harmonic ones at two heights, or the complement of such a one."""
    if not has_zero_mean_frame(num_vectors, rank):
        raise ValueError(f"No {num_vectors} unit vectors of mean zero span {rank} dimensions evenly. Take another dimension.")
    if 2 * rank > num_vectors:
        other = unit_tight_frame(num_vectors, num_vectors - 1 - rank, with_mean=False)
        full = torch.linalg.qr(torch.cat([torch.ones_like(other[:, :1]), other], dim=1), mode="complete").Q
        return math.sqrt(num_vectors / rank) * full[:, num_vectors - rank :]
    low, high = num_vectors // 2, num_vectors // 2 + 1
    rings = []
    for size, height in ((low, math.sqrt(high / (low * rank))), (high, -math.sqrt(low / (high * rank)))):
        ring = math.sqrt(1 - height**2) * unit_tight_frame(size, rank - 1, with_mean=False)
        rings.append(torch.nn.functional.pad(ring, (0, 1), value=height))
    return torch.cat(rings)


def great_circle_blocks(start: Tensor, end: Tensor, num_blocks: int) -> list[Tensor]:
    r"""Build L residual blocks that turn one unit vector into another along the great circle. They show why depth helps.

    Block l maps x to the normalized :math:`x + \mathrm{relu}(W_l x)`, with :math:`W_l = r_l x_l^T` and the shortest
    :math:`r_l = \tau x_{l+1} - x_l + c 1 \ge 0` (normalization removes c). Each norm is of order 1/L, so the total decay
    :math:`\sum_l \lVert W_l \rVert^2` falls as 1/L.

    Args:
        start: Unit vector with zero mean, shape (d,).
        end: Another such vector, not opposite to the first.
        num_blocks: L, at least 1.

    Returns:
        W_1 … W_L, each of shape (d, d).

    Raises:
        ValueError: If the vectors are no such pair, or L < 1.

    Reference:
        Derived, after arXiv 2505.15239.
    """
    vectors = torch.stack([start, end]).double()
    if not torch.allclose(layer_norm(vectors), vectors, atol=1e-8) or float(vectors[0] @ vectors[1]) < -1 + 1e-9:
        raise ValueError(
            "great_circle_blocks needs two vectors of norm one and mean zero that are not opposite. Use layer_norm."
        )
    if num_blocks < 1:
        raise ValueError(f"num_blocks must be at least 1, got {num_blocks}. Pass the number of blocks of the network.")
    angle = math.acos(min(1.0, float(vectors[0] @ vectors[1])))
    side = torch.nn.functional.normalize(vectors[1] - math.cos(angle) * vectors[0], dim=0)
    blocks = []
    for n in range(num_blocks):
        here, there = (
            math.cos(t) * vectors[0] + math.sin(t) * side for t in (angle * n / num_blocks, angle * (n + 1) / num_blocks)
        )
        blocks.append(torch.outer(_cheapest_push(here, there), here))
    return blocks


def _cheapest_push(here: Tensor, there: Tensor) -> Tensor:
    """Return the shortest non-negative vector whose sum with one unit vector points to another, up to a constant."""

    def push(stretch: float) -> Tensor:
        move = stretch * there - here
        return move - move.min()

    found = minimize_scalar(lambda stretch: float(push(stretch).square().sum()), bounds=(0, 3), method="bounded")
    return push(float(found.x))
