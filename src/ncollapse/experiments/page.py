"""The page of an experiment: what the paper says, what was found, and the figure with its numbers."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from ncollapse.claims.rules import RULES
from ncollapse.drawing import style
from ncollapse.drawing.wording import number
from ncollapse.experiments.experiment import PAPERS, Experiment, Panel, SeedFile
from ncollapse.experiments.figure import colors_of, draw_panel, lines_of
from ncollapse.experiments.reproduce import Place
from ncollapse.experiments.standing import Standing
from ncollapse.records.file_names import REPORT
from ncollapse.report.claims_page import interval_words
from ncollapse.report.markup import PanelDrawing, link, panel_svgs, write_html
from ncollapse.report.report import write_report


def write_experiment_page(experiment: Experiment, standing: Standing, place: Place, *, at_paper_size: bool = False) -> Path:
    """Write the page of an experiment into its folder, and those of its runs that have none.

    Returns:
        The page.
    """
    folder = place.of(experiment, at_paper_size)
    seeds = place.seeds(experiment, at_paper_size)
    runs = place.runs(seeds)
    for run in runs:
        if not (run / REPORT).is_file():
            write_report([run])
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
