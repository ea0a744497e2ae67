"""NC2: how close vectors (class means or classifier rows) are to a simplex equiangular tight frame.

Unless a docstring says otherwise, the formulas are those of Papyan, Han & Donoho (2020), PNAS, and their notebook.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from ncollapse.etf import seli_grams
from ncollapse.metrics.pairs import CosineSums
from ncollapse.polytopes import antipodal_pairs
from ncollapse.statistics.moments import symmetric_product

Target = Literal["etf", "orthogonal_frame"]

# Up to this many rows at once the entries of K×K products are computed.
_MOST_ENTRIES = 256
# Below this share of their terms, differences are computed from more exact terms.
_NEAR = 0.1


def equinorm(rows: Tensor, *, ddof: int = 0) -> Tensor:
    r"""Return the variation of the norms, :math:`\mathrm{std}_k \lVert v_k \rVert / \mathrm{mean}_k \lVert v_k \rVert`.

    In [0, sqrt(K-1)]; nan if all rows are zero.

    Args:
        ddof: 0 to divide the variance by K (default), 1 for K-1 as in Papyan's notebook.
    """
    norms = torch.linalg.vector_norm(rows, dim=-1)
    return torch.std(norms, dim=-1, correction=ddof) / norms.mean(dim=-1)


def equiangularity(rows: Tensor) -> Tensor:
    r"""Return the standard deviation of the cosines :math:`\cos(v_k, v_l)` over pairs k != l, in [0, 1].

    Trivially 0 for K = 2; nan if a row is zero.
    """
    return cosine_sums(rows).equiangularity


def max_angle(rows: Tensor) -> Tensor:
    r"""Return the mean of :math:`\lvert \cos(v_k, v_l) + 1/(K-1) \rvert` over pairs k != l, the distance from maximal angles.

    In [0, 1 + 1/(K-1)]; nan if a row is zero.
    """
    return cosine_sums(rows).max_angle


def row_sum(rows: Tensor) -> Tensor:
    r"""Return NC0, the norm of the sum of the rows over the norm of all, :math:`\lVert W^T 1 \rVert / \lVert W \rVert_F`.

    In [0, sqrt(K)]: 0 for a simplex ETF, about 1 for independent random rows, sqrt(K) for equal ones; nan if all are zero. It
    must vanish at collapse, but says nothing about angles. Under the cross-entropy and SGD it follows a law of its own,
    ``ncollapse.train.row_sum_factor``. For a selection of classes only their rows count.

    Reference:
        Zhao, Cheng, Masarczyk & Lucchi (2026), ICLR, arXiv 2602.16642; their normalization is not known to us.
    """
    scaled = unit_scale(rows)
    return torch.linalg.vector_norm(scaled.sum(dim=-2), dim=-1) / torch.linalg.matrix_norm(scaled)


def cosine_sums(rows: Tensor) -> CosineSums:
    """Return the cosines of all pairs, for both."""
    return CosineSums(rows)


def unit_scale(values: Tensor) -> Tensor:
    """Scale rows (..., K, d) by a power of two, which is exact, so that the largest magnitude is between 1/2 and 1."""
    exponent = torch.frexp(values.abs().amax(dim=(-2, -1), keepdim=True)).exponent
    # In two steps, since the power itself may leave the range; by products, which are several times as fast as ldexp.
    half, one = exponent // 2, torch.ones_like(exponent, dtype=values.dtype)
    return (values * torch.ldexp(one, -half)).mul_(torch.ldexp(one, half - exponent))


@dataclass(frozen=True, eq=False)
class GramRows:
    """Rows (K, d) for several distances of Gram matrices, whose d×d product is computed once."""

    rows: Tensor

    @cached_property
    def square(self) -> Tensor:
        """The d×d product, of rows in unit scale."""
        scaled = unit_scale(self.rows)
        return symmetric_product(scaled, scaled)


def gram_distance(left: Tensor | GramRows, right: Tensor | GramRows, *, target: Target | Tensor = "etf") -> Tensor:
    r"""Return the Frobenius distance of a normalized K×K product from the Gram matrix of a target frame, in [0, 2].

    :math:`\lVert A B^T / \lVert A B^T \rVert_F - E_K \rVert_F`, with :math:`E_K = (I_K - \frac{1}{K} 1 1^T)/\sqrt{K-1}` for a
    simplex ETF, :math:`I_K/\sqrt{K}` for an orthogonal frame, and :math:`T/\lVert T \rVert_F` for a Gram matrix T of your own.
    nan if the product or T is zero, or K = 1.

    Args:
        left: A, shape (K, d), float64.
        right: B, shape (K, d), float64.
        target: The frame compared with, by name or by its Gram matrix, shape (K, K). Centered rows are compared with the Gram
            matrix of a centered frame, whose rows and columns sum to zero.

    Raises:
        ValueError: If the target is unknown, or not of shape (K, K).
    """
    if not isinstance(target, Tensor) and target not in ("etf", "orthogonal_frame"):
        raise ValueError(f"target must be 'etf', 'orthogonal_frame' or a Gram matrix, got {target!r}. Pass one of these.")
    a, b = (rows if isinstance(rows, GramRows) else GramRows(rows) for rows in (left, right))
    # Products of products leave the range of float64 for features beyond 1e77.
    left = unit_scale(a.rows)
    right = left if a.rows is b.rows else unit_scale(b.rows)
    num_classes, product_norm = left.shape[-2], _product_norm(left, right, a, b)
    if isinstance(target, Tensor):
        return _distance_from(left, right, target, product_norm)
    norm = (num_classes - 1) ** 0.5 if target == "etf" else num_classes**0.5
    if num_classes > _MOST_ENTRIES:
        # From the frame's side two numbers are enough, the trace and for the ETF the sum of all entries of the product. But
        # the difference loses digits near 0.
        inner = left.flatten() @ right.flatten()
        if target == "etf":
            inner = inner - left.sum(dim=0) @ right.sum(dim=0) / num_classes
        squared = 2 - 2 * inner / (norm * product_norm)
        if not squared < _NEAR:
            return squared.sqrt()
    # Entry by entry values near zero keep their digits.
    off_diagonal = -1.0 / num_classes if target == "etf" else 0.0
    squared = torch.zeros_like(product_norm)
    for start in range(0, num_classes, _MOST_ENTRIES):
        rows = slice(start, min(start + _MOST_ENTRIES, num_classes))
        frame = torch.full((rows.stop - start, num_classes), off_diagonal, dtype=left.dtype, device=left.device)
        frame[torch.arange(len(frame)), torch.arange(start, rows.stop)] += 1.0
        product = left[..., rows, :] @ right.mT
        difference = product / product_norm[..., None, None] - frame / norm if norm else product * math.nan
        squared = squared + difference.square().sum(dim=(-2, -1))
    return squared.sqrt()


def _distance_from(left: Tensor, right: Tensor, gram: Tensor, product_norm: Tensor) -> Tensor:
    num_classes = left.shape[-2]
    if gram.shape[-2:] != (num_classes, num_classes):
        raise ValueError(
            f"target must have shape ({num_classes}, {num_classes}) for {num_classes} rows, got {tuple(gram.shape)}. "
            "Pass the inner products of a frame's vectors, one for each class."
        )
    gram = unit_scale(gram.to(left))
    gram = gram / torch.linalg.matrix_norm(gram)[..., None, None]
    squared = torch.zeros_like(product_norm)
    for start in range(0, num_classes, _MOST_ENTRIES):
        rows = slice(start, start + _MOST_ENTRIES)
        difference = left[..., rows, :] @ right.mT / product_norm[..., None, None] - gram[..., rows, :]
        squared = squared + difference.square().sum(dim=(-2, -1))
    return squared.sqrt() if num_classes > 1 else squared * math.nan


def _product_norm(left: Tensor, right: Tensor, a: GramRows, b: GramRows) -> Tensor:
    r"""Compute :math:`\lVert A B^T \rVert_F` of (..., K, d) in unit scale, from d×d matrices if these are smaller."""
    num_classes, dim = left.shape[-2:]
    if num_classes > max(dim, _MOST_ENTRIES):
        own, other = a.square, a.square if left is right else b.square
        squared = (own * other).sum()
        # The sum cancels where the two span different directions.
        if left is right or squared > _NEAR * torch.linalg.norm(own) * torch.linalg.norm(other):
            return squared.sqrt()
    squared = left.new_zeros(left.shape[:-2])
    for start in range(0, num_classes, _MOST_ENTRIES):
        squared = squared + (left[..., start : start + _MOST_ENTRIES, :] @ right.mT).square().sum(dim=(-2, -1))
    return squared.sqrt()


def etf_distance(rows: Tensor | GramRows, *, target: Target | Tensor = "etf") -> Tensor:
    r"""Return the distance of the normalized Gram matrix from a simplex ETF's (NC2; PFC2 for centered class means).

    :math:`\lVert G / \lVert G \rVert_F - E_K \rVert_F` with :math:`G_{kl} = \langle v_k, v_l \rangle`. For centered rows it
    depends only on the participation ratio PR of the spectrum of :math:`\Sigma_B`: :math:`\sqrt{2(1 - \sqrt{PR/(K-1)})}`, at
    most :math:`\sqrt{2(1 - 1/\sqrt{K-1})}` (rank one), at least :math:`\sqrt{2(1 - \sqrt{d/(K-1)})}` when d < K-1, and
    identically 0 for K = 2. nan if all rows are zero.

    Args:
        target: "etf", "orthogonal_frame" for the bias-free squared loss, or a Gram matrix of your own, as in ``gram_distance``.

    Reference:
        Zhu et al. (2021), NeurIPS; PFC2 of arXiv 2405.00985, eqs (8) and (18).

    Example:
        >>> from ncollapse.etf import simplex_etf
        >>> bool(etf_distance(simplex_etf(10, 16)) < 1e-14)
        True
    """
    return gram_distance(rows, rows, target=target)


def tight_frame_distance(rows: Tensor) -> Tensor:
    r"""Return the distance of the normalized Gram matrix of centered rows from the nearest one of a tight frame.

    :math:`\lVert G / \lVert G \rVert_F - P / \sqrt{r} \rVert_F`, where P is the projection on the r = min(K-1, d) leading
    eigenvectors of G, so that the square is :math:`\sum_{i \le r} (\lambda_i / \lVert \lambda \rVert - 1/\sqrt{r})^2 = 2(1 -
    \sqrt{PR/r})` with the participation ratio PR of the eigenvalues. It is 0 if the class means spread equally in all
    directions that they can have, which is possible for any K and d. For d >= K-1 it is PFC2. In the unconstrained features
    model with the squared loss, a bias and equal counts, the minima for d < K-1 are these frames.

    In [0, sqrt(2(1 - 1/sqrt(r)))]; identically 0 for d = 1 or K = 2; nan if all rows are zero or K = 1. The matrices are of
    size min(K, d).

    Args:
        rows: Centered class means, shape (K, d), float64.

    Reference:
        Dang et al. (2023), ICML, arXiv 2301.00437 (the best approximation of rank d of the simplex ETF); docs/theory.md, 2.10.

    Example:
        >>> angles = 2 * math.pi * torch.arange(7, dtype=torch.float64) / 7
        >>> bool(tight_frame_distance(torch.stack([angles.cos(), angles.sin()], dim=1)) < 1e-14)
        True
    """
    num_classes, dim = rows.shape[-2:]
    rank = min(num_classes - 1, dim)
    if rank == 0:
        return rows.sum(dim=(-2, -1)) * math.nan
    scaled = unit_scale(rows)
    values = torch.linalg.eigvalsh(scaled @ scaled.mT if num_classes <= dim else scaled.mT @ scaled)[..., -rank:].clamp(min=0)
    shares = values / torch.linalg.vector_norm(values, dim=-1, keepdim=True)
    return torch.linalg.vector_norm(shares - rank**-0.5, dim=-1)


def orthoplex_distance(rows: Tensor) -> Tensor:
    r"""Return the distance of the normalized Gram matrix from that of an orthoplex, at the pairs of classes that fit best.

    :math:`\min_\sigma \lVert G / \lVert G \rVert_F - T_\sigma / \sqrt{2K} \rVert_F`, where :math:`T_\sigma` is the Gram matrix
    of the vectors :math:`\pm e_1, \dots, \pm e_{K/2}`: 1 on the diagonal, -1 at each pair of opposite classes, else 0. The
    minimum is over all perfect matchings σ of the classes; it is found by an assignment problem, or by a linear program with
    Edmonds' inequalities, and proven by duality.

    In [0, sqrt(2)]; identically 0 for K = 2, and sqrt(2 - sqrt(2K/(K-1))) at a simplex ETF. nan if K is odd or above 2d, if all
    rows are zero, or if the best pairs were not proven. Holds K×K matrices.

    Args:
        rows: Centered class means, shape (K, d), float64.

    Reference:
        Jiang et al. (2024), ICML, arXiv 2310.05351; Alcala et al. (2026), arXiv 2603.20587.

    Example:
        >>> square = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]], dtype=torch.float64)
        >>> bool(orthoplex_distance(square) < 1e-14)
        True
    """
    num_classes, dim = rows.shape[-2:]
    if rows.ndim > 2:
        return torch.stack([orthoplex_distance(layer) for layer in rows])
    scaled = unit_scale(rows)
    gram = scaled @ scaled.T
    if num_classes % 2 or num_classes > 2 * dim or not torch.isfinite(gram).all() or not gram.any():
        return rows.sum() * math.nan
    partner = antipodal_pairs(gram.cpu().numpy())
    if partner is None:
        return rows.sum() * math.nan
    corners = torch.eye(num_classes, dtype=rows.dtype, device=rows.device)
    return gram_distance(rows, rows, target=corners - corners[torch.as_tensor(partner, device=rows.device)])


def seli_distance(rows: Tensor, counts: Tensor) -> Tensor:
    r"""Return the distance of the normalized Gram matrix from that of the simplex-encoded labels (SELI) of unequal counts.

    :math:`\lVert G / \lVert G \rVert_F - S / \lVert S \rVert_F \rVert_F` with :math:`S = ((\Pi D \Pi)^+)^{1/2}`, where
    :math:`\Pi = I - \frac{1}{K} 1 1^T` and D has the counts on its diagonal. S is the Gram matrix of the class means that the
    cross-entropy of the unconstrained features model has at vanishing weight decay. For equal counts it is a simplex ETF, and
    the value is PFC2.

    In [0, sqrt(2)]; identically 0 for K = 2; nan if all rows are zero, or if d < K-1, for which no such limit is proven. Holds
    K×K matrices.

    Args:
        rows: Centered class means, shape (K, d), float64.
        counts: Number of training samples of each class, shape (K,).

    Reference:
        Thrampoulidis, Kini, Vakilian & Behnia (2022), NeurIPS.

    Example:
        >>> from ncollapse.etf import simplex_etf
        >>> bool(seli_distance(simplex_etf(4, 6), torch.tensor([9, 9, 9, 9])) < 1e-14)
        True
    """
    num_classes, dim = rows.shape[-2:]
    if dim < num_classes - 1:
        return rows.sum(dim=(-2, -1)) * math.nan
    return gram_distance(rows, rows, target=seli_grams(counts)[1].to(rows.device))
