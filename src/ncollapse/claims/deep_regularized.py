"""The claims on deep regularized ResNets and transformers, for the ledger."""

from functools import partial

from ncollapse.claims.depth_tests import (
    above_floor,
    falls_with_blocks,
    has_objective,
    is_control,
    is_covered,
    last_layer,
    of_objective,
    rises_with_blocks,
)
from ncollapse.claims.progressive_collapse import Claim

__all__ = ["DEEP_CLAIMS", "DEEP_METRICS"]

_PAPER = "Súkeník, Lampert and Mondelli, arXiv 2505.15239"

_claim = partial(Claim, about=has_objective)

DEEP_METRICS = {"pfc1": "NC1", "nc2_etf_weights": "NC2", "nc3_cosine": "NC3"}
"""From our metrics to the paper's names: tr Σ_W/tr Σ_B, the classifier's distance to an ETF, 1 − mean cos(h, w)."""

DEEP_CLAIMS = (
    _claim(
        "deep_floor",
        "The generalized unconstrained features model's minimum is below every regularized objective",
        f"{_PAPER}, section 4",
        "Objective minus GUFM* is not negative at any measured epoch",
        above_floor,
    ),
    _claim(
        "deep_excess",
        "The objective approaches that minimum as depth grows",
        f"{_PAPER}, Theorem 4.1 and section 4",
        "Minus the log-log slope of the excess with the number of blocks L, one slope a seed",
        falls_with_blocks("the excess", of_objective("excess"), is_covered),
    ),
    _claim(
        "deep_distance",
        "Features and last layer approach the set of its minimizers as depth grows",
        f"{_PAPER}, Lemma 4.0 and Theorem 4.1",
        "Minus the log-log slope of the relative distance with L, one slope a seed",
        falls_with_blocks("the distance", of_objective("distance"), is_covered),
    ),
    *(
        _claim(
            f"deep_{name.lower()}",
            f"{name} tightens as depth grows (blocks of one linear layer, or λ ∝ 1/L)",
            f"{_PAPER}, Figures 1 and 2",
            f"Minus the log-log slope of {metric} at the last layer with L, one slope a seed",
            falls_with_blocks(name, last_layer(metric), is_covered),
        )
        for metric, name in DEEP_METRICS.items()
    ),
    *(
        _claim(
            f"deep_control_{name.lower()}",
            f"{name} does not improve with depth for blocks of two linear layers at constant λ",
            f"{_PAPER}, Figure 2, third column",
            f"The log-log slope of {metric} at the last layer with L is not negative, one slope a seed",
            rises_with_blocks(name, last_layer(metric), is_control),
        )
        for metric, name in DEEP_METRICS.items()
    ),
)
