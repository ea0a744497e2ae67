"""What needs the final class means: nearest-center decisions, and the within-class covariance on their span."""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from ncollapse.statistics.batch import row_blocks
from ncollapse.statistics.conventions import ClassWeights
from ncollapse.statistics.moments import ClassMoments


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
        """Take a classifier's parameters as they are now.

        Args:
            weight: Shape (K, d).
            bias: Shape (K,), or None.

        Returns:
            Detached float64 copies.

        Raises:
            ValueError: If the shapes do not fit.
        """
        if weight.ndim != 2 or (bias is not None and bias.shape != weight.shape[:1]):
            got = (tuple(weight.shape), None if bias is None else tuple(bias.shape))
            raise ValueError(f"A classifier needs a weight of shape (K, d) and a bias of shape (K,) or None, got {got}.")
        weight = weight.detach().double().clone()
        return cls(weight, weight.new_zeros(len(weight)) if bias is None else bias.detach().double().clone())

    def to(self, device: torch.device | str) -> LinearClassifier:
        """The same value on another device.

        Args:
            device: Where to.

        Returns:
            The value there; tensors that are there already are shared.
        """
        return LinearClassifier(self.weight.to(device), self.bias.to(device))


# Up to this many classes the K×K squared distances of the class means are formed, by explicit differences.
_EXPLICIT_CLASSES = 4096
# Elements of the (N, K) margins that are held at once.
_MARGIN_ELEMENTS = 2**22
# Two distances whose difference is within this many roundings of its terms are equal.
TIE = 64 * torch.finfo(torch.float64).eps


