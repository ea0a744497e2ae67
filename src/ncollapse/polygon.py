"""The polygon of the K-gon: the order of the classes around it, close ones beside each other, its corners, and who is named."""

from collections.abc import Sequence
from typing import Any

import numpy as np

# Pictures name all of a few classes, and the largest of more.
MOST_NAMED, NUM_LARGEST = 20, 10
# Above this many classes their distances from each other are not computed.
_MOST = 1000

Array = np.ndarray[Any, Any]


def class_order(means: Array) -> list[int]:
    """Order classes so that those with close means (K, d) are neighbors: a short closed tour through them, from class 0 on."""
    # To the nearest class that is left, then improved as long as turning a part of the tour around makes it shorter. More than
    # 1000 classes stay in the order of their labels.
    num_classes = len(means)
    if num_classes > _MOST or not np.isfinite(means).all():
        return list(range(num_classes))
    squares = (means**2).sum(axis=1)
    distances = np.sqrt(np.maximum(squares[:, None] + squares - 2 * means @ means.T, 0))
    tour = _by_nearest(distances)
    # Rounding must not count as an improvement, or equal distances, as at collapse, would be turned around for ever.
    slack = 1e-9 * float(distances.max())
    while _improve(tour, distances, slack):
        pass
    # One of the two directions: the second class of the tour before the last.
    return [int(label) for label in (tour if tour[1] < tour[-1] else np.roll(tour[::-1], 1))]


def _by_nearest(distances: Array) -> Array:
    tour, left = [0], np.ones(len(distances), dtype=bool)
    left[0] = False
    while left.any():
        tour.append(int(np.where(left, distances[tour[-1]], np.inf).argmin()))
        left[tour[-1]] = False
    return np.array(tour)


def _improve(tour: Array, distances: Array, slack: float) -> bool:
    """Turn parts of the tour around where that makes it shorter; return whether there was one."""
    improved = False
    for start in range(1, len(tour) - 1):
        # The part from start to end is entered from tour[start - 1] and left to tour[end + 1].
        before, first, ends = tour[start - 1], tour[start], tour[start + 1 :]
        after = np.append(tour[start + 2 :], tour[0])
        gain = distances[before, first] + distances[ends, after] - distances[before, ends] - distances[first, after]
        best = int(gain.argmax())
        if gain[best] > slack:
            end = start + 1 + best
            tour[start : end + 1] = tour[start : end + 1][::-1].copy()
            improved = True
    return improved


def spread_evenly(order: Sequence[int], named: Sequence[int]) -> list[int]:
    """Move the named classes apart, evenly around the polygon, so that their labels do not meet; else the order is kept."""
    first = [label for label in order if label in named]
    others = iter([label for label in order if label not in named])
    places = {i * len(order) // len(first): label for i, label in enumerate(first)}
    return [places[place] if place in places else next(others) for place in range(len(order))]


def corners_of(order: Sequence[int]) -> Array:
    """Return the corners of the regular K-gon by class, (K, 2), clockwise from the top; of two classes a horizontal segment."""
    num_classes = len(order)
    angles = 2 * np.pi * np.arange(num_classes) / num_classes
    corners = np.empty((num_classes, 2))
    corners[list(order)] = np.stack([np.sin(angles), np.cos(angles)], axis=1) if num_classes > 2 else [[-1, 0], [1, 0]]
    return corners


def named_classes(counts: Sequence[int]) -> list[int]:
    """Return the classes with samples, in ascending order; of more than 20 the ten largest, the first ones of equal size."""
    present = [label for label, count in enumerate(counts) if count]
    if len(present) <= MOST_NAMED:
        return present
    return sorted(sorted(present, key=lambda label: -counts[label])[:NUM_LARGEST])
