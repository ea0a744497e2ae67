"""The rules by which runs become verdicts on claims, in one place, with a date: changed rules ask for new runs."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from ncollapse.claims.evidence import Evidence
from ncollapse.records.reading import Run

Verdict = Literal["holds", "fails", "depends on the setting", "undecided", "check passed", "check failed", "not testable here"]


@dataclass(frozen=True)
class Rules:
    """What the verdicts depend on; no claim has rules of its own.

    Attributes:
        dated: Day on which they were frozen. Runs that led to a rule, or to a claim, are no evidence for it.
        least_draws: Draws that a row needs. A draw is a seed: runs of one seed share initial weights and the order of the
            samples, whatever else differs, so that they count once. With five draws no outcome survives a correction: five of
            five have p = 0.0625. Twelve of twelve have p = 0.0005, which survives that of a hundred rows.
        least_seeds: Seeds that a setting needs for a vote in its row. Six that agree are the fewest with p below 0.05 (0.031):
            fewer could not show that a setting is for or against a claim. All votes weigh the same (docs/claims.md).
        level: Probability of a false verdict among all rows of a paper, by Holm's correction (1979) of two-sided tests.
        terminal_tau: Weight-decay time from which a run without training error is in the terminal phase. Weights that no
            gradient holds have then fallen to exp(-2) = 14 %. It is the largest whole number that all five data sets of the PFC
            paper reach (2.58 with its STL10, 3.02 with its MNIST).
        other_taus: Times at which every row about the terminal phase is computed once more, to show what hangs on that number.
        least_steps: Steps from layer to layer that an order needs. Two steps fall by chance in one of six networks.
        transport_gap: A pairing is nearly optimal if it costs at most this share of what a random one costs more than the best.
        alignment: First and last class means are nearly aligned from here on; the theorem needs 1.
        stationary: Largest relative gradient of the regularized objective (``objective.json``) at a stationary point: loss and
            penalty pull against each other and cancel but for a thousandth. Claims about optima count such runs only, because a
            depth that is compared before both networks have settled is compared in speed.
    """

    dated: str = "2026-11-29"
    least_draws: int = 12
    least_seeds: int = 6
    level: float = 0.05
    terminal_tau: float = 2.0
    other_taus: tuple[float, ...] = (0.0, 4.0, 8.0)
    least_steps: int = 3
    transport_gap: float = 0.01
    alignment: float = 0.9
    stationary: float = 1e-3


RULES = Rules()

Examine = Callable[[Sequence[Run]], list[Evidence]]


def _every_run(_: Run) -> bool:
    """Choose any run."""
    return True


@dataclass(frozen=True)
class Claim:
    """A claim of a paper or of yours: one statement, how it is tested, and which runs it is about.

    Attributes:
        key: A short name, unique among claims.
        statement: The claim as one sentence.
        source: Where it is made, such as a section of a paper.
        tested: The test in words.
        examine: Turns runs into evidence, such as ``lambda runs: by_seed(runs, "share of seeds", test)``.
        about: Whether it is about a run; by default about every one.
        family: The paper, whose rows are corrected together.
        terminal: Whether it is about the terminal phase of training, so that other runs do not count.
        stationary: Whether it is about optima, so that runs that are not stationary do not count.
        checks_code: Whether a theorem proves it: then the test checks the code, and says nothing about networks.
        command: The command that makes the runs it needs.
    """

    key: str
    statement: str
    source: str
    tested: str
    examine: Examine
    about: Callable[[Run], bool] = _every_run
    family: str = "Your own claims"
    terminal: bool = False
    stationary: bool = False
    checks_code: bool = False
    command: str = ""


def is_terminal(run: Run, tau: float = RULES.terminal_tau) -> bool:
    """Return whether a run has reached the terminal phase: no training error at the end and before, and enough decay."""
    status = run.status
    perfect = status.first_perfect_epoch is not None and status.first_perfect_epoch < status.epoch
    reached = status.weight_decay_time is not None and status.weight_decay_time >= tau
    return perfect and status.train_accuracy == 1.0 and (reached or tau == 0)


def is_stationary(run: Run) -> bool:
    """Return whether a run has reached a stationary point of its regularized objective."""
    found = run.last_objective
    return found is not None and found.relative_gradient is not None and found.relative_gradient <= RULES.stationary


def counts(claim: Claim, run: Run, tau: float = RULES.terminal_tau) -> bool:
    """Return whether a run, which a claim is about, has come far enough to count."""
    return (not claim.terminal or is_terminal(run, tau)) and (not claim.stationary or is_stationary(run))
