"""Write the ledger of docs/claims.md, and docs/findings.md, from folders of sweeps.

``python docs/write_claims.py DIR... [--again DIR...]``, where the second ones are of new seeds. Between the two pages lies
docs/ledger.json, the numbers of every claim.
"""

import argparse
import json
import math
import shlex
from pathlib import Path
from typing import Any

from write_findings import LEDGER
from write_findings import PAGE as FINDINGS
from write_findings import render as findings

from ncollapse.claims import RULES, Ledger, rule_on_claims
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


def versions(sweeps: list[Sweep]) -> str:
    """Write what the runs ran on."""
    environments = [item.run.environment for sweep in sweeps for item in sweep.runs if item.run is not None]
    return ", ".join(sorted({f"torch {entry['torch']} on {entry['device']}" for entry in environments}))


def numbers(ledger: Ledger, sweeps: list[Sweep]) -> dict[str, Any]:
    """Return the numbers of every claim, and of the ledger."""
    runs = [item.run for sweep in sweeps for item in sweep.runs if item.run is not None]
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
                item.setting: {"value": item.estimate.value, "seeds": item.estimate.n, "stands": stands}
                for item, stands in ruling.settings
                if item.draws
            },
        }
    return {
        "dated": RULES.dated,
        "runs": len(ledger.runs),
        "settings": sum(len(sweep.by_setting()) for sweep in sweeps),
        "versions": versions(sweeps),
        "data": ", ".join(sorted({str(setting(run, "data.name")) for run in runs})),
        "claims": dict(sorted(claims.items())),
    }


def render(ledger: Ledger, sweeps: list[Sweep]) -> str:
    """Write the section as Markdown: commands, how many runs, what they ran on, the table."""
    commands = [*map(command, sweeps), shlex.join(["ncollapse", "claims", *(f"runs/{s.path.name}" for s in sweeps)])]
    left = f" {len(ledger.left_out)} repeat others or are not finished, and are left out." if ledger.left_out else ""
    lines = [
        "Written by `docs/write_claims.py` from the runs of",
        "",
        "```console",
        *(f"$ {line}" for line in commands),
        "```",
        "",
        f"{len(ledger.runs)} finished runs, {versions(sweeps)}.{left}",
        "",
        COLUMNS,
        "",
        *ledger_markdown(ledger),
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--again", nargs="*", default=[], type=Path)
    arguments = parser.parse_args()
    before, _, _ = PAGE.read_text().partition(HEADING)
    sweeps, ledger = [read_sweep(folder, "ends") for folder in arguments.folders], rule_on_claims(arguments.folders)
    found, text = numbers(ledger, sweeps), render(ledger, sweeps)
    if arguments.again:
        later = [read_sweep(folder, "ends") for folder in arguments.again]
        found["again"] = numbers(rule_on_claims(arguments.again), later)
        text += "\n".join(["", AGAIN, "", "```console", *(f"$ {command(sweep)}" for sweep in later), "```", ""])
    PAGE.write_text(f"{before.rstrip()}\n\n{HEADING}\n{text}")
    LEDGER.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")
    FINDINGS.write_text(findings(found))
