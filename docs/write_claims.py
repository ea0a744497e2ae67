"""Write the ledger of docs/claims.md, and docs/findings.md, from folders of sweeps.

``python docs/write_claims.py DIR... [--paper WORDS] [--again DIR...]``. The rows of one paper are corrected together, so they
are written together: those of all papers, or of the one whose name holds the words. ``--again`` names runs of new seeds.
Between the two pages lies docs/ledger.json, which holds all that stands on them.
"""

import argparse
import json
import math
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from write_findings import LEDGER
from write_findings import PAGE as FINDINGS
from write_findings import render as findings

from ncollapse.claims import RULES, Ledger, rule_on_claims
from ncollapse.claims.evidence import Draw
from ncollapse.claims.ledger import ALL_CLAIMS
from ncollapse.records.recipe_settings import setting
from ncollapse.records.sweep import Sweep, read_sweep
from ncollapse.report import ledger_markdown

PAGE = Path(__file__).with_name("claims.md")
HEADING = "## The ledger\n"
COLUMNS = """**Value** is the share of seeds in which the claim is right, or a mean, with its interval over the seeds;
**seeds** is their number. **Per setting** counts the settings in which the claim is right, wrong or open by their own seeds.
**Over settings** is the second interval of rule 8. **p, corrected** is the p-value after Holm. **Base rates** are the value
before training, and the probability of the order by chance. The last columns are the value if only runs with such a τ count."""
AGAIN = "Made after the rule on settings, with new seeds, for [the rows over several settings](findings.md):"


def command(sweep: Sweep) -> str:
    """Write the command of the sweep from its files: what all runs changed is set, the rest was swept."""
    runs = [item for item in sweep.runs if item.run is not None]
    swept = {field: dict.fromkeys(item.settings[field] for item in sweep.runs) for field in sweep.fields}
    over = [word for field, values in swept.items() for word in ("--over", f"{field}={','.join(values)}", *tied(sweep, field))]
    changed = [dict(item.partition("=")[::2] for item in run.run.recipe.changed) for run in runs]
    varied = {*sweep.fields, *sweep.tied}
    fixed = [f"{key}={value}" for key, value in changed[0].items() if key not in varied and all(key in c for c in changed)]
    seeds = sorted({item.seed for item in sweep.runs})
    fixed += [f"seed={seeds[0]}"] if seeds[0] else []
    words = ["ncollapse", "sweep", runs[0].run.recipe.name, *over]
    words += ["--set", *fixed] if fixed else []
    return shlex.join([*words, "--seeds", str(len(seeds)), "--out", f"runs/{sweep.path.name}"])


def tied(sweep: Sweep, field: str) -> list[str]:
    """Write the options of what belongs to a swept field: each of its values comes with one value of that."""
    pairs = {other: {(item.settings[field], item.tied[other]): None for item in sweep.runs} for other in sweep.tied}
    num_values = len({item.settings[field] for item in sweep.runs})
    belonging = {other: [its for _, its in found] for other, found in pairs.items() if len(found) == num_values}
    return [word for other, its in belonging.items() for word in ("--with", f"{other}={','.join(its)}")]


def about(sweep: Sweep) -> dict[str, Any]:
    """Return what the pages say of a sweep."""
    runs = [item.run for item in sweep.runs if item.run is not None]
    return {
        "command": command(sweep),
        "runs": len(runs),
        "settings": len(sweep.by_setting()),
        "versions": sorted({f"torch {run.environment['torch']} on {run.environment['device']}" for run in runs}),
        "data": sorted({str(setting(run, "data.name")) for run in runs}),
    }


