"""Metrics of features that arrive batch by batch, with the methods of torchmetrics: update, compute, reset, merge."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from torch import Tensor

from ncollapse.default_device import on_the_cpu
from ncollapse.measurement.measurement import Measurement
from ncollapse.measurement.path_choice import PathChoice
from ncollapse.metrics.selection import MetricChoice
from ncollapse.probe.class_choice import ClassChoice
from ncollapse.probe.layer_batch import LayerBatch, named_layers
from ncollapse.probe.request import Request, classifier_on
from ncollapse.probe.running_totals import RunningTotals
from ncollapse.statistics.centers import LinearClassifier
from ncollapse.statistics.conventions import Convention
from ncollapse.statistics.moments import ClassMoments

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


class CollapseMetrics:
    """Measure neural collapse of features that you compute yourself, batch by batch.

    The result equals ``measure_features`` of all batches at once. Means and variances are exact for streams of any length.
    Some metrics need the final class means (PFC3, NC1, NC4). Copies of the features are kept for them; beyond
    ``memory_budget`` these metrics are nan with the flag ``over_budget``, since a stream cannot be read again.
    An object without a group can be pickled and copied.

    Example:
        >>> import torch
        >>> metrics = CollapseMetrics(num_classes=2, metrics=["pfc1", "pfc3"])
        >>> metrics.update(torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 1]))
        >>> metrics.update(torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 1]))
        >>> metrics.compute().value("pfc3")
        1.0
    """

    def __init__(
        self,
        *,
        num_classes: int,
        classes: ClassChoice = "all",
        min_per_class: int = 0,
        metrics: MetricChoice = None,
        convention: Convention = "class",
        split: str = "train",
        reference: Measurement | None = None,
        path: PathChoice = False,
        memory_budget: int | str | None = None,
        group: ProcessGroup | None = None,
    ) -> None:
        """Start without batches.

        Args:
            num_classes: Number of classes, K.
            classes: As in ``measure``; chosen at every ``compute`` from the batches so far.
            min_per_class: As in ``measure``.
            metrics: As in ``measure``.
            convention: Class weights of the covariances.
            split: Name of the data split, a column of the table.
            reference: Measurement of the training set, whose class means decide on another split.
            path: As in ``measure``.
            memory_budget: Memory for kept features, in bytes or as "2GiB"; None is a quarter of the free memory.
            group: Processes of ``torch.distributed`` that share the data. Each updates with its own batches; all call
                ``compute``, which returns the metrics over the batches of all.

        Raises:
            ValueError: If an argument is invalid.
        """
        self._totals = RunningTotals(
            Request(
                num_classes=num_classes,
                classes=classes,
                min_per_class=min_per_class,
                metrics=metrics,
                convention=convention,
                split=split,
                reference=reference,
                path=path,
                memory_budget=memory_budget,
                group=group,
            )
        )

    @on_the_cpu
    def update(self, features: Tensor | Mapping[str, Tensor], labels: Tensor) -> None:
        """Add one batch.

        Args:
            features: Shape (N, ...), or several layers of the same samples by name, in order of depth. They may be
                overwritten afterwards, and need no ``detach``.
            labels: Class indices in [0, K), shape (N,).

        Raises:
            ValueError: As ``measure_features``, and after an error until ``reset``.
            TypeError: If features or labels are of another type.
        """
        self._totals.add(LayerBatch(named_layers(features), labels, reuses_memory=True))

    @on_the_cpu
    def compute(self, classifier: tuple[Tensor, Tensor | None] | None = None) -> Measurement:
        """Measure all batches since the last reset; more may follow.

        Args:
            classifier: Weight (K, d) and bias (K,) or None of the classifier on the last layer's features, as it is now.

        Returns:
            The tidy table and the statistics behind it.

        Raises:
            ValueError: If there were no batches, or a metric was named that needs a classifier and there is none.
            TypeError: If the classifier is not a pair.
        """
        if classifier is None:
            return self._totals.measurement(None, "features passed to update; no classifier was given")

        def heads(moments: Mapping[str, ClassMoments]) -> dict[str, LinearClassifier]:
            last = list(moments)[-1]
            return {last: classifier_on(last, moments[last].dim, classifier, self._totals.request.num_classes)}

        return self._totals.measurement(heads, "features passed to update")

    def reset(self) -> None:
        """Forget all batches."""
        self._totals.reset()

    def merge(self, other: CollapseMetrics) -> None:
        """Add the batches of another object, which stays unchanged.

        Args:
            other: Made with the same arguments and updated with the same layers.

        Raises:
            ValueError: If arguments or layers differ.
        """
        self._totals.merge(other._totals)
