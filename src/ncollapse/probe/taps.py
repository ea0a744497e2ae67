"""Taps: which modules are measured, and forward hooks that hand out their outputs in order of execution."""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

_NAMES_SHOWN = 30


@dataclass(frozen=True)
class TapPlan:
    """Which modules to hook.

    Attributes:
        layers: Module names whose outputs are measured.
        classifier: Name of the last linear layer, or None.
        required: Whether each of the layers must run (they were named), or those that do not are dropped (found).
        explanation: A sentence that says how they were chosen.
    """

    layers: tuple[str, ...]
    classifier: str | None
    required: bool
    explanation: str


def plan_taps(model: nn.Module, layers: str | Sequence[str], classifier: str | None, num_classes: int) -> TapPlan:
    """Choose the modules to measure.

    Args:
        model: Any network.
        layers: "auto", or names and globs as in ``named_modules()``. "auto" takes the stages that the network declares in
            ``collapse_stages``, else its top-level modules, containers opened once.
        classifier: Name of the last linear layer; None takes what the network declares in ``collapse_classifier``, else the
            last ``nn.Linear`` with K outputs, else none.
        num_classes: K.

    Returns:
        The plan.

    Raises:
        ValueError: If a name or glob matches no module, or the classifier is not a linear layer with K outputs.
    """
    modules = {name: module for name, module in model.named_modules() if name}
    classifier = _find_classifier(model, modules, classifier, num_classes)
    if layers != "auto":
        wanted = [layers] if isinstance(layers, str) else list(layers)
        names = _match(wanted, modules)
        return TapPlan(names, classifier, True, f"{len(names)} layers by name: {', '.join(wanted)}")
    declared = getattr(model, "collapse_stages", None)
    if declared is not None:
        names = _match(list(declared), modules)
        return TapPlan(names, classifier, True, f"{len(names)} stages that {type(model).__name__} declares")
    names = tuple(name for name in _top_level(model) if name != classifier)
    explanation = f"top-level modules of {type(model).__name__}; name others with layers=[...]"
    return TapPlan(names or tuple(name for name in modules if name != classifier), classifier, False, explanation)


def _top_level(model: nn.Module) -> list[str]:
    """Names of the children, with containers opened once."""
    names = []
    for name, child in model.named_children():
        inner = [f"{name}.{key}" for key, _ in child.named_children()]
        names.extend(inner if isinstance(child, nn.Sequential | nn.ModuleList) and inner else [name])
    return names


def _match(wanted: Sequence[str], modules: dict[str, nn.Module]) -> tuple[str, ...]:
    names: dict[str, None] = {}
    for pattern in wanted:
        # A plain name first: module names may hold brackets, which a glob would read as a set.
        found = [pattern] if pattern in modules else fnmatch.filter(modules, pattern)
        if not found:
            raise ValueError(f"No module named or matching {pattern!r}. {_available(pattern, modules)}")
        names.update(dict.fromkeys(found))
    if not names:
        raise ValueError(f"layers must name at least one module, got none. {_available('', modules)}")
    return tuple(names)


def _available(pattern: str, modules: dict[str, nn.Module]) -> str:
    near = difflib.get_close_matches(pattern, modules, n=5)
    listed = list(modules)[:_NAMES_SHOWN]
    more = f" and {len(modules) - len(listed)} more (model.named_modules())" if len(modules) > len(listed) else ""
    return (f"Near: {', '.join(near)}. " if near else "") + f"Layers available here: {', '.join(listed)}{more}."


def _find_classifier(model: nn.Module, modules: dict[str, nn.Module], name: str | None, num_classes: int) -> str | None:
    name = getattr(model, "collapse_classifier", None) if name is None else name
    if name is None:
        linear = [key for key, m in modules.items() if isinstance(m, nn.Linear) and m.out_features == num_classes]
        return linear[-1] if linear else None
    module = modules.get(name)
    if not isinstance(module, nn.Linear) or module.out_features != num_classes:
        got = "no such module" if module is None else repr(module)
        raise ValueError(
            f"classifier {name!r} must be an nn.Linear with {num_classes} outputs, got {got}. {_available(name, modules)}"
        )
    return name


