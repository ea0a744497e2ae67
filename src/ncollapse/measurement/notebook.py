"""A measurement in a notebook: its curves, and a table of the metrics with their meanings."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING
from urllib.parse import quote

from PIL import Image

from ncollapse.drawing.figures import render, slim_svg
from ncollapse.drawing.kgon_html import kgon_frame
from ncollapse.measurement.kgon import add_kgon
from ncollapse.measurement.measured_layers import MeasuredLayers
from ncollapse.metrics.registry import METRICS
from ncollapse.records.rows import Row

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Of more layers, evenly spaced ones: a table of sixty columns is not read.
_MOST_COLUMNS = 12
_MOST_LETTERS = 60
# A drawing grows with the layers, an image of pixels does not.
_MOST_AS_SVG = 24
# Besides letters and digits, what the address of an image in quotes may hold as it is.
_PLAIN = " /:;,()=.-'!"


def measurement_html(measurement: MeasuredLayers, heading: str, figure: Figure, flags: Mapping[str, str]) -> str:
    """Return the heading, the K-gon, the curves, the table of the shown metrics, and a table of the others that opens."""
    stride = -(-len(measurement.layers) // _MOST_COLUMNS)
    layers = list(dict.fromkeys((*measurement.layers[::stride], measurement.layers[-1])))
    others = [metric for metric in dict.fromkeys(row.metric for row in measurement.rows) if metric not in measurement.shown]
    marked = {flag for row in measurement.rows for flag in row.flags}
    notes = [f"* {flag}: {flags[flag]}" for flag in sorted(marked)]
    if len(layers) < len(measurement.layers):
        notes.append(f"{len(layers)} of {len(measurement.layers)} layers are shown. m.to_pandas() has all.")
    summary, _, chosen = heading.partition("\n")
    samples = add_kgon(None, measurement, 0)
    parts = [
        f"<p><b>{html.escape(summary)}</b><br>{html.escape(chosen)}</p>",
        "" if samples is None else kgon_frame(samples),
        f'<img alt="metrics over depth" style="max-width:100%" src="data:image/{_image(figure, len(measurement.layers))}">',
        _table(measurement, layers, measurement.shown),
        f"<details><summary>{len(others)} more metrics</summary>{_table(measurement, layers, others)}</details>"
        if others
        else "",
        f"<small>{'<br>'.join(map(html.escape, notes))}</small>" if notes else "",
    ]
    return "".join(parts)


def _image(figure: Figure, num_layers: int) -> str:
    """Return the curves as the data of an image: its names stay text, and a notebook that is not trusted shows it."""
    if num_layers > _MOST_AS_SVG:
        packed = io.BytesIO()
        Image.open(io.BytesIO(render(figure, "png", dpi=90))).convert("RGB").quantize(128).save(packed, "png", optimize=True)
        return f"png;base64,{base64.b64encode(packed.getvalue()).decode()}"
    for text in (text for axes in figure.axes for text in axes.texts):
        text.set_path_effects([])  # a halo is drawn as outlines, which take most of the image
    svg = slim_svg(render(figure, "svg", outlines=False).decode()).replace('"', "'")
    return f"svg+xml,{quote(svg, safe=_PLAIN)}"


def _table(measurement: MeasuredLayers, layers: Sequence[str], metrics: Sequence[str]) -> str:
    """Return a table with the metrics as rows, each with its meaning."""
    cells = {(row.metric, row.layer): row for row in measurement.rows}
    head = "".join(f"<th>{html.escape(_short(layer))}</th>" for layer in ("metric", *layers))
    lines = []
    for metric in metrics:
        found = [cells.get((metric, layer)) for layer in layers]
        if any((metric, layer) in cells for layer in measurement.layers):
            meaning = METRICS[metric].title if metric in METRICS else ""
            values = "".join(f"<td>{_cell(row)}</td>" for row in found)
            name = f"<b>{html.escape(metric)}</b><br><small>{html.escape(meaning)}</small>"
            lines.append(f'<tr><td style="text-align:left">{name}</td>{values}</tr>')
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table>"


def _cell(row: Row | None) -> str:
    return "" if row is None else f"{row.value:.4g}{'*' if row.flags else ''}"


def _short(name: str) -> str:
    half = (_MOST_LETTERS - 1) // 2
    return name if len(name) <= _MOST_LETTERS else f"{name[:half]}…{name[-half:]}"
