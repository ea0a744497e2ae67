"""Selection of the metrics that a measurement computes and prints: by id, by "core" and "all", or by default."""

from __future__ import annotations

import copyreg
from collections.abc import Sequence
from typing import Any

from ncollapse.metrics.entry import Metric
from ncollapse.metrics.layer_statistics import Need
from ncollapse.metrics.registry import METRICS
from ncollapse.near_words import near_words

MetricChoice = str | Metric | Sequence[str | Metric] | None

# The printed metrics: one for each aspect of collapse, by the names that papers use most.
CORE = ("accuracy", "pfc1", "pfc2", "pfc3", "nc1", "nc2_equiangularity", "nc3", "nc4", "cdnv")

# Words for several metrics at once.
WORDS = ("core", "all", "population")

# Not computed by default. The first two repeat another row: separation is K times nc1 (with its own class weights), pfc3_error
# is 1 - pfc3. SNC1-3 are defined for the squared loss, and a measurement does not know the loss. The rest compares with
# frames that a network has with more classes than dimensions, or with unequal counts.
_OTHER_FRAMES = frozenset({"pfc2_tight_frame", "pfc2_orthoplex", "pfc2_seli", "softmax_code"})
_ON_DEMAND = frozenset({"separation", "pfc3_error", "snc1", "snc2", "snc3"}) | _OTHER_FRAMES
# Equal to pfc1, unless the class means of another split decide.
_FOR_REFERENCE = "strong_collapse"


def select_metrics(metrics: MetricChoice, *, by_reference: bool = False) -> list[Metric]:
    """Return metrics selected by id or by word, each once, in the order of the registry, your own ones last.

    Args:
        metrics: Ids in any case ("NC1"), ``Metric`` values of your own, and the words "core" (the printed ones), "all" (all
            that need neither a d×d scatter matrix nor are estimates for a population) and "population" (all such estimates).
            None selects "all" without metrics that repeat another one on the same data (``separation``, ``pfc3_error``,
            ``strong_collapse``), hold for the squared loss only (``snc1``-``snc3``) or compare with other frames than the
            simplex ETF (``pfc2_tight_frame``, ``pfc2_orthoplex``, ``pfc2_seli``, ``softmax_code``).
        by_reference: Whether the class means of another split decide. Then ``strong_collapse`` is not a repetition.

    Raises:
        ValueError: If an id is unknown (the message names similar ones), or your own metric has the id of another one.
        TypeError: If an item is neither a name nor a metric.
    """
    sampling: set[Need] = {"parts", "left_out"}
    light = [id for id, metric in METRICS.items() if not metric.needs & {"scatter", *sampling}]
    estimates = [id for id, metric in METRICS.items() if metric.needs & sampling]
    if metrics is None:
        left_out = _ON_DEMAND if by_reference else _ON_DEMAND | {_FOR_REFERENCE}
        return [METRICS[id] for id in light if id not in left_out]
    words = dict(zip(WORDS, (list(CORE), light, estimates), strict=True))
    named: set[str] = set()
    own: dict[str, Metric] = {}
    for item in [metrics] if isinstance(metrics, str | Metric) else metrics:
        if isinstance(item, Metric):
            _add_own(item, own)
        elif isinstance(item, str):
            named.update(words.get(item.lower()) or [_known(item)])
        else:
            raise TypeError(
                f"metrics must be ids, such as 'pfc1', or Metric values, got {type(item).__name__}. "
                "list(ncollapse.METRICS) has all."
            )
    return [metric for id, metric in METRICS.items() if id in named or own.get(id) is metric] + [
        metric for id, metric in own.items() if id not in METRICS
    ]


def _known(name: str) -> str:
    id = name.lower()
    if id not in METRICS:
        near = near_words(id, [*METRICS, *WORDS]) or f"Known: {', '.join(METRICS)}. "
        raise ValueError(f"No metric {name!r}. {near}list(ncollapse.METRICS) has all.")
    return id


def _add_own(metric: Metric, own: dict[str, Metric]) -> None:
    taken = own.get(metric.id, METRICS.get(metric.id, metric))
    if taken is not metric:
        raise ValueError(f"Your own metrics must have new ids, got {metric.id!r}, the id of another metric. Rename it.")
    own[metric.id] = metric


def _entry(id: str) -> Metric:
    return METRICS[id]


def _reduce(metric: Metric) -> Any:
    # Entries of the registry are pickled by id, since most of their functions are lambdas. Others are pickled as usual.
    return (_entry, (metric.id,)) if METRICS.get(metric.id) is metric else object.__reduce_ex__(metric, 2)


copyreg.pickle(Metric, _reduce)
