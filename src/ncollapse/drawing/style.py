"""Colors, ticks and type of all figures: the Okabe–Ito palette for kinds of lines, viridis for depth."""

import math
from collections.abc import Iterable
from contextlib import AbstractContextManager
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.ticker import FixedLocator, Formatter, FuncFormatter, MaxNLocator, NullLocator

from ncollapse.drawing.wording import number

INK, SOFT, GRID = "#1f2430", "#5f6673", "#e1e4ea"
PAPER = "#ffffff"
LINE, BASELINE, THIRD = "#0072b2", "#d55e00", "#009e73"

# Pictures of layers in a row of a K-gon.
MOST_COLUMNS = 6
# Of more layers, every second, third, … is counted.
_MOST_LAYER_TICKS = 9
_DRAWING = (
    "axes.",
    "figure.",
    "font.",
    "grid.",
    "legend.",
    "lines.",
    "mathtext.",
    "patch.",
    "path.",
    "savefig.",
    "svg.",
    "text.",
)
_HOUSE = {
    "font.size": 9.0,
    "axes.unicode_minus": True,
    "mathtext.fontset": "dejavusans",
    "svg.hashsalt": "ncollapse",
    "text.color": INK,
    "axes.labelcolor": INK,
}


def house_style(*, outlines: bool = True) -> AbstractContextManager[None]:
    """Return a context with matplotlib's defaults and our settings, whatever the user has set outside."""
    drawing = (*_DRAWING, "xtick.", "ytick.")
    settings: dict[Any, Any] = {key: value for key, value in mpl.rcParamsDefault.items() if key.startswith(drawing)}
    return mpl.rc_context(settings | _HOUSE | {"svg.fonttype": "path" if outlines else "none"})


def depth_colors(num_layers: int, *, dark: bool = False) -> list[str]:
    """One color a layer, sequential: the deeper the layer, the stronger its contrast to the background."""
    start, stop = (0.36, 0.97) if dark else (0.74, 0.02)
    steps = max(num_layers - 1, 1)
    return [to_hex(mpl.colormaps["viridis"](start + (stop - start) * i / steps)) for i in range(num_layers)]


class _Numbers(Formatter):
    """The labels of a linear axis, spelled as the numbers in the text: 0.0005 and never 5×10⁻⁴ beside a 10⁻⁴ at the end."""

    def __call__(self, x: float, pos: int | None = None) -> str:
        """Write a number with as many digits as set it apart from its neighbors."""
        low, high = sorted(map(float, self.axis.get_view_interval()))  # type: ignore[union-attr]
        span, size = high - low, max(abs(low), abs(high))
        digits = 3 + max(0, math.ceil(math.log10(size / span))) if span > 0 else 6
        return number(0.0 if abs(x) < 1e-9 * span else x, digits)


def prepare(axes: Axes) -> None:
    """Frame, grid and tick labels of one panel."""
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(_Numbers())
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(SOFT)
    axes.tick_params(color=SOFT, labelcolor=INK, labelsize=8.5, length=3)
    axes.grid(visible=True, color=GRID, linewidth=0.7)
    axes.set_axisbelow(True)


def epoch_ticks(first: int, last: int) -> list[int]:
    """Ticks of the epoch axis: the first epoch, 1, 3, 10, 30, … and the last one, with room for their labels."""
    powers = [1, *(factor * 10**power for power in range(1, 9) for factor in (0.3, 1))]
    return sorted({first, *(round(tick) for tick in powers if tick > 1.6 * first and tick * 2.2 < last), last})


def log_ticks(low: float, high: float) -> list[float]:
    """Round numbers in [low, high] for a log axis: as many as fit, of 1-2-5, 1-3, or whole decades."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    for digits in ((1, 1.5, 2, 3, 4, 5, 6, 7, 8, 9), (1, 2, 3, 5, 7), (1, 2, 5), (1, 3), (1,)):
        ticks = [float(f"{digit}e{power}") for power in range(first, last + 1) for digit in digits]
        ticks = [tick for tick in ticks if low <= tick <= high]
        if len(ticks) <= 6:
            return ticks
    return ticks[:: math.ceil(len(ticks) / 6)]


def fit_log(axes: Axes, values: Iterable[float | None]) -> None:
    """Set a log y axis around the positive values, with plain numbers as labels (a range below a decade needs labels too)."""
    positive = [value for value in values if value is not None and value > 0]
    low, high = min(positive) / 1.12, max(positive) * 1.12
    axes.set_yscale("log")
    axes.set_ylim(low, high)
    ticks = log_ticks(low, high)
    if len(ticks) < 2:
        ticks = [float(tick) for tick in MaxNLocator(4).tick_values(low, high) if low <= tick <= high]
    axes.yaxis.set_major_locator(FixedLocator(ticks))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: number(value, 6)))


def fit_linear(axes: Axes, values: Iterable[float | None]) -> None:
    """Set a linear y axis around the values, never of height zero or of that of their rounding."""
    known = [value for value in values if value is not None]
    low, high = min(known), max(known)
    flat = high - low <= 1e-12 * max(abs(low), abs(high))
    margin = 0.05 * max(abs(high), 0.1) if flat else 0.06 * (high - low)
    # Shares and errors end at 0: an axis goes below it only for values that do. Values that all are 1 are shares.
    axes.set_ylim(max(low - margin, 0.0) if low >= 0 else low - margin, high + (0.06 if flat and high == 1 else 1) * margin)


def even_columns(count: int, most: int) -> int:
    """Return the number of columns, at most so many, that fills the rows most evenly: 7 in rows of up to 6 are 4 and 3."""
    return max(1, -(-count // max(1, -(-count // most))))


def short(name: str, length: int = 26) -> str:
    """Shorten a name for a legend: the middle is cut, because both ends of a module's path tell most."""
    half = (length - 1) // 2
    return name if len(name) <= length else f"{name[:half]}…{name[-half:]}"


def short_layer(name: str, length: int = 26) -> str:
    """Shorten the name of a layer: the modules it lies in give way first, down to a letter, since the last parts tell most."""
    parts = name.split(".")
    for i, part in enumerate(parts[:-1]):
        if len(".".join(parts)) <= length:
            break
        parts[i] = part[:1] if part.isalpha() or "_" in part else part
    return short(".".join(parts), length)


def count_layers(axes: Axes, num_layers: int) -> None:
    """Set an x axis that counts layers."""
    axes.set_xticks(range(0, num_layers, -(-num_layers // _MOST_LAYER_TICKS)))
    axes.set_xlim(-0.5, num_layers - 0.5)
    axes.set_xlabel("layer")
