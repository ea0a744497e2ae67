"""``find_layers``: the layers of a network that are measured by default, without measuring them."""

from __future__ import annotations

import html
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from ncollapse.default_device import on_the_cpu
from ncollapse.hooks.batch_io import map_tensors, num_samples_of
from ncollapse.hooks.discovery import Discovery
from ncollapse.hooks.tap import Read, Tap
from ncollapse.hooks.tapped_network import look
from ncollapse.hooks.untouched import Untouched, device_of, network_of

_WIDTH = 100
# A deep network prints its first five and last three layers.
_SHOWN = (5, 3)


@dataclass(frozen=True, repr=False)
class Layers:
    """The layers of a network that ``measure`` measures by default.

    Attributes:
        network: Class name of the network.
        taps: The modules to measure and how each is read. Change them as you like and pass them as ``measure(layers=...)``.
        classifier: Name of the classifier, for NC3: a module, or a parameter that the forward multiplies with the features;
            None if neither gives the logits that the network returns.
        classifier_input: Name of the layer that feeds the classifier, one of ``names``; None without a classifier.
        classifier_pool: How that layer is read if it is not among ``taps``.
        why: Why these layers were chosen.
        left_out: Modules that look like layers but are not measured, each with the reason.
    """

    network: str
    taps: tuple[Tap, ...]
    classifier: str | None
    classifier_input: str | None
    classifier_pool: Read
    why: str
    left_out: Mapping[str, str]

    @property
    def names(self) -> tuple[str, ...]:
        """The layers as in ``Measurement.layers``, in order of execution; the last may be the classifier's input."""
        labels = tuple(tap.label for tap in self.taps)
        own_input = self.classifier_input is not None and self.classifier_input not in labels
        return (*labels, self.classifier_input) if own_input and self.classifier_input is not None else labels

    @property
    def pools(self) -> tuple[str, ...]:
        """How each layer becomes one row per sample, as in ``Tap``; "flatten" also if every token is a row."""
        pools = [*(tap.pool for tap in self.taps), self.classifier_pool][: len(self.names)]
        return tuple(pool if isinstance(pool, str) else getattr(pool, "__name__", "function") for pool in pools)

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


@on_the_cpu
def find_layers(model: nn.Module, inputs: Any, *, num_classes: int | None = None) -> Layers:
    """Find the layers that ``measure`` measures by default. No labels are needed and nothing is measured.

    The network runs a few times on two of the samples, in eval mode and without gradients. Its modes, buffers, hooks and the
    random state stay as they are.

    A layer is named as its module in ``model.named_modules()``. ``.input`` behind it means what the module takes, not what it
    returns. A suffix says how the positions of a sample become one row: ``:cls`` is the first token, ``:last_token`` the last
    one that the attention mask marks, ``:mean`` the average over tokens or pixels. A pool of your own gives its function's
    name. Without a suffix all numbers of a sample are its features, or each token is a row if each has a label. So
    ``"encoder.layers.3:cls"`` is the first token behind the fourth layer. ``Tap`` accepts the same pools.

    Args:
        inputs: One sample or more as the network's forward expects them: a tensor, a mapping of keyword arguments, or a tuple
            of positional arguments. Tensors are moved to the device of the network's first parameter.
        num_classes: K. Then the classifier is found as in ``measure``: it gives the returned logits of K classes. With None it
            gives the first returned tensor.

    Returns:
        The layers, the classifier, and why they were chosen. Printing them takes a few lines.

    Raises:
        ValueError: If the network has no modules, has parameters without values, or no layer has one row per sample.
        TypeError: If the model is not a network, or the inputs contain no tensor.

    Example:
        >>> net = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))
        >>> find_layers(net, torch.zeros(2, 2))
        2 layers of Sequential: 1, 3
        classifier: 4, fed by 3
        why: inputs of the layers with weights; classifier 4 gives the logits
    """
    model = network_of(model)
    num_samples = num_samples_of(inputs)
    if num_samples == 0:
        raise TypeError(
            f"inputs must contain a tensor with at least one sample, got {type(inputs).__name__}. Pass the arguments of the "
            "network's forward: a tensor, a mapping of keyword arguments, or a tuple of positional ones."
        )
    device = device_of(model)
    discovery = Discovery(model, num_classes=num_classes)
    inputs = map_tensors(lambda tensor: tensor.to(device), inputs)
    with Untouched(model) as untouched, torch.no_grad():
        plan = look(untouched, partial(discovery.plan, tokens=None), inputs, num_samples)
    return Layers(
        type(model).__name__,
        plan.taps,
        None if plan.read_classifier is None else plan.classifier,
        plan.feeding,
        "flatten" if plan.feeding_tap is None else plan.feeding_tap.pool,
        plan.explanation,
        plan.left_out,
    )
