"""The ledger of the claims of the PFC paper: each ruled on from run directories alone."""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ncollapse.report import claim_tests
from ncollapse.report.claim_evidence import SeedTest, by_seed, straightened
from ncollapse.report.claim_rules import RULES, Evidence, Verdict, combine, is_terminal
from ncollapse.report.labels import POSITIONS
from ncollapse.report.parsing import ReportError
from ncollapse.report.reading import Run, read_run
from ncollapse.report.sweep_reading import SWEEP_FILE, read_sweep, unfinished

__all__ = ["CLAIMS", "PAPER", "Claim", "Ledger", "Ruling", "rule_on_claims"]

PAPER = "Wang et al., Progressive Feedforward Collapse of ResNet Training, arXiv 2405.00985"
_NAMES = {"pfc1": "PFC1", "pfc2": "PFC2", "pfc3_error": "PFC3"}
_EQUATIONS = {"pfc1": 7, "pfc2": 8, "pfc3_error": 9}
_SHARE = "share of seeds"


@dataclass(frozen=True)
class Claim:
    """A claim of the paper.

    Attributes:
        key: Short name.
        statement: What is claimed.
        source: Where in the paper.
        tested: What is looked at in the files.
        examine: From runs to evidence.
        deep: Whether it is about deep regularized networks, whose objective has a floor; the others are not about them.
    """

    key: str
    statement: str
    source: str
    tested: str
    examine: Callable[[Sequence[Run]], list[Evidence]]
    deep: bool = False


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


def _share(test: SeedTest, *, terminal: bool = True) -> Callable[[Sequence[Run]], list[Evidence]]:
    return partial(by_seed, statistic=_SHARE, test=test, terminal=terminal)


def _line_against_null(metric: str) -> Callable[[Sequence[Run]], list[Evidence]]:
    """At the projection, which is measured at the layer itself, and at the index, which is not."""

    def examine(runs: Sequence[Run]) -> list[Evidence]:
        return [
            item
            for position in ("projection", "index")
            for item in by_seed(
                runs,
                f"error of the null minus that of the line, decades, layers laid at their {POSITIONS[position]}; mean",
                claim_tests.line_beats_null(metric, position),
            )
        ]

    return examine


def _progress(metric: str) -> tuple[Claim, Claim]:
    """The conjecture for one metric, before the effective depth as it is stated, and over all layers."""
    name, what = _NAMES[metric], "The error 1 − PFC3" if metric == "pfc3_error" else _NAMES[metric]
    return (
        Claim(
            metric.removesuffix("_error"),
            f"{name} progresses from layer to layer before the effective depth",
            f"Section III-A, Conjecture 1 ({name}), equation ({_EQUATIONS[metric]})",
            f"{what} rises at no step up to the first layer with nearest-center error at most {RULES.epsilon:g}, and falls "
            "in all, last epoch",
            _share(claim_tests.falls_before_effective_depth(metric)),
        ),
        Claim(
            f"{metric.removesuffix('_error')}_all",
            f"{name} progresses over all measured layers",
            "Abstract; Section IV-A, Figure 3",
            f"{what} rises at no step of depth, and falls in all, last epoch",
            _share(claim_tests.falls_over_depth(metric)),
        ),
    )


CLAIMS = (
    Claim(
        "terminal",
        "Training reaches the terminal phase, which the claims below are about",
        "Section III-A, Conjecture 1; Assumption 1",
        "Every training sample is right at the end and was so at an earlier measured epoch, and the weight-decay time τ is at "
        f"least {RULES.terminal_tau:g}",
        _share(is_terminal, terminal=False),
    ),
    *(claim for metric in _NAMES for claim in _progress(metric)),
    Claim(
        "order",
        "The order of the layers appears in training, from a random initialization",
        "Section III-A, Conjecture 1, last sentence; Figure 2",
        "Share of the steps of depth at which PFC1, PFC2 and the error 1 − PFC3 rise, before training minus at the last epoch",
        partial(by_seed, statistic="share of rises lost in training; mean", test=claim_tests.order_gained),
    ),
    *(
        Claim(
            f"line_{metric}",
            f"The geodesic (straight line) between first and last layer predicts {_NAMES[metric]} of the others",
            "Section IV-A, Figure 3; equations (10) and (11). The log-linear null is ours",
            "RMS error of the straight line over the interior layers is below that of the log-linear interpolation of the ends",
            _line_against_null(metric),
        )
        for metric in ("pfc1", "pfc2")
    ),
    Claim(
        "theorem1",
        "The assumption of Theorem 1 is valid",
        "Section III-B, Theorem 1 and the text below it",
        "Centered class means of first and last layer correlate, C ≥ 0: what the theorem needs of a collapsed end, exactly",
        _share(claim_tests.theorem1_assumption),
    ),
    Claim(
        "theorem1_line",
        "PFC1 falls monotonically along the straight line",
        "Section III-B, Theorem 1; Section IV-A",
        "The exact test, between the measured ends, which need not be collapsed",
        _share(claim_tests.theorem1_conclusion),
    ),
    Claim(
        "theorem2_line",
        "The transport cost is small enough for PFC2 to fall monotonically along the straight line",
        "Section III-B, Theorem 2; Section IV-A",
        "The exact test of the fall, between the measured ends: no constant says which cost is small enough",
        _share(claim_tests.theorem2_conclusion),
    ),
    Claim(
        "weight_decay",
        "Weight decay straightens the forward propagation",
        "Section II-C, after Gai & Zhang (2021); Assumption 1",
        "Rank correlation of straightness with weight decay among runs of one seed that differ in weight decay only",
        straightened,
    ),
)


def rule_on_claims(folders: Iterable[Path], claims: Sequence[Claim] = CLAIMS) -> Ledger:
    """Rule on every claim from the finished runs in some folders.

    Args:
        folders: Run directories, and folders of sweeps, which stand for their runs.
        claims: Which ones.

    Returns:
        The ledger. Runs that are not finished, and second runs of one seed and setting, are left out and named.

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
        evidence = tuple(claim.examine([run for run in kept if bool(run.objective) == claim.deep]))
        rulings.append(Ruling(claim, *combine(evidence), evidence))
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
