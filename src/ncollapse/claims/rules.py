"""The rules by which numbers of seeds become verdicts on claims, in one place."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from ncollapse.claims.estimates import Estimate
from ncollapse.drawing.wording import counted
from ncollapse.records.reading import Run

Verdict = Literal["holds", "holds partly", "fails", "not testable here"]


@dataclass(frozen=True)
class Rules:
    """What the verdicts depend on; no claim has rules of its own."""

    # One setting (runs that differ in their seeds only), one test:
    #
    # - fewer than ``least_seeds`` seeds: not testable here;
    # - true or false for each seed: *holds* if true for every seed, *fails* if true for a share of at most ``fails_share``,
    #   else *holds partly*;
    # - a number for each seed, positive where the claim is right: *holds* if the interval of the mean lies above 0, *fails* if
    #   nothing of it does, else not testable here, since more seeds are needed to tell.
    #
    # A claim, from all its settings and tests with enough seeds: *holds* if each holds; *fails* if some fail and none holds,
    # even in part; not testable here if none could tell; else *holds partly*. So every failure and every undecided test counts
    # against *holds*. A claim about the terminal phase is tested on the runs in it; what other runs say is shown, and does not
    # count.

    least_seeds: int = 5
    fails_share: float = 0.5
    terminal_tau: float = 4.0
    transport_gap: float = 0.01
    alignment: float = 0.9


RULES = Rules()


@dataclass(frozen=True)
class Evidence:
    """What the seeds of one setting say in one test.

    Attributes:
        setting: The settings that these runs share, in words.
        statistic: What is estimated, in words.
        estimate: A share of seeds or a mean over seeds, with a 95 % interval.
        verdict: "holds", "holds partly", "fails" or "not testable here".
        why: What hinders a verdict, or restricts it; may be empty.
        counts: Whether the claim's verdict uses this evidence. Runs outside the terminal phase are shown only.
        supporting: Run directories in which the claim is right.
        opposing: Run directories in which it is not.
    """

    setting: str
    statistic: str
    estimate: Estimate
    verdict: Verdict
    why: str
    counts: bool
    supporting: tuple[str, ...]
    opposing: tuple[str, ...]


Read = Callable[[Run], float | None]
Examine = Callable[[Sequence[Run]], list[Evidence]]


def _every_run(_: Run) -> bool:
    """Choose any run."""
    return True


@dataclass(frozen=True)
class Claim:
    """A claim of a paper or of yours: what it says, how it is tested, and which runs it is about.

    Attributes:
        key: A short name, unique among claims.
        statement: The claim as one sentence.
        source: Where it is made, such as a section of a paper.
        tested: The test in words.
        examine: Makes evidence of runs, such as ``lambda runs: by_seed(runs, "share of seeds", test)``.
        about: Whether the claim is about a run; by default about every one.
    """

    key: str
    statement: str
    source: str
    tested: str
    examine: Examine
    about: Callable[[Run], bool] = _every_run


def all_of(*examinations: Examine) -> Examine:
    """Combine several tests of one claim."""
    return lambda runs: [item for examine in examinations for item in examine(runs)]


def is_terminal(run: Run) -> bool:
    """Return whether a run has reached the terminal phase."""
    status = run.status
    perfect = status.first_perfect_epoch is not None and status.first_perfect_epoch < status.epoch
    tau = status.weight_decay_time
    return perfect and status.train_accuracy == 1.0 and tau is not None and tau >= RULES.terminal_tau


def judge_share(share: Estimate) -> tuple[Verdict, str]:
    """Judge the share of seeds in which a claim is right."""
    if share.n < RULES.least_seeds:
        return "not testable here", _too_few(share.n)
    if share.value == 1:
        return "holds", ""
    return ("fails" if share.value <= RULES.fails_share else "holds partly"), ""


def judge_mean(mean: Estimate) -> tuple[Verdict, str]:
    """Judge a mean over seeds of a number that is positive where the claim is right."""
    if mean.n < RULES.least_seeds:
        return "not testable here", _too_few(mean.n)
    if mean.low > 0:
        return "holds", ""
    if mean.high <= 0:
        return "fails", ""
    return "not testable here", "the interval contains 0; more seeds are needed"


def combine(evidence: Sequence[Evidence]) -> tuple[Verdict, str]:
    """Decide on a claim from all its evidence."""
    counting = [item for item in evidence if item.counts]
    enough = [item for item in counting if item.estimate.n >= RULES.least_seeds]
    found = {item.verdict for item in enough}
    part = "" if len(enough) == len(evidence) else f"from {len(enough)} of {len(evidence)} tests"
    if not evidence:
        return "not testable here", "no run fits"
    if not counting:
        return "not testable here", (
            "no run is in the terminal phase of training, which needs zero training error and a weight-decay time τ of "
            f"{RULES.terminal_tau:g} or more (undefined under Adam, unknown where no optimizer was recorded)"
        )
    if found <= {"not testable here"}:
        return "not testable here", max(counting, key=lambda item: item.estimate.n).why
    if found == {"holds"}:
        return "holds", part
    if "fails" in found and not found & {"holds", "holds partly"}:
        return "fails", part
    return "holds partly", part


def _too_few(n: int) -> str:
    return f"{counted(n, 'seed')}, {RULES.least_seeds} needed"
