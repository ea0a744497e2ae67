"""Draw one panel on one Axes: a metric over epochs, over depth, or of the last layer."""

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from matplotlib.axes import Axes
from matplotlib.patheffects import withStroke
from matplotlib.ticker import NullLocator

from ncollapse.drawing import style
from ncollapse.drawing.wording import MISSING_DEPTH, POSITIONS, number
from ncollapse.records.errors import ReportError
from ncollapse.records.reading import Run
from ncollapse.records.theorems import Numbers

# Dots show where was measured; more of them than this run together and only thicken the line.
_MOST_MARKED_EPOCHS = 20
# The label of what noise alone gives.
NOISE = "noise alone"


@dataclass(frozen=True)
class Series:
    """One line of a panel of the last layer: a metric, its direct label, color and dash pattern, and what it means."""

    metric: str
    label: str = ""
    color: str = style.INK
    dashes: Literal["-", "--", "-."] = "-"
    meaning: str = ""


@dataclass(frozen=True)
class MetricPanel:
    """What one panel shows."""

    key: str
    title: str
    label: str
    log: bool
    series: tuple[Series, ...] = ()


PROGRESSIVE = (
    MetricPanel(
        "pfc1", r"PFC1   $\mathrm{tr}\,\Sigma_W\,/\,\mathrm{tr}\,\Sigma_B$", "within / between-class variance", log=True
    ),
    MetricPanel("pfc2", r"PFC2   $\Vert G/\Vert G\Vert_F-E_K\Vert_F$", "distance of class means to an ETF", log=True),
    MetricPanel("pfc3", "PFC3", "accuracy of the nearest class center", log=False),
)
LAST_LAYER = (
    MetricPanel(
        "nc1", r"NC1   $\mathrm{tr}(\Sigma_W\Sigma_B^{+})/K$", "variability within classes", log=True, series=(Series("nc1"),)
    ),
    MetricPanel(
        "nc2",
        "NC2",
        "deviation of class means from an ETF",
        log=False,
        series=(
            Series("nc2_equinorm", "lengths", style.LINE, "-", "spread of the lengths of class means"),
            Series("nc2_equiangularity", "cosines", style.BASELINE, "--", "spread of the cosines of class means"),
            Series("nc2_max_angle", "to −1/(K−1)", style.THIRD, "-.", "mean distance of the cosines from −1/(K−1)"),
        ),
    ),
    MetricPanel(
        "nc3",
        r"NC3   $\Vert W^{\!\top}\!/\Vert W\Vert_F-\bar M/\Vert\bar M\Vert_F\Vert_F^2$",
        "classifier against class means",
        log=True,
        series=(Series("nc3"),),
    ),
    MetricPanel(
        "nc4",
        "NC4 mismatch",
        "share of decisions that differ",
        log=False,
        series=(Series("nc4_mismatch", "mismatch", meaning="share of decisions unlike the nearest center, 1 − nc4"),),
    ),
)


# Layers at equal distances, all of them: also those of other dimensions, and without paths.
BY_LAYER = "layer"


def panel_of(run: Run, metric: str) -> MetricPanel:
    """Return the panel of a metric over depth or epochs, on a log axis where the values are positive and far apart."""
    known = next((panel for panel in PROGRESSIVE if panel.key == metric), None)
    if known is not None:
        return known
    values = [v for depth in range(len(run.measured_layers)) for v in run.over_epochs(metric, depth) if v is not None]
    log = bool(values) and min(values) > 0 and max(values) >= 2 * min(values)
    return MetricPanel(metric, metric, textwrap.fill(run.glossary.metrics.get(metric, ""), 42), log)


def require_position(run: Run, position: str) -> None:
    """Check that the run knows a way to lay its layers on the line."""
    if position == BY_LAYER:
        return
    if not run.has_depth:
        raise ReportError(f"{run.path}: needed results over depth, found none. {MISSING_DEPTH}")
    if position not in run.last.positions:
        known = ", ".join(run.last.positions)
        raise ReportError(f"{run.path / 'depth.json'}: needed a position of {known}, got {position!r}. Choose one of these.")


def shown_over_epochs(run: Run, panel: MetricPanel) -> list[float | None]:
    """List what ``draw_over_epochs`` shows of every layer, for axes that several runs share."""
    return [value for depth in range(len(run.measured_layers)) for value in run.over_epochs(panel.key, depth)]


def shown_over_depth(run: Run, panel: MetricPanel) -> list[float | None]:
    """List what ``draw_over_depth`` shows, for axes that several runs share."""
    return [*run.over_depth(panel.key), *(value for _, values, *_ in _curves(run, panel) for value in values)]


