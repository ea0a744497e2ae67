"""The modes of the L-model of locally elastic equations."""

from __future__ import annotations

import torch
from torch import Tensor


def simplex_directions(num_classes: int) -> Tensor:
    """Centered unit vectors :math:`d_k = e_k - 1/K`."""
    return torch.eye(num_classes, dtype=torch.float64) - 1 / num_classes


def mode_amplitudes(means: Tensor) -> tuple[Tensor, Tensor]:
    r"""Amplitudes of the L-model's modes: :math:`c_k = \langle X_k, d_k \rangle / \lVert d_k \rVert^2`, split."""
    directions = simplex_directions(means.shape[-1])
    amplitudes = (means * directions).sum(dim=-1) / directions.square().sum(dim=1)
    common = amplitudes.mean(dim=-1, keepdim=True)
    return common, amplitudes - common
