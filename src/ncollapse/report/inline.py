"""One panel as SVG inside the page: letters stay text, colors become the page's own, so that light and dark both work."""

import html
import re
from collections.abc import Callable

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ncollapse.drawing import style
from ncollapse.drawing.figures import render

__all__ = ["depth_rules", "panel_svg"]

_VARIABLES = {
    style.INK: "ink",
    style.SOFT: "soft",
    style.GRID: "grid",
    style.LINE: "line",
    style.NULL: "null",
    style.THIRD: "third",
    style.PAPER: "paper",
}


def panel_svg(draw: Callable[[Axes], None], *, width: float, name: str, label: str, num_layers: int) -> str:
    """Draw one panel and make it fit for a page."""
    with style.house_style(outlines=False):
        figure = Figure(figsize=(width, 2.55), layout="constrained", facecolor="none")
        axes = figure.subplots()
        axes.set_facecolor("none")
        draw(axes)
        # The page says what the axis means in the caption, in type that does not shrink with the drawing.
        axes.set_ylabel("")
    svg = _slim(render(figure, "svg", outlines=False).decode())
    svg = re.sub(
        r'<svg [^>]*viewBox="([^"]*)"[^>]*>', rf'<svg viewBox="\1" role="img" aria-label="{html.escape(label)}">', svg, count=1
    )
    svg = re.sub(r'((?:\bid=|href=)"#?|url\(#)', rf"\g<1>{name}-", svg)
    return _recolor(svg, num_layers)


def depth_rules(index: int, num_layers: int) -> str:
    """The CSS variables of one run's colors of depth, for light and for dark screens."""
    light, dark = (
        "".join(f"--depth-{i}:{color};" for i, color in enumerate(style.depth_colors(num_layers, dark=is_dark)))
        for is_dark in (False, True)
    )
    return f".run-{index}{{{light}}}@media screen and (prefers-color-scheme:dark){{.run-{index}{{{dark}}}}}"


def _slim(svg: str) -> str:
    """Drop what the page does not need, a third: names of groups, metadata, fonts (the page has its own), digits."""
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|\n", " ", svg[svg.index("<svg") :], flags=re.DOTALL)
    svg = re.sub(r"<g id=\"[^\"]*\"", "<g", svg)
    svg = re.sub(r" font-family: [^;\"]*;| transform=\"rotate\(-0 [^\"]*\"", "", svg)
    svg = re.sub(r' (?:d|x|y|transform)="[^"]*"', lambda match: re.sub(r"(\.\d\d)\d+", r"\1", match[0]), svg)
    return re.sub(r"\s+", " ", svg).replace("> <", "><")


def _recolor(svg: str, num_layers: int) -> str:
    variables = _VARIABLES | {color: f"depth-{i}" for i, color in enumerate(style.depth_colors(num_layers))}
    return re.sub(r"#[0-9a-f]{6}\b", lambda match: f"var(--{variables[match[0]]})" if match[0] in variables else match[0], svg)
