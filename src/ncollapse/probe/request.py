"""A request: the arguments that measure, watch, CollapseMetrics and the callbacks share, checked in one place."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ncollapse.groups import Processes
from ncollapse.hooks.layer_choice import LayerChoice
from ncollapse.measurement.measurement import Measurement
from ncollapse.metrics.entry import Metric
from ncollapse.metrics.selection import CORE, WORDS, MetricChoice, select_metrics
from ncollapse.probe.byte_size import parse_bytes
from ncollapse.probe.memory import available_memory
from ncollapse.statistics.centers import ClassCenters, LinearClassifier
from ncollapse.statistics.conventions import Convention, convention_parts

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


@dataclass(frozen=True, eq=False)
class Request:
    """The checked arguments of a measurement. ``where`` ends the place in errors ("in batch 3 at epoch 7"), if not None."""

    num_classes: int
    layers: LayerChoice = "auto"
    classifier: str | nn.Module | None = None
    split: str = "train"
    reference: Measurement | None = None
    metrics: MetricChoice = None
    convention: Convention = "class"
    path: bool = False
    memory_budget: int | str | None = None
    group: ProcessGroup | None = None
    where: str | None = None

    def __post_init__(self) -> None:
        convention_parts(self.convention)
        if isinstance(self.num_classes, bool) or not isinstance(self.num_classes, int) or self.num_classes < 1:
            raise ValueError(
                f"num_classes must be an integer, at least 1, got {self.num_classes!r}. Pass the number of classes, K."
            )
        if not self.selected:
            raise ValueError(
                f"metrics must name at least one metric, got {self.metrics!r}. Pass ids such as ['pfc1', 'nc3'], or None."
            )
        if self.memory_budget is not None:
            parse_bytes(self.memory_budget)
        if self.reference is not None and self.reference.num_classes != self.num_classes:
            raise ValueError(
                f"reference must have {self.num_classes} classes like the data, got {self.reference.num_classes}. "
                "Measure both splits with one num_classes."
            )

    @cached_property
    def selected(self) -> list[Metric]:
        """The metrics to compute."""
        return select_metrics(self.metrics, by_reference=self.reference is not None)

    @property
    def shown(self) -> tuple[str, ...]:
        """The metrics to print: those of the core first, in its order."""
        named = [metric.id for metric in self.selected if self.metrics is not None or metric.id in CORE]
        return tuple(sorted(named, key=lambda id: CORE.index(id) if id in CORE else len(CORE)))

    @property
    def needs_centers(self) -> bool:
        """Whether some metric needs the samples again once the class means are final."""
        return any(metric.needs & {"centers", "logits"} for metric in self.selected)

    @property
    def needs_scatter(self) -> bool:
        """Whether d×d scatter matrices are summed."""
        return any("scatter" in metric.needs for metric in self.selected)

    @property
    def reference_centers(self) -> dict[str, ClassCenters | None] | None:
        """Centers of the reference by layer."""
        if self.reference is None:
            return None
        return {name: statistics.centers for name, statistics in self.reference.statistics.items()}

    def budget(self, device: torch.device, processes: Processes) -> int:
        """Return the bytes that kept features may take, by default a quarter of the free memory on their device."""
        if self.memory_budget is not None:
            return parse_bytes(self.memory_budget)
        sharing = processes.num_sharing_memory if device.type == "cpu" else 1
        return available_memory(device) // (4 * sharing)

    def place(self, index: int, *, second: bool = False) -> str:
        """Return where a batch is, in words that end a sentence."""
        if self.where is None:
            return ""
        return f" in batch {index}{' of the second pass' if second else ''}{self.where}"

    def check_classifier(self, found: str, *, logits: bool = False) -> None:
        """Raise an error if a named metric needs the classifier, or logits, when none were found."""
        named = [self.metrics] if isinstance(self.metrics, str | Metric) else self.metrics or ()
        explicit = [item for item in named if isinstance(item, Metric) or item.lower() not in WORDS]
        lacking = {"classifier"} if logits else {"classifier", "logits"}
        names = [metric.id for metric in select_metrics(explicit) if metric.needs & lacking]
        if names:
            raise ValueError(
                f"Metrics {', '.join(names)} need a classifier ({found}). Name it with classifier=, or leave them out."
            )

    def compared(self) -> str:
        """Return the arguments that must be the same in all processes and in merged streams, as a text."""
        # The budget may differ: if one process cannot keep its features, all make a second pass.
        metrics = [metric.id for metric in self.selected]
        return json.dumps([self.num_classes, self.convention, self.split, self.path, metrics])


def classifier_on(layer: str, dim: int, classifier: tuple[Tensor, Tensor | None], num_classes: int) -> LinearClassifier:
    """Check a classifier given as (weight, bias) against the layer that feeds it, and return it."""
    if not (isinstance(classifier, tuple) and len(classifier) == 2):
        raise TypeError(
            f"classifier must be a pair (weight, bias or None), got {type(classifier).__name__}. "
            "For a linear layer pass (layer.weight, layer.bias)."
        )
    head = LinearClassifier.from_parameters(*classifier).to("cpu")
    if head.weight.shape != (num_classes, dim):
        raise ValueError(
            f"The classifier's weight must have shape ({num_classes}, {dim}) for layer {layer!r}, "
            f"got {tuple(head.weight.shape)}. Pass the layer that these features feed."
        )
    return head
