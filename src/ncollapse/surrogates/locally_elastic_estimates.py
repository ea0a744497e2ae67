"""The modes of locally elastic equations, and their rates estimated from class means along training."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor


def simplex_directions(num_classes: int) -> Tensor:
    """Centered unit vectors :math:`d_k = e_k - 1/K`."""
    return torch.eye(num_classes, dtype=torch.float64) - 1 / num_classes


def mode_amplitudes(means: Tensor) -> tuple[Tensor, Tensor]:
    r"""Amplitudes of the L-model's modes: :math:`c_k = \langle X_k, d_k \rangle / \lVert d_k \rVert^2`, split."""
    directions = simplex_directions(means.shape[-1])
    amplitudes = (means * directions).sum(dim=-1) / directions.square().sum(dim=1)
    common = amplitudes.mean(dim=-1, keepdim=True)
    return common, amplitudes - common


class RateIntegrals(NamedTuple):
    """Estimates of the integrals A of α and B of β from the first time on, each of shape (T,)."""

    alpha: Tensor
    beta: Tensor


def estimate_integrals(means: Tensor, *, kind: Literal["I", "L"]) -> RateIntegrals:
    r"""Estimate A and B from class means (T, K, p) at T times.

    I-model: :math:`\hat B = -\log|\frac{c_0}{c_k} \frac{\bar X_k - \bar X}{\bar X}|` and :math:`\hat A = \log|\bar X (\bar X_k
    - \bar X)^{K-1} / (c_0 c_k^{K-1})|`, averaged over classes and coordinates. Here :math:`\bar X` is the mean of means, and
    :math:`c_0, c_k` are the first values of :math:`\bar X` and :math:`\bar X_k - \bar X`. L-model (p = K): :math:`\hat A = (a_1
    + (K-1) a_2)/K` and :math:`\hat B = (a_2 - a_1)(K-1)/K`, with K times the logarithms :math:`a_1, a_2` of the growth of both
    modes.

    Returns:
        A and B, zero at the first time; nan or inf where a mode is zero.

    Raises:
        ValueError: If the shape does not fit.

    Reference:
        Zhang, Wang & Su (2021), NeurIPS, and its public code. Here the norm measures the deviations of the L-model.
    """
    if means.ndim != 3 or kind not in {"I", "L"} or (kind == "L" and means.shape[1] != means.shape[2]):
        raise ValueError(
            f"estimate_integrals needs means of shape (T, K, p), p = K for 'L', got {tuple(means.shape)}, {kind!r}. Stack the "
            "class means of T times."
        )
    means, num_classes = means.double(), means.shape[1]
    if kind == "I":
        center = means.mean(dim=1, keepdim=True)
        common = (center / center[:1]).abs().log()
        apart = ((means - center) / (means - center)[:1]).abs().log()
        alpha, beta = common + (num_classes - 1) * apart, common - apart
        return RateIntegrals(alpha.mean(dim=(1, 2)), beta.mean(dim=(1, 2)))
    common, rest = mode_amplitudes(means)
    first = num_classes * (common[:, 0] / common[0, 0]).abs().log()
    norms = torch.linalg.vector_norm(rest, dim=1)
    second = num_classes * (norms / norms[0]).log()
    share = (num_classes - 1) / num_classes
    return RateIntegrals(first / num_classes + share * second, share * (second - first))


def smooth_rate(integral: Tensor, spacing: float = 1.0, *, window: int = 151, order: int = 2) -> Tensor:
    """Differentiate A or B (T,) at equally spaced times, by local polynomials (Savitzky–Golay) over an odd window."""
    if not order < window <= len(integral) or window % 2 == 0:
        raise ValueError(
            f"smooth_rate needs an odd window above {order} and up to {len(integral)} entries, got {window}. Pass such a "
            "window."
        )
    # Its package takes a third of a second to import, which every run and page would pay.
    from scipy.signal import savgol_filter

    return torch.from_numpy(savgol_filter(integral.numpy(), window, order, deriv=1, delta=spacing))


def tail_index(integral: Tensor, times: Tensor, last: int = 1000) -> float:
    r"""Estimate the exponent of a rate that falls as :math:`t^{-r}` from its integral A (T,): classes separate for r < 1.

    Since :math:`A = t^{1-r}/(1-r)`, the estimate errs by :math:`\log(1-r)/\log t`, which falls slowly.

    Returns:
        :math:`1 - \overline{\log |A| / \log t}` over the last entries.
    """
    return float(1 - (integral.abs().log() / times.log())[-last:].mean())
