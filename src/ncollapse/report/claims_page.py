"""The ledger of claims as words, as a table in Markdown, and as one self-contained HTML page."""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from ncollapse.claims.estimates import Estimate
from ncollapse.claims.evidence import Evidence
from ncollapse.claims.ledger import Ledger, Ruling, write_ledger
from ncollapse.claims.rules import RULES
from ncollapse.claims.verdicts import RowTest
from ncollapse.drawing.wording import counted, number
from ncollapse.report.markup import write_html

_VERDICTS = {
    "holds": "hold",
    "fails": "fail",
    "depends on the setting": "depend on the setting",
    "undecided": "undecided",
    "check failed": "failed as a check of the code",
    "check passed": "passed as a check of the code",
    "not testable here": "not testable with these runs",
}

_OUTSIDE = {False: "outside the terminal phase", True: "that are not stationary"}


def write_claims_page(ledger: Ledger, out: Path) -> Path:
    """Write the ledger as a page, one row per claim with its settings and runs behind it, and beside it as ``.json``.

    Returns:
        The page.
    """
    out = Path(out)
    write_html(
        out,
        "claims.html",
        title=f"Claims of the papers, tested on {counted(len(ledger.runs), 'finished run')}",
        tally=tally(ledger),
        rules=RULES,
        left_out=ledger.left_out,
        rulings=ledger_rows(ledger),
        silent=[(command, claims) for command, claims in missing(ledger).items()],
    )
    write_ledger(ledger, out.with_suffix(".json"))
    return out


def ledger_rows(ledger: Ledger) -> list[dict[str, Any]]:
    """Return what the template ``ledger.html`` needs, of the claims that some run says something about."""
    return [
        {
            "claim": item.claim,
            "verdict": item.verdict,
            "number": _number(item.row),
            "sample": _sample(item),
            "facts": _facts(item),
            "evidence": [
                {"item": one, "stands": stands, "interval": interval_words(one.estimate, _is_share(one))}
                for one, stands in item.settings
            ],
        }
        for item in ledger.rulings
        if _has_numbers(item)
    ]


def ledger_lines(ledger: Ledger) -> list[str]:
    """Return the ledger in words: the counts, what was left out, a line for each claim that a run can test, and what to run."""
    lines = [f"{counted(len(ledger.runs), 'finished run')}, tested by the rules of {RULES.dated}.", tally(ledger)]
    lines += [f"Left out: {path}: {why}" for path, why in ledger.left_out]
    untested: Counter[str] = Counter()
    for ruling in filter(_has_numbers, ledger.rulings):
        if not ruling.row.estimate.n:
            untested[ruling.why] += 1
            continue
        lines.append(f"[{ruling.verdict}] {ruling.claim.statement}: {_number(ruling.row)}, {_sample(ruling)}.")
        lines += [f"    {fact}" for fact in _facts(ruling)]
        lines += [f"    {_sentence(item, stands)}" for item, stands in ruling.settings]
    lines += [f"[not testable here] {counted(times, 'claim')}: {why}." for why, times in untested.items()]
    for command, claims in missing(ledger).items():
        told = f"To test {counted(len(claims), 'further claim')}"
        lines.append(f"{told}: {command}" if command else f"{told}, make runs of the kind that they are about.")
    return lines


def missing(ledger: Ledger) -> dict[str, list[str]]:
    """Return the claims that no run says anything about, or too few, by the command that gives the runs."""
    found: dict[str, list[str]] = {}
    for ruling in ledger.rulings:
        if ruling.verdict == "not testable here":
            found.setdefault(ruling.claim.command, []).append(ruling.claim.key)
    return found


def tally(ledger: Ledger) -> str:
    """Count the claims by verdict."""
    verdicts = Counter(str(ruling.verdict) for ruling in ledger.rulings)
    said = [f"{verdicts[verdict]} {words}" for verdict, words in _VERDICTS.items() if verdicts[verdict]]
    return f"Of {counted(len(ledger.rulings), 'claim')}: {', '.join(said)}."


def ledger_markdown(ledger: Ledger) -> list[str]:
    """Return the ledger as lines of Markdown: a row for each claim that a run says something about; its details fold out."""
    rulings = list(filter(_has_numbers, ledger.rulings))
    taus = [*RULES.other_taus]
    heads = ["claim", "source", "per setting", "over settings", "p, corrected", "steps tested", "base rates"]
    return [
        *_table(("claim", "verdict", "number, 95 %", "settings × seeds"), map(_brief, rulings)),
        "",
        "<details>",
        "<summary>Details: sources, settings, p-values, steps, base rates, other bounds of τ</summary>",
        "",
        *_table([*heads, *(f"τ ≥ {tau:g}" for tau in taus)], (_details(ruling, taus) for ruling in rulings)),
        "",
        "</details>",
    ]


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    lines = [f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]
    return [*lines, *(f"| {' | '.join(cell.replace('|', '/') or '–' for cell in cells)} |" for cells in rows)]


