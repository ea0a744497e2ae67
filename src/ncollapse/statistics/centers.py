"""Final class means, prepared for decisions by the nearest center, and the linear classifier."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from ncollapse.statistics.batch import check_whole, row_blocks
from ncollapse.statistics.moments import ClassMoments, first_of_coincident
from ncollapse.statistics.screen import FEWEST_ROWS, Screen


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
            TypeError: If processes hold parts of them (DTensors).
        """
        check_whole(weight, "weight")
        check_whole(bias, "bias")
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
        return self.choices_near(features, None, None)

    def choices_near(self, features: Tensor, guess: Tensor | None, lengths: Tensor | None) -> Tensor:
        """Return the choices for samples whose classes are guessed and whose norms are known, both shape (N,)."""
        screen = Screen.of(self.weight, self.bias)
        if screen is None:
            parts = [self._decided(features[rows]) for rows in row_blocks(features)]
            return torch.cat(parts) if parts else torch.zeros(0, dtype=torch.int32, device=features.device)
        chosen = torch.empty(len(features), dtype=torch.int32, device=features.device)
        for rows in screen.blocks(len(features)):
            part = features[rows]
            known = (None if value is None else value[rows] for value in (guess, lengths))
            screened = screen.largest(part, *known)
            chosen[rows] = screened.largest.int()
            if len(screened.open):
                chosen[rows][screened.open] = self._decided(part[screened.open])
        return chosen

    def _decided(self, features: Tensor) -> Tensor:
        # The rows are few, and the product is faster with them on the left.
        return largest_logit(torch.addmm(self.bias.unsqueeze(1), self.weight, features.double().T).T)

    def select(self, classes: Tensor) -> LinearClassifier:
        """Return the rows of some classes, by their indices."""
        return LinearClassifier(self.weight[classes], self.bias[classes])

    def to(self, device: torch.device | str) -> LinearClassifier:
        """Return the same value on another device."""
        return LinearClassifier(self.weight.to(device), self.bias.to(device))


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
        separations: :math:`\lVert \mu_k - \mu_l \rVert^2`, shape (K, K); None for more than 32 classes.
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
        """Return an orthonormal basis (..., d, r) of the span of the centered means, not unique where these are dependent."""
        if moments.dim < moments.num_classes:
            # Nothing to project: the means may span the whole space.
            eye = torch.eye(moments.dim, dtype=torch.float64, device=moments.means.device)
            return eye.expand(*moments.means.shape[:-2], -1, -1)
        # All means but one span as much, since they add up to zero. From Householder vectors of these, since eigenvectors of
        # their Gram matrix would square the condition number.
        columns, _ = torch.linalg.qr(moments.centered_means("class")[..., :-1, :].mT)
        # The transpose is contiguous, because samples are multiplied by it from the left.
        return columns.mT.contiguous().mT

    @classmethod
    def in_basis(cls, moments: ClassMoments, basis: Tensor) -> ClassCenters:
        """Return the centers of the final means with a basis from ``basis_of``."""
        means, first = moments.centered_means("class"), first_of_coincident(moments)
        coordinates = means if is_identity(basis) else means @ basis
        few = moments.num_classes < FEWEST_ROWS
        return cls(moments, basis, coordinates, _squared_distances(coordinates) if few else None, first)

    def of_layer(self, index: int, moments: ClassMoments) -> ClassCenters:
        """Return a copy of the centers of one of several stacked layers, whose moments are given."""
        basis, separations = self.basis[index].mT.clone().mT, self.separations
        separations = None if separations is None else separations[index].clone()
        return ClassCenters(moments, basis, self.coordinates[index].clone(), separations, self.first[index].clone())

    @cached_property
    def spans_all(self) -> bool:
        """Whether the basis is that of the space itself, so that nothing is projected."""
        return is_identity(self.basis)

    @cached_property
    def all_separations(self) -> Tensor:
        """The squared distances of many class means, shape (K, K), computed when they are asked for."""
        return _squared_distances(self.coordinates)

    def to(self, device: torch.device | str) -> ClassCenters:
        """Return the same value on another device."""
        separations = None if self.separations is None else self.separations.to(device)
        return ClassCenters(
            self.moments.to(device), self.basis.to(device), self.coordinates.to(device), separations, self.first.to(device)
        )


def is_identity(basis: Tensor) -> bool:
    """Return whether a basis is that of the space itself."""
    size = basis.shape[-1]
    return basis.shape[-2] == size and torch.equal(
        basis, torch.eye(size, dtype=basis.dtype, device=basis.device).expand_as(basis)
    )


def _squared_distances(rows: Tensor) -> Tensor:
    """Compute all squared distances from explicit differences."""
    return torch.cdist(rows, rows, compute_mode="donot_use_mm_for_euclid_dist").square()


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
