"""The K-gon as a figure of matplotlib, and as an animation over the epochs."""

import io
import itertools
from pathlib import Path
from typing import Any, cast

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PathCollection
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.text import Text
from PIL import Image

from ncollapse.drawing import style
from ncollapse.drawing.figures import render
from ncollapse.drawing.kgon import COLORS, Array, Kgon, Picture, outside
from ncollapse.records.errors import ReportError
from ncollapse.records.files import write_whole
from ncollapse.records.reading import Run

# In inches: side of a picture, height of the title above all, of the notes below each.
_SIDE, _HEAD, _FOOT = 1.7, 0.4, 0.3
_DOT, _MARK = 5, 2
# Of an animation: milliseconds of a frame and of the last one, dots per inch, and how strong the colors of the palette are.
_PAUSE, _END, _DPI, _SHARES = 200, 2400, 84, (1, 0.55, 0.25)


class _Panel:
    """The artists of one layer, which move from epoch to epoch."""

    def __init__(self, axes: Axes, kgon: Kgon, layer: int, labels: Array) -> None:
        self._axes, self._kgon, self._layer = axes, kgon, layer
        axes.set(xlim=(-1, 1), ylim=(-1, 1), aspect="equal")
        axes.set_axis_off()
        # The second ten of twenty classes are rings.
        colors = [COLORS[i % len(COLORS)] for i in range(len(kgon.named))]
        inside = [color if i < len(COLORS) else style.PAPER for i, color in enumerate(colors)]
        edges = [style.PAPER if i < len(COLORS) else color for i, color in enumerate(colors)]
        places = [kgon.color(label) for label in labels.tolist()]
        dots = [style.SOFT if place is None else colors[place] for place in places]
        fills = [style.SOFT if place is None else inside[place] for place in places]
        (self._frame,) = axes.plot([], [], color=style.SOFT, linewidth=0.6, zorder=1)
        self._spokes = LineCollection([], colors=colors, linewidths=1.1, zorder=2)
        axes.add_collection(self._spokes)
        self._dots = _circles(axes, fills, dots, size=_DOT, linewidth=0.4, alpha=0.5, zorder=3)
        self._means = _circles(axes, inside, edges, size=26, linewidth=0.8, alpha=1, zorder=4)
        halo = [withStroke(linewidth=1.6, foreground=style.PAPER)]
        options: dict[str, Any] = {"fontsize": 7, "fontweight": "bold", "ha": "center", "va": "center", "path_effects": halo}
        self._names = [
            axes.text(0, 0, kgon.label(place), color=color, parse_math=False, zorder=5, **options)
            for place, color in zip(kgon.named, colors, strict=True)
        ]

        self._note = axes.text(0.5, -0.01, "", fontsize=6, color=style.SOFT, ha="center", va="top", transform=axes.transAxes)

    def name(self) -> None:
        """Write depth and name of the layer above it."""
        depth, name = self._kgon.samples.header.depths[self._layer], style.short_layer(self._kgon.layers[self._layer], 20)
        self._axes.set_title(f"{depth}  {name}", fontsize=7.5, color=style.INK, pad=1, parse_math=False)

    def show(self, picture: Picture) -> None:
        """Move everything to the places of an epoch; a layer whose class means coincide shows nothing."""
        self._note.set_text(picture.note.replace("; ", "\n"))
        self._dots.set_offsets(picture.points)
        self._dots.set_sizes(np.where(picture.is_beyond, _MARK, _DOT))
        self._means.set_offsets(picture.means)
        self._spokes.set_segments([[(0, 0), tuple(end)] for end in picture.spokes])
        self._frame.set_data(*self._outline(picture).T)
        for text, place in itertools.zip_longest(self._names, outside(picture.corners)):
            text.set_visible(place is not None)
            if place is not None:
                text.set_position(place)

    def _outline(self, picture: Picture) -> Array:
        kgon = self._kgon
        if len(kgon.named) < len(kgon.order):
            turn = np.linspace(0, 2 * np.pi, 200)
            return np.stack([np.cos(turn), np.sin(turn)], axis=1) / picture.reach
        around = [kgon.named.index(place) for place in kgon.order]
        return picture.corners[[*around, around[0]]] if len(picture.corners) else picture.corners


def _circles(
    axes: Axes, inside: list[str], edges: list[str], *, size: float, linewidth: float, **options: Any
) -> PathCollection:
    spots = np.zeros(len(inside))
    return axes.scatter(spots, spots, s=size, c=inside, edgecolors=edges, linewidths=linewidth, clip_on=False, **options)


