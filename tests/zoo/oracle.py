"""Statistics of a network's layers in float64, of features that plain hooks saw: nothing of how the library reads a network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from zoo.networks import Network

Array = NDArray[np.float64]


class Seen(NamedTuple):
    """What plain hooks saw: rows by layer in the order of execution, the labels, and the logits that the network returned."""

    features: dict[str, Array]
    labels: NDArray[np.int64]
    logits: Array


def split(network: Network, batch: Any) -> tuple[Any, NDArray[np.int64]]:
    """Inputs and labels, -100 for tokens without."""
    if network.next_tokens:
        ids, mask = batch["input_ids"].numpy(), batch["attention_mask"].numpy()
        labels = np.full(ids.shape, -100)
        for i in range(len(ids)):
            for t in range(ids.shape[1] - 1):
                if mask[i, t] and mask[i, t + 1]:
                    labels[i, t] = ids[i, t + 1]
        return batch, labels
    if isinstance(batch, Mapping):
        return {name: value for name, value in batch.items() if name != "labels"}, batch["labels"].numpy()
    return batch[0], batch[1].numpy()


def first_tensor(output: Any) -> torch.Tensor:
    if isinstance(output, torch.Tensor):
        return output
    values = output.values() if isinstance(output, Mapping) else output
    return next(value for value in values if isinstance(value, torch.Tensor))


def row(sample: Array, pool: str, real: list[int]) -> Array:
    """One sample's features: all numbers, or those of one token, or the mean of the real ones."""
    if pool == "cls":
        return sample[0]
    if pool == "last_token":
        return sample[real[-1]]
    if pool.startswith("mean_from_"):
        real, pool = real[int(pool.rpartition("_")[2]) :], "mean"
    return sum((sample[t] for t in real), np.zeros_like(sample[0])) / len(real) if pool == "mean" else sample.ravel()


def rows(values: Array, pool: str, inputs: Any, labels: NDArray[np.int64]) -> Array:
    if labels.ndim == 2:
        return values.reshape(-1, values.shape[-1])[labels.ravel() != -100]
    mask = inputs["attention_mask"].numpy() if isinstance(inputs, Mapping) and "attention_mask" in inputs else None
    taken = []
    for i, sample in enumerate(values):
        masked = mask is not None and len(mask[i]) == len(sample)
        taken.append(row(sample, pool, [t for t in range(len(sample)) if not masked or mask[i][t]]))
    return np.stack(taken)


def run(model: nn.Module, network: Network, layers: tuple[str, ...]) -> Seen:
    """Run all batches in eval mode with hooks that clone; the hooks stay."""
    modules, seen = dict(model.named_modules()), {}

    def keep(layer: str, tensor: torch.Tensor) -> None:
        seen[layer] = tensor.detach().double().numpy().copy()

    for layer in layers:
        name = layer.partition(":")[0]
        if name in modules:
            modules[name].register_forward_hook(lambda _, __, output, layer=layer: keep(layer, first_tensor(output)))
        else:
            module = modules[name.removesuffix(".input")]
            module.register_forward_pre_hook(lambda _, args, layer=layer: keep(layer, args[0]))
    model.eval()
    parts: dict[str, list[Array]] = {}
    labels, logits = [], []
    for batch in network.batches():
        inputs, y = split(network, batch)
        with torch.no_grad():
            output = first_tensor(model(**inputs) if isinstance(inputs, Mapping) else model(inputs))
        for layer, values in seen.items():
            parts.setdefault(layer, []).append(rows(values, layer.partition(":")[2], inputs, y))
        labels.append(y.ravel()[y.ravel() != -100])
        logits.append(rows(output.double().numpy(), "", inputs, y))
    return Seen({layer: np.concatenate(part) for layer, part in parts.items()}, np.concatenate(labels), np.concatenate(logits))


def deviation(moments: Any, features: Array, labels: NDArray[np.int64]) -> float:
    """The worst deviation of class counts, means, and variances within the classes and between, relative to the oracle's."""
    num_classes = len(moments.counts)
    present = [k for k in range(num_classes) if (labels == k).any()]
    assert moments.counts.tolist() == [int((labels == k).sum()) for k in range(num_classes)]
    means = np.stack([features[labels == k].mean(axis=0) for k in present])
    spread = np.array([((features[labels == k] - mean) ** 2).sum() for k, mean in zip(present, means, strict=True)])
    own = moments.means[present].numpy()
    between, own_between = (((centers - centers.mean(axis=0)) ** 2).sum() for centers in (means, own))
    return max(
        float(np.abs(own - means).max() / np.abs(means).max()),
        float((np.abs(moments.scatter_traces[present].numpy() - spread) / spread.max()).max()),
        float(abs(own_between - between) / between),
    )
