"""The page of a diagnosis: verdicts, what each layer is good for, strangers, transfer, and classes."""

import base64
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes

from ncollapse.drawing.diagnosis_charts import clustered_order, draw_detection, draw_heads, draw_transfer, matrix_png
from ncollapse.drawing.diagnosis_sentences import SCORES, sufficient_layer, verdicts
from ncollapse.drawing.wording import named, number, percent
from ncollapse.records.depth import EPSILON
from ncollapse.records.rows import ClassFinding, DiagnosisRecord
from ncollapse.report.markup import PanelDrawing, panel_svgs, write_html

# Of many classes the hardest are shown, more open on demand, and the rest is in classes.csv.
_SHOWN, _MOST, _PAIRS, _NAMED = 20, 200, 15, 40
# Of more rows a matrix has no labels; of pairs that nothing confuses, the closest few are shown.
_LABELED, _CLOSEST = 20, 3
_UNDEFINED = "–"


def write_layers_page(record: DiagnosisRecord, out: Path, *, title: str = "What each layer is good for") -> Path:
    """Write the page of a diagnosis.

    Args:
        record: What ``ncollapse.diagnose`` found, its ``record``.
        out: The HTML file.
        title: Its heading, such as the network's name.

    Returns:
        The page.
    """
    hardest = sorted(record.classes, key=_accuracy_of)
    return write_html(
        Path(out),
        "layers.html",
        title=title,
        record=record,
        cards=_cards(record),
        verdicts=verdicts(record),
        where="held-out samples" if record.decided == "test" else "training samples",
        heads=_panel("heads", "accuracy over the layers", lambda axes: draw_heads(axes, record)),
        layers=[_layer(record, depth) for depth in range(len(record.layers))],
        strangers=[_strangers(record, index, name) for index, name in enumerate(record.strangers)],
        tasks=[_task(record, index, name) for index, name in enumerate(record.tasks)],
        scores=list(SCORES.values()),
        classes=[_class(record, item) for item in hardest[:_SHOWN]],
        more=[_class(record, item) for item in hardest[_SHOWN:_MOST]],
        num_hidden=max(0, len(hardest) - _MOST),
        pairs=[_pair(record, pair) for i, pair in enumerate(record.pairs[:_PAIRS]) if pair.confusion > 0 or i < _CLOSEST],
        groups=record.groups,
        pictures=_pictures(record),
        named=named,
        percent=percent,
        number=number,
    )


def _cards(record: DiagnosisRecord) -> list[tuple[str, str]]:
    cards = [(f"{split} accuracy of the network", _share(value)) for split, value in record.accuracy.items()]
    found, count = sufficient_layer(record), len(record.layers)
    cards.append(("layers that are needed", f"{count if found is None else found[0] + 1} of {count}"))
    depth = record.effective_depth
    cards.append(
        (f"effective depth (error ≤ {EPSILON:g})", "not reached" if depth is None else f"{depth} of {len(record.layers) - 1}")
    )
    cards.append(("classes", f"{len(record.classes):,}"))
    return cards


def _layer(record: DiagnosisRecord, depth: int) -> dict[str, Any]:
    layer = record.layers[depth]
    shares = [_share(record.value(metric, layer, split)) for metric in ("ncc", "probe", "knn") for split in record.num_samples]
    numbers = [number(record.value(metric, layer, "train")) for metric in ("rankme", "lidar", "alpha_req")]
    cka = record.value("cka_next", layer, "train")
    return {
        "name": layer,
        "note": f"{record.dims[depth]:,} features{', ' + record.notes[layer] if layer in record.notes else ''}",
        "cells": [*shares, _share(record.value("left_out", layer)), _UNDEFINED if math.isnan(cka) else number(cka), *numbers],
    }


def _strangers(record: DiagnosisRecord, index: int, name: str) -> dict[str, Any]:
    def cell(layer: str, score: str) -> tuple[str, str]:
        area, rate = (record.value(f"{metric}.{name}.{score}", layer) for metric in ("auroc", "fpr95"))
        return (_UNDEFINED, "") if math.isnan(area) else (number(area), f"FPR95 {percent(rate)}")

    return {
        "name": name,
        "svg": _panel(
            f"strangers{index}", f"AUROC for {name} over the layers", lambda axes: draw_detection(axes, record, name)
        ),
        "rows": [(layer, [cell(layer, score) for score in SCORES]) for layer in record.layers],
    }


def _task(record: DiagnosisRecord, index: int, name: str) -> dict[str, Any]:
    rows = []
    for row in (row for row in record.rows if row.metric == f"few_shot.{name}"):
        error = "" if row.standard_error is None else f" ± {196 * row.standard_error:.2f} %"
        bound = record.value(f"few_shot_bound.{name}", row.layer)
        rows.append((row.layer, f"{percent(row.value)}{error}", percent(bound) if bound > 0 else "nothing"))
    draw: Callable[[Axes], None] = lambda axes: draw_transfer(axes, record, name)  # noqa: E731
    return {"name": name, "svg": _panel(f"task{index}", f"few-shot accuracy for {name}", draw), "rows": rows}


def _class(record: DiagnosisRecord, item: ClassFinding) -> dict[str, Any]:
    return {
        "name": item.name,
        "cells": [
            f"{item.count:,}",
            *([item.group or _UNDEFINED] if record.groups else []),
            _share(item.train),
            _share(item.test),
            number(item.variance),
            number(item.distance),
            number(item.cdnv),
        ],
        "nearest": record.names[item.nearest],
    }


def _pair(record: DiagnosisRecord, pair: Any) -> tuple[str, str, str, str]:
    names = f"{record.names[pair.first]} – {record.names[pair.second]}"
    return names, _share(pair.confusion), number(pair.distance), number(pair.cdnv)


def _pictures(record: DiagnosisRecord) -> list[dict[str, Any]]:
    order = clustered_order(record.distances)
    names = [record.classes[place].name for place in order]
    matrix = [[record.distances[i][j] for j in order] for i in order]
    labels = names if len(names) <= _LABELED else []
    order_words = f" Order: {', '.join(names)}." if not labels and len(names) <= _NAMED else ""
    found = [
        {
            "title": f"Distances of class means at {named(record.layers[-1])}",
            "src": _source(matrix_png(matrix, colors="RdBu", low=0, high=2)),
            "words": "Classes are ordered so that near ones are neighbors. White: the root mean square of all distances. Red: "
            f"nearer, to 0 where two classes have merged. Blue: farther. At collapse all pairs are white.{order_words}",
            "labels": labels,
        },
        {
            "title": "Similarity of layers (linear CKA)",
            "src": _source(matrix_png(record.cka, colors="viridis", low=0, high=1)),
            "words": "From the first layer, top left, to the last. Yellow: the same up to rotation and scale. Dark: unlike. "
            "Computed on at most 500 training samples.",
            "labels": [str(depth) for depth in range(len(record.layers)) if len(record.layers) <= _LABELED],
        },
    ]
    # One layer has none to be like.
    return found if len(record.layers) > 1 else found[:1]


def _panel(name: str, label: str, draw: Callable[[Axes], None]) -> str:
    return panel_svgs([PanelDrawing(draw, name, label, num_layers=1)], width=3.6)[0]


def _source(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def _share(value: float) -> str:
    return _UNDEFINED if math.isnan(value) else percent(value)


def _accuracy_of(item: ClassFinding) -> tuple[float, float]:
    value = item.train if math.isnan(item.test) else item.test
    return (math.inf if math.isnan(value) else value, item.distance)
