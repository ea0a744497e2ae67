"""Hooks that capture the output of tapped modules in each forward pass."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from types import TracebackType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ncollapse.hooks.affine import Affine
from ncollapse.hooks.batch_io import attention_mask, first_samples, run_network
from ncollapse.hooks.capture import Captured, feature_of
from ncollapse.hooks.label_rows import LabelRows, check_not_one_hot
from ncollapse.hooks.logits import Logits, returned_tensors
from ncollapse.hooks.output_hook import AroundForward, hook_output
from ncollapse.hooks.tap import INPUT, Placement, Pool, Tap
from ncollapse.hooks.untouched import Untouched


@dataclass(frozen=True)
class TapPlan:
    """The modules to hook, how to read them, and why they were chosen.

    Attributes:
        classifier: The classifier, or the module that looks like it.
        feeding: Label of the layer that enters the classifier: a tap, or the classifier's input.
        feeding_pool: How that input becomes one row per sample.
        overwritten: Labels copied at once, because a later in-place operation overwrites them.
        explanation: Shown as ``Measurement.chosen``.
        left_out: Modules not chosen, with the reason.
        read_classifier: Evaluates its W and b as they are now; None if it does not give the returned logits.
        logits: Which of the returned tensors holds the logits; None if none does.
    """

    taps: tuple[Tap, ...] = ()
    classifier: str | None = None
    feeding: str | None = None
    feeding_pool: Pool = "flatten"
    overwritten: frozenset[str] = frozenset()
    explanation: str = ""
    left_out: Mapping[str, str] = field(default_factory=dict)
    read_classifier: Callable[[], Affine | None] | None = None
    logits: Logits | None = None
    num_classes: int | None = None
    placements: Mapping[str, Placement] = field(default_factory=dict)

    @property
    def all_taps(self) -> tuple[Tap, ...]:
        """All captured layers: the taps, and the classifier's own input if no tap reads it."""
        if self.classifier is None or self.feeding in {tap.label for tap in self.taps}:
            return self.taps
        return (*self.taps, Tap(self.classifier + INPUT, self.feeding_pool))

    @property
    def labels(self) -> frozenset[str]:
        """The labels of all captured layers."""
        return frozenset(tap.label for tap in self.all_taps)


class Tapped(NamedTuple):
    """The features of one forward pass by layer, in order of execution, and the network's logits, if it returns them."""

    features: dict[str, Tensor]
    logits: Tensor | None


class TappedNetwork:
    """Context manager that hooks a network and returns the tapped features of each forward pass."""

    # On leaving, also after an error, hooks are removed and the network is restored. No gradients are computed.

    def __init__(
        self, model: nn.Module, make_plan: Callable[..., TapPlan], *, check: bool = False, batches: Any = None
    ) -> None:
        self.model = model
        self.plan: TapPlan | None = None
        self._make_plan = make_plan
        self._hooks: TapHooks | None = None
        self._untouched = Untouched(model, check=check, batches=batches)

    def __enter__(self) -> TappedNetwork:
        self._untouched.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        if self._hooks is not None:
            self._hooks.remove()
        self._untouched.__exit__(kind, error, traceback)

    def rewind(self) -> None:
        """Restore the network's state at the start, for a further pass over the data."""
        if self._hooks is not None:
            self._untouched.rewind()

    def forward(
        self,
        inputs: Any,
        labels: Tensor | LabelRows,
        receive: Callable[[str, Tensor], None] | None = None,
        hold: bool = True,
    ) -> Tapped:
        """Run the network on one batch."""
        rows = labels if isinstance(labels, LabelRows) else LabelRows.of(labels)
        with torch.no_grad():
            if self._hooks is None:
                make_plan = partial(self._make_plan, tokens=rows.num_tokens, labeled=rows)
                try:
                    self.plan = look(self._untouched, make_plan, inputs, rows.num_samples, whole=rows.connected)
                except (ValueError, TypeError):
                    check_not_one_hot(rows, rows.shape[-1], ())
                    raise
                self._untouched.rewind()
                self._hooks = TapHooks(self.model, self.plan)
                self._untouched.mark()
            self._hooks.begin(attention_mask(inputs, self.model), rows, receive, hold)
            output = run_network(self.model, inputs)
        check_not_one_hot(rows, self._hooks.plan.num_classes, returned_tensors(output))
        return self._hooks.end(output)


def look(untouched: Untouched, make_plan: Callable[[Any, int], TapPlan], inputs: Any, num_samples: int, whole: bool) -> TapPlan:
    """Find the layers with the first samples, or with the whole batch if its parts cannot be separated, as in a graph."""
    try:
        if not whole:
            return make_plan(*first_samples(inputs, num_samples))
    except Exception:
        if isinstance(inputs, Tensor):
            raise  # cutting to the first samples tore nothing apart
    finally:
        # The features of the look, which a module may have cached, are not those of the passes.
        untouched.rewind()
    return make_plan(inputs, num_samples)


