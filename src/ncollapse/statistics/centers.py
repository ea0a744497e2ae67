"""Final class means, prepared for decisions by the nearest center, and the linear classifier."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from ncollapse.statistics.batch import row_blocks
from ncollapse.statistics.moments import ClassMoments, first_of_coincident, rounding_floor


class LinearClassifier(NamedTuple):
    """A last layer, logits W h + b, in float64.

    Attributes:
        weight: W, shape (K, d).
        bias: b, shape (K,); zeros for a layer without bias.
    """

    weight: Tensor
    bias: Tensor

    @classmethod
    def from_parameters(cls, weight: Tensor, bias: Tensor | None = None) -> LinearClassifier:
        """Return detached float64 copies of a classifier's parameters, weight (K, d) and bias (K,) or None.

        Raises:
            ValueError: If the shapes do not fit.
        """
        if weight.ndim != 2 or (bias is not None and bias.shape != weight.shape[:1]):
            got = (tuple(weight.shape), None if bias is None else tuple(bias.shape))
            raise ValueError(
                f"A classifier needs a weight of shape (K, d) and a bias of shape (K,) or None, got {got}. "
                "Pass layer.weight and layer.bias of a linear layer."
            )
        weight = weight.detach().double().clone()
        return cls(weight, weight.new_zeros(len(weight)) if bias is None else bias.detach().double().clone())

    def choices(self, features: Tensor) -> Tensor:
        """Return the class of the largest logit of every sample, the smallest index on ties.

        Args:
            features: Flat features of shape (N, d) that feed this classifier.

        Returns:
            Shape (N,), int32; -1 for a sample without a largest logit, because one is NaN.
        """
        parts = [largest_logit(torch.addmm(self.bias, features[rows].double(), self.weight.T)) for rows in row_blocks(features)]
        return torch.cat(parts) if parts else torch.zeros(0, dtype=torch.int32, device=features.device)

    def select(self, classes: Tensor) -> LinearClassifier:
        """Return the rows of some classes, by their indices."""
        return LinearClassifier(self.weight[classes], self.bias[classes])

    def to(self, device: torch.device | str) -> LinearClassifier:
        """Return the same value on another device."""
        return LinearClassifier(self.weight.to(device), self.bias.to(device))


# Up to this many classes the K×K squared distances of the class means are computed, from explicit differences.
_EXPLICIT_CLASSES = 4096
# The choice for a sample whose logits contain NaN, so that none is the largest.
UNDECIDED = -1
# Two distances whose difference is within this many roundings of its terms are equal.
TIE = 64 * torch.finfo(torch.float64).eps


@dataclass(frozen=True, eq=False)
class ClassCenters:
    r"""Final class means, prepared for decisions: an orthonormal basis of their span and their coordinates in it.

    The nearest center of h depends only on the projection of h on the span of the centered means, which has at most
    r = min(K-1, d) dimensions. One d×r product per sample is enough for the decision and for :math:`U^T \Sigma_W U`.

    Attributes:
        moments: The moments whose means these are.
        basis: U, orthonormal columns, shape (d, r), float64.
        coordinates: :math:`(\mu_k - \mu) U`, shape (K, r).
        separations: :math:`\lVert \mu_k - \mu_l \rVert^2`, shape (K, K); None for more than 4096 classes.
        first: For each class the first one whose mean is the same up to rounding, shape (K,), int64.
    """

    moments: ClassMoments
    basis: Tensor
    coordinates: Tensor
    separations: Tensor | None
    first: Tensor

    @cached_property
    def spectra(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Cache of the spectra of the between-class covariance, by convention."""
        return {}

    @cached_property
    def projections(self) -> Tensor:
        r""":math:`\mu_k^T U`, the class means themselves on the span, shape (K, r)."""
        return self.coordinates + (self.moments.means[0] @ self.basis - self.coordinates[0])

    @classmethod
    def from_moments(cls, moments: ClassMoments) -> ClassCenters:
        """Return the centers of final means, where every class has a sample and every mean is finite."""
        return cls.in_basis(moments, cls.basis_of(moments))

    @staticmethod
    def basis_of(moments: ClassMoments) -> Tensor:
        """Return an orthonormal basis (d, r) of the span of the centered means, not unique if singular values are equal."""
        # From singular vectors of the means, since eigenvectors of their Gram matrix would square the condition number.
        _, _, right = torch.linalg.svd(moments.centered_means("class"), full_matrices=False)
        # The transpose is contiguous, because samples are multiplied by it from the left.
        return right[: min(moments.num_classes - 1, moments.dim)].contiguous().T

    @classmethod
    def in_basis(cls, moments: ClassMoments, basis: Tensor) -> ClassCenters:
        """Return the centers of the final means with a basis from ``basis_of``."""
        coordinates, first = moments.centered_means("class") @ basis, first_of_coincident(moments)
        if moments.num_classes > _EXPLICIT_CLASSES:
            return cls(moments, basis, coordinates, None, first)
        distances = torch.cdist(coordinates, coordinates, compute_mode="donot_use_mm_for_euclid_dist")
        return cls(moments, basis, coordinates, distances.square(), first)

    def to(self, device: torch.device | str) -> ClassCenters:
        """Return the same value on another device."""
        separations = None if self.separations is None else self.separations.to(device)
        return ClassCenters(
            self.moments.to(device), self.basis.to(device), self.coordinates.to(device), separations, self.first.to(device)
        )

    def nearest(self, residual: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        r"""Return the nearest class center, the smallest index on ties, and its margin over the sample's own class, both (N,).

        Distances are compared with the one to the own class k, :math:`\lVert h - \mu_j \rVert^2 - \lVert h - \mu_k \rVert^2 = 2
        \langle r, \mu_k - \mu_j \rangle + \lVert \mu_k - \mu_j \rVert^2` with r = h - μ_k. This separates two centers even if
        they are much closer to each other than to the rest (minority collapse). Margins are at most 0 up to rounding, and
        exactly 0 for the own class.

        Args:
            residual: (h - μ_k) U of every sample, k its own class, shape (N, r), float64.
            labels: The own classes.
        """
        # Ties happen: if class means coincide, or features have low precision, two exact distances are equal. Then the rounding
        # of the computed ones would decide, and the result would depend on the batch size and the processor. Therefore all
        # centers within rounding of the smallest margin count as nearest, and the smallest index wins. The rounding of a margin
        # is that of its terms, 2 |r| |μ_k - μ_j| and |μ_k - μ_j|², not that of the much larger |h|². Means that coincide differ
        # by the rounding of their own sums, which is larger, so the first of them is chosen afterwards.
        margins, rounding = self._margins(residual, labels)
        smallest, at = margins.min(dim=1, keepdim=True)
        chosen = self.first[first_true(margins <= smallest + rounding + rounding.gather(1, at))]
        return chosen, margins.gather(1, chosen.unsqueeze(1)).squeeze(1) * (chosen != labels)

    def own_is_nearest(self, residual: Tensor, labels: Tensor, squares: Tensor) -> Tensor:
        r"""Return whether the own class's center is nearest to a sample that is left out of its mean, (N,), bool.

        Without its sample h the mean of n samples moves away from it, :math:`\lVert h - \mu_k^{(-h)} \rVert = \frac{n}{n-1}
        \lVert h - \mu_k \rVert`; the other means stay. On ties the smallest index is nearest, as in ``nearest``. A class of one
        sample has no mean without it.

        Args:
            residual: As in ``nearest``.
            labels: As in ``nearest``.
            squares: :math:`\lVert h - \mu_k \rVert^2` in all dimensions, shape (N,).
        """
        margins, rounding = self._margins(residual, labels)
        # A sample alone in its class, at distance 0 from its mean, gets 0/0: nan, which is never nearest.
        n = self.moments.counts[labels].double()
        farther = (squares * (2 * n - 1) / (n - 1).square()).unsqueeze(1)
        # The margin of a mean that coincides with the own one has the rounding of their sums.
        coincident = self.first == self.first[labels].unsqueeze(1)
        rounding = rounding.add_(TIE * farther).add_(coincident * rounding_floor(self.moments))
        ahead = margins - farther
        later = torch.arange(len(self.first), device=labels.device) > labels.unsqueeze(1)
        wins = torch.where(ahead.abs() <= rounding, later, ahead > 0).scatter_(1, labels.unsqueeze(1), value=True)
        return wins.all(dim=1)

    def _margins(self, residual: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return what the squared distances to all centers exceed that to the own one by, and its rounding, both (N, K)."""
        products = residual @ self.coordinates.T
        separations = self._separations_from(labels)
        margins = torch.sub(products.gather(1, labels.unsqueeze(1)), products).mul_(2).add_(separations)
        reach = torch.linalg.vector_norm(residual, dim=1, keepdim=True)
        return margins, separations.sqrt().mul_(reach).add_(separations).mul_(TIE)

    def _separations_from(self, labels: Tensor) -> Tensor:
        if self.separations is not None:
            return self.separations.index_select(0, labels)
        own, norms = self.coordinates[labels], self.coordinates.square().sum(dim=1)
        return torch.clamp(norms[labels].unsqueeze(1) + norms - 2 * own @ self.coordinates.T, min=0)


def first_true(mask: Tensor) -> Tensor:
    """Return the index of the first True in each row (torch.argmax does not define which on ties)."""
    return _first_true(mask).long()


def largest_logit(logits: Tensor) -> Tensor:
    """Return the index of the largest number in each row of (N, K), the smallest on ties; int32."""
    found = _first_true(logits == logits.amax(dim=1, keepdim=True))
    return torch.where(found == logits.shape[1], UNDECIDED, found)


def _first_true(mask: Tensor) -> Tensor:
    # 32-bit indices are five times as fast as 64-bit ones.
    indices = torch.arange(mask.shape[1], device=mask.device, dtype=torch.int32)
    return torch.where(mask, indices, mask.shape[1]).amin(dim=1)
