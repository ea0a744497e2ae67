"""Hooks that capture the output of tapped modules in one forward pass, by a plan of what to tap."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ncollapse.default_device import back_on_the_cpu
from ncollapse.hooks.affine import Affine, Proof, finite_rows
from ncollapse.hooks.capture import AroundForward, Captured, feature_of, hook_output
from ncollapse.hooks.label_rows import LabelRows
from ncollapse.hooks.logits import Logits, returned_tensors
from ncollapse.hooks.masks import MaskRule
from ncollapse.hooks.pooling import is_same, real_tokens
from ncollapse.hooks.tap import INPUT, Placement, Tap


@dataclass(frozen=True, eq=False)
class TapPlan:
    """The modules to hook, how to read them, and why they were chosen."""

    taps: tuple[Tap, ...] = ()
    # The classifier, or the module that looks like it, or the parameter that the forward multiplies with.
    classifier: str | None = None
    feeding: str | None = None  # label of the layer that enters the classifier
    feeding_tap: Tap | None = None  # reads that layer if no tap does
    overwritten: frozenset[str] = frozenset()  # labels copied at once, because a later in-place operation overwrites them
    explanation: str = ""  # shown as `Measurement.chosen`
    left_out: Mapping[str, str] = field(default_factory=dict)  # modules not chosen, with the reason
    # Evaluates its W and b as they are now; None if it does not give the returned logits.
    read_classifier: Callable[[], Affine | None] | None = None
    logits: Logits | None = None  # which of the returned tensors holds the logits; None if none does
    num_classes: int | None = None
    placements: Mapping[str, Placement] = field(default_factory=dict)
    mask_rule: MaskRule | None = None  # which tokens are real; None if the first batch does not say
    # A layer with tokens as they are read here, and a tap of the same numbers that the network made of them.
    repeats: tuple[str, Tap] | None = None
    proof: Proof | None = None  # what the logits of further batches are compared with
    named: bool = False  # whether the user or the network named the layers
    may_reorder: bool = False  # whether the network may give the samples another order inside
    doubt: str = ""  # why the logits of further batches do not come from the classifier, "" if they do

    @property
    def settled(self) -> TapPlan:
        """The plan without its classifier if that is in doubt."""
        if not self.doubt:
            return self
        return replace(self, read_classifier=None, explanation=f"{self.explanation}; {self.doubt}", doubt="")

    @cached_property
    def all_taps(self) -> tuple[Tap, ...]:
        """All captured layers: the taps, and the classifier's features if no tap reads them."""
        if self.feeding_tap is None or self.feeding in {tap.label for tap in self.taps}:
            return self.taps
        return (*self.taps, self.feeding_tap)

    def placement(self, label: str) -> Placement:
        """Return where the labels' rows are in a layer's output, "" for the network's."""
        return self.placements.get(label, Placement())

    def real_tokens(self, inputs: Any, model: nn.Module) -> Tensor | None:
        """Return which tokens of a batch are real, shape (N, T), None if that is unknown or does not matter."""
        matters = any(tap.skips_padding for tap in self.all_taps)
        return real_tokens(inputs, model, self.mask_rule) if matters else None

    @cached_property
    def labels(self) -> frozenset[str]:
        """The labels of all captured layers."""
        return frozenset(tap.label for tap in self.all_taps)


class Tapped(NamedTuple):
    """The features of one forward pass by layer, in order of execution, and the network's logits, if it returns them."""

    features: dict[str, Tensor]
    logits: Tensor | None


