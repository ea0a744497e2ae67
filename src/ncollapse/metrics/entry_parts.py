"""What the registry's entries share: sources, needs, conditions, and the statistics that an entry's needs guarantee."""

from __future__ import annotations

import math
from typing import cast

from ncollapse.metrics.entry import LayerStatistics, Need
from ncollapse.statistics.centers import ClassCenters, LinearClassifier
from ncollapse.statistics.decisions import ClassDecisions

PAPYAN = "Papyan, Han & Donoho (2020), PNAS"
ZHU = "Zhu et al. (2021), NeurIPS"
WU = "Wu & Papyan (2024), NeurIPS"
PFC = "Progressive feedforward collapse, arXiv 2405.00985"

NO_SPREAD = frozenset({"no_between"})
ANGLES = frozenset({"two_classes", "low_dimension"})
MOMENTS: frozenset[Need] = frozenset()
CENTERS: frozenset[Need] = frozenset({"centers"})
CLASSIFIER: frozenset[Need] = frozenset({"classifier"})
JOINT: frozenset[Need] = frozenset({"centers", "classifier"})
SCATTER: frozenset[Need] = frozenset({"scatter"})
INF = math.inf


# The casts tell the type checker what needs guarantee.
def centers_of(s: LayerStatistics) -> tuple[ClassCenters, ClassDecisions]:
    """The layer's own final means, and the sums around them."""
    return cast(ClassCenters, s.centers), cast(ClassDecisions, s.within)


def decisions_of(s: LayerStatistics) -> ClassDecisions:
    """Decisions by the training set's means."""
    return cast(ClassDecisions, s.decisions)


def classifier_of(s: LayerStatistics) -> LinearClassifier:
    """The last layer."""
    return cast(LinearClassifier, s.classifier)
