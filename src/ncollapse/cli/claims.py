"""The command ``ncollapse claims``: the ledger of the paper's claims, from run directories."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any


def add_claims(commands: Any) -> None:
    """Add the command to a parser.

    Args:
        commands: What ``add_subparsers`` returned.
    """
    claims = commands.add_parser("claims", help="rule on the claims of the papers from run directories")
    claims.add_argument("runs", type=Path, nargs="+", metavar="DIR", help="run directories, or folders of sweeps")
    claims.add_argument("--out", type=Path, metavar="FILE", help="the page (default: claims.html in the first DIR)")
    claims.add_argument("--json", action="store_true", help="print the ledger as JSON")
    claims.set_defaults(call=run_command)


def run_command(options: argparse.Namespace) -> None:
    """Run the command.

    Args:
        options: As parsed.
    """
    from ncollapse.report import CLAIMS, DEEP_CLAIMS, ledger_lines, ledger_values, rule_on_claims, write_claims_page

    ledger = rule_on_claims(options.runs, (*CLAIMS, *DEEP_CLAIMS))
    page = write_claims_page(ledger, options.out if options.out is not None else options.runs[0] / "claims.html")
    if options.json:
        print(json.dumps({**ledger_values(ledger), "page": str(page)}))
        return
    for line in ledger_lines(ledger):
        print(line)
    print(f"Page: {page}")
