"""The claims of the PFC paper, as data: statement, source, test, and what it is about."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from ncollapse.claims import gains, predicates
from ncollapse.claims.comparisons import ranked_by_decay
from ncollapse.claims.evidence import IN_RANDOM_ORDER, RunTest, by_seed
from ncollapse.claims.quantities import BY_KEY
from ncollapse.claims.rules import RULES, Claim, Examine, is_terminal
from ncollapse.drawing.wording import POSITIONS
from ncollapse.records.depth import EPSILON
from ncollapse.records.reading import Run

PAPER = "Wang et al., Progressive Feedforward Collapse of ResNet Training, arXiv 2405.00985"
NAMES = {"pfc1": "PFC1", "pfc2": "PFC2", "pfc3_error": "PFC3"}
SHARE = "share of seeds"
_EQUATIONS = {"pfc1": 7, "pfc2": 8, "pfc3_error": 9}
# Recipes were chosen by looking at seeds 0 to 14.
_SEEDS = f"ncollapse sweep demo --set seed=900 --seeds {RULES.least_draws} --out runs/demo"
_DECAY = (
    "ncollapse sweep demo --over train.weight_decay=0,5e-4,5e-3,5e-2 --set seed=100 "
    f"--seeds {RULES.least_draws} --out runs/decay"
)
_UNNORMALIZED = (
    "ncollapse sweep demo --set model.normalization=none train.weight_decay=5e-3 seed=200 "
    f"--seeds {RULES.least_draws} --out runs/unnormalized"
)

# Chosen by docs/choose_settings.py: the demo is separable after one block or two, too early to test an order.
_GRADUAL = (
    "ncollapse sweep demo --set model.block=single model.width=16 model.num_blocks=10 train.weight_decay=3e-3 seed=5 "
    f"--seeds {RULES.least_draws} --out runs/conjecture_digits"
)

_papers = partial(Claim, about=predicates.is_paper_setting, family=PAPER, terminal=True, command=_SEEDS)
_of_decay = partial(_papers, terminal=False, command=_DECAY)


def share(test: RunTest, *, statistic: str = SHARE, **options: Any) -> Examine:
    """Make an examination of a truth for each seed."""
    return partial(by_seed, statistic=statistic, test=test, **options)


def falls(metric: str, steps: Callable[[Run], int] = predicates.all_steps) -> Examine:
    """Make an examination whether a metric falls over depth, over all layers or up to the effective depth."""
    everywhere = steps is predicates.all_steps
    test = predicates.falls_over_depth(metric) if everywhere else predicates.falls_before_effective_depth(metric)
    return share(test, before=True, shuffled=predicates.chance_of_order(metric, steps), steps=steps)


def line_claims(make: Callable[..., Claim], prefix: str, statement: str, source: str) -> list[Claim]:
    """Make the claims that the line predicts better than the baseline: PFC1 and PFC2, at two places of the layers."""
    # The projection is measured at the layer itself; the index is not.
    words = "error of the baseline minus that of the line, decades; mean"
    return [
        make(
            f"{prefix}_{metric}_{place}",
            statement.format(metric=NAMES[metric], place=POSITIONS[place]),
            source,
            "RMS error of the straight line over the interior layers is below that of the log-linear interpolation of the ends",
            partial(by_seed, statistic=words, test=gains.line_lead(metric, place), before=True),
        )
        for metric in ("pfc1", "pfc2")
        for place in ("projection", "index")
    ]


def _progress(metric: str) -> tuple[Claim, Claim]:
    """Make the claims of the conjecture for one metric: before the effective depth, as it is stated, and over all layers."""
    name, what = NAMES[metric], "The error 1 − PFC3" if metric == "pfc3_error" else NAMES[metric]
    return (
        _papers(
            metric.removesuffix("_error"),
            f"{name} progresses from layer to layer before the effective depth",
            f"Section III-A, Conjecture 1 ({name}), equation ({_EQUATIONS[metric]})",
            f"{what} rises at no step up to the first layer with nearest-center error at most {EPSILON:g} and falls "
            f"overall, at the last epoch. Runs with fewer than {RULES.least_steps} such steps say nothing",
            falls(metric, predicates.effective_steps),
            command=_GRADUAL,
        ),
        _papers(
            f"{metric.removesuffix('_error')}_all",
            f"{name} progresses over all measured layers",
            "Abstract; Section IV-A, Figure 3",
            f"{what} rises at no step of depth and falls overall, at the last epoch",
            falls(metric),
        ),
    )


def _decay_claim(key: str, what: str, source: str, statistic: str, read: RunTest, sign: int) -> Claim:
    return _of_decay(
        key,
        f"Weight decay {what}",
        source,
        "Kendall's rank correlation with weight decay among runs of one seed that differ in weight decay only",
        ranked_by_decay(statistic, read, sign),
    )


def _decays(key: str, what: str, source: str, quantity: str) -> Claim:
    return _decay_claim(key, what, source, quantity, BY_KEY[quantity].read, BY_KEY[quantity].sign)


_ENERGY = "Sections II-C and III-C"
_STRAIGHT = "Section II-C, after Gai & Zhang (2021); Assumption 1"
_FIGURE3 = "Section IV-A, Figure 3; Assumption 1"

CLAIMS = (
    replace(
        _papers(
            "terminal",
            "Training reaches the terminal phase, which most claims are about",
            "Section III-A, Conjecture 1; Assumption 1",
            "Every training sample is right at the end and at an earlier measured epoch, and the weight-decay time τ is at "
            f"least {RULES.terminal_tau:g}",
            share(lambda run: is_terminal(run)),
        ),
        terminal=False,
    ),
    *(claim for metric in NAMES for claim in _progress(metric)),
    _papers(
        "order",
        "The order of the layers appears in training, from a random initialization",
        "Section III-A, Conjecture 1, last sentence; Figure 2",
        "Share of the steps of depth at which PFC1, PFC2 and the error 1 − PFC3 rise, before training minus at the last epoch",
        partial(
            by_seed,
            statistic="share of rises lost in training; mean",
            test=gains.order_gained,
            other_base=(IN_RANDOM_ORDER, gains.order_gained_by_chance),
        ),
    ),
    _papers(
        "order_gradual",
        "The layers converge to their order gradually: later in training more steps of depth fall",
        "Section III-A, Conjecture 1, last sentence; Figure 2",
        "Kendall's rank correlation of training time with the share of the steps of depth at which PFC1, PFC2 and the error "
        "1 − PFC3 do not rise, over the measured epochs of a run; 0 if time says nothing",
        partial(
            by_seed,
            statistic="Kendall's τ of the share of steps in order with the epoch; mean",
            test=gains.order_trend,
            bounds=(-1.0, 1.0),
        ),
    ),
    *line_claims(
        _papers,
        "line",
        "The geodesic (straight line) between first and last layer predicts {metric} of the others, placed at their {place}",
        "Section IV-A, Figure 3; equations (10) and (11). The log-linear baseline is ours",
    ),
    _papers(
        "theorem1",
        "The assumption of Theorem 1 is valid",
        "Section III-B, Theorem 1 and the text below it",
        "Centered class means of first and last layer correlate, C ≥ 0: what the theorem needs of a collapsed end",
        share(predicates.recorded("theorem1.holds")),
        checks_code=True,
    ),
    _papers(
        "theorem1_line",
        "PFC1 falls monotonically along the straight line",
        "Section III-B, Theorem 1; Section IV-A",
        "The exact test, between the measured ends, which need not be collapsed",
        share(predicates.recorded("theorem1.monotone"), before=True),
    ),
    _papers(
        "theorem2_line",
        "The transport cost is small enough for PFC2 to fall monotonically along the straight line",
        "Section III-B, Theorem 2; Section IV-A",
        "The exact test of the fall between the measured ends, because no constant says which cost is small enough",
        share(predicates.recorded("theorem2.monotone"), before=True),
    ),
    _papers(
        "theorem3",
        "The condition for PFC3 never to fall along the straight line to a collapsed end is met",
        "Section III-B, Theorem 3",
        "No pair of a sample and a rival class center can turn from right to wrong, were the last layer at its class means",
        share(predicates.recorded("theorem3.guaranteed"), before=True),
    ),
    _papers(
        "theorem3_line",
        "PFC3 never falls along the straight line",
        "Section III-B, Theorem 3; Section IV-A",
        "Nearest-center accuracy falls at no step of the line between the measured ends, which need not be collapsed",
        share(predicates.never_falls_on_the_line, before=True),
    ),
    _papers(
        "transport_exact",
        "The forward propagation is optimal transport between first and last layer",
        "Section II-B, Proposition 1; Assumption 1",
        "No other pairing of first and last features of the sample costs less",
        share(predicates.optimal_pairing, before=True),
    ),
    _papers(
        "transport_near",
        "The forward propagation is nearly optimal transport between first and last layer",
        "Section II-B, Proposition 1; Assumption 1. The tolerance is ours",
        "The network's own pairing of first and last features costs more than the best by at most "
        f"{RULES.transport_gap:g} of what a random pairing costs more, which itself never passes",
        share(predicates.nearly_optimal_pairing, before=True),
    ),
    _papers(
        "alignment",
        "The last class means are nearly the optimal rotation of the first, towards which PFC2 falls at any transport cost",
        "Section III-B, Theorem 2, whose small transport cost this replaces (docs/theory.md, 3.3). The bound is ours",
        f"The alignment of first and last class means, which that theorem needs at 1, is at least {RULES.alignment:g}",
        share(predicates.aligned, before=True),
    ),
    _decays("decay_straightness", "straightens the forward propagation: chord over path length", _STRAIGHT, "straightness"),
    _decays("decay_shape", "straightens the forward propagation: line-shape score", _STRAIGHT, "line-shape score"),
    _decays("decay_energy", "lowers the kinetic energy of the forward propagation", _ENERGY, "energy"),
    _decays(
        "decay_detour",
        "brings the Wasserstein-2 distances of consecutive layers, added up, nearer to that of the ends",
        "Section II-B, Assumption 1: on a geodesic they are equal",
        "detour",
    ),
    _decays("decay_efficiency", "brings the energy nearer to that of a straight path at constant speed", _ENERGY, "efficiency"),
    *(
        claim
        for metric in ("pfc1", "pfc2")
        for claim in (
            _decay_claim(
                f"decay_line_{metric}",
                f"makes the straight line's error in {NAMES[metric]} smaller",
                _FIGURE3,
                f"error of the line in {NAMES[metric]}",
                BY_KEY[f"line {metric}"].read,
                -1,
            ),
            _decay_claim(
                f"decay_lead_{metric}",
                f"makes the straight line predict {NAMES[metric]} better than the baseline does",
                _FIGURE3,
                f"error of the baseline minus that of the line in {NAMES[metric]}",
                gains.line_lead(metric),
                1,
            ),
        )
    ),
    replace(
        _papers(
            "decay_bound",
            "The weights bound the transport energy, so that weight decay bounds it",
            "Section II-C, III-C; derived in docs/theory.md, 3.10",
            "Each block adds at most its bound from weights and inputs, which is at most the bound from the weights' norms. "
            "Only networks without normalization, which makes blocks independent of the scale of their weights",
            share(predicates.within_decay_bound),
            checks_code=True,
        ),
        terminal=False,
        command=_UNNORMALIZED,
    ),
)