def rows(ledger: Ledger) -> dict[str, Any]:
    """Return the numbers of every claim."""
    claims = {}
    for ruling in ledger.rulings:
        value, low, high, seeds = ruling.row.estimate
        ends = {name: None if math.isnan(end) else end for name, end in (("value", value), ("low", low), ("high", high))}
        claims[ruling.claim.key] = {
            "statement": ruling.claim.statement,
            "verdict": ruling.verdict,
            **ends,
            "seeds": seeds,
            "is_share": ruling.row.is_share,
            "why": ruling.why,
            "over_settings": ruling.row.over_settings,
            "votes": len(ruling.row.votes),
            "by_setting": {
                item.setting: {
                    "value": item.estimate.value,
                    "seeds": item.estimate.n,
                    "stands": stands,
                    "before_training": mean_before(item.draws),
                }
                for item, stands in ruling.settings
                if item.draws
            },
        }
    return claims


def mean_before(draws: Sequence[Draw]) -> float | None:
    """Return the mean of what the same runs say before training; None where one of them does not say it."""
    before = [draw.before for draw in draws]
    return None if None in before else math.fsum(map(float, before)) / len(before)


def part_of(folders: list[Path], paper: str) -> dict[str, Any]:
    """Rule on the claims of a paper."""
    ledger = rule_on_claims(folders, [claim for claim in ALL_CLAIMS if claim.family == paper])
    return {
        "sweeps": [folder.name for folder in folders],
        "left_out": len(ledger.left_out),
        "claims": rows(ledger),
        "table": ledger_markdown(ledger),
    }


def render(ledger: dict[str, Any]) -> str:
    """Write the section as Markdown: for each paper the commands, how many runs, what they ran on, and the table."""
    lines = ["Written by `docs/write_claims.py` from run directories.", "", COLUMNS, ""]
    for paper, part in ledger["papers"].items():
        sweeps = [ledger["sweeps"][name] for name in part["sweeps"]]
        versions = ", ".join(sorted({words for sweep in sweeps for words in sweep["versions"]}))
        left = f" {part['left_out']} repeat others or are not finished, and are left out." if part["left_out"] else ""
        ran = f"{sum(sweep['runs'] for sweep in sweeps) - part['left_out']} finished runs, {versions}.{left}"
        judged = shlex.join(["ncollapse", "claims", *(f"runs/{name}" for name in part["sweeps"])])
        lines += [
            f"### {paper}",
            "",
            *console([*(sweep["command"] for sweep in sweeps), judged]),
            "",
            ran,
            "",
            *part["table"],
            "",
        ]
    if "again" in ledger:
        lines += [AGAIN, "", *console([sweep["command"] for sweep in ledger["again"]["sweeps"]]), ""]
    return "\n".join(lines)


def console(commands: list[str]) -> list[str]:
    """Write commands as they are typed."""
    return ["```console", *(f"$ {line}" for line in commands), "```"]


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("folders", nargs="*", type=Path)
    parser.add_argument("--paper", default="")
    parser.add_argument("--again", nargs="*", default=[], type=Path)
    arguments = parser.parse_args()
    ledger = json.loads(LEDGER.read_text()) | {"dated": RULES.dated}
    if arguments.folders:
        ledger["sweeps"] |= {folder.name: about(read_sweep(folder, "ends")) for folder in arguments.folders}
        for paper in dict.fromkeys(claim.family for claim in ALL_CLAIMS):
            if arguments.paper in paper:
                ledger["papers"][paper] = part_of(arguments.folders, paper)
        used = {name for part in ledger["papers"].values() for name in part["sweeps"]}
        ledger["sweeps"] = {name: sweep for name, sweep in ledger["sweeps"].items() if name in used}
    if arguments.again:
        later = [about(read_sweep(folder, "ends")) for folder in arguments.again]
        ledger["again"] = {"sweeps": later, "claims": rows(rule_on_claims(arguments.again))}
    before, _, _ = PAGE.read_text().partition(HEADING)
    PAGE.write_text(f"{before.rstrip()}\n\n{HEADING}\n{render(ledger)}")
    LEDGER.write_text(json.dumps(ledger, indent=1, ensure_ascii=False) + "\n")
    FINDINGS.write_text(findings(ledger))
