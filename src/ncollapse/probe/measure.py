"""The front door: collapse metrics of every layer of a network, or of features in memory, in one call."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from contextlib import contextmanager
from itertools import chain
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from ncollapse.depth.geodesic import GeodesicCurve
from ncollapse.metrics.layer import LayerStatistics, Metric
from ncollapse.metrics.registry import evaluate_metrics, select_metrics
from ncollapse.probe.collect import Collected, CollectOptions, LayerBatch, collect, path_layers
from ncollapse.probe.discover import Discovery, Layers
from ncollapse.probe.measurement import Measurement, Row
from ncollapse.probe.memory import available_memory
from ncollapse.probe.reading import IGNORED_LABEL, Unpack, map_tensors, unpack_batch
from ncollapse.probe.sharing import (
    check_same_network,
    first_buffers,
    processes_sharing_memory,
    shared_classifier,
    shared_plan,
)
from ncollapse.probe.taps import TapPlan, Taps
from ncollapse.statistics.batch import flatten_features
from ncollapse.statistics.centers import ClassCenters, LinearClassifier
from ncollapse.statistics.conventions import Convention, convention_parts
from ncollapse.statistics.reduce import Processes

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

Progress = Callable[[int, int | None], None]


def measure(
    model: nn.Module,
    batches: Iterable[Any],
    *,
    num_classes: int,
    layers: Layers = "auto",
    classifier: str | None = None,
    unpack: Unpack = unpack_batch,
    split: str = "train",
    reference: Measurement | None = None,
    metrics: Sequence[str] | None = None,
    convention: Convention = "class",
    path: bool = False,
    memory_budget: int | None = None,
    progress: Progress | None = None,
    where: str = "",
    group: ProcessGroup | None = None,
) -> Measurement:
    """Measure neural collapse at every layer of a network.

    All layers are measured in one streamed pass, in eval mode and without gradients; the network's modes and the random
    state are restored. What needs the final class means (NCC accuracy, NC4, tr Σ_W Σ_B⁺) is answered from features kept
    during that pass while they fit ``memory_budget``, else from a second pass: the same numbers, and
    ``Measurement.passes`` says which. Statistics are float64 throughout, whatever the network computes in.

    Args:
        model: Any network.
        batches: Yields (inputs, labels) or mappings with labels; a list, a ``DataLoader``, or anything that iterates. Labels
            lie in [0, K): one a sample, or one a token, shape (N, T), where -100 leaves a token out. Augmentation should be
            off. Inputs are moved to the device of the network's first parameter.
        num_classes: K.
        layers: "auto" takes the stages that the network declares in ``collapse_stages``, else what one forward pass of two
            samples shows: repeated blocks with their input, or the layers with weights of a plain network, and what feeds
            the classifier; tokens are read out as the network does it. "all" takes every module that runs once. Names and
            globs as in ``model.named_modules()`` ("*" stops at a dot, "**" does not), or ``Tap`` with a pool. See
            ``Measurement.chosen`` for what was taken. Beside a residual connection the module on the branch returns the
            branch alone: tap the block around both.
        classifier: Name of the last linear layer, for NC3 and NC4; None finds the last one with K outputs that runs.
        unpack: Splits what ``batches`` yields into inputs and labels (``next_tokens`` for language models).
        split: Name of the data split, a column of the table.
        reference: Measurement of the training set, whose class means then decide (PFC3, NC4) on this other split. Without
            it a split other than "train" is decided by its own means, and flagged ``own_means``.
        metrics: Ids to report; None reports all that need no d×d matrix.
        convention: Class weights of the covariances: "class", "sample", "papyan", "zhu" or "he_su".
        path: Also follow the samples' paths from the first layer to the last, which must share one dimension, for relative
            positions, straightness, and the straight-line prediction. What the classifier alone takes, such as pooled
            features of another dimension, is measured but no part of the path: see ``Measurement.path_layers``.
        memory_budget: Bytes that kept features may take; None takes a quarter of what is free on their device. 0 keeps none.
        progress: Called after every batch with the batches done and their number, None where unknown.
        where: Words that place an error, such as " at epoch 3".
        group: Processes of ``torch.distributed`` that share the data, such as ``torch.distributed.group.WORLD`` (which is
            None where nothing is initialized, so that one script serves both). Each calls with its own ``batches``, of any
            length, none repeated to fill up; each returns the statistics of all, to the bit those of the others, and an
            error in one is raised in all. None measures what this process has, whatever is initialized. A network in
            ``DistributedDataParallel`` is measured itself, with the buffers of the first process.

    Returns:
        The tidy table and what it was computed from.

    Raises:
        ValueError: For labels out of range, layers that do not exist or do not run, features that are not finite, an empty
            loader, an unknown metric or convention, a metric of the classifier where none was found, a reference of other
            layers, a second pass that is needed and not possible, or processes whose networks or arguments differ.
        TypeError: For batches, labels or features of another type.

    Example:
        >>> net = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> data = [(torch.tensor([[1.0, 0.0], [0.0, 1.0], [2.0, 0.0]]), torch.tensor([0, 1, 0]))]
        >>> measure(net, data, num_classes=2).layers
        ('1',)
    """
    processes = Processes(group)
    with processes.together():
        selected = _select(metrics, convention, num_classes)
        model = _network(model)
        taps = Taps(model, Discovery(model, layers, classifier, num_classes).plan)
        device = _device(model)
        if memory_budget is not None and memory_budget < 0:
            raise ValueError(f"memory_budget must be a number of bytes, at least 0, got {memory_budget}.")
        centers = _reference(reference, num_classes)
        budget = memory_budget if memory_budget is not None else _memory_budget(device, processes)
    # The budget may differ: what one process cannot keep, all pass over a second time.
    processes.agree("Arguments", json.dumps([num_classes, convention, split, path, [metric.id for metric in selected]]))
    check_same_network(model, centers, processes)

    def source() -> Iterator[LayerBatch]:
        total = len(batches) if isinstance(batches, Sized) else None
        for index, batch in enumerate(batches):
            yield _tapped(taps, batch, index, unpack, device)
            if progress is not None:
                progress(index + 1, total)

    def classifiers() -> dict[str, LinearClassifier]:
        plan = cast(TapPlan, shared_plan(taps.plan, processes))
        if metrics is not None and plan.classifier is None:
            _check_classifier_metrics(selected, plan.explanation)
        if plan.classifier is None or plan.feeding is None:
            return {}
        head = cast(nn.Linear, model.get_submodule(plan.classifier))
        return {plan.feeding: shared_classifier(head.weight, head.bias, processes)}

    options = _options(selected, num_classes, budget, path, where)
    with first_buffers(model, processes), taps, _random_state_kept():
        repeatable = not isinstance(batches, Iterator)
        collected = collect(source, options, classifiers, centers, repeatable=repeatable, processes=processes)
        heads = classifiers()
    plan = cast(TapPlan, shared_plan(taps.plan, processes))
    return _measurement(collected, selected, heads, split, convention, plan.explanation, plan.own_input)


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
        TypeError: If features, labels or the classifier are of another type.

    Example:
        >>> from ncollapse.etf import simplex_etf
        >>> m = measure_features(simplex_etf(3, 4).repeat(2, 1), torch.tensor([0, 1, 2, 0, 1, 2]), num_classes=3)
        >>> m.value("pfc1"), m.value("pfc3")
        (0.0, 1.0)
    """
    named = {"features": features} if not isinstance(features, Mapping) else dict(features)
    if not named:
        raise ValueError("features must hold at least one layer, got an empty mapping.")
    flat = {name: flatten_features(layer) for name, layer in named.items()}
    selected = _select(metrics, convention, num_classes)
    last = list(flat)[-1]
    if classifier is not None and not (isinstance(classifier, tuple) and len(classifier) == 2):
        raise TypeError(
            f"classifier must be a pair (weight, bias or None), got {type(classifier).__name__}. "
            "Of a linear layer pass (layer.weight, layer.bias)."
        )
    if classifier is None and metrics is not None:
        _check_classifier_metrics(selected, "no classifier was given")
    heads = {} if classifier is None else {last: LinearClassifier.from_parameters(*classifier).to("cpu")}
    if classifier is not None and heads[last].weight.shape != (num_classes, flat[last].shape[1]):
        raise ValueError(
            f"The classifier's weight must have shape ({num_classes}, {flat[last].shape[1]}) for layer {last!r}, "
            f"got {tuple(heads[last].weight.shape)}."
        )
    # The features are in memory already: keeping references to them costs nothing.
    size = sum(layer.numel() * layer.element_size() for layer in flat.values())
    options = _options(selected, num_classes, size, path, "")
    collected = collect(lambda: iter([LayerBatch(flat, labels)]), options, lambda: heads, _reference(reference, num_classes))
    return _measurement(collected, selected, heads, split, convention, "features in memory")


