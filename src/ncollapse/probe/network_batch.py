"""A batch that runs through a tapped network when its layers are streamed."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from ncollapse.hooks.batch_io import Unpack, map_tensors
from ncollapse.hooks.tapped_network import TappedNetwork, labeled_tokens
from ncollapse.probe.layer_batch import LayerBatch, Receive, Streamed
from ncollapse.statistics.centers import largest_logit


class NetworkBatch(NamedTuple):
    """Inputs and labels of one batch, and the network."""

    taps: TappedNetwork
    inputs: Any
    given: Any
    labels: Tensor
    reuses_memory: bool

    @classmethod
    def of(cls, taps: TappedNetwork, batch: Any, index: int, unpack: Unpack, device: torch.device) -> NetworkBatch:
        """Unpack a loader's batch."""
        try:
            inputs, given = unpack(batch)
        except TypeError as error:
            raise TypeError(f"Batch {index}: {error}") from error
        tokens = labeled_tokens(given)
        labels = given if tokens is None else given.flatten()[tokens]
        return cls(taps, map_tensors(lambda t: t.to(device), inputs), given, labels, device.type == "cpu")

    def stream(self, receive: Receive, hold: bool) -> Streamed:
        """Run the network, and pass every layer's features to ``receive`` inside its hook."""
        logits = self.taps.forward(self.inputs, self.given, receive, hold).logits
        plan = self.taps.plan
        feeding, classifier = (None, None) if plan is None else (plan.feeding, plan.classifier)
        # The choices alone are kept: logits of a vocabulary would need more memory than all features.
        return Streamed(feeding, None if logits is None else largest_logit(logits), classifier)

    def whole(self) -> LayerBatch:
        """Run the network and return all features, on the CPU."""
        features = self.taps.forward(self.inputs, self.given).features
        return LayerBatch({name: layer.cpu() for name, layer in features.items()}, self.labels.cpu())
