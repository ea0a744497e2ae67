"""Draw the distances between class means as a matrix."""

from collections.abc import Sequence
from typing import cast

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator

from ncollapse.drawing import style

_MOST_TICKS = 10


def plot_class_distances(
    distances: Sequence[Sequence[float]], classes: Sequence[int | str], *, title: str = "", ax: Axes | None = None
) -> Figure:
    r"""Draw distances between class means, relative to their root mean square over pairs.

    The entry of classes k and j is :math:`\lVert \mu_k - \mu_j \rVert / \sqrt{\mathrm{mean}_{a \ne b} \lVert \mu_a - \mu_b
    \rVert^2}`. At collapse all pairs are at 1, the distance of a simplex ETF. Two classes that have merged are at 0. Colors end
    at 2; undefined entries are left white, and all are where the class means coincide.

    Args:
        distances: Shape (K, K), symmetric, in any unit; nan for classes without samples.
        classes: Names or indices of the K classes. Of many, about ten are written.
        title: Written above, such as the name of the layer.
        ax: Draw there. None makes a figure.

    Returns:
        The figure.

    Raises:
        ValueError: If the matrix is not K × K.
    """
    matrix = np.asarray(distances, dtype=float)
    if matrix.shape != (len(classes), len(classes)):
        raise ValueError(
            f"distances must be {len(classes)} by {len(classes)}, one row per class, got {matrix.shape}. Name the classes of "
            "these distances, and no others."
        )
    pairs = matrix[~np.eye(len(matrix), dtype=bool)]
    pairs = pairs[np.isfinite(pairs)]
    scale = float(np.sqrt(np.mean(pairs**2))) if len(pairs) else 0.0
    with style.house_style():
        if ax is None:
            figure = Figure(figsize=(4.6, 3.8), layout="constrained", facecolor="white")
            ax = figure.subplots()
        image = ax.imshow(matrix / scale if scale > 0 else matrix * np.nan, cmap="RdBu", vmin=0, vmax=2)
        stride = -(-len(classes) // _MOST_TICKS)
        names = [style.short(str(name), 12) for name in classes[::stride]]
        for axis in (ax.xaxis, ax.yaxis):
            axis.set_major_locator(FixedLocator(range(0, len(classes), stride)))
            axis.set_ticklabels(names, parse_math=False)
        if any(len(name) > 3 for name in names):
            ax.tick_params(axis="x", rotation=90)
        ax.tick_params(color=style.SOFT, labelcolor=style.INK, labelsize=8.5, length=3)
        ax.set_title(style.short(title, 44), fontsize=9.5, loc="left", color=style.INK, parse_math=False)
        ax.set_xlabel("class")
        figure = cast(Figure, ax.figure)
        bar = figure.colorbar(image, ax=ax, shrink=0.85, ticks=[0, 1, 2])
        bar.set_label("distance of class means (1: root mean square)", fontsize=8.5)
        bar.ax.tick_params(labelsize=8.5, length=3)
    return figure