def collect_features(
    model: nn.Module,
    batches: Iterable[Any],
    *,
    num_classes: int,
    layers: Layers = "auto",
    classifier: str | None = None,
    unpack: Unpack = unpack_batch,
) -> tuple[dict[str, Tensor], Tensor]:
    """Collect the features themselves, for analyses that need all samples at once; mind the memory.

    Args:
        model: Any network.
        batches: As in ``measure``.
        num_classes: K.
        layers: As in ``measure``.
        classifier: As in ``measure``.
        unpack: As in ``measure``.

    Returns:
        Features (N, d) by layer in order of depth, on the CPU, and labels (N,).

    Raises:
        ValueError: If the loader is empty, or layers do not exist or do not run.
    """
    model = _network(model)
    device = _device(model)
    parts: list[LayerBatch] = []
    with Taps(model, Discovery(model, layers, classifier, num_classes).plan) as taps, _random_state_kept():
        for index, batch in enumerate(batches):
            part = _tapped(taps, batch, index, unpack, device)
            parts.append(LayerBatch({name: layer.cpu() for name, layer in part.features.items()}, part.labels.cpu()))
    if not parts:
        raise ValueError("There is no data: the loader yielded no batch. Check the data set and the loader's drop_last.")
    joined = {name: torch.cat([part.features[name] for part in parts]) for name in parts[0].features}
    return joined, torch.cat([part.labels for part in parts])


