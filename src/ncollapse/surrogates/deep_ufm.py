"""The deep unconstrained features model: free features behind several weight matrices, linear or with ReLU."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from functools import cached_property
from typing import Literal

import torch
from scipy.optimize import brentq, minimize_scalar
from torch import Tensor

from ncollapse.surrogates.solving.arguments import check_choice, check_counts, check_positive
from ncollapse.surrogates.solving.problem import CountsProblem, Solver
from ncollapse.surrogates.solving.solution import Certificate, Inequality, Solution, Variables
from ncollapse.surrogates.solving.solvers import LBFGS, GradientDescent, ReLUProblem, SmoothedReLU, rounded_relu


def collapse_threshold(target: float, num_layers: int) -> float:
    r"""Compute the largest :math:`N^{M+1} \lambda_H \prod_i \lambda_i` at which a singular value of the logits is not zero.

    It is :math:`\sigma^{2M} (M-1)^{M-1} / M^{2M}`, with :math:`0^0 = 1`. The best singular value there is
    :math:`\sigma (M-1)/M`, and beyond it zero: a jump, unless M = 1.

    Args:
        target: σ, the singular value of the targets: √n_k without a bias.
        num_layers: M, at least 1.

    Returns:
        The threshold.

    Reference:
        Derived; balanced it is that of Dang et al. (2023), ICML, and for K = 2 that of Súkeník et al. (2023), NeurIPS.

    Example:
        >>> collapse_threshold(2.0, 1), collapse_threshold(2.0, 2)
        (4.0, 1.0)
    """
    return float(target ** (2 * num_layers) * (num_layers - 1) ** (num_layers - 1) / num_layers ** (2 * num_layers))


@dataclass(frozen=True)
class DeepUFM(CountsProblem, ReLUProblem):
    r"""Deep unconstrained features model under the mean squared error.

    .. math:: \min \frac{1}{2N} \lVert W_M \sigma(W_{M-1} \cdots \sigma(W_1 H)) + b 1^T - Y \rVert^2
        + \sum_i \frac{\lambda_i}{2} \lVert W_i \rVert^2 + \frac{\lambda_H}{2} \lVert H \rVert^2

    With linear layers each singular value of the logits solves a problem of its own, so the global minimum is known. With ReLU
    the same value belongs to deep neural collapse: orthogonal class means and no within-class variability from the first layer
    on. It is the global minimum for two balanced classes or a single layer. Otherwise solutions of lower rank may be better,
    and no bound is known.

    Attributes:
        counts: n_k, samples of each class.
        dim: d, width of all hidden layers; with ReLU at least K.
        lambdas_w: λ_1 … λ_M, decay of the weights from first to last, positive.
        lambda_h: Decay of the features, summed over samples, positive.
        activation: "linear" or "relu", behind all weights but the last.
        bias: Bias of the last layer: "none" or, for linear layers only, "free".

    Reference:
        Tirer & Bruna (2022), ICML; Dang et al. (2023), ICML; Súkeník et al. (2023 and 2024), NeurIPS; unequal classes
        are derived.

    Example:
        >>> model = DeepUFM((4, 4, 4), dim=3, lambdas_w=(0.5 / 12, 0.5 / 12), lambda_h=0.5 / 12)
        >>> round(model.minimum, 10)
        0.2763925778
    """

    counts: tuple[int, ...]
    dim: int
    _: KW_ONLY
    lambdas_w: tuple[float, ...]
    lambda_h: float
    activation: Literal["linear", "relu"] = "linear"
    bias: Literal["none", "free"] = "none"

    def __post_init__(self) -> None:
        check_counts(self.counts)
        if not self.lambdas_w:
            raise ValueError("lambdas_w must hold the decay of one or more layers, got none. Pass one number per layer.")
        for decay in self.lambdas_w:
            check_positive(lambdas_w=decay)
        check_positive(lambda_h=self.lambda_h)
        check_choice("activation", self.activation, Literal["linear", "relu"])
        check_choice("bias", self.bias, Literal["none", "free"])
        if self.bias == "free" and self.activation == "relu":
            raise ValueError("bias='free' needs activation='linear': centered targets are not non-negative. Take bias='none'.")
        check_positive(dim=self.dim)
        if self.activation == "relu" and self.dim < len(self.counts):
            raise ValueError(
                f"The closed form with ReLU needs dim >= {len(self.counts)}, the rank of the targets, got {self.dim}. "
                "Raise dim."
            )

    @property
    def num_layers(self) -> int:
        """The number of weights, M."""
        return len(self.lambdas_w)

    @property
    def solvers(self) -> tuple[type[Solver], ...]:
        """L-BFGS and gradient descent, and for ReLU first the solver that rounds its kinks off."""
        return (SmoothedReLU, LBFGS, GradientDescent) if self.activation == "relu" else (LBFGS, GradientDescent)

    @property
    def penalty(self) -> float:
        r"""The geometric mean of the decays, :math:`\Lambda = (\lambda_H \prod_i \lambda_i)^{1/(M+1)}`."""
        return math.exp((math.log(self.lambda_h) + sum(map(math.log, self.lambdas_w))) / (self.num_layers + 1))

    @cached_property
    def _targets(self) -> tuple[Tensor, Tensor, Tensor]:
        """Singular vectors and values of the targets, one row per class, times √n_k; the bias takes their mean away."""
        roots = torch.tensor(self.counts, dtype=torch.float64).sqrt()
        identity = torch.eye(self.num_classes, dtype=torch.float64)
        if self.bias == "none":
            return identity, roots, identity
        left, values, right = torch.linalg.svd(roots.unsqueeze(1) * (identity - roots.square() / roots.square().sum()))
        rank = self.num_classes - 1
        return left[:, :rank], values[:rank], right[:rank]

    def scalar_objective(self, target: float, value: float) -> float:
        r"""Return the cost of a singular value s: :math:`\frac{(\sigma-s)^2}{2N} + \frac{M+1}{2} \Lambda s^{2/(M+1)}`."""
        depth = self.num_layers + 1
        return (target - value) ** 2 / (2 * sum(self.counts)) + depth / 2 * self.penalty * value ** (2 / depth)

    def best_singular_value(self, target: float) -> float:
        """Minimize ``scalar_objective``: s is zero above ``collapse_threshold``, else the larger stationary point."""
        M, price = self.num_layers, sum(self.counts) * self.penalty
        if price ** (M + 1) > collapse_threshold(target, M) * (1 + 1e-12):
            return 0.0
        # (σ - s) s^((M-1)/(M+1)) rises up to σ(M-1)/2M, then falls to zero: the larger root lies between.
        peak = target * (M - 1) / (2 * M)
        root = brentq(lambda s: (target - s) * s ** ((M - 1) / (M + 1)) - price, peak, target, xtol=1e-15, rtol=1e-15)
        return float(root)

    @property
    def condition(self) -> Inequality:
        """The condition under which none of the d largest is zero: ``collapse_threshold`` of the smallest of them."""
        price = (self.num_samples * self.penalty) ** (self.num_layers + 1)
        kept = self._targets[1].sort(descending=True).values[: self.dim]
        highest = collapse_threshold(float(kept.min()), self.num_layers)
        return Inequality("N^(M+1) λ_H Πλ_i <= σ^2M (M-1)^(M-1) / M^2M", price, highest)

    @cached_property
    def singular_values(self) -> Tensor:
        """Singular values of the collapsed logits, each row weighted by √n_k; 0 but for the d largest targets."""
        targets = self._targets[1]
        kept = set(targets.argsort(descending=True, stable=True)[: self.dim].tolist())
        values = [self.best_singular_value(float(target)) if i in kept else 0.0 for i, target in enumerate(targets)]
        return torch.tensor(values, dtype=torch.float64)

    @cached_property
    def minimum(self) -> float:
        """The global minimum with linear layers; the value of deep neural collapse with ReLU."""
        pairs = zip(self._targets[1].tolist(), self.singular_values.tolist(), strict=True)
        return sum(self.scalar_objective(target, value) for target, value in pairs)

    def draw(self, normal: Callable[..., Tensor]) -> Variables:
        """Draw normal features and weights of standard deviation 1.5/√d; the bias is zero."""
        # Much smaller ones would fall to zero, a local minimum; with d far above K they find all K directions.
        size, d = 1.5 / math.sqrt(self.dim), self.dim
        point = {"first_features": size * normal(self.num_samples, d)}
        point |= {f"weight_{number + 1}": size * normal(d, d) for number in range(self.num_layers - 1)}
        point[f"weight_{self.num_layers}"] = size * normal(self.num_classes, d)
        return point if self.bias == "none" else point | {"bias": torch.zeros(self.num_classes, dtype=torch.float64)}

    def layers(self, variables: Variables, width: float = 0.0) -> list[Tensor]:
        """Return the input of every weight, each of shape (N, d), with ReLU rounded off within a width."""
        found = [variables["first_features"]]
        for number in range(1, self.num_layers):
            product = found[-1] @ variables[f"weight_{number}"].T
            found.append(rounded_relu(product, width) if self.activation == "relu" else product)
        return found

    def complete(self, variables: Variables) -> Variables:
        """Name the last hidden layer "features" and the last weight "weight"."""
        return variables | {"features": self.layers(variables)[-1], "weight": variables[f"weight_{self.num_layers}"]}

    def rounded_objective(self, variables: Variables, width: float) -> Tensor:
        """Loss and decay of "first_features" (N, d), "weight_1" … "weight_M" and, if free, "bias" (K,)."""
        weights = [variables[f"weight_{number + 1}"] for number in range(self.num_layers)]
        logits = self.layers(variables, width)[-1] @ weights[-1].T + variables.get("bias", 0.0)
        decay = self.lambda_h * variables["first_features"].square().sum()
        for weight, strength in zip(weights, self.lambdas_w, strict=True):
            decay = decay + strength * weight.square().sum()
        return self._mean_loss("mse", logits) + 0.5 * decay

    def certificate(self, variables: Variables) -> Certificate:
        """Return the value of the closed form if it is the global minimum. If the inequality holds, no class is at zero."""
        proven = self.activation == "linear" or self.num_layers == 1 or (self.num_classes == 2 and len(set(self.counts)) == 1)
        return Certificate(self.minimum if proven else -math.inf, self.condition)

    def closed_form(self) -> Solution:
        r"""Return the minimum with linear layers, or deep neural collapse: all :math:`\lambda_i \lVert W_i \rVert^2` agree."""
        left, _, right = self._targets
        kept = self._targets[1].argsort(descending=True, stable=True)[: self.dim].sort().values
        left, right = left[:, kept], right[kept]
        shared = (self.penalty**0.5) * self.singular_values[kept] ** (1 / (self.num_layers + 1))
        rank, roots = len(shared), torch.tensor(self.counts, dtype=torch.float64).sqrt()
        means = torch.zeros(self.num_classes, self.dim, dtype=torch.float64)
        means[:, :rank] = left * shared / math.sqrt(self.lambda_h) / roots.unsqueeze(1)
        point = {"first_features": means[self.labels]}
        for number, decay in enumerate(self.lambdas_w[:-1], start=1):
            weight = torch.zeros(self.dim, self.dim, dtype=torch.float64)
            weight.diagonal()[:rank] = shared / math.sqrt(decay)
            point[f"weight_{number}"] = weight
        last = torch.zeros(self.num_classes, self.dim, dtype=torch.float64)
        last[:, :rank] = right.T * shared / math.sqrt(self.lambdas_w[-1])
        point[f"weight_{self.num_layers}"] = last
        if self.bias == "free":
            point["bias"] = roots.square() / roots.square().sum()
        return self.solution(point, "closed form" if self.activation == "linear" else "deep neural collapse in closed form")


def low_rank_start(problem: DeepUFM) -> Variables:
    r"""Build a point whose layers, all but the last hidden one, have the least rank r with r(r-1)/2 >= K.

    The classes are pairs of r points. A feature T marks the two points of its class. The last hidden layer tells pairs apart,
    because :math:`\mathrm{relu}(T^T T - 1 1^T) = I`. All layers cost the same, and their common scale is the best one.

    Args:
        problem: A model with ReLU, three or more layers and three or more classes.

    Returns:
        A start for ``LBFGS``.

    Raises:
        ValueError: If the model is another one.

    Reference:
        After Súkeník, Mondelli & Lampert (2024), NeurIPS, who use strongly regular graphs.
    """
    K, M, d = problem.num_classes, problem.num_layers, problem.dim
    if problem.activation != "relu" or M < 3 or K < 3:
        raise ValueError(
            "low_rank_start needs activation='relu', three or more layers and classes, got "
            f"{problem.activation!r}, {M} layers, {K} classes. Other models have no such solution that is known."
        )
    num_points = math.ceil((1 + math.sqrt(1 + 8 * K)) / 2)
    points = torch.tensor(list(itertools.combinations(range(num_points), 2))[:K])
    marks = torch.zeros(K, d, dtype=torch.float64).scatter_(1, points, 1.0)
    # Marks sum to two, so that a half of each entry takes the one away.
    apart = torch.zeros(d, d, dtype=torch.float64)
    apart[:K, :num_points] = marks[:, :num_points] - 0.5
    keep, last = (torch.eye(rows, d, dtype=torch.float64) for rows in (d, K))
    keep[num_points:] = 0
    parts = [marks[problem.labels], *[keep] * (M - 2), apart, last]
    decays = [problem.lambda_h, *problem.lambdas_w]
    names = ["first_features", *(f"weight_{number + 1}" for number in range(M))]
    balanced = {
        name: part / (torch.linalg.norm(part) * math.sqrt(decay))
        for name, part, decay in zip(names, parts, decays, strict=True)
    }

    def scaled(scale: float) -> Variables:
        return {name: scale * part for name, part in balanced.items()}

    # Beyond this scale the decay alone costs more than the zero point.
    highest = 1 / math.sqrt(M + 1)
    found = minimize_scalar(lambda scale: float(problem.objective(scaled(scale))), bounds=(0, highest), method="bounded")
    return scaled(float(found.x))


def layer_ranks(layers: list[Tensor], tolerance: float = 1e-3) -> list[int]:
    """Count the singular values of each layer (N, d) above a share of its largest one; 0 if all features are zero."""
    return [int(torch.linalg.matrix_rank(features, rtol=tolerance)) for features in layers]
