"""Write one self-contained HTML page about one or more runs."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ncollapse.claims.ledger import part_of
from ncollapse.drawing.panels import LAST_LAYER, PROGRESSIVE, Panel, draw_over_depth, draw_over_epochs, require_position
from ncollapse.drawing.sentences import describe, findings, summarize
from ncollapse.drawing.tables import differing_settings, environment_entries, metric_tables, recipe_groups
from ncollapse.drawing.wording import POSITIONS, counted
from ncollapse.records.errors import ReportError
from ncollapse.records.files import write_whole
from ncollapse.records.reading import Run, read_run
from ncollapse.report.inline import depth_rules, panel_svg
from ncollapse.report.markup import render_page
from ncollapse.report.payload import build_payload, to_script_json

__all__ = ["write_page"]


def write_page(run_dirs: Sequence[Path], out: Path, *, position: str = "projection") -> Path:
    """Write a page with words, figures, table, recipe and versions of every run.

    The page makes no network request, and its content security policy forbids any; it works without JavaScript, in light and
    dark, on a phone and on paper. Equal runs give equal bytes.

    Args:
        run_dirs: The run directories; of several, a comparison comes first.
        out: The HTML file; written whole or not at all, its folder is made if need be.
        position: How layers are laid on the line at first: a key of ``positions`` in ``depth.json``.

    Returns:
        ``out``.

    Raises:
        ReportError: If no directory is given, or a file in one is missing or broken, or the position is unknown.
        OSError: If the page cannot be written.
    """
    if not run_dirs:
        raise ReportError("write_page needs at least one run directory, got none. Name the folders of finished runs.")
    runs = [read_run(Path(path)) for path in run_dirs]
    for run in runs:
        require_position(run, position)
    differing = differing_settings(runs)
    out = Path(out)
    html = render_page(
        "template.html",
        script="page.js",
        title=runs[0].title if len(runs) == 1 else f"{len(runs)} runs side by side",
        runs=[
            {**_context(index, run, position), **_ledger(run, out), "settings": differing[index]}
            for index, run in enumerate(runs)
        ],
        positions=POSITIONS,
        position=position,
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    write_whole(out, html)
    return out


def _context(index: int, run: Run, position: str) -> dict[str, Any]:
    """What the template needs to know of one run."""
    return {
        "index": index,
        "title": run.title,
        "folder": run.path.resolve().name,
        "name": run.recipe.name,
        "changed": run.recipe.changed,
        "paragraphs": run.recipe.description.split("\n\n"),
        "seed": run.recipe.seed,
        "epoch": run.epochs[-1],
        "epochs": run.epochs,
        "layers": run.layers,
        "measured_layers": run.measured_layers,
        "extent": f"{counted(len(run.layers), 'layer')}, measured at {counted(len(run.epochs), 'epoch')}",
        "has_perfect": run.perfect_epoch is not None,
        "positions": list(run.last.positions),
        "findings": findings(run, position),
        # What was changed stands above already.
        "summary": summarize(run)[bool(run.recipe.changed) :],
        "sentences": describe(run)[bool(run.recipe.changed) :],
        "depth_rules": depth_rules(index, len(run.layers)),
        "over_epochs": [_panel(index, run, panel, "epochs") for panel in PROGRESSIVE],
        "over_depth": [_panel(index, run, panel, "depth", position) for panel in PROGRESSIVE],
        "last_layer": [_panel(index, run, panel, "last") for panel in LAST_LAYER],
        "tables": metric_tables(run),
        "recipe": recipe_groups(run),
        "environment": environment_entries(run),
        "payload": to_script_json(build_payload(run)),
    }


def _ledger(run: Run, out: Path) -> dict[str, Any]:
    """The claims on which the ledger beside the run names it, and a link to the ledger's own page."""
    file, claims = part_of(run.path)
    page = None if file is None else file.with_suffix(".html")
    # Quoted whole, so that no name can be anything but a path from here.
    linked = page is not None and page.is_file()
    href = quote(os.path.relpath(page, out.resolve().parent)) if page is not None and linked else ""
    return {"claims": claims, "ledger_href": href}


def _panel(index: int, run: Run, panel: Panel, kind: str, position: str | None = None) -> tuple[str, str]:
    """A panel's key, for its heading in the template, and its drawing."""
    svg = panel_svg(
        lambda axes: draw_over_epochs(axes, run, panel) if position is None else draw_over_depth(axes, run, panel, position),
        width=2.75 if panel.series else 3.3,
        name=f"run{index}-{kind}-{panel.key}",
        label=f"{panel.key.upper()}, {panel.label}, over {'epochs' if position is None else 'depth'}",
        num_layers=len(run.layers),
    )
    return panel.key, svg
