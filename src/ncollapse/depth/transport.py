"""Transport between two layers: exact Wasserstein-2 on a sample, and Gelbrich's lower bound."""

from __future__ import annotations

import scipy
import torch
from torch import Tensor


def wasserstein2_squared(first: Tensor, last: Tensor) -> float:
    r"""Return the squared Wasserstein-2 distance between two samples of equal size, by exact assignment.

    :math:`W_2^2 = \frac{1}{N} \min_\sigma \sum_i \lVert x_i - y_{\sigma(i)} \rVert^2`. At most the cost of the given pairing,
    with equality iff that pairing is optimal. O(N³): for N up to about 2000.

    Raises:
        ValueError: If the shapes differ.
    """
    first, last = checked_pair(first, last)
    cost = torch.cdist(first, last, compute_mode="donot_use_mm_for_euclid_dist").square().cpu().numpy()
    rows, columns = scipy.optimize.linear_sum_assignment(cost)
    return float(cost[rows, columns].mean())


def gelbrich_squared(first: Tensor, last: Tensor) -> float:
    r"""Return Gelbrich's lower bound of :math:`W_2^2`, the distance of Gaussians with the samples' means and covariances.

    :math:`\lVert m_x - m_y \rVert^2 + \mathrm{tr}\,(S_x + S_y) - 2 \lVert S_x^{1/2} S_y^{1/2} \rVert_*`, at least the squared
    distance of the means. The nuclear norm is that of the N×N or d×d cross product of the centered samples, whichever is
    smaller. The samples need not be equally many.

    Reference:
        Gelbrich (1990), Mathematische Nachrichten.
    """
    x, y = first.double(), last.double()
    mean_x, mean_y = x.mean(dim=0), y.mean(dim=0)
    x, y = (x - mean_x) / len(x) ** 0.5, (y - mean_y) / len(y) ** 0.5
    if x.shape[1] <= min(len(x), len(y)):
        # With R the triangular factors, S = R'R and the singular values of R_x R_y' are those of S_x^(1/2) S_y^(1/2).
        x, y = torch.linalg.qr(x, mode="r").R, torch.linalg.qr(y, mode="r").R
    overlap = torch.linalg.svdvals(x @ y.T).sum()
    return float((mean_x - mean_y).square().sum() + x.square().sum() + y.square().sum() - 2 * overlap)


def checked_pair(first: Tensor, last: Tensor) -> tuple[Tensor, Tensor]:
    """Check that two samples have one shape, and return them in float64."""
    if first.shape != last.shape or first.ndim != 2 or not len(first):
        raise ValueError(
            f"Both samples must have one shape (N, d) with N of 1 or more, got {tuple(first.shape)} and {tuple(last.shape)}. "
            "Pass flat features of the same samples, from layers of one dimension."
        )
    return first.double(), last.double()
