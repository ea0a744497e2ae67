"""Laws at critical points of the multilayer model: straight layers, shrinkage, and when collapse progresses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ncollapse.statistics import ClassMoments
from ncollapse.surrogates.mufm import MUFM
from ncollapse.surrogates.solving.arguments import check_balanced, check_positive
from ncollapse.surrogates.solving.solution import Inequality, Variables


def merged_decay(decays: Sequence[float]) -> float:
    r"""The cost of moving that several layers come down to: :math:`\lambda_H = 1 / \sum_l (1/\lambda_l)`.

    Args:
        decays: λ_l of each gap, positive.

    Returns:
        λ_H of the model between the first and the last layer.

    Raises:
        ValueError: If there is none or one is not positive.

    Reference:
        Progressive feedforward collapse, arXiv 2405.00985, Theorem 3, with a weight for each gap.
    """
    if not decays:
        raise ValueError("merged_decay needs the decay of at least one gap between layers, got none.")
    for decay in decays:
        check_positive(decay=decay)
    return 1 / sum(1 / decay for decay in decays)


def straight_layers(first: Tensor, last: Tensor, decays: Sequence[float]) -> list[Tensor]:
    r"""The cheapest layers between two ends: on the straight line, gap l in proportion to :math:`1/\lambda_l`.

    Their cost :math:`\sum_l \frac{\lambda_l}{2} \lVert H_l - H_{l-1} \rVert^2` is :math:`\frac{\lambda_H}{2} \lVert H_L - H_0
    \rVert^2` with :math:`\lambda_H` of ``merged_decay``.

    Args:
        first: H_0, shape (N, d).
        last: H_L, the same shape.
        decays: λ_1 … λ_L.

    Returns:
        H_1 … H_L.
    """
    merged = merged_decay(decays)
    times = torch.tensor([merged / decay for decay in decays], dtype=torch.float64).cumsum(0)
    return [first + float(t) * (last - first) for t in times[:-1]] + [last]


def shrinkage(problem: MUFM, weight: Tensor) -> Tensor:
    r"""The map that all deviations from class means go through: :math:`S = \lambda_H (W^T W / N + \lambda_H I)^{-1}`.

    At a critical point under the mean squared error :math:`h_i - \mu_{y_i} = S (x_i - \bar x_{y_i})` exactly, so
    :math:`\Sigma_W(H) = S \Sigma_W(X) S`, with 0 < S <= I: within-class variability shrinks and never vanishes.

    Args:
        problem: The model, with loss "mse".
        weight: W, shape (K, d).

    Returns:
        S, shape (d, d).

    Raises:
        ValueError: If the loss is another one.

    Reference:
        Derived; the first part of Theorem 4 of arXiv 2405.00985 follows.
    """
    _check_mse(problem, "The shrinkage law")
    identity = torch.eye(weight.shape[1], dtype=torch.float64)
    return torch.linalg.inv(weight.T @ weight / (len(problem.inputs) * problem.lambda_h) + identity)


def alignment(features: Tensor, inputs: Tensor) -> tuple[float, float]:
    r"""How alike features and data are, as vectors: their cosine, and the distance once both are scaled to norm one.

    Args:
        features: H, shape (N, d).
        inputs: X, the same shape.

    Returns:
        Cosine in [-1, 1] and distance in [0, 2]; nan if one is all zero.
    """
    unit_features, unit_inputs = features / torch.linalg.norm(features), inputs / torch.linalg.norm(inputs)
    return float((unit_features * unit_inputs).sum()), float(torch.linalg.norm(unit_features - unit_inputs))


@dataclass(frozen=True)
class CollapseProgress:
    r"""Whether the features of a critical point are more collapsed than the data, and why.

    Attributes:
        within: tr Σ_W of the data and of the features: never rises.
        between: tr Σ_B of the data and of the features: rises iff the inequality holds.
        pfc1: PFC1 of the data and of the features.
        inequality: :math:`\lambda_{crit} \le \lambda_H`.
        bound: :math:`1/(2NK\lambda_W)`, at least :math:`\lambda_{crit}`: a larger :math:`\lambda_H` always suffices.
    """

    within: tuple[float, float]
    between: tuple[float, float]
    pfc1: tuple[float, float]
    inequality: Inequality
    bound: float


def collapse_progress(problem: MUFM, variables: Variables) -> CollapseProgress:
    r"""Test the second part of Theorem 4 at a critical point: PFC1 of the features against that of the data.

    With A = WM: :math:`\lambda_{crit} = \lVert W^T (I - A) \Pi_K \rVert_F^2 / (2N\, \mathrm{tr}(\Pi_K A (I - A) \Pi_K))`. For a
    certified global minimizer :math:`\lambda_{crit} \le \lambda_H / 2`: PFC1 never rises there, whatever the decays.

    Args:
        problem: The model, with loss "mse", no bias, balanced classes.

    Returns:
        Both sides of every inequality.

    Raises:
        ValueError: If the model is another one.

    Reference:
        Progressive feedforward collapse, arXiv 2405.00985, Theorem 4; the constants are derived.
    """
    _check_mse(problem, "Theorem 4")
    if problem.bias != "none":
        raise ValueError(f"Theorem 4 needs bias='none', got bias={problem.bias!r}.")
    check_balanced(torch.bincount(problem.labels).tolist(), "Theorem 4")
    num_classes, num_samples = problem.num_classes, len(problem.inputs)
    before, after = (
        ClassMoments.from_batch(rows, problem.labels, num_classes) for rows in (problem.inputs, variables["features"])
    )
    weight, identity = variables["weight"], torch.eye(num_classes, dtype=torch.float64)
    centering, predicted = identity - 1 / num_classes, weight @ after.means.T
    pull = torch.linalg.norm(weight.T @ (identity - predicted) @ centering) ** 2
    spread = (centering @ predicted @ (identity - predicted) @ centering).trace()
    critical = float(pull / (2 * num_samples * spread))
    within = float(before.within_trace()), float(after.within_trace())
    between = float(before.between_trace()), float(after.between_trace())
    return CollapseProgress(
        within,
        between,
        (within[0] / between[0], within[1] / between[1]) if min(between) > 0 else (torch.nan, torch.nan),
        Inequality("λ_crit <= λ_H", critical, problem.lambda_h),
        1 / (2 * num_samples * num_classes * problem.lambda_w),
    )


def _check_mse(problem: MUFM, what: str) -> None:
    if problem.loss != "mse":
        raise ValueError(f"{what} needs loss='mse', got loss={problem.loss!r}.")
