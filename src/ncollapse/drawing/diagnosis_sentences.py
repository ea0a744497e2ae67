"""The verdicts of a diagnosis in words, each with its number, and its table in text."""

from __future__ import annotations

import math

from ncollapse.drawing.wording import counted, listed, named, number, percent
from ncollapse.records.rows import DiagnosisRecord

# A head that is at most this much less accurate than the network does as well.
TOLERANCE = 0.01
HEADS = {"probe": "a linear head", "ncc": "the nearest class center"}
SCORES = {"neco": "NECO", "nci": "NCI", "mahalanobis": "Mahalanobis", "energy": "energy"}
_NO_VALUE = "–"
_MOST_GROUPS = 6


def verdicts(record: DiagnosisRecord) -> list[str]:
    """Say which layers are redundant, which classes have merged, where to detect strangers and where to transfer from."""
    lines = [_redundant(record), _merged(record), *(_detected(record, name) for name in record.strangers)]
    return [*filter(None, lines), *(_transfer(record, name) for name in record.tasks)]


def sufficient_layer(record: DiagnosisRecord) -> tuple[int, str] | None:
    """Return the depth of the first layer at which a head does as well as the network, and the head; None if none does."""
    # A network without logits is as good as the better head on its last layer.
    accuracy = _accuracy_to_reach(record)
    for depth, layer in enumerate(record.layers):
        values = {head: record.value(head, layer) for head in HEADS}
        best = max(values, key=lambda head: values[head])
        if values[best] >= accuracy - TOLERANCE:
            return depth, best
    return None


def _accuracy_to_reach(record: DiagnosisRecord) -> float:
    accuracy = record.accuracy[record.decided]
    return max(record.value(head, record.layers[-1]) for head in HEADS) if math.isnan(accuracy) else accuracy


def _redundant(record: DiagnosisRecord) -> str:
    where, accuracy = _where(record), _accuracy_to_reach(record)
    whole = "the best head on the last layer" if math.isnan(record.accuracy[record.decided]) else "the whole network"
    found = sufficient_layer(record)
    last = len(record.layers) - 1
    if last == 0:
        here = max(record.value(head, record.layers[0]) for head in HEADS)
        beside = "" if math.isnan(record.accuracy[record.decided]) else f", {whole} {percent(accuracy)}"
        return f"Only {named(record.layers[0])} was read. The best head on it reaches {percent(here)} {where}{beside}."
    if found is None or found[0] == last:
        best = max((record.value(head, layer), layer) for layer in record.layers[:-1] for head in HEADS)
        return (
            f"No layer is redundant: before the last one, the best head reaches {percent(best[0])} {where} (at "
            f"{named(best[1])}), {whole} {percent(accuracy)}."
        )
    depth, head = found
    layer = record.layers[depth]
    return (
        f"Redundant after {named(layer)} (depth {depth} of {last}): {HEADS[head]} there reaches "
        f"{percent(record.value(head, layer))} {where}, {whole} {percent(accuracy)}; "
        f"{counted(last - depth, 'layer')} after it could go."
    )


def _merged(record: DiagnosisRecord) -> str:
    where = _where(record, record.judged)
    if record.merged:
        found = [listed([named(record.names[index], "class") for index in group]) for group in record.merged[:_MOST_GROUPS]]
        more = len(record.merged) - len(found)
        groups = "; ".join([*found, *([counted(more, "more group")] if more else [])])
        shares = {(pair.first, pair.second): pair.confusion for pair in record.pairs}
        worst = max(
            (value for key, value in shares.items() if any(set(key) <= set(g) for g in record.merged)), default=math.nan
        )
        return (
            f"Merged at {named(record.layers[-1])}: {groups}. There the nearest class center takes up to {percent(worst)} of "
            f"the samples of two classes for the other one {where}; two names of one class would give 50 %."
        )
    if not record.pairs:
        return ""
    pair = record.pairs[0]
    names = f"{named(record.names[pair.first], 'class')} and {named(record.names[pair.second], 'class')}"
    return (
        f"No classes have merged at {named(record.layers[-1])}. The closest are {names}: {percent(pair.confusion)} of their "
        f"samples are taken for the other one {where}."
    )


