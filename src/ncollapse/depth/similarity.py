"""Similarity of layers: linear centered kernel alignment."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from ncollapse.default_device import on_the_cpu
from ncollapse.statistics.batch import flatten_features


@on_the_cpu
def linear_cka(first: Tensor, last: Tensor) -> Tensor:
    r"""Return the linear centered kernel alignment of two layers, features of shape (N, ...); nan if a layer does not vary.

    :math:`\lVert X_c^T Y_c \rVert_F^2 / (\lVert X_c^T X_c \rVert_F \lVert Y_c^T Y_c \rVert_F)`, columns centered. In [0, 1]; 1
    iff the centered Gram matrices are proportional, as between any two layers that have collapsed to simplex ETFs. Invariant to
    translation, rotation and scale of either layer. Products are d×d or N×N, whichever is smaller.

    Raises:
        ValueError: If the numbers of samples differ.

    Reference:
        Kornblith et al. (2019), ICML, "Similarity of neural network representations revisited".

    Example:
        >>> x = torch.tensor([[1.0, 0.0], [0.0, 1.0], [2.0, 2.0]])
        >>> round(float(linear_cka(x, 3 * x.flip(1) + 1)), 12)
        1.0
    """
    return cka_matrix({"first": first, "last": last})[0, 1]


@on_the_cpu
def cka_matrix(layers: Mapping[str, Tensor]) -> Tensor:
    """Return ``linear_cka`` of every pair of layers: shape (L, L), float64, symmetric, on the CPU.

    Ones on the diagonal; nan in the row of a layer that does not vary.

    Args:
        layers: Features (N, ...) by layer, as ``collect_features`` returns them.

    Raises:
        ValueError: If there is no layer or the numbers of samples differ.
    """
    sizes = sorted({len(features) for features in layers.values()})
    if len(sizes) != 1:
        raise ValueError(
            f"cka_matrix needs layers of the same samples, got {len(layers)} layers of {sizes} samples. "
            "Collect all layers from the same batches."
        )
    centered = [_centered_unit(features) for features in layers.values()]
    num_layers = len(centered)
    overlaps = torch.empty(num_layers, num_layers, dtype=torch.float64)
    for i in range(num_layers):
        for j in range(i, num_layers):
            overlaps[i, j] = overlaps[j, i] = _overlap(centered[i], centered[j])
    norms = overlaps.diagonal().sqrt()
    return overlaps / (norms.unsqueeze(1) * norms)


def _centered_unit(features: Tensor) -> Tensor:
    """Center columns and scale the whole to norm 1: the ratio stays, and squares stay in the range of float64."""
    flat = flatten_features(features).double()
    # The first sample is subtracted first. This keeps a large common offset out of the mean, and makes a constant layer exactly
    # zero.
    shifted = flat - flat[:1]
    centered = shifted - shifted.mean(dim=0)
    norm = torch.linalg.vector_norm(centered)
    return centered / norm if bool(norm > 0) else centered * math.nan


def _overlap(left: Tensor, right: Tensor) -> Tensor:
    if left.shape[1] * right.shape[1] <= len(left) ** 2:
        return (left.T @ right).square().sum()
    return ((left @ left.T) * (right @ right.T)).sum()
