"""The figures of a run: collapse of every layer over epochs, over depth with the straight line, and of the last layer."""

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ncollapse.drawing import style
from ncollapse.drawing.panels import LAST_LAYER, NOISE, PROGRESSIVE, Panel, draw_over_depth, draw_over_epochs, require_position
from ncollapse.records.file_names import FIGURES
from ncollapse.records.files import make_own_folder, write_whole
from ncollapse.records.reading import Run

_MOST_LEGEND_ENTRIES = 12


def plot_over_epochs(run: Run) -> Figure:
    """Return a figure of PFC1, PFC2 and PFC3 of every layer over the epochs.

    Epochs on a symlog axis (0 is before training), PFC1 and PFC2 on log axes, color by depth; the dotted line is the first
    measured epoch with every training sample right, a dotted curve what noise alone gives.
    """
    with style.house_style():
        figure = _compose(PROGRESSIVE, 10.6, lambda axes, panel: draw_over_epochs(axes, run, panel))
        layers, names = _layer_entries(run, range(len(run.measured_layers)))
        perfect, meaning = _perfect_entry(run)
        floor, meaning_of_floor = _floor_entry(figure)
        handles, texts = [*layers, *floor, *perfect], [*names, *meaning_of_floor, *meaning]
        _legend(figure, handles, texts, loc="outside right center", title="layer")
    return figure


def plot_over_depth(run: Run, position: str = "projection") -> Figure:
    """Return a figure of PFC1, PFC2 and PFC3 over depth at the last epoch, with the straight line and the baseline.

    Args:
        position: How layers are laid on the line: a key of ``positions`` in ``depth.json``.

    Raises:
        ReportError: If the run does not know this position.
    """
    require_position(run, position)
    with style.house_style():
        figure = _compose(PROGRESSIVE, 10.6, lambda axes, panel: draw_over_depth(axes, run, panel, position))
        layers, names = _layer_entries(run, run.depths)
        lines = [Line2D([], [], color=style.LINE), Line2D([], [], color=style.BASELINE, linestyle="--")]
        floor, meaning = _floor_entry(figure)
        handles, texts = [*layers, *lines, *floor], [*names, "straight line", "baseline (log-linear)", *meaning]
        _legend(figure, handles, texts, loc="outside right center", title="layer")
    return figure


def plot_last_layer(run: Run) -> Figure:
    """Return a figure of NC1 to NC4 of the last layer over the epochs."""
    with style.house_style():
        figure = _compose(LAST_LAYER, 12.4, lambda axes, panel: draw_over_epochs(axes, run, panel))
        perfect, meaning = _perfect_entry(run)
        series = [line for panel in LAST_LAYER for line in panel.series if line.meaning]
        handles = [Line2D([], [], color=line.color, linestyle=line.dashes) for line in series]
        meanings = [f"{line.label}: {line.meaning}" for line in series]
        _legend(figure, [*handles, *perfect], [*meanings, *meaning], loc="outside lower center", ncols=2)
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
            # The layout found for the first file serves the second; finding it is a third of the work.
            figure.set_layout_engine("none")
    return written


def render(figure: Figure, kind: str, *, outlines: bool = True) -> bytes:
    """Render a figure as the bytes of a file, the same bytes every time."""
    buffer = io.BytesIO()
    metadata = {"Software": None} if kind == "png" else {"Date": None, "Creator": None}
    with style.house_style(outlines=outlines):
        figure.savefig(buffer, format=kind, dpi=160, metadata=metadata)
    return buffer.getvalue()


def _compose(panels: tuple[Panel, ...], width: float, draw: Callable[[Axes, Panel], None]) -> Figure:
    figure = Figure(figsize=(width, 3.3), layout="constrained", facecolor="white")
    for axes, panel in zip(figure.subplots(1, len(panels)), panels, strict=True):
        axes.set_title(panel.title, fontsize=9.5, loc="left", color=style.INK)
        draw(axes, panel)
    return figure


def _layer_entries(run: Run, depths: Sequence[int]) -> tuple[list[Line2D], list[str]]:
    """Markers and names for the legend; of very deep networks evenly spaced ones."""
    colors = style.depth_colors(len(run.measured_layers))
    stride = -(-len(depths) // _MOST_LEGEND_ENTRIES)
    shown = sorted({*depths[::stride], depths[-1]})
    handles = [Line2D([], [], color=colors[depth], marker="o", markersize=5, linewidth=1.5) for depth in shown]
    return handles, [f"{depth}  {style.short(run.measured_layers[depth])}" for depth in shown]


def _floor_entry(figure: Figure) -> tuple[list[Line2D], list[str]]:
    """Explain the dotted curves of noise where there is one."""
    found = [line for axes in figure.axes for line in axes.get_lines() if line.get_label() == NOISE]
    return found[:1], [NOISE][: len(found)]


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
