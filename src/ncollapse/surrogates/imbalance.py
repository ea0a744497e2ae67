"""Minority collapse of the unconstrained features model in closed form, and its limit of vanishing decay."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ncollapse.surrogates.solving.arguments import check_counts, check_positive


def minority_collapse_ratio(
    num_majority: int,
    num_minority: int,
    *,
    lambda_w: float,
    lambda_h: float,
    minority_count: float | None = None,
    num_samples: float | None = None,
) -> float:
    r"""Imbalance from which on the minorities of the cross-entropy model without bias share one mean and one classifier row.

    With K_A classes of n_A samples and K_B of n_B, they collapse iff :math:`n_B \le N^2 \lambda_W \lambda_H`: iff
    :math:`R = n_A / n_B` is at least :math:`(1/\sqrt{n_B \lambda_W \lambda_H} - K_B) / K_A` for a fixed n_B, or
    :math:`(1/(N \lambda_W \lambda_H) - K_B) / K_A` for a fixed N.

    Args:
        num_majority: K_A, at least 1.
        num_minority: K_B, at least 2.
        lambda_w: Decay of the weight.
        lambda_h: Decay of the features (of their sum over samples).
        minority_count: n_B, held fixed as the imbalance grows.
        num_samples: N, held fixed instead.

    Returns:
        R; below 1 if the minorities are collapsed at balance.

    Raises:
        ValueError: If a number is out of range, or not exactly one of n_B and N is given.

    Reference:
        Derived; the threshold's existence: Fang et al. (2021), PNAS; Hong & Ling (2023).

    Example:
        >>> round(minority_collapse_ratio(2, 3, lambda_w=1e-2, lambda_h=1e-1, minority_count=3), 6)
        7.628709
    """
    check_positive(num_majority=num_majority, lambda_w=lambda_w, lambda_h=lambda_h)
    if num_minority < 2:
        raise ValueError(f"Minority collapse needs num_minority >= 2, got {num_minority}. One class has nothing to merge with.")
    if (minority_count is None) == (num_samples is None):
        raise ValueError("minority_collapse_ratio needs either minority_count or num_samples, the one that stays fixed.")
    if minority_count is not None:
        check_positive(minority_count=minority_count)
        reach = 1 / math.sqrt(minority_count * lambda_w * lambda_h)
    else:
        assert num_samples is not None
        check_positive(num_samples=num_samples)
        reach = 1 / (num_samples * lambda_w * lambda_h)
    return (reach - num_minority) / num_majority


def seli_geometry(counts: Sequence[int]) -> tuple[Tensor, Tensor]:
    r"""Gram matrices of classifier rows and class means for vanishing decay: simplex-encoded labels.

    With :math:`\hat Z = (I - 11^T/K) Y = V \Lambda U^T`: :math:`W W^T \propto V \Lambda V^T` and :math:`H^T H \propto U \Lambda
    U^T`. For balanced classes both are those of a simplex ETF. The solutions of the cross-entropy model come near it only
    logarithmically in the decay.

    Returns:
        :math:`V \Lambda V^T` and the Gram matrix of the class means, each of shape (K, K).

    Raises:
        ValueError: If the counts are no positive integers.

    Reference:
        Thrampoulidis, Kini, Vakilian & Behnia (2022), NeurIPS.
    """
    check_counts(counts)
    roots = torch.tensor(list(counts), dtype=torch.float64).sqrt()
    # Samples of a class are alike: a column a class, √n_k times.
    encoded = (torch.eye(len(roots), dtype=torch.float64) - 1 / len(roots)) * roots
    left, values, right = torch.linalg.svd(encoded)
    return left * values @ left.T, right.T * values @ right / torch.outer(roots, roots)
