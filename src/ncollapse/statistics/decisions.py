"""Decisions by the nearest class mean and by the classifier, and the within-class covariance on the span of the means."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import NamedTuple

import torch
from torch import Tensor

from ncollapse.statistics.batch import Workspace, row_blocks
from ncollapse.statistics.centers import ClassCenters, LinearClassifier, first_true
from ncollapse.statistics.conventions import ClassWeights

# The fewest samples whose margins are computed at once, however many classes there are: each block reads all coordinates.
_MARGIN_ROWS = 64


class Projected(NamedTuple):
    r"""One batch at one layer, reduced to what decisions need: r numbers per sample."""

    labels: Tensor
    residual: Tensor
    cosines: Tensor | None
    chosen: Tensor | None

    @classmethod
    def from_batch(
        cls,
        features: Tensor,
        labels: Tensor,
        centers: ClassCenters,
        classifier: LinearClassifier | None,
        workspace: Workspace | None = None,
    ) -> Projected:
        """Project one batch."""
        workspace = Workspace() if workspace is None else workspace
        projected = centers.basis.new_zeros(centers.basis.shape[1], len(labels))
        # The residual is (h - μ) U. There are two ways to compute it. h U - μ U is one product without a copy of the means, but
        # near collapse the two projections nearly cancel, and the result has an error of 1e-16 times the distance from the
        # origin. Features in float32 or less have a larger rounding of their own, 1e-8 of that distance, so the cheap way is
        # good enough for them. For float64 features the mean is subtracted first, which doubles the cost.
        fine = features.dtype == torch.float64
        for rows, columns, tile in workspace.tiles(features):
            if fine:
                tile.sub_(centers.moments.means[:, columns].index_select(0, labels[rows]))
            # The basis has few columns, and the product is faster with them on the left.
            projected[:, rows].addmm_(centers.basis[columns].T, tile.T)
        residual = projected.T if fine else projected.T - centers.projections.index_select(0, labels)
        if classifier is None:
            return cls(labels, residual, None, None)
        return cls(labels, residual, *_classified(features, labels, classifier, workspace))


def _classified(features: Tensor, labels: Tensor, classifier: LinearClassifier, workspace: Workspace) -> tuple[Tensor, Tensor]:
    """Compute the cosines of features to their classifier rows, and the classifier's choices."""
    cosines = torch.empty(len(labels), dtype=torch.float64, device=features.device)
    chosen = torch.empty_like(labels)
    norms = torch.linalg.vector_norm(classifier.weight, dim=1)
    for rows, block in workspace.rows(features):
        products = block @ classifier.weight.T
        own = products.gather(1, labels[rows].unsqueeze(1)).squeeze(1)
        cosines[rows] = own / (norms[labels[rows]] * torch.linalg.vector_norm(block, dim=1))
        logits = products + classifier.bias
        chosen[rows] = first_true(logits == logits.amax(dim=1, keepdim=True))
    return cosines, chosen


@dataclass(frozen=True, eq=False)
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
        residual_sums: Sums over samples of :math:`U^T(h - \mu_y)`, shape (K, r). They are zero on the data of the means, so
            that a second pass over other features is noticed.
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
        """Return the neutral element of ``merge``."""
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
        """Sum the decisions about one batch.

        Args:
            features: Flat features of shape (N, d).
            labels: Checked labels of shape (N,).
            centers: Final class means (of the training set).
            classifier: The last layer, if these features feed it.
            counts: Final counts n_k of the data set that the batch belongs to, shape (K,), for the weights of the
                within-class covariance; None uses those of the centers.

        Returns:
            Sums over the batch.
        """
        return cls.from_projected([Projected.from_batch(features, labels, centers, classifier)], centers, counts)

    @classmethod
    def from_projected(cls, parts: Sequence[Projected], centers: ClassCenters, counts: Tensor | None = None) -> ClassDecisions:
        """Sum the decisions about several projected batches at once.

        After projection a layer is so small that the overhead of calls dominates, hence several batches per call.

        Args:
            parts: Batches after projection, at least one, all with the same classifier or all without one.
            centers: The centers whose span they were projected on.
            counts: As in ``from_batch``.

        Returns:
            Sums over the batches.
        """
        counts = centers.moments.counts if counts is None else counts
        labels = torch.cat([part.labels for part in parts])
        residual = torch.cat([part.residual for part in parts])
        cosines = _joined([part.cosines for part in parts])
        chosen = _joined([part.chosen for part in parts])
        num_classes = centers.moments.num_classes
        blocks = row_blocks(residual, num_classes, _MARGIN_ROWS)
        decided = [centers.nearest(residual[rows], labels[rows]) for rows in blocks] or [(labels, residual.new_zeros(0))]
        nearest, margins = (torch.cat(column) for column in zip(*decided, strict=True))

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
        """Merge the decisions about two sets of samples."""
        names = (item.name for item in fields(self))
        return ClassDecisions(**{name: getattr(self, name) + getattr(other, name) for name in names})

    def to(self, device: torch.device | str) -> ClassDecisions:
        """Return the same value on another device."""
        return ClassDecisions(**{item.name: getattr(self, item.name).to(device) for item in fields(self)})

    def within_on_span(self, weights: ClassWeights) -> Tensor:
        r"""Return :math:`U^T \Sigma_W U` with the given class weights.

        Args:
            weights: "class" or "sample".

        Returns:
            Shape (r, r), float64.
        """
        return self.within_sample if weights == "sample" else self.within_class


def _joined(parts: Sequence[Tensor | None]) -> Tensor | None:
    present = [part for part in parts if part is not None]
    return torch.cat(present) if present else None
