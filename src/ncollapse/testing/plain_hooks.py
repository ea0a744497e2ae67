"""Features read by plain hooks, without the library's way of reading a network, and plain sums of them in float64."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ncollapse.hooks.batch_io import IGNORED_LABEL, copy_of, run_network
from ncollapse.hooks.capture import feature_of
from ncollapse.hooks.masks import mask_rules
from ncollapse.hooks.tap import INPUT
from ncollapse.hooks.untouched import Untouched

_POOLS = ("", "mean", "cls", "last_token")


class Seen(NamedTuple):
    """What plain hooks saw: rows by layer in float64, why others could not be read, the labels, and the outputs by batch."""

    features: dict[str, Tensor]
    unread: dict[str, str]
    labels: Tensor
    outputs: list[Any]
    precision: float


class LabeledBatch(NamedTuple):
    """Inputs and labels, and a mask of the positions that have labels if the user gave one."""

    inputs: Any
    labels: Tensor
    where: Tensor | None = None

    @classmethod
    def of(cls, inputs: Any, labels: Tensor, rows: Tensor | slice | None) -> LabeledBatch:
        """Expand the user's ``rows`` to a mask: a slice leaves out positions at both ends on top of those with labels."""
        if isinstance(rows, slice):
            before, behind = rows.start or 0, max(0, -(rows.stop or 0))
            marks = torch.zeros(before + labels.shape[1] + behind, dtype=torch.bool)
            marks[rows] = True
            return cls(inputs, labels, marks.expand(len(labels), -1))
        if rows is not None and rows.ndim == labels.ndim - 1:
            rows = rows.expand(len(labels), *rows.shape)
        return cls(inputs, labels, None if rows is None else rows.cpu())

    def counted(self, ignore: int | None) -> Tensor:
        """Return which of the labels count, flat."""
        counts = self.labels.reshape(-1) != (IGNORED_LABEL if ignore is None else ignore)
        same = self.where is not None and self.where.shape == self.labels.shape
        return counts & self.where.reshape(-1) if same and self.where is not None else counts

    def at_labels(self, positions: Tensor) -> Tensor:
        """Return the rows of labels from one row for every position, (M, D); unchanged if they are as many as labels."""
        fits = self.where is None or len(positions) == self.labels.numel()
        return positions if fits or self.where is None else positions[self.where.reshape(-1)]


def read_layers(
    model: nn.Module, layers: Sequence[str], batches: Sequence[LabeledBatch], ignore: int | None, chosen: str = ""
) -> Seen:
    """Run a network in eval mode, with hooks that copy what the layers return; ``chosen`` may say what is padding."""
    kept: dict[str, Tensor] = {}
    handles = _hooked(model, layers, kept)
    parts: dict[str, list[Tensor]] = {layer: [] for layer in layers}
    unread: dict[str, str] = {}
    labels, outputs, precision = [], [], 0.0
    try:
        with Untouched(model), torch.no_grad():
            for batch in batches:
                outputs.append(run_network(model, copy_of(batch.inputs)))
                rule = next((rule for rule in mask_rules(batch.inputs, model) if rule.words in chosen), None)
                mask = None if rule is None else rule.read(batch.inputs, model)
                counted = batch.counted(ignore)
                labels.append(batch.labels.reshape(-1)[counted])
                for layer, values in kept.items():
                    precision = max(precision, torch.finfo(values.dtype).eps)
                    rows = _rows(values, layer.partition(":")[2], batch, mask)
                    if isinstance(rows, str):
                        unread[layer] = rows
                    else:
                        parts[layer].append(rows.double().cpu()[counted])
    finally:
        for handle in handles:
            handle.remove()
    features = {layer: torch.cat(part) for layer, part in parts.items() if layer not in unread}
    return Seen(features, unread, torch.cat(labels), outputs, precision)


def _hooked(model: nn.Module, layers: Sequence[str], kept: dict[str, Tensor]) -> list[RemovableHandle]:
    """Copy what modules return, or take, into ``kept`` by hooks."""
    handles, modules = list[RemovableHandle](), dict(model.named_modules(remove_duplicate=False))
    for layer in layers:
        name = layer.partition(":")[0]

        def keep(output: Any, layer: str = layer) -> None:
            kept[layer] = feature_of(output, layer).detach().clone()

        if name in modules:
            handles.append(modules[name].register_forward_hook(lambda _, __, output, keep=keep: keep(output)))
        else:
            taking = modules[name.removesuffix(INPUT)]
            handles.append(
                taking.register_forward_pre_hook(
                    lambda _, args, kwargs, keep=keep: keep(next(iter((*args, *kwargs.values())))), with_kwargs=True
                )
            )
    return handles


def _rows(values: Tensor, pool: str, batch: LabeledBatch, mask: Tensor | None) -> Tensor | str:
    """Return one row per label, or why it is not read here."""
    shape, target, known = tuple(values.shape), batch.labels, [batch.labels.shape]
    known += [] if batch.where is None else [batch.where.shape]
    if pool not in _POOLS:
        return "read by a function"
    if target.ndim == 2 and target.shape[1] > 1:
        return batch.at_labels(values.flatten(0, 1)) if values.ndim == 3 and shape[:2] in known else f"returns {shape}"
    if target.ndim == 3:
        pixels = values.movedim(1, -1)
        return batch.at_labels(pixels.flatten(0, -2)) if pixels.shape[:-1] in known else f"returns {shape}"
    if target.ndim > 3 or shape[:1] not in known:
        return f"returns {shape} for labels {tuple(target.shape)}"
    if batch.where is not None:
        return batch.at_labels(values.flatten(1))
    if not pool:
        return values.flatten(1)
    return torch.stack([_pooled(sample.double(), pool, None if mask is None else mask[i]) for i, sample in enumerate(values)])


def _pooled(sample: Tensor, pool: str, mask: Tensor | None) -> Tensor:
    """Read one sample (T, D) or (C, H, W), token by token."""
    if sample.ndim == 3:
        return sample.flatten(1).mean(dim=1)
    masked = mask is not None and len(mask) == len(sample)
    real = [t for t in range(len(sample)) if not masked or bool(mask[t] != 0)]  # type: ignore[index]
    if pool == "mean":
        return torch.stack([sample[t] for t in real]).mean(dim=0)
    return sample[0] if pool == "cls" else sample[real[-1]]


def deviation(values: Tensor, expected: Tensor) -> float:
    """Return the largest difference, relative to the largest number."""
    if values.shape != expected.shape:
        return float("inf")
    return float((values.double() - expected).abs().max() / expected.abs().max().clamp_min(1e-300))


def plain_values(features: Tensor, labels: Tensor, num_classes: int) -> Mapping[str, float]:
    """Return PFC1 and PFC3 by two-pass sums: class means first, then distances to them."""
    groups = [features[labels == k] for k in range(num_classes)]
    means = torch.stack([group.mean(dim=0) for group in groups])
    within = sum(float((group - mean).square().sum(dim=1).mean()) for group, mean in zip(groups, means, strict=True))
    between = float((means - means.mean(dim=0)).square().sum())
    right = sum(
        int((torch.stack([(group - mean).norm(dim=1) for mean in means], dim=1).argmin(dim=1) == k).sum())
        for k, group in enumerate(groups)
    )
    return {"pfc1": within / between if between else float("nan"), "pfc3": right / len(labels)}
