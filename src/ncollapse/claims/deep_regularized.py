"""The claims on deep regularized ResNets and transformers: collapse against the number of blocks, a log-log slope per seed."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from ncollapse.claims.estimates import log_log_slope
from ncollapse.claims.evidence import by_seed, families
from ncollapse.claims.quantities import BY_KEY
from ncollapse.claims.rules import Claim, Evidence, Examine
from ncollapse.drawing.wording import counted
from ncollapse.records.reading import Run
from ncollapse.records.recipe_settings import setting

_PAPER = "Súkeník, Lampert and Mondelli, arXiv 2505.15239"

_BLOCKS = "model.num_blocks"
_LEAST_DEPTHS = 3
# Runs of a regularized objective with a floor are what these claims are about.
_claim = partial(Claim, about=lambda run: bool(run.objective))

DEEP_METRICS = {"pfc1": "NC1", "nc2_etf_weights": "NC2", "nc3_cosine": "NC3"}
"""From our metrics to the paper's names: tr Σ_W/tr Σ_B, the classifier's distance to an ETF, 1 − mean cos(h, w)."""


def is_covered(run: Run) -> bool:
    """Test whether theory predicts collapse as a network deepens: blocks of one linear layer, or a decay that falls with L."""
    layers = setting(run, "model.linear_layers") or setting(run, "model.mlp_layers")
    return run.last_objective is not None and (layers == 1 or run.recipe_entries.get("decay_over_blocks") is True)


def is_control(run: Run) -> bool:
    """Test for the negative control: blocks of two linear layers with the same decay for every L."""
    return run.last_objective is not None and not is_covered(run)


def _above_floor(runs: Sequence[Run]) -> list[Evidence]:
    """Test whether the objective lies above its floor at every measured epoch; the share of seeds."""
    return by_seed(
        runs, "share of seeds", lambda run: all(record.excess >= 0 for record in run.objective.values()), terminal=False
    )


def _slopes(key: str, words: str, fits: Callable[[Run], bool], test: Callable[[float], float | bool]) -> Examine:
    """Test the log-log slope of a quantity with the number of blocks L, one per seed."""

    def examine(runs: Sequence[Run]) -> list[Evidence]:
        found = []
        for family in families([run for run in runs if fits(run)], _BLOCKS):
            said = words.format(", ".join(f"{value:g}" for value in family.values))
            if len(family.values) < _LEAST_DEPTHS:
                why = f"{counted(len(family.values), 'number')} of blocks L, {_LEAST_DEPTHS} needed"
                found.append(replace(family.judge(said, {}), why=why))
                continue
            # A quantity that is not positive has no logarithm: that seed says nothing.
            numbers = {seed: values for seed, values in family.read(BY_KEY[key].read).items() if min(values) > 0}
            slopes = {seed: log_log_slope(family.values, values).value for seed, values in numbers.items()}
            found.append(family.judge(said, {seed: test(slope) for seed, slope in slopes.items()}))
        return found

    return examine


def _falls(key: str, name: str) -> Examine:
    return _slopes(key, f"minus the log-log slope of {name} with L = {{}}; mean", is_covered, lambda slope: -slope)


def _does_not_fall(key: str, name: str) -> Examine:
    words = f"share of seeds whose log-log slope of {name} with L = {{}} is not negative"
    return _slopes(key, words, is_control, lambda slope: slope >= 0)


DEEP_CLAIMS = (
    _claim(
        "deep_floor",
        "The generalized unconstrained features model's minimum is below every regularized objective",
        f"{_PAPER}, section 4",
        "Objective minus GUFM* is not negative at any measured epoch",
        _above_floor,
    ),
    _claim(
        "deep_excess",
        "The objective approaches that minimum as depth grows",
        f"{_PAPER}, Theorem 4.1 and section 4",
        "Minus the log-log slope of the excess with the number of blocks L, one slope per seed",
        _falls("excess", "the excess"),
    ),
    _claim(
        "deep_distance",
        "Features and last layer approach the set of its minimizers as depth grows",
        f"{_PAPER}, Lemma 4.0 and Theorem 4.1",
        "Minus the log-log slope of the relative distance with L, one slope per seed",
        _falls("distance", "the distance"),
    ),
    *(
        _claim(
            f"deep_{name.lower()}",
            f"{name} tightens as depth grows (blocks of one linear layer, or λ ∝ 1/L)",
            f"{_PAPER}, Figures 1 and 2",
            f"Minus the log-log slope of {metric} at the last layer with L, one slope per seed",
            _falls(metric, name),
        )
        for metric, name in DEEP_METRICS.items()
    ),
    *(
        _claim(
            f"deep_control_{name.lower()}",
            f"{name} does not improve with depth for blocks of two linear layers at constant λ",
            f"{_PAPER}, Figure 2, third column",
            f"The log-log slope of {metric} at the last layer with L is not negative, one slope per seed",
            _does_not_fall(metric, name),
        )
        for metric, name in DEEP_METRICS.items()
    ),
)
