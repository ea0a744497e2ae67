"""One metric of neural collapse as a metric of torchmetrics."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from ncollapse.extras import missing_extra
from ncollapse.metrics import METRICS
from ncollapse.near_words import near_words
from ncollapse.probe.measure import measure_features

try:
    from torchmetrics import Metric
    from torchmetrics.utilities import dim_zero_cat
except ModuleNotFoundError as error:
    raise ImportError(missing_extra("CollapseMetric", "torchmetrics", "torchmetrics")) from error


class CollapseMetric(Metric):
    """One metric of the features of one layer, for a ``MetricCollection`` and for ``self.log`` of Lightning.

    The value is that of ``measure_features`` on all batches since the last reset, of all processes. The features are kept for
    that, in their own precision; where they are too many, use the callback or ``ncollapse.CollapseMetrics``. Metrics of one
    layer in a ``MetricCollection`` share what they keep (its compute groups). As of every metric of torchmetrics, the
    ``state_dict`` holds the batches after ``metric.persistent(True)``.

    Args:
        metric: An id such as "pfc1" (docs/metrics.md).
        num_classes: Number of classes, K.
        layer: The layer to measure, where ``update`` is given several by name; None if it is given one.
        classifier: A function without arguments that returns weight (K, d) and bias (K,) or None, for metrics that need them:
            ``lambda: (net.head.weight, net.head.bias)``. Called by ``compute``. Not the tensors themselves, which a copy of the
            metric would copy.
        **options: ``classes``, ``min_per_class``, ``convention`` and ``reference`` as in ``ncollapse.measure_features``, or
            arguments of ``torchmetrics.Metric``.

    Raises:
        ValueError: If there is no such metric.
        ImportError: If torchmetrics is not installed.

    Example:
        >>> from torchmetrics import MetricCollection
        >>> collapse = MetricCollection({name: CollapseMetric(name, num_classes=2) for name in ("pfc1", "pfc3")})
        >>> collapse.update(torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 1]))
        >>> collapse.update(torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 1]))
        >>> {name: value.item() for name, value in collapse.compute().items()}
        {'pfc1': 0.0, 'pfc3': 1.0}
    """

    full_state_update = False
    features: list[Tensor] | Tensor
    labels: list[Tensor] | Tensor

    def __init__(
        self,
        metric: str,
        *,
        num_classes: int,
        layer: str | None = None,
        classifier: Callable[[], tuple[Tensor, Tensor | None]] | None = None,
        **options: Any,
    ) -> None:
        names = ("classes", "min_per_class", "convention", "reference")
        asked: dict[str, Any] = {name: options.pop(name) for name in names if name in options}
        super().__init__(**options)
        if metric not in METRICS:
            raise ValueError(
                f"metric must be an id of ncollapse.METRICS, got {metric!r}. {near_words(metric, METRICS)}".rstrip()
            )
        if asked.get("reference") is not None:
            asked["split"] = "test"
        self._metric, self._layer, self._classifier = metric, layer, classifier
        self._arguments = {"num_classes": num_classes, **asked}
        self.add_state("features", default=[], dist_reduce_fx="cat")
        self.add_state("labels", default=[], dist_reduce_fx="cat")

    def update(self, features: Tensor | Mapping[str, Tensor], labels: Tensor) -> None:
        """Keep one batch.

        Args:
            features: Shape (N, ...), or several layers of the same samples by name. They may be overwritten afterwards.
            labels: Class indices in [0, K), shape (N,).

        Raises:
            ValueError: If the layer is not among several, or not named.
        """
        if isinstance(features, Mapping):
            if self._layer is None or self._layer not in features:
                raise ValueError(f"layer must be one of {', '.join(features)}, got {self._layer!r}. Pass layer= to the metric.")
            features = features[self._layer]
        # Lists, except where torchmetrics has gathered them from all processes.
        for name, batch in (("features", features), ("labels", labels)):
            getattr(self, name).append(batch.detach().clone())

    def compute(self) -> Tensor:
        """Measure all batches since the last reset.

        Returns:
            The value, in float64; nan where it is undefined.

        Raises:
            ValueError: As ``measure_features``.
        """
        if not isinstance(self.features, Tensor) and not self.features:
            raise ValueError("compute needs at least one batch since the start or the last reset, got none. Call update first.")
        features, labels = dim_zero_cat(self.features), dim_zero_cat(self.labels)
        classifier = None if self._classifier is None else self._classifier()
        measured = measure_features(features, labels, metrics=[self._metric], classifier=classifier, **self._arguments)
        # On the CPU: some devices have no float64.
        return torch.tensor(measured.value(self._metric), dtype=torch.float64)
