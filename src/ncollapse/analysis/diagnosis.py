"""``diagnose``: which layers are redundant, which classes have merged, where to detect strangers or to transfer from."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ncollapse.analysis import class_findings as of_classes
from ncollapse.analysis.layer_findings import DiagnosedData, LayerFinding, Value, find_in_layer, spread_rows
from ncollapse.analysis.left_out_blocks import left_out_accuracies
from ncollapse.analysis.network_features import FeatureReader, NetworkFeatures
from ncollapse.depth.progression import effective_depth
from ncollapse.depth.similarity import cka_matrix
from ncollapse.extras import missing_extra
from ncollapse.hooks.batch_io import Call, Unpack, unpack_batch
from ncollapse.hooks.tap import LayerChoice
from ncollapse.records.csv_tables import class_text, pair_text, rows_text
from ncollapse.records.file_names import CLASSES, LAYERS, PAIRS
from ncollapse.records.files import write_whole
from ncollapse.records.rows import DiagnosisRecord, Row
from ncollapse.statistics.batch import check_labels
from ncollapse.statistics.centers import LinearClassifier, largest_logit

if TYPE_CHECKING:
    import pandas as pd

# Rows that CKA is computed from, and samples that leaving blocks out is tried on.
_CKA_ROWS, _LEFT_OUT = 500, 2000
# Samples that a class needs for others to be taken for it, or not, by more than chance.
_FEWEST = 5
NewLabels = Mapping[str, Iterable[Any] | Sequence[int] | Tensor]


@dataclass(frozen=True, eq=False)
class Diagnosis:
    """What ``diagnose`` found.

    Attributes:
        record: All of it in plain numbers.
    """

    record: DiagnosisRecord

    @property
    def rows(self) -> tuple[Row, ...]:
        """The tidy table: one value of one layer on one split a row."""
        return self.record.rows

    def value(self, metric: str, layer: str, split: str | None = None) -> float:
        """Return one value of the table; nan if it has none.

        Args:
            metric: Such as "ncc", "probe", "knn", "left_out", "cka_next", "auroc.NAME.neco" or "few_shot.NAME".
            layer: Its name.
            split: "train" or "test"; None is "test" if it was given.
        """
        return self.record.value(metric, layer, split)

    def verdicts(self) -> list[str]:
        """Return the answers in words, each with its numbers."""
        # matplotlib, which the room of drawing imports, takes longer than the rest.
        from ncollapse.drawing.diagnosis_sentences import verdicts

        return verdicts(self.record)

    def to_pandas(self) -> pd.DataFrame:
        """Convert the table to a pandas data frame with one line per layer, columns "metric.split".

        Returns:
            The data frame, layers in order of depth.

        Raises:
            ImportError: If pandas is not installed.
        """
        try:
            import pandas as pd
        except ImportError as error:
            raise ImportError(missing_extra("to_pandas", "pandas", "pandas")) from error
        lines: dict[str, dict[str, float]] = {layer: {} for layer in self.record.layers}
        for row in self.rows:
            lines[row.layer][f"{row.metric}.{row.split}"] = row.value
        return pd.DataFrame.from_dict(lines, orient="index").rename_axis("layer").reset_index()

    def save(self, folder: str | Path) -> Path:
        """Write ``layers.csv``, ``classes.csv`` and ``pairs.csv`` into a folder, which is made if need be.

        Returns:
            The folder.

        Raises:
            OSError: If a file cannot be written.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(folder / LAYERS, rows_text(self.rows))
        write_whole(folder / CLASSES, class_text(self.record.class_lines()))
        write_whole(folder / PAIRS, pair_text(self.record.pair_lines()))
        return folder

    def __str__(self) -> str:
        from ncollapse.drawing.diagnosis_sentences import text_table

        return "\n".join([text_table(self.record), *(f"- {line}" for line in self.verdicts())])

    def __repr__(self) -> str:
        return f"Diagnosis({len(self.record.layers)} layers, {len(self.record.classes)} classes, {len(self.rows)} rows)"


