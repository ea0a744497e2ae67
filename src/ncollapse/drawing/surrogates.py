"""Figures of surrogate models, from plain numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

from ncollapse.drawing import style

__all__ = ["plot_grams", "plot_minority_cosine", "plot_path", "plot_tradeoff"]


def plot_grams(grams: Mapping[str, Sequence[Sequence[float]]]) -> Figure:
    """Draw Gram matrices as heat maps, one panel each, white at zero."""
    with style.house_style():
        figure = Figure(figsize=(3.6 * len(grams), 3.1), layout="constrained", facecolor="white")
        for axes, (title, gram) in zip(figure.subplots(1, len(grams), squeeze=False)[0], grams.items(), strict=True):
            largest = max(abs(value) for row in gram for value in row) or 1.0
            image = axes.imshow(gram, cmap="RdBu", vmin=-largest, vmax=largest)
            axes.set_title(f"Inner products of {title}", fontsize=9.5, loc="left", color=style.INK)
            axes.set_xlabel("class")
            axes.set_ylabel("class")
            axes.set_xticks(range(len(gram)) if len(gram) <= 12 else range(0, len(gram), -(-len(gram) // 8)))
            axes.set_yticks(axes.get_xticks())
            figure.colorbar(image, ax=axes, shrink=0.85)
    return figure


def plot_minority_cosine(ratios: Sequence[float], cosines: Sequence[float], threshold: float | None = None) -> Figure:
    """Draw the cosine between minority classifier rows against the imbalance: 1 is minority collapse."""
    with style.house_style():
        figure = Figure(figsize=(4.6, 3.1), layout="constrained", facecolor="white")
        axes = figure.subplots()
        style.prepare(axes)
        axes.plot(ratios, cosines, color=style.LINE, marker="o", markersize=3, linewidth=1.4)
        axes.set_xscale("log")
        axes.set_title("Cosine between minority classifier rows", fontsize=9.5, loc="left", color=style.INK)
        axes.set_xlabel("imbalance R, majority over minority samples")
        if threshold is not None:
            axes.axvline(threshold, color=style.SOFT, linewidth=0.9, linestyle=":")
            axes.annotate(f" R₀ = {threshold:.4g}", (threshold, min(cosines)), color=style.SOFT, fontsize=8.5)
    return figure


def plot_tradeoff(
    decays: Sequence[float],
    curves: Mapping[str, Sequence[float]],
    data: Mapping[str, float],
    unconstrained: Mapping[str, float],
) -> Figure:
    """Draw quantities of the multilayer model against the cost of moving, one panel each, three a row."""
    rows = -(-len(curves) // 3)
    with style.house_style():
        figure = Figure(figsize=(9.6, 2.7 * rows), layout="constrained", facecolor="white")
        panels = figure.subplots(rows, 3, squeeze=False).flatten()
        for axes, (name, values) in zip(panels, curves.items(), strict=False):
            style.prepare(axes)
            if name in data:
                axes.axhline(data[name], color=style.NULL, linewidth=1.0, linestyle="--", label="data")
            axes.plot(decays, values, color=style.LINE, marker="o", markersize=3, linewidth=1.4, label="multilayer model")
            if name in unconstrained:
                axes.axhline(unconstrained[name], color=style.THIRD, linewidth=1.2, linestyle=":", label="without data")
            axes.set_xscale("log")
            axes.set_title(name, fontsize=9.5, loc="left", color=style.INK)
            axes.set_xlabel("cost of moving, λ_H")
        for axes in panels[len(curves) :]:
            axes.set_axis_off()
        handles, labels = panels[0].get_legend_handles_labels()
        panels[-1].legend(handles, labels, frameon=False, loc="center")
    return figure


def plot_path(
    steps: Sequence[float], curves: Mapping[str, Sequence[float]], limits: Mapping[str, float], along: str, *, log: bool = False
) -> Figure:
    """Draw quantities along a path, one panel each, with what theory says they come to dashed."""
    with style.house_style():
        figure = Figure(figsize=(4.2 * len(curves), 3.0), layout="constrained", facecolor="white")
        for axes, (name, values) in zip(figure.subplots(1, len(curves), squeeze=False)[0], curves.items(), strict=True):
            style.prepare(axes)
            axes.plot(steps, values, color=style.LINE, linewidth=1.4, label="path")
            if name in limits:
                axes.axhline(limits[name], color=style.NULL, linewidth=1.0, linestyle="--", label="theory")
                axes.legend(frameon=False, fontsize=8.5)
            if log:
                axes.set_xscale("log")
                axes.set_yscale("log")
            axes.set_title(name, fontsize=9.5, loc="left", color=style.INK)
            axes.set_xlabel(along)
    return figure
