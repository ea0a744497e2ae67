"""The ledger of the papers' claims and of the questions that they leave: each ruled on from run directories alone."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ncollapse.claims.deep_regularized import DEEP_CLAIMS
from ncollapse.claims.progressive_collapse import CLAIMS, PAPER, Claim
from ncollapse.claims.rules import Evidence, Verdict, combine
from ncollapse.records.parsing import ReportError
from ncollapse.records.reading import Run, read_run
from ncollapse.records.sweep import SWEEP_FILE, read_sweep, unfinished

__all__ = ["ALL_CLAIMS", "CLAIMS", "PAPER", "Claim", "Ledger", "Ruling", "rule_on_claims"]

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
    """Rule on every claim from the finished runs in some folders.

    Args:
        folders: Run directories, and folders of sweeps, which stand for their runs.
        claims: Those to rule on.

    Returns:
        The ledger, claims with a verdict first. Runs that are not finished, and second runs of one seed and setting, are left
        out and named.

    Raises:
        ReportError: If no folder is given, or a file in one is missing or broken.
    """
    runs: dict[str, Run] = {}
    left_out: list[tuple[str, str]] = []
    for path, run, problem in _find(folders):
        if run is None or problem:
            left_out.append((str(path), problem))
            continue
        settings = {
            key: value for key, value in run.recipe_entries.items() if key not in {"name", "title", "description", "changed"}
        }
        first = runs.setdefault(json.dumps(settings, sort_keys=True), run)
        if first is not run:
            left_out.append((str(path), f"has the settings and the seed of {first.path}, and is no other sample"))
    kept = list(runs.values())
    rulings = []
    for claim in claims:
        evidence = tuple(claim.examine([run for run in kept if claim.about(run)]))
        rulings.append(Ruling(claim, *combine(evidence), evidence))
    # First what is ruled on, then what no run could tell, at last what no run bears on.
    rulings.sort(key=lambda ruling: (ruling.verdict == "not testable here", not ruling.evidence))
    return Ledger(tuple(rulings), tuple(str(run.path) for run in kept), tuple(left_out))


def _find(folders: Iterable[Path]) -> Iterable[tuple[Path, Run | None, str]]:
    """Every run with what speaks against it."""
    paths = [Path(folder) for folder in folders]
    if not paths:
        raise ReportError("The claims need at least one folder, got none. Name run directories, or folders of sweeps.")
    for path in paths:
        if (path / SWEEP_FILE).is_file():
            yield from ((path / item.name, item.run, item.problem) for item in read_sweep(path).runs)
        else:
            run = read_run(path)
            yield path, run, unfinished(run)
