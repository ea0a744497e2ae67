"""Watching: what every module of a network does in one forward pass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from ncollapse.hooks.batch_io import run_network
from ncollapse.hooks.capture import Captured, all_features_of


@dataclass
class Run:
    """What one module did in the watched pass.

    Attributes:
        name: Its name.
        module: The module.
        given: Its first argument, if that is a tensor.
        output: Its features, None if it returned none.
        runs: How often it ran.
        begun: How many modules had finished when it began.
    """

    name: str
    module: nn.Module
    given: Captured | None = None
    output: Captured | None = None
    runs: int = 0
    begun: int = 0


class _Watcher:
    """Hooks for all modules, and what they saw."""

    def __init__(self) -> None:
        self.begun: dict[str, tuple[int, Captured | None]] = {}
        self.runs: dict[str, Run] = {}

    def begin(self, name: str) -> Any:
        """A hook for before the module runs."""

        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            given = next(iter((*args, *kwargs.values())), None)
            self.begun.setdefault(name, (len(self.runs), _seen(given) if isinstance(given, Tensor) else None))

        return hook

    def end(self, name: str) -> Any:
        """A hook for after it."""

        def hook(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            if name in self.runs:
                self.runs[name].runs += 1
                return
            position, given = self.begun[name]
            self.runs[name] = Run(name, module, given, next(iter(_features(output)), None), 1, position)

        return hook


def _seen(tensor: Tensor) -> Captured:
    return Captured.of(tensor.detach(), tensor.detach(), copied=True)


def _features(output: Any) -> list[Captured]:
    return [_seen(tensor) for tensor in all_features_of(output)]


def watch(model: nn.Module, modules: dict[str, nn.Module], inputs: Any) -> tuple[dict[str, Run], list[Captured]]:
    """Run a network once.

    Args:
        model: The network.
        modules: Its modules by name.
        inputs: What it takes.

    Returns:
        What every module that ran did, in the order in which they finished, and all features that the network returned, its
        logits first.
    """
    watcher = _Watcher()
    handles = []
    try:
        for name, module in modules.items():
            handles.append(module.register_forward_pre_hook(watcher.begin(name), with_kwargs=True))
            handles.append(module.register_forward_hook(watcher.end(name)))
        output = run_network(model, inputs)
    finally:
        for handle in handles:
            handle.remove()
    return watcher.runs, _features(output)
