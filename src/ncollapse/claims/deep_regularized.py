"""The claims on deep regularized ResNets and transformers: collapse against the number of blocks, and against a control."""

from functools import partial

from ncollapse.claims.comparisons import gained_over_control, slopes
from ncollapse.claims.evidence import by_seed
from ncollapse.claims.rules import RULES, Claim, Examine
from ncollapse.records.reading import Run
from ncollapse.records.recipe_settings import setting

PAPER = "Súkeník, Lampert and Mondelli (2025), arXiv 2505.15239"
# λ is the same at every depth, so the network with the fewest blocks is the control of all.
# Of a ReLU network the gradient does not vanish where descent ends, on kinks; these are rounded off.
_STATIONARY = (
    "model.rounding=0.01 train.optimizer=lbfgs train.iterations=200 train.learning_rate=1 train.schedule=steps "
    f"'train.milestones=[]' train.epochs=15 'measure.epochs=[0,5]' --seeds {RULES.least_draws}"
)
_SWEEP = f"ncollapse sweep deep_rn1_plain --over model.num_blocks=1,4,8,16 --set seed=700 {_STATIONARY} --out runs/rn1"
# One block of two layers ends where the normalization has no gradient (docs/claims.md).
_CONTROL = (
    "ncollapse sweep deep_rn1_plain --over model.num_blocks=2,4,8 --set model.linear_layers=2 train.weight_decay=0.0025 "
    f"seed=800 {_STATIONARY} --out runs/rn2_constant"
)

# Runs of a regularized objective with a floor are what these claims are about; all but the floor itself is about its optima.
_claim = partial(Claim, about=lambda run: bool(run.objective), family=PAPER, command=_SWEEP, stationary=True)

DEEP_METRICS = {"pfc1": "NC1", "nc2_etf_weights": "NC2", "nc3_cosine": "NC3"}
"""From our metrics to the paper's names: tr Σ_W/tr Σ_B, the classifier's distance to an ETF, 1 − mean cos(h, w)."""


def is_covered(run: Run) -> bool:
    """Test whether theory predicts collapse as a network deepens: blocks of one linear layer, or a decay that falls with L."""
    layers = setting(run, "model.linear_layers") or setting(run, "model.mlp_layers")
    return run.last_objective is not None and (layers == 1 or run.recipe_entries.get("decay_over_blocks") is True)


def is_control(run: Run) -> bool:
    """Test for the negative control: blocks of two linear layers with the same decay for every L."""
    return run.last_objective is not None and not is_covered(run)


def _is_above_floor(run: Run) -> bool:
    """Test whether the objective lies above its floor at every measured epoch."""
    return all(record.excess >= 0 for record in run.objective.values())


def _falls(key: str, name: str) -> Examine:
    return slopes(key, f"minus the log-log slope of {name} with L = {{}}; mean", is_covered, lambda slope: -slope, before=True)


def _does_not_fall(key: str, name: str) -> Examine:
    words = f"share of seeds whose log-log slope of {name} with L = {{}} is not negative"
    # No base rate: that nothing comes of depth may well be so before training too.
    return slopes(key, words, is_control, lambda slope: slope >= 0)


DEEP_CLAIMS = (
    _claim(
        "deep_floor",
        "The generalized unconstrained features model's minimum is below every regularized objective",
        f"{PAPER}, section 4",
        "Objective minus GUFM* is not negative at any measured epoch",
        partial(by_seed, statistic="share of seeds", test=_is_above_floor),
        checks_code=True,
        stationary=False,
    ),
    _claim(
        "deep_excess",
        "The objective approaches that minimum as depth grows",
        f"{PAPER}, Theorem 4.1 and section 4",
        "Minus the log-log slope of the excess with the number of blocks L, one slope per seed",
        _falls("excess", "the excess"),
    ),
    _claim(
        "deep_distance",
        "Features and last layer approach the set of its minimizers as depth grows",
        f"{PAPER}, Lemma 4.0 and Theorem 4.1",
        "Minus the log-log slope of the relative distance with L, one slope per seed",
        _falls("distance", "the distance"),
    ),
    *(
        _claim(
            f"deep_{name.lower()}",
            f"{name} tightens as depth grows (blocks of one linear layer, or λ ∝ 1/L)",
            f"{PAPER}, Figures 1 and 2",
            f"Minus the log-log slope of {metric} at the last layer with L, one slope per seed",
            _falls(metric, name),
        )
        for metric, name in DEEP_METRICS.items()
    ),
    *(
        _claim(
            f"deep_helps_{metric if metric == 'excess' else name.lower()}",
            f"Depth helps {name}: deeper networks are below the shallowest with the same λ and steps (blocks of one linear "
            "layer, or λ ∝ 1/L)",
            f"{PAPER}, Figures 1 and 2. The control is ours (docs/claims.md)",
            f"Decades by which {metric} is below that of the network with the fewest blocks, the same λ, steps and seed",
            gained_over_control(metric, is_covered),
        )
        for metric, name in {"excess": "the excess", **DEEP_METRICS}.items()
    ),
    *(
        _claim(
            f"deep_control_{name.lower()}",
            f"{name} does not improve with depth for blocks of two linear layers at constant λ",
            f"{PAPER}, Figure 2, third column",
            f"The log-log slope of {metric} at the last layer with L is not negative, one slope per seed",
            _does_not_fall(metric, name),
            command=_CONTROL,
        )
        for metric, name in DEEP_METRICS.items()
    ),
)