def draw_over_epochs(axes: Axes, run: Run, panel: MetricPanel, shared: Sequence[float | None] = ()) -> None:
    """Draw a metric over the epochs: of every layer, or the panel's own series of the last layer."""
    colors = style.depth_colors(len(run.measured_layers))
    if panel.series:
        last = len(run.measured_layers) - 1
        lines = [(run.over_epochs(s.metric, last), s.label, s.color, s.dashes) for s in panel.series]
    else:
        lines = [(run.over_epochs(panel.key, depth), str(depth), color, "-") for depth, color in enumerate(colors)]
    style.prepare(axes)
    axes.set_ylabel(panel.label)
    if not _fit(axes, panel, [value for values, *_ in lines for value in values], shared):
        return
    marker = "o" if len(run.epochs) <= _MOST_MARKED_EPOCHS else ""
    for values, label, color, dashes in lines:
        axes.plot(run.epochs, _drawable(values, panel.log), dashes, color=color, linewidth=1.5, marker=marker, markersize=2.4,
                  clip_on=False, label=label or None)  # fmt: skip
    floors = [run.over_epochs(f"{panel.key}.noise", depth) for depth in range(len(colors))]
    _draw_floors(axes, run.epochs, floors, panel, colors=colors)
    fit_epochs(axes, run, run.epochs)
    if not panel.series:
        ends = [(value, depth) for depth, (values, *_) in enumerate(lines) if (value := values[-1]) is not None]
        _label_ends(axes, [item for item in ends if not panel.log or item[0] > 0])


def draw_over_depth(axes: Axes, run: Run, panel: MetricPanel, position: str, shared: Sequence[float | None] = ()) -> None:
    """Draw a metric over depth at the last epoch: the layers, the straight line between the ends, and the baseline."""
    require_position(run, position)
    curves = _curves(run, panel)
    depths = range(len(run.measured_layers)) if position == BY_LAYER else run.depths
    layers = [run.value(panel.key, depth) for depth in depths]
    positions: Sequence[float | None] = depths if position == BY_LAYER else run.last.positions[position]
    style.prepare(axes)
    axes.set_ylabel(panel.label)
    axes.set_xlabel(POSITIONS.get(position, position))
    if not _fit(axes, panel, [*layers, *(value for _, values, *_ in curves for value in values)], shared):
        return
    for t, values, color, dashes in curves:
        axes.plot(_along_layers(run, t) if position == BY_LAYER else t, _drawable(values, panel.log), dashes, color=color,
                  linewidth=1.6)  # fmt: skip
    if position == BY_LAYER:
        axes.plot(depths, _drawable(layers, panel.log), color=style.SOFT, linewidth=0.8, zorder=2)
        style.count_layers(axes, len(depths))
    elif not curves:
        places = [t for t in positions if t is not None]
        axes.set_xlim(min([0.0, *places]) - 0.05, max([1.0, *places]) + 0.05)
    floor = [run.value(f"{panel.key}.noise", depth) for depth in depths]
    drawn = _drawable(layers, panel.log)
    _draw_floors(axes, [math.nan if t is None else t for t in positions], [floor], panel, drawn)
    _draw_layers(axes, run, depths, positions, drawn)


def _along_layers(run: Run, times: Sequence[float]) -> list[float]:
    """Return the depths at which times of the line are drawn: layers of the path at equal distances."""
    last = len(run.depths) - 1
    found = []
    for t in times:
        step = min(int(t * last), last - 1) if last else 0
        after = run.depths[min(step + 1, last)]
        found.append(run.depths[step] + (t * last - step) * (after - run.depths[step]))
    return found


def _draw_floors(
    axes: Axes,
    x: Sequence[float],
    floors: list[list[float | None]],
    panel: MetricPanel,
    layers: Sequence[float] = (),
    colors: Sequence[str] = (style.SOFT,),
) -> None:
    """Draw what noise alone gives, or say where it is if it is off the axis; runs of earlier versions do not have it."""
    low, high = axes.get_ylim()
    known = [value for values in floors for value in _drawable(values, panel.log) if not math.isnan(value)]
    if known and (min(known) > high or max(known) < low):
        up, place = min(known) > high, (0.94, 1.015, "right", "bottom")
        text = f"{NOISE}: {number(min(known), 2)} ↑" if up else f"{NOISE}: {number(max(known), 2)} ↓"
        if layers:
            # Over depth, numbers of layers may be above the frame: the note is in the corner from which the values lead away.
            right = (layers[-1] <= layers[0]) == up
            place = (0.97 if right else 0.03, 0.97 if up else 0.03, "right" if right else "left", "top" if up else "bottom")
        axes.text(*place[:2], text, transform=axes.transAxes, ha=place[2], va=place[3], fontsize=7.5, color=style.SOFT)
        return
    for values, color in zip(floors, colors, strict=True):
        if any(value is not None for value in values):
            shown = _drawable(values, panel.log)
            axes.plot(x, shown, ":", color=color, linewidth=1.2, zorder=1, scalex=False, scaley=False, label=NOISE)


