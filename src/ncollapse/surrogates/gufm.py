"""The generalized unconstrained features model: features on the sphere that normalization layers project to."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from functools import cached_property
from typing import Literal

import torch
from scipy.optimize import brentq
from torch import Tensor

from ncollapse.etf import helmert_basis, simplex_etf
from ncollapse.statistics.batch import check_labels
from ncollapse.surrogates.solving.arguments import check_balanced, check_counts, check_finite, check_positive
from ncollapse.surrogates.solving.losses import LossName, check_loss, loss_value
from ncollapse.surrogates.solving.problem import CountsProblem, Solver
from ncollapse.surrogates.solving.solution import Certificate, Inequality, Solution, Variables, unless_it_holds
from ncollapse.surrogates.solving.solvers import LBFGS, GradientDescent


def layer_norm(raw: Tensor) -> Tensor:
    """Rows less their mean, scaled to norm one: normalization without trained parameters, up to the factor √d.

    Args:
        raw: Shape (N, d).

    Returns:
        Shape (N, d).
    """
    return torch.nn.functional.normalize(raw - raw.mean(dim=1, keepdim=True), dim=1)


@dataclass(frozen=True)
class GUFM(CountsProblem):
    r"""Generalized unconstrained features model, balanced classes.

    .. math:: \min_{W, h_i, b}\; \ell(W H + b 1^T) + \frac{\lambda}{2} \lVert W \rVert^2 \quad \text{with} \quad
        1^T h_i = 0, \quad \lVert h_i \rVert = 1

    It is the objective of a ResNet or transformer with a final normalization layer, less the decay of all layers but the last:
    a lower bound for every such network of the same λ, trained or not. For normalization to norm √d take λ/d.

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
        check_loss(self.loss)
        check_counts(self.counts)
        check_balanced(self.counts, "GUFM")
        check_positive(lambda_w=self.lambda_w)
        if self.bias not in {"none", "free"}:
            raise ValueError(f"bias must be 'none' or 'free', got {self.bias!r}.")
        if self.dim < 2:
            raise ValueError(f"dim must be at least 2, got {self.dim}: centering leaves dim - 1 dimensions.")

    @property
    def solvers(self) -> tuple[type[Solver], ...]:
        """L-BFGS and plain descent in the weight and in what is normalized."""
        return LBFGS, GradientDescent

    @cached_property
    def scale(self) -> float:
        r"""Factor between classifier rows and features at the optimum.

        Cross-entropy: the root s of :math:`\lambda s = 1/(e^{sK/(K-1)} + K - 1)`. MSE: :math:`1/(1 + K\lambda)` without bias,
        :math:`(K-1)/(K(1 + (K-1)\lambda))` with one.
        """
        K, decay = self.num_classes, self.lambda_w
        if self.loss == "mse":
            return 1 / (1 + K * decay) if self.bias == "none" else (K - 1) / (K * (1 + (K - 1) * decay))
        # Since e^(sK/(K-1)) is at least 1, s <= 1/(K λ); for s >= 1 the root has λ e^s <= 1. The exponential stays finite.
        highest = min(1 / (K * decay), math.log1p(1 / decay) + 1)
        return float(brentq(lambda s: decay * s * (math.exp(s * K / (K - 1)) + K - 1) - 1, 0, highest, xtol=1e-15))

    @property
    def minimum(self) -> float:
        r"""The global minimum: no network with the same λ has a smaller objective.

        Cross-entropy: :math:`\log(1 + (K-1) e^{-sK/(K-1)}) + \lambda K s^2/2`. MSE:
        :math:`\frac{\lambda}{2} \frac{K}{1 + K\lambda}` without bias, with one
        :math:`\frac{\lambda}{2} \frac{K-1}{K/(K-1) + K\lambda}`.
        """
        K, decay = self.num_classes, self.lambda_w
        if self.loss == "cross_entropy":
            return math.log1p((K - 1) * math.exp(-self.scale * K / (K - 1))) + decay * K * self.scale**2 / 2
        return decay / 2 * (K / (1 + K * decay) if self.bias == "none" else (K - 1) / (K / (K - 1) + K * decay))

    @cached_property
    def frame(self) -> Tensor:
        """The features of the classes at the optimum: a simplex ETF, or orthonormal for "mse" without bias; shape (K, r)."""
        if self.loss == "mse" and self.bias == "none":
            return torch.eye(self.num_classes, dtype=torch.float64)
        return simplex_etf(self.num_classes, self.num_classes - 1)

    def draw(self, normal: Callable[..., Tensor]) -> Variables:
        """Standard normal weight and unnormalized features, and a bias of zero."""
        weight, raw = normal(self.num_classes, self.dim), normal(self.num_samples, self.dim)
        return {"weight": weight, "raw": raw} | ({} if self.bias == "none" else {"bias": weight.new_zeros(self.num_classes)})

    def complete(self, variables: Variables) -> Variables:
        """Normalize the features."""
        return {"features" if name == "raw" else name: layer_norm(v) if name == "raw" else v for name, v in variables.items()}

    def objective(self, variables: Variables) -> Tensor:
        """Loss and decay of "weight" (K, d), "raw" (N, d), whose normalized rows are the features, and a free "bias" (K,)."""
        weight = variables["weight"]
        logits = layer_norm(variables["raw"]) @ weight.T + variables.get("bias", 0.0)
        shares = torch.full((len(logits),), 1 / len(logits), dtype=torch.float64)
        return loss_value(self.loss, logits, self.labels, shares) + self.lambda_w / 2 * weight.square().sum()

    def certificate(self, variables: Variables) -> Certificate:
        """The global minimum, which holds for every point, and whether the frame that reaches it fits."""
        rank = self.frame.shape[1]
        return Certificate(self.minimum, unless_it_holds(Inequality("rank of the frame <= d - 1", rank, self.dim - 1)))

    def closed_form(self) -> Solution:
        """The global minimum: the frame in the complement of the all-ones vector, classifier rows its multiples.

        Returns:
            The solution.

        Raises:
            ValueError: If d - 1 dimensions hold no such frame.
        """
        rank = self.frame.shape[1]
        if rank > self.dim - 1:
            raise ValueError(f"The optimum is a frame of rank {rank}, which needs dim >= {rank + 1}, got {self.dim}.")
        means = self.frame @ helmert_basis(self.dim)[:rank]
        point = {"weight": self.scale * means, "raw": means[self.labels]}
        if self.bias == "free":
            value = 1 / self.num_classes if self.loss == "mse" else 0.0
            point["bias"] = torch.full((self.num_classes,), value, dtype=torch.float64)
        return self.solution(point, "closed form")

    def distance(self, weight: Tensor, features: Tensor, labels: Tensor | None = None) -> float:
        r"""Distance of a network's last layer and features from the set of global minimizers, relative to their norm.

        With the canonical pair (W_c, H_c) in r dimensions and :math:`C = (I - 11^T/d)(H H_c^T + W^T W_c)`, its square is
        :math:`\lVert W \rVert^2 + \lVert W_c \rVert^2 + \lVert H \rVert^2 + \lVert H_c \rVert^2 - 2 \lVert C \rVert_*`, the
        least over isometries into the complement of the vector 1, over :math:`\lVert W_c \rVert^2 + \lVert H_c \rVert^2`.

        Args:
            weight: W, shape (K, d).
            features: H, shape (N, d).
            labels: Their classes; None takes those of the model.

        Returns:
            0 at a minimizer.

        Raises:
            ValueError: If shapes do not fit, the features are not finite, or the classes are not balanced.
        """
        fitting = (self.num_classes, features.shape[1])
        if weight.shape != fitting:
            found, of = tuple(weight.shape), tuple(features.shape)
            raise ValueError(f"distance needs a weight of shape {fitting} for features of shape {of}, got {found}.")
        check_finite("distance", features)
        if labels is None and len(features) != len(self.labels):
            lengths = f"{len(self.labels)} labels of the model and {len(features)} features"
            raise ValueError(f"distance needs as many labels as features, got {lengths}. Pass labels.")
        labels = self.labels if labels is None else check_labels(labels, len(features), self.num_classes)
        counts = torch.bincount(labels, minlength=self.num_classes).tolist()
        if len(set(counts)) > 1:
            raise ValueError(f"distance needs balanced classes, got counts {tuple(counts)}. Drop samples of the larger ones.")
        optimal_features, optimal_weight = self.frame[labels], self.scale * self.frame
        overlap = features.T @ optimal_features + weight.T @ optimal_weight
        overlap = overlap - overlap.mean(dim=0)
        size = optimal_weight.square().sum() + optimal_features.square().sum()
        # Sums of squares, not the difference of large numbers, once the best isometry is known.
        left, _, right = torch.linalg.svd(overlap, full_matrices=False)
        isometry = left @ right
        gap = (features - optimal_features @ isometry.T).square().sum() + (weight - optimal_weight @ isometry.T).square().sum()
        return float((gap / size).sqrt())
