"""NC2: how close vectors (class means or classifier rows) are to a simplex equiangular tight frame.

Unless a docstring says otherwise, the formulas are those of Papyan, Han & Donoho (2020), PNAS, and their notebook.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor

Target = Literal["etf", "orthogonal_frame"]


def _row_slices(num_rows: int) -> Iterator[slice]:
    """Yield slices of the rows of a K×K matrix, in blocks of bounded size."""
    step = max(1, 2**22 // num_rows)
    for start in range(0, num_rows, step):
        yield slice(start, min(start + step, num_rows))


def equinorm(rows: Tensor, *, ddof: int = 0) -> Tensor:
    r"""Return the variation of the norms, :math:`\mathrm{std}_k \lVert v_k \rVert / \mathrm{mean}_k \lVert v_k \rVert`.

    In [0, sqrt(K-1)]; nan if all rows are zero.

    Args:
        ddof: 0 to divide the variance by K (default), 1 for K-1 as in Papyan's notebook.
    """
    norms = torch.linalg.vector_norm(rows, dim=1)
    return torch.std(norms, correction=ddof) / norms.mean()


def _off_diagonal_cosines(rows: Tensor) -> Iterator[Tensor]:
    """Yield the cosines of all ordered pairs k != l, one block of rows at a time."""
    units = rows / torch.linalg.vector_norm(rows, dim=1, keepdim=True)
    num_rows = len(units)
    for block in _row_slices(num_rows):
        cosines = units[block] @ units.T
        keep = torch.ones_like(cosines, dtype=torch.bool)
        keep[torch.arange(block.stop - block.start), torch.arange(block.start, block.stop)] = False
        yield cosines[keep]


def equiangularity(rows: Tensor) -> Tensor:
    r"""Return the standard deviation of the cosines :math:`\cos(v_k, v_l)` over pairs k != l, in [0, 1].

    Trivially 0 for K = 2; nan if a row is zero.
    """
    num_pairs = len(rows) * (len(rows) - 1)
    mean = sum((block.sum() for block in _off_diagonal_cosines(rows)), rows.new_zeros(())) / num_pairs
    squares = sum(((block - mean).square().sum() for block in _off_diagonal_cosines(rows)), rows.new_zeros(()))
    return (squares / num_pairs).sqrt()


def max_angle(rows: Tensor) -> Tensor:
    r"""Return the mean of :math:`\lvert \cos(v_k, v_l) + 1/(K-1) \rvert` over pairs k != l, the distance from maximal angles.

    In [0, 1 + 1/(K-1)]; nan if a row is zero.
    """
    num_pairs = len(rows) * (len(rows) - 1)
    shift = 1.0 / (len(rows) - 1) if len(rows) > 1 else math.nan
    total = sum(((block + shift).abs().sum() for block in _off_diagonal_cosines(rows)), rows.new_zeros(()))
    return total / num_pairs if num_pairs else total * math.nan


def unit_scale(values: Tensor) -> Tensor:
    """Scale numbers by a power of two, which is exact, so that the largest magnitude is between 1/2 and 1."""
    exponent = torch.frexp(values.abs().amax()).exponent
    # In two steps, since the power itself may leave the range.
    half = exponent // 2
    return torch.ldexp(torch.ldexp(values, -half), half - exponent)


def gram_distance(left: Tensor, right: Tensor, *, target: Target = "etf") -> Tensor:
    r"""Return the Frobenius distance of a normalized K×K product from the Gram matrix of a target frame, in [0, 2].

    :math:`\lVert A B^T / \lVert A B^T \rVert_F - E_K \rVert_F`, with :math:`E_K = (I_K - \frac{1}{K} 1 1^T)/\sqrt{K-1}` for a
    simplex ETF and :math:`I_K/\sqrt{K}` for an orthogonal frame. The difference is computed entry by entry, so that values near
    zero keep their digits, and in blocks of rows, so that many classes need no K×K matrix. nan if the product is zero or K = 1.

    Args:
        left: A, shape (K, d), float64.
        right: B, shape (K, d), float64.
        target: The frame compared with.

    Raises:
        ValueError: If the target is unknown.
    """
    if target not in ("etf", "orthogonal_frame"):
        raise ValueError(f"target must be 'etf' or 'orthogonal_frame', got {target!r}.")
    num_classes = len(left)
    # Products of products leave the range of float64 for features beyond 1e77.
    left, right = unit_scale(left), unit_scale(right)
    off_diagonal = -1.0 / num_classes if target == "etf" else 0.0
    norm = (num_classes - 1) ** 0.5 if target == "etf" else num_classes**0.5
    blocks = list(_row_slices(num_classes))
    product_norm = torch.stack([(left[rows] @ right.T).square().sum() for rows in blocks]).sum().sqrt()
    squared = left.new_zeros(())
    for rows in blocks:
        frame = torch.full((rows.stop - rows.start, num_classes), off_diagonal, dtype=left.dtype, device=left.device)
        frame[torch.arange(len(frame)), torch.arange(rows.start, rows.stop)] += 1.0
        squared = squared + ((left[rows] @ right.T) / product_norm - frame / norm if norm else frame * math.nan).square().sum()
    return squared.sqrt()


def etf_distance(rows: Tensor, *, target: Target = "etf") -> Tensor:
    r"""Return the distance of the normalized Gram matrix from a simplex ETF's (NC2; PFC2 for centered class means).

    :math:`\lVert G / \lVert G \rVert_F - E_K \rVert_F` with :math:`G_{kl} = \langle v_k, v_l \rangle`. For centered rows it
    depends only on the participation ratio PR of the spectrum of :math:`\Sigma_B`: :math:`\sqrt{2(1 - \sqrt{PR/(K-1)})}`, at
    most :math:`\sqrt{2(1 - 1/\sqrt{K-1})}` (rank one), at least :math:`\sqrt{2(1 - \sqrt{d/(K-1)})}` when d < K-1, and
    identically 0 for K = 2. nan if all rows are zero.

    Args:
        target: "etf", or "orthogonal_frame" for the bias-free squared loss.

    Reference:
        Zhu et al. (2021), NeurIPS; PFC2 of arXiv 2405.00985, eqs (8) and (18).

    Example:
        >>> from ncollapse.etf import simplex_etf
        >>> bool(etf_distance(simplex_etf(10, 16)) < 1e-14)
        True
    """
    return gram_distance(rows, rows, target=target)