def _brief(ruling: Ruling) -> list[str]:
    row = ruling.row
    verdict = f"{ruling.verdict}: {ruling.why}" if ruling.verdict == "not testable here" else ruling.verdict
    said = f"{counted(len(row.votes), 'setting')}, {counted(row.estimate.n, 'seed')}" if row.estimate.n else ""
    return [ruling.claim.statement, verdict, _number(row), said]


def _details(ruling: Ruling, taus: Sequence[float]) -> list[str]:
    row, others = ruling.row, dict(ruling.sensitivity)
    return [
        ruling.claim.statement,
        ruling.claim.source,
        _stands(ruling),
        _over_settings(row),
        "" if ruling.corrected is None else number(ruling.corrected, 2),
        _steps(row),
        "; ".join(f"{base.name} {number(base.value)}" for base in row.bases),
        *(_number(others[tau]) if tau in others else "" for tau in taus),
    ]


def _steps(row: RowTest) -> str:
    """Write the fewest and most steps from layer to layer that were tested; "" for what is not about an order."""
    return " to ".join(map(str, dict.fromkeys(row.steps or ())))


def _has_numbers(ruling: Ruling) -> bool:
    return ruling.row.estimate.n > 0 or ruling.outside > 0 or any(row.estimate.n for _, row in ruling.sensitivity)


def _stands(ruling: Ruling) -> str:
    """Count in how many settings a claim is right, wrong or open by their own seeds."""
    counts = Counter(stands or "without a vote" for item, stands in ruling.settings if item.draws)
    return ", ".join(f"{counts[kind]} {kind}" for kind in ("right", "wrong", "open", "without a vote") if counts[kind])


def _number(row: RowTest) -> str:
    """Write the one number of a row: of several settings their mean."""
    return _mean_share(row.estimate) if len(row.votes) > 1 and row.is_share else interval_words(row.estimate, row.is_share)


def _over_settings(row: RowTest) -> str:
    """Write the interval over settings, of shares in percent; "" if there is none."""
    if row.over_settings is None:
        return ""
    low, high = row.over_settings
    return _ends((100 * low, 100 * high)) if row.is_share else _ends((low, high))


def _mean_share(estimate: Estimate) -> str:
    return f"{100 * estimate.value:.3g} % {_ends((100 * estimate.low, 100 * estimate.high))}"


def _ends(interval: tuple[float, float]) -> str:
    return f"[{number(interval[0])}, {number(interval[1])}]"


def interval_words(estimate: Estimate, is_share: bool) -> str:
    """Write a number with its interval."""
    value, low, high, n = estimate
    if math.isnan(value):
        return "–"
    if not is_share and low == high:
        return f"{number(value)} (no spread)"
    if not is_share:
        return number(value) if math.isnan(low) else f"{number(value)} [{number(low)}, {number(high)}]"
    told = f"{round(value * n)} of {n}"
    if value in {0.0, 1.0}:
        return f"{told} ({f'≥ {number(low, 2)}' if value else f'≤ {number(high, 2)}'})"
    return f"{told} [{number(low, 2)}, {number(high, 2)}]"


def _sample(ruling: Ruling) -> str:
    votes = len(ruling.row.votes)
    own = f": {_stands(ruling)}" if votes > 1 else ""
    return f"{counted(ruling.row.estimate.n, 'seed')} from {counted(votes, 'setting')}{own}"


def _facts(ruling: Ruling) -> list[str]:
    """List what a reader needs to know about a verdict, in the order in which it may be doubted."""
    row, facts = ruling.row, [f"Tested: {ruling.claim.tested}."]
    if ruling.why:
        facts.append(f"Why: {ruling.why}.")
    if ruling.corrected is not None:
        facts.append(f"p = {number(row.p_value, 2)}, {number(ruling.corrected, 2)} after Holm's correction.")
    if row.over_settings:
        facts.append(f"Over settings, as if they were drawn: {_over_settings(row)}. No verdict rests on this.")
    facts += [f"{base.name[0].upper()}{base.name[1:]}: {number(base.value, 2)}." for base in row.bases]
    if row.steps:
        facts.append(f"Steps tested: {_steps(row)}.")
    if ruling.sensitivity:
        others = ", ".join(f"{_number(other)} from τ ≥ {tau:g}" for tau, other in ruling.sensitivity)
        facts.append(f"With another bound of the terminal phase than τ ≥ {RULES.terminal_tau:g}: {others}.")
    if ruling.outside:
        facts.append(f"{counted(ruling.outside, 'run')} {_OUTSIDE[ruling.claim.stationary]} not counted.")
    return facts


def _sentence(item: Evidence, stands: str) -> str:
    said = f"{item.setting}: {item.statistic} {interval_words(item.estimate, _is_share(item))}"
    against = _names(item.opposing)
    said += f" ({stands})" if stands else " (too few for a vote)" if item.draws else ""
    return f"{said}{f'; {item.why}' if item.why else ''}.{f' Against it: {against}.' if against else ''}"


def _names(runs: Sequence[str]) -> str:
    return ", ".join(Path(run).name for run in runs)


def _is_share(item: Evidence) -> bool:
    return all(isinstance(draw.value, bool) for draw in item.draws)
