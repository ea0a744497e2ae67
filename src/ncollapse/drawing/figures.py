"""The figures of a run: collapse of every layer over epochs, over depth with the straight line, and of the last layer."""

import io
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ncollapse.drawing import style
from ncollapse.drawing.axes import draw_last_values, draw_lines
from ncollapse.drawing.panels import (
    BY_LAYER,
    LAST_LAYER,
    NOISE,
    PROGRESSIVE,
    MetricPanel,
    draw_over_depth,
    draw_over_epochs,
    panel_of,
    require_position,
)
from ncollapse.records.file_names import FIGURES
from ncollapse.records.files import make_own_folder, write_whole
from ncollapse.records.reading import Run

_MOST_LEGEND_ENTRIES = 12
PFC = ("pfc1", "pfc2", "pfc3")
# Inches, with the legend, by the number of panels.
_WIDTHS = {1: 5.4, 2: 7.8, 3: 10.6, 4: 12.4}


# One Axes per panel, in their order; a single one for one panel.
AxesChoice = Axes | Sequence[Axes] | None


def plot_over_epochs(run: Run, *, metrics: Sequence[str] = PFC, ax: AxesChoice = None) -> Figure:
    """Draw metrics of every layer over the epochs, one panel each.

    Epochs on a symlog axis (0 is before training), color by depth; the dotted line is the first measured epoch with every
    training sample right, a dotted curve what noise alone gives. PFC1 and PFC2 are on log axes, and so is any other metric
    whose values are positive and span a factor of two.

    Args:
        run: A run directory, by ``ncollapse.records.read_run``.
        metrics: Metric ids. One that was not measured gives a panel that says so.
        ax: Draw there, without a legend: one Axes per metric, or the one for a single metric. None makes a figure.

    Returns:
        The figure.

    Raises:
        ValueError: If there is not one Axes per metric.
    """
    panels = [panel_of(run, metric) for metric in metrics]
    if ax is not None:
        return _draw_into(ax, panels, lambda axes, panel: draw_over_epochs(axes, run, panel))
    with style.house_style():
        figure = _compose(panels, lambda axes, panel: draw_over_epochs(axes, run, panel))
        layers, names = _layer_entries(run, range(len(run.measured_layers)))
        perfect, meaning = _perfect_entry(run)
        floor, meaning_of_floor = _floor_entry(figure)
        handles, texts = [*layers, *floor, *perfect], [*names, *meaning_of_floor, *meaning]
        _legend(figure, handles, texts, loc="outside right center", title="layer")
    return figure


def plot_over_depth(run: Run, position: str | None = None, *, metrics: Sequence[str] = PFC, ax: AxesChoice = None) -> Figure:
    """Draw metrics over depth at the last epoch, one panel each.

    Where the samples were followed through the layers, PFC1, PFC2, PFC3 and CDNV are drawn with the prediction of the straight
    line between the ends and with the baseline, log-linear interpolation. The dotted line is what noise alone would give.

    Args:
        run: A run directory, by ``ncollapse.records.read_run``.
        position: How layers are laid on the axis: a key of ``positions`` in ``depth.json``, or "layer" for all layers at equal
            distances. None is "projection" if the line runs through all layers but the classifier's input, else "layer".
        metrics: Metric ids. One that was not measured gives a panel that says so.
        ax: Draw there, without a legend: one Axes per metric, or the one for a single metric. None makes a figure.

    Returns:
        The figure.

    Raises:
        ReportError: If the run does not know this position.
        ValueError: If there is not one Axes per metric.
    """
    if position is None:
        whole = run.has_depth and run.layers in {run.measured_layers, run.measured_layers[:-1]}
        position = "projection" if whole else BY_LAYER
    laid = position
    require_position(run, laid)
    panels = [panel_of(run, metric) for metric in metrics]
    if ax is not None:
        return _draw_into(ax, panels, lambda axes, panel: draw_over_depth(axes, run, panel, laid))
    with style.house_style():
        figure = _compose(panels, lambda axes, panel: draw_over_depth(axes, run, panel, laid))
        layers, names = _layer_entries(run, range(len(run.measured_layers)) if laid == BY_LAYER else run.depths)
        lines, meanings = _line_entries(run, metrics)
        floor, meaning_of_floor = _floor_entry(figure)
        handles, texts = [*layers, *lines, *floor], [*names, *meanings, *meaning_of_floor]
        _legend(figure, handles, texts, loc="outside right center", title="layer")
    return figure


