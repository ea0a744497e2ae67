"""Free features before a classifier that is fixed as a simplex ETF, and the forces of the cross-entropy."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from functools import cached_property
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from ncollapse.etf import simplex_etf
from ncollapse.surrogates.solving.arguments import check_choice, check_counts, check_positive
from ncollapse.surrogates.solving.losses import one_hot
from ncollapse.surrogates.solving.problem import CountsProblem
from ncollapse.surrogates.solving.solution import Certificate, Solution, Variables
from ncollapse.surrogates.solving.solvers import LBFGS, GradientDescent


@dataclass(frozen=True)
class FixedETF(CountsProblem):
    r"""Free features of norm :math:`\sqrt{E_H}` before a fixed classifier, :math:`\sqrt{E_W}` times a unit simplex ETF.

    .. math:: \min_H \frac1N \sum_i \frac{(w_{y_i}^T h_i - s)^2}{2s} \quad \text{with} \quad s = \sqrt{E_W E_H}

    This is dot regression; the other loss is the mean cross-entropy. No sample affects another one. Whatever the counts, the
    features collapse onto the frame: :math:`h_i \propto w_{y_i}` at the minimum.

    Attributes:
        counts: n_k, samples of each class.
        dim: d, at least K-1.
        loss: "dot_regression" or "cross_entropy".
        energy_w: :math:`E_W`, positive.
        energy_h: :math:`E_H`, positive.

    Reference:
        Yang et al. (2022), NeurIPS.

    Example:
        >>> FixedETF((50, 5, 1), dim=4).solve().certified
        True
    """

    counts: tuple[int, ...]
    dim: int
    _: KW_ONLY
    loss: Literal["dot_regression", "cross_entropy"] = "dot_regression"
    energy_w: float = 1.0
    energy_h: float = 1.0

    def __post_init__(self) -> None:
        check_counts(self.counts)
        check_positive(energy_w=self.energy_w, energy_h=self.energy_h)
        check_choice("loss", self.loss, Literal["dot_regression", "cross_entropy"])
        if self.dim < len(self.counts) - 1:
            raise ValueError(
                f"A frame of {len(self.counts)} classes needs dim >= {len(self.counts) - 1}, got {self.dim}. Raise dim."
            )

    solvers = (LBFGS, GradientDescent)

    @cached_property
    def weight(self) -> Tensor:
        """The frame, shape (K, d)."""
        return math.sqrt(self.energy_w) * simplex_etf(len(self.counts), self.dim)

    @property
    def scale(self) -> float:
        """The logit s of an aligned feature."""
        return math.sqrt(self.energy_w * self.energy_h)

    @property
    def minimum(self) -> float:
        r"""0 for dot regression, :math:`\log(1 + (K-1) e^{-sK/(K-1)})` for the cross-entropy."""
        K = self.num_classes
        return 0.0 if self.loss == "dot_regression" else math.log1p((K - 1) * math.exp(-self.scale * K / (K - 1)))

    def draw(self, normal: Callable[..., Tensor]) -> Variables:
        """Draw standard normal features, not normalized."""
        return {"raw": normal(self.num_samples, self.dim)}

    def complete(self, variables: Variables) -> Variables:
        """Normalize the features and add the frame."""
        unit = torch.nn.functional.normalize(variables["raw"], dim=1)
        return {"features": math.sqrt(self.energy_h) * unit, "weight": self.weight}

    def objective(self, variables: Variables) -> Tensor:
        """Return the loss of "raw" (N, d), which is normalized to the features."""
        logits = self.complete(variables)["features"] @ self.weight.T
        if self.loss == "cross_entropy":
            return self._mean_loss("cross_entropy", logits)
        true = logits.gather(1, self.labels.unsqueeze(1))
        return (true - self.scale).square().mean() / (2 * self.scale)

    def certificate(self, variables: Variables) -> Certificate:
        """Return the global minimum."""
        return Certificate(self.minimum)

    def closed_form(self) -> Solution:
        """Return the global minimum: every feature along the classifier row of its class."""
        return self.solution({"raw": self.weight[self.labels]}, "closed form")


class Forces(NamedTuple):
    """The two parts of minus the gradient of the summed cross-entropy: the pull of the own class and the push of the others."""

    pull: Tensor
    push: Tensor


def feature_forces(weight: Tensor, features: Tensor, labels: Tensor) -> Forces:
    r"""Compute the forces on features (N, d): pull :math:`(1 - p_y) w_y`, push :math:`-\sum_{j \ne y} p_j w_j`.

    Returns:
        Of shape (N, d) each.

    Reference:
        Yang et al. (2022), NeurIPS.
    """
    own, wrong = _errors(weight, features, labels)
    return Forces(own @ weight, -wrong @ weight)


def weight_forces(weight: Tensor, features: Tensor, labels: Tensor) -> Forces:
    r"""Compute the forces on W: pull :math:`\sum_{i \in k} (1 - p_{ik}) h_i`, push :math:`-\sum_{i \notin k} p_{ik} h_i`.

    At equal logits the summed weights of the push over those of the pull are :math:`(N - n_k) / ((K-1) n_k)`: 1 for balanced
    classes, large for minorities.

    Returns:
        Of shape (K, d) each, for a weight of that shape.

    Reference:
        Yang et al. (2022), NeurIPS.
    """
    own, wrong = _errors(weight, features, labels)
    return Forces(own.T @ features, -wrong.T @ features)


def _errors(weight: Tensor, features: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    outputs, targets = torch.softmax(features @ weight.T, dim=1), one_hot(labels, len(weight))
    return targets * (1 - outputs), (1 - targets) * outputs