def _memory_budget(device: torch.device, processes: Processes) -> int:
    """A quarter of what is free, shared with the other processes that take theirs from it."""
    sharing = processes_sharing_memory(processes) if device.type == "cpu" else 1
    return available_memory(device) // (4 * sharing)


def _device(model: nn.Module) -> torch.device:
    return next((parameter.device for parameter in model.parameters()), torch.device("cpu"))


def _network(model: nn.Module) -> nn.Module:
    """The network as it was written, below what compiling and data parallelism wrap around it: its names, and hooks run."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}. Features go to measure_features.")
    # The forward of DistributedDataParallel hands out the buffers anew, and waits for processes that have fewer batches.
    wrapped = isinstance(model, nn.parallel.DistributedDataParallel | nn.DataParallel)
    inner = model.module if wrapped else getattr(model, "_orig_mod", None)
    return model if inner is None else _network(cast(nn.Module, inner))


def _tapped(taps: Taps, batch: Any, index: int, unpack: Unpack, device: torch.device) -> LayerBatch:
    """One batch through the network; with one label a token, the tokens that have one."""
    try:
        inputs, labels = unpack(batch)
    except TypeError as error:
        raise TypeError(f"Batch {index}: {error}") from error
    features = taps.forward(map_tensors(lambda t: t.to(device), inputs), labels)
    if isinstance(labels, Tensor) and labels.ndim == 2 and labels.shape[1] > 1:
        labels = labels.flatten()
        kept = labels != IGNORED_LABEL
        features = {name: layer[kept.to(layer.device)] for name, layer in features.items()}
        labels = labels[kept]
    return LayerBatch(features, labels, None if taps.plan is None else taps.plan.own_input)


def _select(metrics: Sequence[str] | None, convention: Convention, num_classes: int) -> list[Metric]:
    convention_parts(convention)
    if isinstance(num_classes, bool) or not isinstance(num_classes, int) or num_classes < 1:
        raise ValueError(f"num_classes must be an integer, at least 1, got {num_classes!r}.")
    if metrics is not None and (isinstance(metrics, str) or not metrics):
        raise ValueError(
            f"metrics must be a list of ids, such as ['pfc1', 'nc3'], got {metrics!r}. None takes the default ones."
        )
    return select_metrics(metrics)


def _check_classifier_metrics(selected: Sequence[Metric], found: str) -> None:
    """Metrics that somebody named must not be left out silently."""
    names = [metric.id for metric in selected if "classifier" in metric.needs]
    if names:
        raise ValueError(
            f"Metrics {', '.join(names)} need a classifier ({found}). Name it with classifier=, or leave them out."
        )


def _options(selected: Sequence[Metric], num_classes: int, budget: int, path: bool, where: str) -> CollectOptions:
    needs = frozenset().union(*(metric.needs for metric in selected))
    return CollectOptions(num_classes, budget, "centers" in needs, "scatter" in needs, path, where)


def _reference(reference: Measurement | None, num_classes: int) -> dict[str, ClassCenters | None] | None:
    if reference is None:
        return None
    if reference.num_classes != num_classes:
        raise ValueError(
            f"The reference has {reference.num_classes} classes, the data {num_classes}. "
            "Measure both splits with one num_classes."
        )
    return {name: statistics.centers for name, statistics in reference.statistics.items()}


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
    own_input: str | None = None,
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
            own_means=split != "train" and name not in collected.by_reference,
            reference=collected.by_reference.get(name),
        )
        for name, moments in collected.moments.items()
    }
    rows = chain.from_iterable(
        (Row(split, depth, name, *value) for value in evaluate_metrics(layer, selected))
        for depth, (name, layer) in enumerate(statistics.items())
    )
    moments = next(iter(collected.moments.values()))
    dims = {name: value.dim for name, value in collected.moments.items()}
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
        path_layers=() if collected.path is None else path_layers(dims, own_input),
        path=collected.path,
        geodesic=curve,
        line=collected.line,
        arcs=collected.arcs,
    )
