"""The claims of the PFC paper and the questions that it leaves open, as data: statement, source, test, and what it is about."""

import math
from collections.abc import Sequence
from functools import partial

from scipy import stats

from ncollapse.claims import predicates, quantities
from ncollapse.claims.evidence import SeedTest, by_seed, families
from ncollapse.claims.quantities import BY_KEY
from ncollapse.claims.rules import RULES, Claim, Evidence, Examine, Read, all_of, is_terminal
from ncollapse.drawing.wording import POSITIONS
from ncollapse.records.depth import EPSILON
from ncollapse.records.reading import Run

PAPER = "Wang et al., Progressive Feedforward Collapse of ResNet Training, arXiv 2405.00985"
_NAMES = {"pfc1": "PFC1", "pfc2": "PFC2", "pfc3_error": "PFC3"}
_EQUATIONS = {"pfc1": 7, "pfc2": 8, "pfc3_error": 9}
_SHARE = "share of seeds"
_LINE_IS_NEARER = (
    "RMS error of the straight line over the interior layers is below that of the log-linear interpolation of the ends"
)
_NEVER_RISE = "PFC1, PFC2 and the error 1 − PFC3 rise at no step of depth and fall overall"
_OURS = "Not a claim of the paper: a question that it leaves open"

_papers = partial(Claim, about=predicates.is_paper_setting)


def _share(test: SeedTest, *, statistic: str = _SHARE, terminal: bool = True) -> Examine:
    return partial(by_seed, statistic=statistic, test=test, terminal=terminal)


def _line_against_baseline(*metrics: str) -> Examine:
    """At the projection, which is measured at the layer itself, and at the index, which is not."""
    words = "{}: error of the baseline minus that of the line, decades, layers at {}; mean"
    return all_of(
        *(
            partial(by_seed, statistic=words.format(_NAMES[metric], POSITIONS[place]), test=quantities.line_lead(metric, place))
            for metric in metrics
            for place in ("projection", "index")
        )
    )


def _progress(metric: str) -> tuple[Claim, Claim]:
    """Make the claims of the conjecture for one metric: before the effective depth, as it is stated, and over all layers."""
    name, what = _NAMES[metric], "The error 1 − PFC3" if metric == "pfc3_error" else _NAMES[metric]
    return (
        _papers(
            metric.removesuffix("_error"),
            f"{name} progresses from layer to layer before the effective depth",
            f"Section III-A, Conjecture 1 ({name}), equation ({_EQUATIONS[metric]})",
            f"{what} rises at no step up to the first layer with nearest-center error at most {EPSILON:g} and falls "
            "overall, at the last epoch",
            _share(predicates.falls_before_effective_depth(metric)),
        ),
        _papers(
            f"{metric.removesuffix('_error')}_all",
            f"{name} progresses over all measured layers",
            "Abstract; Section IV-A, Figure 3",
            f"{what} rises at no step of depth and falls overall, at the last epoch",
            _share(predicates.falls_over_depth(metric)),
        ),
    )


_PROGRESSION = all_of(
    *(
        _share(predicates.falls_over_depth(metric), statistic=f"{name} falls over depth; {_SHARE}")
        for metric, name in _NAMES.items()
    )
)


def _ranked_by_decay(statistic: str, read: Read, sign: int) -> Examine:
    """Kendall's tau-b of a quantity with weight decay, one value per seed; its mean over seeds, cut to [-1, 1]."""

    def examine(runs: Sequence[Run]) -> list[Evidence]:
        found = []
        for family in families(runs, "train.weight_decay"):
            if len(family.values) < 2:
                continue
            numbers_of = family.read(read).items()
            taus = {seed: sign * float(stats.kendalltau(family.values, numbers).statistic) for seed, numbers in numbers_of}
            taus = {seed: tau for seed, tau in taus.items() if not math.isnan(tau)}
            listed = ", ".join(f"{value:g}" for value in family.values)
            said = f"Kendall's τ of {statistic} with weight decay {listed}{'' if sign > 0 else ', sign reversed'}; mean"
            found.append(family.judge(said, taus, bounds=(-1.0, 1.0)))
        return found

    return examine


def _decays(key: str) -> Examine:
    return _ranked_by_decay(key, BY_KEY[key].read, BY_KEY[key].sign)


