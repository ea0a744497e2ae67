"""The claims of the PFC paper and the questions that it leaves open, as data: statement, source, test, and what it is about."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from ncollapse.claims import predicates as claim_tests
from ncollapse.claims import readings as claim_readings
from ncollapse.claims import scope as claim_scope
from ncollapse.claims.evidence import SeedTest, by_seed
from ncollapse.claims.pairs import against_residual, ranked, saturated
from ncollapse.claims.rules import RULES, Evidence, is_terminal
from ncollapse.drawing.labels import POSITIONS
from ncollapse.records.reading import Run

__all__ = ["CLAIMS", "PAPER", "Claim", "Examine"]

PAPER = "Wang et al., Progressive Feedforward Collapse of ResNet Training, arXiv 2405.00985"
Examine = Callable[[Sequence[Run]], list[Evidence]]
_NAMES = {"pfc1": "PFC1", "pfc2": "PFC2", "pfc3_error": "PFC3"}
_EQUATIONS = {"pfc1": 7, "pfc2": 8, "pfc3_error": 9}
_SHARE = "share of seeds"
_DECAY, _BLOCKS = "train.weight_decay", "model.num_blocks"
_OURS = "Not a claim of the paper: a question that it leaves open"


@dataclass(frozen=True)
class Claim:
    """A claim of the paper, or a question that it leaves open."""

    key: str
    statement: str
    source: str
    tested: str
    examine: Examine
    about: Callable[[Run], bool] = lambda run: True


_papers = partial(Claim, about=claim_scope.is_papers)


def _share(test: SeedTest, *, terminal: bool = True) -> Examine:
    return partial(by_seed, statistic=_SHARE, test=test, terminal=terminal)


def _line_against_null(metric: str) -> Examine:
    """At the projection, which is measured at the layer itself, and at the index, which is not."""

    def examine(runs: Sequence[Run]) -> list[Evidence]:
        return [
            item
            for position in ("projection", "index")
            for item in by_seed(
                runs,
                f"{_NAMES[metric]}: error of the null minus that of the line, decades, layers at {POSITIONS[position]}; mean",
                claim_tests.line_beats_null(metric, position),
            )
        ]

    return examine


def _progress(metric: str) -> tuple[Claim, Claim]:
    """The conjecture for one metric, before the effective depth as it is stated, and over all layers."""
    name, what = _NAMES[metric], "The error 1 − PFC3" if metric == "pfc3_error" else _NAMES[metric]
    return (
        _papers(
            metric.removesuffix("_error"),
            f"{name} progresses from layer to layer before the effective depth",
            f"Section III-A, Conjecture 1 ({name}), equation ({_EQUATIONS[metric]})",
            f"{what} rises at no step up to the first layer with nearest-center error at most {RULES.epsilon:g}, and falls "
            "in all, last epoch",
            _share(claim_tests.falls_before_effective_depth(metric)),
        ),
        _papers(
            f"{metric.removesuffix('_error')}_all",
            f"{name} progresses over all measured layers",
            "Abstract; Section IV-A, Figure 3",
            f"{what} rises at no step of depth, and falls in all, last epoch",
            _share(claim_tests.falls_over_depth(metric)),
        ),
    )


def _all(*examinations: Examine) -> Examine:
    """The evidence of several tests of one claim."""
    return lambda runs: [item for examine in examinations for item in examine(runs)]


def _progression() -> Examine:
    """All three metrics over all layers, each a test of its own."""
    tests = [
        partial(by_seed, statistic=f"{name} falls over depth; {_SHARE}", test=claim_tests.falls_over_depth(metric))
        for metric, name in _NAMES.items()
    ]
    return _all(*tests)


def _decays(statistic: str, read: Callable[[Run], float | None], sign: int) -> Examine:
    return partial(ranked, field=_DECAY, words="weight decay", statistic=statistic, read=read, sign=sign)


CLAIMS = (
    _papers(
        "terminal",
        "Training reaches the terminal phase, which the claims below are about",
        "Section III-A, Conjecture 1; Assumption 1",
        "Every training sample is right at the end and was so at an earlier measured epoch, and the weight-decay time τ is at "
        f"least {RULES.terminal_tau:g}",
        _share(is_terminal, terminal=False),
    ),
    *(claim for metric in _NAMES for claim in _progress(metric)),
    _papers(
        "order",
        "The order of the layers appears in training, from a random initialization",
        "Section III-A, Conjecture 1, last sentence; Figure 2",
        "Share of the steps of depth at which PFC1, PFC2 and the error 1 − PFC3 rise, before training minus at the last epoch",
        partial(by_seed, statistic="share of rises lost in training; mean", test=claim_tests.order_gained),
    ),
    *(
        _papers(
            f"line_{metric}",
            f"The geodesic (straight line) between first and last layer predicts {_NAMES[metric]} of the others",
            "Section IV-A, Figure 3; equations (10) and (11). The log-linear null is ours",
            "RMS error of the straight line over the interior layers is below that of the log-linear interpolation of the ends",
            _line_against_null(metric),
        )
        for metric in ("pfc1", "pfc2")
    ),
    _papers(
        "theorem1",
        "The assumption of Theorem 1 is valid",
        "Section III-B, Theorem 1 and the text below it",
        "Centered class means of first and last layer correlate, C ≥ 0: what the theorem needs of a collapsed end, exactly",
        _share(claim_tests.theorem1_assumption),
    ),
    _papers(
        "theorem1_line",
        "PFC1 falls monotonically along the straight line",
        "Section III-B, Theorem 1; Section IV-A",
        "The exact test, between the measured ends, which need not be collapsed",
        _share(claim_tests.theorem1_conclusion),
    ),
    _papers(
        "theorem2_line",
        "The transport cost is small enough for PFC2 to fall monotonically along the straight line",
        "Section III-B, Theorem 2; Section IV-A",
        "The exact test of the fall, between the measured ends: no constant says which cost is small enough",
        _share(claim_tests.theorem2_conclusion),
    ),
    _papers(
        "transport",
        "The forward propagation is optimal transport between first and last layer",
        "Section II-B, Proposition 1; Assumption 1. The tolerance is ours",
        "No other pairing of first and last features of the sample costs less (exact); and of what a random pairing costs more "
        f"than the best, the network's own costs at most the share {RULES.transport_gap:g}",
        _all(
            partial(by_seed, statistic=f"no pairing is better; {_SHARE}", test=claim_tests.optimal_pairing),
            partial(by_seed, statistic=f"nearly as good as the best; {_SHARE}", test=claim_tests.nearly_optimal_pairing),
        ),
    ),
    _papers(
        "alignment",
        "The last class means are nearly the optimal rotation of the first, towards which PFC2 falls at any transport cost",
        "Section III-B, Theorem 2, whose small transport cost this replaces (docs/theory.md, 3.3). The bound is ours",
        f"The alignment of first and last class means, which that theorem needs at 1, is at least {RULES.alignment:g}",
        _share(claim_tests.aligned),
    ),
    _papers(
        "weight_decay",
        "Weight decay straightens the forward propagation",
        "Section II-C, after Gai & Zhang (2021); Assumption 1",
        "Rank correlation of straightness and of the line-shape score (1 is straight) with weight decay among runs of one seed "
        "that differ in weight decay only",
        _all(
            _decays("straightness", claim_readings.straightness, 1), _decays("line-shape score", claim_readings.line_shape, -1)
        ),
    ),
    _papers(
        "weight_decay_energy",
        "Weight decay lowers the transport energy of the forward propagation",
        "Sections II-C and III-C",
        "The same of the kinetic energy, and of the share of it that the straight line at constant speed would need",
        _all(_decays("energy", claim_readings.energy, -1), _decays("efficiency", claim_readings.efficiency, 1)),
    ),
    _papers(
        "weight_decay_line",
        "Weight decay makes the geodesic predict the layers better",
        "Section IV-A, Figure 3; Assumption 1",
        "The same of the straight line's error at the layers' projection, and of how much smaller it is than the null's",
        _all(
            *(
                _decays(words.format(name=_NAMES[metric]), read(metric), sign)
                for metric in ("pfc1", "pfc2")
                for words, read, sign in (
                    ("error of the line in {name}", claim_readings.line_error, -1),
                    ("error of the null minus that of the line in {name}", claim_readings.line_margin, 1),
                )
            )
        ),
    ),
    _papers(
        "decay_bound",
        "The weights bound the transport energy, so that weight decay bounds it",
        "Section II-C, III-C; derived in docs/theory.md, 3.10",
        "What each block adds is at most its bound from weights and inputs, and that at most the one from the weights' norms; "
        "in networks without normalization, which makes blocks independent of their weights' scale",
        _share(claim_tests.within_decay_bound, terminal=False),
    ),
    _papers(
        "depth",
        "The effective depth saturates: a deeper network needs no more of its blocks",
        f"{_OURS}; the effective depth is that of Galanti et al. (2022)",
        "Among runs of one seed that differ in depth only, the first layer with nearest-center error at most "
        f"{RULES.epsilon:g} comes no later in the deepest network than in the second deepest",
        partial(saturated, field=_BLOCKS),
    ),
    Claim(
        "mse",
        "Progressive collapse appears under the mean squared error too",
        _OURS,
        "PFC1, PFC2 and the error 1 − PFC3 rise at no step of depth and fall in all, in runs trained on it",
        _progression(),
        claim_scope.has_squared_error,
    ),
    Claim(
        "mse_line",
        "The geodesic predicts the layers under the mean squared error too",
        _OURS,
        "RMS error of the straight line over the interior layers is below that of the log-linear interpolation of the ends",
        _all(_line_against_null("pfc1"), _line_against_null("pfc2")),
        claim_scope.has_squared_error,
    ),
    Claim(
        "random_labels",
        "The last layer collapses on random labels too",
        _OURS,
        "Decades by which PFC1 of the last layer falls from before training to the last epoch, on the training set with every "
        "label drawn anew",
        partial(by_seed, statistic="fall of PFC1 in training, decades; mean", test=claim_tests.pfc1_lost_in_training),
        claim_scope.has_random_labels,
    ),
    Claim(
        "random_labels_order",
        "The layers are in order on random labels too",
        _OURS,
        "PFC1, PFC2 and the error 1 − PFC3 rise at no step of depth and fall in all",
        _progression(),
        claim_scope.has_random_labels,
    ),
    Claim(
        "other_order",
        "Networks other than the ResNets of the paper collapse progressively too",
        _OURS,
        "PFC1, PFC2 and the error 1 − PFC3 rise at no step of depth and fall in all, as of plain and dense networks",
        _progression(),
        claim_scope.has_other_network,
    ),
    Claim(
        "other_line",
        "The geodesic predicts networks other than the ResNets of the paper too",
        _OURS,
        "RMS error of the straight line over the interior layers is below that of the log-linear interpolation of the ends",
        _all(_line_against_null("pfc1"), _line_against_null("pfc2")),
        claim_scope.has_other_network,
    ),
    Claim(
        "skip_connections",
        "Skip connections make the straight line predict the layers",
        "Section II-B: a residual block is a step of a flow. The comparison is ours",
        "Straightness, and the null's error minus the line's in PFC1 at the projection, of the residual network minus that of "
        "the network of other connections with the same seed",
        _all(
            partial(against_residual, statistic="straightness", read=claim_readings.straightness),
            partial(against_residual, statistic="error of null minus line in PFC1", read=claim_readings.line_margin("pfc1")),
        ),
        claim_scope.has_any_network,
    ),
)
