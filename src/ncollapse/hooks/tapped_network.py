"""Hooks that hand out the tapped features of each forward pass, in order of execution."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from ncollapse.hooks.batch_io import IGNORED_LABEL, attention_mask, first_samples, run_network
from ncollapse.hooks.capture import Captured, feature_of
from ncollapse.hooks.network import in_eval_mode
from ncollapse.hooks.output_hook import Handle, hook_output
from ncollapse.hooks.tap import Pool, Tap


@dataclass(frozen=True)
class TapPlan:
    """What to hook."""

    taps: tuple[Tap, ...]
    classifier: str | None
    feeding: str | None
    feeding_pool: Pool
    overwritten: frozenset[str]
    explanation: str
    left_out: Mapping[str, str] = field(default_factory=dict)

    @property
    def own_input(self) -> str | None:
        """The classifier's input where that is a layer of its own, and no tap reads it."""
        return self.feeding if self.feeding not in {tap.label for tap in self.taps} else None


class TappedNetwork:
    """Context manager that hooks a network and hands out the tapped features of each forward pass."""

    # Hooks are removed on leaving, and every module's mode is restored, also after an error. Nothing needs gradients.

    def __init__(self, model: nn.Module, make_plan: Callable[[Any, int, bool], TapPlan]) -> None:
        self.model = model
        self.plan: TapPlan | None = None
        self._make_plan = make_plan
        self._hooks: TapHooks | None = None
        self._stack = ExitStack()

    def __enter__(self) -> TappedNetwork:
        self._stack.enter_context(in_eval_mode(self.model))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self._stack.close()
        if self._hooks is not None:
            self._hooks.remove()

    def forward(
        self, inputs: Any, labels: Tensor, receive: Callable[[str, Tensor], None] | None = None, hold: bool = True
    ) -> dict[str, Tensor]:
        """Run the network on one batch."""
        tokens = labeled_tokens(labels)
        with torch.no_grad():
            if self._hooks is None:
                samples, num_rows = first_samples(inputs, len(labels))
                self.plan = self._make_plan(samples, num_rows, tokens is not None)
                self._hooks = TapHooks(self.model, self.plan)
            self._hooks.begin(attention_mask(inputs), tokens, receive, hold)
            run_network(self.model, inputs)
        return self._hooks.end()


class TapHooks:
    """The hooks of a plan, and what they see in one forward pass, from ``begin`` to ``end``."""

    def __init__(self, model: nn.Module, plan: TapPlan) -> None:
        self.plan = plan
        self._running = False
        self._captured: dict[str, Captured | None] = {}
        self._mask: Tensor | None = None
        self._tokens: Tensor | None = None
        self._receive: Callable[[str, Tensor], None] | None = None
        self._hold = True
        self._handles: list[Handle] = []
        by_module: dict[str, list[Tap]] = {}
        for tap in plan.taps:
            by_module.setdefault(tap.name, []).append(tap)
        for name, taps in by_module.items():
            self._handles.append(hook_output(model.get_submodule(name), self._capture(taps)))
        if plan.classifier is not None and plan.own_input is not None:
            classifier = model.get_submodule(plan.classifier)
            self._handles.append(classifier.register_forward_pre_hook(self._capture_input(plan), with_kwargs=True))

    def begin(
        self,
        mask: Tensor | None,
        tokens: Tensor | None = None,
        receive: Callable[[str, Tensor], None] | None = None,
        hold: bool = True,
    ) -> None:
        """Capture from here on."""
        self._captured.clear()
        self._running, self._mask, self._tokens, self._receive, self._hold = True, mask, tokens, receive, hold

    def end(self) -> dict[str, Tensor]:
        """Capture no longer."""
        self._running, self._receive = False, None
        captured, self._captured = self._captured, {}
        wanted = {tap.label for tap in self.plan.taps} | ({self.plan.feeding} - {None})
        missing = wanted - captured.keys()
        if missing:
            raise ValueError(
                f"Layers {', '.join(sorted(map(str, missing)))} did not run in a batch. Name layers that always run."
            )
        held = {label: seen for label, seen in captured.items() if seen is not None}
        for label, seen in held.items():
            if seen.overwritten and label not in self.plan.overwritten:
                raise ValueError(
                    f"Layer {label!r} is overwritten in place in some batches only. Tap a module after the operation."
                )
        return {label: seen.values for label, seen in held.items()}

    def remove(self) -> None:
        """Take the hooks off the network."""
        for handle in self._handles:
            handle.remove()

    def _capture(self, taps: Sequence[Tap]) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            for tap in taps:
                self._keep(tap, feature_of(output, tap.label))

        return hook

    def _capture_input(self, plan: TapPlan) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            self._keep(input_tap(str(plan.classifier), plan.feeding_pool), args[0] if args else kwargs["input"])

        return hook

    def _keep(self, tap: Tap, output: Tensor) -> None:
        # Between two passes others may run the module, such as gradient checkpointing in the backward pass.
        if not self._running:
            return
        if tap.label in self._captured:
            raise ValueError(
                f"Layer {tap.label!r} runs more than once in a forward pass, so its output is ambiguous. "
                "Tap the modules around it."
            )
        # Outside of the inference mode that a network may run in: running sums made inside could not be added to outside.
        with torch.inference_mode(False), torch.no_grad():
            output = output.detach()
            rows = self._rows(tap, output)
            seen = Captured.of(output, rows, tap.label in self.plan.overwritten) if self._hold else None
            self._captured[tap.label] = seen
            if self._receive is not None:
                self._receive(tap.label, rows if seen is None else seen.values)

    def _rows(self, tap: Tap, output: Tensor) -> Tensor:
        if self._tokens is None:
            return tap.read(output, self._mask)
        if output.ndim != 3 or tap.pool != "flatten":
            raise ValueError(
                f"Layer {tap.label!r} must return (N, T, D) where every token has a label, got {tuple(output.shape)}. "
                "Name layers that keep the tokens, with pool='flatten'; convert one-hot labels with argmax(1)."
            )
        return output.flatten(0, 1).index_select(0, self._tokens.to(output.device))


def labeled_tokens(labels: Any) -> Tensor | None:
    """Which tokens are rows of their own."""
    if not (isinstance(labels, Tensor) and labels.ndim == 2 and labels.shape[1] > 1):
        return None
    return (labels.flatten() != IGNORED_LABEL).nonzero().flatten()


def input_tap(classifier: str, pool: Pool) -> Tap:
    """The layer that is a classifier's input."""
    return Tap(f"{classifier}.input", pool)
