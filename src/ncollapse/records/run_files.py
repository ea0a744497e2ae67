"""The small JSON files of a run directory, and the ledger of claims. None means undefined."""

from dataclasses import dataclass, field
from typing import Annotated, Literal

from msgspec import Meta

Unit = Literal["epoch", "step"]
# What a reader of a file asks of a number, or of a word.
Count = Annotated[int, Meta(ge=0, le=2**53)]
Amount = Annotated[float, Meta(ge=0)]
Share = Annotated[float, Meta(ge=0, le=1)]
Sentence = Annotated[str, Meta(max_length=2000)]
State = Annotated[str, Meta(pattern="^(running|stopped|failed|finished)$")]


@dataclass(frozen=True)
class RecipeSummary:
    """The part of ``recipe.json`` with a fixed shape; ``changed`` lists what differs from the named recipe."""

    name: str = ""
    title: str = ""
    description: str = ""
    seed: int | None = None
    changed: tuple[str, ...] = ()


@dataclass(frozen=True)
class Glossary:
    """``glossary.json``: what the metrics and flags of the run mean, in a phrase each; absent in runs of other makers."""

    metrics: dict[str, str] = field(default_factory=dict)
    flags: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Status:
    """``status.json``: how far the run has come, and why it failed; the first perfect epoch is the first measured one."""

    state: State
    epoch: Count
    epochs: Count
    train_accuracy: Share | None = None
    first_perfect_epoch: Count | None = None
    seconds: Amount | None = None
    weight_decay_time: Amount | None = None
    reason: str | None = None
    unit: Unit = "epoch"  # what is counted as epochs in all files of the run; "step" for steps of the optimizer


@dataclass(frozen=True)
class ObjectiveRecord:
    """One epoch of ``objective.json``: the objective, its two parts, and the floor that no such network gets below."""

    epoch: int
    weight_decay: float
    loss: float
    penalty: float
    objective: float
    floor: float
    excess: float
    distance: float | None = None
    # At the last epoch of networks with blocks of one linear layer: a floor for networks of this depth and this first layer,
    # and hypotheses under which it would hold as it stands: for any stem, or at all.
    depth_floor: float | None = None
    unmet: tuple[str, ...] = ()
    # The norm of the objective's gradient over the summed norms of the loss's and the penalty's: 0 at a stationary point. None
    # without weight decay, and in directories written before it was measured.
    relative_gradient: float | None = None


@dataclass(frozen=True)
class ObjectiveFile:
    """``objective.json``, of networks that end in a normalization."""

    epochs: tuple[ObjectiveRecord, ...]


@dataclass(frozen=True)
class EvidenceRecord:
    """What the seeds of one setting say in one test; None for an undefined value or end of its interval."""

    setting: str
    statistic: str
    seeds: int
    value: float | None
    interval: tuple[float | None, float | None]
    supporting: tuple[str, ...]
    opposing: tuple[str, ...]
    why: str = ""
    stands: str = ""


@dataclass(frozen=True)
class BaseRate:
    """What the test of a claim gives without what is claimed: before training, or for layers in random order."""

    name: str
    value: float
    p_value: float


@dataclass(frozen=True)
class SensitivityRecord:
    """The same row for the terminal phase from another weight-decay time on."""

    least_weight_decay_time: float
    seeds: int
    value: float | None


@dataclass(frozen=True)
class ClaimRecord:
    """One claim, its place in the paper, how it is tested, and the verdict with its numbers over the settings that vote."""

    key: str
    statement: Sentence
    source: str
    tested: str
    verdict: Sentence
    why: str
    evidence: tuple[EvidenceRecord, ...]
    family: str = ""
    seeds: int = 0
    value: float | None = None
    interval: tuple[float | None, float | None] = (None, None)
    p_value: float | None = None
    p_corrected: float | None = None
    bases: tuple[BaseRate, ...] = ()
    steps: tuple[int, int] | None = None
    sensitivity: tuple[SensitivityRecord, ...] = ()
    command: str = ""
    over_settings: tuple[float | None, float | None] = (None, None)


@dataclass(frozen=True)
class LeftOut:
    """A run that the verdicts do not rest on, and the reason."""

    run: str
    why: str


@dataclass(frozen=True)
class ClaimsFile:
    """``claims.json``: verdicts on claims and the evidence behind them. Runs are named from the file's folder."""

    runs: tuple[str, ...]
    left_out: tuple[LeftOut, ...]
    claims: Annotated[tuple[ClaimRecord, ...], Meta(max_length=1000)]
    rules_dated: str = ""


@dataclass(frozen=True)
class RecordedTime:
    """What is known of one epoch (or step) of a recorded training besides its rows, and the checkpoint that was measured."""

    time: Count
    step: Count | None = None
    weight_decay_time: Amount | None = None
    checkpoint: str | None = None
    sha256: str | None = None


@dataclass(frozen=True)
class Recording:
    """``recording.json``, of networks that other people's code trained: the arguments of the measurements, and all times."""

    arguments: dict[str, str]
    times: tuple[RecordedTime, ...]
