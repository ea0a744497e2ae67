"""Imbalanced classes: when minorities collapse, the limit of vanishing decay, and the semidefinite program of the paper."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from scipy.optimize import brentq
from torch import Tensor

from ncollapse.etf import seli_grams
from ncollapse.extras import missing_extra
from ncollapse.surrogates.layer_peeled import LayerPeeled
from ncollapse.surrogates.solving.arguments import check_counts, check_positive
from ncollapse.surrogates.solving.solution import Solution

# Beyond this imbalance a threshold is not looked for.
_LARGEST_RATIO = 1e6


def minority_collapse_ratio(
    num_majority: int,
    num_minority: int,
    *,
    lambda_w: float,
    lambda_h: float,
    minority_count: float | None = None,
    num_samples: float | None = None,
) -> float:
    r"""Compute the imbalance R from which on the minority classes of ``UFM`` (cross-entropy, no bias) collapse.

    Take K_A classes of n_A samples and K_B classes of n_B. The minorities share one mean and one classifier row iff :math:`n_B
    \le N^2 \lambda_W \lambda_H`, that is iff :math:`R = n_A / n_B` is at least :math:`(1/\sqrt{n_B \lambda_W \lambda_H} - K_B)
    / K_A` for a fixed n_B, or at least :math:`(1/(N \lambda_W \lambda_H) - K_B) / K_A` for a fixed N.

    Args:
        num_majority: K_A, at least 1.
        num_minority: K_B, at least 2.
        lambda_w: λ_W, decay of the weight.
        lambda_h: λ_H, decay of the features, summed over samples.
        minority_count: n_B, if it is fixed as the imbalance grows.
        num_samples: N, if it is fixed instead.

    Returns:
        R; below 1 if the minorities are collapsed even at balance.

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
        raise ValueError(
            "minority_collapse_ratio needs either minority_count or num_samples, got "
            f"{'none' if num_samples is None else 'both'}. Pass the one that stays fixed."
        )
    if minority_count is not None:
        check_positive(minority_count=minority_count)
        reach = 1 / math.sqrt(minority_count * lambda_w * lambda_h)
    else:
        assert num_samples is not None
        check_positive(num_samples=num_samples)
        reach = 1 / (num_samples * lambda_w * lambda_h)
    return (reach - num_minority) / num_majority


def seli_geometry(counts: Sequence[int]) -> tuple[Tensor, Tensor]:
    r"""Compute the Gram matrices of classifier rows and class means for vanishing decay (simplex-encoded labels).

    With :math:`(I - 11^T/K) Y = V \Lambda U^T` they are :math:`V \Lambda V^T` and :math:`U \Lambda U^T`, up to scale. For
    balanced classes both belong to a simplex ETF. Solutions for small decay approach them as one over its logarithm.

    Returns:
        :math:`V \Lambda V^T` and the Gram matrix of the class means, each of shape (K, K).

    Reference:
        Thrampoulidis, Kini, Vakilian & Behnia (2022), NeurIPS.
    """
    check_counts(counts)
    return seli_grams(torch.tensor(list(counts), dtype=torch.float64))


def minority_cosine(solution: Solution, num_majority: int) -> float:
    """Average the cosines between classifier rows of minority classes, which come after the majority classes.

    Returns:
        In [-1, 1]: -1/(K-1) for an ETF, 1 for collapsed minorities, nan for a single one.
    """
    rows = torch.nn.functional.normalize(solution.variables["weight"][num_majority:], dim=1)
    cosines = rows @ rows.T
    return float(cosines[~torch.eye(len(rows), dtype=torch.bool)].mean())


def minority_threshold(
    num_classes: int, num_majority: int, *, energy_w: float, energy_h: float, tolerance: float = 1e-6
) -> float:
    r"""Find the imbalance :math:`R_0` from which on the minority classes of ``LayerPeeled`` collapse.

    It is the root of :math:`\lVert G \rVert_2 - p_{minority}`, to a relative error of ``tolerance``.

    Returns:
        R_0, at least 1.

    Raises:
        ValueError: If there are fewer than two minority classes, or no threshold is below 1e6.

    Example:
        >>> round(minority_threshold(4, 2, energy_w=1.0, energy_h=2.0), 3)
        7.618
    """
    if num_majority > num_classes - 2:
        raise ValueError(
            f"A threshold needs two or more minority classes, got {num_classes - num_majority}. Lower num_majority."
        )

    def excess(log_ratio: float) -> float:
        model = LayerPeeled.imbalanced(num_classes, num_majority, math.exp(log_ratio), energy_w=energy_w, energy_h=energy_h)
        branch = model.solve().certificate.inequality
        assert branch is not None
        return (branch.right - branch.left) / branch.left

    high = math.log(2)
    while excess(high) < 0:
        high += math.log(2)
        if high > math.log(_LARGEST_RATIO):
            raise ValueError(
                f"Minorities do not collapse up to a ratio of {_LARGEST_RATIO:g} where energy_w * energy_h is "
                f"{energy_w * energy_h:g}. Lower that product."
            )
    return math.exp(float(brentq(excess, high - math.log(2), high, xtol=tolerance)))


def solve_sdp(problem: LayerPeeled) -> float:
    r"""Solve the semidefinite program of the layer-peeled model, which has the same minimum if d >= K.

    Over :math:`X \succeq 0` of 2K rows, class means above classifier rows:
    :math:`\min \sum_k p_k \mathrm{CE}(X_{k,\,K+1..2K}, k)` with :math:`\sum_{i \le K} X_{ii} \le K E_H` and
    :math:`\sum_{i > K} X_{ii} \le K E_W`.

    Returns:
        The minimum, to about 1e-8.

    Raises:
        ImportError: If the extra ``sdp`` is not installed.
        RuntimeError: If the interior-point solver reports no solution.

    Reference:
        Fang, He, Long & Su (2021), PNAS.
    """
    try:
        import cvxpy as cp
    except ImportError as error:
        raise ImportError(missing_extra("solve_sdp", "cvxpy", "sdp")) from error
    K = problem.num_classes
    gram = cp.Variable((2 * K, 2 * K), PSD=True)
    losses = [share * (cp.log_sum_exp(gram[k, K:]) - gram[k, K + k]) for k, share in enumerate(problem.shares)]
    bounds = [cp.trace(gram[:K, :K]) <= K * problem.energy_h, cp.trace(gram[K:, K:]) <= K * problem.energy_w]
    program = cp.Problem(cp.Minimize(sum(losses)), bounds)
    program.solve(solver=cp.CLARABEL)
    if program.status != cp.OPTIMAL:
        raise RuntimeError(
            f"Clarabel reports {program.status!r} for the semidefinite program. Rescale energy_w and energy_h towards 1."
        )
    return float(program.value)
