"""The commands ``verify`` and ``repair``: what of a run or a sweep is whole; and ``import``, which makes one of a log."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ncollapse.cli.options import folder, printable

if TYPE_CHECKING:
    from ncollapse.records.verification import Verification


def add_folder_commands(commands: Any) -> None:
    """Add the commands to a parser."""
    words = "check that no file of a run or a sweep has changed since it was written; the exit code is 0 only if all are intact"
    verify = commands.add_parser("verify", help=words)
    verify.add_argument("folder", type=Path, metavar="DIR", help="a run directory, or the folder of a sweep")
    verify.add_argument("--json", action="store_true", help="print a list of objects, one for each folder")
    verify.set_defaults(call=_verify)

    words = "bring a damaged run, or the runs of a sweep, back to the last save that is whole"
    repair = commands.add_parser(
        "repair",
        help=words,
        description=f"{words}. Nothing is deleted: what is damaged goes into damaged/ in the run directory.",
    )
    repair.add_argument("folder", type=Path, metavar="DIR", help="a run directory, or the folder of a sweep")
    repair.add_argument("--yes", action="store_true", help="repair; without this option the command only says what it would do")
    repair.set_defaults(call=_repair)

    words = "make a run directory of a CSV or JSONL log that a callback wrote, of this or an earlier version"
    imported = commands.add_parser("import", help=words)
    imported.add_argument("file", type=Path, metavar="FILE", help="such as neural_collapse.csv")
    imported.add_argument("--out", type=folder, required=True, metavar="DIR", help="the run directory, new or empty")
    imported.set_defaults(call=_import)


def _verify(options: argparse.Namespace) -> None:
    from ncollapse.records.verification import verify

    found = verify(options.folder)
    if options.json:
        print(json.dumps([asdict(item) for item in found]))
    else:
        for line in (line for item in found for line in _lines(item)):
            print(printable(line))
    if any(item.state != "whole" for item in found):
        raise SystemExit(1)


def _lines(found: Verification) -> list[str]:
    summary = {
        "whole": f"whole, {len(found.files)} files as they were written",
        "unchecked": "not checked: a version without manifests wrote it, so nothing tells whether it is as it was written",
        "cut off": "its first save was cut off",
        "damaged": "damaged",
    }[found.state]
    kept = [item.name for item in found.earlier if item.state == "whole"]
    also = f"; also {', '.join(kept)}" if kept else ""
    lines = [f"{found.path}: {summary}{also}"]
    for item in (*found.files, *found.earlier):
        if item.meaning:
            lines.append(f"  {item.name} {item.state}: {item.meaning}")
    if found.leftovers:
        lines.append(f"  left by a killed process, harmless: {', '.join(found.leftovers)}")
    return [*lines, *([f"  {found.advice}"] if found.advice else [])]


def _repair(options: argparse.Namespace) -> None:
    from ncollapse.records.verification import repair

    for line in repair(options.folder, does=options.yes):
        print(printable(line))


def _import(options: argparse.Namespace) -> None:
    from ncollapse.integrations import import_log

    print(f"Run directory: {import_log(options.file, options.out)}")
