"""The features of a network at all layers for several data sets, in memory, wide convolutional layers averaged."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from ncollapse.analysis.kept_layers import KeptLayers
from ncollapse.hooks.affine import Affine
from ncollapse.hooks.batch_io import Call, Unpack, num_samples_of, unpack_batch
from ncollapse.hooks.discovery import Discovery
from ncollapse.hooks.tap import LayerChoice, Tap
from ncollapse.hooks.tap_hooks import TapPlan
from ncollapse.hooks.tapped_network import TappedNetwork
from ncollapse.hooks.untouched import device_of, network_of
from ncollapse.probe.first_pass import NO_DATA
from ncollapse.probe.layer_batch import NetworkBatch
from ncollapse.probe.loader_batches import BatchPlan, network_batches


@dataclass(frozen=True)
class NarrowTap(Tap):
    """A tap that averages a convolution's output (N, C, ...) over positions if a sample has more than ``most`` numbers."""

    most: int = 0
    averaged: dict[str, str] = field(default_factory=dict, hash=False, compare=False)  # positions in words, by layer

    def read(self, output: Tensor, mask: Tensor | None) -> Tensor:
        """Return one row per sample."""
        if self.pool != "flatten" or output.ndim < 4 or output[:1].numel() <= self.most:
            return super().read(output, mask)
        self.averaged[self.label] = f"mean over {' × '.join(map(str, output.shape[2:]))} positions"
        return output.flatten(2).mean(dim=2, dtype=torch.promote_types(output.dtype, torch.float32))


@dataclass(frozen=True, eq=False)
class NetworkFeatures:
    """The features of one data set."""

    layers: dict[str, Tensor]  # features (N, d) by layer in order of depth, on the CPU; those that are kept
    labels: Tensor  # shape (N,)
    logits: Tensor | None  # the network's logits, shape (N, K); None if it returns none

    def select(self, rows: Tensor) -> NetworkFeatures:
        """Return some samples, by their indices."""
        logits = None if self.logits is None else self.logits[rows]
        return NetworkFeatures({name: layer[rows] for name, layer in self.layers.items()}, self.labels[rows], logits)


class FeatureReader:
    """Context manager that reads the features of data sets with one choice of layers; see ``diagnose`` for the arguments."""

    def __init__(
        self,
        model: nn.Module,
        num_classes: int,
        layers: LayerChoice = "auto",
        classifier: str | nn.Module | None = None,
        *,
        unpack: Unpack = unpack_batch,
        call: Call | None = None,
        most: int = 1024,
    ) -> None:
        self.model, self.most, self.averaged = network_of(model), most, dict[str, str]()
        self.per_token = False
        self._unpack, self._call = unpack, call
        self._discovery = Discovery(self.model, layers, classifier, num_classes)
        self.taps = TappedNetwork(self.model, self._plan, num_classes=num_classes)

    def __enter__(self) -> FeatureReader:
        self.taps.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self.taps.__exit__(*error)

    def read(
        self, batches: Iterable[Any], kept: KeptLayers, most_samples: int | None = None, *, labeled: bool = True
    ) -> NetworkFeatures:
        """Return the features of the first samples of some batches, which may have no labels if ``labeled`` is False."""
        parts: list[dict[str, Tensor]] = []
        labels: list[Tensor] = []
        logits: list[Tensor] = []
        for batch in self.batches(batches, most_samples, labeled=labeled):
            tapped = self.taps.forward(batch.inputs, batch.labeled)
            self.per_token = self.per_token or (labeled and batch.labeled.per_position)
            room = len(batch.labels) if most_samples is None else most_samples - sum(map(len, labels))
            part = kept.take({name: layer[:room] for name, layer in tapped.features.items()})
            _check_finite(part)
            parts.append(part)
            labels.append(batch.labels[:room].cpu())
            logits += [] if tapped.logits is None else [tapped.logits[:room].cpu()]
        if not parts:
            raise ValueError(NO_DATA)
        return NetworkFeatures(kept.joined(parts), torch.cat(labels), torch.cat(logits) if logits else None)

    def batches(
        self, batches: Iterable[Any], most_samples: int | None = None, *, labeled: bool = True
    ) -> Iterator[NetworkBatch]:
        """Yield batches until there are enough samples."""
        reading = BatchPlan(self._unpack if labeled else self._unlabeled, self._call)
        device, count = device_of(self.model), 0
        for batch in network_batches(self.taps, batches, reading, device, lambda done, total: None):
            yield batch
            count += len(batch.labels)
            if most_samples is not None and count >= most_samples:
                return

    @property
    def plan(self) -> TapPlan:
        """The chosen layers, known after the first batch."""
        assert self.taps.plan is not None
        return self.taps.plan

    def classifier(self) -> tuple[str, Affine] | None:
        """Return the layer that feeds the network's classifier, and the classifier; None if its map is unknown."""
        with torch.no_grad():
            found = None if self.plan.read_classifier is None else self.plan.read_classifier()
        return None if found is None or self.plan.feeding is None or found.of_direction else (self.plan.feeding, found)

    def _plan(self, *inputs: Any, **known: Any) -> TapPlan:
        plan = self._discovery.plan(*inputs, **known)

        def narrow(tap: Tap) -> Tap:
            # The classifier knows all numbers of its input.
            return tap if tap.label == plan.feeding else NarrowTap(tap.name, tap.pool, self.most, self.averaged)

        return replace(plan, taps=tuple(narrow(tap) for tap in plan.taps))

    def _unlabeled(self, batch: Any) -> tuple[Any, Tensor]:
        """Split a batch that may have no labels, and give every sample the label 0, or every token that has a label."""
        labels = None
        try:
            inputs, labels = self._unpack(batch)
        except TypeError:
            inputs = batch[0] if isinstance(batch, tuple | list) and len(batch) == 1 else batch
        if not self.per_token:
            return inputs, torch.zeros(num_samples_of(inputs), dtype=torch.int64)
        if not isinstance(labels, Tensor) or labels.ndim < 2:
            raise ValueError(
                "Strangers of a network with a label for each token must have labels too, shape (N, T), which say by -100 "
                "which tokens do not count, got inputs alone. Pass (inputs, labels)."
            )
        return inputs, labels.clamp(max=0)


def _check_finite(layers: Mapping[str, Tensor]) -> None:
    for name, layer in layers.items():
        if not bool(layer.isfinite().all()):
            raise ValueError(f"Features must be finite, got NaN or inf at layer {name!r}. Check the weights and the inputs.")
