"""Simplex equiangular tight frames: the frame itself, its Helmert coordinates, the frame nearest to given means, and SELI."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["NearestETF", "helmert_basis", "nearest_etf", "simplex_etf"]


def helmert_basis(num_classes: int) -> Tensor:
    r"""Return the Helmert basis: orthonormal rows, (K-1, K), that span the complement of the all-ones vector.

    Row j (j = 1..K-1) is :math:`(1, \dots, 1, -j, 0, \dots, 0) / \sqrt{j(j+1)}` with j ones, so that
    :math:`B B^T = I_{K-1}` and :math:`B^T B = I_K - \frac{1}{K} 1 1^T`.

    Raises:
        ValueError: If K < 2.

    Example:
        >>> B = helmert_basis(4)
        >>> bool(torch.allclose(B @ B.T, torch.eye(3, dtype=torch.float64)))
        True
    """
    if num_classes < 2:
        raise ValueError(f"helmert_basis needs num_classes >= 2, got {num_classes}. One class has no frame.")
    j = torch.arange(1, num_classes, dtype=torch.float64)
    basis = torch.tril(torch.ones(num_classes - 1, num_classes, dtype=torch.float64))
    basis[torch.arange(num_classes - 1), torch.arange(1, num_classes)] = -j
    return basis / torch.sqrt(j * (j + 1)).unsqueeze(1)


def simplex_etf(num_classes: int, dim: int, *, generator: torch.Generator | None = None) -> Tensor:
    r"""Return a simplex equiangular tight frame of K unit vectors in d dimensions, d >= K-1: shape (K, d), float64.

    The rows m_k satisfy :math:`\langle m_k, m_l \rangle = -1/(K-1)` for k != l, :math:`\sum_k m_k = 0` and
    :math:`\lVert m_k - m_l \rVert^2 = 2K/(K-1)`. With the Helmert basis B, the frame is
    :math:`\sqrt{K/(K-1)}\, U B`, U having K-1 orthonormal columns in R^d.

    Args:
        generator: Draws a random orientation U; None uses the first K-1 coordinate axes.

    Raises:
        ValueError: If K < 2 or d < K-1.

    Reference:
        Papyan, Han & Donoho (2020), PNAS. Progressive feedforward collapse (arXiv 2405.00985), eq. (1).

    Example:
        >>> frame = simplex_etf(4, 8)
        >>> [round(x, 6) for x in (frame @ frame.T)[0].tolist()]
        [1.0, -0.333333, -0.333333, -0.333333]
    """
    basis = helmert_basis(num_classes)
    if dim < num_classes - 1:
        raise ValueError(
            f"A simplex ETF of {num_classes} classes needs at least {num_classes - 1} dimensions, got {dim}. "
            f"Pass dim >= {num_classes - 1}."
        )
    columns = math.sqrt(num_classes / (num_classes - 1)) * basis.T
    if generator is None:
        return torch.nn.functional.pad(columns, (0, dim - num_classes + 1))
    gaussian = torch.randn(dim, num_classes - 1, generator=generator, dtype=torch.float64)
    orientation, _ = torch.linalg.qr(gaussian)
    return columns @ orientation.T


def seli_grams(counts: Tensor) -> tuple[Tensor, Tensor]:
    r"""Compute the Gram matrices of classifier rows and class means of the simplex-encoded labels of counts (..., K)."""
    # With (I - 11^T/K) Y = V L U^T they are V L V^T and U L U^T. Samples of a class are alike: one column per class, times the
    # root of its count.
    roots = counts.double().sqrt()
    num_classes = roots.shape[-1]
    encoded = (torch.eye(num_classes, dtype=torch.float64, device=roots.device) - 1 / num_classes) * roots.unsqueeze(-2)
    left, values, right = torch.linalg.svd(encoded)
    values = values.unsqueeze(-2)
    return left * values @ left.mT, right.mT * values @ right / (roots.unsqueeze(-1) * roots.unsqueeze(-2))


@dataclass(frozen=True, eq=False)
class NearestETF:
    """The scaled simplex ETF nearest to a set of class means.

    Attributes:
        frame: Unit frame of shape (K, d), float64; ``scale * frame`` is the nearest point.
        residual: Frobenius distance between the centered means and ``scale * frame``; 0 at exact collapse.
        relative_residual: ``residual`` over the Frobenius norm of the centered means, in [0, 1]; nan for zero means.
    """

    frame: Tensor
    scale: float
    residual: float
    relative_residual: float


def nearest_etf(class_means: Tensor) -> NearestETF:
    r"""Return the scaled simplex ETF nearest to class means (K, d), after centering them at the mean of class means.

    Minimizes :math:`\lVert \bar M - a\, U E \rVert_F` over a >= 0 and U with orthonormal columns, where E is the frame in
    K-1 dimensions: a Procrustes problem. With the SVD :math:`\bar M E^T = A S B^T` the solution is :math:`U = A B^T`,
    :math:`a = \mathrm{tr}(S)/K`, and the squared residual is :math:`\lVert \bar M \rVert^2 - (\mathrm{tr} S)^2 / K`.

    Raises:
        ValueError: If the shape is not (K, d) with K >= 2 and d >= K-1.

    Example:
        >>> round(nearest_etf(3.0 * simplex_etf(4, 8) + 5.0).scale, 6)
        3.0
    """
    if class_means.ndim != 2 or class_means.shape[0] < 2 or class_means.shape[1] < class_means.shape[0] - 1:
        raise ValueError(
            f"nearest_etf needs class means of shape (K, d) with K >= 2 and d >= K-1, got {tuple(class_means.shape)}. "
            "Fewer than K-1 dimensions hold no simplex ETF."
        )
    num_classes = len(class_means)
    centered = class_means.double() - class_means.double().mean(dim=0)
    target = simplex_etf(num_classes, num_classes - 1).to(centered.device)
    left, singular_values, right = torch.linalg.svd(centered.T @ target, full_matrices=False)
    frame = target @ (left @ right).T
    scale = float(singular_values.sum()) / num_classes
    # Computed from the difference itself, since the closed form of the residual cancels near an exact frame.
    residual = float(torch.linalg.norm(centered - scale * frame))
    norm = float(torch.linalg.norm(centered))
    return NearestETF(frame, scale, residual, residual / norm if norm > 0 else math.nan)
