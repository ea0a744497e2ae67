"""Laws of the multilayer model: straight layers, shrinkage, and ways down from saddles."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ncollapse.surrogates.mufm import MUFM
from ncollapse.surrogates.solving.arguments import check_positive
from ncollapse.surrogates.solving.losses import gradient_rounding
from ncollapse.surrogates.solving.solution import Inequality, Variables
from ncollapse.surrogates.ufm import UFM


def merged_decay(decays: Sequence[float]) -> float:
    r"""Merge the costs λ_l of several layers into one cost of moving: :math:`\lambda_H = 1 / \sum_l (1/\lambda_l)`.

    Returns:
        λ_H of the model between the first and the last layer.

    Raises:
        ValueError: If there is no cost, or one is not positive.

    Reference:
        Progressive feedforward collapse, arXiv 2405.00985, Theorem 3, with a weight for each gap.
    """
    if not decays:
        raise ValueError("merged_decay needs the decay of at least one gap between layers, got none. Pass one number per gap.")
    for decay in decays:
        check_positive(decay=decay)
    return 1 / sum(1 / decay for decay in decays)


def straight_layers(first: Tensor, last: Tensor, decays: Sequence[float]) -> list[Tensor]:
    r"""Find the cheapest layers between H_0 and H_L of shape (N, d), given the costs λ_1 … λ_L of the gaps.

    They lie on the straight line, and gap l is in proportion to :math:`1/\lambda_l`. Their cost :math:`\sum_l
    \frac{\lambda_l}{2} \lVert H_l - H_{l-1} \rVert^2` is :math:`\frac{\lambda_H}{2} \lVert H_L - H_0 \rVert^2` with the
    ``merged_decay`` λ_H.

    Returns:
        H_1 … H_L.
    """
    merged = merged_decay(decays)
    times = torch.tensor([merged / decay for decay in decays], dtype=torch.float64).cumsum(0)
    return [first + float(t) * (last - first) for t in times[:-1]] + [last]


def shrinkage(problem: MUFM, weight: Tensor) -> Tensor:
    r"""Compute the map of deviations from class means, :math:`S = \lambda_H (W^T W / N + \lambda_H I)^{-1}`, for loss "mse".

    At a critical point :math:`h_i - \mu_{y_i} = S (x_i - \bar x_{y_i})` exactly, so :math:`\Sigma_W(H) = S \Sigma_W(X) S` with
    0 < S <= I. Within-class variability shrinks, and it never vanishes.

    Returns:
        S, shape (d, d).

    Reference:
        Derived; the first part of Theorem 4 of arXiv 2405.00985 follows.
    """
    check_mse(problem, "The shrinkage law")
    identity = torch.eye(weight.shape[1], dtype=torch.float64)
    return torch.linalg.inv(weight.T @ weight / (len(problem.inputs) * problem.lambda_h) + identity)


def alignment(features: Tensor, inputs: Tensor) -> tuple[float, float]:
    r"""Compare features and data of one shape, as vectors.

    Returns:
        Their cosine in [-1, 1], and their distance in [0, 2] after scaling both to norm one; nan if one is all zero.
    """
    unit_features, unit_inputs = features / torch.linalg.norm(features), inputs / torch.linalg.norm(inputs)
    return float((unit_features * unit_inputs).sum()), float(torch.linalg.norm(unit_features - unit_inputs))


def check_mse(problem: MUFM, what: str) -> None:
    """Check that a law of the mean squared error applies."""
    if problem.loss != "mse":
        raise ValueError(f"{what} needs loss='mse', got loss={problem.loss!r}. Make the model with that loss.")


@dataclass(frozen=True, eq=False)
class CriticalPoint:
    r"""First- and second-order conditions at a point of the unconstrained or the multilayer features model.

    Attributes:
        gradient_norm: Norm of the gradient of the objective; 0 at a critical point.
        imbalance: :math:`\lVert \lambda_W W^T W - \lambda_H (H - X) H^T \rVert_F`, with X = 0 without data; 0 at a critical
            point.
        inequality: :math:`\lVert \Gamma \rVert_2 \le \sqrt{\lambda_W \lambda_H}`. If it holds, a critical point is a global
            minimizer. If it fails, the point is a saddle, provided that a direction orthogonal to W, H and X exists.
        curvature: Second-order change along ``direction`` over its squared step; 0 without a direction.
        direction: Changes of "weight" and "features" that lower the objective; None if there is no such direction.
    """

    gradient_norm: float
    imbalance: float
    inequality: Inequality
    curvature: float
    direction: Variables | None


def critical_point(problem: UFM | MUFM, variables: Variables) -> CriticalPoint:
    r"""Test a point, and find the way down from a strict saddle.

    Let (u, v) be the leading singular pair of Γ, of value σ, and a a unit vector orthogonal to W, H and X. A step ε along
    :math:`\Delta W = (\lambda_H / \lambda_W)^{1/4} u a^T`, :math:`\Delta H = -(\lambda_W / \lambda_H)^{1/4} a v^T` changes the
    objective by :math:`\varepsilon^2 (\sqrt{\lambda_W \lambda_H} - \sigma)` to second order.

    Returns:
        The conditions and the direction.

    Reference:
        Zhu et al. (2021), NeurIPS, for the landscape.

    Example:
        >>> model = UFM((5, 5), dim=2, lambda_w=1e-2, lambda_h=1e-2)
        >>> origin = {name: torch.zeros_like(tensor) for name, tensor in model.start(0).items()}
        >>> critical_point(model, origin).gradient_norm, round(critical_point(model, origin).curvature, 4)
        (0.0, -0.2136)
    """
    _, gradient = problem.value_and_gradient(variables)
    weight, features = variables["weight"], variables["features"]
    inputs = problem.inputs if isinstance(problem, MUFM) else torch.zeros_like(features)
    imbalance = problem.lambda_w * weight.T @ weight - problem.lambda_h * (features - inputs).T @ features
    left, values, right = torch.linalg.svd(problem.logit_gradient(variables), full_matrices=False)
    penalty = math.sqrt(problem.lambda_w * problem.lambda_h)
    rounding = gradient_rounding(weight, features, problem._shares)
    inequality = Inequality("‖Γ‖₂ <= √(λ_W λ_H)", float(values[0]), penalty, rounding)
    normal = unused_direction(torch.cat([weight, features, inputs]))
    curvature, direction = 0.0, None
    if not inequality.holds and normal is not None:
        ratio = (problem.lambda_h / problem.lambda_w) ** 0.25
        curvature = penalty - float(values[0])
        direction = {"weight": ratio * torch.outer(right[0], normal), "features": -torch.outer(left[:, 0], normal) / ratio}
    norm = math.sqrt(sum(float(part.square().sum()) for part in gradient.values()))
    return CriticalPoint(norm, float(torch.linalg.norm(imbalance)), inequality, curvature, direction)


def unused_direction(rows: Tensor) -> Tensor | None:
    """Return a unit vector orthogonal to all rows."""
    _, values, right = torch.linalg.svd(rows)
    rank = int((values > 1e-6 * values[0]).sum())
    return right[rank] if rank < rows.shape[1] else None
