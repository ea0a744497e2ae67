"""NC3 at intermediate layers: alignment of the next weights with the class means, and ranks of class activations.

After Rangamani et al. (2023), ICML, "Feature learning in deep classifiers through intermediate neural collapse".
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ncollapse.statistics.batch import check_labels, flatten_features
from ncollapse.statistics.moments import ClassMoments


def subspace_alignment(left: Tensor, right: Tensor, rank: int) -> Tensor:
    r"""Return the mean cosine of the principal angles between the leading column spaces of two matrices.

    :math:`\frac{1}{r} \sum_{j \le r} \sigma_j(U_r^T V_r)`, U_r and V_r being the first r left singular vectors: in [0, 1], 1
    for equal subspaces, 0 for orthogonal ones. nan if either has a lower rank than r (singular values below 10 · max(shape) ·
    eps of the largest).

    Args:
        left: Shape (d, p), float64.
        right: Shape (d, q), float64.

    Raises:
        ValueError: If the heights differ, or r is not between 1 and the smallest side.
    """
    largest = min(*left.shape, *right.shape)
    if len(left) != len(right) or not 1 <= rank <= largest:
        raise ValueError(
            f"subspace_alignment needs matrices of one height and a rank from 1 to {largest}, got shapes {tuple(left.shape)} "
            f"and {tuple(right.shape)} and rank {rank}. Compare the means with the weights of the next layer, at a lower rank."
        )
    bases = [_leading_basis(matrix, rank) for matrix in (left, right)]
    if bases[0] is None or bases[1] is None:
        return left.new_full((), math.nan)
    return torch.linalg.svdvals(bases[0].T @ bases[1]).mean()


def _leading_basis(matrix: Tensor, rank: int) -> Tensor | None:
    basis, singular_values, _ = torch.linalg.svd(matrix, full_matrices=False)
    cutoff = 10 * max(matrix.shape) * torch.finfo(matrix.dtype).eps * singular_values[0]
    return basis[:, :rank] if bool(singular_values[rank - 1] > cutoff) else None


def weight_alignment(weight: Tensor, moments: ClassMoments, *, centered: bool = False, rank: int | None = None) -> Tensor:
    r"""Return the alignment of the class means of a layer with the weights of the next layer, in [0, 1].

    A linear layer compares the row space of W with the span of the class means, in R^d. A convolution compares spaces of input
    channels: W as a matrix :math:`c_{in} \times (c_{out} k_1 k_2)` and the means as :math:`c_{in} \times (K h w)`. nan if
    weights or means have a lower rank.

    Args:
        weight: Weight of the next layer: (out, d) for a linear layer, (c_out, c_in, ...) for a convolution of one group.
        moments: Class moments of that layer's input, features flattened as (c_in, h, w).
        centered: Subtract the mean of class means first; the published code does not.
        rank: Rank of the compared subspaces. None is K, or K-1 for centered means, but at most what the matrices allow. For
            convolutions look at a range of ranks.

    Raises:
        ValueError: If the weight does not fit the features, or the rank is too large.

    Example:
        >>> moments = ClassMoments.from_batch(torch.eye(4)[:2], torch.arange(2), 2)
        >>> float(weight_alignment(torch.eye(4)[:2], moments)), float(weight_alignment(torch.eye(4)[2:], moments))
        (1.0, 0.0)
    """
    means = moments.centered_means() if centered else moments.class_means
    channels = weight.shape[1] if weight.ndim > 1 else 0
    fits = moments.dim == channels if weight.ndim == 2 else channels > 0 and moments.dim % channels == 0
    if not fits:
        raise ValueError(
            f"weight_alignment needs a weight for {moments.dim} input features, got shape {tuple(weight.shape)}. "
            "Pass the weight of the layer after the measured one."
        )
    left = weight.detach().double().transpose(0, 1).flatten(1).to(means.device)
    right = means.reshape(moments.num_classes, channels, -1).transpose(0, 1).flatten(1)
    if bool(right.isnan().any()):
        return right.new_full((), math.nan)
    default = min(moments.num_classes - int(centered), *left.shape, *right.shape)
    return subspace_alignment(left, right, default if rank is None else rank)


def class_stable_ranks(features: Tensor, labels: Tensor, *, num_classes: int) -> Tensor:
    r"""Return each class's stable rank around its mean, :math:`\lVert A_k \rVert_F^2 / \lVert A_k \rVert_2^2`, shape (K,).

    The rows of A_k are h - μ_k. In [1, min(n_k - 1, d)]; nan for a class whose samples are all alike or missing.

    Args:
        features: Shape (N, ...).
        labels: Class indices in [0, K), shape (N,).
    """
    rows = flatten_features(features).double()
    labels = check_labels(labels, len(rows), num_classes).to(rows.device)
    ranks = rows.new_full((num_classes,), math.nan)
    for k in torch.unique(labels).tolist():
        shifted = rows[labels == k] - rows[labels == k][0]
        deviations = shifted - shifted.mean(dim=0)
        singular_values = torch.linalg.svdvals(deviations)
        ranks[k] = singular_values.square().sum() / singular_values[0].square()
    return ranks