def _line_entries(run: Run, metrics: Sequence[str]) -> tuple[list[Line2D], list[str]]:
    """Explain the lines of the panels over depth, where there are any."""
    entries = []
    if run.has_depth and {*metrics} & {*PFC, "cdnv"}:
        entries.append((Line2D([], [], color=style.LINE), "straight line"))
        entries.append((Line2D([], [], color=style.BASELINE, linestyle="--"), "baseline (log-linear)"))
    return [line for line, _ in entries], [meaning for _, meaning in entries]


def plot_last_layer(run: Run, *, ax: AxesChoice = None) -> Figure:
    """Draw NC1 to NC4 of the last layer over the epochs, in four panels; of one epoch alone, in one panel with the values.

    Args:
        run: A run directory, by ``ncollapse.records.read_run``.
        ax: Draw there, without a legend: four Axes, one for one epoch. None makes a figure.

    Returns:
        The figure.

    Raises:
        ValueError: If there is not one Axes per panel.
    """
    if len(run.epochs) == 1:
        panel = MetricPanel("nc", f"Last layer, {style.short_layer(run.measured_layers[-1])}", "", log=True)
        if ax is not None:
            return _draw_into(ax, [panel], lambda axes, _: draw_last_values(axes, run))
        with style.house_style():
            return _compose([panel], lambda axes, _: draw_last_values(axes, run))
    if ax is not None:
        return _draw_into(ax, LAST_LAYER, lambda axes, panel: draw_over_epochs(axes, run, panel))
    with style.house_style():
        figure = _compose(LAST_LAYER, lambda axes, panel: draw_over_epochs(axes, run, panel))
        perfect, meaning = _perfect_entry(run)
        series = [line for panel in LAST_LAYER for line in panel.series if line.meaning]
        handles = [Line2D([], [], color=line.color, linestyle=line.dashes) for line in series]
        meanings = [f"{line.label}: {line.meaning}" for line in series]
        _legend(figure, [*handles, *perfect], [*meanings, *meaning], loc="outside lower center", ncols=2)
    return figure


