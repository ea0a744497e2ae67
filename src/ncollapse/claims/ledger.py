"""The ledger of the papers' claims and of the questions that they leave: ruled on from run directories, kept as JSON."""

import math
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ncollapse.claims.deep_regularized import DEEP_CLAIMS
from ncollapse.claims.evidence import Evidence, with_base_rates
from ncollapse.claims.open_questions import QUESTIONS
from ncollapse.claims.pooling import row_over
from ncollapse.claims.progressive_collapse import CLAIMS
from ncollapse.claims.rules import RULES, Claim, Verdict, counts
from ncollapse.claims.verdicts import RowTest, has_enough, holm, judge, judge_check, too_few, without_base_rate
from ncollapse.drawing.wording import MEASURED_ONLY, counted, number
from ncollapse.recipe_fingerprint import NO_SETTINGS
from ncollapse.records import file_names
from ncollapse.records.errors import ReportError
from ncollapse.records.json_files import read_json, write_json
from ncollapse.records.reading import Run, read_run
from ncollapse.records.recipe_settings import setting, settings_in_words
from ncollapse.records.run_files import ClaimRecord, ClaimsFile, EvidenceRecord, LeftOut, SensitivityRecord
from ncollapse.records.sweep import read_sweep, unfinished

# Settings by which the claims choose and group runs.
_NEEDED = ("seed", "model.connections", "train.loss", "data.corrupt")

ALL_CLAIMS = (*CLAIMS, *QUESTIONS, *DEEP_CLAIMS)

_ORDER = ("holds", "fails", "depends on the setting", "undecided", "check failed", "check passed", "not testable here")


@dataclass(frozen=True)
class Ruling:
    """The verdict on a claim and what it rests on."""

    claim: Claim
    verdict: Verdict
    why: str  # what hinders a verdict, or a clearer one
    row: RowTest  # the numbers over all settings that have a vote
    # The p-value after Holm's correction for all rows of the paper that have enough draws; None without a verdict.
    corrected: float | None
    evidence: tuple[Evidence, ...]  # one for each setting
    # Where the claim is about the terminal phase: the numbers for runs from other weight-decay times on.
    sensitivity: tuple[tuple[float, RowTest], ...]
    outside: int  # runs that do not count, because they are outside the terminal phase, or not stationary

    @property
    def settings(self) -> list[tuple[Evidence, str]]:
        """What each setting says, and whether the claim is right, wrong or open there; "" for one without a vote."""
        stands = {id(vote.evidence): vote.stands for vote in self.row.votes}
        return [(item, stands.get(id(item), "")) for item in self.evidence]


@dataclass(frozen=True)
class Ledger:
    """All rulings, the run directories behind them, and the runs that were left out, each with the reason."""

    rulings: tuple[Ruling, ...]
    runs: tuple[str, ...]
    left_out: tuple[tuple[str, str], ...]


def rule_on_claims(folders: Iterable[Path], claims: Sequence[Claim] = ALL_CLAIMS) -> Ledger:
    """Return the ruling on every claim from the finished runs in some folders, by verdict: those that hold first.

    Args:
        folders: Run directories, and folders of sweeps, which stand for their runs. Unfinished runs, and second runs of one
            seed and setting, are left out and named.
        claims: Those to rule on.

    Raises:
        ReportError: If no folder is given, or a file in one is missing or broken.
    """
    # By what the numbers of a run depend on.
    runs: dict[frozenset[tuple[str, str]], Run] = {}
    left_out: list[tuple[str, str]] = []
    for path, run, problem in _find(folders):
        if run is None or problem:
            left_out.append((str(path), problem))
            continue
        settings = settings_in_words(run).items()
        first = runs.setdefault(frozenset((name, value) for name, value in settings if name not in NO_SETTINGS), run)
        if first is not run:
            left_out.append((str(path), f"has the same settings and seed as {first.path}, so it is not another sample"))
    kept = list(runs.values())
    rulings = sorted(_rulings(claims, kept), key=lambda ruling: (_ORDER.index(ruling.verdict), not ruling.evidence))
    return Ledger(tuple(rulings), tuple(str(run.path) for run in kept), tuple(left_out))


