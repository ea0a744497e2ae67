"""Write docs/ledger.json, the ledger on docs/claims.md, and docs/findings.md from folders of sweeps.

``python docs/write_claims.py RUNS... [--again RUNS...]``, or ``make ledger RUNS=runs AGAIN=runs/again``: each folder is a
sweep or holds sweeps. A sweep belongs to the papers on whose claims its runs say something. A paper of which no run is given
stays as it was. ``--again`` names runs of new seeds. docs/ledger.json holds all that the pages say.
"""

import argparse
import json
import math
import re
import shlex
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from draw_claims import FIGURES
from draw_claims import render as figures
from findings_tables import DEPTH_COLUMNS
from write_findings import LEDGER, TALLY, tally
from write_findings import PAGE as FINDINGS
from write_findings import render as findings

from ncollapse.claims import RULES, Ledger, rule_on_claims
from ncollapse.claims.evidence import BEFORE_TRAINING, Draw, settings_of
from ncollapse.claims.ledger import ALL_CLAIMS, Ruling
from ncollapse.claims.quantities import BY_KEY
from ncollapse.claims.rules import is_stationary
from ncollapse.records import file_names
from ncollapse.records.reading import Run
from ncollapse.records.recipe_settings import setting
from ncollapse.records.sweep import Sweep, read_sweep
from ncollapse.report import ledger_markdown

PAGE = Path(__file__).with_name("claims.md")
HEADING = "## The ledger\n"
COUNTS = "## Verdicts at a glance\n"
RULES_HEADING = "## Rules\n"
COLUMNS = """**Number** is the share of seeds in which the claim is right, or a mean, with its interval over the seeds. A seed
that ran in several settings counts once. The details below each table have these columns. **Per setting** counts the settings
in which the claim is right, wrong or open by their own seeds. **Over settings** is the second interval of rule 8. **p,
corrected** is the p-value after Holm. **Steps tested** are the fewest and most steps from layer to layer. **Base rates** are
the value before training, and the probability of the order by chance. The last columns are the number if only runs with such
a τ count. "–" means that there is nothing to say, or that the runs were read before this was kept. **CPU minutes** are those
of all runs of a sweep together, each on one core of the machine that ran them, which may have been busy."""
AGAIN = "Made after the rule on settings, with new seeds, for [the rows over several settings](findings.md):"


def sweeps_in(paths: list[Path]) -> list[Path]:
    """List the sweeps among some folders and in them."""
    folders = [folder for path in paths for folder in (path, *sorted(path.iterdir())) if (folder / file_names.SWEEP).is_file()]
    if len({folder.name for folder in folders}) < len(folders):
        raise SystemExit(f"Needed sweeps with different names, got {', '.join(map(str, folders))}.")
    return folders


def command(sweep: Sweep, place: str) -> str:
    """Write the command of a sweep from its files: what all runs changed is set, the rest was swept."""
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
    return shlex.join([*words, "--seeds", str(len(seeds)), "--out", f"{place}/{sweep.path.name}"])


def tied(sweep: Sweep, field: str) -> list[str]:
    """Write the options of what belongs to a swept field: each of its values comes with one value of that."""
    pairs = {other: {(item.settings[field], item.tied[other]): None for item in sweep.runs} for other in sweep.tied}
    num_values = len({item.settings[field] for item in sweep.runs})
    belonging = {other: [its for _, its in found] for other, found in pairs.items() if len(found) == num_values}
    return [word for other, its in belonging.items() for word in ("--with", f"{other}={','.join(its)}")]


def about(folder: Path, place: str = "runs") -> dict[str, Any]:
    """Return what the pages say of a sweep."""
    sweep = read_sweep(folder, "ends")
    runs = [item.run for item in sweep.runs if item.run is not None]
    seconds = [run.status.seconds for run in runs]
    return {
        "command": command(sweep, place),
        "runs": len(runs),
        "settings": list(settings_of(runs)),
        "seconds": None if None in seconds else math.fsum(filter(None, seconds)),
        "versions": sorted({f"torch {run.environment['torch']} on {run.environment['device']}" for run in runs}),
        "data": sorted({str(setting(run, "data.name")) for run in runs}),
        "depths": by_depth(runs) if all(run.objective for run in runs) else None,
    }


