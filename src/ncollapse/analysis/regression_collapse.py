"""Regression collapse NRC1 to NRC4: what is left of the features of a network that was trained to predict numbers.

Each is a function of the cross moments of features x (d) and targets y (m), at any layer. NRC1 to NRC4 are those of Rangamani &
Unal (2026), Conference on Parsimony and Learning, "Deep neural regression collapse" (arXiv 2603.23805): its abstract and the
authors' public code were read, the text of the paper was not. They extend NRC1 to NRC3 of Andriopoulos, Dong, Guo, Zhao & Ross
(2024), NeurIPS, "The prevalence of neural collapse in neural multivariate regression", who scale every sample to norm 1 first.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ncollapse.analysis.linear_probe import least_squares_probe, squared_error
from ncollapse.analysis.representation import moments_cka
from ncollapse.statistics.cross_moments import CrossMoments


def regression_noise(moments: CrossMoments, rank: int | None = None) -> Tensor:
    r"""Return NRC1, the share of the features' variance outside of their first m principal directions, in [0, 1 - m/d].

    :math:`1 - \sum_{j \le m} \lambda_j / \mathrm{tr} S_{xx}`. 0 at collapse: the features lie in as many directions as there
    are targets. nan for features that do not vary.

    Args:
        rank: Number of directions; None takes the number of targets m.
    """
    values = torch.linalg.eigvalsh(moments.xx).clamp(min=0)
    kept = min(len(moments.yy) if rank is None else rank, len(values))
    return values[: len(values) - kept].sum() / values.sum()


def regression_alignment(moments: CrossMoments) -> Tensor:
    r"""Return NRC2, the linear centered kernel alignment of features and targets, in [0, 1].

    1 at collapse: the features are a rotated and scaled copy of the targets. nan if either does not vary.
    """
    return moments_cka(moments)


def regression_duality(moments: CrossMoments, weight: Tensor, rank: int | None = None) -> Tensor:
    r"""Return NRC3, the mean cosine of the principal angles between the features and what the next layer reads, in [0, 1].

    The mean singular value of :math:`V_x^T V_W`, with the first m principal directions of the centered features and the first m
    right singular vectors of W. 1 at collapse: the layer reads the directions in which the features vary. Undefined, and
    dependent on rounding, where the m-th and the next singular value are equal.

    Args:
        weight: Weight of the layer that takes these features, shape (out, d).
        rank: m; None takes the number of targets.

    Raises:
        ValueError: If the weight has another number of columns, or there are fewer than m directions.
    """
    kept = len(moments.yy) if rank is None else rank
    if weight.ndim != 2 or weight.shape[1] != len(moments.xx) or not 1 <= kept <= min(weight.shape):
        raise ValueError(
            f"regression_duality needs a weight (out, {len(moments.xx)}) of at least {kept} directions, got "
            f"{tuple(weight.shape)}. Pass the weight of the layer that takes these features, or a smaller rank."
        )
    features = torch.linalg.eigh(moments.xx).eigenvectors[:, -kept:]
    read = torch.linalg.svd(weight.double().to(features.device), full_matrices=False).Vh[:kept]
    return torch.linalg.svdvals(read @ features).clamp(max=1).mean()


def regression_error(moments: CrossMoments) -> Tensor:
    r"""Return NRC4, the mean squared error per target of the best linear prediction from the features, 0 or more.

    :math:`\min_{A, b} \frac{1}{Nm} \sum_i \lVert A x_i + b - y_i \rVert^2`, on the samples of the moments. At collapse it is
    near the error of the network itself. The authors' code has no intercept, centers the targets alone, and cuts off singular
    values below 1e-3 of the largest; here features are centered and only rounding is cut off.
    """
    return squared_error(moments, least_squares_probe(moments)) / len(moments.yy)
