"""Batches reduced to what decisions need, in one walk over tiles of the features."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from ncollapse.statistics.batch import Workspace
from ncollapse.statistics.centers import ClassCenters, LinearClassifier, largest_logit
from ncollapse.statistics.screen import FEWEST_ROWS
from ncollapse.statistics.selection import ClassSelection


class Projected(NamedTuple):
    """One batch at one layer, reduced to what decisions need: r numbers per sample."""

    # Class means differ only within their span U, so the r coordinates Uᵀ(h - μ) decide everything.

    labels: Tensor  # classes of the samples, shape (N,)
    residual: Tensor  # Uᵀ(h - μ_y), shape (N, r)
    cosines: Tensor | None  # cos(h, w_y), shape (N,); None without a classifier
    chosen: Tensor | None  # the classes that the network chooses, shape (N,); None without choices
    squares: Tensor | None = None  # |h - μ_y|², the part off the span included, shape (N,); None unless asked for

    @classmethod
    def from_batch(
        cls,
        features: Tensor,
        labels: Tensor,
        centers: ClassCenters,
        classifier: LinearClassifier | None,
        choices: Tensor | None = None,
        workspace: Workspace | None = None,
        selection: ClassSelection | None = None,
        *,
        squares: bool = False,
        choose: bool = False,
    ) -> Projected:
        """Project one batch; with a selection the centers have its classes, while labels and classifier count all."""
        # With ``choose`` the choices are the classifier's own.
        workspace = Workspace() if workspace is None else workspace
        given, labels = labels, labels if selection is None else selection.renumber(labels)
        head = None if classifier is None else _Head(classifier, given)
        residual, lengths = _residuals(features, labels, centers, workspace, head, squares=squares)
        if head is None:
            return cls(labels, residual, None, choices, lengths)
        return cls(labels, residual, head.cosines, head.choices(features) if choose else choices, lengths)

    def parts(self, size: int) -> Iterator[Projected]:
        """Cut the samples into parts."""
        for start in range(0, len(self.labels), size):
            yield Projected._make(None if part is None else part[start : start + size] for part in self)


def _residuals(
    features: Tensor, labels: Tensor, centers: ClassCenters, workspace: Workspace, head: _Head | None, *, squares: bool
) -> tuple[Tensor, Tensor | None]:
    """Compute the residuals on the span, and their squared lengths in all dimensions; a head gets the tiles on the way."""
    # The residual is (h - μ) U. There are two ways to compute it. h U - μ U is one product without a copy of the means, but
    # near collapse the two projections nearly cancel, and the result has an error of 1e-16 times the distance from the
    # origin. Features in float32 or less have a larger rounding of their own, 1e-8 of that distance, so the cheap way is
    # good enough for them. For float64 features, and for squared distances, the mean is subtracted first, which doubles the
    # cost. If the means span the whole space, nothing is projected.
    subtract_first = squares or features.dtype == torch.float64 or centers.spans_all
    if not subtract_first and head is not None and head.all is not None:
        return _projected_with(head, features, labels, centers, workspace), None
    projected = _before_projection(labels, centers, subtract_first=subtract_first)
    lengths = projected.new_zeros(len(labels)) if squares else None
    for rows, columns, tile in workspace.tiles(features):
        if head is not None:
            head.add(rows, columns, tile)
        if subtract_first:
            tile.sub_(centers.moments.means[:, columns].index_select(0, labels[rows]))
        if lengths is not None:
            lengths[rows] += tile.square().sum(dim=1)
        if centers.spans_all:
            projected[rows, columns] = tile
        elif _is_narrow(centers):
            projected.T[:, rows].addmm_(centers.basis[columns].T, tile.T)
        else:
            projected[rows].addmm_(tile, centers.basis[columns])
    return projected, lengths


def _before_projection(labels: Tensor, centers: ClassCenters, *, subtract_first: bool) -> Tensor:
    """Return what the projections of tiles are added to, (N, r): zeros, or minus the projections of the class means."""
    if centers.spans_all:
        return centers.basis.new_empty(len(labels), centers.basis.shape[1])
    if subtract_first:
        shape = len(labels), centers.basis.shape[1]
        return centers.basis.new_zeros(shape[::-1]).T if _is_narrow(centers) else centers.basis.new_zeros(shape)
    if _is_narrow(centers):
        return centers.projections.T.index_select(1, labels).neg_().T
    return centers.projections.index_select(0, labels).neg_()


def _is_narrow(centers: ClassCenters) -> bool:
    """Return whether the basis has so few columns that a product is faster with them on the left."""
    return centers.basis.shape[1] < FEWEST_ROWS


def _projected_with(head: _Head, features: Tensor, labels: Tensor, centers: ClassCenters, workspace: Workspace) -> Tensor:
    """Compute the residuals together with the logits, since one product with few more rows is faster than two."""
    room, size = centers.basis.shape[1], len(head.weight)
    # A product of a multiple of four rows is faster, by a fifth if one row fills them up.
    left = torch.cat([centers.basis.T, head.weight, head.weight.new_zeros(-(room + size) % 4, head.weight.shape[1])])
    both = left.new_zeros(len(left), len(labels))
    for rows, columns, tile in workspace.tiles(features):
        both[:, rows].addmm_(left[:, columns], tile.T)
        head.add_squares(rows, tile)
    head.all = both[room : room + size]
    return both[:room].T - centers.projections.index_select(0, labels)


class _Head:
    """Products of features with classifier rows, added up over tiles: of all rows if they are few, else of the own class's."""

    def __init__(self, classifier: LinearClassifier, labels: Tensor) -> None:
        self.classifier, self.weight, self.labels = classifier, classifier.weight, labels
        self.all = self.weight.new_zeros(len(self.weight), len(labels)) if len(self.weight) < FEWEST_ROWS else None
        self.own, self.squares = self.weight.new_zeros(2, len(labels))

    def add(self, rows: slice, columns: slice, tile: Tensor) -> None:
        """Add one tile."""
        self.add_squares(rows, tile)
        if self.all is None:
            self.own[rows] += self.weight[:, columns].index_select(0, self.labels[rows]).mul_(tile).sum(dim=1)
        else:
            self.all[:, rows].addmm_(self.weight[:, columns], tile.T)

    def add_squares(self, rows: slice, tile: Tensor) -> None:
        """Add the squares of one tile to the squared norms."""
        self.squares[rows] += torch.linalg.vector_norm(tile, dim=1).square_()

    @property
    def cosines(self) -> Tensor:
        """The cosines of features to the rows of their classes."""
        own = self.own if self.all is None else self.all.gather(0, self.labels.unsqueeze(0)).squeeze(0)
        return own / (torch.linalg.vector_norm(self.weight, dim=1)[self.labels] * self.squares.sqrt())

    def choices(self, features: Tensor) -> Tensor:
        """Return the classes of the largest logits."""
        if self.all is None:
            return self.classifier.choices_near(features, self.labels, self.squares.sqrt())
        return largest_logit((self.all + self.classifier.bias.unsqueeze(1)).T)
