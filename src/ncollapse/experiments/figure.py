"""The figure of an experiment: panels with lines of means over the seeds, each with the range of the seeds around it."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, NullLocator

from ncollapse.drawing import style
from ncollapse.drawing.wording import number
from ncollapse.experiments.experiment import Panel, SeedFile

_COLORS = (style.LINE, style.BASELINE, style.THIRD, "#cc79a7", "#e69f00", "#56b4e9", style.INK)
_MARKS = "os^Dv<>"
_MOST_TICKS = 7

# Of a line: what x is, and the values of the seeds there.
Line = dict[float | str, list[float]]


def lines_of(seeds: Sequence[SeedFile], panel: Panel) -> dict[str, Line]:
    """Gather the points of a panel: by line and x, the values of the seeds that have one."""
    found: dict[str, Line] = {}
    for seed in seeds:
        for point in seed.points:
            if point.panel == panel.title and point.y is not None:
                found.setdefault(point.line, {}).setdefault(point.x, []).append(point.y)
    return found


def draw_panel(axes: Axes, seeds: Sequence[SeedFile], panel: Panel) -> None:
    """Draw one panel; its y axis is logarithmic where all values are positive and span a factor of two."""
    style.prepare(axes)
    lines = lines_of(seeds, panel)
    values = [value for line in lines.values() for at in line.values() for value in at]
    axes.set_xlabel(panel.x, parse_math=False)
    if not values:
        axes.text(0.5, 0.5, "nothing to draw", transform=axes.transAxes, ha="center", va="center", color=style.SOFT)
        axes.set(xticks=[], yticks=[])
        return
    (style.fit_log if min(values) > 0 and max(values) >= 2 * min(values) else style.fit_linear)(axes, values)
    places = _lay(axes, panel, lines)
    for index, (name, line) in enumerate(lines.items()):
        color, mark = colors_of(len(lines))[index], _MARKS[index % len(_MARKS)]
        at = sorted((places[x], ys) for x, ys in line.items())
        xs, low, high = [x for x, _ in at], [min(ys) for _, ys in at], [max(ys) for _, ys in at]
        # Words have no order that a line could mean.
        has_words = any(isinstance(x, str) for x in line)
        means = [statistics.fmean(ys) for _, ys in at]
        axes.plot(xs, means, f"{mark}{'' if has_words else '-'}", color=color, linewidth=1.3, markersize=4, label=name)
        if has_words:
            axes.vlines(xs, low, high, color=color, linewidth=1.3)
        else:
            axes.fill_between(xs, low, high, color=color, alpha=0.18, linewidth=0)


def colors_of(num_lines: int) -> Sequence[str]:
    """Colors of the lines of a panel: seven that are told apart by everybody, or shades for more."""
    return _COLORS if num_lines <= len(_COLORS) else style.depth_colors(num_lines)


def _lay(axes: Axes, panel: Panel, lines: dict[str, Line]) -> dict[float | str, float]:
    """Set the x axis, and return where every x lies on it: numbers at themselves, words one after the other."""
    all_x = list(dict.fromkeys(x for line in lines.values() for x in line))
    if all(not isinstance(x, str) for x in all_x):
        numbers = sorted(float(x) for x in all_x)
        if panel.log_x and numbers[-1] > 0:
            ticks = numbers[:: -(-len(numbers) // _MOST_TICKS)]
            axes.set_xscale("log" if numbers[0] > 0 else "symlog")
            axes.xaxis.set_major_locator(FixedLocator(ticks))
            axes.xaxis.set_minor_locator(NullLocator())
            axes.set_xticklabels([number(x) for x in ticks])
        return {x: float(x) for x in all_x}
    axes.set_xticks(range(len(all_x)), [style.short(str(x), 16) for x in all_x], parse_math=False)
    axes.set_xlim(-0.5, len(all_x) - 0.5)
    return {x: float(place) for place, x in enumerate(all_x)}