def _detected(record: DiagnosisRecord, name: str) -> str:
    areas = {(layer, score): record.value(f"auroc.{name}.{score}", layer) for layer in record.layers for score in SCORES}
    known = {key: area for key, area in areas.items() if not math.isnan(area)}
    if not known:
        return f"Strangers of {name}: no score is defined at any layer."
    layer, score = max(known, key=lambda key: known[key])
    rate = record.value(f"fpr95.{name}.{score}", layer)
    line = (
        f"Detect {name} at {named(layer)} with {SCORES[score]}: AUROC {number(known[layer, score])}, and {percent(rate)} of "
        f"the strangers pass where 95 % of the known samples do."
    )
    at_end = {key: area for key, area in known.items() if key[0] == record.layers[-1]}
    if not at_end or layer == record.layers[-1]:
        return line
    best = max(at_end, key=lambda key: at_end[key])
    return f"{line} At the last layer the best score is {SCORES[best[1]]}, AUROC {number(at_end[best])}."


def _transfer(record: DiagnosisRecord, name: str) -> str:
    values = {layer: record.value(f"few_shot.{name}", layer) for layer in record.layers}
    layer = max(values, key=lambda key: values[key])
    bound, last = record.value(f"few_shot_bound.{name}", layer), record.layers[-1]
    line = f"Transfer to {name} from {named(layer)}: few-shot accuracy {percent(values[layer])}"
    line += f" ± {_half_width(record, name, layer)}"
    line += f"; CDNV guarantees {percent(bound)}" if bound > 0 else "; CDNV guarantees nothing there"
    return f"{line}." if layer == last else f"{line}. At the last layer it is {percent(values[last])}."


def _half_width(record: DiagnosisRecord, name: str, layer: str) -> str:
    """Half of the 95 % interval over episodes, in percentage points."""
    errors = [row.standard_error for row in record.rows if (row.metric, row.layer) == (f"few_shot.{name}", layer)]
    return _NO_VALUE if not errors or errors[0] is None else f"{196 * errors[0]:.2f} %"


def _where(record: DiagnosisRecord, split: str | None = None) -> str:
    return "on the test set" if (split or record.decided) == "test" else "on the training set"


COLUMNS = {
    "ncc": "nearest center",
    "probe": "linear probe",
    "knn": "k-NN",
    "left_out": "left out",
    "cka_next": "CKA next",
    "rankme": "RankMe",
}


def text_table(record: DiagnosisRecord) -> str:
    """Lay out the main columns, one line per layer."""
    header = ["layer", "dim", *COLUMNS.values()]
    lines = [
        [layer, str(dim), *(_cell(record, metric, layer) for metric in COLUMNS)]
        for layer, dim in zip(record.layers, record.dims, strict=True)
    ]
    widths = [max(map(len, column)) for column in zip(header, *lines, strict=True)]
    said = [
        "  ".join(cell.ljust(width) if place == 0 else cell.rjust(width) for place, (cell, width) in enumerate(pairs))
        for pairs in (list(zip(line, widths, strict=True)) for line in (header, *lines))
    ]
    accuracy = ", ".join(f"{percent(value)} on {split}" for split, value in record.accuracy.items() if value == value)
    sizes = ", ".join(f"{count:,} {split} samples" for split, count in record.num_samples.items())
    return "\n".join([f"{counted(len(record.layers), 'layer')}, {sizes}; network: {accuracy or 'no logits'}", *said])


def _cell(record: DiagnosisRecord, metric: str, layer: str) -> str:
    split = "train" if metric in ("cka_next", "rankme") else None
    value = record.value(metric, layer, split)
    if math.isnan(value):
        return _NO_VALUE
    text = f"{value:.1f}" if metric == "rankme" else f"{value:.4f}"
    # Never rounded to a bound that it does not reach.
    return number(value) if text in {"0.0000", "1.0000"} and value not in {0, 1} else text
