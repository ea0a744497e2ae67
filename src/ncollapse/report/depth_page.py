"""The page of collapse against the number of blocks: a row of figures for each architecture."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from ncollapse.claims.deep_regularized import DEEP_METRICS, is_control
from ncollapse.claims.quantities import BY_KEY, Quantity, setting_rows, slope_of
from ncollapse.drawing.sweeps import Axis, axis_of, draw_against
from ncollapse.drawing.wording import counted, number
from ncollapse.records.errors import ReportError
from ncollapse.records.run_files import ObjectiveRecord
from ncollapse.records.sweep import Sweep, read_sweep
from ncollapse.report.markup import PanelDrawing, panel_svgs, write_html
from ncollapse.report.sweep_page import say_slope

BLOCKS = "model.num_blocks"


def write_depth_page(sweep_dirs: Sequence[Path], out: Path) -> Path:
    """Write NC1, NC2, NC3, the objective with its floor, the excess and the distance, against the number of blocks.

    The layout is that of Figures 1 and 2 of arXiv 2505.15239, with the objective beside them where it has a floor. Only
    finished runs are counted.

    Args:
        sweep_dirs: Folders of sweeps over ``model.num_blocks`` alone.
        out: The HTML file.

    Returns:
        The page.

    Raises:
        ReportError: If no folder is given, or one holds no such sweep.
    """
    if not sweep_dirs:
        raise ReportError("A page of depth needs at least one folder of a sweep, got none.")
    sweeps = [_read(Path(path)) for path in sweep_dirs]
    rows = [_row(index, sweep) for index, sweep in enumerate(sweeps)]
    return write_html(Path(out), "depth.html", title="Collapse against depth", rows=rows)


def _read(path: Path) -> Sweep:
    sweep = read_sweep(path, "last")
    finished = [item.run for item in sweep.runs if item.run is not None]
    if sweep.fields != (BLOCKS,) or not finished:
        raise ReportError(
            f"{path}: needed a sweep over {BLOCKS} alone with finished runs, found one over "
            f"{', '.join(sweep.fields) or 'seeds'} with {counted(len(finished), 'finished run')}. Use "
            "`ncollapse sweep deep_rn1_small --over model.num_blocks=1,2,4,8`."
        )
    return sweep


def _row(index: int, sweep: Sweep) -> dict[str, Any]:
    """Return what the template needs to know about one architecture."""
    axis = axis_of(sweep)
    runs = [run for _, group in sweep.by_setting() for run in group]
    objectives = [found for run in runs if (found := run.last_objective) is not None]
    unfinished = sum(bool(item.problem) for item in sweep.runs)
    changed = [item for item in runs[0].recipe.changed if not item.startswith(f"{BLOCKS}=")]
    return {
        # Of changed settings the recipe's title may not be true.
        "title": runs[0].title if changed else runs[0].recipe.title or runs[0].title,
        "changed": changed,
        "folder": sweep.path.resolve().name,
        "floor": bool(objectives),
        "depth_floor": _say_depth_floor(objectives),
        "control": is_control(runs[0]),
        "extent": f"{counted(len(runs), 'finished run')}{f', {unfinished} not finished' if unfinished else ''}",
        "perfect": f"{sum(run.status.train_accuracy == 1.0 for run in runs)} of {len(runs)}",
        "panels": _panels(f"row{index}", sweep, axis, _quantities(objectives)),
        "depths": axis.ticks,
    }


def _quantities(objectives: Sequence[ObjectiveRecord]) -> list[tuple[str, Quantity]]:
    """List what is drawn, with titles: the metrics, then what is known of the objective."""
    keys = ["objective", "excess", "distance", "excess/λ", "excess/floor"] if objectives else []
    keys += ["relative_gradient"] if any(found.relative_gradient for found in objectives) else []
    keys += ["depth_floor"] if any(found.depth_floor for found in objectives) else []
    return [(title, BY_KEY[metric]) for metric, title in DEEP_METRICS.items()] + [(key, BY_KEY[key]) for key in keys]


def _say_depth_floor(objectives: Sequence[ObjectiveRecord]) -> str:
    """Say what the floor that knows the depth is, and what it leaves open."""
    known = [found for found in objectives if found.depth_floor is not None]
    if not known:
        return ""
    if any(found.unmet for found in known):
        return "The stem is trained, so depth_floor is that of networks with the stem as it is."
    return (
        "depth_floor holds for every network of that depth on these data. Proven: the excess is at least of order 1/L, unless "
        "the data lie on the optimum, and of order (log L)²/L where two samples of a class differ. "
        "How fast N samples can come down is open, so a slower fall is no proof of bad optimization."
    )


def _panels(name: str, sweep: Sweep, axis: Axis, quantities: Sequence[tuple[str, Quantity]]) -> list[dict[str, Any]]:
    floors = {"objective": setting_rows(sweep, BY_KEY["floor"])}
    drawings = [
        PanelDrawing(
            partial(draw_against, axis=axis, rows=setting_rows(sweep, quantity), dashed=floors.get(quantity.key, [])),
            name=f"{name}-{index}",
            label=f"{title} against the number of blocks",
            num_layers=1,
        )
        for index, (title, quantity) in enumerate(quantities)
    ]
    svgs = panel_svgs(drawings, width=2.6)
    return [_panel(sweep, axis, *panel, svg) for panel, svg in zip(quantities, svgs, strict=True)]


def _panel(sweep: Sweep, axis: Axis, title: str, quantity: Quantity, svg: str) -> dict[str, Any]:
    rows = setting_rows(sweep, quantity)
    slope = slope_of(axis, quantity, [runs for _, runs in sweep.by_setting()])
    has_floor = quantity.key == "objective"
    return {
        "title": title,
        "meaning": f"{quantity.key}: {quantity.meaning}" + (" (dashed: its floor)" if has_floor else ""),
        "svg": svg,
        "means": [
            f"{number(row.mean)} ± {number(row.deviation)}" if len(row.values) > 1 else number(row.mean) if row.values else "–"
            for row in rows
        ],
        "slope": say_slope(slope, "L", len(rows)) if slope else "",
    }