def _saturates(runs: Sequence[Run]) -> list[Evidence]:
    """Test whether the effective depth of the deepest network is no larger than that of the second deepest; share of seeds."""
    found = []
    for family in families(runs, "model.num_blocks"):
        if len(family.values) > 1:
            second, deepest = family.values[-2:]
            depths = family.only(second, deepest).read(BY_KEY["effective depth"].read)
            said = f"effective depth with {deepest:g} blocks at most that with {second:g}; share of seeds"
            found.append(family.judge(said, {seed: last <= before for seed, (before, last) in depths.items()}))
    return found


def _gained_by_skips(statistic: str, read: Read) -> Examine:
    """Compute a quantity of the residual network minus that of the network of other connections; mean over seeds."""

    def examine(runs: Sequence[Run]) -> list[Evidence]:
        found = []
        for family in families(runs, "model.connections", default=predicates.RESIDUAL):
            kinds = [kind for kind in family.values if kind != predicates.RESIDUAL]
            for kind in kinds if len(kinds) < len(family.values) else []:
                pair = family.only(predicates.RESIDUAL, kind)
                gains = {seed: residual - other for seed, (residual, other) in pair.read(read).items()}
                found.append(pair.judge(f"{statistic}, residual minus {kind}; mean", gains))
        return found

    return examine


