"""Pictures of a diagnosis: accuracy and detection over the layers, and matrices of classes and of layers."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib import image
from matplotlib.axes import Axes
from scipy.cluster.hierarchy import leaves_list, linkage
from scipy.spatial.distance import squareform

from ncollapse.drawing import style
from ncollapse.drawing.diagnosis_sentences import SCORES
from ncollapse.records.rows import DiagnosisRecord

# Sides of a picture of a matrix: of more classes, blocks are averaged.
_MOST_PIXELS = 250
# Ordering the leaves of a tree in the best way takes time K³.
_MOST_ORDERED = 200
_LINES = {"probe": ("linear probe", style.LINE, "-"), "ncc": ("nearest center", style.BASELINE, "--"),
          "knn": ("k-NN", style.THIRD, ":")}  # fmt: skip
_STYLES = dict(zip(SCORES, (("-", style.LINE), ("--", style.BASELINE), (":", style.THIRD), ("-.", style.INK)), strict=True))


def draw_heads(axes: Axes, record: DiagnosisRecord) -> None:
    """Draw the accuracy of a linear probe, the nearest center and k-NN over the layers, and that of the network."""
    style.prepare(axes)
    values: list[float | None] = []
    for metric, (name, color, dashes) in _LINES.items():
        curve = [record.value(metric, layer) for layer in record.layers]
        axes.plot(range(len(curve)), curve, color=color, linestyle=dashes, marker="o", markersize=4, label=name)
        values += curve
    network = record.accuracy[record.decided]
    if not math.isnan(network):
        axes.axhline(network, color=style.SOFT, linewidth=1, linestyle=(0, (1, 1.5)), label="whole network")
        values.append(network)
    _finish(axes, values, len(record.layers))


def draw_detection(axes: Axes, record: DiagnosisRecord, name: str) -> None:
    """Draw the AUROC of the four scores over the layers, for one set of strangers."""
    style.prepare(axes)
    values: list[float | None] = []
    for score, (dashes, color) in _STYLES.items():
        curve = [record.value(f"auroc.{name}.{score}", layer) for layer in record.layers]
        axes.plot(range(len(curve)), curve, color=color, linestyle=dashes, marker="o", markersize=4, label=SCORES[score])
        values += [value for value in curve if not math.isnan(value)]
    _finish(axes, values, len(record.layers))


def draw_transfer(axes: Axes, record: DiagnosisRecord, name: str) -> None:
    """Draw the few-shot accuracy over the layers with its interval, and what CDNV guarantees where that is above 0."""
    style.prepare(axes)
    rows = [row for row in record.rows if row.metric == f"few_shot.{name}"]
    curve = [row.value for row in rows]
    spread = [1.96 * (row.standard_error or 0) for row in rows]
    axes.errorbar(range(len(curve)), curve, spread, color=style.LINE, marker="o", markersize=4, capsize=2, label="few-shot")
    bound = [record.value(f"few_shot_bound.{name}", layer) for layer in record.layers]
    shown = [value if value > 0 else math.nan for value in bound]
    ends = [value + sign * error for value, error in zip(curve, spread, strict=True) for sign in (-1, 1)]
    values: list[float | None] = [value for value in [*ends, *shown] if not math.isnan(value)]
    if any(value > 0 for value in bound):
        axes.plot(range(len(shown)), shown, color=style.BASELINE, linestyle="--", marker="o", markersize=4, label="guaranteed")
    _finish(axes, values, len(record.layers))


def _finish(axes: Axes, values: list[float | None], num_layers: int) -> None:
    style.fit_linear(axes, values or [0.0, 1.0])
    style.count_layers(axes, num_layers)
    # Below the frame, where it covers no line.
    options: dict[str, Any] = {"fontsize": 7.5, "frameon": False, "labelcolor": style.INK}
    axes.get_figure(root=True).legend(*axes.get_legend_handles_labels(), loc="outside lower left", ncols=2, **options)  # type: ignore[union-attr]


def clustered_order(distances: Sequence[Sequence[float]]) -> list[int]:
    """Return an order of classes in which near ones are neighbors (average linkage); unchanged if some are undefined."""
    matrix = np.array(distances, dtype=float)
    if len(matrix) < 3 or not np.isfinite(matrix).all():
        return list(range(len(matrix)))
    np.fill_diagonal(matrix, 0)
    tree = linkage(squareform((matrix + matrix.T) / 2, checks=False), "average", optimal_ordering=len(matrix) <= _MOST_ORDERED)
    return [int(leaf) for leaf in leaves_list(tree)]


def matrix_png(matrix: Sequence[Sequence[float]], *, colors: str, low: float, high: float) -> bytes:
    """Paint a matrix as a picture of at most 250 × 250 pixels; undefined entries are gray."""
    values = np.array(matrix, dtype=float)
    step = -(-len(values) // _MOST_PIXELS)
    starts = np.arange(0, len(values), step)
    if step > 1:
        size = np.diff(np.append(starts, len(values)))
        sums = np.add.reduceat(np.add.reduceat(values, starts, axis=0), starts, axis=1)
        values = sums / np.outer(size, size)
    painted = mpl.colormaps[colors]((values - low) / (high - low))
    painted[np.isnan(values)] = (0.6, 0.6, 0.6, 1)
    file = io.BytesIO()
    image.imsave(file, painted, format="png", metadata={"Software": "ncollapse"})
    return file.getvalue()
