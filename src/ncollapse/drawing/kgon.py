"""The K-gon: all classes of every layer on one plane, as positions, colors and notes that each kind of picture draws."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple, Self

import numpy as np

from ncollapse.drawing.wording import counted, listed, number
from ncollapse.polygon import MOST_NAMED, class_order, corners_of, named_classes
from ncollapse.records.samples import FULL_BYTES, FULL_EPOCHS, EpochSamples, Samples

Array = np.ndarray[Any, Any]

# Half the side of a picture, in radii of the polygon. It is the same throughout a run, within these limits, so that what moves
# is the network and not the frame. Before collapse the samples of a layer lie many radii out: its picture is zoomed out until
# they fit, and its polygon is small. A few samples far beyond the others must not shrink the rest: the picture ends at 1.8
# times the reach of 95 % of its dots, and what lies beyond is a small mark at the edge.
_LEAST_REACH, _MOST_REACH, _SHARE, _BEYOND, _MARGIN = 1.3, 1.8, 0.95, 1.8, 1.04
# Of the labels, from their corners and from the center, in halves of the side.
_LABEL_DISTANCE, _LEAST_LABEL = 0.14, 0.42
# Labels nearer to each other than this are pushed apart, in at most so many steps.
_LABEL_GAP, _MOST_PUSHES = 0.13, 60
_ZOOMED, _EDGE = "zoomed out", "beyond the edge"
# Longer names stand beside the picture, and their numbers at the corners.
_MOST_LETTERS = 3
# Of two classes, which lie on a line, the dots are spread over this part of the height, by a sequence that fills it evenly.
_HEIGHT, _GOLDEN = 0.35, 0.618034

# Ten colors that people with any kind of color vision tell apart (Paul Tol's "muted", and the ink), on light and dark paper.
# Eleven to twenty classes have rings of the same colors.
COLORS = ("#332288", "#cc6677", "#117733", "#88ccee", "#999933", "#882255", "#44aa99", "#ddaa33", "#aa4499", "#1f2430")
DARK_COLORS = ("#8f83f0", "#e08593", "#45b36b", "#88ccee", "#b9b95a", "#c9608f", "#5cc9b7", "#ecc765", "#d07cc2", "#e8eaef")


class Positions(NamedTuple):
    """One epoch in the plane: samples (L, n, 2), class means, corners and spokes (L or 1, named classes, 2), in radii."""

    labels: Array
    points: Array
    means: Array
    corners: Array
    spokes: Array


class Picture(NamedTuple):
    """One layer at one epoch as it is drawn, in halves of the picture's side; empty where the class means coincide."""

    points: Array  # samples, (n, 2); those beyond the picture are on its edge
    is_beyond: Array  # which samples these are, (n,)
    means: Array  # means of the named classes, (k, 2)
    corners: Array  # their corners, (k, 2)
    spokes: Array  # their rows of the classifier, (k, 2); none in layers that do not feed it
    reach: float  # half the side, in radii of the polygon
    note: str  # what is special about it, in words


