"""Qualities of a representation that its spectrum tells: RankMe, LiDAR, α-ReQ, and the similarity of two layers."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ncollapse.analysis.linear_probe import spectral_cutoff
from ncollapse.metrics.spectrum import entropy_rank
from ncollapse.statistics.cross_moments import CrossMoments


def rankme(moments: CrossMoments) -> Tensor:
    r"""Return RankMe, the entropy rank :math:`\exp(-\sum_k p_k \log p_k)` of the features' singular values, in [1, min(N, d)].

    :math:`p_k = \sigma_k / \sum_j \sigma_j` with the singular values of the N × d matrix of features, which are not centered.
    The paper adds 1e-7 to every p_k, against logarithms of 0; here 0 log 0 is 0. Singular values below about 1e-7 of the
    largest count as 0, since they are known from squares only. nan without features that differ from 0.

    Reference:
        Garrido, Balestriero, Najman & LeCun (2023), ICML, "RankMe: assessing the downstream performance of pretrained
        self-supervised representations by their rank". The formula is that of public code that quotes the paper.
    """
    return entropy_rank(_eigenvalues(moments.xx + moments.count * torch.outer(moments.mean_x, moments.mean_x)).sqrt())


def lidar(moments: CrossMoments, *, delta: float = 1e-4) -> Tensor:
    r"""Return LiDAR, the entropy rank of the eigenvalues of :math:`\Sigma_W^{-1/2} \Sigma_B \Sigma_W^{-1/2}`, in [1, K-1].

    The covariances within and between classes have sample weights, and :math:`\Sigma_W` gets ``delta`` on its diagonal. In the
    paper the classes are images and their samples are views of them, which makes it a measure without labels; here they are
    whatever the one-hot targets name. The paper's 1e-7 in the logarithm is left out. K-1 for an ETF with isotropic noise.

    Args:
        moments: Cross moments of features and one-hot labels (``CrossMoments.from_labels``).
        delta: Added to the diagonal, in units of squared features; the paper's 1e-4 supposes features of the size 1.

    Reference:
        Thilak, Huang, Saremi, Dinh, Goh, Nakkiran, Susskind & Littwin (2024), ICLR, "LiDAR: sensing linear probing performance
        in joint embedding SSL architectures". The formula is that of public code that quotes the paper.
    """
    within = within_scatter(moments) / moments.count
    between = moments.xx / moments.count - within
    factor = torch.linalg.cholesky(within + delta * torch.eye(len(within), dtype=within.dtype, device=within.device))
    half = torch.linalg.solve_triangular(factor, between, upper=False)
    return entropy_rank(_eigenvalues(torch.linalg.solve_triangular(factor, half.T, upper=False)))


def alpha_req(moments: CrossMoments, *, first: int = 1, last: int | None = None) -> Tensor:
    r"""Return α of the power law :math:`\lambda_j \propto j^{-\alpha}` of the eigenvalues of the features' covariance.

    The fit is least squares of log λ_j on log j for the ranks first..last, each with weight 1/j, as in the authors' public code
    (after Stringer et al. 2019, Nature): the ranks are denser on the logarithmic axis. The eigenvalues that are 0 are left out.
    0 for isotropic features; larger, the faster the spectrum decays; about 1 is called best. nan below two eigenvalues.

    Args:
        first: The first rank of the fit, from 1.
        last: The last rank, None for the last eigenvalue that is not 0.

    Reference:
        Agrawal, Mondal, Ghosh & Richards (2022), NeurIPS, "α-ReQ: assessing representation quality in self-supervised learning
        by measuring eigenspectrum decay".
    """
    values = _eigenvalues(moments.xx).flip(0)
    values = values[values > 0][first - 1 : last]
    if first < 1 or len(values) < 2:
        return moments.xx.new_full((), math.nan)
    ranks = torch.arange(first, first + len(values), dtype=values.dtype, device=values.device)
    weights = 1 / ranks / (1 / ranks).sum()
    x, y = ranks.log(), values.log()
    x = x - weights @ x
    return -(weights * x) @ y / ((weights * x) @ x)


def moments_cka(moments: CrossMoments) -> Tensor:
    r"""Return the linear centered kernel alignment of x and y.

    :math:`\lVert S_{xy} \rVert_F^2 / (\lVert S_{xx} \rVert_F \lVert S_{yy} \rVert_F)`, the same as
    ``ncollapse.depth.linear_cka``, from one pass: in [0, 1], nan if x or y does not vary.

    Reference:
        Kornblith, Norouzi, Lee & Hinton (2019), ICML, "Similarity of neural network representations revisited".
    """
    norm = torch.linalg.matrix_norm
    # Divided before it is squared, so that squares stay in the range of float64.
    return (norm(moments.xy) / norm(moments.xx).sqrt() / norm(moments.yy).sqrt()).square()


def within_scatter(moments: CrossMoments) -> Tensor:
    r"""Return :math:`\sum_i (x_i - \mu_{y_i})(x_i - \mu_{y_i})^T` of one-hot targets, shape (d, d)."""
    # Column k of S_xy is n_k (μ_k - μ), so that the scatter between classes is S_xy diag(1/n) S_xyᵀ.
    counts = moments.count * moments.mean_y
    return moments.xx - moments.xy @ (torch.where(counts > 0, 1 / counts, 0.0).unsqueeze(1) * moments.xy.T)


def _eigenvalues(symmetric: Tensor) -> Tensor:
    """Return the eigenvalues of a positive semidefinite matrix in ascending order, 0 where they are rounding."""
    values = torch.linalg.eigvalsh(symmetric)
    return torch.where(values > spectral_cutoff(len(values)) * values.amax(), values, 0.0)