def diagnose(
    model: nn.Module,
    batches: Iterable[Any],
    *,
    num_classes: int,
    test: Iterable[Any] | None = None,
    strangers: Mapping[str, Iterable[Any]] | None = None,
    new_labels: NewLabels | None = None,
    class_names: Sequence[str] | None = None,
    layers: LayerChoice = "auto",
    classifier: str | nn.Module | None = None,
    unpack: Unpack = unpack_batch,
    call: Call | None = None,
    k: int = 10,
    ridge: float = 1e-3,
    shots: int = 5,
    max_dim: int = 1024,
    max_samples: int | None = None,
    most_neighbors: int = 2000,
) -> Diagnosis:
    """Answer an engineer's questions about a trained classifier, layer by layer.

    Which layers are redundant, which classes have merged, at which layer strangers are detected best, and from which layer to
    transfer: ``Diagnosis.verdicts()`` says it in words. The features of all layers are kept in memory, N times the sum of the
    dimensions. The network is left as it was. docs/diagnosis.md explains every column.

    Args:
        batches: The training set, as ``measure`` takes it, one label per sample. Classes without samples are left out.
        num_classes: Number of classes, K.
        test: Held-out data; the verdicts are about it if given.
        strangers: Data that the network should know it does not know, by name. Batches may be inputs alone.
        new_labels: New classification tasks by name: batches with labels of their own, or a list of K integers that maps the
            classes to coarser ones, tried on ``test`` if given.
        class_names: Names of the K classes; None numbers them.
        layers: As in ``measure``.
        classifier: As in ``measure``, a module or its name.
        unpack: As in ``measure``.
        call: As in ``measure``.
        k: Number of neighbors of the k-NN decisions.
        ridge: Of the linear probe, in units of the mean variance of a feature.
        shots: Samples of a new class in an episode.
        max_dim: A convolutional layer of more features is averaged over its positions, so that d × d matrices stay small. The
            layer that feeds the classifier is kept whole.
        max_samples: Use the first samples of every data set only.
        most_neighbors: Samples of a split that k-NN decisions are made from, and for, evenly spread.

    Returns:
        One tidy table, findings of classes and pairs, and verdicts in words.

    Raises:
        ValueError: As ``measure``; if fewer than two classes have samples, or arguments do not fit.

    Example:
        >>> net = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> inputs = torch.tensor([[2.0, 0.0], [3.0, 1.0], [0.0, 2.0], [1.0, 3.0]])
        >>> diagnose(net, [(inputs, torch.tensor([0, 0, 1, 1]))], num_classes=2).record.layers
        ('1',)
    """
    _check(num_classes, class_names, k, shots)
    reader = FeatureReader(model, num_classes, layers, classifier, unpack=unpack, call=call, most=max_dim)
    with reader:
        train = reader.read(batches, max_samples)
        check_labels(train.labels, len(train.labels), num_classes)
        present = train.labels.unique()
        splits = {"train": train} | ({} if test is None else {"test": reader.read(test, max_samples)})
        accuracy = {name: _accuracy(found) for name, found in splits.items()}
        splits = {name: _of_classes(found, present) for name, found in splits.items()}
        foreign = {name: reader.read(data, max_samples, labeled=False) for name, data in (strangers or {}).items()}
        named = (new_labels or {}).items()
        tasks = {name: _task(reader, name, given, splits, present, num_classes, max_samples) for name, given in named}
        data = DiagnosedData(splits, foreign, tasks, len(present), k, most_neighbors, ridge, shots)
        own = _own_head(reader, len(present))
        tried = batches if test is None else test
        left_out = left_out_accuracies(reader, tried, list(train.layers), min(max_samples or _LEFT_OUT, _LEFT_OUT))
    findings = {name: find_in_layer(name, data, own.get(name), next(iter(own), None)) for name in train.layers}
    names = {index: str(class_names[index]) if class_names else str(index) for index in present.tolist()}
    return Diagnosis(_record(findings, data, reader, accuracy, left_out, names))


def _own_head(reader: FeatureReader, num_classes: int) -> dict[str, LinearClassifier]:
    """Return the network's classifier by the layer that feeds it, if it is known."""
    head = reader.classifier()
    if head is None or len(head[1].weight) < num_classes:
        return {}
    return {head[0]: LinearClassifier.from_parameters(head[1].weight, head[1].bias).to("cpu")}


def _check(num_classes: int, class_names: Sequence[str] | None, k: int, shots: int) -> None:
    if class_names is not None and len(class_names) != num_classes:
        raise ValueError(f"class_names must name all {num_classes} classes, got {len(class_names)} names. Pass one for each.")
    if min(k, shots) < 1:
        raise ValueError(f"k and shots must be at least 1, got {k} and {shots}. Pass numbers of samples.")


