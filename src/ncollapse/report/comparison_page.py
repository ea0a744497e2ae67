"""The comparison: Figures 2 and 3 of several runs side by side, on common axes."""

import os
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from ncollapse.drawing.findings import Finding, findings
from ncollapse.drawing.panels import (
    PROGRESSIVE,
    MetricPanel,
    draw_over_depth,
    draw_over_epochs,
    require_position,
    shown_over_depth,
    shown_over_epochs,
)
from ncollapse.drawing.wording import MEASURED_ONLY, POSITIONS, spelled
from ncollapse.records.errors import ReportError
from ncollapse.records.file_names import COMPARISON, RECIPE, REPORT, STATUS, SWEEP
from ncollapse.records.reading import Run, read_run
from ncollapse.records.recipe_settings import differing_settings
from ncollapse.records.sweep import read_sweep
from ncollapse.report.markup import PanelDrawing, depth_rules, link, panel_svgs, write_html
from ncollapse.report.tables import mark, unit_of

_Draw = Callable[..., None]


# In letters: three lines above a panel.
_LONGEST_HEADING = 60


class _Column(NamedTuple):
    """One run, and what sets it apart, or a letter and the recipe where that is too much for the head of a column."""

    run: Run
    label: str


def write_comparison(folders: Iterable[Path], out: Path, *, position: str = "projection") -> Path:
    """Write Figures 2 (layers over epochs) and 3 (layers, straight line, baseline) of several runs, one column per run.

    All panels in a row share one y axis; each column links to the page of its run, if there is one.

    Args:
        folders: Run directories, and folders of sweeps, each represented by the first finished seed of every setting.
        out: The HTML file.
        position: How layers are placed on the line: a key of ``positions`` in ``depth.json``.

    Returns:
        The page.

    Raises:
        ReportError: If there is no finished run, a file is missing or broken, or the position is unknown.
    """
    folders = [Path(folder) for folder in folders]
    columns = _columns(folders)
    followed = [column for column in columns if column.run.has_depth]
    trained = any(len(column.run.epochs) > 1 for column in columns)
    # Runs without results over depth have a place beside others as long as there is something to draw of them.
    for column in followed if trained else columns:
        require_position(column.run, position)
    laid = partial(draw_over_depth, position=position)
    out = Path(out)
    return write_html(
        out,
        "comparison.html",
        title=f"{len(columns)} runs side by side",
        rules="".join(depth_rules(index, len(column.run.measured_layers)) for index, column in enumerate(columns)),
        unit=unit_of([column.run for column in columns]),
        has_sweep=any((folder / SWEEP).is_file() for folder in folders),
        columns=[_context(column, out, cells) for column, cells in zip(columns, _findings(columns, position), strict=True)],
        settings=_settings(columns),
        position=POSITIONS.get(position, position),
        over_epochs=_rows(columns, "epochs", shown_over_epochs, draw_over_epochs) if trained else [],
        over_depth=_rows(columns, "depth", shown_over_depth, laid),
        starts_untrained=any(column.run.epochs[0] == 0 for column in columns),
    )


def comparison_place(folders: Sequence[Path]) -> Path:
    """Return the page's default place: in the folder that all folders lie in, if it is no run or sweep; else in the first."""
    first = folders[0]
    # Not resolved: a link lies where its name does.
    above = {Path(os.path.abspath(folder)).parent for folder in folders}
    shared = above.pop()
    if len(folders) == 1 or above or any((shared / name).exists() for name in (SWEEP, STATUS, RECIPE)):
        return first / COMPARISON
    return (first.parent if first.name not in {"", ".."} else shared) / COMPARISON


