"""``diagnose``: which layers are redundant, which classes have merged, where to detect strangers or to transfer from."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ncollapse.analysis import class_findings as of_classes
from ncollapse.analysis.diagnosis_passes import Passes, Sources
from ncollapse.analysis.layer_findings import DiagnosedData, LayerFinding, Value
from ncollapse.analysis.left_out_blocks import left_out_accuracies
from ncollapse.analysis.network_features import FeatureReader
from ncollapse.default_device import on_the_cpu
from ncollapse.depth.progression import effective_depth
from ncollapse.depth.similarity import cka_matrix
from ncollapse.extras import missing_extra
from ncollapse.hooks.batch_io import Call, Unpack, unpack_batch
from ncollapse.hooks.tap import LayerChoice
from ncollapse.near_words import names_near_arguments
from ncollapse.probe.memory import available_memory, parse_bytes
from ncollapse.records.csv_tables import class_text, pair_text, rows_text
from ncollapse.records.file_names import CLASSES, LAYERS, PAIRS
from ncollapse.records.files import write_whole
from ncollapse.records.rows import DiagnosisRecord, Row

if TYPE_CHECKING:
    import pandas as pd

# Samples that leaving blocks out is tried on.
_LEFT_OUT = 2000
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
        """The tidy table: one row for each value, layer and split."""
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


@names_near_arguments
@on_the_cpu
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
    memory_budget: int | str | None = None,
) -> Diagnosis:
    """Answer an engineer's questions about a trained classifier, layer by layer.

    Which layers are redundant, which classes have merged, at which layer strangers are detected best, and from which layer to
    transfer: ``Diagnosis.verdicts()`` says it in words. Features are kept in memory, of as many layers as fit ``memory_budget``
    and of one at least; the data is read again for the other layers. The network is left as it was. docs/diagnosis.md explains
    every column.

    Args:
        batches: The training set, as ``measure`` takes it, one label per sample. Classes without samples are left out.
        num_classes: Number of classes, K.
        test: Held-out data; the verdicts are about it if given.
        strangers: Data that belongs to none of the classes, by name. Batches may be inputs alone.
        new_labels: New classification tasks by name: batches with labels of their own, or a list of K integers that maps the
            classes to coarser ones, tried on ``test`` if given.
        class_names: Names of the K classes; None numbers them.
        layers: As in ``measure``.
        classifier: As in ``measure``, a module or its name.
        unpack: As in ``measure``.
        call: As in ``measure``.
        k: Number of neighbors of the k-NN decisions.
        ridge: Penalty of the linear probe, in units of the mean variance of a feature.
        shots: Samples of a new class in an episode.
        max_dim: A convolutional layer of more features is averaged over its positions, so that d × d matrices stay small. The
            layer that feeds the classifier is kept whole.
        max_samples: Use the first samples of every data set only.
        most_neighbors: Largest number of samples of a split in k-NN decisions, as voters and as voted for, evenly spread.
        memory_budget: Memory for kept features of all data sets together, in bytes or as "2GiB"; None is a quarter of the free
            memory. Beside them there are d × d matrices of one layer.

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
    _check_repeatable({"batches": batches, "test": test, **(strangers or {}), **(new_labels or {})})
    sources = Sources(
        batches, test, strangers or {}, new_labels or {}, num_classes, max_samples, k, most_neighbors, ridge, shots
    )
    with FeatureReader(model, num_classes, layers, classifier, unpack=unpack, call=call, most=max_dim) as reader:
        budget = available_memory(torch.device("cpu")) // 4 if memory_budget is None else parse_bytes(memory_budget)
        passes = Passes.over(reader, sources, budget)
        tried = batches if test is None else test
        left_out = left_out_accuracies(reader, tried, list(passes.findings), min(max_samples or _LEFT_OUT, _LEFT_OUT))
    names = {index: str(class_names[index]) if class_names else str(index) for index in passes.present.tolist()}
    return Diagnosis(_record(passes, reader, left_out, names))


def _check(num_classes: int, class_names: Sequence[str] | None, k: int, shots: int) -> None:
    if class_names is not None and len(class_names) != num_classes:
        raise ValueError(f"class_names must name all {num_classes} classes, got {len(class_names)} names. Pass one for each.")
    if min(k, shots) < 1:
        raise ValueError(f"k and shots must be at least 1, got {k} and {shots}. Pass numbers of samples.")


def _check_repeatable(given: Mapping[str, Any]) -> None:
    for name, data in given.items():
        if isinstance(data, Iterator):
            raise ValueError(
                f"diagnose reads its data more than once, but {name} can be iterated only once. Pass a list or a DataLoader."
            )


def _record(passes: Passes, reader: FeatureReader, left_out: Mapping[str, float], names: Mapping[int, str]) -> DiagnosisRecord:
    findings, data, order = passes.findings, passes.data, list(passes.findings)
    cka = cka_matrix(passes.rows)
    last, indices = findings[order[-1]], list(names)
    counts = _confusions(last, data)
    judged = data.decided if int(counts[data.decided].sum(dim=1).min()) >= _FEWEST else "train"
    depth_found = effective_depth([1 - finding.values[0].value for finding in findings.values()])
    distances = of_classes.relative_distances(last.moments)
    classes = of_classes.class_findings(last.moments, counts["train"], counts.get("test"), indices, names)
    return DiagnosisRecord(
        layers=tuple(order),
        dims=tuple(layer.shape[1] for layer in passes.rows.values()),
        notes=dict(reader.averaged),
        rows=_table(findings, data.decided, left_out, cka),
        accuracy=dict(passes.accuracy),
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
