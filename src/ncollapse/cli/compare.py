"""The command ``ncollapse compare``: Figures 2 and 3 of several runs side by side."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ncollapse.cli.options import file, named_once


def add_compare(commands: Any) -> None:
    """Add the command to a parser."""
    compare = commands.add_parser("compare", help="set the figures of several runs side by side, on common axes")
    compare.add_argument("runs", type=Path, nargs="+", metavar="DIR", help="run directories, or folders of sweeps")
    compare.add_argument("--out", type=file, metavar="FILE", help="the page (default: compare.html in the first DIR)")
    compare.add_argument(
        "--position",
        default="projection",
        metavar="NAME",
        help="how layers are laid on the line: projection (default), index, arclength, ratio or distance",
    )
    compare.set_defaults(call=run_command)


def run_command(options: argparse.Namespace) -> None:
    """Run the command."""
    from ncollapse.report import write_comparison

    out = options.out if options.out is not None else options.runs[0] / "compare.html"
    print(f"Page: {write_comparison(named_once(options.runs), out, position=options.position)}")