class TapHooks:
    """The hooks of a plan, which capture features in one forward pass, between ``begin`` and ``end``."""

    # `sure` False: training may drop out what the network makes of its tokens, so that `repeats` counts once it has held.

    def __init__(self, model: nn.Module, plan: TapPlan, sure: bool = True) -> None:
        self.plan, self.sure = plan, sure
        self._running = False
        self._captured: dict[str, Captured | None] = {}
        self._mask: Tensor | None = None
        self._labeled: LabelRows | None = None
        self._whole = False
        self._receive: Callable[[str, Tensor], None] | None = None
        self._hold = True
        self._repeated: Tensor | None = None
        self._compared: Tensor | None = None
        self._handles: list[AroundForward | RemovableHandle] = []
        by_module: dict[str, list[Tap]] = {}
        checked = [] if plan.repeats is None or plan.repeats[1].label in plan.labels else [plan.repeats[1]]
        for tap in (*plan.all_taps, *checked):
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
        """Start capturing rows with labels, all rows if none are given, or whole outputs, to be selected from later."""
        # `receive` gets each layer inside its hook; `hold` also keeps it until `end`.
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
            logits = self._logits(output)
            self._check_proof(logits)
            return Tapped({label: seen.values for label, seen in held.items()}, logits)

    def logits(self, output: Any, labeled: LabelRows) -> Tensor | None:
        """Return the logits in an output of a pass that captured nothing, one row per label."""
        self._labeled = labeled
        return self._logits(output)

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
        if self._labeled is not None:
            self._labeled.check_logits(returned_tensors(output)[self.plan.logits.position])
        return logits if self._labeled is None else self._labeled.of_output(logits, self.plan.placement(""))

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
        with back_on_the_cpu(), torch.inference_mode(False), torch.no_grad():
            output = output.detach()
            rows = self._rows(tap, output)
            self._check_repeats(tap.label, rows)
            if tap.label not in self.plan.labels:
                return
            seen = Captured.of(output, rows, tap.label in self.plan.overwritten) if self._hold else None
            self._captured[tap.label] = seen
            if self._receive is not None:
                self._receive(tap.label, rows if seen is None else seen.values)

    def _check_repeats(self, label: str, rows: Tensor) -> None:
        """Check that the network makes the same rows of its tokens in every batch as this plan does."""
        if label == self.plan.feeding and self.plan.proof is not None and not self._whole:
            self._compared = self.plan.proof.chosen(rows)
        if self.plan.repeats is None or self._whole:
            return
        tokens, network = self.plan.repeats
        if label == tokens:
            self._repeated = rows
        if label != network.label or self._repeated is None:
            return
        own, rows = finite_rows(self._repeated, rows)
        self._repeated = None  # of this batch only
        if not len(rows) or is_same(own, rows):
            self.sure = self.sure or len(rows) > 0
        elif self.sure:
            raise ValueError(_read_otherwise(tokens, f"what {network.label!r} is"))
        else:
            self.plan = replace(self.plan, repeats=None)

    def _check_proof(self, logits: Tensor | None) -> None:
        """Compare the network's logits with those of the classifier's map."""
        rows, self._compared = self._compared, None
        proof = self.plan.proof
        if proof is None or rows is None or logits is None or proof.holds(rows, proof.chosen(logits)):
            return
        if proof.is_pooled:
            raise ValueError(_read_otherwise(str(self.plan.feeding), "the input of the classifier"))
        doubt = f"the logits of further samples are others than those of {self.plan.classifier}, so no classifier is proven"
        self.plan = replace(self.plan, proof=None, doubt=doubt)

    @property
    def _per_position(self) -> bool:
        return self._whole or (self._labeled is not None and self._labeled.per_position)

    def _rows(self, tap: Tap, output: Tensor) -> Tensor:
        placement = self.plan.placement(tap.label)
        output = placement.arranged(output)
        if self._whole:
            return output
        if self._labeled is None or not self._labeled.per_position:
            rows = tap.read(output, self._mask)
            return rows if self._labeled is None else self._labeled.of_samples(rows)
        return self._labeled.of_positions(tap.label, output, placement, tap.pool)


def _read_otherwise(layer: str, what: str) -> str:
    return (
        f"Layer {layer!r} must be {what} in every batch as in the first samples, but it is not in this one. "
        "If tokens are padded, pass the mask as an argument named attention_mask, or name the layers with a function: "
        f"Tap({layer.partition(':')[0]!r}, pool=function)."
    )
