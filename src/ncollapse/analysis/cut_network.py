"""A network that ends at one of its layers: a copy whose forward is ended by an exception in a hook, and a head."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ncollapse.hooks.batch_io import Arguments, run_network
from ncollapse.hooks.capture import feature_of
from ncollapse.hooks.pooling import real_tokens
from ncollapse.hooks.tap import INPUT, Tap
from ncollapse.hooks.tap_hooks import TapPlan

HeadName = Literal["linear", "ncc"]


@dataclass(frozen=True)
class Truncation:
    """What cutting a network changed, as measured; the values of the whole network are called ``network_…``.

    Attributes:
        layer: Where it ends.
        head: "linear" or "ncc".
        train_accuracy: Accuracy of the cut network on the training set, as it was returned.
        test_accuracy: Its accuracy on held-out data; nan without any.
        network_train_accuracy: Accuracy of the whole network; nan if it returns no logits.
        network_test_accuracy: The same on held-out data.
        parameters: Number of parameters, including the head's.
        network_parameters: Number of parameters of the whole network.
        seconds: Median time of one forward pass of the first batch.
        network_seconds: The same for the whole network; the two are timed in turn.
    """

    layer: str
    head: HeadName
    train_accuracy: float
    test_accuracy: float
    network_train_accuracy: float
    network_test_accuracy: float
    parameters: int
    network_parameters: int
    seconds: float
    network_seconds: float

    def __str__(self) -> str:
        accuracy = [f"train accuracy {self.train_accuracy:.4f} (network {self.network_train_accuracy:.4f})"]
        if not math.isnan(self.test_accuracy):
            accuracy.append(f"test accuracy {self.test_accuracy:.4f} (network {self.network_test_accuracy:.4f})")
        return (
            f"cut at {self.layer}, {self.head} head: {', '.join(accuracy)}; {self.parameters:,} of {self.network_parameters:,} "
            f"parameters, {1000 * self.seconds:.2f} of {1000 * self.network_seconds:.2f} ms a batch"
        )


class _Reached(Exception):
    """The layer was reached; its value ends the forward."""

    def __init__(self, value: Tensor) -> None:
        self.value = value


class Truncated(nn.Module):
    """A network that was cut at a layer, with a linear head on its centered features; ``truncate`` makes it.

    Attributes:
        body: A copy of the network up to the layer.
        origin: Subtracted from the features, shape (d,).
        head: Linear layer (K, d).
        truncation: What was measured when it was made.
    """

    truncation: Truncation
    origin: Tensor

    def __init__(self, body: nn.Module, tap: Tap, plan: TapPlan, origin: Tensor, head: nn.Linear) -> None:
        super().__init__()
        self.body, self.head = body, head
        self.register_buffer("origin", origin)
        self._tap, self._placement, self._rule = tap, plan.placement(tap.label), plan.mask_rule
        modules = dict(body.named_modules(remove_duplicate=False))
        label = tap.label

        def end(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            raise _Reached(feature_of(output, label))

        def end_before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            raise _Reached(feature_of(next(iter((*args, *kwargs.values())), None), label))

        if tap.name in modules:
            modules[tap.name].register_forward_hook(end)
        else:
            modules[tap.name.removesuffix(INPUT)].register_forward_pre_hook(end_before, with_kwargs=True)

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """Return logits (N, K), given what the network takes.

        Raises:
            RuntimeError: If the network did not reach the layer.
        """
        try:
            self.body(*args, **kwargs)
        except _Reached as reached:
            value = self._placement.arranged(reached.value)
        else:
            raise RuntimeError(f"Layer {self._tap.label!r} must run in every forward pass, but it did not run.")
        mask = real_tokens(Arguments(args, kwargs), self.body, self._rule) if self._tap.skips_padding else None
        rows = self._tap.read(value, mask)
        logits: Tensor = self.head(rows.to(self.origin.dtype) - self.origin)
        return logits


class _Removed(nn.Module):
    """In the place of a module that runs after the layer."""

    def forward(self, *args: Any, **kwargs: Any) -> None:
        raise RuntimeError("This module was removed, because it was not reached before the layer at which the network ends.")


def drop_unreached(cut: Truncated, inputs: Callable[[], Iterable[Any]]) -> None:
    """Remove the modules of the body that no batch reaches, as long as the outputs stay the same to the bit."""
    # Scripted modules take no hooks that Python calls: they stay.
    seen: set[nn.Module] = {module for module in cut.body.modules() if isinstance(module, torch.jit.ScriptModule)}
    modules = [module for module in cut.body.modules() if module not in seen]
    hooks = [module.register_forward_pre_hook(lambda module, args: seen.add(module)) for module in modules]
    try:
        for batch in inputs():
            _outputs(cut, batch)
    finally:
        for hook in hooks:
            hook.remove()
    found = [(parent, name) for parent, name in _outermost_unreached(cut.body, seen) if _has_state(getattr(parent, name))]
    if _drop(cut, found, inputs):
        return
    # Some weight is read without its module: the projection of an attention, say.
    for place in found:
        _drop(cut, [place], inputs)


def _outermost_unreached(module: nn.Module, seen: set[nn.Module]) -> list[tuple[nn.Module, str]]:
    """Return places of modules that were not called and have no part that was called."""
    places = []
    for name, child in module.named_children():
        if any(part in seen for part in child.modules()):
            places += _outermost_unreached(child, seen)
        else:
            places.append((module, name))
    return places


def _has_state(module: nn.Module) -> bool:
    return any(True for _ in module.parameters()) or any(True for _ in module.buffers())


def _drop(cut: Truncated, places: Sequence[tuple[nn.Module, str]], inputs: Callable[[], Iterable[Any]]) -> bool:
    """Remove modules, and put them back if that changes an output."""
    before = [(parent, name, getattr(parent, name)) for parent, name in places]
    after = [(parent, name, _Removed()) for parent, name in places]
    # Both networks see each batch, since a loader may draw other batches each time.
    for batch in inputs():
        expected = _outputs(cut, batch)
        _put(after)
        try:
            same = torch.equal(_outputs(cut, batch), expected)
        except Exception:  # a network may miss its module in any way
            same = False
        _put(before)
        if not same:
            return False
    _put(after)
    return True


def _put(modules: Sequence[tuple[nn.Module, str, nn.Module]]) -> None:
    for parent, name, module in modules:
        setattr(parent, name, module)


def _outputs(cut: Truncated, inputs: Any) -> Tensor:
    with torch.no_grad():
        found: Tensor = run_network(cut, inputs)
    return found