def _rulings(claims: Sequence[Claim], runs: Sequence[Run]) -> list[Ruling]:
    """Rule on every claim; the rows of a paper that have enough draws are corrected together."""
    examined = [_examined(claim, [run for run in runs if claim.about(run)]) for claim in claims]
    corrected: dict[int, float] = {}
    for family in dict.fromkeys(claim.family for claim in claims):
        rows = [i for i, ruling in enumerate(examined) if ruling.claim.family == family and _is_decided(ruling)]
        corrected |= dict(zip(rows, holm([examined[i].row.p_value for i in rows]), strict=True))
    return [_ruled(ruling, corrected.get(index)) for index, ruling in enumerate(examined)]


def _examined(claim: Claim, runs: Sequence[Run]) -> Ruling:
    counting = [run for run in runs if counts(claim, run)]
    evidence, row = _row(claim, counting)
    others = RULES.other_taus if claim.terminal and runs else ()
    sensitivity = tuple((tau, _row(claim, [run for run in runs if counts(claim, run, tau)])[1]) for tau in others)
    why = _unsettled(claim, runs) if runs and not counting else _hindrance(evidence, row)
    return Ruling(claim, "not testable here", why, row, None, evidence, sensitivity, len(runs) - len(counting))


def _row(claim: Claim, runs: Sequence[Run]) -> tuple[tuple[Evidence, ...], RowTest]:
    found = claim.examine(runs)
    # A theorem has no base rate, and no settings that could outvote others: every draw counts.
    evidence = tuple(found if claim.checks_code else with_base_rates(found))
    return evidence, row_over(evidence, 1 if claim.checks_code else RULES.least_seeds)


def _unsettled(claim: Claim, runs: Sequence[Run]) -> str:
    """Say why no run counts."""
    if not claim.stationary:
        return (
            "no run is in the terminal phase of training, which needs zero training error and a weight-decay time τ of "
            f"{RULES.terminal_tau:g} or more (defined under SGD alone, unknown where no optimizer was recorded)"
        )
    found = [run.last_objective.relative_gradient for run in runs if run.last_objective is not None]
    known = [value for value in found if value is not None]
    least = f"the least is {number(min(known), 2)}" if known else "none recorded it"
    return (
        f"not stationary: of {counted(len(runs), 'run')} none has a relative gradient of the regularized objective of at most "
        f"{RULES.stationary:g} ({least})"
    )


def _hindrance(evidence: Sequence[Evidence], row: RowTest) -> str:
    """Say why there is no verdict, should there be none."""
    if not evidence:
        return "no run fits"
    reasons = dict.fromkeys(item.why for item in evidence if item.why)
    silent = sum(item.silent for item in evidence)
    nothing = [f"nothing to test in {silent} of them"] if silent and not reasons else []
    return "; ".join([too_few(row), *_without_base_rate(evidence), *reasons, *nothing])


def _without_base_rate(evidence: Sequence[Evidence]) -> list[str]:
    return without_base_rate(sum(item.without_base for item in evidence))


def _is_decided(ruling: Ruling) -> bool:
    return has_enough(ruling.row) and not ruling.claim.checks_code


def _ruled(ruling: Ruling, corrected: float | None) -> Ruling:
    if ruling.claim.checks_code and ruling.row.estimate.n:
        verdict, why = judge_check(ruling.row)
    elif corrected is not None:
        verdict, found = judge(ruling.row, corrected)
        why = "; ".join([*([found] if found else []), *_without_base_rate(ruling.evidence)])
    else:
        return ruling
    return replace(ruling, verdict=verdict, why=why, corrected=corrected)


def _find(folders: Iterable[Path]) -> Iterable[tuple[Path, Run | None, str]]:
    """Every run with what speaks against it."""
    paths = [Path(folder) for folder in folders]
    if not paths:
        raise ReportError("The claims need at least one folder, got none. Name run directories, or folders of sweeps.")
    for path in paths:
        if (path / file_names.SWEEP).is_file():
            for item in read_sweep(path).runs:
                yield path / item.name, item.run, item.problem or ("" if item.run is None else _unsaid(item.run))
        else:
            run = read_run(path)
            measured = f"{MEASURED_ONLY}; the claims are about training" if run.is_measured_only else ""
            yield path, run, measured or unfinished(run) or _unsaid(run)


