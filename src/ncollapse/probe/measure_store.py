"""``measure_store``: features on the disk, more than fit into memory, measured as those in memory are."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ncollapse.default_device import on_the_cpu
from ncollapse.groups import Processes
from ncollapse.measurement.measurement import Measurement
from ncollapse.measurement.path_choice import PathChoice
from ncollapse.metrics.selection import MetricChoice
from ncollapse.near_words import names_near_arguments
from ncollapse.probe.class_choice import ClassChoice
from ncollapse.probe.first_pass import collect
from ncollapse.probe.layer_batch import LayerBatch, rows_of_a_part
from ncollapse.probe.measure import evaluate
from ncollapse.probe.request import Request, classifier_on
from ncollapse.statistics.conventions import Convention

if TYPE_CHECKING:
    from ncollapse.measurement.feature_files import FeatureFiles

# Reading and hashing leave the interpreter to other threads; more than these wait for the disk.
_THREADS = 8


@names_near_arguments
@on_the_cpu
def measure_store(
    store: str | Path,
    *,
    classifier: tuple[Tensor, Tensor | None] | None = None,
    classes: ClassChoice = "all",
    min_per_class: int = 0,
    split: str = "train",
    reference: Measurement | None = None,
    metrics: MetricChoice = None,
    convention: Convention = "class",
    path: PathChoice = False,
    memory_budget: int | str | None = None,
) -> Measurement:
    """Measure neural collapse of features in a feature store, a folder that ``collect_features(to=...)`` or you wrote.

    The store is read in parallel threads, shard by shard, and every file is compared with its checksum. The numbers are
    those of ``measure_features`` on the same rows, to the bit. Only accuracy and the classifier's decisions are those of the
    network itself, where the store holds its choices.

    Args:
        store: The folder.
        classifier: Weight (K, d) and bias (K,) or None of the classifier on the last layer's features. None is the stored
            one, if there is one.
        classes: As in ``measure``.
        min_per_class: As in ``measure``.
        split: Name of the data split.
        reference: Measurement of the training set, whose class means decide on another split.
        metrics: As in ``measure``.
        convention: Class weights of the covariances.
        path: As in ``measure``.
        memory_budget: As in ``measure``: features beyond it are read a second time.

    Returns:
        The tidy table and the statistics behind it.

    Raises:
        ReportError: If the store is unfinished or damaged, or a file of it is no file of its own.
        ValueError: As ``measure_features``.
        TypeError: If the classifier is not a pair.

    Example:
        >>> import tempfile, torch
        >>> from ncollapse.probe import collect_features
        >>> data = [(torch.tensor([[1.0, 0.0], [0.0, 1.0]]).repeat(3, 1), torch.tensor([0, 1] * 3))]
        >>> net = torch.nn.Sequential(torch.nn.Identity(), torch.nn.Linear(2, 2))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = collect_features(net, data, num_classes=2, layers=["0"], to=folder)
        ...     measure_store(folder).value("pfc3")
        1.0
    """
    # Not at the top: whoever measures a network needs no reader of files.
    from ncollapse.measurement.feature_files import FeatureFiles

    files = FeatureFiles(Path(store))
    request = Request(
        num_classes=files.manifest.num_classes,
        classes=classes,
        min_per_class=min_per_class,
        split=split,
        reference=reference,
        metrics=metrics,
        convention=convention,
        path=path,
        memory_budget=memory_budget,
    )
    dims = {layer.name: layer.dim for layer in files.manifest.layers}
    stored = files.classifier() if classifier is None else (list(dims)[-1], classifier)
    if stored is None:
        request.check_classifier("the store has none", logits=files.manifest.choices)
    heads = {} if stored is None else {stored[0]: classifier_on(stored[0], dims[stored[0]], stored[1], request.num_classes)}
    size = rows_of_a_part(request.num_classes, max(dims.values()))
    budget = request.budget(torch.device("cpu"), Processes())
    totals = collect(lambda: _parts(files, size), request, budget, lambda moments: heads)
    return evaluate(request, totals, f"features in {store}")


def _parts(files: FeatureFiles, size: int) -> Iterator[LayerBatch]:
    """Yield the rows in the parts that ``measure_features`` cuts them to, wherever the shards end."""
    left: LayerBatch | None = None
    for shard in _shards(files):
        # The rows that the shard before left over go with the first ones of this shard.
        cut = 0 if left is None else min(size - len(left.labels), len(shard.labels))
        parts = [] if left is None else [_joined(left, _rows(shard, slice(cut)))]
        parts += [_rows(shard, slice(start, start + size)) for start in range(cut, len(shard.labels), size)]
        left = None if len(parts[-1].labels) == size else parts.pop()
        yield from parts
    if left is not None:
        yield left


def _joined(first: LayerBatch, second: LayerBatch) -> LayerBatch:
    features = {name: torch.cat([layer, second.features[name]]) for name, layer in first.features.items()}
    choices = None
    if first.choices is not None and second.choices is not None:
        choices = torch.cat([first.choices, second.choices])
    return LayerBatch(features, torch.cat([first.labels, second.labels]), choices)


def _rows(batch: LayerBatch, rows: slice) -> LayerBatch:
    choices = None if batch.choices is None else batch.choices[rows]
    return LayerBatch({name: layer[rows] for name, layer in batch.features.items()}, batch.labels[rows], choices)


def _shards(files: FeatureFiles) -> Iterator[LayerBatch]:
    """Read the shards, each while the one before is worked on."""
    names = [layer.name for layer in files.manifest.layers]
    with ThreadPoolExecutor(_THREADS) as pool:

        def begin(shard: int) -> list[Future[Any]]:
            return [
                pool.submit(files.labels, shard),
                *(pool.submit(files.features, layer, shard) for layer in range(len(names))),
            ]

        count = len(files.manifest.rows)
        ahead = begin(0)
        for shard in range(count):
            beside, *layers = [part.result() for part in ahead]
            ahead = begin(shard + 1) if shard + 1 < count else []
            yield LayerBatch(dict(zip(names, layers, strict=True)), beside["labels"], beside.get("choices"))
