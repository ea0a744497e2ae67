"""Heat maps: PFC1 over epochs and layers, and the frames that residual blocks share."""

import html
import math
from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from ncollapse.drawing import style
from ncollapse.drawing.wording import number
from ncollapse.records.reading import Run

# More columns and rows than these are thinned out. Cells are named where the pointer rests, unless there are very many.
_MOST_EPOCHS, _MOST_LAYERS, _MOST_NAMED_CELLS = 60, 24, 600
_WIDTH, _ROW, _LEFT, _BELOW = 720, 18, 30, 44


def heat_map_svg(run: Run) -> str:
    """Draw PFC1 on a logarithmic scale of colors, the darker the more collapsed; empty if there is no value above zero."""
    epochs = _stops(run.epochs, _MOST_EPOCHS)
    depths = _stops(range(len(run.measured_layers)), _MOST_LAYERS)
    values = {(epoch, depth): run.value("pfc1", depth, epoch) for epoch in epochs for depth in depths}
    known = [value for value in values.values() if value is not None and value > 0]
    if not known:
        return ""
    low, high, width = min(known), max(known), (_WIDTH - _LEFT) / len(epochs)
    cells = []
    for column, epoch in enumerate(epochs):
        for row, depth in enumerate(depths):
            value = values[epoch, depth]
            words = f"{run.measured_layers[depth]}, {run.unit} {epoch}: {number(value)}"
            title = f"<title>{html.escape(words)}</title>" if len(values) <= _MOST_NAMED_CELLS else ""
            place = f'x="{_LEFT + column * width:.1f}" y="{row * _ROW}" width="{width + 0.3:.1f}" height="{_ROW}"'
            cells.append(f'<rect {place} fill="{_color(value, low, high)}">{title}</rect>')
    names = [f'<text x="{_LEFT - 6}" y="{(i + 0.7) * _ROW:.0f}" text-anchor="end">{d}</text>' for i, d in enumerate(depths)]
    bottom = len(depths) * _ROW
    for tick in style.epoch_ticks(epochs[0], epochs[-1]):
        # Columns are measured epochs, whose steps grow: their axis is nearly logarithmic.
        column = int(np.argmin([abs(epoch - tick) for epoch in epochs]))
        if epochs[column] == tick:
            names.append(f'<text x="{_LEFT + (column + 0.5) * width:.1f}" y="{bottom + 15}" text-anchor="middle">{tick}</text>')
    label = f'<text x="{_LEFT}" y="{bottom + 36}">{run.unit}</text>'
    drawn = "".join([*cells, *names, label, _scale(low, high, bottom + 26)])
    words = f"PFC1 of every layer over the {run.unit}s"
    return f'<svg class="chart" viewBox="0 0 {_WIDTH} {bottom + _BELOW}" role="img" aria-label="{words}">{drawn}</svg>'


def _stops(items: Sequence[int], most: int) -> list[int]:
    places = np.linspace(0, len(items) - 1, min(most, len(items))).round().astype(int)
    return [items[place] for place in dict.fromkeys(places.tolist())]


def _color(value: float | None, low: float, high: float) -> str:
    if value is None:
        return "none"
    share = 0.0 if value <= low else math.log(value / low) / math.log(high / low)
    return to_hex(mpl.colormaps["viridis"](share))


def _scale(low: float, high: float, top: int) -> str:
    """Draw the scale of colors, with its ends."""
    left, steps, step = _WIDTH - 200, 12, 8
    bars = "".join(
        f'<rect x="{left + i * step}" y="{top}" width="{step + 0.3}" height="12" fill="{_color(share, 1, math.e)}"/>'
        for i, share in enumerate(math.exp(i / (steps - 1)) for i in range(steps))
    )
    ends = f'<text x="{left - 6}" y="{top + 10}" text-anchor="end">PFC1 {number(low)}</text>'
    return f'{bars}{ends}<text x="{left + steps * step + 6}" y="{top + 10}">{number(high)}</text>'


def draw_alignment(shared: Sequence[Sequence[float]], blocks: Sequence[str]) -> Figure:
    """Draw the share of each block's Jacobian (rows) on the diagonal of each block's singular frames (columns)."""
    size = min(7.0, 2.4 + 0.35 * len(blocks))
    figure = Figure(figsize=(size + 1.0, size), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(shared, vmin=0, vmax=1, cmap="viridis")
    stops = _stops(range(len(blocks)), _MOST_LAYERS)
    axes.set_xticks(stops, [str(stop + 1) for stop in stops])
    axes.set_yticks(stops, [blocks[stop] for stop in stops])
    axes.set_xlabel("singular frames of block")
    axes.set_ylabel("Jacobian of block")
    figure.colorbar(image, label="share of energy on the diagonal")
    return figure
