"""Why depth helps: residual blocks that turn a normalized feature along the great circle, at a cost that falls as 1/L."""

from __future__ import annotations

import math

import torch
from scipy.optimize import minimize_scalar
from torch import Tensor

from ncollapse.surrogates.gufm import layer_norm


def great_circle_blocks(start: Tensor, end: Tensor, num_blocks: int) -> list[Tensor]:
    r"""Residual blocks that turn one unit vector into another along the great circle: why depth helps.

    Block l of one linear layer maps x to the normalized :math:`x + \mathrm{relu}(W_l x)`, with :math:`W_l = r_l x_l^T` and
    :math:`r_l = \tau x_{l+1} - x_l + c 1 \ge 0` of least norm (normalization removes c). A fixed turn needs norms of order 1/L,
    so :math:`\sum_l \lVert W_l \rVert^2` falls as 1/L: the decay of the blocks costs nothing in the limit.

    Args:
        start: Unit vector with zero mean, shape (d,).
        end: Another one, not opposite to it.
        num_blocks: L, at least 1.

    Returns:
        W_1 … W_L, each of shape (d, d).

    Raises:
        ValueError: If a vector has not norm one and mean zero, they are opposite, or L < 1.

    Reference:
        Derived, after arXiv 2505.15239.
    """
    vectors = torch.stack([start, end]).double()
    if not torch.allclose(layer_norm(vectors), vectors, atol=1e-8) or float(vectors[0] @ vectors[1]) < -1 + 1e-9:
        raise ValueError(
            "great_circle_blocks needs two vectors of norm one and mean zero that are not opposite. Use layer_norm."
        )
    if num_blocks < 1:
        raise ValueError(f"num_blocks must be at least 1, got {num_blocks}.")
    angle = math.acos(min(1.0, float(vectors[0] @ vectors[1])))
    side = torch.nn.functional.normalize(vectors[1] - math.cos(angle) * vectors[0], dim=0)
    blocks = []
    for n in range(num_blocks):
        here, there = (
            math.cos(t) * vectors[0] + math.sin(t) * side for t in (angle * n / num_blocks, angle * (n + 1) / num_blocks)
        )
        blocks.append(torch.outer(_cheapest_push(here, there), here))
    return blocks


def _cheapest_push(here: Tensor, there: Tensor) -> Tensor:
    """The shortest non-negative vector whose sum with one unit vector points to another, up to a constant."""

    def push(stretch: float) -> Tensor:
        move = stretch * there - here
        return move - move.min()

    found = minimize_scalar(lambda stretch: float(push(stretch).square().sum()), bounds=(0, 3), method="bounded")
    return push(float(found.x))
