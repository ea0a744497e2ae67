"""Cross moments: means and centered products of two sets of variables of the same samples, such as features and targets."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ncollapse.statistics.batch import check_labels, flatten_features, row_blocks


@dataclass(frozen=True, eq=False)
class CrossMoments:
    r"""Means and centered products of x and y: O((d+m)²) memory, exact merging, one pass.

    With x the features and y the targets this gives least-squares probes, spectra of features, and how both are aligned; with
    x and y two layers their similarity. Of class labels y is the one-hot row.

    Attributes:
        count: N, 0-d, int64.
        mean_x: :math:`\bar x`, shape (d,), float64; zeros without samples.
        mean_y: :math:`\bar y`, shape (m,).
        xx: :math:`\sum_i (x_i - \bar x)(x_i - \bar x)^T`, shape (d, d).
        xy: :math:`\sum_i (x_i - \bar x)(y_i - \bar y)^T`, shape (d, m).
        yy: :math:`\sum_i (y_i - \bar y)(y_i - \bar y)^T`, shape (m, m).

    Example:
        >>> x, y = torch.tensor([[1.0], [3.0]]), torch.tensor([[0.0], [4.0]])
        >>> moments = CrossMoments.from_batch(x, y)
        >>> moments.xx.item(), moments.xy.item(), moments.yy.item()
        (2.0, 4.0, 8.0)
    """

    count: Tensor
    mean_x: Tensor
    mean_y: Tensor
    xx: Tensor
    xy: Tensor
    yy: Tensor

    @classmethod
    def empty(cls, dim_x: int, dim_y: int, device: torch.device | str | None = None) -> CrossMoments:
        """Return the neutral element of ``merge``."""
        if dim_x < 1 or dim_y < 1:
            raise ValueError(f"dim_x and dim_y must be at least 1, got {dim_x} and {dim_y}. Pass the numbers of variables.")
        zeros = torch.zeros(dim_x, dim_y, dtype=torch.float64, device=device)
        square_x, square_y = zeros.new_zeros(dim_x, dim_x), zeros.new_zeros(dim_y, dim_y)
        count = torch.zeros((), dtype=torch.int64, device=device)
        return cls(count, zeros.new_zeros(dim_x), zeros.new_zeros(dim_y), square_x, zeros, square_y)

    @classmethod
    def from_batch(cls, x: Tensor, y: Tensor) -> CrossMoments:
        """Return the moments of one batch, of x (N, ...) and y (N, ...) of the same samples in the same order.

        Raises:
            ValueError: If the numbers of samples differ.
        """
        x, y = flatten_features(x), flatten_features(y)
        if len(x) != len(y):
            raise ValueError(f"x and y must have one row per sample, got {len(x)} and {len(y)} rows. Pass the same samples.")
        whole = cls.empty(x.shape[1], y.shape[1], x.device)
        for rows in row_blocks(x, x.shape[1] + y.shape[1], least=_LEAST_ROWS):
            whole = whole.merge(_of_block(x[rows].double(), y[rows].to(x.device).double()))
        return whole

    @classmethod
    def from_labels(cls, features: Tensor, labels: Tensor, num_classes: int) -> CrossMoments:
        """Return the moments of features (N, ...) with the one-hot rows of class labels (N,)."""
        flat = flatten_features(features)
        labels = check_labels(labels, len(flat), num_classes).to(flat.device)
        whole = cls.empty(flat.shape[1], num_classes, flat.device)
        for rows in row_blocks(flat, flat.shape[1] + num_classes, least=_LEAST_ROWS):
            one_hot = torch.nn.functional.one_hot(labels[rows], num_classes).double()
            whole = whole.merge(_of_block(flat[rows].double(), one_hot))
        return whole

    def merge(self, other: CrossMoments) -> CrossMoments:
        """Merge the moments of two sets of samples."""
        # Chan's update for two variables: C = C_a + C_b + (n_a n_b/n) δx δyᵀ. Nothing cancels, wherever the origin is.
        if self.xy.shape != other.xy.shape:
            raise ValueError(
                f"Moments to merge must have the same (d, m), got {tuple(self.xy.shape)} and {tuple(other.xy.shape)}. "
                "Collect the same variables."
            )
        n_a, n_b = self.count.double(), other.count.double()
        share = n_b / (n_a + n_b).clamp(min=1)
        delta_x, delta_y = other.mean_x - self.mean_x, other.mean_y - self.mean_y
        weight = n_a * share
        return CrossMoments(
            self.count + other.count,
            torch.where(n_a > 0, self.mean_x + share * delta_x, other.mean_x),
            torch.where(n_a > 0, self.mean_y + share * delta_y, other.mean_y),
            self.xx + other.xx + weight * torch.outer(delta_x, delta_x),
            self.xy + other.xy + weight * torch.outer(delta_x, delta_y),
            self.yy + other.yy + weight * torch.outer(delta_y, delta_y),
        )

    def to(self, device: torch.device | str) -> CrossMoments:
        """Return the same value on another device."""
        parts = (self.count, self.mean_x, self.mean_y, self.xx, self.xy, self.yy)
        return CrossMoments(*(part.to(device) for part in parts))

    @property
    def num_samples(self) -> int:
        """N, the number of samples."""
        return int(self.count)


# Of narrower blocks the products cost more time outside of the matrix product than in it.
_LEAST_ROWS = 256


def _of_block(x: Tensor, y: Tensor) -> CrossMoments:
    # The first row is subtracted first, to keep a large common offset out of the means.
    shifted_x, shifted_y = x - x[:1], y - y[:1]
    off_x, off_y = shifted_x.mean(dim=0), shifted_y.mean(dim=0)
    shifted_x -= off_x
    shifted_y -= off_y
    count = torch.tensor(len(x), device=x.device)
    products = shifted_x.T @ shifted_x, shifted_x.T @ shifted_y, shifted_y.T @ shifted_y
    return CrossMoments(count, x[0] + off_x, y[0] + off_y, *products)
