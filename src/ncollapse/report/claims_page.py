"""The ledger of claims as words, as a table in Markdown, and as one self-contained HTML page."""

import math
from collections import Counter
from pathlib import Path
from typing import Any

from ncollapse.claims.estimates import Estimate
from ncollapse.claims.ledger import Ledger, write_ledger
from ncollapse.claims.progressive_collapse import PAPER
from ncollapse.claims.rules import Claim, Evidence
from ncollapse.drawing.wording import counted, listed, number
from ncollapse.report.markup import write_html

_VERDICTS = {
    "holds": "hold",
    "holds partly": "hold partly",
    "fails": "fail",
    "not testable here": "not testable with these runs",
}


def write_claims_page(ledger: Ledger, out: Path) -> Path:
    """Write the ledger as a page, each claim with every setting and test behind its verdict, and beside it as ``.json``.

    Returns:
        The page.
    """
    out = Path(out)
    write_html(
        out,
        "claims.html",
        title=f"Claims of the papers, tested on {counted(len(ledger.runs), 'finished run')}",
        paper=PAPER,
        tally=tally(ledger),
        left_out=ledger.left_out,
        rulings=[row for row in ledger_rows(ledger) if row["evidence"]],
        silent=_silent(ledger),
    )
    write_ledger(ledger, out.with_suffix(".json"))
    return out


def ledger_rows(ledger: Ledger) -> list[dict[str, Any]]:
    """Return what the template ``ledger.html`` needs."""
    return [
        {"claim": item.claim, "verdict": item.verdict, "why": item.why, "evidence": [_row(e) for e in item.evidence]}
        for item in ledger.rulings
    ]


def ledger_lines(ledger: Ledger) -> list[str]:
    """Return the ledger in words.

    Each claim with evidence has a line with verdict, statement and source; indented lines say what was tested and what was
    found. The keys of the other claims follow, and what was left out.
    """
    lines = [f"{counted(len(ledger.runs), 'finished run')}. Source: {PAPER}.", tally(ledger)]
    for ruling in (item for item in ledger.rulings if item.evidence):
        why = f": {ruling.why}" if ruling.why else ""
        lines.append(f"[{ruling.verdict}{why}] {ruling.claim.statement} ({ruling.claim.source}).")
        lines.append(f"    Tested: {ruling.claim.tested}.")
        lines += [f"    {_sentence(item)}" for item in ruling.evidence]
    silent = _silent(ledger)
    if silent:
        keys = ", ".join(claim.key for claim in silent)
        lines.append(f"[not testable here: no run fits] {counted(len(silent), 'further claim')}: {keys}.")
    return [*lines, *(f"Left out: {path}: {why}" for path, why in ledger.left_out)]


def tally(ledger: Ledger) -> str:
    """Count the claims by verdict."""
    verdicts = Counter(str(ruling.verdict) for ruling in ledger.rulings)
    said = [f"{verdicts[verdict]} {words}" for verdict, words in _VERDICTS.items() if verdicts[verdict]]
    return f"Of {counted(len(ledger.rulings), 'claim')}: {', '.join(said)}."


def ledger_markdown(ledger: Ledger) -> list[str]:
    """Return the ledger as lines of a table in Markdown; evidence that does not count is only counted."""
    lines = ["| claim | verdict | setting: statistic, value [95 % interval], n, in this setting |", "|---|---|---|"]
    for ruling in ledger.rulings:
        said = [
            f"{item.setting}: {item.statistic} **{_interval(item.estimate)}**, n = {item.estimate.n}, {item.verdict}"
            for item in ruling.evidence
            if item.counts and item.estimate.n
        ]
        rest = len(ruling.evidence) - len(said)
        said += [f"{counted(rest, 'further test')} outside the terminal phase or without a value"] if rest else []
        words = f"{ruling.verdict}: {ruling.why}" if ruling.why and not said else ruling.verdict
        cells = (f"{ruling.claim.statement} ({ruling.claim.source})", words, "<br>".join(said))
        lines.append(f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |")
    return lines


def _silent(ledger: Ledger) -> list[Claim]:
    """List the claims that no run bears on."""
    return [ruling.claim for ruling in ledger.rulings if not ruling.evidence]


def _sentence(item: Evidence) -> str:
    said = f"{item.setting}: {item.statistic} {_interval(item.estimate)}, n = {item.estimate.n}: {_verdict_in_words(item)}."
    for word, runs in (("Shown by", item.supporting), ("Against it", item.opposing)):
        said += f" {word}: {listed([Path(run).name for run in runs])}." if runs else ""
    return said


def _verdict_in_words(item: Evidence) -> str:
    said = f"{item.verdict}{f' ({item.why})' if item.why else ''}"
    return said if item.counts else f"{said}; not counted"


def _interval(estimate: Estimate) -> str:
    if math.isnan(estimate.value):
        return "undefined"
    ends = "" if math.isnan(estimate.low) else f" [{number(estimate.low)}, {number(estimate.high)}]"
    return f"{number(estimate.value)}{ends}"


def _row(item: Evidence) -> dict[str, Any]:
    return {"item": item, "interval": _interval(item.estimate), "ruled": _verdict_in_words(item)}
