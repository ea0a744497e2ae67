"""Paths of samples through the layers, each in the plane of its chord and its largest deviation from it."""

import numpy as np

from ncollapse.drawing.kgon import COLORS, Kgon
from ncollapse.records.samples import Samples

# Samples of a class, and in all: more lines hide each other.
_MOST_OF_A_CLASS, _MOST = 4, 60
_WIDTH, _MARGIN, _LEAST_HEIGHT = 640, 26, 0.12
# Paths far from straight are drawn smaller, so that the picture fits on a screen.
_MOST_HEIGHT, _LEAST_CHORD = 360, 140


def sample_paths_svg(samples: Samples) -> str:
    """Draw the paths at the last epoch, in chords: all begin at 0 and end at 1; empty if none were followed past a layer."""
    kgon = Kgon.of(samples)
    found = samples.epochs[kgon.epochs[-1]]
    rows = _rows(found.labels.tolist(), kgon)
    rows = [row for row in rows if np.isfinite(found.paths[row]).all() and found.paths.shape[1] > 2]
    if not rows:
        return ""
    paths = found.paths[rows].astype(float)
    left, right = min(0.0, paths[..., 0].min()), max(1.0, paths[..., 0].max())
    low, high = min(0.0, paths[..., 1].min()), max(_LEAST_HEIGHT, paths[..., 1].max())
    # One unit for both directions, so that angles are true.
    unit = min((_WIDTH - 2 * _MARGIN) / (right - left), _MOST_HEIGHT / (high - low))
    height, first = (high - low) * unit + 2 * _MARGIN, (_WIDTH - (left + right) * unit) / 2

    def place(x: float, y: float) -> str:
        return f"{first + x * unit:.1f} {height - _MARGIN - (y - low) * unit:.1f}"

    drawn = []
    for row, path in zip(rows, paths, strict=True):
        color = kgon.color(int(found.labels[row]))
        mark = "others" if color is None else f"c{color % len(COLORS)}"
        points = [place(x, y) for x, y in path]
        dots = "".join(f'<circle r="1.7" cx="{p.split()[0]}" cy="{p.split()[1]}"/>' for p in points[1:-1])
        drawn.append(f'<g class="{mark}"><path d="M{"L".join(points)}"/>{dots}</g>')
    chord = f'<path class="straight" d="M{place(0, 0)}L{place(1, 0)}"/>'
    # Below a short chord the words are outside its ends.
    inner = ("start", "end") if unit > _LEAST_CHORD else ("end", "start")
    ends = "".join(
        f'<text x="{first + x * unit:.0f}" y="{height - 6:.0f}" text-anchor="{anchor}">{words} layer</text>'
        for x, anchor, words in zip((0, 1), inner, ("first", "last"), strict=True)
    )
    words = "Paths of samples, in the plane of the chord and the largest deviation from it"
    inside = f"{''.join(drawn)}{chord}{ends}"
    return f'<svg class="paths" viewBox="0 0 {_WIDTH} {height:.0f}" role="img" aria-label="{words}">{inside}</svg>'


def _rows(labels: list[int], kgon: Kgon) -> list[int]:
    """Choose the first samples of each named class."""
    share = min(_MOST_OF_A_CLASS, max(1, _MOST // max(1, len(kgon.named))))
    taken: dict[int, list[int]] = {place: [] for place in kgon.named}
    for row, label in enumerate(labels):
        if label in taken and len(taken[label]) < share:
            taken[label].append(row)
    return sorted(row for rows in taken.values() for row in rows)
