"""The rates of a locally elastic equation, estimated from class-mean logits along training."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from scipy.signal import savgol_filter
from torch import Tensor

from ncollapse.surrogates.locally_elastic_modes import mode_amplitudes


class RateIntegrals(NamedTuple):
    """Estimates along a path, each of shape (T,).

    Attributes:
        alpha: A, the integral of α from the first entry on.
        beta: B, that of β.
    """

    alpha: Tensor
    beta: Tensor


def estimate_integrals(means: Tensor, *, kind: Literal["I", "L"]) -> RateIntegrals:
    r"""Estimate A and B from class means.

    I-model: with the mean of means :math:`\bar X` and its initial value :math:`c_0`, deviations
    :math:`\bar X_k - \bar X` and :math:`c_k`, averaged over classes and coordinates:
    :math:`\hat B = -\log|\frac{c_0}{c_k} \frac{\bar X_k - \bar X}{\bar X}|`,
    :math:`\hat A = \log|\bar X (\bar X_k - \bar X)^{K-1} / (c_0 c_k^{K-1})|`. L-model: with K times the logarithms
    :math:`a_1, a_2` of the growth of the two modes, :math:`\hat A = (a_1 + (K-1) a_2)/K`,
    :math:`\hat B = (a_2 - a_1)(K-1)/K`.

    Args:
        means: Class means at T times, shape (T, K, p); p = K for "L".
        kind: "I" or "L".

    Returns:
        A and B, zero at the first time; nan or inf where a mode is zero.

    Raises:
        ValueError: If the shape does not fit.

    Reference:
        Zhang, Wang & Su (2021), NeurIPS, and its public code; the mode of the L-model's deviations is taken by its norm.
    """
    if means.ndim != 3 or kind not in {"I", "L"} or (kind == "L" and means.shape[1] != means.shape[2]):
        raise ValueError(
            f"estimate_integrals needs means of shape (T, K, p), p = K for 'L', got {tuple(means.shape)}, {kind!r}."
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
    """The rate whose integral was estimated: its Savitzky–Golay derivative.

    Args:
        integral: A or B at equally spaced times, shape (T,).
        window: Entries of a local polynomial, odd, at most T.

    Returns:
        Shape (T,).

    Raises:
        ValueError: If the window does not fit.
    """
    if not order < window <= len(integral) or window % 2 == 0:
        raise ValueError(f"smooth_rate needs an odd window above {order} and up to {len(integral)} entries, got {window}.")
    return torch.from_numpy(savgol_filter(integral.numpy(), window, order, deriv=1, delta=spacing))


def tail_index(integral: Tensor, times: Tensor, last: int = 1000) -> float:
    r"""Exponent r of a rate that falls as :math:`t^{-r}`: :math:`1 - \overline{\log |A| / \log t}` over the last entries.

    Since :math:`A = t^{1-r}/(1-r)`, the error is :math:`\log(1-r)/\log t`: logarithmic in time. Classes separate for r < 1.

    Args:
        integral: A or B, shape (T,).
        times: t, shape (T,), above 1 at the end.

    Returns:
        r.
    """
    return float(1 - (integral.abs().log() / times.log())[-last:].mean())
