"""The command ``runs``: the runs in a folder with state, progress and age."""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path
from typing import Any

from ncollapse.cli.options import printable


def add_runs(commands: Any) -> None:
    """Add the command to a parser."""
    runs = commands.add_parser("runs", help="list the runs in a folder: running, stopped, dead, failed or finished")
    runs.add_argument("folder", type=Path, metavar="DIR", help="a run directory, a sweep, or a folder of them")
    runs.add_argument("--json", action="store_true", help="print a list of objects")
    runs.set_defaults(call=_runs)


def _runs(options: argparse.Namespace) -> None:
    from ncollapse.cli.run_list import list_runs

    found = list_runs(options.folder)
    if options.json:
        print(json.dumps([dataclasses.asdict(run) for run in found]))
        return
    rows: list[tuple[str, ...]] = [("RUN", "STATE", "EPOCH", "MEASURED", "SAVED", "")]
    for run in found:
        progress = "" if run.epoch is None else f"{run.epoch} of {run.epochs}"
        measured = "" if run.epoch is None else f"{run.measured} epochs"
        age = "" if run.seconds_since is None else f"{_age(run.seconds_since)} ago"
        words = run.holder if run.state == "running" else run.reason
        rows.append(tuple(map(printable, (run.name, run.state, progress, measured, age, words or ""))))
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    for row in rows:
        print("  ".join([*(word.ljust(width) for word, width in zip(row, widths, strict=False)), row[5]]).rstrip())


def _age(seconds: float) -> str:
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds // size:.0f} {unit}"
    return f"{seconds:.0f} s"