class Taps:
    """Context manager that hooks a network and hands out the tapped features of each forward pass.

    Hooks are removed and every module's train/eval mode is restored on leaving, also after an error. The network runs in
    eval mode and without gradients.

    Attributes:
        classifier_layer: After the first forward pass, the layer that feeds the classifier; None without one.
    """

    def __init__(self, model: nn.Module, plan: TapPlan) -> None:
        self.model = model
        self.plan = plan
        self.classifier_layer: str | None = None
        self._captured: dict[str, _Captured] = {}
        # Layers that later operations overwrite in place and that are therefore copied; all of them until that is known.
        self._copied: set[str] | None = None
        self._handles: list[torch.utils.hooks.RemovableHandle] = []
        self._modes: list[tuple[nn.Module, bool]] = []

    def __enter__(self) -> Taps:
        self._modes = [(module, module.training) for module in self.model.modules()]
        self.model.eval()
        for name in self.plan.layers:
            self._handles.append(self.model.get_submodule(name).register_forward_hook(self._capture(name)))
        if self.plan.classifier is not None:
            classifier = self.model.get_submodule(self.plan.classifier)
            self._handles.append(classifier.register_forward_pre_hook(self._capture_classifier_input, with_kwargs=True))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        for handle in self._handles:
            handle.remove()
        for module, training in self._modes:
            module.training = training

    def forward(self, inputs: Any) -> dict[str, Tensor]:
        """Run the network on one batch.

        Args:
            inputs: What the network takes.

        Returns:
            Flat features (N, d) of every layer, in order of execution, the classifier's own input last if no layer is it.

        Raises:
            ValueError: If a named layer did not run, or ran twice.
            TypeError: If a layer's output is not a floating-point tensor.
        """
        self._captured.clear()
        with torch.no_grad():
            self.model(inputs)
        self._watch_overwritten()
        features = {name: captured.values for name, captured in self._captured.items() if name != _CLASSIFIER_INPUT}
        missing = [name for name in self.plan.layers if name not in features]
        if missing and (self.plan.required or not features):
            raise ValueError(f"Layers {', '.join(missing)} did not run in the forward pass. Name layers that do.")
        self._place_classifier(features)
        return {name: output.flatten(1) for name, output in features.items()}

    def _watch_overwritten(self) -> None:
        """After the first pass, copy only what a later operation overwrites in place."""
        overwritten = {name for name, captured in self._captured.items() if captured.overwritten}
        if self._copied is None:
            self._copied = overwritten
        elif overwritten - self._copied:
            name = min(overwritten - self._copied)
            raise ValueError(f"Layer {name!r} is overwritten in place in some batches only. Tap a module after the operation.")

    def _capture(self, name: str) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            if name in self._captured:
                raise ValueError(
                    f"Layer {name!r} runs more than once in a forward pass, so its output is ambiguous. "
                    "Tap the modules around it."
                )
            if not isinstance(output, Tensor) or not output.is_floating_point() or output.ndim < 2:
                got = f"{output.dtype} {tuple(output.shape)}" if isinstance(output, Tensor) else type(output).__name__
                raise TypeError(
                    f"Layer {name!r} must return a floating-point tensor of shape (N, ...), got {got}. Tap a module inside it."
                )
            self._captured[name] = _Captured.of(output, self._copied is None or name in self._copied)

        return hook

    def _capture_classifier_input(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        given = cast(Tensor, args[0] if args else kwargs["input"])
        self._captured[_CLASSIFIER_INPUT] = _Captured.of(given, self._copied is None or _CLASSIFIER_INPUT in self._copied)

    def _place_classifier(self, features: dict[str, Tensor]) -> None:
        """Find the layer that feeds the classifier, or add the classifier's input as a layer of its own."""
        given = self._captured.get(_CLASSIFIER_INPUT)
        if given is None:
            return
        if given.values.ndim != 2:
            raise TypeError(
                f"Classifier {self.plan.classifier!r} must take features of shape (N, d), got {tuple(given.values.shape)}. "
                "Name another with classifier=."
            )
        if self.classifier_layer is None:
            fed = [name for name in features if self._captured[name].is_same(given)]
            self.classifier_layer = fed[-1] if fed else f"{self.plan.classifier}.input"
        if self.classifier_layer not in features:
            features[self.classifier_layer] = given.values


# No module has this name.
_CLASSIFIER_INPUT = ""


class _Captured(NamedTuple):
    """What a hook saw: the tensor itself, its version then, and values that nothing overwrites."""

    tensor: Tensor
    version: int | None
    values: Tensor

    @classmethod
    def of(cls, tensor: Tensor, copied: bool) -> _Captured:
        tensor = tensor.detach()
        # Tensors made in inference mode count no versions: always copied.
        version = None if tensor.is_inference() else tensor._version
        return cls(tensor, version, tensor.clone() if copied or version is None else tensor)

    @property
    def overwritten(self) -> bool:
        return self.version is not None and self.tensor._version != self.version

    def is_same(self, other: _Captured) -> bool:
        """Whether both are one tensor, or views of it, with no operation in place between them."""
        same_memory = self.tensor.data_ptr() == other.tensor.data_ptr() and self.tensor.numel() == other.tensor.numel()
        return same_memory and self.version == other.version and torch.equal(self.values.flatten(1), other.values.flatten(1))
