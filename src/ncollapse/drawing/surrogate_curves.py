"""Curves of surrogate models, from plain numbers: panels of lines, what theory says dashed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

from ncollapse.drawing import style

__all__ = ["Panel", "plot_panels"]


@dataclass(frozen=True)
class Panel:
    """One set of axes."""

    title: str
    x_label: str
    curves: Mapping[str, tuple[Sequence[float], Sequence[float]]]
    theory: Mapping[str, tuple[Sequence[float], Sequence[float]]] = field(default_factory=dict)
    log: str = ""
    mark: float | None = None


def plot_panels(panels: Sequence[Panel]) -> Figure:
    """Draw panels side by side."""
    with style.house_style():
        figure = Figure(figsize=(4.2 * len(panels), 3.1), layout="constrained", facecolor="white")
        for axes, panel in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
            style.prepare(axes)
            for letter, axis in (("x", axes.xaxis), ("y", axes.yaxis)):
                if letter in panel.log:
                    getattr(axes, f"set_{letter}scale")("log")
                    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
                    axis.set_minor_formatter(NullFormatter())
            if all(isinstance(value, int) for x, _ in panel.curves.values() for value in x):
                axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            colors = style.depth_colors(len(panel.curves)) if len(panel.curves) > 1 else [style.LINE]
            for color, (name, (x, y)) in zip(colors, panel.curves.items(), strict=True):
                axes.plot(x, y, color=color, linewidth=1.6, label=name, marker="o" if len(x) < 30 else "", markersize=3)
            for name, (x, y) in panel.theory.items():
                axes.plot(x, y, color=style.NULL, linewidth=1.1, linestyle="--", label=name)
            if panel.mark is not None:
                axes.axvline(panel.mark, color=style.SOFT, linewidth=0.9, linestyle=":")
            axes.set_title(panel.title, fontsize=9.5, loc="left", color=style.INK)
            axes.set_xlabel(panel.x_label)
            axes.legend(frameon=False, fontsize=8)
    return figure
