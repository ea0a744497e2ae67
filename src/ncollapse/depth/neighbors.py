"""k-nearest-neighbor decisions at every layer, and their agreement with the network.

After Cohen, Sapiro & Giryes (2018), "DNN or k-NN: that is the generalize vs. memorize question".
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ncollapse.statistics.batch import check_labels, flatten_features

# Distances in memory at once: 2**22 float64 numbers are 32 MB.
_BLOCK_ELEMENTS = 2**22


@dataclass(frozen=True)
class NeighborScore:
    """k-NN decisions at one layer.

    Attributes:
        accuracy: Share of samples whose neighbors vote for their own class; 1 at exact collapse, for k < n.
        agreement: Share of samples on which vote and network agree; nan without the network's predictions.
        agreement_on_errors: The same share among the samples that the network gets wrong; nan if there are none.
    """

    layer: str
    accuracy: float
    agreement: float
    agreement_on_errors: float


def neighbor_predictions(
    features: Tensor, labels: Tensor, *, num_classes: int, k: int = 10, queries: Tensor | None = None
) -> Tensor:
    """Return the majority vote of the k nearest training features, by Euclidean distance: class indices, shape (M,) or (N,).

    Without queries every training sample is decided by the others (leave one out). Of neighbors at equal distance those with
    the smallest index count. Of classes with equally many votes, the one with the smallest sum of its neighbors' distances
    wins, then the smallest index (scikit-learn takes the smallest index at once). Distances are compared from differences in
    float64, in O(N²d) time, without N×N memory.

    Args:
        features: Training features, shape (N, ...).
        labels: Their classes, shape (N,).
        queries: Features to decide, shape (M, ...); None decides the training features.

    Raises:
        ValueError: If k is not between 1 and the number of neighbors, or dimensions differ.
    """
    train = flatten_features(features).double()
    labels = check_labels(labels, len(train), num_classes).to(train.device)
    asked = train if queries is None else flatten_features(queries).double().to(train.device)
    available = len(train) - (queries is None)
    if not 1 <= k <= available or asked.shape[1] != train.shape[1]:
        raise ValueError(
            f"neighbor_predictions needs 1 <= k <= {available} neighbors and queries of {train.shape[1]} features, "
            f"got k={k} and {asked.shape[1]} features. Lower k, or pass features of one layer."
        )
    if not len(asked):
        return labels[:0]
    # Products of centered features, so that a common offset does not cost them their digits.
    centered = train - train.mean(dim=0)
    squares = centered.square().sum(dim=1)
    parts = []
    for rows in torch.arange(len(asked), device=train.device).split(max(1, _BLOCK_ELEMENTS // len(train))):
        own = rows if queries is None else None
        may_be_near = _candidates(asked[rows] - train.mean(dim=0), centered, squares, k, own)
        parts.append(_vote(asked[rows], train, may_be_near, labels, num_classes, k))
    return torch.cat(parts)


def _candidates(asked: Tensor, centered: Tensor, squares: Tensor, k: int, own: Tensor | None) -> Tensor:
    """Return which training samples may be among the k nearest, (B, N), by squared distances from products."""
    # Products are ten times faster than differences, and off by at most (d + 8) roundings of the squared sum of both lengths.
    # Whose squared distance exceeds the k-th smallest by twice that is farther for certain.
    lengths = asked.square().sum(dim=1, keepdim=True)
    distances = lengths + squares - 2 * asked @ centered.T
    itself = (torch.arange(len(asked), device=asked.device), own)
    if own is not None:
        distances[itself] = math.inf
    eps = torch.finfo(distances.dtype).eps
    slack = (asked.shape[1] + 8) * eps * (lengths.sqrt() + squares.amax().sqrt()).square()
    # What overflowed may be near.
    found = ~(distances > distances.topk(k, dim=1, largest=False).values[:, -1:] + 2 * slack)
    if own is not None:
        found[itself] = False
    return found


def _vote(asked: Tensor, train: Tensor, may_be_near: Tensor, labels: Tensor, num_classes: int, k: int) -> Tensor:
    rows, columns = may_be_near.nonzero(as_tuple=True)
    counts = may_be_near.sum(dim=1)
    exact = torch.cat(
        [
            torch.linalg.vector_norm(asked[rows[part]] - train[columns[part]], dim=1)
            for part in torch.arange(len(rows), device=rows.device).split(max(1, _BLOCK_ELEMENTS // asked.shape[1]))
        ]
    )
    # Candidates of each sample side by side, in order of their indices, so that a stable sort takes the smallest index on ties.
    places = torch.arange(len(rows), device=rows.device) - (counts.cumsum(0) - counts)[rows]
    near = exact.new_full((len(asked), int(counts.amax())), math.inf)
    near[rows, places] = exact
    index = torch.zeros_like(near, dtype=torch.int64)
    index[rows, places] = columns
    near, order = near.sort(dim=1, stable=True)
    near, chosen = near[:, :k], labels[index.gather(1, order)[:, :k]]
    zeros = near.new_zeros(len(near), num_classes)
    votes = zeros.scatter_add(1, chosen, torch.ones_like(near))
    sums = zeros.scatter_add(1, chosen, near)
    sums = torch.where(votes == votes.amax(dim=1, keepdim=True), sums, math.inf)
    first = torch.where(sums == sums.amin(dim=1, keepdim=True), torch.arange(num_classes, device=sums.device), num_classes)
    return first.amin(dim=1)


def neighbor_scores(
    layers: Mapping[str, Tensor],
    labels: Tensor,
    *,
    num_classes: int,
    k: int = 10,
    queries: Mapping[str, Tensor] | None = None,
    query_labels: Tensor | None = None,
    predictions: Tensor | None = None,
) -> list[NeighborScore]:
    """Return the k-NN accuracy at every layer, and the agreement :math:`P_{same}` of the vote with the network.

    Args:
        layers: Training features by layer, in order of depth, as ``collect_features`` returns them.
        labels: Their classes, shape (N,).
        queries: Features of another split by layer, decided by the training features; None means leave one out.
        query_labels: Classes of the queries, shape (M,); needed with queries.
        predictions: The network's decisions about the same samples, shape (M,) or (N,).

    Raises:
        ValueError: If queries come without labels or without a layer, or predictions do not fit.

    Example:
        >>> features = torch.tensor([[0.0], [0.1], [1.0], [1.1]])
        >>> neighbor_scores({"h": features}, torch.tensor([0, 0, 1, 1]), num_classes=2, k=1)[0].accuracy
        1.0
    """
    if queries is not None and (query_labels is None or set(layers) - set(queries)):
        raise ValueError(
            "neighbor_scores needs query_labels and every layer in queries, got "
            f"{'no labels' if query_labels is None else 'labels'} and layers {', '.join(queries)}. Collect the same layers."
        )
    target = labels if queries is None or query_labels is None else query_labels
    if predictions is not None and predictions.shape != target.shape:
        raise ValueError(
            f"predictions must hold one class index per decided sample, shape {tuple(target.shape)}, got "
            f"{tuple(predictions.shape)}. Pass logits.argmax(1)."
        )
    scores = []
    for name, features in layers.items():
        asked = None if queries is None else queries[name]
        vote = neighbor_predictions(features, labels, num_classes=num_classes, k=k, queries=asked).cpu()
        scores.append(_score(name, vote, target.cpu(), None if predictions is None else predictions.cpu()))
    return scores


def _score(layer: str, vote: Tensor, target: Tensor, predictions: Tensor | None) -> NeighborScore:
    accuracy = float((vote == target).double().mean())
    if predictions is None:
        return NeighborScore(layer, accuracy, math.nan, math.nan)
    same, wrong = (vote == predictions).double(), predictions != target
    # Without errors of the network the mean over no samples is nan, as documented.
    return NeighborScore(layer, accuracy, float(same.mean()), float(same[wrong].mean()))
