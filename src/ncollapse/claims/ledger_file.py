"""The ledger of claims as JSON: values for a program, and the file that a run's page reads."""

import json
import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ncollapse.claims.ledger import PAPER, Ledger, Ruling
from ncollapse.claims.rules import Evidence
from ncollapse.records.files import write_whole
from ncollapse.records.parsing import ReportError, parse

__all__ = ["LEDGER_FILE", "Part", "ledger_values", "part_of", "write_ledger"]

LEDGER_FILE = "claims.json"


@dataclass(frozen=True)
class _Evidence:
    setting: str
    supporting: tuple[str, ...]
    opposing: tuple[str, ...]


@dataclass(frozen=True)
class _Claim:
    statement: str
    verdict: str
    evidence: tuple[_Evidence, ...]


@dataclass(frozen=True)
class _File:
    """``claims.json``, what a run's page reads of it; runs are named from its folder."""

    claims: tuple[_Claim, ...]


@dataclass(frozen=True)
class Part:
    """What one run has to say in a claim: in how many of its tests it agrees, and in how many not."""

    statement: str
    verdict: str
    agrees: int
    disagrees: int


def ledger_values(ledger: Ledger) -> dict[str, Any]:
    """The ledger as JSON values.

    Args:
        ledger: From ``rule_on_claims``.

    Returns:
        ``paper``, ``runs``, ``left_out`` and ``claims``; numbers that are undefined are None.
    """
    return _values_from(ledger, None)


def write_ledger(ledger: Ledger, out: Path) -> None:
    """Write these values, run directories named from the file's folder, so that both can be moved together."""
    write_whole(out, (json.dumps(_values_from(ledger, out.parent), indent=1) + "\n").encode())


def part_of(run_dir: Path) -> tuple[Path | None, list[Part]]:
    """What the ledger beside a run says of it."""
    own = run_dir.resolve()
    for folder in (own, own.parent):
        file = folder / LEDGER_FILE
        if file.is_file() and (parts := _parts(file, own)):
            return file, parts
    return None, []


def _parts(file: Path, run_dir: Path) -> list[Part]:
    try:
        claims = parse(_File, json.loads(file.read_text(encoding="utf-8")), f"{file}: ").claims
    except ValueError as error:
        words = str(error) if isinstance(error, ReportError) else f"{file} is not JSON ({error})."
        raise ReportError(f"{words} Write it anew with `ncollapse claims`, or remove it.") from None

    def names(runs: tuple[str, ...]) -> int:
        return sum((file.parent / name).resolve() == run_dir for name in runs)

    found = [
        Part(c.statement, c.verdict, sum(names(e.supporting) for e in c.evidence), sum(names(e.opposing) for e in c.evidence))
        for c in claims
    ]
    return [part for part in found if part.agrees or part.disagrees]


def _values_from(ledger: Ledger, folder: Path | None) -> dict[str, Any]:
    def named(path: str) -> str:
        return path if folder is None else Path(os.path.relpath(path, folder)).as_posix()

    return {
        "paper": PAPER,
        "runs": [named(path) for path in ledger.runs],
        "left_out": [{"run": named(path), "why": why} for path, why in ledger.left_out],
        "claims": [_ruling_values(item, named) for item in ledger.rulings],
    }


def _ruling_values(ruling: Ruling, named: Callable[[str], str]) -> dict[str, Any]:
    claim = ruling.claim
    words = {"key": claim.key, "statement": claim.statement, "source": claim.source, "tested": claim.tested}
    evidence = [_evidence_values(item, named) for item in ruling.evidence]
    return {**words, "verdict": ruling.verdict, "why": ruling.why, "evidence": evidence}


def _evidence_values(item: Evidence, named: Callable[[str], str]) -> dict[str, Any]:
    value, low, high = (None if math.isnan(x) else x for x in item.estimate[:3])
    return {
        "setting": item.setting,
        "statistic": item.statistic,
        "seeds": item.estimate.n,
        "value": value,
        "interval": [low, high],
        "verdict": item.verdict,
        "why": item.why,
        "counts": item.counts,
        "supporting": [named(path) for path in item.supporting],
        "opposing": [named(path) for path in item.opposing],
    }
