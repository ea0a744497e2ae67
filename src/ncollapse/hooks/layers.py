"""The layers that are measured by default, told without measuring anything."""

from __future__ import annotations

import html
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ncollapse.hooks.batch_io import first_samples, map_tensors, num_samples_of
from ncollapse.hooks.discovery import Discovery
from ncollapse.hooks.network import buffers_kept, device_of, in_eval_mode, network_of
from ncollapse.hooks.random_state import random_state_kept
from ncollapse.hooks.tap import Pool, Tap

_WIDTH = 100
# Names at the beginning and at the end that are printed of a deep network.
_SHOWN = (5, 3)


@dataclass(frozen=True, repr=False)
class Layers:
    """The layers of a network that ``measure`` takes by default.

    Attributes:
        taps: The modules to measure and how each is read, to be changed at will and handed to ``measure(layers=...)``.
        classifier: Name of the classifier, for NC3 and NC4; None if none was found.
        classifier_input: Name of the layer that feeds the classifier: one of ``names``; None without a classifier.
        classifier_pool: How that layer is read, if no tap reads it.
        why: Why these, in words.
        left_out: Modules that no layer covers although they look like one, each with the reason.
    """

    network: str
    taps: tuple[Tap, ...]
    classifier: str | None
    classifier_input: str | None
    classifier_pool: Pool
    why: str
    left_out: Mapping[str, str]

    @property
    def names(self) -> tuple[str, ...]:
        """The layers as in ``Measurement.layers``, in order of execution; the last may be the classifier's input."""
        labels = tuple(tap.label for tap in self.taps)
        own_input = self.classifier_input is not None and self.classifier_input not in labels
        return (*labels, self.classifier_input) if own_input and self.classifier_input is not None else labels

    @property
    def pools(self) -> tuple[Pool, ...]:
        """How each layer is read as one row per sample, as in ``Tap``; "flatten" also where every token is a row."""
        found = tuple(tap.pool for tap in self.taps if isinstance(tap.pool, str))
        return found if len(found) == len(self.names) else (*found, self.classifier_pool)

    def __len__(self) -> int:
        return len(self.names)

    def __repr__(self) -> str:
        lines = [f"{len(self)} layers of {self.network}: {', '.join(_folded(self.names))}"]
        lines.append(
            "classifier: " + (f"{self.classifier}, fed by {self.classifier_input}" if self.classifier else "none found")
        )
        lines.append(f"why: {self.why}")
        return "\n".join(textwrap.fill(line, _WIDTH, subsequent_indent="  ", break_on_hyphens=False) for line in lines)

    def _repr_html_(self) -> str:
        rows = zip(self.names, self.pools, strict=True)
        body = "".join(
            f"<tr><td><code>{html.escape(name)}</code></td><td>{html.escape(str(pool))}</td></tr>" for name, pool in rows
        )
        notes = html.escape("\n".join(repr(self).splitlines()[1:])) if self.taps else html.escape(self.why)
        return f"<table><thead><tr><th>layer</th><th>read as</th></tr></thead><tbody>{body}</tbody></table><pre>{notes}</pre>"


def _folded(names: tuple[str, ...]) -> tuple[str, ...]:
    first, last = _SHOWN
    if len(names) <= first + last + 1:
        return names
    return (*names[:first], f"… ({len(names) - first - last} more) …", *names[-last:])


def find_layers(model: nn.Module, inputs: Any, *, num_classes: int | None = None) -> Layers:
    """Find the layers that ``measure`` takes of a network by default, without labels and without measuring.

    The network runs once on two of the samples, in eval mode and without gradients. Its modes, buffers, hooks and the random
    state stay as they are.

    Args:
        inputs: What its forward takes: a tensor, a mapping of keyword arguments, or a tuple of positional arguments, with one
            sample or more. Tensors are moved to the device of the network's first parameter.
        num_classes: K. None takes for the classifier only an ``nn.Linear`` whose outputs are seen in what the network returns;
            with K it is found as in ``measure`` also where the network makes something else of its logits.

    Returns:
        The layers, the classifier, and why; printed in a few lines.

    Raises:
        ValueError: If the network holds no modules, has parameters without values, or no layer has one row per sample.
        TypeError: If the model is no network, or the inputs hold no tensor.

    Example:
        >>> net = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))
        >>> find_layers(net, torch.zeros(2, 2))
        2 layers of Sequential: 1, 3
        classifier: 4, fed by 3
        why: layers with weights
    """
    model = network_of(model)
    num_samples = num_samples_of(inputs)
    if num_samples == 0:
        raise TypeError(
            f"inputs must hold a tensor of one sample or more, got {type(inputs).__name__}. Pass what the network's forward "
            "takes: a tensor, a mapping of keyword arguments, or a tuple of positional ones."
        )
    device = device_of(model)
    discovery = Discovery(model, num_classes=num_classes)
    samples, num_rows = first_samples(inputs, num_samples)
    samples = map_tensors(lambda tensor: tensor.to(device), samples)
    with in_eval_mode(model), buffers_kept(model), random_state_kept(), torch.no_grad():
        plan = discovery.plan(samples, num_rows, tokens=None)
    # Under autocast the cast weights of this pass, which have no gradients, would serve the next training step.
    torch.clear_autocast_cache()
    return Layers(
        type(model).__name__, plan.taps, plan.classifier, plan.feeding, plan.feeding_pool, plan.explanation, plan.left_out
    )
