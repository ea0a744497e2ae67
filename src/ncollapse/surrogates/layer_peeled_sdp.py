"""The layer-peeled model as the semidefinite program of its paper: an independent check of the nuclear-norm solver."""

from __future__ import annotations

from ncollapse.extras import missing_extra
from ncollapse.surrogates.layer_peeled import LayerPeeled


def solve_sdp(problem: LayerPeeled) -> float:
    r"""Optimal value by the semidefinite relaxation, which is tight for d >= K.

    Over :math:`X \succeq 0` of 2K rows, those of the class means above those of the classifier:
    :math:`\min \sum_k p_k \mathrm{CE}(X_{k,\,K+1..2K}, k)` with :math:`\sum_{i \le K} X_{ii} \le K E_H` and
    :math:`\sum_{i > K} X_{ii} \le K E_W`.

    Args:
        problem: The model; its dim plays no part.

    Returns:
        The value, to about 1e-8.

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
