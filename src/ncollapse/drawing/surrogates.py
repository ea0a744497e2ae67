"""Figures of surrogate models, from plain numbers: panels of curves with what theory says dashed, and Gram matrices."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.ticker import MaxNLocator

from ncollapse.drawing import style

Curve = tuple[Sequence[float], Sequence[float]]
Curves = Mapping[str, Curve]
# Positions, with the lower and the upper end of a range at each.
Band = tuple[Sequence[float], Sequence[float], Sequence[float]]
_WIDTH, _HEIGHT, _IN_A_ROW = 4.2, 3.1, 3


@dataclass(frozen=True)
class LinePanel:
    """Curves by name, x and y of each; a name that is empty or begins with an underscore has no entry in the legend."""

    # A band shows the range around the curve of the same name.

    title: str
    x_label: str
    curves: Curves
    theory: Curves = field(default_factory=dict)
    marks: Mapping[str, float] = field(default_factory=dict)
    log: str = ""
    bands: Mapping[str, Band] = field(default_factory=dict)


@dataclass(frozen=True)
class GramPanel:
    """Inner products as a heat map."""

    title: str
    gram: Sequence[Sequence[float]]


def plot_panels(title: str, panels: Sequence[LinePanel | GramPanel]) -> Figure:
    """Draw panels, three in a row, under a title; names that a panel before has explained are not explained again."""
    columns = min(len(panels), _IN_A_ROW)
    rows = -(-len(panels) // columns)
    with style.house_style():
        figure = Figure(figsize=(_WIDTH * columns, _HEIGHT * rows + 0.3), layout="constrained", facecolor="white")
        places = figure.subplots(rows, columns, squeeze=False).flatten()
        explained: set[str] = set()
        for axes, panel in zip(places, panels, strict=False):
            axes.set_title(panel.title, fontsize=9.5, loc="left", color=style.INK)
            if isinstance(panel, LinePanel):
                _draw_lines(axes, panel)
                names = {name for name in axes.get_legend_handles_labels()[1] if not name.startswith("_")}
                if names - explained:
                    axes.legend(frameon=False, fontsize=8)
                explained |= names
            else:
                figure.colorbar(_draw_gram(axes, panel), ax=axes, shrink=0.85)
        for axes in places[len(panels) :]:
            axes.set_axis_off()
        wrapped = textwrap.fill(title, int(14 * _WIDTH * columns))
        figure.suptitle(wrapped, x=0.01, ha="left", fontsize=8.5, color=style.SOFT).set_parse_math(False)
    return figure


def _draw_lines(axes: Axes, panel: LinePanel) -> None:
    style.prepare(axes)
    for letter in panel.log:
        getattr(axes, f"set_{letter}scale")("log")
    if all(isinstance(value, int) for x, _ in panel.curves.values() for value in x):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    colors = style.depth_colors(len(panel.curves)) if len(panel.curves) > 1 else [style.LINE]
    for color, (name, (x, y)) in zip(colors, panel.curves.items(), strict=True):
        axes.plot(x, y, color=color, linewidth=1.6, label=name, marker="o" if len(x) < 50 else "", markersize=3)
        if name in panel.bands:
            axes.fill_between(*panel.bands[name], color=color, alpha=0.2, linewidth=0)
    looks = [(style.BASELINE, "--"), (style.THIRD, ":")]
    for number, (name, (x, y)) in enumerate(panel.theory.items()):
        color, dashes = looks[0 if name.startswith("_") else number % len(looks)]
        axes.plot(x, y, color=color, linewidth=1.2, linestyle=dashes, label=name)
    for name, place in panel.marks.items():
        axes.axvline(place, color=style.SOFT, linewidth=0.9, linestyle=":", label=name)
    axes.set_xlabel(panel.x_label)


def _draw_gram(axes: Axes, panel: GramPanel) -> AxesImage:
    largest = max(abs(value) for row in panel.gram for value in row) or 1.0
    image = axes.imshow(panel.gram, cmap="RdBu", vmin=-largest, vmax=largest)
    axes.set_xlabel("class")
    axes.set_ylabel("class")
    size = len(panel.gram)
    axes.set_xticks(range(size) if size <= 12 else range(0, size, -(-size // 8)))
    axes.set_yticks(axes.get_xticks())
    return image
