"""Progress of collapse in the multilayer model: where PFC1 provably falls through the layers."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from ncollapse.depth import GeodesicCurve, theorem1
from ncollapse.statistics import ClassMoments, ClassWeights, PairedMoments
from ncollapse.surrogates.mufm import MUFM
from ncollapse.surrogates.mufm_laws import check_mse
from ncollapse.surrogates.solving.arguments import check_balanced
from ncollapse.surrogates.solving.solution import Inequality, Variables
from ncollapse.surrogates.solving.solvers import scaled_gradient

# The relative gradient from which on solvers call a point critical.
_CRITICAL = 1e-6
Pair = tuple[float, float]


@dataclass(frozen=True)
class CollapseProgress:
    r"""Whether PFC1 falls through the layers between data and features, and whether that is proven.

    Pairs hold the value of the data, then that of the features.

    Attributes:
        within: tr Σ_W, which never rises from layer to layer at a critical point.
        between: tr Σ_B.
        pfc1: tr Σ_W over tr Σ_B; nan where all class means coincide.
        monotone: Whether PFC1 never rises along the layers, by the exact test of ``ncollapse.depth.theorem1``; None where all
            class means of the data or of the features coincide.
        conditions: The inequalities of the theorem, with their numbers.
        missing: Hypotheses that do not hold, in words. If there are none, the theorem proves that PFC1 falls.
    """

    within: tuple[float, float]
    between: tuple[float, float]
    pfc1: tuple[float, float]
    monotone: bool | None
    conditions: tuple[Inequality, ...]
    missing: tuple[str, ...]

    @property
    def proven(self) -> bool:
        """Whether all hypotheses hold."""
        return not self.missing

    def __str__(self) -> str:
        observed = {True: "PFC1 never rises over the layers", False: "PFC1 rises over some layers", None: "PFC1 is undefined"}
        proof = "proven" if self.proven else "not proven: " + ", ".join(self.missing)
        return f"{observed[self.monotone]}; {proof}."


def collapse_progress(problem: MUFM, variables: Variables, weights: ClassWeights = "sample") -> CollapseProgress:
    r"""Test whether PFC1 falls over all layers at a critical point, and whether the theorem proves it.

    The layers are :math:`H_t = (1-t) X + t H`. Let the bias be free, let the classes have any counts, and let Γ be the gradient
    of the loss in the logits. If :math:`\lVert \Gamma \rVert_2^2 \le \lambda_W \lambda_H`, tr Σ_W falls and tr Σ_B rises along
    the layers, both with sample weights; so PFC1 falls. Without a bias the same is proven for "mse" on balanced classes. The
    proofs are in docs/theory.md, 5.6, and counterexamples for unequal counts without a bias or with class weights.

    Args:
        problem: The model, with either loss.
        variables: A critical point.
        weights: Weights of the classes in both traces, "sample" (n_k/N) or "class" (1/K).

    Returns:
        What was observed, and which hypotheses are missing.

    Reference:
        Derived here. It answers an open question of arXiv 2405.00985.

    Example:
        >>> labels = torch.tensor([0, 0, 0, 1, 1])
        >>> inputs = torch.tensor([[1.0, 0.2], [0.4, -0.3], [0.9, 0.8], [-0.2, 0.5], [-1.1, -0.4]])
        >>> model = MUFM(inputs, labels, loss="cross_entropy", bias="free", lambda_w=0.1, lambda_h=0.1)
        >>> print(collapse_progress(model, model.solve().variables))
        PFC1 never rises over the layers; proven.
    """
    paired = PairedMoments.from_batch(problem.inputs, variables["features"], problem.labels, problem.num_classes)
    value, gradient = problem.value_and_gradient(variables)
    norm = float(torch.linalg.matrix_norm(problem.logit_gradient(variables), ord=2))
    conditions = (
        Inequality("relative gradient <= 1e-6", scaled_gradient(value, gradient, variables), _CRITICAL),
        problem.condition(norm**2, variables),
    )
    missing = [str(condition) for condition in conditions if not condition.holds]
    balanced = len(set(problem.counts)) == 1
    if problem.bias != "free" and not (balanced and problem.loss == "mse"):
        missing.append("the bias is not free")
    if weights == "class" and not balanced:
        missing.append("class weights on unequal counts")
    curve = GeodesicCurve(paired, weights)
    return CollapseProgress(*_traces(paired, weights), theorem1(curve).monotone, conditions, tuple(missing))


def _traces(paired: PairedMoments, weights: ClassWeights) -> tuple[Pair, Pair, Pair]:
    """Return the pairs of tr Σ_W, of tr Σ_B and of their ratios."""
    ends = paired.first, paired.last
    within = [float(moments.within_trace(weights)) for moments in ends]
    between = [float(moments.between_trace(weights)) for moments in ends]
    ratios = [w / b if min(between) > 0 else math.nan for w, b in zip(within, between, strict=True)]
    return (within[0], within[1]), (between[0], between[1]), (ratios[0], ratios[1])


@dataclass(frozen=True)
class GrowthThreshold:
    r"""The cost of moving from which on class means spread further apart than those of the data.

    Attributes:
        inequality: :math:`\lambda_{crit} \le \lambda_H`. It holds iff tr Σ_B of the features is at least that of the data.
        bound: :math:`1/(2NK\lambda_W)`, at least :math:`\lambda_{crit}`. A larger :math:`\lambda_H` always suffices.
    """

    inequality: Inequality
    bound: float


def growth_threshold(problem: MUFM, variables: Variables) -> GrowthThreshold:
    r"""Test the second part of Theorem 4 at a critical point of a model with loss "mse", no bias and balanced classes.

    With A = WM, :math:`\lambda_{crit} = \lVert W^T (I - A) \Pi_K \rVert_F^2 / (2N\, \mathrm{tr}(\Pi_K A (I - A) \Pi_K))`. At a
    certified global minimizer :math:`\lambda_{crit} \le \lambda_H / 2`. So PFC1 of the features is at most that of the data
    there, whatever the decays.

    Returns:
        The inequality, and the constant of the theorem.

    Raises:
        ValueError: If the model has another loss, a bias or classes of unequal counts.

    Reference:
        Progressive feedforward collapse, arXiv 2405.00985, Theorem 4; the constants are derived.
    """
    check_mse(problem, "Theorem 4")
    if problem.bias != "none":
        raise ValueError(f"Theorem 4 needs bias='none', got bias={problem.bias!r}. Make the model without one.")
    check_balanced(problem.counts, "Theorem 4")
    num_classes, num_samples = problem.num_classes, len(problem.inputs)
    means = ClassMoments.from_batch(variables["features"], problem.labels, num_classes).means
    weight, identity = variables["weight"], torch.eye(num_classes, dtype=torch.float64)
    centering, predicted = identity - 1 / num_classes, weight @ means.T
    pull = torch.linalg.norm(weight.T @ (identity - predicted) @ centering) ** 2
    spread = (centering @ predicted @ (identity - predicted) @ centering).trace()
    critical = Inequality("λ_crit <= λ_H", float(pull / (2 * num_samples * spread)), problem.lambda_h)
    return GrowthThreshold(critical, 1 / (2 * num_samples * num_classes * problem.lambda_w))
