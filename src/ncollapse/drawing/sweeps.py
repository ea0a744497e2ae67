"""Draw a quantity against what is swept: every seed a dot, their mean and standard deviation a bar."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, NullLocator

from ncollapse.drawing import style
from ncollapse.drawing.wording import spelled
from ncollapse.records.sweep import Sweep

_MOST_TICKS = 7


class Axis(NamedTuple):
    """The swept settings laid on a line: numbers where one field with numbers is swept, else one place a setting."""

    label: str
    places: tuple[float, ...]
    ticks: tuple[str, ...]
    numeric: bool


class SettingRow(NamedTuple):
    """A quantity at one setting: the values of its seeds where defined, their mean and standard deviation (divisor n − 1)."""

    values: tuple[float, ...]
    mean: float
    deviation: float


def axis_of(sweep: Sweep) -> Axis:
    """Lay the settings of a sweep on an axis."""
    settings = [values for values, _ in sweep.by_setting()]
    places = tuple(float(place) for place in range(1, len(settings) + 1))
    if len(sweep.fields) != 1:
        return Axis("setting" if sweep.fields else "", places, tuple(f"{place:.0f}" for place in places), False)
    (name,), words = sweep.fields, tuple(value for (value,) in settings)
    numbers = tuple(_number(word) for word in words)
    if all(math.isfinite(number) for number in numbers):
        return Axis(name, numbers, words, True)
    return Axis(name, places, words, False)


def _number(word: str) -> float:
    try:
        return float(word)
    except ValueError:
        return math.nan


def draw_against(
    axes: Axes, axis: Axis, rows: Sequence[SettingRow], dashed: Sequence[SettingRow] = (), *, signed: bool = False
) -> None:
    """Draw one panel: seeds as dots, means as a line with bars of one standard deviation each way."""
    # A bar ends at 0 where the quantity cannot be below it.
    #
    # The y axis is logarithmic where all values are positive and span a factor of two or more (less has no room for round
    # numbers); so is the x axis where no setting is negative, with a place of its own for 0.
    style.prepare(axes)
    values = [value for row in rows for value in row.values]
    if not values:
        axes.text(0.5, 0.5, "undefined or not measured\nin these runs", transform=axes.transAxes, ha="center", va="center",
                  color=style.SOFT)  # fmt: skip
        axes.set(xticks=[], yticks=[])
        return
    bars, lines = _known(axis, rows), _known(axis, dashed)
    values += [row.mean for _, row in lines]
    log = min(values) > 0 and max(values) >= 2 * min(values)
    least = -math.inf if signed else min(0.0, *values)
    ends = [(x, max(row.mean - row.deviation, least), row.mean + row.deviation) for x, row in bars if row.deviation >= 0]
    (style.fit_log if log else style.fit_linear)(axes, [*values, *(end for _, *pair in ends for end in pair)])
    _lay_settings(axes, axis)
    for x, row in bars:
        axes.plot(
            [x] * len(row.values), row.values, "o", color=style.SOFT, markersize=3, markeredgewidth=0, zorder=3, clip_on=False
        )
    for x, low, high in ends:
        # Below 0 a log axis has no place: the bar then leaves the panel.
        axes.plot([x, x], [low if low > 0 or not log else axes.get_ylim()[0], high], color=style.LINE, linewidth=1.6)
    line = "-" if axis.numeric else ""
    axes.plot(
        [x for x, _ in bars],
        [row.mean for _, row in bars],
        f"o{line}",
        color=style.LINE,
        linewidth=1.2,
        markersize=5,
        clip_on=False,
    )
    axes.plot([x for x, _ in lines], [row.mean for _, row in lines], "--", color=style.BASELINE, linewidth=1.2)


def _known(axis: Axis, rows: Sequence[SettingRow]) -> list[tuple[float, SettingRow]]:
    """List the settings where a quantity has values, from left to right."""
    return [(x, row) for x, row in sorted(zip(axis.places, rows, strict=False), key=lambda item: item[0]) if row.values]


def _lay_settings(axes: Axes, axis: Axis) -> None:
    """Set the x axis: logarithmic from 0 or more, linear for numbers below it, one place per setting for words."""
    positive = [x for x in axis.places if x > 0]
    if axis.numeric and min(axis.places) >= 0 and positive:
        if len(positive) == len(axis.places):
            axes.set_xscale("log")
        else:
            axes.set_xscale("symlog", linthresh=min(positive), linscale=0.4)
    if not axis.numeric:
        axes.set_xlim(0.5, len(axis.places) + 0.5)
    stride = -(-len(axis.places) // _MOST_TICKS)
    axes.xaxis.set_major_locator(FixedLocator(axis.places[::stride]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticklabels([style.short(spelled(tick), 12) for tick in axis.ticks[::stride]], parse_math=False)
    axes.set_xlabel(axis.label, parse_math=False)
