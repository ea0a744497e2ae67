"""The page of an experiment: what the paper says, what was found, the figure with its numbers, and how that is drawn."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, NullLocator

from ncollapse.claims.rules import RULES
from ncollapse.drawing import style
from ncollapse.drawing.wording import number
from ncollapse.experiments.experiment import PAPERS, Experiment, Panel, SeedFile
from ncollapse.experiments.reproduce import Place
from ncollapse.experiments.standing import Standing
from ncollapse.records.file_names import REPORT
from ncollapse.report.claims_page import interval_words
from ncollapse.report.markup import PanelDrawing, link, panel_svgs, write_html
from ncollapse.report.report import write_report

_COLORS = (style.LINE, style.BASELINE, style.THIRD, "#cc79a7", "#e69f00", "#56b4e9", style.INK)
_MARKS = "os^Dv<>"
_MOST_TICKS = 7

# Of a line: what x is, and the values of the seeds there.
Line = dict[float | str, list[float]]


def write_experiment_page(
    experiment: Experiment,
    standing: Standing,
    place: Place,
    *,
    at_paper_size: bool = False,
    say: Callable[[int, int, str], None] = lambda done, total, words: None,
) -> Path:
    """Write the page of an experiment into its folder, and those of its runs that have none.

    Args:
        experiment: What was run.
        standing: Its verdict.
        place: Where its results and its runs are kept.
        at_paper_size: Take the results of the paper's size.
        say: Called with how many pages of runs are there, how many there are to be, and the next one's name.

    Returns:
        The page.
    """
    folder = place.of(experiment, at_paper_size)
    seeds = place.seeds(experiment, at_paper_size)
    runs = place.runs(seeds)
    for done, run in enumerate(runs):
        say(done, len(runs), run.name)
        if not (run / REPORT).is_file():
            write_report([run])
    say(len(runs), len(runs), "")
    out = folder / "index.html"
    return write_html(
        out,
        "experiment.html",
        title=f"{experiment.item}: {experiment.title}",
        experiment=experiment,
        paper=PAPERS[experiment.source],
        size="paper" if at_paper_size else "small",
        standing=standing,
        value=value_words(standing),
        rules=RULES,
        panels=_panels(seeds, experiment.panels),
        seeds=[_seed(item) for item in seeds],
        minutes=minutes_words(standing.seconds / 60),
        runs=[(run.name, link(run / REPORT, out)) for run in runs],
    )


def value_words(standing: Standing) -> str:
    """Write the number behind a verdict, with its interval."""
    return "" if standing.row is None else interval_words(standing.row.estimate, standing.row.is_share)


def minutes_words(minutes: float) -> str:
    """Write a time in minutes, or in seconds where it is short."""
    return f"{minutes * 60:.0f} s" if minutes < 1 else f"{minutes:.0f} min"


def _panels(seeds: Sequence[SeedFile], panels: Sequence[Panel]) -> list[dict[str, Any]]:
    drawings = [
        PanelDrawing(partial(draw_panel, seeds=seeds, panel=panel), f"panel{index}", panel.title, num_layers=1)
        for index, panel in enumerate(panels)
    ]
    return [_panel(seeds, *item) for item in zip(panels, panel_svgs(drawings, width=3.6), strict=True)]


def _panel(seeds: Sequence[SeedFile], panel: Panel, svg: str) -> dict[str, Any]:
    lines = lines_of(seeds, panel)
    columns = list(dict.fromkeys(x for line in lines.values() for x in line))
    colors = [_variable(color) for color in colors_of(len(lines))] if len(lines) > 1 else []
    return {
        "title": panel.title,
        "x": panel.x,
        "svg": svg,
        "legend": list(zip(lines, colors, strict=False)),
        "columns": [x if isinstance(x, str) else number(x) for x in columns],
        "rows": [(name, [_cell(line.get(x, [])) for x in columns]) for name, line in lines.items()],
    }


def _variable(color: str) -> str:
    """Return a color as the page's own, where it has one that changes with the screen."""
    own = {style.LINE: "line", style.BASELINE: "baseline", style.THIRD: "third", style.INK: "ink"}
    return f"var(--{own[color]})" if color in own else color


