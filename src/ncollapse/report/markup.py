"""Markup of the pages: templates as self-contained HTML, and panels as SVG in the page's own letters and colors."""

import base64
import hashlib
import html
import os
import re
from collections.abc import Callable
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, FunctionLoader, StrictUndefined
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ncollapse.drawing import style
from ncollapse.drawing.figures import render, slim_svg
from ncollapse.records.files import write_whole

# Where the frame of a panel ends, as a share of the panel's height.
_TOP = 0.93
_VARIABLES = {
    style.INK: "ink",
    style.SOFT: "soft",
    style.GRID: "grid",
    style.LINE: "line",
    style.BASELINE: "baseline",
    style.THIRD: "third",
    style.PAPER: "paper",
}


@cache
def environment() -> Environment:
    """Keep the templates, which take longer to compile than to fill."""
    # jinja2 escapes whatever a run directory says; templates mark as safe only our own files, drawings and escaped JSON.
    return Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, loader=FunctionLoader(_package_text)
    )


def write_html(
    out: Path, template: str, *, script: str | None = None, more_script: str = "", more_style: str = "", **context: Any
) -> Path:
    """Fill a template that extends ``frame.html`` and write it, whole or not at all, into a folder made if need be."""
    code, style = (_package_text(script) if script else "") + more_script, _package_text("page.css") + more_style
    digest = base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()
    page = environment().get_template(template).render(css=style, script=code, script_hash=digest, **context)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_whole(out, page)
    return out


def link(page: Path, out: Path) -> str:
    """Return the path of a page from another one, fully quoted, so that a name stays text; empty if there is no page."""
    return quote(Path(os.path.relpath(page.resolve(), out.resolve().parent)).as_posix()) if page.is_file() else ""


def _package_text(name: str) -> str:
    return files("ncollapse.report").joinpath("templates", name).read_text(encoding="utf-8")


def panel_svg(draw: Callable[[Axes], None], *, width: float, name: str, label: str, num_layers: int) -> str:
    """Draw one panel and make it fit for a page."""
    with style.house_style(outlines=False):
        figure = Figure(figsize=(width, 2.55), layout="constrained", facecolor="none")
        axes = figure.subplots()
        axes.set_facecolor("none")
        draw(axes)
        # The page says what the axis means in the caption, in type that does not shrink with the drawing.
        axes.set_ylabel("")
        _set_top(figure, axes)
    svg = slim_svg(render(figure, "svg", outlines=False).decode())
    svg = re.sub(
        r'<svg [^>]*viewBox="([^"]*)"[^>]*>', rf'<svg viewBox="\1" role="img" aria-label="{html.escape(label)}">', svg, count=1
    )
    svg = re.sub(r'((?:\bid=|href=)"#?|url\(#)', rf"\g<1>{name}-", svg)
    return _recolor(svg, num_layers)


def _set_top(figure: Figure, axes: Axes) -> None:
    """Lay the panel out, then let its frame end where all others do: numbers above one frame would lower it in its row."""
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    place = axes.get_position()
    axes.set_position((place.x0, place.y0, place.width, _TOP - place.y0))


def depth_rules(index: int, num_layers: int) -> str:
    """Return the CSS variables of one run's colors of depth, for light and for dark screens."""
    light, dark = (
        "".join(f"--depth-{i}:{color};" for i, color in enumerate(style.depth_colors(num_layers, dark=is_dark)))
        for is_dark in (False, True)
    )
    return f".run-{index}{{{light}}}@media screen and (prefers-color-scheme:dark){{.run-{index}{{{dark}}}}}"


def _recolor(svg: str, num_layers: int) -> str:
    variables = _VARIABLES | {color: f"depth-{i}" for i, color in enumerate(style.depth_colors(num_layers))}
    return re.sub(r"#[0-9a-f]{6}\b", lambda match: f"var(--{variables[match[0]]})" if match[0] in variables else match[0], svg)
