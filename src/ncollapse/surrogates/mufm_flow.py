"""The gradient flow that the minimizers of the multilayer model follow at first."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ncollapse.statistics import ClassScatter
from ncollapse.surrogates.solving.arguments import check_balanced, check_finite, check_positive
from ncollapse.surrogates.solving.flows import State, runge_kutta


@dataclass(frozen=True, eq=False)
class FlowPath:
    r"""Class means and spreads of the features along the flow.

    Attributes:
        times: The times, shape (T,).
        maps: B(t), shape (T, d, d). The deviations from class means are those of the data, mapped by B.
        means: The class means, shape (T, K, d).
        within_traces: tr Σ_W, shape (T,), which never rises.
        between_traces: tr Σ_B, shape (T,), which never falls.
    """

    times: Tensor
    maps: Tensor
    means: Tensor
    within_traces: Tensor
    between_traces: Tensor

    @property
    def pfc1(self) -> Tensor:
        """The ratio tr Σ_W / tr Σ_B, shape (T,), which never rises."""
        return self.within_traces / self.between_traces


def best_weight(within: Tensor, means: Tensor, lambda_w: float) -> Tensor:
    r"""Ridge regression of the labels on balanced features."""
    # W = \frac1K M^T (\Sigma_W + \frac1K M M^T + \lambda_W I)^{-1}.
    system = within + means.T @ means / len(means) + lambda_w * torch.eye(len(within), dtype=torch.float64)
    return torch.linalg.solve(system, means / len(means), left=False)


def gradient_flow(inputs: Tensor, labels: Tensor, *, lambda_w: float, duration: float, num_steps: int = 1000) -> FlowPath:
    r"""Follow :math:`\dot H = -\frac1N W^T (W H - Y)` from H(0) = X, with the best W for H at every time (Runge–Kutta).

    This is the gradient flow of :math:`\min_W \frac{1}{2N} \lVert W H - Y \rVert^2 + \frac{\lambda_W}{2} \lVert W \rVert^2`. It
    is also the minimizer of ``MUFM`` to first order: :math:`H^* = X + \dot H(0) / \lambda_H + o(1/\lambda_H)`. Class means and
    the map B of the deviations have equations of their own, :math:`\dot M = -\frac1N W^T (W M - I)` and :math:`\dot B =
    -\frac1N W^T W B`, so the cost does not depend on the number of samples.

    Args:
        inputs: X, shape (N, d).
        labels: Balanced classes, shape (N,).
        lambda_w: Decay of the weight, positive.
        duration: The last time. The loss is a mean, so features of N samples need times of order N.

    Returns:
        The path, with its start.

    Raises:
        ValueError: If a step is longer than 0.5 N / ‖W‖².

    Reference:
        Progressive feedforward collapse, arXiv 2405.00985, eq. (21) as we read it; the reduction and its laws are derived.
    """
    check_positive(lambda_w=lambda_w, duration=duration, num_steps=num_steps)
    check_finite("gradient_flow", inputs)
    counts = torch.bincount(labels).tolist()
    check_balanced(counts, "The reduced flow")
    scatter = ClassScatter.from_batch(inputs.double(), labels, len(counts))
    within, step, num_samples = scatter.within_covariance(), duration / num_steps, sum(counts)

    def slope(state: State) -> State:
        deviation, means = state
        weight = best_weight(deviation @ within @ deviation.T, means, lambda_w)
        longest = 0.5 * num_samples / float(weight.square().sum())
        if step > longest:
            raise ValueError(
                f"gradient_flow needs steps of at most 0.5 N / ‖W‖² = {longest:.3g}, got {step:.3g}. Take more steps."
            )
        identity = torch.eye(len(counts), dtype=torch.float64)
        return -weight.T @ weight @ deviation / num_samples, -(means @ weight.T - identity) @ weight / num_samples

    state: State = torch.eye(inputs.shape[1], dtype=torch.float64), scatter.moments.means
    path = [state]
    for _ in range(num_steps):
        state = runge_kutta(slope, state, step)
        path.append(state)
    maps, means = (torch.stack(parts) for parts in zip(*path, strict=True))
    centered = means - means.mean(dim=1, keepdim=True)
    times = torch.linspace(0, duration, num_steps + 1, dtype=torch.float64)
    traces = torch.einsum("tij,jk,tik->t", maps, within, maps)
    return FlowPath(times, maps, means, traces, centered.square().sum(dim=(1, 2)) / len(counts))
