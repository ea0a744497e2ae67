"""The commands that write pages from run directories: ``report``, ``compare``, ``claims`` and ``animate``."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ncollapse.cli.options import check_distinct, count, file, find_own_modules, printable

if TYPE_CHECKING:
    from ncollapse.claims import Ledger


def add_report_commands(commands: Any) -> None:
    """Add the commands to a parser."""
    report = commands.add_parser(
        "report",
        help="write the HTML page of a run, of several runs side by side, of a sweep, or of sweeps over depth",
    )
    report.add_argument(
        "runs", type=Path, nargs="+", metavar="DIR", help="run directories, one sweep, or sweeps over model.num_blocks"
    )
    report.add_argument(
        "--out",
        type=file,
        metavar="FILE",
        help="the page (default: report.html, sweep.html or depth.html in the first DIR; for several runs compare.html "
        "in the folder that they share)",
    )
    report.add_argument(
        "--unverified",
        action="store_true",
        help="show also a run whose files are not as they were written, under a banner that says so",
    )
    report.set_defaults(call=_report)
    _add_claims(commands)
    _add_compare(commands)
    _add_animate(commands)


def _add_claims(commands: Any) -> None:
    claims = commands.add_parser("claims", help="test the claims of the papers on runs (its page has the rules)")
    claims.add_argument("runs", type=Path, nargs="+", metavar="DIR", help="run directories, or folders of sweeps")
    claims.add_argument("--out", type=file, metavar="FILE", help="the page (default: claims.html in the first DIR)")
    claims.add_argument(
        "--claims",
        metavar="MODULE:FUNCTION",
        help="test claims of your own too: a function without arguments that returns values of ncollapse.claims.Claim",
    )
    printed = claims.add_mutually_exclusive_group()
    printed.add_argument("--json", action="store_true", help="print the ledger as JSON")
    printed.add_argument("--markdown", action="store_true", help="print the ledger as a table in Markdown")
    claims.set_defaults(call=_claims)


def _add_compare(commands: Any) -> None:
    compare = commands.add_parser(
        "compare",
        help="show the figures of several runs side by side, on common axes (of runs the page of `report`)",
        description="Show the figures of several runs side by side, on common axes. `report` writes the same page of several "
        "runs, to the byte; `compare` also takes sweeps, and places layers by --position.",
    )
    compare.add_argument("runs", type=Path, nargs="+", metavar="DIR", help="two run directories or more, or folders of sweeps")
    compare.add_argument(
        "--out",
        type=file,
        metavar="FILE",
        help="the page (default: compare.html in the folder that they share, else in the first DIR)",
    )
    compare.add_argument(
        "--position",
        default="projection",
        metavar="NAME",
        help="how layers are placed on the line from the first to the last: projection on it (default); index (evenly); "
        "arclength (share of the path before the layer); ratio (of the distances to both ends); distance (from the first, in "
        "units of that of the last)",
    )
    compare.set_defaults(call=_compare)


def _add_animate(commands: Any) -> None:
    words = "write the K-gon of a run, all classes of every layer in one plane, as an animation over its epochs"
    animate = commands.add_parser("animate", help=words)
    animate.add_argument("run", type=Path, metavar="DIR", help="a run directory")
    animate.add_argument(
        "--out",
        type=file,
        metavar="FILE",
        help="a .gif for all epochs, or a .png or .svg for the last one (default: DIR/kgon.gif)",
    )
    animate.add_argument(
        "--frames", type=count(2), default=40, metavar="N", help="the most frames to write (default: %(default)s)"
    )
    animate.set_defaults(call=_animate)


def _report(options: argparse.Namespace) -> None:
    from ncollapse.report import write_report

    print(f"Page: {write_report(check_distinct(options.runs), options.out, unverified=options.unverified)}")


def _claims(options: argparse.Namespace) -> None:
    from ncollapse.claims import ledger_values
    from ncollapse.report import ledger_lines, ledger_markdown, write_claims_page

    ledger = _ledger(check_distinct(options.runs), options.claims)
    page = write_claims_page(ledger, options.out if options.out is not None else options.runs[0] / "claims.html")
    if options.json:
        print(json.dumps({**ledger_values(ledger), "page": str(page)}))
        return
    for line in ledger_markdown(ledger) if options.markdown else ledger_lines(ledger):
        print(printable(line))
    if not options.markdown:
        print(f"Page: {page}")


def _ledger(folders: Sequence[Path], own: str | None) -> Ledger:
    """Rule on the claims of the papers, and on the user's."""
    from ncollapse.claims import CLAIMS, DEEP_CLAIMS, QUESTIONS, Claim, rule_on_claims

    if own is None:
        return rule_on_claims(folders)
    from ncollapse.targets.functions import as_user_error, import_function

    find_own_modules()
    function, theirs = import_function(own), (*CLAIMS, *QUESTIONS, *DEEP_CLAIMS)
    # Their tests run when the ledger is made.
    with as_user_error(f"testing the claims of {own}"):
        claims = list(function())
        if strange := [type(claim).__name__ for claim in claims if not isinstance(claim, Claim)]:
            raise TypeError(f"{own} must return values of ncollapse.claims.Claim, got {strange[0]}. Return a list of them.")
        keys = [claim.key for claim in (*theirs, *claims)]
        if twice := [key for key in keys if keys.count(key) > 1]:
            raise ValueError(f"{own} must give every claim a key of its own, got {twice[0]!r} twice. Choose another.")
        return rule_on_claims(folders, (*theirs, *claims))


def _animate(options: argparse.Namespace) -> None:
    from ncollapse.drawing import save_animation
    from ncollapse.records import read_run

    out = options.out if options.out is not None else options.run / "kgon.gif"
    save_animation(read_run(options.run), out, frames=options.frames)
    print(f"Picture: {out}")


def _compare(options: argparse.Namespace) -> None:
    from ncollapse.records.file_names import SWEEP
    from ncollapse.report import write_comparison
    from ncollapse.report.comparison_page import comparison_place

    if len(options.runs) == 1 and not (options.runs[0] / SWEEP).is_file():
        raise ValueError(
            f"A comparison needs two runs or more, or a sweep, got {options.runs[0]} alone. `ncollapse report` writes its page."
        )
    out = options.out if options.out is not None else comparison_place(options.runs)
    replaced = ", in the place of an earlier one" if options.out is None and out.exists() else ""
    print(f"Page: {write_comparison(check_distinct(options.runs), out, position=options.position)}{replaced}")
