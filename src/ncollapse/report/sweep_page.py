"""The page of a sweep: quantities of the last layer against what was swept, claims, and a list of the runs."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from ncollapse.claims.estimates import Estimate
from ncollapse.claims.ledger import rule_on_claims
from ncollapse.claims.quantities import QUANTITIES, Quantity, setting_rows, slope_of
from ncollapse.drawing.sweeps import Axis, SettingRow, axis_of, draw_against
from ncollapse.drawing.wording import counted, number, spelled
from ncollapse.records.file_names import COMPARISON, REPORT
from ncollapse.records.reading import Run
from ncollapse.records.sweep import Sweep, SweptRun, read_sweep, swept_words
from ncollapse.report.claims_page import ledger_rows, write_claims_page
from ncollapse.report.markup import PanelDrawing, link, panel_svgs, write_html
from ncollapse.report.run_page import write_page
from ncollapse.report.tables import unit_of


def write_sweep_page(sweep_dir: Path, out: Path | None = None) -> Path:
    """Write the page of a sweep: the last layer at the last epoch against what was swept, claims, and a list of the runs.

    The claims are also written as a page of their own, ``claims.html``, and as ``claims.json``, in the sweep's folder. Only
    finished runs are counted; the others are named with the reason. The slopes' intervals are those of ``log_log_slope``.

    Args:
        sweep_dir: The folder that ``ncollapse sweep`` wrote.
        out: The HTML file; ``sweep.html`` in the sweep's folder if None.

    Returns:
        The page.
    """
    sweep = read_sweep(Path(sweep_dir), "last")
    out = sweep.path / "sweep.html" if out is None else Path(out)
    axis, columns = axis_of(sweep), (*sweep.fields, *sweep.tied)
    finished = [item.run for item in sweep.runs if item.run is not None]
    shown = [quantity for quantity in QUANTITIES if any(quantity.read(run) is not None for run in finished)]
    ledger = rule_on_claims([sweep.path])
    claims_page = write_claims_page(ledger, sweep.path / "claims.html")
    return write_html(
        out,
        "sweep.html",
        title=f"Sweep of {swept_words(sweep.fields, sweep.tied)}",
        folder=sweep.path.resolve().name,
        **_recipe_context(finished, columns),
        fields=sweep.fields,
        columns=columns,
        settings=list(dict.fromkeys(_values(item) for item in sweep.runs)),
        num_runs=counted(len(sweep.runs), "run"),
        num_finished=len(finished),
        unit=unit_of(finished),
        num_unfit=sum(run.status.train_accuracy != 1.0 for run in finished) if axis.numeric and len(axis.places) > 2 else 0,
        quantities=_quantities(sweep, axis, shown),
        # Groups of classes are those of imbalanced data; nobody misses them elsewhere.
        undefined=[quantity.title for quantity in QUANTITIES if quantity not in shown and "." not in quantity.key],
        rulings=ledger_rows(ledger),
        comparison_href=link(sweep.path / COMPARISON, out),
        claims_href=link(claims_page, out),
        unfinished=[item for item in sweep.runs if item.problem],
        runs=[_run_context(item, sweep, out) for item in sweep.runs],
    )


def write_run_pages(sweep_dir: Path, *, on_progress: Callable[[int, int], None] | None = None) -> list[Path]:
    """Write ``report.html`` of every finished run of a sweep that has none.

    Args:
        sweep_dir: The folder that ``ncollapse sweep`` wrote. The pages of its runs quote its ``claims.json``.
        on_progress: Called after each with the pages that are written and the pages in all.

    Returns:
        The new pages.
    """
    missing = [item.run.path for item in read_sweep(Path(sweep_dir), "last").runs if item.run is not None and not item.has_page]
    pages = []
    for folder in missing:
        pages.append(write_page(folder, folder / REPORT))
        if on_progress is not None:
            on_progress(len(pages), len(missing))
    return pages


def _recipe_context(runs: Sequence[Run], fields: Sequence[str]) -> dict[str, Any]:
    """Name the recipe of all runs and the settings they share, apart from what is swept."""
    recipe = runs[0].recipe if runs else None
    common = [item for item in (recipe.changed if recipe else ()) if all(item in run.recipe.changed for run in runs)]
    changed = [item for item in common if item.partition("=")[0] not in fields]
    # Of changed settings the recipe's title may not be true.
    return {
        "recipe": recipe,
        "recipe_title": recipe.title if recipe and not changed else "",
        "changed": [spelled(item) for item in changed],
    }


def _quantities(sweep: Sweep, axis: Axis, shown: Sequence[Quantity]) -> list[dict[str, Any]]:
    """Return what the template needs to know about the quantities."""
    rows = [setting_rows(sweep, quantity) for quantity in shown]
    drawings = [
        PanelDrawing(
            partial(draw_against, axis=axis, rows=found, signed=quantity.signed),
            name=f"quantity{index}",
            label=f"{quantity.title} against {axis.label or 'nothing swept'}",
            num_layers=1,
        )
        for index, (quantity, found) in enumerate(zip(shown, rows, strict=True))
        if len(found) > 1
    ]
    svgs = panel_svgs(drawings, width=3.3) or [""] * len(shown)
    return [_context(sweep, axis, *item) for item in zip(shown, rows, svgs, strict=True)]


def _context(sweep: Sweep, axis: Axis, quantity: Quantity, rows: Sequence[SettingRow], svg: str) -> dict[str, Any]:
    slope = slope_of(axis, quantity, [runs for _, runs in sweep.by_setting()])
    positive = sum(row.mean == row.mean and x > 0 for x, row in zip(axis.places, rows, strict=True))
    return {
        "title": quantity.title,
        "meaning": quantity.meaning,
        "svg": svg,
        "rows": [
            (tick, _shown(row.mean), _shown(row.deviation), len(row.values))
            for tick, row in zip(map(spelled, axis.ticks), rows, strict=True)
        ],
        "slope": say_slope(slope, axis.label, positive) if slope else "",
    }


def say_slope(slope: Estimate, field: str, settings: int) -> str:
    """Write a slope in words."""
    said = f"Log-log slope with {field}: {number(slope.value)}"
    said += "" if math.isnan(slope.low) else f", 95 % interval {number(slope.low)} to {number(slope.high)}"
    return f"{said} ({counted(slope.n, 'run')} at {settings} positive settings)."


def _shown(value: float) -> str:
    return "–" if math.isnan(value) else number(value)


def _values(item: SweptRun) -> tuple[str, ...]:
    return tuple(spelled(value) for value in (*item.settings.values(), *item.tied.values()))


def _run_context(item: SweptRun, sweep: Sweep, out: Path) -> dict[str, Any]:
    return {
        "name": item.name,
        "href": link(sweep.path / item.name / REPORT, out),
        "values": _values(item),
        "seed": item.seed,
        "state": item.problem or "finished",
    }