@dataclass(frozen=True)
class ClassCenters:
    r"""Final class means, prepared for decisions: an orthonormal basis of their span and their coordinates in it.

    The nearest center of h depends only on the projection of h on the span of the centered means, at most
    r = min(K-1, d) numbers: one d×r product a sample answers both the decision and :math:`U^T \Sigma_W U`.

    Attributes:
        moments: The moments whose means these are.
        basis: U, orthonormal columns, shape (d, r), float64.
        coordinates: :math:`(\mu_k - \mu) U`, shape (K, r).
        separations: :math:`\lVert \mu_k - \mu_l \rVert^2`, shape (K, K); None for very many classes.
    """

    moments: ClassMoments
    basis: Tensor
    coordinates: Tensor
    separations: Tensor | None

    @cached_property
    def spectra(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Spectra of the between-class covariance by convention, kept by whoever computes one first."""
        return {}

    @classmethod
    def from_moments(cls, moments: ClassMoments) -> ClassCenters:
        """Prepare the final means of a pass over the data.

        Args:
            moments: Moments in which every class has a sample and every mean is finite.

        Returns:
            The centers.
        """
        centered = moments.centered_means("class")
        # The singular vectors of the means themselves: the eigenvectors of their Gram matrix would square the condition.
        _, _, right = torch.linalg.svd(centered, full_matrices=False)
        basis = right[: min(moments.num_classes - 1, moments.dim)].T.contiguous()
        coordinates = centered @ basis
        if moments.num_classes > _EXPLICIT_CLASSES:
            return cls(moments, basis, coordinates, None)
        distances = torch.cdist(coordinates, coordinates, compute_mode="donot_use_mm_for_euclid_dist")
        return cls(moments, basis, coordinates, distances.square())

    def to(self, device: torch.device | str) -> ClassCenters:
        """The same value on another device.

        Args:
            device: Where to.

        Returns:
            The value there; tensors that are there already are shared.
        """
        separations = None if self.separations is None else self.separations.to(device)
        return ClassCenters(self.moments.to(device), self.basis.to(device), self.coordinates.to(device), separations)

    def nearest(self, residual: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        r"""Nearest class center, the smallest index on ties, and by how much nearer it is than the own one.

        Distances are compared with that to the own class k, :math:`\lVert h - \mu_j \rVert^2 - \lVert h - \mu_k \rVert^2 =
        2 \langle r, \mu_k - \mu_j \rangle + \lVert \mu_k - \mu_j \rVert^2` with r = h - μ_k, so that two centers much closer to
        each other than to the rest are still told apart (minority collapse).

        Args:
            residual: (h - μ_k) U of every sample, k its own class, shape (N, r), float64.
            labels: The own classes, shape (N,).

        Returns:
            Class indices, shape (N,), and their margins, at most 0 up to rounding, exactly 0 for the own class, shape (N,).
        """
        products = residual @ self.coordinates.T
        separations = self._separations_from(labels)
        margins = 2 * (products.gather(1, labels.unsqueeze(1)) - products) + separations
        reach = torch.linalg.vector_norm(residual, dim=1, keepdim=True)
        rounding = TIE * (separations + reach * separations.sqrt())
        smallest, at = margins.min(dim=1, keepdim=True)
        chosen = first_true(margins <= smallest + rounding + rounding.gather(1, at))
        return chosen, margins.gather(1, chosen.unsqueeze(1)).squeeze(1) * (chosen != labels)

    def _separations_from(self, labels: Tensor) -> Tensor:
        if self.separations is not None:
            return self.separations[labels]
        own, norms = self.coordinates[labels], self.coordinates.square().sum(dim=1)
        return torch.clamp(norms[labels].unsqueeze(1) + norms - 2 * own @ self.coordinates.T, min=0)


def first_true(mask: Tensor) -> Tensor:
    """Index of the first True in each row (torch.argmax leaves ties open).

    Args:
        mask: Shape (N, K), boolean, with a True in every row.

    Returns:
        Shape (N,), int64; K for a row without any.
    """
    indices = torch.arange(mask.shape[1], device=mask.device)
    return torch.where(mask, indices, mask.shape[1]).amin(dim=1)


@dataclass(frozen=True)
class ClassDecisions:
    r"""Decisions at one layer, given the final class means; additive over batches.

    Every field is a sum over the samples of a class, or a weighted sum over all samples, so ``merge`` adds.

    Attributes:
        counts: Samples of each class, shape (K,).
        ncc_correct: Samples whose nearest class center is their own class, shape (K,).
        margin_sums: Sums over samples of :math:`\min_j \lVert h - \mu_j \rVert^2 - \lVert h - \mu_y \rVert^2`, shape (K,).
        classifier_correct: Samples that the classifier gets right, shape (K,); zeros without a classifier.
        agree: Samples for which classifier and nearest center agree, shape (K,); zeros without a classifier.
        cosine_sums: Sums over samples of cos(h, w_y), shape (K,), features not centered; zeros without a classifier.
        within_class: :math:`U^T \Sigma_W U` with class weights 1/K, shape (r, r).
        within_sample: The same with class weights n_k/N.
        residual_sums: Sums over samples of :math:`U^T(h - \mu_y)`, shape (K, r): zero on the data that gave the means, so
            that a second pass which saw other features is noticed.
    """

    counts: Tensor
    ncc_correct: Tensor
    margin_sums: Tensor
    classifier_correct: Tensor
    agree: Tensor
    cosine_sums: Tensor
    within_class: Tensor
    within_sample: Tensor
    residual_sums: Tensor

    @classmethod
    def empty(cls, centers: ClassCenters) -> ClassDecisions:
        """The neutral element of ``merge``.

        Args:
            centers: The centers decided by.

        Returns:
            Decisions about no samples.
        """
        per_class = torch.zeros_like(centers.moments.scatter_traces)
        matrix = per_class.new_zeros(centers.basis.shape[1], centers.basis.shape[1])
        residuals = torch.zeros_like(centers.coordinates)
        return cls(per_class, per_class, per_class, per_class, per_class, per_class, matrix, matrix, residuals)

    @classmethod
    def from_batch(
        cls,
        features: Tensor,
        labels: Tensor,
        centers: ClassCenters,
        classifier: LinearClassifier | None = None,
        counts: Tensor | None = None,
    ) -> ClassDecisions:
        """Decisions about one batch.

        Args:
            features: Flat features of shape (N, d).
            labels: Checked labels of shape (N,).
            centers: Final class means (of the training set).
            classifier: The last layer, when these features feed it.
            counts: Final counts n_k of the data set that the batch belongs to, shape (K,), for the weights of the
                within-class covariance; None takes those of the centers.

        Returns:
            Sums over the batch.
        """
        counts = centers.moments.counts if counts is None else counts
        residual, cosines, chosen = _project(features, labels, centers, classifier)
        step = max(1, _MARGIN_ELEMENTS // centers.moments.num_classes)
        parts = zip(residual.split(step), labels.split(step), strict=True)
        decided = [centers.nearest(*part) for part in parts] or [(labels, residual.new_zeros(0))]
        nearest, margins = (torch.cat(column) for column in zip(*decided, strict=True))
        num_classes = centers.moments.num_classes

        def count(indicator: Tensor) -> Tensor:
            return torch.bincount(labels, weights=indicator.double(), minlength=num_classes)

        zeros = torch.zeros_like(centers.moments.scatter_traces)
        return cls(
            counts=count(torch.ones_like(labels)),
            ncc_correct=count(nearest == labels),
            margin_sums=count(margins),
            classifier_correct=zeros if chosen is None else count(chosen == labels),
            agree=zeros if chosen is None else count(chosen == nearest),
            cosine_sums=zeros if cosines is None else count(cosines),
            within_class=(residual / (num_classes * counts[labels]).unsqueeze(1)).T @ residual,
            within_sample=residual.T @ residual / counts.sum(),
            residual_sums=torch.zeros_like(centers.coordinates).index_add_(0, labels, residual),
        )

    def merge(self, other: ClassDecisions) -> ClassDecisions:
        """Decisions about both sets of samples.

        Args:
            other: Decisions by the same centers.

        Returns:
            The sums.
        """
        names = (item.name for item in fields(self))
        return ClassDecisions(**{name: getattr(self, name) + getattr(other, name) for name in names})

    def to(self, device: torch.device | str) -> ClassDecisions:
        """The same value on another device.

        Args:
            device: Where to.

        Returns:
            The value there; tensors that are there already are shared.
        """
        return ClassDecisions(**{item.name: getattr(self, item.name).to(device) for item in fields(self)})

    def within_on_span(self, weights: ClassWeights) -> Tensor:
        r""":math:`U^T \Sigma_W U` with the given class weights.

        Args:
            weights: "class" or "sample".

        Returns:
            Shape (r, r), float64.
        """
        return self.within_sample if weights == "sample" else self.within_class


def _project(
    features: Tensor, labels: Tensor, centers: ClassCenters, classifier: LinearClassifier | None
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Residuals projected on the span, cosines of features to their classifier rows, and the classifier's choices."""
    projected = torch.empty(len(labels), centers.basis.shape[1], dtype=torch.float64, device=features.device)
    cosines = chosen = None
    if classifier is not None:
        cosines = torch.empty(len(labels), dtype=torch.float64, device=features.device)
        chosen = torch.empty_like(labels)
        directions = classifier.weight / torch.linalg.vector_norm(classifier.weight, dim=1, keepdim=True)
    for rows in row_blocks(features):
        own = labels[rows]
        if classifier is not None and cosines is not None and chosen is not None:
            block = features[rows].double()
            cosines[rows] = (block * directions[own]).sum(dim=1) / torch.linalg.vector_norm(block, dim=1)
            logits = torch.addmm(classifier.bias, block, classifier.weight.T)
            chosen[rows] = first_true(logits == logits.amax(dim=1, keepdim=True))
        # Residuals first, projection second: subtracting projections would cancel near collapse. Both with their sign turned,
        # which needs no float64 copy of the features; the few columns of the basis multiply faster from the left.
        residual = centers.moments.means.index_select(0, own).sub_(features[rows])
        projected[rows] = (centers.basis.T @ residual.T).T
    return projected.neg_(), cosines, chosen