def _columns(folders: Sequence[Path]) -> list[_Column]:
    runs: list[Run] = []
    for folder in folders:
        if (folder / SWEEP).is_file():
            runs += [members[0] for _, members in read_sweep(folder).by_setting() if members]
        else:
            runs.append(read_run(folder))
    if not runs:
        named = ", ".join(map(str, folders)) or "no folder"
        raise ReportError(
            f"A comparison needs at least one finished run, found none in {named}. Name run directories or sweeps."
        )
    labels = [", ".join(f"{field}={value}" for field, value in settings) for settings in _differing(runs)]
    if max(map(len, labels)) > _LONGEST_HEADING:
        labels = [f"{mark(index).upper()}: {run.recipe.name or run.title}" for index, run in enumerate(runs)]
    return [_Column(run, label or run.path.resolve().name) for run, label in zip(runs, labels, strict=True)]


def _differing(runs: Sequence[Run]) -> list[list[tuple[str, str]]]:
    return [[(field, spelled(value)) for field, value in settings] for settings in differing_settings(runs)]


def _settings(columns: Sequence[_Column]) -> list[tuple[str, list[str]]]:
    """List the settings that differ where column heads do not show them: fields with one value per run."""
    differing = _differing([column.run for column in columns])
    if all(
        f"{field}={value}" in column.label for column, pairs in zip(columns, differing, strict=True) for field, value in pairs
    ):
        return []
    columns_of_values = [dict(pairs) for pairs in differing]
    fields = dict.fromkeys(field for pairs in differing for field, _ in pairs)
    return [(field, [values.get(field, "–") for values in columns_of_values]) for field in fields]


def _findings(columns: Sequence[_Column], position: str) -> list[list[Finding]]:
    """Return the findings of every run, as many for each; a dash where one was not measured."""
    found = [{cell.name: cell for cell in findings(column.run, position)} for column in columns]
    names = max(map(list, found), key=len)
    return [[cells.get(name, Finding(name, "–", "paths not followed")) for name in names] for cells in found]


def _context(column: _Column, out: Path, cells: list[Finding]) -> dict[str, Any]:
    run = column.run
    return {
        "label": column.label,
        "folder": run.path.resolve().name,
        "href": link(run.path / REPORT, out),
        "origin": _origin(run),
        "layers": run.measured_layers,
        "findings": cells,
    }


def _origin(run: Run) -> str:
    if run.is_measured_only:
        return MEASURED_ONLY
    return f"seed {'unknown' if run.recipe.seed is None else run.recipe.seed}, {run.unit} {run.epochs[-1]}"


def _rows(
    columns: Sequence[_Column], over: str, shown: Callable[[Run, MetricPanel], list[float | None]], draw: _Draw
) -> list[tuple[str, str, list[str]]]:
    """Name and meaning of each panel, and its drawing for every run, with room for what is shown of all of them."""
    drawable = [column for column in columns if over == "epochs" or column.run.has_depth]
    shared = {panel.key: [value for column in drawable for value in shown(column.run, panel)] for panel in PROGRESSIVE}
    lacks = [_lack(column.run, over) for column in columns]
    cells = [(panel, index) for panel in PROGRESSIVE for index, lack in enumerate(lacks) if not lack]
    drawings = [_drawing(columns[index], panel, f"run{index}-{over}", draw, shared[panel.key]) for panel, index in cells]
    svgs = dict(zip(cells, panel_svgs(drawings, width=2.75), strict=True))
    return [
        (panel.key.upper(), panel.label, [lack or svgs[panel, index] for index, lack in enumerate(lacks)])
        for panel in PROGRESSIVE
    ]


def _lack(run: Run, over: str) -> str:
    """Say why there is no drawing of a run; empty if there is one."""
    if over == "epochs":
        # One epoch alone is not a curve.
        return f"measured at one {run.unit} only" if len(run.epochs) == 1 else ""
    return "" if run.has_depth else "paths not followed"


def _drawing(column: _Column, panel: MetricPanel, name: str, draw: _Draw, shared: Sequence[float | None]) -> PanelDrawing:
    run, over = column.run, f"{column.run.unit}s" if name.endswith("epochs") else "depth"
    return PanelDrawing(
        partial(draw, run=run, panel=panel, shared=shared),
        name=f"{name}-{panel.key}",
        label=f"{panel.key.upper()}, {panel.label}, over {over}, {column.label}",
        num_layers=len(run.measured_layers),
    )
