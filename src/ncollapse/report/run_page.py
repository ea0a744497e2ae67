"""The HTML page of a run: everything that the template ``run.html`` shows."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from ncollapse.claims.ledger import part_of
from ncollapse.drawing.axes import REPORTED, draw_training, training_curves
from ncollapse.drawing.findings import Finding, findings, part_followed
from ncollapse.drawing.heat_map import heat_map_svg
from ncollapse.drawing.kgon import Kgon
from ncollapse.drawing.kgon_html import kgon_markup, script_text, style_text, to_script_json
from ncollapse.drawing.panels import LAST_LAYER, PROGRESSIVE, MetricPanel, draw_over_depth, draw_over_epochs, require_position
from ncollapse.drawing.sample_paths import sample_paths_svg
from ncollapse.drawing.sentences import describe_by_topic, summarize
from ncollapse.drawing.theory_sentences import say_errors
from ncollapse.drawing.wording import POSITIONS, counted, number, spelled
from ncollapse.records.reading import Run, read_run
from ncollapse.report.markup import PanelDrawing, depth_rules, link, panel_svgs, write_html
from ncollapse.report.payload import build_payload
from ncollapse.report.tables import environment_entries, estimate_tables, group_table, metric_tables, recipe_groups


def write_page(run_dir: Path, out: Path, *, position: str = "projection", unverified: bool = False) -> Path:
    """Write the page of a run: words, figures, tables, recipe and versions.

    Args:
        run_dir: The run directory.
        out: The HTML file.
        position: How layers are placed on the line at first: a key of ``positions`` in ``depth.json``.
        unverified: Show also a run whose files are not as they were written, under a banner.

    Returns:
        The page.
    """
    run, out = read_run(Path(run_dir), unverified=unverified), Path(out)
    if run.has_depth:
        require_position(run, position)
    return write_html(out, "run.html", script="page.js", **_context(run, position), **_kgon(run), **_ledger(run, out))


def _context(run: Run, position: str) -> dict[str, Any]:
    """Return what the template shows of the run itself."""
    return {
        "run": run,
        "title": run.title,
        "positions": POSITIONS,
        "position": position,
        "folder": run.path.resolve().name,
        "paragraphs": run.recipe.description.split("\n\n"),
        "epoch": run.epochs[-1],
        "origin": _origin(run),
        "findings": findings(run, position),
        # The page lists the changed settings above already.
        "summary": summarize(run)[bool(run.recipe.changed) :],
        "changed": [spelled(item) for item in run.recipe.changed],
        "counted": counted,
        "topics": describe_by_topic(run),
        "errors": _errors(run, position),
        "depth_rules": depth_rules(0, len(run.measured_layers)),
        # One epoch alone is not a curve.
        "over_epochs": _panels_over_epochs(run, PROGRESSIVE, "epochs") if len(run.epochs) > 1 else [],
        "part": part_followed(run),
        "over_depth": _panels_over_depth(run, position) if run.has_depth else [],
        "last_layer": _panels_over_epochs(run, LAST_LAYER, "last") if len(run.epochs) > 1 else [],
        "training": _training(run),
        "has_test": "test" in training_curves(run, "accuracy"),
        "last_values": _last_values(run),
        "tables": metric_tables(run),
        "estimates": estimate_tables(run),
        "groups": group_table(run),
        "has_noise": any(row.metric.endswith(".noise") for row in run.rows),
        "recipe": recipe_groups(run),
        "environment": environment_entries(run),
        "heat_map": heat_map_svg(run) if len(run.epochs) > 1 else "",
        "sample_paths": "" if run.samples is None else sample_paths_svg(run.samples),
        "payload": to_script_json(build_payload(run)),
    }


def _kgon(run: Run) -> dict[str, str]:
    """Return the picture of the samples in the polygon of the classes, with its script and its style; empty without samples."""
    if run.samples is None:
        return {"kgon": ""}
    markup = kgon_markup(Kgon.of(run.samples), run.unit, run.epochs)
    return {"kgon": markup, "more_script": script_text(), "more_style": style_text()}


def _origin(run: Run) -> str:
    """Say where the numbers come from."""
    layers = counted(len(run.measured_layers), "layer")
    if run.is_measured_only:
        named = [f"{key} {run.environment[key]}" for key in ("network", "data", "checkpoint") if key in run.environment]
        return f"{', '.join([*named, layers])}; measured, not trained here"
    seed = "unknown" if run.recipe.seed is None else run.recipe.seed
    return f"seed {seed}, {layers}, measured at {counted(len(run.epochs), run.unit)}"


def _errors(run: Run, position: str) -> dict[str, str]:
    """Return the sentence below each drawn panel over depth. The script writes the same below the panels that it draws."""
    error = run.last.prediction_error.get(position) if run.has_depth else None
    if error is None:
        return {}
    return {metric: say_errors(line, error.baseline.get(metric), error.flow.get(metric)) for metric, line in error.line.items()}


def _training(run: Run) -> dict[str, str]:
    """Draw those of loss and accuracy that are known at several epochs, by name."""
    names = [name for name in REPORTED if any(len(curve) > 1 for curve in training_curves(run, name).values())]
    drawings = [
        PanelDrawing(partial(draw_training, run=run, name=name), f"training-{name}", f"{name} over {run.unit}s", 0)
        for name in names
    ]
    return dict(zip(names, panel_svgs(drawings, width=4.6), strict=True))


def _last_values(run: Run) -> list[Finding]:
    """Return NC1 to NC4 of the last layer at the last epoch."""
    last = len(run.measured_layers) - 1
    return [
        Finding(f"{panel.key.upper()} {line.label}".rstrip(), number(run.value(line.metric, last)), line.meaning or panel.label)
        for panel in LAST_LAYER
        for line in panel.series
    ]


def _ledger(run: Run, out: Path) -> dict[str, Any]:
    """Return the claims that name this run in the ledger beside it, and a link to the page of that ledger."""
    file, claims = part_of(run.path)
    return {"claims": claims, "ledger_href": "" if file is None else link(file.with_suffix(".html"), out)}


def _panels_over_epochs(run: Run, panels: Sequence[MetricPanel], kind: str) -> list[tuple[str, str]]:
    return _panels(run, panels, partial(draw_over_epochs, run=run), kind, over=f"{run.unit}s")


def _panels_over_depth(run: Run, position: str) -> list[tuple[str, str]]:
    return _panels(run, PROGRESSIVE, partial(draw_over_depth, run=run, position=position), "depth", over="depth")


def _panels(run: Run, panels: Sequence[MetricPanel], draw: Callable[..., None], kind: str, over: str) -> list[tuple[str, str]]:
    """Return the panels of one row: the key of each, which the template uses for its heading, and its drawing."""
    drawings = [
        PanelDrawing(
            partial(draw, panel=panel),
            name=f"{kind}-{panel.key}",
            label=f"{panel.key.upper()}, {panel.label}, over {over}",
            num_layers=len(run.measured_layers),
        )
        for panel in panels
    ]
    svgs = panel_svgs(drawings, width=3.3 if len(panels) == 3 else 2.75)
    return list(zip([panel.key for panel in panels], svgs, strict=True))