def plot_kgon(run: Run, epoch: int | None = None, *, layer: str | None = None, ax: Axes | None = None) -> Figure:
    """Draw the K-gon: all classes in one plane, one picture per layer.

    Small dots are samples, large ones class means, lines the rows of the classifier, and the polygon has the corners of the
    nearest simplex ETF (docs/theory.md, 1.6). At collapse all dots of a class lie on its corner.

    Args:
        run: A run directory, by ``ncollapse.records.read_run``.
        epoch: A measured epoch; None is the last one.
        layer: The layer to draw into ``ax``; None is the last one.
        ax: Draw one layer there. None makes a figure of all layers.

    Returns:
        The figure.

    Raises:
        ReportError: If the run holds no samples, or none of this epoch or layer.
    """
    kgon = kgon_of(run)
    epochs = kgon.samples.epochs
    epoch = kgon.epochs[-1] if epoch is None else epoch
    if epoch not in epochs:
        known = ", ".join(map(str, [*epochs][:3]))
        words = f"{run.path}: needed the {run.unit} of a measurement, such as {known}, got {epoch}."
        raise ReportError(f"{words} Choose one of these.")
    with style.house_style():
        if ax is not None:
            _Panel(ax, kgon, _place_of(run, kgon, layer), epochs[epoch].labels).show(
                kgon.pictures(epoch)[_place_of(run, kgon, layer)]
            )
            return cast(Figure, ax.figure)
        figure, panels = _figure(kgon, epoch)
        _show(kgon, panels, epoch)
        if epoch != run.epochs[-1]:
            _head(figure, f"{run.unit} {epoch}")
    return figure


def _head(figure: Figure, words: str) -> Text:
    return figure.suptitle(words, x=0.008, y=0.995, ha="left", va="top", fontsize=9.5)


def _place_of(run: Run, kgon: Kgon, layer: str | None) -> int:
    if layer is not None and layer not in kgon.layers:
        raise ReportError(f"{run.path}: needed one of the layers {', '.join(kgon.layers)}, got {layer!r}. Choose one of these.")
    return len(kgon.layers) - 1 if layer is None else kgon.layers.index(layer)


def save_animation(run: Run, file: Path, *, frames: int = 40) -> None:
    """Write the K-gon over the epochs as an animated GIF, or the last epoch as PNG or SVG, whole or not at all.

    Args:
        run: A run directory.
        file: Its ending chooses the kind.
        frames: Most frames of a GIF: of more measured epochs, as many at equal distances.

    Raises:
        ReportError: If the run holds no samples, or the ending is another one.
        OSError: If the file cannot be written.
    """
    kind = file.suffix.lower()
    if kind not in {".gif", ".png", ".svg"}:
        raise ReportError(
            f"{file}: needed a name that ends in .gif, .png or .svg. The first is animated, the others show the end."
        )
    file.parent.mkdir(parents=True, exist_ok=True)
    if kind != ".gif":
        write_whole(file, render(plot_kgon(run), kind[1:], dpi=160))
        return
    kgon = kgon_of(run)
    stops = np.linspace(0, len(kgon.epochs) - 1, min(frames, len(kgon.epochs))).round().astype(int)
    with style.house_style():
        figure, panels = _figure(kgon, kgon.epochs[-1])
        words = _head(figure, "")
        images = []
        for epoch in (kgon.epochs[stop] for stop in stops):
            words.set_text(f"{run.unit} {epoch}")
            _show(kgon, panels, epoch)
            images.append(Image.open(io.BytesIO(render(figure, "png", dpi=_DPI))).convert("RGB"))
    small = [image.quantize(palette=_palette(), dither=Image.Dither.NONE) for image in images]
    packed = io.BytesIO()
    times = [_PAUSE] * (len(small) - 1) + [_END]
    small[0].save(packed, "gif", save_all=True, append_images=small[1:], duration=times, loop=0, optimize=True)
    write_whole(file, packed.getvalue())


def _palette() -> Image.Image:
    """Return one palette for all frames, so that equal colors stay equal: the classes' colors and ink, blended with paper."""
    # A palette that the images themselves give would mix the colors of classes.
    blended = [
        round(255 + share * (part - 255))
        for color in (*COLORS, style.SOFT)
        for share in _SHARES
        for part in (int(color[i : i + 2], 16) for i in (1, 3, 5))
    ]
    palette = Image.new("P", (1, 1))
    palette.putpalette([255, 255, 255, *blended])
    return palette


def kgon_of(run: Run) -> Kgon:
    """Return what is drawn of a run."""
    if run.samples is None:
        raise ReportError(
            f"{run.path}: needed samples.safetensors, found none: an earlier version wrote this run. Run or measure it again."
        )
    return Kgon.of(run.samples)


def _show(kgon: Kgon, panels: list[_Panel], epoch: int) -> None:
    for panel, picture in zip(panels, kgon.pictures(epoch), strict=True):
        panel.show(picture)


def _figure(kgon: Kgon, epoch: int) -> tuple[Figure, list[_Panel]]:
    """Return a panel for each layer, for epochs whose dots are of the same classes as those of this one."""
    columns = style.even_columns(len(kgon.layers), style.MOST_COLUMNS)
    rows = -(-len(kgon.layers) // columns)
    figure = Figure(figsize=(columns * _SIDE, rows * (_SIDE + _FOOT) + _HEAD), facecolor="white")
    low, high = _FOOT / figure.get_figheight(), 1 - _HEAD / figure.get_figheight()
    figure.subplots_adjust(0.01, low, 0.99, high, wspace=0.04, hspace=0.24)
    panels = []
    for place in range(len(kgon.layers)):
        axes = figure.add_subplot(rows, columns, place + 1)
        panels.append(_Panel(axes, kgon, place, kgon.samples.epochs[epoch].labels))
        panels[-1].name()
    return figure, panels
