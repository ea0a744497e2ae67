"""The command ``ncollapse claims``: the ledger of the paper's claims, from run directories."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from ncollapse.cli.options import file, named_once


def add_claims(commands: Any) -> None:
    """Add the command to a parser."""
    claims = commands.add_parser("claims", help="rule on the claims of the papers from run directories")
    claims.add_argument("runs", type=Path, nargs="+", metavar="DIR", help="run directories, or folders of sweeps")
    claims.add_argument("--out", type=file, metavar="FILE", help="the page (default: claims.html in the first DIR)")
    printed = claims.add_mutually_exclusive_group()
    printed.add_argument("--json", action="store_true", help="print the ledger as JSON")
    printed.add_argument("--markdown", action="store_true", help="print it as a table in Markdown")
    claims.set_defaults(call=run_command)


def run_command(options: argparse.Namespace) -> None:
    """Run the command."""
    from ncollapse.claims import ledger_values, rule_on_claims
    from ncollapse.report import ledger_lines, ledger_markdown, write_claims_page

    ledger = rule_on_claims(named_once(options.runs))
    page = write_claims_page(ledger, options.out if options.out is not None else options.runs[0] / "claims.html")
    if options.json:
        print(json.dumps({**ledger_values(ledger), "page": str(page)}))
        return
    for line in ledger_markdown(ledger) if options.markdown else ledger_lines(ledger):
        print(line)
    if not options.markdown:
        print(f"Page: {page}")