@dataclass(frozen=True)
class Kgon:
    """The samples of a run, with the order of the classes."""

    samples: Samples
    order: tuple[int, ...]  # places of the classes around the polygon
    named: tuple[int, ...]  # places of the classes that have colors and labels, ascending

    @classmethod
    def of(cls, samples: Samples) -> Self:
        """Order the classes once, by the last layer of the last epoch that has a picture."""
        header = samples.header
        order = header.order or tuple(class_order(cls._last_means(samples)))
        return cls(samples, order, tuple(named_classes(header.counts)))

    @staticmethod
    def _last_means(samples: Samples) -> Array:
        for found in reversed(samples.epochs.values()):
            for rank, means in zip(found.ranks[::-1], found.means[::-1], strict=True):
                if rank:
                    return means.astype(float)
        return np.zeros((len(samples.header.classes), 1))

    @property
    def epochs(self) -> tuple[int, ...]:
        """The measured epochs whose dots are of the same classes as those of the last one: a dot keeps its color."""
        *_, last = self.samples.epochs.values()
        return tuple(e for e, found in self.samples.epochs.items() if np.array_equal(found.labels, last.labels))

    @property
    def layers(self) -> tuple[str, ...]:
        """The layers that are drawn, side by side."""
        return self.samples.header.layers

    def positions(self, epoch: int) -> Positions:
        """Place everything of an epoch."""
        found, named = self.samples.epochs[epoch], list(self.named)
        means, corners, spokes = (self._placed(part)[:, named] for part in (found.means, found.corners, found.spokes))
        return Positions(found.labels, self._placed(found.points), means, corners, spokes)

    def _placed(self, values: Array) -> Array:
        """Return the sum of the corners times the numbers of each class, which a file of many classes holds already."""
        values = values.astype(float)
        return values if self.samples.header.order else values @ corners_of(self.order)

    def pictures(self, epoch: int) -> list[Picture]:
        """Draw every layer of an epoch, each as far as its samples reach."""
        at = self.positions(epoch)
        return [self._picture(at, layer, epoch) for layer in range(len(self.layers))]

    def _picture(self, at: Positions, layer: int, epoch: int) -> Picture:
        rank, full = int(self.samples.epochs[epoch].ranks[layer]), len(self.order) - 1
        if rank == 0:
            empty = np.zeros((0, 2))
            return Picture(empty, np.zeros(0, dtype=bool), empty, empty, empty, self._usual_reach, "all class means coincide")
        sizes = _sizes(at, layer)
        reach = max(self._usual_reach, min(float(sizes.max()), _BEYOND * float(np.quantile(sizes, _SHARE))) * _MARGIN)
        points = at.points[layer] / reach
        is_beyond = np.abs(points).max(axis=1) > 1
        if full == 1:
            height = 0.05 + _HEIGHT * ((np.arange(len(points)) * _GOLDEN) % 1)
            points = points + np.stack([0 * height, np.where(at.labels == 0, height, -height)], axis=1)
        spokes = at.spokes[0] if layer == self.samples.header.classifier else np.zeros((0, 2))
        notes = {
            f"class means span {rank} of {full} dimensions": rank < full,
            f"{_ZOOMED} {number(reach / self._usual_reach, 2)} times": reach > 1.05 * self._usual_reach,
            f"{counted(int(is_beyond.sum()), 'sample')} {_EDGE}": bool(is_beyond.any()),
        }
        return Picture(
            points=np.clip(points, -1, 1),
            is_beyond=is_beyond,
            means=np.clip(at.means[layer] / reach, -1, 1),
            corners=at.corners[layer] / reach,
            # A classifier whose rows are equal, as one that starts at zero, has spokes of length 0.
            spokes=_shortened(np.nan_to_num(spokes) / reach),
            reach=reach,
            note="; ".join(words for words, holds in notes.items() if holds),
        )

    @cached_property
    def _usual_reach(self) -> float:
        every = [_sizes(at, layer) for at in map(self.positions, self.epochs) for layer in range(len(self.layers))]
        known = np.concatenate([sizes[np.isfinite(sizes)] for sizes in every])
        return float(np.clip(np.quantile(known, _SHARE) * _MARGIN, _LEAST_REACH, _MOST_REACH)) if len(known) else _LEAST_REACH

    def color(self, place: int) -> int | None:
        """Return which of the named classes this is; None for the others."""
        return self.named.index(place) if place in self.named else None

    def name(self, place: int) -> str:
        """Return the name of a class, or its number."""
        header = self.samples.header
        return header.names[place] if header.names else str(header.classes[place])

    def label(self, place: int) -> str:
        """Return what stands at the corner of a class: a short name, or its number."""
        name = self.name(place)
        return name if len(name) <= _MOST_LETTERS else str(self.samples.header.classes[place])

    def notes(self, shown: Sequence[int], unit: str, measured: Sequence[int]) -> list[str]:
        """Say what a reader must know of the pictures of these epochs, where anything departs from the general case."""
        header, last, full = self.samples.header, self.samples.epochs[self.epochs[-1]], len(self.order) - 1
        absent = listed([str(label) for label in header.absent])
        total = len(self.samples.epochs)
        missing = [epoch for epoch in measured if epoch not in self.samples.epochs]
        has_ended = bool(missing) and self.samples.is_full and missing[0] > max(self.samples.epochs)
        told = ";".join(picture.note for epoch in shown for picture in self.pictures(epoch))
        found = {
            "Two classes lie on a line: only the horizontal place counts, heights have no meaning.": full == 1,
            f"The {len(self.named)} largest of {len(self.order)} classes have colors and labels and are spread evenly around "
            f"the circle, the others are gray. The order is that of the first measured {unit}.": len(self.order) > MOST_NAMED,
            f"Where the class means span fewer than {full} dimensions, no simplex fits: the frame is the nearest of that rank, "
            "and the corners are drawn at their images.": bool(np.any((last.ranks > 0) & (last.ranks < full))),
            f"Left out, because they have no samples: {absent}. With classes='present' the samples of the others are shown "
            "too.": bool(absent),
            "Class means only: no metric was measured that needs the samples again.": not absent and not len(last.labels),
            f"The loader yields other samples, or another order, each time: a dot is another sample at each {unit}.":
                self._is_shuffled(),
            f"{len(shown)} of {total} measured {unit}s are shown.": len(shown) < total,
            f"The pictures end at {unit} {max(self.samples.epochs)} of {max(measured, default=0)}: samples are kept of the "
            f"first {FULL_EPOCHS:,} measured {unit}s, up to {FULL_BYTES >> 20} MiB.": has_ended,
            f"{counted(len(missing), unit)} of {len(measured)} have no picture, because no samples were kept.":
                bool(missing) and not has_ended,
            f"The loader yielded another number of samples at other {unit}s, which are left out.": len(self.epochs) < total,
            "Where the samples of a layer spread far beyond the polygon, as before collapse, its picture is zoomed out until "
            "they fit, and the polygon is small.": _ZOOMED in told,
            "Samples that lie still farther away are small rings at the edge.": _EDGE in told,
        }  # fmt: skip
        return [words for words, holds in found.items() if holds]

    def _is_shuffled(self) -> bool:
        first, *others = self.samples.epochs.values()
        return any(not np.array_equal(first.indices, other.indices) for other in others)


