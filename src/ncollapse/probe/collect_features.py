"""``collect_features``: the features of all samples, for analyses that need them at once, in memory or in a folder."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, overload

import torch
from torch import Tensor, nn

from ncollapse.default_device import on_the_cpu
from ncollapse.hooks.batch_io import Call, Unpack, unpack_batch
from ncollapse.hooks.discovery import Discovery
from ncollapse.hooks.label_rows import Rows
from ncollapse.hooks.tap import LayerChoice
from ncollapse.hooks.tapped_network import TappedNetwork
from ncollapse.hooks.untouched import device_of, network_of
from ncollapse.probe.class_choice import ClassChoice, default_classes
from ncollapse.probe.first_pass import NO_DATA
from ncollapse.probe.group_checks import read_classifier
from ncollapse.probe.layer_batch import LayerBatch
from ncollapse.probe.loader_batches import BatchPlan, network_batches
from ncollapse.probe.request import Request
from ncollapse.statistics.batch import check_labels


@overload
def collect_features(
    model: nn.Module,
    batches: Iterable[Any],
    *,
    num_classes: int,
    layers: LayerChoice = ...,
    classifier: str | nn.Module | None = ...,
    unpack: Unpack = ...,
    call: Call | None = ...,
    ignore_index: int | None = ...,
    rows: Rows | None = ...,
    classes: ClassChoice | None = ...,
    min_per_class: int = ...,
    check: bool = ...,
    to: None = None,
) -> tuple[dict[str, Tensor], Tensor]: ...


@overload
def collect_features(
    model: nn.Module,
    batches: Iterable[Any],
    *,
    num_classes: int,
    layers: LayerChoice = ...,
    classifier: str | nn.Module | None = ...,
    unpack: Unpack = ...,
    call: Call | None = ...,
    ignore_index: int | None = ...,
    rows: Rows | None = ...,
    check: bool = ...,
    to: str | Path,
) -> Path: ...


@on_the_cpu
def collect_features(
    model: nn.Module,
    batches: Iterable[Any],
    *,
    num_classes: int,
    layers: LayerChoice = "auto",
    classifier: str | nn.Module | None = None,
    unpack: Unpack = unpack_batch,
    call: Call | None = None,
    ignore_index: int | None = None,
    rows: Rows | None = None,
    classes: ClassChoice | None = None,
    min_per_class: int = 0,
    check: bool = False,
    to: str | Path | None = None,
) -> tuple[dict[str, Tensor], Tensor] | Path:
    """Collect the features themselves, for analyses that need all samples at once.

    They must fit into memory, or go to a folder, the feature store that ``measure_store`` reads.

    Args:
        batches: As in ``measure``.
        num_classes: Number of classes, K.
        layers: As in ``measure``.
        classifier: As in ``measure``.
        unpack: As in ``measure``.
        call: As in ``measure``.
        ignore_index: As in ``measure``.
        rows: As in ``measure``.
        classes: As in ``measure``. Samples of other classes are left out; labels stay as they are.
        min_per_class: As in ``measure``.
        check: As in ``measure``.
        to: A folder for the features, new or empty. It also gets the labels, the classes that the network chose and its
            classifier. All classes are stored; ``measure_store`` leaves some out. A collection that was killed is repeated.

    Returns:
        Features (N, d) by layer in order of depth, on the CPU, and labels (N,). With ``to`` the folder.

    Raises:
        ValueError: If the loader is empty, or layers do not exist or do not run; also if the folder holds other files.
        OSError: If the folder cannot be written to.

    Example:
        >>> net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
        >>> features, labels = collect_features(net, [(torch.ones(5, 4), torch.zeros(5, dtype=torch.int64))], num_classes=2)
        >>> {name: tuple(values.shape) for name, values in features.items()}, labels.tolist()
        ({'1': (5, 3)}, [0, 0, 0, 0, 0])
    """
    if to is not None and (classes is not None or min_per_class):
        raise ValueError("With to=, features of all classes are stored. Pass classes and min_per_class to measure_store.")
    request = Request(
        num_classes, layers, classifier, default_classes(unpack) if classes is None else classes, min_per_class=min_per_class
    )
    model, reading = network_of(model), BatchPlan(unpack, call, ignore_index, rows)
    discovery = Discovery(model, request.layers, request.named_classifier, request.num_classes)
    with TappedNetwork(model, discovery.plan, num_classes=request.num_classes, check=check, batches=batches) as taps:
        passing = network_batches(taps, batches, reading, device_of(model), lambda done, total: None)
        if to is not None:
            return _store((batch.whole() for batch in passing), num_classes, Path(to), taps)
        parts = [batch.whole() for batch in passing]
    if not parts:
        raise ValueError(NO_DATA)
    joined = {name: torch.cat([part.features[name] for part in parts]) for name in parts[0].features}
    labels = check_labels(torch.cat([part.labels for part in parts]), sum(len(part.labels) for part in parts), num_classes)
    selection = request.choose_classes(torch.bincount(labels, minlength=num_classes)).selection
    kept = None if selection is None else selection.rows(labels)
    return (joined, labels) if kept is None else ({name: rows[kept] for name, rows in joined.items()}, labels[kept])


def _store(batches: Iterator[LayerBatch], num_classes: int, folder: Path, taps: TappedNetwork) -> Path:
    """Write a feature store."""
    # Not at the top: whoever measures needs no writer of files.
    from ncollapse.measurement.feature_files import FeatureWriter, check_free
    from ncollapse.records.lock import Lock

    with Lock(folder):
        check_free(folder)
        writer = FeatureWriter(folder, num_classes)
        for index, batch in enumerate(batches):
            labels = check_labels(batch.labels, len(batch.labels), num_classes, f" in batch {index}")
            writer.add(batch.features, labels, batch.choices)
        plan = None if taps.plan is None else taps.plan.settled
        if plan is None:
            raise ValueError(NO_DATA)
        head = read_classifier(plan)
        writer.finish(None if head is None else (plan.feeding or list(writer.kinds)[-1], head._asdict()))
    return folder
