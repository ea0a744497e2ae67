"""The ledger of the papers' claims and of the questions that they leave: ruled on from run directories, kept as JSON."""

import json
import math
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ncollapse.claims.deep_regularized import DEEP_CLAIMS
from ncollapse.claims.progressive_collapse import CLAIMS, PAPER
from ncollapse.claims.rules import Claim, Evidence, Verdict, combine
from ncollapse.drawing.wording import MEASURED_ONLY
from ncollapse.records import file_names
from ncollapse.records.errors import ReportError
from ncollapse.records.json_files import read_json, write_json
from ncollapse.records.reading import Run, read_run
from ncollapse.records.recipe_settings import NO_SETTINGS, setting
from ncollapse.records.run_files import ClaimRecord, ClaimsFile, EvidenceRecord, LeftOut
from ncollapse.records.sweep import read_sweep, unfinished

# Settings by which the claims choose and group runs.
_NEEDED = ("seed", "model.connections", "train.loss", "data.corrupt")

ALL_CLAIMS = (*CLAIMS, *DEEP_CLAIMS)


@dataclass(frozen=True)
class Ruling:
    """The verdict on a claim and what it rests on; ``why`` says what hinders one."""

    claim: Claim
    verdict: Verdict
    why: str
    evidence: tuple[Evidence, ...]


@dataclass(frozen=True)
class Ledger:
    """All rulings, the run directories that they rest on, and those that were left out, each with the reason."""

    rulings: tuple[Ruling, ...]
    runs: tuple[str, ...]
    left_out: tuple[tuple[str, str], ...]


def rule_on_claims(folders: Iterable[Path], claims: Sequence[Claim] = ALL_CLAIMS) -> Ledger:
    """Return the ruling on every claim from the finished runs in some folders, claims with a verdict first.

    Args:
        folders: Run directories, and folders of sweeps, which stand for their runs. Unfinished runs, and second runs of one
            seed and setting, are left out and named.
        claims: Those to rule on.

    Raises:
        ReportError: If no folder is given, or a file in one is missing or broken.
    """
    runs: dict[str, Run] = {}
    left_out: list[tuple[str, str]] = []
    for path, run, problem in _find(folders):
        if run is None or problem:
            left_out.append((str(path), problem))
            continue
        first = runs.setdefault(_settings(run), run)
        if first is not run:
            left_out.append((str(path), f"has the same settings and seed as {first.path}, so it is not another sample"))
    kept = list(runs.values())
    rulings = []
    for claim in claims:
        evidence = tuple(claim.examine([run for run in kept if claim.about(run)]))
        rulings.append(Ruling(claim, *combine(evidence), evidence))
    # First what is ruled on, then what no run could tell, at last what no run bears on.
    rulings.sort(key=lambda ruling: (ruling.verdict == "not testable here", not ruling.evidence))
    return Ledger(tuple(rulings), tuple(str(run.path) for run in kept), tuple(left_out))


def _settings(run: Run) -> str:
    """Write what the numbers of a run depend on, of which words and the number of checkpoints are no part."""
    entries: dict[str, Any] = {}
    for key, value in run.recipe_entries.items():
        entries |= {f"{key}.{leaf}": item for leaf, item in value.items()} if isinstance(value, dict) else {key: value}
    return json.dumps({key: entries[key] for key in entries.keys() - NO_SETTINGS}, sort_keys=True)


def _find(folders: Iterable[Path]) -> Iterable[tuple[Path, Run | None, str]]:
    """Every run with what speaks against it."""
    paths = [Path(folder) for folder in folders]
    if not paths:
        raise ReportError("The claims need at least one folder, got none. Name run directories, or folders of sweeps.")
    # No claim looks at the epochs between the first and the last.
    for path in paths:
        if (path / file_names.SWEEP).is_file():
            for item in read_sweep(path, "ends").runs:
                yield path / item.name, item.run, item.problem or ("" if item.run is None else _unsaid(item.run))
        else:
            run = read_run(path, "ends")
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
    """Return the ledger as JSON values: ``paper``, ``runs``, ``left_out`` and ``claims``; undefined numbers are None."""
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
        PAPER,
        tuple(named(path) for path in ledger.runs),
        tuple(LeftOut(named(path), why) for path, why in ledger.left_out),
        tuple(_claim(item, named) for item in ledger.rulings),
    )


def _claim(ruling: Ruling, named: Callable[[str], str]) -> ClaimRecord:
    claim, evidence = ruling.claim, tuple(_evidence(item, named) for item in ruling.evidence)
    return ClaimRecord(claim.key, claim.statement, claim.source, claim.tested, ruling.verdict, ruling.why, evidence)


def _evidence(item: Evidence, named: Callable[[str], str]) -> EvidenceRecord:
    value, low, high = (None if math.isnan(x) else x for x in item.estimate[:3])
    return EvidenceRecord(
        setting=item.setting,
        statistic=item.statistic,
        seeds=item.estimate.n,
        value=value,
        interval=(low, high),
        verdict=item.verdict,
        why=item.why,
        counts=item.counts,
        supporting=tuple(named(path) for path in item.supporting),
        opposing=tuple(named(path) for path in item.opposing),
    )