def _sizes(at: Positions, layer: int) -> Array:
    """Return how far samples and named means lie from the center, along the wider axis."""
    return np.abs(np.concatenate([at.points[layer], at.means[layer]])).max(axis=1)


def outside(corners: Array) -> Array:
    """Return the places of labels, further out than their corners, never close to the center, and apart from each other."""
    length = np.maximum(np.linalg.norm(corners, axis=1, keepdims=True), 1e-9)
    return _apart(corners * np.maximum(1 + _LABEL_DISTANCE / length, _LEAST_LABEL / length))


def _apart(places: Array) -> Array:
    """Push labels that would lie on each other apart; corners meet where class means span few dimensions."""
    turn = np.arange(len(places))
    # Places that coincide have no direction to part in.
    places = places + 1e-6 * np.stack([np.cos(turn), np.sin(turn)], axis=1)
    for _ in range(_MOST_PUSHES):
        steps = places[:, None] - places[None]
        length = np.linalg.norm(steps, axis=2)
        lack = np.maximum(_LABEL_GAP - length, 0) * (1 - np.eye(len(places)))
        if not lack.any():
            break
        places = places + 0.5 * (steps * (lack / np.maximum(length, 1e-9))[..., None]).sum(axis=1)
    return places


def _shortened(lines: Array) -> Array:
    """Cut lines from the center where they leave the picture: clipping their coordinates would turn them."""
    return lines / np.maximum(np.abs(lines).max(axis=1, keepdims=True, initial=0), 1)


def thinned(samples: Samples, most_dots: int) -> Samples:
    """Leave out samples, evenly, so that at most so many dots are drawn in one epoch."""
    num_dots = max(found.points.shape[0] * found.points.shape[1] for found in samples.epochs.values())
    stride = -(-num_dots // most_dots)

    def thin(found: EpochSamples) -> EpochSamples:
        labels, indices, paths = found.labels[::stride], found.indices[::stride], found.paths[::stride]
        return replace(found, labels=labels, indices=indices, paths=paths, points=found.points[:, ::stride])

    return replace(samples, epochs={epoch: thin(found) for epoch, found in samples.epochs.items()})
