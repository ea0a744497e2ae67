"""Markup of the pages: templates as self-contained HTML, and panels as SVG in the page's own letters and colors."""

import base64
import hashlib
import html
import os
import re
from collections.abc import Callable, Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from ncollapse.drawing import style
from ncollapse.drawing.figures import render, slim_svg
from ncollapse.drawing.kgon_html import breakable
from ncollapse.records.files import write_whole

# Where the frame of a panel ends, as a share of the panel's height: numbers above one frame do not lower it in its row.
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
def jinja_environment() -> Environment:
    """Keep the templates, which take longer to compile than to fill."""
    # jinja2 escapes whatever a run directory says; templates mark as safe only our own files, drawings and escaped JSON.
    made = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, loader=FunctionLoader(_package_text)
    )
    made.filters |= {"breakable": lambda name: Markup(breakable(name)), "coded": _coded}
    made.globals["even_columns"] = style.even_columns
    return made


def write_html(
    out: Path, template: str, *, script: str | None = None, more_script: str = "", more_style: str = "", **context: Any
) -> Path:
    """Fill a template that extends ``frame.html`` and write it, whole or not at all, into a folder made if need be."""
    code, style = (_package_text(script) if script else "") + more_script, _package_text("page.css") + more_style
    digest = base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()
    page = jinja_environment().get_template(template).render(css=style, script=code, script_hash=digest, **context)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_whole(out, page)
    return out


def link(page: Path, out: Path) -> str:
    """Return the path of a page from another one, fully quoted, so that a name stays text; empty if there is no page."""
    return quote(Path(os.path.relpath(page.resolve(), out.resolve().parent)).as_posix()) if page.is_file() else ""


def _package_text(name: str) -> str:
    return files("ncollapse.report").joinpath("templates", name).read_text(encoding="utf-8")


def _coded(words: str) -> Markup:
    """Set what is between backticks as code."""
    return Markup(re.sub("`([^`]*)`", r"<code>\1</code>", html.escape(words)))


class PanelDrawing(NamedTuple):
    """What draws one panel on its Axes, the start of the ids in its SVG, its label for screen readers, and its layers."""

    draw: Callable[[Axes], None]
    name: str
    label: str
    num_layers: int


def panel_svgs(drawings: Sequence[PanelDrawing], *, width: float) -> list[str]:
    """Draw panels that stand in one row or grid and make them fit for a page: their frames are of one size."""
    with style.house_style(outlines=False):
        figures = [_laid_out(drawing.draw, width) for drawing in drawings]
        boxes = [figure.axes[0].get_position() for figure in figures]
        for figure in figures:
            left, right, bottom = max(box.x0 for box in boxes), min(box.x1 for box in boxes), max(box.y0 for box in boxes)
            figure.axes[0].set_position((left, bottom, right - left, _TOP - bottom))
    return [_to_page(figure, drawing) for figure, drawing in zip(figures, drawings, strict=True)]


def _laid_out(draw: Callable[[Axes], None], width: float) -> Figure:
    """Draw a panel and find the room that its labels need."""
    figure = Figure(figsize=(width, 2.55), facecolor="none")
    axes = figure.subplots()
    axes.set_facecolor("none")
    draw(axes)
    # The page says what the axis means in the caption, in type that does not shrink with the drawing.
    axes.set_ylabel("")
    # Not the figure's own: with one, even an empty one, it is drawn two times more.
    ConstrainedLayoutEngine().execute(figure)
    return figure


def _to_page(figure: Figure, drawing: PanelDrawing) -> str:
    svg = slim_svg(render(figure, "svg", outlines=False).decode())
    label = html.escape(drawing.label)
    svg = re.sub(r'<svg [^>]*viewBox="([^"]*)"[^>]*>', rf'<svg viewBox="\1" role="img" aria-label="{label}">', svg, count=1)
    svg = re.sub(r'((?:\bid=|href=)"#?|url\(#)', rf"\g<1>{drawing.name}-", svg)
    return _recolor(svg, drawing.num_layers)


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
