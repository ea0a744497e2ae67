"""Draw the values of the last layer at one epoch on one axis."""

from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from ncollapse.drawing import style
from ncollapse.drawing.panels import LAST_LAYER
from ncollapse.drawing.wording import number
from ncollapse.records.reading import Run


def draw_last_values(axes: Axes, run: Run) -> None:
    """Draw NC1 to NC4 of the last layer at the last epoch as dots on one axis, with their values; 0 at its left end."""
    last = len(run.measured_layers) - 1
    values = {
        f"{panel.key.upper()} {series.label}".rstrip(): run.value(series.metric, last)
        for panel in LAST_LAYER
        for series in panel.series
    }
    style.prepare(axes)
    positive = [value for value in values.values() if value is not None and value > 0] or [1.0]
    low, high = min(positive) / 2, max(positive) * 2
    axes.set_xscale("log")
    axes.set_xlim(low, high)
    axes.xaxis.set_major_locator(FixedLocator(style.log_ticks(low, high)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: number(value, 6)))
    axes.set_yticks(range(len(values)), list(values))
    axes.set_ylim(len(values) - 0.5, -0.8)
    axes.set_xlabel("all go to 0 at collapse")
    for place, value in enumerate(values.values()):
        if value is None:
            axes.annotate("undefined", (low, place), (8, -3), textcoords="offset points", fontsize=8, color=style.SOFT)
            continue
        x = max(value, low)
        axes.plot([x], [place], "o", color=style.LINE, markersize=6, clip_on=False, zorder=3)
        axes.annotate(number(value), (x, place), (0, 6), textcoords="offset points", fontsize=8, ha="center")
