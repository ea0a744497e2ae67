"""Draw on axes: lines over the layers, the values of the last layer, and loss and accuracy of a training."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from ncollapse.drawing import style
from ncollapse.drawing.panels import LAST_LAYER, fit_epochs
from ncollapse.drawing.wording import number
from ncollapse.records.reading import Run


def draw_lines(
    axes: Axes, lines: Mapping[str | int, Sequence[float]], colors: Mapping[str | int, str], num_layers: int
) -> None:
    """Draw lines over the layers; one with fewer values ends at the last layer."""
    known = [value for line in lines.values() for value in line if math.isfinite(value)]
    style.prepare(axes)
    if not known:
        axes.text(0.5, 0.5, "undefined everywhere", transform=axes.transAxes, ha="center", va="center", color=style.SOFT)
        axes.set(xticks=[], yticks=[])
        return
    (style.fit_log if min(known) > 0 and max(known) >= 2 * min(known) else style.fit_linear)(axes, known)
    for name, line in lines.items():
        depths = range(num_layers - len(line), num_layers)
        axes.plot(depths, line, color=colors[name], linewidth=1.5, marker="o", markersize=3.5)
    style.count_layers(axes, num_layers)


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


Reported = Literal["loss", "accuracy"]
REPORTED: tuple[Reported, ...] = get_args(Reported)


def training_curves(run: Run, name: Reported) -> dict[str, dict[int, float]]:
    """Return what a training reported, and the accuracies that were measured on test data, by epoch."""
    reported: dict[int, Any] = {record.epoch: getattr(record, name) for record in run.history}
    measured = {
        int(r.epoch or 0): r.value for r in run.rows if name == "accuracy" and (r.metric, r.split) == ("accuracy", "test")
    }
    finite = {
        key: {epoch: value for epoch, value in sorted(curve.items()) if value is not None and math.isfinite(value)}
        for key, curve in (("training", reported), ("test", measured))
    }
    return {key: curve for key, curve in finite.items() if curve}


def draw_training(axes: Axes, run: Run, name: Reported) -> None:
    """Draw the loss, or the accuracies, of a training over its epochs."""
    curves = training_curves(run, name)
    values = [value for curve in curves.values() for value in curve.values()]
    epochs = sorted({epoch for curve in curves.values() for epoch in curve})
    style.prepare(axes)
    (style.fit_log if min(values) > 0 and max(values) >= 2 * min(values) else style.fit_linear)(axes, values)
    for key, curve in curves.items():
        color, dashes = (style.LINE, "--") if key == "test" else (style.INK, "-")
        axes.plot([*curve], [*curve.values()], dashes, color=color, linewidth=1.5, clip_on=False, label=key)
    fit_epochs(axes, run, epochs)
    if "test" in curves:
        axes.legend(loc="lower right", fontsize=8, frameon=False)