CLAIMS = (
    _papers(
        "terminal",
        "Training reaches the terminal phase, which the claims below are about",
        "Section III-A, Conjecture 1; Assumption 1",
        "Every training sample is right at the end and at an earlier measured epoch, and the weight-decay time τ is at "
        f"least {RULES.terminal_tau:g}",
        _share(is_terminal, terminal=False),
    ),
    *(claim for metric in _NAMES for claim in _progress(metric)),
    _papers(
        "order",
        "The order of the layers appears in training, from a random initialization",
        "Section III-A, Conjecture 1, last sentence; Figure 2",
        "Share of the steps of depth at which PFC1, PFC2 and the error 1 − PFC3 rise, before training minus at the last epoch",
        partial(by_seed, statistic="share of rises lost in training; mean", test=quantities.order_gained),
    ),
    *(
        _papers(
            f"line_{metric}",
            f"The geodesic (straight line) between first and last layer predicts {_NAMES[metric]} of the others",
            "Section IV-A, Figure 3; equations (10) and (11). The log-linear baseline is ours",
            _LINE_IS_NEARER,
            _line_against_baseline(metric),
        )
        for metric in ("pfc1", "pfc2")
    ),
    _papers(
        "theorem1",
        "The assumption of Theorem 1 is valid",
        "Section III-B, Theorem 1 and the text below it",
        "Centered class means of first and last layer correlate, C ≥ 0: what the theorem needs of a collapsed end, exactly",
        _share(predicates.last_entry("theorem1.holds")),
    ),
    _papers(
        "theorem1_line",
        "PFC1 falls monotonically along the straight line",
        "Section III-B, Theorem 1; Section IV-A",
        "The exact test, between the measured ends, which need not be collapsed",
        _share(predicates.last_entry("theorem1.monotone")),
    ),
    _papers(
        "theorem2_line",
        "The transport cost is small enough for PFC2 to fall monotonically along the straight line",
        "Section III-B, Theorem 2; Section IV-A",
        "The exact test of the fall between the measured ends, because no constant says which cost is small enough",
        _share(predicates.last_entry("theorem2.monotone")),
    ),
    _papers(
        "transport",
        "The forward propagation is optimal transport between first and last layer",
        "Section II-B, Proposition 1; Assumption 1. The tolerance is ours",
        "No other pairing of first and last features of the sample costs less (exact). The network's own pairing costs more "
        f"than the best by at most {RULES.transport_gap:g} of what a random pairing costs more",
        all_of(
            _share(predicates.optimal_pairing, statistic=f"no pairing is better; {_SHARE}"),
            _share(predicates.nearly_optimal_pairing, statistic=f"nearly as good as the best; {_SHARE}"),
        ),
    ),
    _papers(
        "alignment",
        "The last class means are nearly the optimal rotation of the first, towards which PFC2 falls at any transport cost",
        "Section III-B, Theorem 2, whose small transport cost this replaces (docs/theory.md, 3.3). The bound is ours",
        f"The alignment of first and last class means, which that theorem needs at 1, is at least {RULES.alignment:g}",
        _share(predicates.aligned),
    ),
    _papers(
        "weight_decay",
        "Weight decay straightens the forward propagation",
        "Section II-C, after Gai & Zhang (2021); Assumption 1",
        "Rank correlation of straightness and of the line-shape score (1 is straight) with weight decay among runs of one seed "
        "that differ in weight decay only",
        all_of(_decays("straightness"), _decays("line-shape score")),
    ),
    _papers(
        "weight_decay_energy",
        "Weight decay lowers the transport energy of the forward propagation",
        "Sections II-C and III-C",
        "Rank correlation of the kinetic energy, and of the share of it that a straight path at constant speed would need, "
        "with weight decay among runs of one seed",
        all_of(_decays("energy"), _decays("efficiency")),
    ),
    _papers(
        "weight_decay_line",
        "Weight decay makes the geodesic predict the layers better",
        "Section IV-A, Figure 3; Assumption 1",
        "Rank correlation of the straight line's error at the layers' projection, and of how much smaller it is than the "
        "baseline's, with weight decay among runs of one seed",
        all_of(
            _ranked_by_decay("error of the line in PFC1", BY_KEY["line pfc1"].read, -1),
            _ranked_by_decay("error of the baseline minus that of the line in PFC1", quantities.line_lead("pfc1"), 1),
            _ranked_by_decay("error of the line in PFC2", BY_KEY["line pfc2"].read, -1),
            _ranked_by_decay("error of the baseline minus that of the line in PFC2", quantities.line_lead("pfc2"), 1),
        ),
    ),
    _papers(
        "decay_bound",
        "The weights bound the transport energy, so that weight decay bounds it",
        "Section II-C, III-C; derived in docs/theory.md, 3.10",
        "Each block adds at most its bound from weights and inputs, which is at most the bound from the weights' norms. "
        "Only networks without normalization, which makes blocks independent of the scale of their weights",
        _share(predicates.within_decay_bound, terminal=False),
    ),
    _papers(
        "depth",
        "The effective depth saturates: a deeper network needs no more of its blocks",
        f"{_OURS}; the effective depth is that of Galanti et al. (2022)",
        "Among runs of one seed that differ in depth only: the first layer with nearest-center error at most "
        f"{EPSILON:g} comes no later in the deepest network than in the second deepest",
        _saturates,
    ),
    Claim(
        "mse",
        "Progressive collapse appears under the mean squared error too",
        _OURS,
        _NEVER_RISE,
        _PROGRESSION,
        predicates.has_squared_error,
    ),
    Claim(
        "mse_line",
        "The geodesic predicts the layers under the mean squared error too",
        _OURS,
        _LINE_IS_NEARER,
        _line_against_baseline("pfc1", "pfc2"),
        predicates.has_squared_error,
    ),
    Claim(
        "random_labels",
        "The last layer collapses on random labels too",
        _OURS,
        "Decades by which PFC1 of the last layer falls in training, on a training set whose labels are all random",
        partial(by_seed, statistic="fall of PFC1 in training, decades; mean", test=quantities.pfc1_lost_in_training),
        predicates.has_random_labels,
    ),
    Claim(
        "random_labels_order",
        "The layers are in order on random labels too",
        _OURS,
        _NEVER_RISE,
        _PROGRESSION,
        predicates.has_random_labels,
    ),
    Claim(
        "other_order",
        "Networks other than the ResNets of the paper collapse progressively too",
        _OURS,
        f"{_NEVER_RISE}, for plain and dense networks among others",
        _PROGRESSION,
        predicates.has_other_network,
    ),
    Claim(
        "other_line",
        "The geodesic predicts networks other than the ResNets of the paper too",
        _OURS,
        _LINE_IS_NEARER,
        _line_against_baseline("pfc1", "pfc2"),
        predicates.has_other_network,
    ),
    Claim(
        "skip_connections",
        "Skip connections make the straight line predict the layers",
        "Section II-B: a residual block is a step of a flow. The comparison is ours",
        "Straightness of the residual network minus that of the network with other connections and the same seed; likewise the "
        "baseline's error minus the line's in PFC1, layers at their projection",
        all_of(
            _gained_by_skips("straightness", BY_KEY["straightness"].read),
            _gained_by_skips("error of baseline minus line in PFC1", quantities.line_lead("pfc1")),
        ),
        predicates.has_paper_training,
    ),
)
