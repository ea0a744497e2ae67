"""``claims.json``: verdicts on claims and the evidence behind them. Runs are named from the file's folder."""

from dataclasses import dataclass


@dataclass(frozen=True)
class EvidenceRecord:
    """What the seeds of one setting say in one test; None for an undefined value or end of its interval."""

    setting: str
    statistic: str
    seeds: int
    value: float | None
    interval: tuple[float | None, float | None]
    verdict: str
    why: str
    counts: bool
    supporting: tuple[str, ...]
    opposing: tuple[str, ...]


@dataclass(frozen=True)
class ClaimRecord:
    """One claim, its place in the paper, how it is tested, and the verdict."""

    key: str
    statement: str
    source: str
    tested: str
    verdict: str
    why: str
    evidence: tuple[EvidenceRecord, ...]


@dataclass(frozen=True)
class LeftOut:
    """A run that the verdicts do not rest on, and the reason."""

    run: str
    why: str


@dataclass(frozen=True)
class ClaimsFile:
    """The whole file."""

    paper: str
    runs: tuple[str, ...]
    left_out: tuple[LeftOut, ...]
    claims: tuple[ClaimRecord, ...]