def plot_lines(
    panels: Mapping[str, Mapping[str | int, Sequence[float]]], layers: Sequence[str], *, ax: AxesChoice = None
) -> Figure:
    """Draw numbers over the layers, one panel each, to set measurements side by side.

    Args:
        panels: By the title of the panel, or the id of PFC1, PFC2 or PFC3, and the name of the line: one value per layer, nan
            where undefined. A single value belongs to the last layer. An axis is logarithmic where the values are positive and
            span a factor of two.
        layers: Names of the layers, in order of depth; the axis counts them.
        ax: Draw there, without a legend: one Axes per panel, or the one for a single panel. None makes a figure.

    Returns:
        The figure.

    Raises:
        ValueError: If there is not one Axes per panel, or more values than layers.
    """
    names = list(dict.fromkeys(name for lines in panels.values() for name in lines))
    colors = dict(zip(names, style.depth_colors(len(names)), strict=True))
    known = {panel.key: panel for panel in PROGRESSIVE}
    made = [known.get(title, MetricPanel(title, title, "", log=False)) for title in panels]

    def draw(axes: Axes, panel: MetricPanel) -> None:
        draw_lines(axes, panels[panel.key], colors, len(layers))
        axes.set_ylabel(panel.label)

    if ax is not None:
        return _draw_into(ax, made, draw)
    with style.house_style():
        figure = _compose(made, draw)
        shown = [*names[:: -(-len(names) // _MOST_LEGEND_ENTRIES)]]
        handles = [Line2D([], [], color=colors[name], marker="o", markersize=4, linewidth=1.5) for name in shown]
        _legend(figure, handles, [style.short(str(name)) for name in shown], loc="outside right center")
    return figure


def save_figures(run: Run, position: str = "projection") -> list[Path]:
    """Write the three figures as PNG and SVG into ``figures/`` of the run directory, each whole or not at all.

    Equal runs give equal bytes: the SVG has no date and a fixed salt. The figure over depth is left out where the run has no
    results over depth, and those over epochs where only one epoch was measured.

    Args:
        position: As in ``plot_over_depth``.

    Returns:
        The files written.

    Raises:
        ReportError: If the run does not know this position.
        OSError: If the folder cannot be written.
    """
    figures = {"pfc_over_epochs": plot_over_epochs(run)} if len(run.epochs) > 1 else {}
    if run.has_depth:
        figures["pfc_over_depth"] = plot_over_depth(run, position)
    if len(run.epochs) > 1:
        figures["nc_last_layer"] = plot_last_layer(run)
    if figures:
        make_own_folder(run.path / FIGURES)
    written = []
    for name, figure in figures.items():
        for kind in ("png", "svg"):
            file = run.path / FIGURES / f"{name}.{kind}"
            write_whole(file, render(figure, kind))
            written.append(file)
            # The layout found for the first file serves the second; with one to find, the figure is drawn twice.
            with style.house_style():
                figure.set_layout_engine(None)
    return written


def render(figure: Figure, kind: str, *, outlines: bool = True, dpi: int = 160) -> bytes:
    """Render a figure as the bytes of a file, the same bytes every time."""
    buffer = io.BytesIO()
    metadata = {"Software": None} if kind == "png" else {"Date": None, "Creator": None}
    with style.house_style(outlines=outlines):
        figure.savefig(buffer, format=kind, dpi=dpi, metadata=metadata)
    return buffer.getvalue()


def slim_svg(svg: str) -> str:
    """Drop what a page does not need, a third: names of groups, metadata, fonts (the page has its own), digits."""
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|\n", " ", svg[svg.index("<svg") :], flags=re.DOTALL)
    svg = re.sub(r"<g id=\"[^\"]*\"", "<g", svg)
    svg = re.sub(r" font-family: [^;\"]*;| transform=\"rotate\(-0 [^\"]*\"", "", svg)
    svg = re.sub(r' (?:d|x|y|transform)="[^"]*"', lambda match: re.sub(r"(\.\d\d)\d+", r"\1", match[0]), svg)
    return re.sub(r"\s+", " ", svg).replace("> <", "><")


def _compose(panels: Sequence[MetricPanel], draw: Callable[[Axes, MetricPanel], None]) -> Figure:
    figure = Figure(figsize=(_WIDTHS.get(len(panels), 3.1 * len(panels)), 3.3), layout="constrained", facecolor="white")
    return _draw_into(figure.subplots(1, len(panels), squeeze=False)[0], panels, draw)


def _draw_into(
    given: Axes | Sequence[Axes], panels: Sequence[MetricPanel], draw: Callable[[Axes, MetricPanel], None]
) -> Figure:
    """Draw every panel into its Axes, and return their figure."""
    all_axes = [given] if isinstance(given, Axes) else list(given)
    if len(all_axes) != len(panels) or not panels:
        raise ValueError(
            f"ax must be {len(panels)} Axes, one per panel, got {len(all_axes)}. Pass as many as there are panels."
        )
    with style.house_style():
        for axes, panel in zip(all_axes, panels, strict=True):
            known = panel in (*PROGRESSIVE, *LAST_LAYER)
            axes.set_title(panel.title, fontsize=9.5, loc="left", color=style.INK, pad=14, parse_math=known)
            draw(axes, panel)
    figure = all_axes[0].figure
    assert figure is not None, "Axes belong to a figure"
    return cast(Figure, figure)


def _layer_entries(run: Run, depths: Sequence[int]) -> tuple[list[Line2D], list[str]]:
    """Markers and names for the legend; of very deep networks evenly spaced ones."""
    colors = style.depth_colors(len(run.measured_layers))
    stride = -(-len(depths) // _MOST_LEGEND_ENTRIES)
    shown = sorted({*depths[::stride], depths[-1]})
    handles = [Line2D([], [], color=colors[depth], marker="o", markersize=5, linewidth=1.5) for depth in shown]
    return handles, [f"{depth}  {style.short_layer(run.measured_layers[depth])}" for depth in shown]


def _floor_entry(figure: Figure) -> tuple[list[Line2D], list[str]]:
    """Explain the dotted curves of noise where there is one."""
    found = [line.get_color() for axes in figure.axes for line in axes.get_lines() if line.get_label() == NOISE]
    if not found:
        return [], []
    # Over epochs each layer has its own line.
    words = NOISE if {*found} == {style.SOFT} else f"{NOISE}, in the color of the layer"
    return [Line2D([], [], color=style.SOFT, linewidth=1.2, linestyle=":")], [words]


def _perfect_entry(run: Run) -> tuple[list[Line2D], list[str]]:
    """Explain the dotted line where there is one."""
    if run.perfect_epoch is None:
        return [], []
    return [Line2D([], [], color=style.SOFT, linewidth=0.9, linestyle=":")], ["first measured 100 % train accuracy"]


def _legend(figure: Figure, handles: list[Line2D], names: list[str], **options: Any) -> None:
    if not handles:
        return
    legend = figure.legend(handles, names, frameon=False, fontsize=8.5, title_fontsize=8.5, alignment="left", **options)
    for text in legend.get_texts():
        # A name is a name: a $ in it must not start a formula.
        text.set_parse_math(False)
