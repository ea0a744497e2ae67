"""The command ``ncollapse import``: a log of CSV or JSON lines becomes a run directory."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ncollapse.cli.options import folder


def add_import(commands: Any) -> None:
    """Add the command to a parser."""
    words = "make a run directory of a CSV or JSONL log that a callback wrote, of this or an earlier version"
    parser = commands.add_parser("import", help=words, description=words)
    parser.add_argument("file", type=Path, metavar="FILE", help="such as neural_collapse.csv")
    parser.add_argument("--out", type=folder, required=True, metavar="DIR", help="the run directory, new or empty")
    parser.set_defaults(call=_import)


def _import(options: argparse.Namespace) -> None:
    from ncollapse.integrations import import_log

    print(f"Run directory: {import_log(options.file, options.out)}")