def _curves(run: Run, panel: MetricPanel) -> list[tuple[Sequence[float], Numbers, str, str]]:
    """Return the baseline and the straight line at the last epoch, as times, values, color and dashes."""
    curves = [(run.last.baseline, style.BASELINE, "--"), (run.last.curve, style.LINE, "-")]
    return [
        (curve.t, values, color, dashes)
        for curve, color, dashes in curves
        if (values := {key: getattr(curve, key) for key in ("pfc1", "pfc2", "pfc3", "cdnv")}.get(panel.key))
    ]


def _draw_layers(
    axes: Axes, run: Run, depths: Sequence[int], positions: Sequence[float | None], values: Sequence[float]
) -> None:
    """Markers with the layer's depth beside them; a number that would lie on its neighbor is left out."""
    colors, occupied = style.depth_colors(len(run.measured_layers)), list[tuple[float, float]]()
    for depth, x, y in zip(depths, positions, values, strict=True):
        if x is None or math.isnan(y):
            continue
        axes.plot([x], [y], "o", color=colors[depth], markersize=6.5, markeredgecolor=style.INK, markeredgewidth=0.7,
                  clip_on=False, zorder=3)  # fmt: skip
        px, py = axes.transData.transform((x, y))
        if all(abs(px - qx) > (11 if depth < 10 else 26) or abs(py - qy) > 13 for qx, qy in occupied):
            occupied.append((px, py))
            axes.annotate(
                str(depth),
                (x, y),
                (5, 6),
                textcoords="offset points",
                fontsize=8,
                color=style.INK,
                annotation_clip=False,
                # The lines run below the numbers.
                path_effects=[withStroke(linewidth=2.5, foreground=style.PAPER)],
            )


def _fit(axes: Axes, panel: MetricPanel, values: list[float | None], shared: Sequence[float | None]) -> bool:
    """Set the y axis; where nothing can be drawn say why instead, and return False."""
    drawable, others = ([v for v in _drawable(found, panel.log) if not math.isnan(v)] for found in (values, shared))
    if drawable:
        (style.fit_log if panel.log else style.fit_linear)(axes, [*drawable, *others])
        return True
    known = any(value is not None for value in values)
    reason = "zero everywhere:\nnothing to draw on a log axis" if known else "undefined or not measured\nin this run"
    axes.text(0.5, 0.5, reason, transform=axes.transAxes, ha="center", va="center", color=style.SOFT)
    axes.set(xticks=[], yticks=[])
    return False


def _drawable(values: Sequence[float | None], log: bool) -> list[float]:
    """Replace missing values by nan, which matplotlib leaves out."""
    return [math.nan if value is None or (log and value <= 0) else value for value in values]


def fit_epochs(axes: Axes, run: Run, epochs: Sequence[int]) -> None:
    """Set an axis from the first epoch to the last, and mark the first measured one without training error."""
    first, last = epochs[0], epochs[-1]
    if first > 0:
        axes.set_xscale("log")
    else:
        # Epoch 0, before training, has its place on this axis.
        axes.set_xscale("symlog", linthresh=1, linscale=0.4)
    ticks = style.epoch_ticks(first, last)
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlim(first, max(last, first + 1))
    axes.set_xlabel(run.unit)
    if run.perfect_epoch is not None:
        axes.axvline(run.perfect_epoch, color=style.SOFT, linewidth=0.9, linestyle=":", zorder=1)


def _label_ends(axes: Axes, items: list[tuple[float, int]]) -> None:
    """Numbers at the ends of the lines; lines that end at one place share a label, as 1–5 or 2, 4."""
    groups: list[tuple[float, list[int]]] = []
    for height, depth in sorted((_height(axes, value), depth) for value, depth in items):
        if groups and height - groups[-1][0] < 0.065:
            groups[-1][1].append(depth)
        else:
            groups.append((height, [depth]))
    for height, numbers in groups:
        first, last = min(numbers), max(numbers)
        run = len(numbers) > 1 and last - first + 1 == len(numbers)
        text = f"{first}–{last}" if run else ", ".join(str(number) for number in sorted(numbers))
        axes.text(1.03, height, text, transform=axes.transAxes, va="center", fontsize=8, color=style.INK)


def _height(axes: Axes, value: float) -> float:
    """Return a value as a share of the panel's height."""
    return float(axes.transAxes.inverted().transform(axes.transData.transform((0.0, value)))[1])
