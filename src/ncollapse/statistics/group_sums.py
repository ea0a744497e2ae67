"""Sums over the classes of one batch, of several layers of one dimension at once, merged into running class moments."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ncollapse.statistics.batch import LabelGroups, Workspace


def merge_groups_(
    counts: Tensor, means: Tensor, traces: Tensor, layers: Sequence[Tensor], groups: LabelGroups, workspace: Workspace
) -> None:
    """Merge one batch of L layers of features (N, d) into counts (K, L), means (K, L, d) and scatter traces (K, L)."""
    # Residuals are taken around the running mean, at first around a sample of the class. On the scale of the total scatter
    # it is never far from the batch's own mean, so that the correction below loses at most log10(n_batch/n_before) digits.
    if len(groups.new):
        means[groups.new] = torch.stack([features[groups.first].double() for features in layers], dim=1)
    sums, squares = _shifted_sums(layers, groups, means, workspace)
    present = groups.present
    counts.index_add_(0, present, groups.counts.unsqueeze(1).expand(-1, len(layers)))
    seen = counts.index_select(0, present)
    moved = sums / seen.clamp(min=1).unsqueeze(-1)
    means.index_add_(0, present, moved)
    traces.index_add_(0, present, squares - seen * moved.square().sum(dim=-1))


def _shifted_sums(layers: Sequence[Tensor], groups: LabelGroups, shift: Tensor, workspace: Workspace) -> tuple[Tensor, Tensor]:
    """Sum the residuals around a shift per class, (P, L, d), and their squared norms, (P, L), in one traversal."""
    sums = shift.new_zeros(len(groups.present), *shift.shape[1:])
    norms = shift.new_empty(len(groups.labels), len(layers))
    for rows, block in workspace.rows(layers):
        shifts = workspace.room("shift", block)
        block.sub_(torch.index_select(shift, 0, groups.labels[rows], out=shifts))
        sums.index_add_(0, groups.index[rows], block)
        torch.linalg.vector_norm(block, dim=-1, out=norms[rows])
    return sums, shift.new_zeros(sums.shape[:-1]).index_add_(0, groups.index, norms.square_())
