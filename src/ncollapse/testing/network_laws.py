"""``check_network``: the proofs that a network is measured right, on the batches that you measure."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ncollapse.hooks.batch_io import Call, Unpack, map_tensors, tensors_in, unpack_batch
from ncollapse.hooks.label_rows import Rows, class_indices
from ncollapse.hooks.logits import before_probabilities, class_logits, is_single
from ncollapse.hooks.snapshot import differing, fingerprint, random_state_kept
from ncollapse.hooks.tap import LayerChoice
from ncollapse.hooks.untouched import network_of
from ncollapse.probe.request import ClassifierChoice
from ncollapse.testing.plain_hooks import deviation, plain_values
from ncollapse.testing.report import Law, Pair, Report, unchanged
from ncollapse.testing.subject import Subject


def check_network(
    model: nn.Module,
    batches: Iterable[Any],
    *,
    num_classes: int,
    layers: LayerChoice = "auto",
    classifier: ClassifierChoice = None,
    unpack: Unpack = unpack_batch,
    call: Call | None = None,
    ignore_index: int | None = None,
    rows: Rows | None = None,
) -> Report:
    """Prove on some batches that ``measure`` measures a network right.

    The laws are: the network is left as it was, to the bit (``check=True``); the same layers are found from the last batch; the
    features of every layer, row by row, are those of plain hooks; PFC1 and PFC3 are those of plain sums of these in float64;
    the classifier W h + b gives the returned logits on every sample; the accuracy is that of the returned logits; a second pass
    over the data gives the numbers of kept features; the batches in reverse order, and half of the samples of the first batch
    in reverse order, give the same.

    Args:
        batches: As in ``measure``. They are kept in memory, and a few suffice.
        num_classes: Number of classes, K.
        layers: As in ``measure``.
        classifier: As in ``measure``.
        unpack: As in ``measure``.
        call: As in ``measure``.
        ignore_index: As in ``measure``.
        rows: As in ``measure``.

    Returns:
        One law per line, with the numbers that were compared.

    Raises:
        ValueError: If the network cannot be measured, as ``measure``.
        TypeError: As ``measure``.

    Example:
        >>> net = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> data = [(torch.tensor([[1.0, 0.0], [0.0, 1.0], [2.0, 0.0]]), torch.tensor([0, 1, 0]))]
        >>> check_network(net, data, num_classes=2).holds
        True
    """
    model = network_of(model)
    with random_state_kept(batches):
        held = list(batches)
    options: dict[str, Any] = {"layers": layers, "classifier": classifier, "unpack": unpack, "call": call}
    options |= {"ignore_index": ignore_index, "rows": rows}
    subject = Subject(model, held, num_classes, options)
    before = fingerprint(model)
    try:
        subject.measured  # noqa: B018 - measured once, for all laws
    except ValueError as error:
        if not differing(before, fingerprint(model)):
            raise
        return Report(type(model).__name__, (Law("no trace", False, str(error)),))
    laws = []
    for name, law in _LAWS.items():
        # The network can be measured, so that a refusal is a finding.
        try:
            laws.append(law(name, subject))
        except ValueError as error:
            laws.append(Law(name, False, str(error)))
    return Report(type(model).__name__, tuple(laws))


def _untouched(name: str, subject: Subject) -> Law:
    return Law(name, True, "parameters, buffers, gradients, modes, hooks and random states are as before, to the bit")


def _layers(name: str, subject: Subject) -> Law:
    measured = subject.measured
    words = f"{', '.join(measured.layers)} ({measured.chosen})"
    if len(subject.batches) < 2:
        return Law(name, None, f"{words}; one batch alone")
    again = replace(subject, batches=subject.batches[::-1]).measured
    if again.layers != measured.layers or again.chosen != measured.chosen:
        return Law(name, False, f"{measured.chosen}; from the last batch: {again.chosen}")
    return Law(name, True, f"{words}; the same from the last batch")


def _features(name: str, subject: Subject) -> Law:
    seen = subject.seen
    own = subject.collect()
    found = {layer: deviation(own[layer], rows) for layer, rows in seen.features.items()}
    words = [f"{layer} not compared ({reason})" for layer, reason in seen.unread.items()]
    wrong = {layer: value for layer, value in found.items() if not value <= subject.tolerance}
    if wrong:
        return Law(
            name, False, "; ".join(f"{layer} deviates from plain hooks by {value:.2g}" for layer, value in wrong.items())
        )
    if not found:
        return Law(name, None, "; ".join(words))
    worst = max(found.values())
    return Law(name, True, "; ".join([f"the rows deviate from plain hooks by at most {worst:.2g}", *words]))


def _numbers(name: str, subject: Subject) -> Law:
    measured = subject.measured
    if not subject.seen.features or int(torch.bincount(subject.seen.labels, minlength=subject.num_classes).min()) == 0:
        return Law(name, None, "a class has no samples" if subject.seen.features else "no layer was read by plain hooks")
    words = []
    for layer, rows in subject.seen.features.items():
        expected = plain_values(rows, subject.seen.labels, subject.num_classes)
        for metric, value in expected.items():
            row = measured.value(metric, layer)
            words.append(f"{metric} {row:.6g} and {value:.6g} at {layer}")
            # Two centers may be equally near up to rounding.
            near = 1.5 / len(rows) if metric == "pfc3" else subject.tolerance * abs(value)
            if not (math.isnan(row) or abs(row - value) <= near):
                return Law(name, False, words[-1])
    return Law(name, True, f"those of plain sums in float64 in {len(words)} comparisons, such as {words[-2]}")


def _classifier(name: str, subject: Subject) -> Law:
    measured = subject.measured
    feeding = [layer for layer, statistics in measured.statistics.items() if statistics.classifier is not None]
    if not feeding:
        return Law(name, None, f"unproven: {_clause(measured.chosen)}")
    if feeding[0] not in subject.seen.features:
        return Law(name, None, f"{feeding[0]} was not read by plain hooks")
    head = measured.statistics[feeding[0]].classifier
    assert head is not None
    own = subject.seen.features[feeding[0]] @ head.weight.T + head.bias
    own = own - own.mean(dim=1, keepdim=True)
    found = []
    for output in subject.outputs():
        for _, before, usable in before_probabilities(output):
            logits = class_logits(before.masked_fill(~usable, math.nan), subject.num_classes, subject.per_position)
            if logits is not None:
                rows = subject.counted(logits)
                finite = torch.isfinite(rows).all(dim=1)
                rows = rows - rows.mean(dim=1, keepdim=True)
                found += [deviation(own[finite], rows[finite])] if bool(finite.any()) else []
    least = min(found, default=math.inf)
    return Law(name, least <= subject.tolerance, f"W h + b of {feeding[0]} deviates from the returned logits by {least:.2g}")


def _clause(chosen: str) -> str:
    """Return what a measurement says about its classifier."""
    clauses = [clause for clause in chosen.split("; ") if "classifier" in clause]
    return clauses[-1] if clauses else "no classifier was found"


def _accuracy(name: str, subject: Subject) -> Law:
    last = subject.measured.layers[-1]
    rows = [row for row in subject.measured.rows if row.metric == "accuracy"]
    if not rows or math.isnan(rows[0].value):
        return Law(name, None, f"none at {last}")
    shares = []
    for output in subject.outputs():
        moved = [0.0, 0.5] if is_single(output, subject.num_classes, subject.per_position) else [0.0]
        for threshold in moved:
            logits = class_logits(output - threshold, subject.num_classes, subject.per_position)
            assert logits is not None
            right = subject.counted(logits).argmax(dim=1) == subject.seen.labels
            shares.append(float(right.double().mean()))
    nearest = min(shares, key=lambda share: abs(share - rows[0].value), default=math.nan)
    return Law(name, abs(nearest - rows[0].value) < 1e-9, f"{rows[0].value:.6g}, and {nearest:.6g} of the network's own output")


def _second_pass(name: str, subject: Subject) -> Law:
    again = subject.measure(memory_budget=0)
    pairs = [
        Pair(f"{before.metric} at {before.layer} in a second pass", before, after)
        for before, after in zip(subject.measured.rows, again.rows, strict=True)
    ]
    return unchanged(name, pairs) if again.passes == 2 else Law(name, None, "one pass was enough")


def _reversed_batches(name: str, subject: Subject) -> Law:
    if len(subject.batches) < 2:
        return Law(name, None, "one batch alone")
    again = replace(subject, batches=subject.batches[::-1]).measured
    if again.layers != subject.measured.layers:
        return Law(name, None, "other layers are found")
    return unchanged(name, [
        Pair(f"{before.metric} at {before.layer}, batches in reverse", before, after)
        for before, after in zip(subject.measured.rows, again.rows, strict=True)
    ])  # fmt: skip


def _half_of_the_samples(name: str, subject: Subject) -> Law:
    size = len(next(subject.pairs()).labels)
    first = replace(subject, batches=subject.batches[:1])
    inputs, labels = subject.options["unpack"](first.copies[0])
    labels = class_indices(labels)
    if labels.ndim > 1 or subject.options["rows"] is not None:
        return Law(name, None, "tokens, pixels or nodes have labels")
    if size < 2 or any(not isinstance(part, Tensor) or part.ndim == 0 or len(part) != size for part in tensors_in(inputs)):
        return Law(name, None, "not every input has one row per sample")
    half = size // 2
    turned = map_tensors(lambda tensor: tensor.flip(0)[:half], (inputs, labels))
    straight, back = first.collect(), replace(first, batches=[turned], options={**subject.options, "unpack": tuple}).collect()
    found = {layer: deviation(rows, straight[layer].double().flip(0)[:half]) for layer, rows in back.items()}
    layer, worst = max(found.items(), key=lambda item: item[1])
    words = f"without half of the first batch, and in reverse, its features deviate by at most {worst:.2g}, at {layer}"
    return Law(name, worst <= subject.tolerance, words)


_LAWS: dict[str, Callable[[str, Subject], Law]] = {
    "no trace": _untouched,
    "layers": _layers,
    "features": _features,
    "numbers": _numbers,
    "classifier": _classifier,
    "accuracy": _accuracy,
    "second pass": _second_pass,
    "order of batches": _reversed_batches,
    "order of samples": _half_of_the_samples,
}