class TapHooks:
    """The hooks of a plan, which capture features in one forward pass, between ``begin`` and ``end``."""

    def __init__(self, model: nn.Module, plan: TapPlan) -> None:
        self.plan = plan
        self._running = False
        self._captured: dict[str, Captured | None] = {}
        self._mask: Tensor | None = None
        self._labeled: LabelRows | None = None
        self._whole = False
        self._receive: Callable[[str, Tensor], None] | None = None
        self._hold = True
        self._handles: list[AroundForward | RemovableHandle] = []
        by_module: dict[str, list[Tap]] = {}
        for tap in plan.all_taps:
            by_module.setdefault(tap.name, []).append(tap)
        modules = dict(model.named_modules(remove_duplicate=False))
        for name, taps in by_module.items():
            if name in modules:
                self._handles.append(hook_output(modules[name], self._capture(taps)))
            else:
                taking = modules[name.removesuffix(INPUT)]
                self._handles.append(taking.register_forward_pre_hook(self._capture_input(taps), with_kwargs=True))

    def begin(
        self,
        mask: Tensor | None,
        labeled: LabelRows | None = None,
        receive: Callable[[str, Tensor], None] | None = None,
        hold: bool = True,
        whole: bool = False,
    ) -> None:
        """Start capturing rows with labels, all rows if none are given, or whole outputs, to be selected from later.

        ``receive`` gets each layer inside its hook; ``hold`` also keeps it until ``end``.
        """
        self._captured.clear()
        self._running, self._mask, self._labeled, self._receive, self._hold = True, mask, labeled, receive, hold
        self._whole = whole

    def end(self, output: Any) -> Tapped:
        """Stop capturing and return the features and the logits in the network's output."""
        self._running, self._receive = False, None
        captured, self._captured = self._captured, {}
        missing = self.plan.labels - captured.keys()
        if missing:
            raise ValueError(f"Layers must run in every batch, but {', '.join(sorted(missing))} did not. Name layers that do.")
        held = {label: seen for label, seen in captured.items() if seen is not None}
        for label, seen in held.items():
            if seen.overwritten and label not in self.plan.overwritten:
                raise ValueError(
                    f"Layer {label!r} must be treated alike in every batch, but an in-place operation overwrote it in this "
                    "batch and not in the first. Tap a module after the operation."
                )
        with torch.inference_mode(False), torch.no_grad():
            return Tapped({label: seen.values for label, seen in held.items()}, self._logits(output))

    def _logits(self, output: Any) -> Tensor | None:
        """Return the logits, one row per label."""
        if self.plan.logits is None:
            return None
        logits = self.plan.logits.read(output, self.plan.num_classes, self._per_position)
        if logits is None:
            got = ", ".join(str(tuple(part.shape)) for part in returned_tensors(output)) or "no tensor"
            raise ValueError(
                f"The network must return logits of {self.plan.num_classes} classes in every batch as in the first, got {got}. "
                "Measure batches of one kind."
            )
        return logits if self._labeled is None else labeled_logits(self.plan, logits, self._labeled)

    def remove(self) -> None:
        """Remove the hooks from the network."""
        for handle in self._handles:
            handle.remove()

    def _capture(self, taps: Sequence[Tap]) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            for tap in taps:
                self._keep(tap, feature_of(output, tap.label))

        return hook

    def _capture_input(self, taps: Sequence[Tap]) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            taken = next(iter((*args, *kwargs.values())), None)
            for tap in taps:
                self._keep(tap, feature_of(taken, tap.label))

        return hook

    def _keep(self, tap: Tap, output: Tensor) -> None:
        # The module may also run between two passes, for example for gradient checkpointing in the backward pass.
        if not self._running:
            return
        if tap.label in self._captured:
            raise ValueError(
                f"Layers must run once per forward pass, but {tap.label!r} ran a second time. Tap the modules around it."
            )
        # The network may run in inference mode. Leave it here: tensors made inside could not be updated in place outside.
        with torch.inference_mode(False), torch.no_grad():
            output = output.detach()
            rows = self._rows(tap, output)
            seen = Captured.of(output, rows, tap.label in self.plan.overwritten) if self._hold else None
            self._captured[tap.label] = seen
            if self._receive is not None:
                self._receive(tap.label, rows if seen is None else seen.values)

    @property
    def _per_position(self) -> bool:
        return self._whole or (self._labeled is not None and self._labeled.per_position)

    def _rows(self, tap: Tap, output: Tensor) -> Tensor:
        output = output.movedim(self.plan.placements.get(tap.label, Placement()).axis, 0)
        if self._whole:
            return output
        if self._labeled is None or not self._labeled.per_position:
            rows = tap.read(output, self._mask)
            return rows if self._labeled is None else self._labeled.of_samples(rows)
        return labeled_positions(self.plan, tap.label, output, self._labeled, tap.pool)


def labeled_logits(plan: TapPlan, logits: Tensor, labeled: LabelRows) -> Tensor:
    """Return logits, or choices of classes, at the samples, tokens or pixels that have labels."""
    if len(labeled.shape) == 2:
        return labeled.of_tokens("The network's output", logits, plan.placements.get("", Placement()))
    return labeled.of_logits(logits)


def labeled_positions(plan: TapPlan, label: str, output: Tensor, labeled: LabelRows, pool: Any = "flatten") -> Tensor:
    """Return a layer's rows at the tokens or pixels that have labels."""
    if output.ndim != len(labeled.shape) + 1 or pool != "flatten":
        wanted, kind = ("(N, T, D)", "token") if len(labeled.shape) == 2 else ("(N, C, H, W)", "pixel")
        raise ValueError(
            f"Layer {label!r} must return {wanted} since every {kind} has a label, got {tuple(output.shape)}. "
            f"Name layers that keep the {kind}s, with pool='flatten'; convert one-hot labels with argmax(1)."
        )
    if len(labeled.shape) == 2:
        return labeled.of_tokens(f"Layer {label!r}", output, plan.placements.get(label, Placement()))
    return labeled.of_pixels(f"Layer {label!r}", output)
