"""Which metrics a measurement computes and which it prints: by id, by the words "core" and "all", or by default."""

from __future__ import annotations

import copyreg
import difflib
from collections.abc import Sequence
from typing import Any

from ncollapse.metrics.entry import Metric
from ncollapse.metrics.registry import METRICS

MetricChoice = str | Metric | Sequence[str | Metric] | None

# What is printed: one number for each thing that collapses, by the names that papers use most.
CORE = ("accuracy", "pfc1", "pfc2", "pfc3", "nc1", "nc2_equiangularity", "nc3", "nc4", "cdnv")

# Words that stand for several metrics.
WORDS = ("core", "all")

# Not computed by default. The first two repeat another row: K times nc1 (under its own class weights), and 1 - pfc3. SNC1-3 are
# defined for the squared loss, which a measurement does not know.
_ON_DEMAND = frozenset({"separation", "pfc3_error", "snc1", "snc2", "snc3"})
# Repeats pfc1, unless the class means of another split decide.
_FOR_REFERENCE = "strong_collapse"


def select_metrics(metrics: MetricChoice, *, by_reference: bool = False) -> list[Metric]:
    """Metrics by id or by word, in the order of the registry, own ones behind.

    Args:
        metrics: Ids in any case ("NC1"), own ``Metric`` values, and the words "core" (what is printed) and "all" (all that need
            no d×d scatter matrix). None takes all but those that need such a matrix, repeat another metric on the same data
            (``separation``, ``pfc3_error``, ``strong_collapse``), or hold for the squared loss only (``snc1``-``snc3``).
        by_reference: Whether the class means of another split decide; then ``strong_collapse`` repeats nothing.

    Returns:
        The metrics, each once.

    Raises:
        ValueError: If an id is unknown (the message names near ones), or that of another metric.
        TypeError: If something is neither a name nor a metric.
    """
    light = [id for id, metric in METRICS.items() if "scatter" not in metric.needs]
    if metrics is None:
        left_out = _ON_DEMAND if by_reference else _ON_DEMAND | {_FOR_REFERENCE}
        return [METRICS[id] for id in light if id not in left_out]
    words = dict(zip(WORDS, (list(CORE), light), strict=True))
    named: set[str] = set()
    own: dict[str, Metric] = {}
    for item in [metrics] if isinstance(metrics, str | Metric) else metrics:
        if isinstance(item, Metric):
            _add_own(item, own)
        elif isinstance(item, str):
            named.update(words.get(item.lower()) or [_known(item)])
        else:
            raise TypeError(
                f"metrics must hold ids, such as 'pfc1', or Metric values, got {type(item).__name__}. Ids: ncollapse.METRICS."
            )
    return [metric for id, metric in METRICS.items() if id in named or own.get(id) is metric] + [
        metric for id, metric in own.items() if id not in METRICS
    ]


def _known(name: str) -> str:
    id = name.lower()
    if id not in METRICS:
        near = difflib.get_close_matches(id, [*METRICS, *WORDS], n=3) or list(METRICS)
        raise ValueError(f"No metric {name!r}. Near ones: {', '.join(near)}. All ids: ncollapse.METRICS.")
    return id


def _add_own(metric: Metric, own: dict[str, Metric]) -> None:
    taken = own.get(metric.id, METRICS.get(metric.id, metric))
    if taken is not metric:
        raise ValueError(f"A metric of one's own needs an id of its own, got {metric.id!r}, which is taken. Rename it.")
    own[metric.id] = metric


def _entry(id: str) -> Metric:
    return METRICS[id]


def _reduce(metric: Metric) -> Any:
    # Entries are pickled by their id: most of their functions are lambdas. Own metrics are pickled as any value is.
    return (_entry, (metric.id,)) if METRICS.get(metric.id) is metric else object.__reduce_ex__(metric, 2)


copyreg.pickle(Metric, _reduce)
