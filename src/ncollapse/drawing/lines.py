"""Draw lines over the layers, one per measurement."""

import math
from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes

from ncollapse.drawing import style


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
