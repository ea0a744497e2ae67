"""A floor of deep regularized networks that knows depth and data: the multilayer model with features on a sphere."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ncollapse.surrogates.gufm import GUFM, layer_norm
from ncollapse.surrogates.mufm import MUFM, EliminatedFeatures
from ncollapse.surrogates.solving.arguments import balanced, check_positive
from ncollapse.surrogates.solving.losses import LossName
from ncollapse.surrogates.solving.solution import Variables
from ncollapse.surrogates.solving.solvers import LBFGS

# Steps towards the best multiplier. Each gives a bound, and the best one counts.
_STEPS, _NEAR = 4, 3e-3


def block_cost(lambda_w: float, num_blocks: int, num_samples: int, *, biases: bool) -> float:
    r"""Return :math:`\lambda_H`, what blocks of one linear layer pay at least for moving features on the unit sphere.

    L blocks :math:`LN(h + \sigma(W_l h + b_l))` with :math:`|\sigma(a)| \le |a|` that move :math:`x_i` to :math:`h_i` have
    :math:`\frac{\lambda}{2} \sum_l (\lVert W_l \rVert^2 + \lVert b_l \rVert^2) \ge \frac{\lambda_H}{2} \sum_i \lVert h_i - x_i
    \rVert^2` with :math:`\lambda_H = \lambda/(4LN)`, and half of that with biases, which must be decayed too.
    """
    check_positive(lambda_w=lambda_w, num_blocks=num_blocks, num_samples=num_samples)
    return lambda_w / (4 * num_blocks * num_samples * (2 if biases else 1))


def depth_floor(inputs: Tensor, labels: Tensor, *, loss: LossName, lambda_w: float, lambda_h: float) -> float:
    r"""Return a lower bound of the multilayer model with features on the unit sphere and a free bias.

    .. math:: \min_{W, b, \lVert h_i \rVert = 1}\; \ell(W H + b 1^T) + \frac{\lambda_W}{2} \lVert W \rVert^2
        + \frac{\lambda_H}{2} \lVert H - X \rVert^2

    With one multiplier μ for the norms of all features, this is at least the minimum of ``MUFM`` on the data κX at the cost
    :math:`\mu + \lambda_H`, plus :math:`\frac N2 (\lambda_H \mu / (\mu + \lambda_H) - \mu)`, where κ = λ_H/(μ + λ_H). Any μ
    gives a bound, by the dual certificate of ``MUFM``; the best of a few is returned. It is proven, whatever the solver found.

    Args:
        inputs: X, unit vectors of mean zero, shape (N, d).
        labels: Classes in [0, K), each with a sample, shape (N,).
        loss: "mse" or "cross_entropy".
        lambda_w: λ_W, positive.
        lambda_h: λ_H, positive: that of ``block_cost``.

    Returns:
        The bound.

    Raises:
        ValueError: If the rows are no unit vectors of mean zero, or a number is not positive.

    Reference:
        Derived here: docs/theory.md, 5.7. It joins arXiv 2405.00985 and arXiv 2505.15239.
    """
    inputs = inputs.double()
    check_positive(lambda_w=lambda_w, lambda_h=lambda_h)
    if not torch.allclose(layer_norm(inputs), inputs, atol=1e-5):
        raise ValueError("depth_floor needs rows of norm one and mean zero, as a normalization makes them. Use layer_norm.")
    num_classes = int(labels.max()) + 1
    free = GUFM(balanced(num_classes, 1), dim=inputs.shape[1], loss=loss, bias="free", lambda_w=lambda_w)
    # That of free features on the sphere, whose minimum has λ_W ‖W‖² = μ N.
    multiplier, best, start = lambda_w * num_classes * free.scale**2 / len(inputs), -math.inf, None
    for _ in range(_STEPS):
        found, norm, start, converged = _bound(inputs, labels, loss, lambda_w, lambda_h, multiplier, start)
        best = max(best, found)
        # Of a point that is not critical the bound is far from the best, and the next step goes on from there.
        if converged and abs(norm - 1) < _NEAR:
            break
        # The bound is concave in the multiplier, and its slope is (‖H‖² - N)/2.
        multiplier *= min(2.0, max(0.5, norm))
    return best


def _bound(
    inputs: Tensor, labels: Tensor, loss: LossName, lambda_w: float, lambda_h: float, multiplier: float, start: Variables | None
) -> tuple[float, float, Variables, bool]:
    """Return the bound at a multiplier, the mean squared norm of its features, its point and whether that is critical."""
    cost, num_samples = multiplier + lambda_h, len(inputs)
    model = MUFM(lambda_h / cost * inputs, labels, loss=loss, bias="free", lambda_w=lambda_w, lambda_h=cost)
    descent = LBFGS(max_iterations=500)
    solver = EliminatedFeatures(starts=1, descent=descent) if loss == "mse" else descent
    run = solver.run(model, model.start(0) if start is None else start)
    _, bound = model.dual(run.variables)
    norm = float(run.variables["features"].square().sum()) / num_samples
    return bound + num_samples / 2 * (lambda_h * multiplier / cost - multiplier), norm, run.variables, run.converged
