"""The front door: collapse metrics of every layer of a network, or of features in memory, in one call."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from contextlib import contextmanager
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from ncollapse.depth.geodesic import GeodesicCurve
from ncollapse.metrics.layer import LayerStatistics, Metric
from ncollapse.metrics.registry import evaluate_metrics, select_metrics
from ncollapse.probe.collect import Collected, CollectOptions, LayerBatch, available_memory, collect
from ncollapse.probe.measurement import Measurement, Row
from ncollapse.probe.taps import Taps, plan_taps
from ncollapse.statistics.batch import flatten_features
from ncollapse.statistics.centers import ClassCenters, LinearClassifier
from ncollapse.statistics.conventions import Convention, convention_parts

Progress = Callable[[int, int | None], None]


def measure(
    model: nn.Module,
    batches: Iterable[tuple[Any, Tensor]],
    *,
    num_classes: int,
    layers: str | Sequence[str] = "auto",
    classifier: str | None = None,
    split: str = "train",
    reference: Measurement | None = None,
    metrics: Sequence[str] | None = None,
    convention: Convention = "class",
    path: bool = False,
    memory_budget: int | None = None,
    progress: Progress | None = None,
    where: str = "",
) -> Measurement:
    """Measure neural collapse at every layer of a network.

    All layers are measured in one streamed pass, in eval mode and without gradients; the network's modes and the random
    state are restored. What needs the final class means (NCC accuracy, NC4, tr Σ_W Σ_B⁺) is answered from features kept
    during that pass while they fit ``memory_budget``, else from a second pass: the same numbers, and
    ``Measurement.passes`` says which. Statistics are float64 throughout, whatever the network computes in.

    Args:
        model: Any network that maps a batch of inputs to logits.
        batches: Yields (inputs, labels), labels in [0, K); a list, a ``DataLoader``, or anything that iterates. Augmentation
            should be off. Inputs are moved to the device of the network's first parameter.
        num_classes: K.
        layers: "auto", or names and globs as in ``model.named_modules()``; see ``Measurement.chosen`` for what was taken.
            Features are flattened.
        classifier: Name of the last linear layer, for NC3 and NC4; found when None.
        split: Name of the data split, a column of the table.
        reference: Measurement of the training set, whose class means then decide (PFC3, NC4) on this other split. Without
            it a split other than "train" is decided by its own means, and flagged ``own_means``.
        metrics: Ids to report; None reports all that need no d×d matrix.
        convention: Class weights of the covariances: "class", "sample", "papyan", "zhu" or "he_su".
        path: Also follow the samples' paths from the first layer to the last, which must share one dimension, for relative
            positions, straightness, and the straight-line prediction.
        memory_budget: Bytes that kept features may take; None takes a quarter of what is free on their device.
        progress: Called after every batch with the batches done and their number, None where unknown.
        where: Words that place an error, such as " at epoch 3".

    Returns:
        The tidy table and what it was computed from.

    Raises:
        ValueError: For labels out of range, layers that do not exist or do not run, features that are not finite, an empty
            loader, an unknown metric or convention, or a second pass that is needed and not possible.

    Example:
        >>> net = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> data = [(torch.tensor([[1.0, 0.0], [0.0, 1.0], [2.0, 0.0]]), torch.tensor([0, 1, 0]))]
        >>> measure(net, data, num_classes=2).layers
        ('0', '1')
    """
    selected = _select(metrics, convention, num_classes)
    plan = plan_taps(model, layers, classifier, num_classes)
    device = _device(model)
    taps = Taps(model, plan)

    def source() -> Iterator[LayerBatch]:
        total = len(batches) if isinstance(batches, Sized) else None
        for index, (inputs, labels) in enumerate(_pairs(batches)):
            yield LayerBatch(taps.forward(_moved(inputs, device)), labels)
            if progress is not None:
                progress(index + 1, total)

    def classifiers() -> dict[str, LinearClassifier]:
        if taps.classifier_layer is None or plan.classifier is None:
            return {}
        head = model.get_submodule(plan.classifier)
        parameters = LinearClassifier.from_parameters(head.weight, head.bias)  # type: ignore[arg-type]
        return {taps.classifier_layer: parameters.to("cpu")}

    budget = available_memory(device) // 4 if memory_budget is None else memory_budget
    options = _options(selected, num_classes, budget, path, where)
    with taps, _random_state_kept():
        centers = _reference_centers(reference)
        collected = collect(source, options, classifiers, centers, repeatable=not isinstance(batches, Iterator))
        heads = classifiers()
    return _measurement(collected, selected, heads, split, convention, plan.explanation, centers)


def measure_features(
    features: Tensor | Mapping[str, Tensor],
    labels: Tensor,
    *,
    num_classes: int,
    classifier: tuple[Tensor, Tensor | None] | None = None,
    split: str = "train",
    reference: Measurement | None = None,
    metrics: Sequence[str] | None = None,
    convention: Convention = "class",
    path: bool = False,
) -> Measurement:
    """Measure neural collapse of features in memory.

    Args:
        features: Shape (N, ...), or several layers of the same samples by name, in order of depth.
        labels: Class indices in [0, K), shape (N,).
        num_classes: K.
        classifier: Weight (K, d) and bias (K,) or None of the classifier on the last layer's features.
        split: Name of the data split.
        reference: Measurement of the training set whose class means decide on another split.
        metrics: Ids to report; None reports all that need no d×d matrix.
        convention: Class weights of the covariances.
        path: Also follow the samples' paths through the layers, which must share one dimension.

    Returns:
        The tidy table and what it was computed from.

    Raises:
        ValueError: As ``measure``.

    Example:
        >>> from ncollapse.etf import simplex_etf
        >>> m = measure_features(simplex_etf(3, 4).repeat(2, 1), torch.tensor([0, 1, 2, 0, 1, 2]), num_classes=3)
        >>> m.value("pfc1"), m.value("pfc3")
        (0.0, 1.0)
    """
    named = {"features": features} if isinstance(features, Tensor) else dict(features)
    if not named:
        raise ValueError("features must hold at least one layer, got an empty mapping.")
    flat = {name: flatten_features(layer) for name, layer in named.items()}
    selected = _select(metrics, convention, num_classes)
    last = list(flat)[-1]
    heads = {} if classifier is None else {last: LinearClassifier.from_parameters(*classifier).to("cpu")}
    if classifier is not None and heads[last].weight.shape != (num_classes, flat[last].shape[1]):
        raise ValueError(
            f"The classifier's weight must have shape ({num_classes}, {flat[last].shape[1]}) for layer {last!r}, "
            f"got {tuple(heads[last].weight.shape)}."
        )
    # The features are in memory already: keeping references to them costs nothing.
    size = sum(layer.numel() * layer.element_size() for layer in flat.values())
    options = _options(selected, num_classes, size, path, "")
    centers = _reference_centers(reference)
    collected = collect(lambda: iter([LayerBatch(flat, labels)]), options, lambda: heads, centers)
    return _measurement(collected, selected, heads, split, convention, "features in memory", centers)


def collect_features(
    model: nn.Module,
    batches: Iterable[tuple[Any, Tensor]],
    *,
    num_classes: int,
    layers: str | Sequence[str] = "auto",
    classifier: str | None = None,
) -> tuple[dict[str, Tensor], Tensor]:
    """Collect the features themselves, for analyses that need all samples at once; mind the memory.

    Args:
        model: Any network.
        batches: Yields (inputs, labels).
        num_classes: K.
        layers: As in ``measure``.
        classifier: As in ``measure``.

    Returns:
        Features (N, d) by layer in order of depth, on the CPU, and labels (N,).

    Raises:
        ValueError: If the loader is empty, or layers do not exist or do not run.
    """
    plan = plan_taps(model, layers, classifier, num_classes)
    device = _device(model)
    parts: list[LayerBatch] = []
    with Taps(model, plan) as taps, _random_state_kept():
        for inputs, labels in _pairs(batches):
            features = taps.forward(_moved(inputs, device))
            parts.append(LayerBatch({name: layer.cpu() for name, layer in features.items()}, labels.cpu()))
    if not parts:
        raise ValueError("There is no data: the loader yielded no batch. Check the data set and the loader's drop_last.")
    joined = {name: torch.cat([part.features[name] for part in parts]) for name in parts[0].features}
    return joined, torch.cat([part.labels for part in parts])


def _device(model: nn.Module) -> torch.device:
    return next((parameter.device for parameter in model.parameters()), torch.device("cpu"))


def _moved(inputs: Any, device: torch.device) -> Any:
    return inputs.to(device) if hasattr(inputs, "to") else inputs


def _select(metrics: Sequence[str] | None, convention: Convention, num_classes: int) -> list[Metric]:
    convention_parts(convention)
    if num_classes < 1:
        raise ValueError(f"num_classes must be at least 1, got {num_classes}.")
    return select_metrics(metrics)


def _options(selected: Sequence[Metric], num_classes: int, budget: int, path: bool, where: str) -> CollectOptions:
    needs = frozenset().union(*(metric.needs for metric in selected))
    return CollectOptions(num_classes, budget, "centers" in needs, "scatter" in needs, path, where)


def _pairs(batches: Iterable[tuple[Any, Tensor]]) -> Iterator[tuple[Any, Tensor]]:
    for index, batch in enumerate(batches):
        if not isinstance(batch, tuple | list) or len(batch) != 2:
            raise TypeError(
                f"batches must yield (inputs, labels), got {type(batch).__name__} at batch {index}. "
                "Wrap the loader: ((b['x'], b['y']) for b in loader), as a list for a second pass."
            )
        yield batch[0], batch[1]


def _reference_centers(reference: Measurement | None) -> dict[str, ClassCenters]:
    layers = {} if reference is None else reference.statistics
    return {name: s.centers for name, s in layers.items() if s.centers is not None}


@contextmanager
def _random_state_kept() -> Iterator[None]:
    """A shuffling loader draws its seed from the global generator: leave that as it was."""
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices=list(devices)):
        yield


def _measurement(
    collected: Collected,
    selected: Sequence[Metric],
    heads: Mapping[str, LinearClassifier],
    split: str,
    convention: Convention,
    chosen: str,
    reference: Mapping[str, ClassCenters],
) -> Measurement:
    statistics = {
        name: LayerStatistics(
            moments=moments,
            centers=collected.centers.get(name),
            within=collected.within.get(name),
            decisions=collected.decisions.get(name),
            classifier=heads.get(name),
            scatter=collected.scatters.get(name),
            convention=convention,
            own_means=split != "train" and name not in reference,
            reference=reference[name].moments if name in reference else None,
        )
        for name, moments in collected.moments.items()
    }
    rows = chain.from_iterable(
        (Row(split, depth, name, *value) for value in evaluate_metrics(layer, selected))
        for depth, (name, layer) in enumerate(statistics.items())
    )
    moments = next(iter(collected.moments.values()))
    curve = None if collected.paired is None else GeodesicCurve(collected.paired, convention)
    return Measurement(
        rows=tuple(rows),
        layers=tuple(statistics),
        split=split,
        num_samples=moments.num_samples,
        num_classes=moments.num_classes,
        convention=convention,
        passes=collected.passes,
        kept_bytes=collected.kept_bytes,
        chosen=chosen,
        statistics=statistics,
        path=collected.path,
        geodesic=curve,
        line=collected.line,
    )
