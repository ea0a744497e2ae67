"""The K-gon: all classes of every layer on one plane, as positions, colors and notes that each kind of picture draws."""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple, Self

import numpy as np

from ncollapse.drawing.wording import listed
from ncollapse.polygon import MOST_NAMED, class_order, corners_of, named_classes
from ncollapse.records.samples import EpochSamples, Samples

Array = np.ndarray[Any, Any]

# Half the side of a picture, in radii of the polygon: as far as nearly all dots reach, within these limits. Of many classes
# the largest spread of the means is several times the frame's scale, and the polygon holds few labels.
_LEAST_REACH, _MOST_REACH, _MOST_REACH_OF_MANY, _SHARE = 1.3, 1.8, 4.0, 0.95
# Longer names stand beside the picture, and their numbers at the corners.
_MOST_LETTERS = 3
# Of two classes, which lie on a line, the dots are spread over this height, by a sequence that fills it evenly.
_HEIGHT, _GOLDEN = 0.5, 0.618034

# Ten colors that people with any kind of color vision tell apart (Paul Tol's "muted", and the ink), on light and dark paper.
# Eleven to twenty classes have rings of the same colors.
COLORS = ("#332288", "#cc6677", "#117733", "#88ccee", "#999933", "#882255", "#44aa99", "#ddaa33", "#aa4499", "#1f2430")
DARK_COLORS = ("#8f83f0", "#e08593", "#45b36b", "#88ccee", "#b9b95a", "#c9608f", "#5cc9b7", "#ecc765", "#d07cc2", "#e8eaef")


class Positions(NamedTuple):
    """One epoch in the plane: samples (L, n, 2), class means, corners and spokes (L or 1, named classes, 2)."""

    labels: Array
    points: Array
    means: Array
    corners: Array
    spokes: Array


@dataclass(frozen=True)
class Kgon:
    """The samples of a run, with the order of the classes.

    Attributes:
        samples: What is drawn.
        order: Places of the classes around the polygon.
        named: Places of the classes that have colors and labels, ascending.
    """

    samples: Samples
    order: tuple[int, ...]
    named: tuple[int, ...]

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
        """Place everything of an epoch; two classes lie on a line, and their dots above and below it."""
        found = self.samples.epochs[epoch]
        named = list(self.named)
        points = self._placed(found.points)
        if len(self.order) == 2:
            spread = 0.06 + _HEIGHT * ((np.arange(len(found.labels)) * _GOLDEN) % 1)
            points = points + np.stack([0 * spread, np.where(found.labels == 0, spread, -spread)], axis=1)
        means, corners, spokes = (self._placed(part)[:, named] for part in (found.means, found.corners, found.spokes))
        return Positions(found.labels, points, means, corners, spokes)

    def _placed(self, values: Array) -> Array:
        """Return the sum of the corners times the numbers of each class, which a file of many classes holds already."""
        values = values.astype(float)
        return values if self.samples.header.order else values @ corners_of(self.order)

    @cached_property
    def reach(self) -> float:
        """Half the side of every picture of this run, so that what moves is the network and not the frame."""
        sizes = [np.abs(self.positions(epoch).points).max(axis=2).ravel() for epoch in self.epochs]
        known = np.concatenate([size[np.isfinite(size)] for size in sizes])
        most = _MOST_REACH_OF_MANY if len(self.order) > MOST_NAMED else _MOST_REACH
        return float(np.clip(np.quantile(known, _SHARE) * 1.04, _LEAST_REACH, most)) if len(known) else _LEAST_REACH

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

    def rank_note(self, layer: int, epoch: int) -> str:
        """Say what is special about one layer; nothing in general."""
        rank, full = int(self.samples.epochs[epoch].ranks[layer]), len(self.order) - 1
        if rank == 0:
            return "all class means coincide"
        return "" if rank == full else f"class means span {rank} of {full} dimensions"

    def notes(self, num_shown: int | None = None, unit: str = "epoch") -> list[str]:
        """Say what a reader must know of this picture, where anything departs from the general case."""
        header, last, full = self.samples.header, self.samples.epochs[self.epochs[-1]], len(self.order) - 1
        absent = listed([str(label) for label in header.absent])
        num_shown = len(self.epochs) if num_shown is None else num_shown
        total = len(self.samples.epochs)
        found = {
            "Two classes lie on a line: only the horizontal place counts, heights have no meaning.": full == 1,
            f"The {len(self.named)} largest of {len(self.order)} classes have colors and labels, the others are gray. The "
            f"order around the circle is that of the first measured {unit}.": len(self.order) > MOST_NAMED,
            f"Where the class means span fewer than {full} dimensions, no simplex fits: the frame is the nearest of that rank, "
            "and the corners are drawn at their images.": bool(np.any((last.ranks > 0) & (last.ranks < full))),
            f"Left out, because they have no samples: {absent}. With classes='present' the samples of the others are shown "
            "too.": bool(absent),
            "Class means only: no metric was measured that needs the samples again.": not absent and not len(last.labels),
            f"The loader yields other samples, or another order, each time: a dot is another sample at each {unit}.":
                self._is_shuffled(),
            f"{num_shown} of {total} measured {unit}s are shown.": num_shown < total,
            f"The loader yielded another number of samples at other {unit}s, which are left out.": len(self.epochs) < total,
            "Dots beyond the picture are drawn at its edge.": self._has_dots_outside(),
        }  # fmt: skip
        return [words for words, holds in found.items() if holds]

    def _is_shuffled(self) -> bool:
        first, *others = self.samples.epochs.values()
        return any(not np.array_equal(first.indices, other.indices) for other in others)

    def _has_dots_outside(self) -> bool:
        return any(bool(np.any(np.abs(self.positions(epoch).points) > self.reach)) for epoch in self.epochs)


def thinned(samples: Samples, most_dots: int) -> Samples:
    """Leave out samples, evenly, so that at most so many dots are drawn in one epoch."""
    num_dots = max(found.points.shape[0] * found.points.shape[1] for found in samples.epochs.values())
    stride = -(-num_dots // most_dots)

    def thin(found: EpochSamples) -> EpochSamples:
        labels, indices, paths = found.labels[::stride], found.indices[::stride], found.paths[::stride]
        return replace(found, labels=labels, indices=indices, paths=paths, points=found.points[:, ::stride])

    return replace(samples, epochs={epoch: thin(found) for epoch, found in samples.epochs.items()})