def _unsaid(run: Run) -> str:
    """Say which settings of a recorded training the claims need to know and its recipe does not say."""
    # A recipe of ours that lacks a field has the value of the paper's setting; that of somebody else's training may have any.
    missing = [name for name in _NEEDED if setting(run, name) is None] if run.is_recorded else []
    return f"its recipe does not say {', '.join(missing)}; pass them to the recorder with recipe=" if missing else ""


@dataclass(frozen=True)
class Part:
    """What one run has to say in a claim: in how many of its tests it agrees, and in how many not."""

    statement: str
    verdict: str
    agrees: int
    disagrees: int


def ledger_values(ledger: Ledger) -> dict[str, Any]:
    """Return the ledger as JSON values: ``runs``, ``left_out``, ``claims`` and ``rules_dated``; undefined numbers are None."""
    return asdict(_records_of(ledger, None))


def write_ledger(ledger: Ledger, out: Path) -> None:
    """Write these values, run directories named from the file's folder, so that both can be moved together."""
    write_json(out, _records_of(ledger, out.parent))


def part_of(run_dir: Path) -> tuple[Path | None, list[Part]]:
    """List what the ledger beside a run says about it."""
    own = run_dir.resolve()
    for folder in (own, own.parent):
        file = folder / file_names.CLAIMS
        if file.is_file() and (parts := _parts(file, own)):
            return file, parts
    return None, []


def _parts(file: Path, run_dir: Path) -> list[Part]:
    folder = file.parent.resolve()
    claims = read_json(file, ClaimsFile, "Write it again with `ncollapse claims`, or remove it.").claims

    def names(runs: tuple[str, ...]) -> int:
        # No links are followed: the names are those of whoever wrote the file.
        return sum(os.path.normpath(folder / name) == str(run_dir) for name in runs)

    found = [
        Part(c.statement, c.verdict, sum(names(e.supporting) for e in c.evidence), sum(names(e.opposing) for e in c.evidence))
        for c in claims
    ]
    return [part for part in found if part.agrees or part.disagrees]


def _records_of(ledger: Ledger, folder: Path | None) -> ClaimsFile:
    def named(path: str) -> str:
        return path if folder is None else Path(os.path.relpath(path, folder)).as_posix()

    return ClaimsFile(
        tuple(named(path) for path in ledger.runs),
        tuple(LeftOut(named(path), why) for path, why in ledger.left_out),
        tuple(_claim(item, named) for item in ledger.rulings),
        RULES.dated,
    )


def _claim(ruling: Ruling, named: Callable[[str], str]) -> ClaimRecord:
    claim, row = ruling.claim, ruling.row
    value, low, high = _known(row.estimate[:3])
    return ClaimRecord(
        claim.key,
        claim.statement,
        claim.source,
        claim.tested,
        ruling.verdict,
        ruling.why,
        tuple(_evidence(item, stands, named) for item, stands in ruling.settings),
        claim.family,
        row.estimate.n,
        value,
        (low, high),
        row.p_value if row.estimate.n else None,
        ruling.corrected,
        row.bases,
        row.steps,
        tuple(SensitivityRecord(tau, other.estimate.n, _known(other.estimate[:1])[0]) for tau, other in ruling.sensitivity),
        claim.command,
        (None, None) if row.over_settings is None else row.over_settings,
    )


def _known(values: Sequence[float]) -> list[float | None]:
    return [None if math.isnan(value) else value for value in values]


def _evidence(item: Evidence, stands: str, named: Callable[[str], str]) -> EvidenceRecord:
    value, low, high = _known(item.estimate[:3])
    return EvidenceRecord(
        item.setting,
        item.statistic,
        item.estimate.n,
        value,
        (low, high),
        tuple(named(path) for path in item.supporting),
        tuple(named(path) for path in item.opposing),
        item.why,
        stands,
    )
