"""``check_metric``: the laws that a metric declares, checked on made data."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator
from functools import cache

import torch

from ncollapse.measurement.measurement import Measurement
from ncollapse.metrics.entry import Metric
from ncollapse.metrics.selection import select_metrics
from ncollapse.probe.collapse_metrics import CollapseMetrics
from ncollapse.probe.measure import measure_features
from ncollapse.records.rows import Row
from ncollapse.statistics.moments import ClassMoments
from ncollapse.testing.report import Law, Pair, Report, flag_words, is_same_value, unchanged
from ncollapse.testing.samples import TRANSFORMATIONS, Sample, collapsed, gaussian, normal, samples

_COLLAPSED = ((2, 5, 4), (3, 4, 2), (5, 4, 9), (10, 6, 16))
# What collapse is exact to, in float64.
_EXACT = 1e-13
# The samples as they are and their rows, which most laws compare with: measured by the first that asks.
_Unmoved = Callable[[], list[tuple[Sample, Row]]]


def check_metric(metric: Metric) -> Report:
    """Check the laws that a metric declares, on made data.

    ``translation``, ``rotation`` and ``scale`` of the features leave the value as it is if ``metric.invariant`` names them.
    So do other indices of the classes, another order of the samples, any batches, and several processes that share the data.
    Features in float32 and bfloat16 give the value of the same numbers in float64. NaN and inf in the features are refused;
    in the classifier they give nan with a flag. So does a class without samples, which ``classes="present"`` leaves out, or
    one class alone. The value at exact collapse is ``metric.at_collapse``. Values are inside ``metric.bounds``, and move in
    ``metric.direction`` towards collapse. The metric writes to no input and no statistic.

    Args:
        metric: Your own ``Metric``, or one of ``ncollapse.METRICS``.

    Returns:
        One law per line, with the numbers that were compared.

    Raises:
        ValueError: If your own metric has the id of another one.
        TypeError: If it is no ``Metric``.

    Example:
        >>> from ncollapse import METRICS
        >>> report = check_metric(METRICS["pfc1"])
        >>> report.holds, report["scale"].holds
        (True, True)
    """
    select_metrics([metric])
    unmoved = cache(lambda: [(sample, _row(metric, sample)) for sample in samples()])
    laws = []
    for name, law in _LAWS.items():
        # Whatever a metric raises is a finding.
        try:
            laws.append(law(name, metric, unmoved))
        except Exception as error:
            laws.append(Law(name, False, f"raised {type(error).__name__}: {error}"))
    return Report(f"metric {metric.id}", tuple(laws))


def _measurement(metric: Metric, sample: Sample, **options: object) -> Measurement:
    """Measure features; the classifier is handed in only if the metric names it, or logits, in its needs."""
    classifier = (sample.weight, sample.bias) if metric.needs & {"classifier", "logits"} else None
    return measure_features(
        sample.features,
        sample.labels,
        num_classes=sample.num_classes,
        classifier=classifier,
        metrics=[metric],
        **options,  # type: ignore[arg-type]
    )


def _row(metric: Metric, sample: Sample, **options: object) -> Row:
    return _measurement(metric, sample, **options).rows[0]


def _streamed(metric: Metric, sample: Sample, batch_size: int) -> CollapseMetrics:
    stream = CollapseMetrics(num_classes=sample.num_classes, metrics=[metric])
    for start in range(0, len(sample.labels), batch_size):
        rows = slice(start, start + batch_size)
        stream.update(sample.features[rows], sample.labels[rows])
    return stream


def _computed(stream: CollapseMetrics, metric: Metric, sample: Sample) -> Row:
    classifier = (sample.weight, sample.bias) if metric.needs & {"classifier", "logits"} else None
    return stream.compute(classifier).rows[0]


def _transformation(name: str, metric: Metric, unmoved: _Unmoved) -> Law:
    move = TRANSFORMATIONS[name]
    if name not in metric.invariant:
        sample, before = unmoved()[0]
        after = _row(metric, move(sample, 1))
        return Law(name, None, f"not declared in invariant; {before.value:.6g} becomes {after.value:.6g}")
    return unchanged(name, _pairs(metric, unmoved, move))


def _pairs(metric: Metric, unmoved: _Unmoved, move: Callable[[Sample, int], Sample]) -> Iterator[Pair]:
    for seed, (sample, before) in enumerate(unmoved()):
        yield Pair(sample.name, before, _row(metric, move(sample, seed)))


def _relabeling(name: str, metric: Metric, unmoved: _Unmoved) -> Law:
    return unchanged(name, _pairs(metric, unmoved, Sample.relabeled))


def _depends_on_order(metric: Metric) -> bool:
    """Return whether a metric needs interleaved parts of the classes: the order of the samples decides who is in which."""
    return "parts" in metric.needs


def _order(name: str, metric: Metric, unmoved: _Unmoved) -> Law:
    if _depends_on_order(metric):
        return Law(name, None, "the order decides which part of its class a sample belongs to")
    return unchanged(name, _pairs(metric, unmoved, Sample.shuffled))


def _batches(name: str, metric: Metric, unmoved: _Unmoved) -> Law:
    def pairs() -> Iterator[Pair]:
        for sample, before in unmoved():
            for size in (2, 7):
                after = _computed(_streamed(metric, sample, size), metric, sample)
                yield Pair(f"{sample.name}, batches of {size}", before, after)

    return unchanged(name, pairs())


def _processes(name: str, metric: Metric, unmoved: _Unmoved) -> Law:
    if _depends_on_order(metric):
        return Law(name, None, "each process deals its own samples to the parts of their classes")

    def pairs() -> Iterator[Pair]:
        for sample, before in unmoved():
            parts = [sample._replace(features=sample.features[i::3], labels=sample.labels[i::3]) for i in range(3)]
            # One more process has no data.
            streams = [CollapseMetrics(num_classes=sample.num_classes, metrics=[metric])]
            streams += [_streamed(metric, part, 4) for part in parts]
            for other in streams[1:]:
                streams[0].merge(other)
            yield Pair(f"{sample.name} in 4 processes", before, _computed(streams[0], metric, sample))

    return unchanged(name, pairs())


def _dtype(name: str, metric: Metric, unmoved: _Unmoved) -> Law:
    def pairs() -> Iterator[Pair]:
        for sample in samples():
            for dtype in (torch.float32, torch.bfloat16):
                coarse = sample._replace(features=sample.features.to(dtype))
                fine = coarse._replace(features=coarse.features.double())
                yield Pair(f"{sample.name} in {dtype}", _row(metric, fine), _row(metric, coarse))

    return unchanged(name, pairs())


def _not_finite(name: str, metric: Metric, unmoved: _Unmoved) -> Law:
    sample = samples()[0]
    for value in (math.nan, math.inf):
        features = sample.features.clone()
        features[5, 1] = value
        try:
            row = _row(metric, sample._replace(features=features))
        except ValueError:
            continue
        return Law(name, False, f"{value} in the features gives {row.value:.6g}")
    if not metric.needs & {"classifier"}:
        return Law(name, True, "features with NaN or inf are refused")
    weight = sample.weight.clone()
    weight[1, 1] = math.nan
    row = _row(metric, sample._replace(weight=weight))
    words = f"features with NaN or inf are refused; NaN in the classifier gives {row.value:.6g} ({flag_words(row)})"
    return Law(name, math.isnan(row.value) and bool(row.flags), words)


def _empty_class(name: str, metric: Metric, unmoved: _Unmoved) -> Law:
    sample, before = unmoved()[0]
    weight = torch.cat([sample.weight, normal(9, 1, sample.features.shape[1])])
    bias = torch.cat([sample.bias, torch.full_like(sample.bias[:1], -100.0)])
    larger = sample._replace(num_classes=sample.num_classes + 1, weight=weight, bias=bias)
    row = _row(metric, larger)
    if not (metric.despite_empty if not math.isnan(row.value) else "empty_class" in row.flags):
        return Law(name, False, f"a class without samples gives {row.value:.6g} (flags: {flag_words(row)})")
    law = unchanged(name, [Pair("classes='present'", before, _row(metric, larger, classes="present"))])
    return law._replace(words=f"{row.value:.6g} ({flag_words(row)}); with the other classes alone {law.words}")


def _one_class(name: str, metric: Metric, unmoved: _Unmoved) -> Law:
    row = _row(metric, gaussian("one class", (6,), 4))
    return Law(name, math.isnan(row.value) and bool(row.flags), f"{row.value:.6g} (flags: {flag_words(row)})")


def _at_collapse(name: str, metric: Metric, unmoved: _Unmoved) -> Law:
    if metric.at_collapse is None:
        return Law(name, None, "at_collapse is None")
    found = metric.at_collapse
    for sizes in _COLLAPSED:
        sample = collapsed(*sizes, 1)
        # Theory has no bias, or that of the squared loss, 1/K.
        values = [_row(metric, sample._replace(bias=sample.bias + bias)).value for bias in (0.0, 1 / sample.num_classes)]
        found = min(values, key=lambda value: _distance(value, metric.at_collapse))
        if _distance(found, metric.at_collapse) > _EXACT:
            words = (
                f"{found:.6g} instead of {metric.at_collapse:.6g} ({sizes[0]} classes of {sizes[1]} in {sizes[2]} dimensions)"
            )
            return Law(name, False, words)
    return Law(name, True, f"{found:.6g} is {metric.at_collapse:.6g}")


def _distance(value: float, other: float | None) -> float:
    return math.inf if other is None or math.isnan(value) else abs(value - other)


def _bounds(name: str, metric: Metric, unmoved: _Unmoved) -> Law:
    low, high = metric.bounds
    drawn = [gaussian(f"random classes {seed}", (3, 5, 4), 2 + seed, spread=0.4 * seed, seed=seed) for seed in range(6)]
    found: list[float] = []
    for sample, row in (*unmoved(), *((sample, _row(metric, sample)) for sample in drawn)):
        value = row.value
        if not (math.isnan(value) or low - 1e-12 <= value <= high + 1e-12):
            return Law(name, False, f"{value:.6g} is outside [{low:.6g}, {high:.6g}] ({sample.name})")
        found += [] if math.isnan(value) else [value]
    if not found:
        return Law(name, None, "nan on all data")
    return Law(name, True, f"{min(found):.6g} to {max(found):.6g} are inside [{low:.6g}, {high:.6g}]")


def _direction(name: str, metric: Metric, unmoved: _Unmoved) -> Law:
    if metric.direction == "none":
        return Law(name, None, "direction is none")
    end = collapsed(3, 8, 4, 3)
    start = gaussian("three classes", (8, 8, 8), 4, spread=0.9)
    order = torch.argsort(start.labels, stable=True).reshape(3, 8).T.flatten()
    start = start._replace(features=start.features[order], labels=start.labels[order])
    for bias in (0.0, 1 / 3):
        final = end._replace(bias=end.bias + bias)
        first, last = _row(metric, start).value, _row(metric, start.towards(final, 0.99)).value
        if math.isnan(first) or math.isnan(last):
            return Law(name, None, f"{first:.6g} and {last:.6g} before and near collapse")
        if (last < first) if metric.direction == "decreases" else (last > first):
            return Law(name, True, f"{metric.direction} towards collapse, from {first:.6g} to {last:.6g}")
    return Law(name, False, f"{metric.direction} is declared, but towards collapse {first:.6g} becomes {last:.6g}")


def _inputs_kept(name: str, metric: Metric, unmoved: _Unmoved) -> Law:
    sample = samples()[0]
    tensors = (sample.features, sample.labels, sample.weight, sample.bias)
    before = [tensor.clone() for tensor in tensors]
    measured, again = _measurement(metric, sample), _measurement(metric, sample)
    if not all(torch.equal(tensor, kept) for tensor, kept in zip(tensors, before, strict=True)):
        return Law(name, False, "the metric writes to the features, the labels or the classifier")
    moments = (measured.statistics["features"].moments, _moments(sample))
    for field in dataclasses.fields(moments[0]):
        if not torch.equal(getattr(moments[0], field.name), getattr(moments[1], field.name)):
            return Law(name, False, f"the metric writes to the moments' {field.name}, which other metrics read")
    first, second = measured.rows[0].value, again.rows[0].value
    return Law(name, is_same_value(first, second), f"{first:.6g}, and {second:.6g} when computed again")


def _moments(sample: Sample) -> ClassMoments:
    plain = measure_features(sample.features, sample.labels, num_classes=sample.num_classes, metrics=["pfc1"])
    return plain.statistics["features"].moments


_LAWS: dict[str, Callable[[str, Metric, _Unmoved], Law]] = {
    **{name: _transformation for name in TRANSFORMATIONS},
    "relabeling": _relabeling,
    "order": _order,
    "batches": _batches,
    "processes": _processes,
    "dtype": _dtype,
    "not finite": _not_finite,
    "empty class": _empty_class,
    "one class": _one_class,
    "at collapse": _at_collapse,
    "bounds": _bounds,
    "direction": _direction,
    "inputs kept": _inputs_kept,
}
