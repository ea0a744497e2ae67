"""Whether a point is critical, and the way down from a strict saddle."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ncollapse.surrogates.mufm import MUFM
from ncollapse.surrogates.solving.solution import Inequality, Variables
from ncollapse.surrogates.ufm import UFM


@dataclass(frozen=True, eq=False)
class CriticalPoint:
    r"""What a point of the unconstrained or the multilayer features model is.

    Attributes:
        gradient_norm: Norm of the objective's gradient: 0 at a critical point.
        imbalance: :math:`\lVert \lambda_W W^T W - \lambda_H (H - X) H^T \rVert_F`, X being 0 without data: 0 at every critical
            point.
        inequality: :math:`\lVert \Gamma \rVert_2 \le \sqrt{\lambda_W \lambda_H}`: a critical point is a global minimizer if it
            holds, and only then if a unit vector orthogonal to W, H and X exists.
        curvature: Second-order change along ``direction`` over its squared step; 0 without a direction.
        direction: Changes of "weight" and "features" that lower the objective; None where the inequality holds or W, H and X
            fill all d dimensions.
    """

    gradient_norm: float
    imbalance: float
    inequality: Inequality
    curvature: float
    direction: Variables | None


def critical_point(problem: UFM | MUFM, variables: Variables) -> CriticalPoint:
    r"""Test a point, and give the way down where it is a strict saddle.

    With (u, v) the leading singular pair of Γ, of value σ, and a unit vector a orthogonal to W, to the features and the data:
    :math:`\Delta W = (\lambda_H / \lambda_W)^{1/4} u a^T`, :math:`\Delta H = -(\lambda_W / \lambda_H)^{1/4} a v^T` change the
    objective by :math:`\varepsilon^2 (\sqrt{\lambda_W \lambda_H} - \sigma)` to second order.

    Returns:
        What it is.

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
    inequality = Inequality("‖Γ‖₂ <= √(λ_W λ_H)", float(values[0]), penalty)
    normal = unused_direction(torch.cat([weight, features, inputs]))
    curvature, direction = 0.0, None
    if not inequality.holds and normal is not None:
        ratio = (problem.lambda_h / problem.lambda_w) ** 0.25
        curvature = penalty - float(values[0])
        direction = {"weight": ratio * torch.outer(right[0], normal), "features": -torch.outer(left[:, 0], normal) / ratio}
    norm = math.sqrt(sum(float(part.square().sum()) for part in gradient.values()))
    return CriticalPoint(norm, float(torch.linalg.norm(imbalance)), inequality, curvature, direction)


def unused_direction(rows: Tensor) -> Tensor | None:
    """A unit vector orthogonal to all rows."""
    _, values, right = torch.linalg.svd(rows)
    rank = int((values > 1e-6 * values[0]).sum())
    return right[rank] if rank < rows.shape[1] else None
