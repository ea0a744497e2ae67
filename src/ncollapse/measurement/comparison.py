"""Comparison of measurements layer by layer: of checkpoints, of seeds, of training and test data."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

from ncollapse.default_device import on_the_cpu
from ncollapse.depth.drift import frame_drift, mean_drift, shape_drift
from ncollapse.measurement.measurement import Measurement, axes_of
from ncollapse.metrics.decision import held_out_cdnv, held_out_variability

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ComparisonKind = Literal["depth", "epochs", "drift"]
Name = str | int


class Drift(NamedTuple):
    """The change at one layer from one measurement to the next. For equal measurements all values but pfc1 and cdnv are 0.

    Attributes:
        before: Name of the first measurement.
        after: Name of the second one.
        layer: Name of the layer.
        mean_drift: Distance of the normalized class means, in [0, 2] (``ncollapse.depth.mean_drift``).
        shape_drift: What the best rotation leaves of it, in [0, √2] (``ncollapse.depth.shape_drift``).
        frame_drift: Distance of the nearest simplex ETFs, in [0, 2] (``ncollapse.depth.frame_drift``).
        pfc1: Within-class variability of the second over the between-class variability of the first
            (``ncollapse.metrics.held_out_variability``): of training and test data, training means with test variances. PFC1
            for equal ones.
        cdnv: CDNV with the variances of the second and the class means of the first (``ncollapse.metrics.held_out_cdnv``).
            nan, like ``pfc1``, if the dimensions differ.
    """

    before: Name
    after: Name
    layer: str
    mean_drift: float
    shape_drift: float
    frame_drift: float
    pfc1: float
    cdnv: float


@dataclass(frozen=True, eq=False, repr=False)
class Comparison:
    """Measurements side by side, at the layers that all of them have; made by ``compare``.

    ``print(c)`` shows the drift from each measurement to the next.

    Attributes:
        measurements: The measurements by name, in order.
        layers: The common layers.
        drift: From each measurement to the next, layer by layer.
    """

    measurements: dict[Name, Measurement]
    layers: tuple[str, ...]
    drift: tuple[Drift, ...]

    def __getitem__(self, metric: str) -> dict[Name, dict[str, float]]:
        """Return the values of one metric at the common layers, by measurement and layer."""
        values = {name: m[metric] for name, m in self.measurements.items()}
        return {name: {layer: found[layer] for layer in self.layers if layer in found} for name, found in values.items()}

    def plot(
        self, kind: ComparisonKind = "depth", *, metrics: Sequence[str] = ("pfc1", "pfc2", "pfc3"), ax: Any = None
    ) -> tuple[Figure, Any]:
        """Draw the comparison.

        Args:
            kind: "depth": each metric over the layers, a line per measurement. "epochs": each metric over the measurements,
                whose names must be epochs, a line per layer. "drift": the drift from each measurement to the next.
            metrics: Metric ids, one panel each; "drift" has its own.
            ax: As in ``Measurement.plot``.

        Returns:
            The figure and its Axes.

        Raises:
            ValueError: If the kind is unknown, or names are no epochs.
        """
        from ncollapse.drawing import plot_lines, plot_over_epochs

        if kind not in get_args(ComparisonKind):
            raise ValueError(f"kind must be one of {', '.join(get_args(ComparisonKind))}, got {kind!r}. Pick one of these.")
        if kind == "epochs":
            figure = plot_over_epochs(self._run(), metrics=metrics, ax=ax)
            return figure, axes_of(figure, ax)
        if kind == "drift":
            panels = {"mean_drift": "class means", "shape_drift": "shape, after rotation", "frame_drift": "nearest simplex ETF"}
            lines = {title: self._drift_lines(key) for key, title in panels.items()}
            figure = plot_lines(lines, self.layers, ax=ax)
        else:
            lines = {metric: {name: list(values.values()) for name, values in self[metric].items()} for metric in metrics}
            figure = plot_lines(lines, self.layers, ax=ax)
        return figure, axes_of(figure, ax)

    def _drift_lines(self, key: str) -> dict[Name, list[float]]:
        found: dict[Name, list[float]] = {}
        for item in self.drift:
            found.setdefault(f"{item.before} → {item.after}", []).append(getattr(item, key))
        return found

    def _run(self) -> Any:
        from ncollapse.measurement.as_run import run_of

        epochs = {name: m for name, m in self.measurements.items() if isinstance(name, int)}
        layers = {m.layers for m in self.measurements.values()}
        if len(epochs) < len(self.measurements) or list(epochs) != sorted(epochs) or len(layers) > 1:
            raise ValueError(
                "Over epochs, all measurements must have the same layers and increasing epochs as names, got "
                f"{', '.join(map(repr, self.measurements))}. Name them: compare(a, b, names=[1, 10])."
            )
        return run_of(epochs)

    def __repr__(self) -> str:
        return f"Comparison({len(self.measurements)} measurements at {len(self.layers)} layers)"

    def __str__(self) -> str:
        header = ("from", "to", "layer", *Drift._fields[3:])
        lines = [header, *((str(d.before), str(d.after), d.layer, *(f"{value:.4g}" for value in d[3:])) for d in self.drift)]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        return "\n".join(
            "  ".join(
                cell.ljust(width) if i < 3 else cell.rjust(width)
                for i, (cell, width) in enumerate(zip(line, widths, strict=True))
            )
            for line in lines
        )


@on_the_cpu
def compare(first: Measurement, second: Measurement, *more: Measurement, names: Sequence[Name] | None = None) -> Comparison:
    """Compare measurements of the same layers: checkpoints of a training, seeds, training and test data.

    Args:
        first: A measurement.
        second: Another one, with the same classes and at least one common layer.
        *more: Further ones.
        names: A name for each, such as its epoch. None counts from 1.

    Returns:
        The values side by side, and the drift of class means and nearest frames from each to the next.

    Raises:
        ValueError: If the classes differ, there is no common layer, or names are not distinct, one for each.

    Example:
        >>> import torch
        >>> from ncollapse.probe import measure_features
        >>> x, y = torch.eye(3).repeat(2, 1), torch.arange(3).repeat(2)
        >>> early, late = (measure_features(scale * x, y, num_classes=3) for scale in (1.0, 2.0))
        >>> compare(early, late).drift[0].mean_drift
        0.0
    """
    measured = (first, second, *more)
    named = list(range(1, len(measured) + 1)) if names is None else list(names)
    if len(named) != len(measured) or len(set(named)) != len(named):
        raise ValueError(f"names must be {len(measured)} distinct names, one per measurement, got {named}. Give each its own.")
    if len({m.classes for m in measured}) > 1:
        counts = ", ".join(str(m.num_classes) for m in measured)
        raise ValueError(
            f"Measurements to compare must have the same classes, got {counts} of them. Measure with one choice of classes."
        )
    layers = tuple(layer for layer in first.layers if all(layer in m.layers for m in measured))
    if not layers:
        raise ValueError(
            f"Measurements to compare must have a common layer, got {', '.join(first.layers)} and others. Name layers."
        )
    by_name: dict[Name, Measurement] = dict(zip(named, measured, strict=True))
    drift = [_drift(a, b, layer, by_name) for a, b in pairwise(named) for layer in layers]
    return Comparison(by_name, layers, tuple(drift))


def _drift(before: Name, after: Name, layer: str, measured: dict[Name, Measurement]) -> Drift:
    a, b = (measured[name].statistics[layer].moments for name in (before, after))
    return Drift(
        before,
        after,
        layer,
        mean_drift(a, b),
        shape_drift(a, b),
        frame_drift(a, b),
        float(held_out_variability(b, a, measured[before].statistics[layer].convention)) if a.dim == b.dim else math.nan,
        float(held_out_cdnv(b, a)) if a.dim == b.dim else math.nan,
    )
