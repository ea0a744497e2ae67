"""Classes and pairs of classes at one layer: spread, distances, which are taken for one another, and groups by size."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from ncollapse.metrics.variability import cdnv_matrix
from ncollapse.records.rows import ClassFinding, GroupFinding, PairFinding
from ncollapse.statistics.centers import ClassCenters
from ncollapse.statistics.moments import ClassMoments
from ncollapse.statistics.nearest import nearest_centers
from ncollapse.statistics.projected import Projected

# Two classes have merged if at least this share of the samples of both is decided for the other one. A coin gives 1/2.
MERGED = 0.25
# Classes have groups by size if the largest is at least this many times the smallest.
_UNEVEN = 2
# Samples that are decided at once, with one number in float64 for each class.
_ROWS = 4096
# Of many classes, the pairs that are listed: those most often taken for one another, then those of largest CDNV.
_MOST_PAIRS = 1000


def decided_classes(features: Tensor, labels: Tensor, centers: ClassCenters) -> Tensor:
    """Return the class whose center is nearest, the smallest index on ties, shape (N,)."""
    parts = [
        nearest_centers(centers, Projected.from_batch(features[rows], labels[rows], centers, None).residual, labels[rows])[0]
        for rows in torch.arange(len(labels)).split(_ROWS)
    ]
    return torch.cat(parts) if parts else labels


def confusion_counts(labels: Tensor, decided: Tensor, num_classes: int) -> Tensor:
    """Return how many samples of class i were decided for class j, shape (K, K)."""
    return torch.bincount(labels * num_classes + decided, minlength=num_classes**2).view(num_classes, num_classes)


def relative_distances(moments: ClassMoments) -> Tensor:
    """Return the distances of class means relative to their root mean square over pairs, (K, K); nan if all coincide."""
    means = moments.class_means
    squares = torch.cdist(means, means, compute_mode="donot_use_mm_for_euclid_dist").square()
    mean = squares.sum() / max(1, moments.num_classes * (moments.num_classes - 1))
    return (squares / mean).sqrt()


def size_groups(counts: Tensor) -> list[str]:
    """Return "many", "some" or "few" for each class by thirds of the classes in order of size, "" if sizes are about equal."""
    if int(counts.max()) < _UNEVEN * int(counts.min()):
        return [""] * len(counts)
    # Classes of one size are in one group.
    low, high = counts.sort().values[[len(counts) // 3, -(-2 * len(counts) // 3) - 1]].tolist()
    return ["few" if n <= low else "many" if n >= high else "some" for n in counts.tolist()]


def class_findings(
    moments: ClassMoments, train: Tensor, test: Tensor | None, indices: list[int], names: Mapping[int, str]
) -> tuple[ClassFinding, ...]:
    """Return what is found of each class, from its moments and the (K, K) counts of decisions on training and test samples."""
    distances, cdnv = relative_distances(moments).fill_diagonal_(math.inf), cdnv_matrix(moments).fill_diagonal_(0.0)
    nearest, at = distances.min(dim=1)
    groups = size_groups(moments.counts)
    own = [_own_share(table) for table in (train, test)]
    others = moments.num_classes - 1
    return tuple(
        ClassFinding(
            index=index,
            name=names[index],
            count=int(moments.counts[k]),
            group=groups[k],
            variance=float(moments.class_variances[k]),
            nearest=indices[int(at[k])],
            distance=float(nearest[k]),
            cdnv=float(cdnv[k].sum() / others),
            train=own[0][k],
            test=own[1][k] if own[1] else math.nan,
        )
        for k, index in enumerate(indices)
    )


def pair_findings(moments: ClassMoments, decided: Tensor, indices: list[int]) -> tuple[PairFinding, ...]:
    """Return what is found of pairs of classes, those most often taken for one another first."""
    distances, cdnv = relative_distances(moments), cdnv_matrix(moments)
    confusion = pair_confusion(decided)
    first, second = torch.triu_indices(len(indices), len(indices), offset=1)
    by_cdnv = torch.argsort(cdnv[first, second].nan_to_num(nan=math.inf), descending=True, stable=True)
    order = by_cdnv[torch.argsort(confusion[first, second][by_cdnv].nan_to_num(), descending=True, stable=True)]
    return tuple(
        PairFinding(indices[i], indices[j], float(distances[i, j]), float(cdnv[i, j]), float(confusion[i, j]))
        for i, j in zip(first[order][:_MOST_PAIRS].tolist(), second[order][:_MOST_PAIRS].tolist(), strict=True)
    )


def pair_confusion(decided: Tensor) -> Tensor:
    """Return the share of the samples of two classes that are decided for the other of the two, (K, K); nan without samples."""
    counts = decided.sum(dim=1).double()
    return (decided + decided.T).double() / (counts.unsqueeze(1) + counts)


def merged_classes(decided: Tensor, indices: list[int]) -> tuple[tuple[int, ...], ...]:
    """Return the groups of classes that are taken for one another, through any number of pairs."""
    together = (pair_confusion(decided) >= MERGED).fill_diagonal_(fill_value=True)
    group = torch.arange(len(indices))
    for _ in range(len(indices)):
        reached = torch.where(together, group, len(indices)).amin(dim=1)
        if torch.equal(reached, group):
            break
        group = reached
    found = [tuple(indices[k] for k in (group == g).nonzero().flatten().tolist()) for g in group.unique().tolist()]
    return tuple(classes for classes in found if len(classes) > 1)


def group_findings(classes: tuple[ClassFinding, ...], distances: Tensor) -> tuple[GroupFinding, ...]:
    """Return the accuracy of classes with many, some and few samples, and how far from one another they are."""
    found = []
    for name in ("many", "some", "few"):
        places = [k for k, item in enumerate(classes) if item.group == name]
        if not places:
            continue
        inside = distances[places][:, places]
        pairs = inside[~torch.eye(len(places), dtype=torch.bool)]
        sizes = [classes[k].count for k in places]
        shares = [classes[k].train if math.isnan(classes[k].test) else classes[k].test for k in places]
        mean = float(pairs.mean()) if len(places) > 1 else math.nan
        found.append(GroupFinding(name, len(places), min(sizes), max(sizes), sum(shares) / len(shares), mean))
    return tuple(found)


def _own_share(table: Tensor | None) -> list[float]:
    return [] if table is None else (table.diagonal().double() / table.sum(dim=1)).tolist()
