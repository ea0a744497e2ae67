"""Decisions by the nearest class mean and by the classifier, and the within-class covariance on the span of the means."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import cast

import torch
from torch import Tensor

from ncollapse.statistics.centers import ClassCenters, LinearClassifier
from ncollapse.statistics.conventions import ClassWeights
from ncollapse.statistics.moments import symmetric_product
from ncollapse.statistics.nearest import nearest_centers, own_is_nearest
from ncollapse.statistics.projected import Projected
from ncollapse.statistics.screen import FEWEST_ROWS


@dataclass(frozen=True, eq=False)
class ClassifierChoices:
    """How often the classes that a network chooses, those of its largest logits, are right; additive over batches.

    Attributes:
        counts: Samples of each class, shape (K,).
        correct: Samples whose chosen class is their own, shape (K,).
    """

    counts: Tensor
    correct: Tensor

    @classmethod
    def empty(cls, num_classes: int) -> ClassifierChoices:
        """Return the neutral element of ``merge``."""
        return cls(torch.zeros(num_classes, dtype=torch.int64), torch.zeros(num_classes, dtype=torch.int64))

    @classmethod
    def from_batch(cls, choices: Tensor, labels: Tensor, num_classes: int) -> ClassifierChoices:
        """Count the choices for one batch.

        Args:
            choices: Chosen classes of shape (N,).
            labels: Checked labels of shape (N,).

        Returns:
            Counts over the batch.
        """
        counts = torch.bincount(labels, minlength=num_classes)
        return cls(counts, torch.bincount(labels[choices == labels], minlength=num_classes))

    def select(self, classes: Tensor) -> ClassifierChoices:
        """Return the counts over the samples of some classes, by their indices; the choices were among all classes."""
        return ClassifierChoices(self.counts[classes], self.correct[classes])

    def merge(self, other: ClassifierChoices) -> ClassifierChoices:
        """Merge the counts of two sets of samples."""
        return ClassifierChoices(self.counts + other.counts, self.correct + other.correct)

    def to(self, device: torch.device | str) -> ClassifierChoices:
        """Return the same value on another device."""
        return ClassifierChoices(self.counts.to(device), self.correct.to(device))


@dataclass(frozen=True, eq=False)
class ClassDecisions:
    r"""Decisions at one layer, given the final class means; additive over batches.

    Every field is a sum over the samples of a class, or a weighted sum over all samples, so ``merge`` adds.

    Attributes:
        counts: Samples of each class, shape (K,).
        ncc_correct: Samples whose nearest class center is their own class, shape (K,).
        margin_sums: Sums over samples of :math:`\min_j \lVert h - \mu_j \rVert^2 - \lVert h - \mu_y \rVert^2`, shape (K,).
        left_out: Samples decided by class means of the other samples, shape (K,); zeros if their squares were not asked for.
        left_out_correct: Those of them whose nearest center is that of their own class.
        agree: Samples whose chosen class is that of the nearest center, shape (K,); zeros without choices.
        cosine_sums: Sums over samples of cos(h, w_y), shape (K,), features not centered; zeros without a classifier.
        within_class: :math:`U^T \Sigma_W U` with class weights 1/K, shape (r, r).
        within_sample: The same with class weights n_k/N.
        residual_sums: Sums over samples of :math:`U^T(h - \mu_y)`, shape (K, r). They are zero on the data of the means, so
            that a second pass over other features is noticed.
    """

    counts: Tensor
    ncc_correct: Tensor
    margin_sums: Tensor
    left_out: Tensor
    left_out_correct: Tensor
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
        return cls(*(per_class,) * 7, matrix, matrix, residuals)

    @classmethod
    def from_batch(
        cls,
        features: Tensor,
        labels: Tensor,
        centers: ClassCenters,
        classifier: LinearClassifier | None = None,
        counts: Tensor | None = None,
        choices: Tensor | None = None,
        *,
        squares: bool = False,
    ) -> ClassDecisions:
        """Return the sums over one batch.

        Args:
            features: Flat features of shape (N, d).
            labels: Checked labels.
            centers: Final class means (of the training set).
            classifier: The last layer, if these features feed it.
            counts: Final counts n_k of the data set that the batch belongs to, shape (K,), for the weights of the
                within-class covariance; None uses those of the centers.
            choices: The classes that the network chooses, shape (N,); None uses the classifier's choices, if there is one.
            squares: Whether to decide also by the means of the other samples; the centers must be means of these samples.
        """
        projected = Projected.from_batch(
            features, labels, centers, classifier, choices, squares=squares, choose=choices is None
        )
        return cls.from_projected([projected], centers, counts)

    @classmethod
    def from_projected(cls, parts: Sequence[Projected], centers: ClassCenters, counts: Tensor | None = None) -> ClassDecisions:
        """Return the sums over several projected batches at once, since the overhead of calls dominates after projection.

        Args:
            parts: At least one, all with the same classifier or all without one.
            centers: The centers whose span they were projected on.
            counts: As in ``from_batch``.
        """
        counts = centers.moments.counts if counts is None else counts
        labels = cast(Tensor, _joined([part.labels for part in parts]))
        residual = cast(Tensor, _joined([part.residual for part in parts]))
        cosines = _joined([part.cosines for part in parts])
        chosen = _joined([part.chosen for part in parts])
        nearest, margins = nearest_centers(centers, residual, labels)
        squares = _joined([part.squares for part in parts])
        won = labels[:0] if squares is None else own_is_nearest(centers, residual, labels, squares)
        within_class, within_sample = _within(residual, labels, counts)

        def count(indicator: Tensor | None) -> Tensor:
            # Not bincount, which has no deterministic kernel on CUDA.
            zeros = torch.zeros_like(centers.moments.scatter_traces)
            return zeros if indicator is None else zeros.index_add_(0, labels, indicator.double())

        return cls(
            counts=count(torch.ones_like(labels)),
            ncc_correct=count(nearest == labels),
            margin_sums=count(margins),
            left_out=count(None if squares is None else torch.ones_like(labels)),
            left_out_correct=count(None if squares is None else won),
            agree=count(None if chosen is None else chosen == nearest),
            cosine_sums=count(cosines),
            within_class=within_class,
            within_sample=within_sample,
            residual_sums=torch.zeros_like(centers.coordinates).index_add_(0, labels, residual),
        )

    def merge(self, other: ClassDecisions) -> ClassDecisions:
        """Merge the decisions about two sets of samples."""
        names = (item.name for item in fields(self))
        return ClassDecisions(**{name: getattr(self, name) + getattr(other, name) for name in names})

    def merge_(self, other: ClassDecisions) -> ClassDecisions:
        """Merge the decisions about other samples in place, into a result of ``from_projected`` that nobody else holds."""
        for item in fields(self):
            getattr(self, item.name).add_(getattr(other, item.name))
        return self

    def to(self, device: torch.device | str) -> ClassDecisions:
        """Return the same value on another device."""
        return ClassDecisions(**{item.name: getattr(self, item.name).to(device) for item in fields(self)})

    def select(self, classes: Tensor) -> ClassDecisions:
        """Return the sums over the samples of some classes, by their indices."""
        whole = {"within_class", "within_sample"}
        return ClassDecisions(
            **{item.name: getattr(self, item.name)[... if item.name in whole else classes] for item in fields(self)}
        )

    def within_on_span(self, weights: ClassWeights) -> Tensor:
        r"""Return :math:`U^T \Sigma_W U` with the given class weights, shape (r, r)."""
        return self.within_sample if weights == "sample" else self.within_class


def _within(residual: Tensor, labels: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
    """Compute the sums of squares with both class weights, 1/(K n_k) and 1/N, from one product where these are the same."""
    if bool((counts == counts[0]).all()):
        within_sample = symmetric_product(residual, residual) / counts.sum()
        return within_sample, within_sample.clone()
    sizes = counts[labels]
    if len(counts) >= FEWEST_ROWS and 1 <= len(different := torch.unique(sizes)) <= 2:
        # Many classes of two sizes, such as nearly equal ones: the samples of each size have one product for both weights.
        products = [symmetric_product(part, part) for part in (residual[sizes == size] for size in different)]
        per_class = [product / (len(counts) * size) for product, size in zip(products, different, strict=True)]
        return torch.stack(per_class).sum(dim=0), torch.stack(products).sum(dim=0) / counts.sum()
    weighted = residual / (len(counts) * sizes).unsqueeze(1)
    return symmetric_product(weighted, residual), symmetric_product(residual, residual) / counts.sum()


def _joined(parts: Sequence[Tensor | None]) -> Tensor | None:
    present = [part for part in parts if part is not None]
    # One part alone is not copied.
    return torch.cat(present) if len(present) > 1 else present[0] if present else None
