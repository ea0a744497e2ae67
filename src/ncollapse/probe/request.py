"""A request: the arguments that measure, watch, CollapseMetrics and the callbacks share, checked in one place."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ncollapse.groups import Processes
from ncollapse.hooks.tap import LayerChoice
from ncollapse.measurement.measurement import Measurement
from ncollapse.measurement.path_choice import PathChoice, check_path
from ncollapse.metrics.entry import Metric
from ncollapse.metrics.layer_statistics import Need
from ncollapse.metrics.selection import CORE, WORDS, MetricChoice, select_metrics
from ncollapse.probe.class_choice import ChosenClasses, ClassChoice, check_classes, check_min_per_class, chosen_classes
from ncollapse.probe.memory import available_memory, parse_bytes
from ncollapse.statistics.centers import ClassCenters, LinearClassifier
from ncollapse.statistics.conventions import Convention, convention_parts
from ncollapse.statistics.selection import ClassSelection

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


# A module or its name, or weight and bias.
ClassifierChoice = str | nn.Module | tuple[Tensor, Tensor | None] | None


@dataclass(frozen=True, eq=False)
class Request:
    """The checked arguments of a measurement. ``where`` None: errors name no batch; a text is added to it (" at epoch 7")."""

    num_classes: int
    layers: LayerChoice = "auto"
    classifier: ClassifierChoice = None
    classes: ClassChoice = "all"
    min_per_class: int = 0
    split: str = "train"
    reference: Measurement | None = None
    metrics: MetricChoice = None
    convention: Convention = "class"
    path: PathChoice = False
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
        check_classes(self.classes, self.num_classes)
        check_min_per_class(self.min_per_class)
        check_path(self.path)
        self._check_reference()

    def _check_reference(self) -> None:
        if self.reference is None:
            return
        if self.reference.num_labels != self.num_classes:
            raise ValueError(
                f"reference must have {self.num_classes} classes like the data, got {self.reference.num_labels}. "
                "Measure both splits with one num_classes."
            )
        whole = isinstance(self.classes, str) and self.classes == "all" and self.min_per_class == 0
        if whole and self.reference.num_classes < self.num_classes:
            raise ValueError(
                f"reference must have all {self.num_classes} classes, got {self.reference.num_classes} of them. "
                "Measure this split with classes='present' or classes=reference.classes."
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

    @cached_property
    def needs(self) -> frozenset[Need]:
        """The kinds of statistics that the metrics are computed from."""
        return frozenset(need for metric in self.selected for need in metric.needs)

    @property
    def needs_features_again(self) -> bool:
        """Whether the features are needed again once the class means are final."""
        return bool(self.path) or bool(self.needs & {"centers", "logits"})

    @property
    def named_classifier(self) -> str | nn.Module | None:
        """The classifier as a module of the network; None if it is to be found, or is given as a pair."""
        return None if isinstance(self.classifier, tuple) else self.classifier

    @property
    def reference_centers(self) -> dict[str, ClassCenters | None] | None:
        """Centers of the reference by layer."""
        if self.reference is None:
            return None
        return {name: statistics.centers for name, statistics in self.reference.statistics.items()}

    @property
    def reference_selection(self) -> ClassSelection | None:
        """The classes whose means the reference has; None for all."""
        if self.reference is None or self.reference.num_classes == self.num_classes:
            return None
        return ClassSelection(torch.tensor(self.reference.classes), self.num_classes)

    def among_reference(self, selection: ClassSelection | None) -> Tensor | None:
        """Return the indices of the measured classes among those of the reference, None if both have the same."""
        known = self.reference_selection
        if self.reference is None or selection is None:
            return None
        return selection.classes if known is None else known.renumber(selection.classes)

    def choose_classes(self, counts: Tensor) -> ChosenClasses:
        """Choose the classes to measure by the final counts of all."""
        reference = None if self.reference is None else self.reference.classes
        return chosen_classes(self.classes, self.min_per_class, counts, reference)

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

    def check_classifier(self, why_none: str, *, logits: bool = False) -> None:
        """Raise an error if a named metric needs the classifier, or logits, when none were found."""
        named = [self.metrics] if isinstance(self.metrics, str | Metric) else self.metrics or ()
        explicit = [item for item in named if isinstance(item, Metric) or item.lower() not in WORDS]
        lacking = {"classifier"} if logits else {"classifier", "logits"}
        names = [metric.id for metric in select_metrics(explicit) if metric.needs & lacking]
        if names:
            raise ValueError(
                f"Metrics {', '.join(names)} need a classifier ({why_none}). Name it with classifier=, or leave them out."
            )

    def shared_arguments(self) -> str:
        """Return the arguments that must be the same in all processes and in merged streams, as a text."""
        # The budget may differ: if one process cannot keep its features, all make a second pass.
        metrics = [metric.id for metric in self.selected]
        classes = check_classes(self.classes, self.num_classes) or self.classes
        return json.dumps([self.num_classes, classes, self.min_per_class, self.convention, self.split, self.path, metrics])


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