def by_depth(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Return for each number of blocks and decay how many runs are stationary, and medians over these."""
    groups: dict[tuple[int, float], list[Run]] = {}
    for run in runs:
        assert run.last_objective is not None
        groups.setdefault((setting(run, "model.num_blocks"), run.last_objective.weight_decay), []).append(run)
    found = []
    for (blocks, decay), own in sorted(groups.items()):
        still = [run for run in own if is_stationary(run)]
        values = {key: [BY_KEY[key].read(run) for run in still] for key in DEPTH_COLUMNS}
        medians = {key: statistics.median(read) if read and None not in read else None for key, read in values.items()}
        found.append({"blocks": blocks, "decay": decay, "runs": len(own), "stationary": len(still), **medians})
    return found


def rows(rulings: Sequence[Ruling]) -> dict[str, Any]:
    """Return the numbers of every claim."""
    claims = {}
    for ruling in rulings:
        value, low, high, seeds = ruling.row.estimate
        ends = {name: None if math.isnan(end) else end for name, end in (("value", value), ("low", low), ("high", high))}
        claims[ruling.claim.key] = {
            "statement": ruling.claim.statement,
            "verdict": ruling.verdict,
            **ends,
            "seeds": seeds,
            "p": ruling.corrected,
            "is_share": ruling.row.is_share,
            "why": ruling.why,
            "over_settings": ruling.row.over_settings,
            "votes": len(ruling.row.votes),
            "steps": ruling.row.steps,
            "bases": {base.name: base.value for base in ruling.row.bases},
            "by_setting": {
                item.setting: {
                    "value": item.estimate.value,
                    "seeds": item.estimate.n,
                    "stands": stands,
                    "before_training": mean_before(item.draws) if item.base == BEFORE_TRAINING else None,
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


def parts_of(folders: list[Path]) -> dict[str, Any]:
    """Rule on the claims of every paper that the runs say something about."""
    ledger, parts = rule_on_claims(folders), {}
    for paper in dict.fromkeys(claim.family for claim in ALL_CLAIMS):
        rulings = tuple(ruling for ruling in ledger.rulings if ruling.claim.family == paper)
        draws = [draw for ruling in rulings for item in ruling.evidence for draw in item.draws]
        used = {Path(run).parent for draw in draws for run in draw.runs}
        if used:
            parts[paper] = {
                "sweeps": [folder.name for folder in folders if folder in used],
                "runs": sum(Path(run).parent in used for run in ledger.runs),
                "left_out": sum(Path(run).parent in used for run, _ in ledger.left_out),
                "claims": rows(rulings),
                "table": ledger_markdown(Ledger(rulings, ledger.runs, ledger.left_out)),
            }
    return parts


def counts(ledger: dict[str, Any]) -> str:
    """Write the section with the verdicts of each paper, counted."""
    heads = ["paper", *TALLY, "statements"]
    lines = [f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]
    for paper, part in ledger["papers"].items():
        found = tally(part["claims"].values())
        cells = [f"[{paper}](#{anchor(paper)})", *(str(found[verdict]) for verdict in TALLY), str(len(part["claims"]))]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([
        *lines,
        "",
        "The link of a paper leads to its table, a row for each statement. [Findings](findings.md#verdicts) shows the "
        "verdicts in two tables and as pictures, and says what they mean.",
    ])  # fmt: skip


def anchor(heading: str) -> str:
    """Return the address of a heading on the page, as GitHub and the site make it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def render(ledger: dict[str, Any]) -> str:
    """Write the ledger as Markdown: for each paper the table, and the sweeps behind it with their commands and times."""
    lines = ["Written by `docs/write_claims.py` from run directories.", "", COLUMNS, ""]
    for paper, part in ledger["papers"].items():
        sweeps = [ledger["sweeps"][name] for name in part["sweeps"]]
        versions = ", ".join(sorted({words for sweep in sweeps for words in sweep["versions"]}))
        left = f" {part['left_out']} repeat others or are not finished, and are left out." if part["left_out"] else ""
        judged = shlex.join(["ncollapse", "claims", *(f"runs/{name}" for name in part["sweeps"])])
        minutes = minutes_of(sweeps)
        lines += [f"### {paper}", "", *part["table"], ""]
        lines += [f"{part['runs']} finished runs, {versions}, {minutes} CPU minutes.{left} The sweeps, and what tests them:"]
        lines += ["", *console([*map(timed, sweeps), judged]), ""]
    if "again" in ledger:
        lines += [AGAIN, "", *console(list(map(timed, ledger["again"]["sweeps"]))), ""]
    return "\n".join(lines)


def timed(sweep: dict[str, Any]) -> str:
    """Write the command of a sweep with what it costs."""
    return f"{sweep['command']}  # {sweep['runs']} runs, {minutes_of([sweep])} CPU minutes"


def minutes_of(sweeps: Sequence[dict[str, Any]]) -> str:
    """Write how many minutes sweeps took; "–" if one of them does not say."""
    seconds = [sweep.get("seconds") for sweep in sweeps]
    return "–" if None in seconds else f"{math.fsum(filter(None, seconds)) / 60:.0f}"


def console(commands: list[str]) -> list[str]:
    """Write commands as they are typed."""
    return ["```console", *(f"$ {line}" for line in commands), "```"]


def updated(ledger: dict[str, Any], folders: list[Path], later: list[Path]) -> dict[str, Any]:
    """Return the ledger with what some sweeps say, and with what sweeps of new seeds say of its rows."""
    ledger = ledger | {"dated": RULES.dated}
    if folders:
        papers = ledger["papers"] | parts_of(folders)
        sweeps = ledger["sweeps"] | {folder.name: about(folder) for folder in folders}
        used = dict.fromkeys(name for part in papers.values() for name in part["sweeps"])
        ledger |= {"papers": papers, "sweeps": {name: sweeps[name] for name in used}}
    if later:
        sweeps_again = [about(folder, "runs/again") for folder in later]
        ledger["again"] = {"sweeps": sweeps_again, "claims": rows(rule_on_claims(later).rulings)}
    return ledger


def page(before: str, ledger: dict[str, Any]) -> str:
    """Return docs/claims.md with the sections that are made from the ledger; the others stay as they are."""
    above, _, rest = before.partition(COUNTS)
    rules, _, _ = rest.partition(RULES_HEADING)[2].partition(HEADING)
    return f"{above}{COUNTS}\n{counts(ledger)}\n\n{RULES_HEADING}{rules}{HEADING}\n{render(ledger)}"


def write(ledger: dict[str, Any]) -> None:
    """Write the pages and the figures of a ledger."""
    PAGE.write_text(page(PAGE.read_text(), ledger))
    FINDINGS.write_text(findings(ledger))
    for name, text in figures(ledger).items():
        (FIGURES / name).write_text(text)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("folders", nargs="*", type=Path)
    parser.add_argument("--again", nargs="*", default=[], type=Path)
    arguments = parser.parse_args()
    ledger = updated(json.loads(LEDGER.read_text()), sweeps_in(arguments.folders), sweeps_in(arguments.again))
    LEDGER.write_text(json.dumps(ledger, indent=1, ensure_ascii=False) + "\n")
    write(ledger)
