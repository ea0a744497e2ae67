"""The max-margin problem of weight and free features, to which the cross-entropy without decay tends."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from ncollapse.margins import log_loss, margins
from ncollapse.surrogates.solving.arguments import check_counts, check_positive
from ncollapse.surrogates.solving.losses import one_hot
from ncollapse.surrogates.solving.nuclear import split_product
from ncollapse.surrogates.solving.problem import CountsProblem, Problem, SolverResult
from ncollapse.surrogates.solving.solution import Certificate, Inequality, Solution, Variables


class KKT(NamedTuple):
    """The first-order conditions of the max-margin problem at a point of a flow, with the multipliers of its loss.

    Attributes:
        cosine: Cosine between the point and the descent direction of its loss; 1 at a stationary point.
        slack: Mean excess of the margins over the smallest one, weighted by the multipliers; 0 at a stationary point.
    """

    cosine: float
    slack: float


@dataclass(frozen=True)
class MaxMargin(CountsProblem):
    r"""Max-margin problem of weight and free features, to which the cross-entropy without decay tends.

    .. math:: \min_{W, H} \tfrac12 (\lVert W \rVert^2 + \lVert H \rVert^2) \quad \text{with} \quad
        (w_{y_i} - w_j)^T h_i \ge 1 \quad \text{for all } i, j \ne y_i

    The gradient flow of the unregularized loss conserves :math:`W^T W - H H^T` and diverges. Its direction tends to a point
    that satisfies the KKT conditions. The problem is equivalent to the convex program min ‖Z‖_* over logits with margins of at
    least 1. For any counts its minimum is the simplex-encoded label matrix :math:`\Pi_K Y` (SELI). The objective of a point is
    that of the point scaled to a smallest margin of one, :math:`\frac12 (\lVert W \rVert^2 + \lVert H \rVert^2) / q_{min}`. One
    half over the objective is the normalized margin :math:`q_{min} / (\lVert W \rVert^2 + \lVert H \rVert^2)`.

    Attributes:
        counts: n_k, samples of each class.
        dim: d, dimension of the features.

    Reference:
        Ji, Lu, Zhang, Deng & Su (2022), ICLR; Thrampoulidis et al. (2022), NeurIPS, for unequal counts. The certificate is
        derived.

    Example:
        >>> round(MaxMargin((4, 4, 4), dim=5).largest_margin, 12)
        0.125
    """

    counts: tuple[int, ...]
    dim: int

    def __post_init__(self) -> None:
        check_counts(self.counts)
        check_positive(dim=self.dim)

    @property
    def solvers(self) -> tuple[type[MarginFlow]]:
        """The gradient flow of the cross-entropy without decay."""
        return (MarginFlow,)

    @cached_property
    def encoded(self) -> Tensor:
        """The logits of the global minimum, one-hot labels less 1/K; shape (N, K)."""
        return one_hot(self.labels, self.num_classes) - 1 / self.num_classes

    @cached_property
    def minimum(self) -> float:
        r"""The global minimum for d >= K-1: :math:`\lVert \Pi_K Y \rVert_*`; :math:`(K-1) \sqrt{n}` if balanced."""
        return float(torch.linalg.svdvals(self.encoded).sum())

    @property
    def largest_margin(self) -> float:
        r"""The largest normalized margin; :math:`1 / (2 (K-1) \sqrt{n})` if balanced."""
        return 0.5 / self.minimum

    def draw(self, normal: Callable[..., Tensor]) -> Variables:
        """Draw standard normal weight, and normal features of about the same norm as a whole."""
        # The flow takes steps in proportion to the sum of both norms: with standard normal features of many samples it would
        # hardly move the weight.
        weight, features = normal(self.num_classes, self.dim), normal(self.num_samples, self.dim)
        return {"weight": weight, "features": math.sqrt(self.num_classes / self.num_samples) * features}

    def objective(self, variables: Variables) -> Tensor:
        """Half the squared norms of "weight" (K, d) and "features" (N, d) over the smallest margin; inf unless positive."""
        norms = variables["weight"].square().sum() + variables["features"].square().sum()
        smallest = margins(_logits(variables), self.labels).min()
        return torch.where(smallest > 0, norms / (2 * smallest), math.inf)

    def certificate(self, variables: Variables) -> Certificate:
        r"""Return the better lower bound from two choices of multipliers."""
        # Any numbers α_ij >= 0, one for each sample i and wrong class j, give the bound Σ α_ij / ‖Γ‖₂ with the rows
        # Γ_i = Σ_j α_ij (e_{y_i} - e_j). Two choices are tried: the softmax probabilities of the wrong classes, and the polar
        # factor of the logits, which is exact at the minimum.
        logits = _logits(variables)
        left, values, right = torch.linalg.svd(logits - logits.mean(dim=1, keepdim=True), full_matrices=False)
        # The rows are centered, so that one singular direction is rounding.
        rank = int((values > 1e-12 * values[0]).sum())
        polar = (-left[:, :rank] @ right[:rank]).clamp(min=0)
        bounds = [_dual_bound(weights, self.labels) for weights in (polar, _multipliers(logits, self.labels))]
        smallest = float(margins(logits, self.labels).min())
        return Certificate(max(bounds), Inequality("0 < smallest margin", 0.0, smallest))

    def complete(self, variables: Variables) -> Variables:
        """Scale to a smallest margin of one, if all samples are on the right side."""
        smallest = float(margins(_logits(variables), self.labels).min())
        return {name: part / math.sqrt(smallest) for name, part in variables.items()} if smallest > 0 else variables

    def kkt(self, variables: Variables) -> KKT:
        """Compute the first-order conditions at a point that separates the samples."""
        logits, weight, features = _logits(variables), variables["weight"], variables["features"]
        multipliers = _multipliers(logits, self.labels)
        pull = _pull(multipliers, self.labels)
        descent = torch.cat([pull.T @ features, pull @ weight])
        point = torch.cat([weight, features])
        cosine = (descent * point).sum() / (torch.linalg.norm(descent) * torch.linalg.norm(point))
        all_margins = logits.gather(1, self.labels.unsqueeze(1)) - logits
        smallest = margins(logits, self.labels).min()
        slack = (multipliers * (all_margins / smallest - 1)).sum() / multipliers.sum()
        return KKT(float(cosine), float(slack))

    def closed_form(self) -> Solution:
        r"""Return the global minimum for any counts, if d >= K-1: balanced factors of :math:`\Pi_K Y`."""
        features, weight = split_product(self.encoded, self.dim, 1.0)
        return self.solution({"weight": weight, "features": features}, "closed form")


@dataclass(frozen=True)
class MarginFlow:
    r"""Gradient descent of the cross-entropy without decay, at a rate of :math:`\eta / (\mathcal{L} \rho^2)`.

    The rate changes the speed along the flow, not its path. With this rate the margins grow by about the same amount at every
    step, and the normalized margin approaches its limit as one over the number of steps. The loss is handled by its logarithm,
    so it may be arbitrarily small. The history holds the objective at every hundredth step.

    Attributes:
        learning_rate: η, at most 2, so that no step overshoots.
        num_steps: The number of steps after which it gives up.
        tolerance: Gap to the lower bound at the end, relative to the objective.
    """

    learning_rate: float = 1.5
    num_steps: int = 50_000
    tolerance: float = 1e-2

    def run(self, problem: Problem, start: Variables) -> SolverResult:
        """Descend from a start."""
        assert isinstance(problem, MaxMargin)
        weight, features, labels = start["weight"], start["features"], problem.labels
        history = []
        for step in range(self.num_steps + 1):
            if step % 100 == 0 or step == self.num_steps:
                point = {"weight": weight, "features": features}
                history.append(float(problem.objective(point)))
                gap = history[-1] - problem.certificate(point).lower_bound
                converged = math.isfinite(gap) and gap <= self.tolerance * history[-1]
                if converged:
                    break
            logits = features @ weight.T
            rate = self.learning_rate / float(weight.square().sum() + features.square().sum())
            pull = rate * _pull(_multipliers(logits, labels), labels)
            weight, features = weight + pull.T @ features, features + pull @ weight
        loss = float(log_loss(_logits(point), labels)) / math.log(10)
        description = f"gradient flow of the loss without decay, {step} steps, loss 10^{loss:.0f}"
        return SolverResult(point, tuple(history), converged, description, "gap")


def _logits(variables: Variables) -> Tensor:
    return variables["features"] @ variables["weight"].T


def _multipliers(logits: Tensor, labels: Tensor) -> Tensor:
    """Softmax probabilities of the wrong classes over the summed loss, 0 for the right one; finite at any margin."""
    wrong = torch.log_softmax(logits, dim=1).scatter(1, labels.unsqueeze(1), -math.inf)
    return (wrong - log_loss(logits, labels)).exp()


def _pull(multipliers: Tensor, labels: Tensor) -> Tensor:
    """Γ: a row's multipliers pull the true logit up and the others down."""
    return (-multipliers).scatter(1, labels.unsqueeze(1), multipliers.sum(dim=1, keepdim=True))


def _dual_bound(weights: Tensor, labels: Tensor) -> float:
    multipliers = weights.scatter(1, labels.unsqueeze(1), 0.0)
    norm = float(torch.linalg.matrix_norm(_pull(multipliers, labels), ord=2))
    return float(multipliers.sum()) / norm if norm > 0 else 0.0