def _cell(values: Sequence[float]) -> str:
    if not values:
        return "–"
    mean = number(statistics.fmean(values))
    return mean if min(values) == max(values) else f"{mean} ({number(min(values))} to {number(max(values))})"


def _seed(item: SeedFile) -> tuple[str, str, str, str]:
    return str(item.seed), _value(item.value), _value(item.before), minutes_words(item.seconds / 60)


def _value(value: bool | float | None) -> str:
    if value is None:
        return "–"
    return ("right" if value else "wrong") if isinstance(value, bool) else number(value)


def lines_of(seeds: Sequence[SeedFile], panel: Panel) -> dict[str, Line]:
    """Gather the points of a panel: by line and x, the values of the seeds that have one."""
    found: dict[str, Line] = {}
    for seed in seeds:
        for point in seed.points:
            if point.panel == panel.title and point.y is not None:
                found.setdefault(point.line, {}).setdefault(point.x, []).append(point.y)
    return found


def draw_panel(axes: Axes, seeds: Sequence[SeedFile], panel: Panel) -> None:
    """Draw one panel; its y axis is logarithmic where all values are positive and span a factor of two."""
    style.prepare(axes)
    lines = lines_of(seeds, panel)
    values = [value for line in lines.values() for at in line.values() for value in at]
    axes.set_xlabel(panel.x, parse_math=False)
    if not values:
        axes.text(0.5, 0.5, "nothing to draw", transform=axes.transAxes, ha="center", va="center", color=style.SOFT)
        axes.set(xticks=[], yticks=[])
        return
    (style.fit_log if min(values) > 0 and max(values) >= 2 * min(values) else style.fit_linear)(axes, values)
    places = _lay(axes, panel, lines)
    for index, (name, line) in enumerate(lines.items()):
        color, mark = colors_of(len(lines))[index], _MARKS[index % len(_MARKS)]
        at = sorted((places[x], ys) for x, ys in line.items())
        xs, low, high = [x for x, _ in at], [min(ys) for _, ys in at], [max(ys) for _, ys in at]
        # Words have no order that a line could mean.
        has_words = any(isinstance(x, str) for x in line)
        means = [statistics.fmean(ys) for _, ys in at]
        axes.plot(xs, means, f"{mark}{'' if has_words else '-'}", color=color, linewidth=1.3, markersize=4, label=name)
        if has_words:
            axes.vlines(xs, low, high, color=color, linewidth=1.3)
        else:
            axes.fill_between(xs, low, high, color=color, alpha=0.18, linewidth=0)


def colors_of(num_lines: int) -> Sequence[str]:
    """Colors of the lines of a panel: seven that are told apart by everybody, or shades for more."""
    return _COLORS if num_lines <= len(_COLORS) else style.depth_colors(num_lines)


def _lay(axes: Axes, panel: Panel, lines: dict[str, Line]) -> dict[float | str, float]:
    """Set the x axis, and return where every x lies on it: numbers at themselves, words one after the other."""
    all_x = list(dict.fromkeys(x for line in lines.values() for x in line))
    if all(not isinstance(x, str) for x in all_x):
        numbers = sorted(float(x) for x in all_x)
        if panel.log_x and numbers[-1] > 0:
            ticks = numbers[:: -(-len(numbers) // _MOST_TICKS)]
            axes.set_xscale("log" if numbers[0] > 0 else "symlog")
            axes.xaxis.set_major_locator(FixedLocator(ticks))
            axes.xaxis.set_minor_locator(NullLocator())
            axes.set_xticklabels([number(x) for x in ticks])
        return {x: float(x) for x in all_x}
    axes.set_xticks(range(len(all_x)), [style.short(str(x), 16) for x in all_x], parse_math=False)
    axes.set_xlim(-0.5, len(all_x) - 0.5)
    return {x: float(place) for place, x in enumerate(all_x)}