def _accuracy(found: NetworkFeatures) -> float:
    return math.nan if found.logits is None else float((largest_logit(found.logits) == found.labels).double().mean())


def _of_classes(found: NetworkFeatures, present: Tensor) -> NetworkFeatures:
    """Return the samples of the classes that the training set has, with labels that count these classes."""
    if len(present) < 2:
        raise ValueError(f"At least two classes must have training samples, got {len(present)}. Pass data of more classes.")
    known = torch.isin(found.labels, present)
    kept = found if bool(known.all()) else found.select(known.nonzero().flatten())
    return replace(kept, labels=torch.searchsorted(present, kept.labels))


def _task(
    reader: FeatureReader,
    name: str,
    given: Any,
    splits: Mapping[str, NetworkFeatures],
    present: Tensor,
    num_classes: int,
    most: int | None,
) -> NetworkFeatures:
    """Return features with new labels: of data of its own, or of the classes mapped to coarser ones."""
    is_map = isinstance(given, Tensor) or (isinstance(given, Sequence) and all(isinstance(item, int) for item in given))
    if not is_map:
        return reader.read(given, most)
    coarse = torch.as_tensor(given)
    if coarse.shape != (num_classes,) or int(coarse.min()) < 0:
        raise ValueError(
            f"new_labels[{name!r}] must map {num_classes} classes to integers of 0 or more, got shape {tuple(coarse.shape)}, "
            f"least value {int(coarse.min()) if coarse.numel() else None}. Pass one integer for each class."
        )
    found = list(splits.values())[-1]
    return replace(found, labels=coarse[present][found.labels].long())


def _record(
    findings: Mapping[str, LayerFinding],
    data: DiagnosedData,
    reader: FeatureReader,
    accuracy: Mapping[str, float],
    left_out: Mapping[str, float],
    names: Mapping[int, str],
) -> DiagnosisRecord:
    train, order = data.splits["train"], list(findings)
    rows = spread_rows(len(train.labels), _CKA_ROWS)
    cka = cka_matrix({name: layer[rows] for name, layer in train.layers.items()})
    last, indices = findings[order[-1]], list(names)
    counts = _confusions(last, data)
    judged = data.decided if int(counts[data.decided].sum(dim=1).min()) >= _FEWEST else "train"
    depth_found = effective_depth([1 - finding.values[0].value for finding in findings.values()])
    distances = of_classes.relative_distances(last.moments)
    classes = of_classes.class_findings(last.moments, counts["train"], counts.get("test"), indices, names)
    return DiagnosisRecord(
        layers=tuple(order),
        dims=tuple(layer.shape[1] for layer in train.layers.values()),
        notes=dict(reader.averaged),
        rows=_table(findings, data.decided, left_out, cka),
        accuracy=dict(accuracy),
        decided=data.decided,
        judged=judged,
        num_samples={split: len(found.labels) for split, found in data.splits.items()},
        effective_depth=depth_found.depth if depth_found.reached else None,
        names=dict(names),
        classes=classes,
        pairs=of_classes.pair_findings(last.moments, counts[judged], indices),
        groups=of_classes.group_findings(classes, distances),
        merged=of_classes.merged_classes(counts[judged], indices),
        distances=distances.tolist(),
        cka=cka.tolist(),
        strangers=tuple(data.strangers),
        tasks=tuple(data.tasks),
        chosen=reader.plan.explanation,
    )


def _confusions(finding: LayerFinding, data: DiagnosedData) -> dict[str, Tensor]:
    """Return how many samples of each class were decided for each class, by split."""
    labels = {split: found.labels for split, found in data.splits.items()}
    return {
        split: of_classes.confusion_counts(labels[split], decided, data.num_classes)
        for split, decided in finding.decided.items()
    }


def _table(findings: Mapping[str, LayerFinding], decided: str, left_out: Mapping[str, float], cka: Tensor) -> tuple[Row, ...]:
    after = [*cka.diagonal(offset=1).tolist(), math.nan]
    table: list[Row] = []
    for depth, (name, finding) in enumerate(findings.items()):
        values = [*finding.values, Value("left_out", decided, left_out[name]), Value("cka_next", "train", after[depth])]
        table += [Row.measured(v.split, depth, name, v.metric, v.value, v.standard_error, ()) for v in values]
    return tuple(table)
