"""The K-gon as markup: layers side by side as SVG, and the data by which the script moves its dots from epoch to epoch."""

import html
import json
import re
from collections.abc import Sequence
from importlib.resources import files

import numpy as np

from ncollapse.drawing.kgon import COLORS, DARK_COLORS, Array, Kgon, Picture, outside, thinned
from ncollapse.drawing.style import MOST_COLUMNS, even_columns
from ncollapse.records.samples import Samples

# Of a frame in a notebook: dots, pictures beside each other, the height of a row; ink, gray, paper and panels, light and dark.
_MOST_DOTS_OF_FRAME, _FRAME_COLUMNS, _FRAME_ROW = 1200, 5, 250
_PAPERS = (("#1f2430", "#5f6673", "#ffffff", "#f6f7f9"), ("#e8eaef", "#9aa3b2", "#14171d", "#1d2129"))
# Characters for the moving dots of one page: more epochs are thinned out.
_MOST_CHARACTERS = 320_000
_DIGITS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
# What has the colors of the classes: the module, and other drawings of samples.
_SCOPE = ":is(.kgon,.kgon-colors)"
# Steps of a coordinate, which two of these digits count, and half the side of a picture in its own units.
_STEPS, _HALF = 4096, 100


def shown_epochs(kgon: Kgon) -> list[int]:
    """Return the epochs of a page: all, or as many at equal distances as there is room for, the last one among them."""
    first = kgon.positions(kgon.epochs[-1])
    num_points = first.points.shape[0] * (first.points.shape[1] + 3 * len(kgon.named)) + len(kgon.named)
    most = max(2, _MOST_CHARACTERS // (4 * num_points))
    stops = np.linspace(0, len(kgon.epochs) - 1, min(most, len(kgon.epochs))).round().astype(int)
    return [kgon.epochs[stop] for stop in dict.fromkeys(stops.tolist())]


def kgon_markup(kgon: Kgon, unit: str = "epoch", measured: Sequence[int] = ()) -> str:
    """Return the module: controls, layers side by side at the last epoch, key, notes, and the data for the script."""
    epochs = shown_epochs(kgon)
    payload = _payload(kgon, epochs, unit)
    last, hidden = len(epochs) - 1, "" if len(epochs) > 1 else " hidden"
    controls = (
        f'<div class="controls"{hidden}><button type="button" class="kgon-play" aria-pressed="false">Play</button>'
        f'<input type="range" class="kgon-slider" min="0" max="{last}" value="{last}" step="1" aria-label="{unit}">'
        f'<span>{unit.capitalize()} <output class="kgon-epoch">{epochs[-1]}</output></span></div>'
    )
    columns = f'style="--columns:{even_columns(len(kgon.layers), MOST_COLUMNS)}"'
    words = (
        "Point at a dot to name it, and to follow the sample through the layers. Click a class in the list to show it alone."
    )
    notes = "".join(f"<p class='quiet'>{html.escape(note)}</p>" for note in kgon.notes(epochs, unit, measured))
    return (
        f'<div class="kgon">{controls}<div class="kgon-panels" {columns}>{_figures(kgon)}</div><p class="kgon-told">{words}</p>'
        f'<div class="kgon-key" role="group" aria-label="Classes">{_key(kgon)}</div>{notes}'
        f'<script type="application/json" class="kgon-data">{to_script_json(payload)}</script></div>'
    )


def _figures(kgon: Kgon) -> str:
    labels = kgon.samples.epochs[kgon.epochs[-1]].labels
    entries = zip(kgon.layers, kgon.samples.header.depths, kgon.pictures(kgon.epochs[-1]), strict=True)
    return "".join(
        f"<figure><figcaption><b>{depth}</b> {breakable(name)}</figcaption>{_svg(kgon, picture, labels, name)}"
        f'<p class="note">{picture.note}</p></figure>'
        for name, depth, picture in entries
    )


def breakable(name: str) -> str:
    """Escape the name of a layer or setting, and let a line break between its words, but not inside a number."""
    return re.sub(r"(?<=[=._/])(?=[A-Za-z])|(?<==)", "<wbr>", html.escape(name))


def _key(kgon: Kgon) -> str:
    entries = [(_mark(i), kgon.label(place), kgon.name(place)) for i, place in enumerate(kgon.named)]
    if len(kgon.named) < len(kgon.order):
        entries.append((_mark(None), f"{len(kgon.order) - len(kgon.named)} others", ""))
    return "".join(
        f'<button type="button" class="{mark}" aria-pressed="false"><i></i>{html.escape(label)}'
        f"{'' if name in {label, ''} else f' {html.escape(name)}'}</button>"
        for mark, label, name in entries
    )


def _payload(kgon: Kgon, epochs: Sequence[int], unit: str) -> dict[str, object]:
    """Return what the script needs: the positions at every epoch, and the names for the pointer."""
    samples = kgon.samples.epochs
    last = samples[kgon.epochs[-1]]
    pictures = [kgon.pictures(epoch) for epoch in epochs]

    def same(epoch: int) -> bool:
        return np.array_equal(samples[epoch].indices, last.indices)

    return {
        "unit": unit,
        "layers": kgon.layers,
        "named": kgon.named,
        "names": [kgon.name(place) for place in range(len(kgon.order))],
        "polygon": [kgon.named.index(place) for place in kgon.order if place in kgon.named] if _has_polygon(kgon) else [],
        "labels": last.labels.tolist(),
        # Most loaders keep their order, so that one list is enough.
        "indices": [samples[epoch].indices.tolist() if epoch == epochs[-1] or not same(epoch) else 0 for epoch in epochs],
        "epochs": epochs,
        "notes": [[picture.note for picture in row] for row in pictures],
        "reach": [[round(picture.reach, 3) for picture in row] for row in pictures],
        "drawn": [[_encoded(picture) for picture in row] for row in pictures],
    }


def kgon_frame(samples: Samples) -> str:
    """Return the module as a frame for a notebook, whose page has other styles, with as many dots as fit there."""
    kgon = Kgon.of(thinned(samples, _MOST_DOTS_OF_FRAME))
    light, dark = (f"--ink:{ink};--soft:{soft};--paper:{paper};--panel:{panel};" for ink, soft, paper, panel in _PAPERS)
    rules = (
        f":root{{color-scheme:light dark;{light}}}@media screen and (prefers-color-scheme:dark){{:root{{{dark}}}}}"
        "body{margin:0;font:15px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--paper)}"
        ".controls{display:flex;align-items:center;gap:1rem}.quiet{font-size:.85rem;color:var(--soft);margin:.4rem 0}"
    )
    head = f"<!doctype html><meta charset=utf-8><style>{rules}{style_text()}</style>"
    page = f"{head}{kgon_markup(kgon)}<script>{script_text()}</script>"
    height = 120 + _FRAME_ROW * -(-len(kgon.layers) // _FRAME_COLUMNS)
    style = f"width:100%;height:{height}px;border:0"
    return f'<iframe title="K-gon" style="{style}" srcdoc="{html.escape(page)}"></iframe>'


def style_text() -> str:
    """Return the style sheet of the module, with its colors."""
    light, dark = ("".join(f"--k{i}:{color};" for i, color in enumerate(colors)) for colors in (COLORS, DARK_COLORS))
    rules = f"{_SCOPE}{{{light}}}@media screen and (prefers-color-scheme:dark){{{_SCOPE}{{{dark}}}}}"
    rules += "".join(f"{_SCOPE} .c{i}{{--of:var(--k{i})}}" for i in range(len(COLORS)))
    return rules + files("ncollapse.drawing").joinpath("kgon.css").read_text(encoding="utf-8")


def script_text() -> str:
    """Return the script of the module."""
    return files("ncollapse.drawing").joinpath("kgon.js").read_text(encoding="utf-8")


def _has_polygon(kgon: Kgon) -> bool:
    return len(kgon.named) == len(kgon.order)


def _mark(index: int | None) -> str:
    """Return the class attribute of a class: its color, and a ring for the second ten."""
    return "others" if index is None else f"c{index % len(COLORS)}{' ring' if index >= len(COLORS) else ''}"


def _encoded(picture: Picture) -> str:
    """Write dots, class means, corners, labels and spokes, four characters each."""
    together = np.concatenate([picture.points, picture.means, picture.corners, outside(picture.corners), picture.spokes])
    steps = ((np.clip(together, -1, 1) + 1) / 2 * (_STEPS - 1)).round().astype(int).ravel()
    return "".join(_DIGITS[step // 64] + _DIGITS[step % 64] for step in steps.tolist())


def _svg(kgon: Kgon, picture: Picture, labels: Array, layer: str) -> str:
    # The axis of a drawing points down.
    points, means, corners, spokes = (part * [_HALF, -_HALF] for part in picture[:1] + picture[2:5])
    words = f"Layer {layer}: samples and class means in the plane of the K-gon"
    lines = "".join(f'<line class="{_mark(i)}" x2="{_n(x)}" y2="{_n(y)}"/>' for i, (x, y) in enumerate(spokes))
    big = "".join(f'<circle class="{_mark(i)}" cx="{_n(x)}" cy="{_n(y)}"/>' for i, (x, y) in enumerate(means))
    names = "".join(
        f'<text class="{_mark(i)}" x="{_n(x)}" y="{_n(y)}">{html.escape(kgon.label(kgon.named[i]))}</text>'
        for i, (x, y) in enumerate(outside(corners / _HALF) * _HALF)
    )
    return (
        f'<svg viewBox="-100 -100 200 200" role="img" aria-label="{html.escape(words)}">{_frame(kgon, corners, picture.reach)}'
        f'<g class="spokes">{lines}</g><g class="dots">{_dots(kgon, labels, points, picture.is_beyond)}</g>'
        f'<g class="means">{big}</g><g class="names">{names}</g></svg>'
    )


def _frame(kgon: Kgon, corners: Array, reach: float) -> str:
    if not _has_polygon(kgon):
        return f'<circle class="frame" r="{_n(_HALF / reach)}"/>'
    if not len(corners):
        return '<path class="frame" d=""/>'
    around = [kgon.named.index(place) for place in kgon.order]
    return f'<path class="frame" d="M{"L".join(f"{_n(corners[i][0])} {_n(corners[i][1])}" for i in around)}Z"/>'


def _dots(kgon: Kgon, labels: Array, points: Array, is_beyond: Array) -> str:
    """Return the dots, grouped by class."""
    groups: list[tuple[int, list[str]]] = []
    for label, (x, y), beyond in zip(labels.tolist(), points, is_beyond, strict=False):
        if not groups or groups[-1][0] != label:
            groups.append((label, []))
        groups[-1][1].append(f'<circle{" class=beyond" if beyond else ""} cx="{_n(x)}" cy="{_n(y)}"/>')
    return "".join(f'<g class="{_mark(kgon.color(label))}">{"".join(dots)}</g>' for label, dots in groups)


def _n(value: float) -> str:
    text = f"{value:.1f}"
    return text.removesuffix(".0") if text != "-0.0" else "0"


def to_script_json(value: object) -> str:
    """JSON for a ``<script type="application/json">``: nothing in it can end the script or start a comment."""
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("<", r"\u003c").replace(">", r"\u003e").replace("&", r"\u0026")
