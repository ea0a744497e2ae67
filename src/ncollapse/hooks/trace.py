"""A trace of one forward pass: the input and output of every module, in the order in which they finished."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial, reduce
from operator import or_
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import _disable_current_modes

from ncollapse.hooks.batch_io import run_network
from ncollapse.hooks.capture import INPUTS, Captured, Dependence, dense_tensors, is_dense, is_whole
from ncollapse.hooks.logits import names_first, returned_tensors
from ncollapse.hooks.tap import INPUT, Tap

# Each tensor is copied when it is captured, and its memory address and version are kept. Module B follows module A if B's input
# is the memory that A returned, with no write to it in between. This works for any network that runs: no symbolic graph is
# needed, and the Python code that a forward runs between its modules need not be understood.
#
# Which layer comes before which? The memory of a module's input shows only direct neighbors, and the Python code between
# modules cannot be read. So every operation of the look passes on sources: its results depend on whatever its arguments
# depend on. The sources are the network's inputs, the lowest bit, and each of its weights. Of two layers in series, the
# later one depends on all that the earlier one depends on. Two layers beside one another, such as query and key or two
# towers, each depend on weights that the other does not. This sees through every operation of PyTorch, also without
# gradients and in scripted parts. What it cannot see is a way through NumPy or through a kernel outside of PyTorch: then the
# network's output does not depend on its inputs, and nothing is concluded.


# What changes by more than this share of the largest change is at the place of a changed token or pixel.
_CHANGED = 1e-3
# Classes whose operations no subclass takes over.
_PLAIN = frozenset({Tensor, nn.Parameter})


@dataclass(eq=False, slots=True)
class ModuleCall:
    """The first call of one module."""

    name: str
    module: nn.Module
    input: Captured | None = None  # its first argument, None if that is not a tensor
    output: Captured | None = None  # its features, None if it returned none
    count: int = 0  # how often the module ran
    started_after: int = 0  # how many modules had finished when it started
    finished: float = 0  # how many modules had finished when its output existed, itself included
    axis: int | None = 0  # the dimension of its output that counts the samples, None if there is none
    input_axis: int | None = 0  # the same for its input
    is_aside: bool = False  # whether it returned several tensors, and the network goes on with another than the first

    def returned(self, tensor: Captured | None) -> bool:
        """Return whether this module returned a tensor."""
        return tensor is not None and self.output is not None and self.output.is_same(tensor)

    def leads_to(self, sources: int) -> bool:
        """Return whether what it returned may be part of something with these sources."""
        return self.output is not None and self.output.sources & ~sources == 0

    @property
    def features(self) -> Tensor:
        """The features that the module returned, samples first."""
        assert self.output is not None
        return self.output.tensor.movedim(self.axis or 0, 0)

    @property
    def values(self) -> Tensor:
        """The features at the time when it returned them, samples first."""
        assert self.output is not None
        return self.output.values.movedim(self.axis or 0, 0)


class Trace(NamedTuple):
    """One forward pass: the modules that ran, the tensors that the network returned, and which tokens are real."""

    calls: dict[str, ModuleCall]
    returned: list[Captured]
    mask: Tensor | None
    names_logits: bool = False  # whether the network named the first of the returned tensors as logits
    may_reorder: bool = False  # whether an operation ran that can give the samples another order, or leave some out
    # Which of the returned tensors hold numbers sorted by size, so that their places are no classes.
    ranked: frozenset[int] = frozenset()
    last_used: Mapping[str, int] = {}  # how many modules had finished when a weight was last used, by its name
    reordered: tuple[int, ...] = ()  # on what tokens depend that an operation may have given another order

    def call(self, label: str) -> ModuleCall | None:
        """Return the call of a module; for "module.input", what that module took as if a module had returned it."""
        outer = self.calls.get(label.removesuffix(INPUT))
        return self.calls.get(label) or (None if outer is None or outer.input is None else input_call(outer))

    def taken(self, tap: Tap) -> ModuleCall:
        """Return the call that a tap reads."""
        call = self.call(tap.name)
        assert call is not None
        return call

    @property
    def sources(self) -> int:
        """On what the network's outputs depend."""
        return reduce(or_, (part.sources for part in self.returned), 0)

    @property
    def is_followed(self) -> bool:
        """Whether the way from the inputs to the network's outputs could be followed."""
        return bool(self.sources & INPUTS)

    @property
    def output(self) -> Captured | None:
        """The network's logits if it returns a mapping with some, else its first tensor with features."""
        return next((part for part in self.returned if part.tensor.ndim >= 2), None)


# Runs the network once and returns the trace. The random state is the same each time.
Look = Callable[..., Trace]


def trace_forward(
    model: nn.Module, modules: dict[str, nn.Module], inputs: Any, follow: bool = True, partly: bool = False
) -> Trace:
    """Run a network once, with hooks on these modules; follow what depends on what, which costs most, or nothing of it."""
    # With ``partly``, what ran before the network refused is kept.
    recorder = _Recorder(dependence := Dependence(model, inputs))
    handles = []
    try:
        for name, module in modules.items():
            handles.append(module.register_forward_pre_hook(partial(recorder.before, name), with_kwargs=True))
            handles.append(module.register_forward_hook(partial(recorder.after, name)))
        with dependence if follow else nullcontext():
            output = run_network(model, inputs)
    except Exception:  # a network may refuse in any way
        if not partly:
            raise
        output = None
        recorder.add_unfinished(modules)
    finally:
        for handle in handles:
            handle.remove()
    tensors = returned_tensors(output)
    dependence.end(tensors)
    recorder.find_aside()
    ranked = frozenset(i for i, tensor in enumerate(tensors) if dependence.is_ranked(tensor))
    returned = [recorder.copy(tensor) for tensor in tensors]
    last, moved = dependence.last_used(model), tuple(dependence.reordered)
    return Trace(recorder.calls, returned, None, names_first(output), dependence.may_reorder, ranked, last, moved)


def input_call(call: ModuleCall) -> ModuleCall:
    """Return what a module takes, as if a module before it had returned it."""
    return replace(call, name=call.name + INPUT, output=call.input, finished=call.started_after + 0.5, axis=call.input_axis)


def token_calls(trace: Trace) -> Iterator[ModuleCall]:
    """Yield what modules returned and took, as far as it has three dimensions, of which one counts the samples."""

    def has_tokens(part: Captured | None, axis: int | None) -> bool:
        return part is not None and axis is not None and part.tensor.ndim == 3 and part.tensor.is_floating_point()

    for call in trace.calls.values():
        if call.count == 1 and has_tokens(call.output, call.axis):
            yield call
        if call.count == 1 and has_tokens(call.input, call.input_axis):
            yield input_call(call)


def token_states(trace: Trace, before: Trace | None = None) -> dict[str, Tensor]:
    """Return the values of these by name, samples first, of another look for the modules of the first; "" is the output."""
    found = {}
    for call in token_calls(before or trace):
        other = trace.call(call.name)
        if other is not None and other.output is not None and other.output.tensor.ndim == 3:
            found[call.name] = other.output.values.movedim(call.axis or 0, 0)
    if trace.output is not None and trace.output.tensor.ndim == 3:
        found[""] = trace.output.values
    return found


def change_profile(before: Tensor, after: Tensor, sample: int, axis: int) -> Tensor:
    """Return by how much each index of a dimension changed in one sample."""
    if sample >= len(before):  # the batch has one sample
        return before.new_zeros(before.shape[axis])
    change = (before[sample].double() - after[sample].double()).abs().nan_to_num()
    return change.amax(dim=2 - axis)


def changed_indices(before: Tensor, after: Tensor, sample: int, axis: int = 1) -> list[int]:
    """Return which indices of a dimension changed in one sample."""
    change = change_profile(before, after, sample, axis)
    found: list[int] = (change > _CHANGED * change.max()).nonzero().flatten().tolist()
    return found


def changed_in_any(before: Tensor, others: Sequence[Tensor], sample: int, axis: int) -> set[int]:
    """Return which indices of a dimension changed in one sample, in any of several looks."""
    return {place for after in others for place in changed_indices(before, after, sample, axis)}


def changed_sizes(before: ModuleCall, after: Trace) -> list[int]:
    """Return for each dimension of a layer's first sample how many of its indices a change reached."""
    call = after.call(before.name)
    if call is None or call.output is None or before.output is None or call.output.tensor.shape != before.output.tensor.shape:
        return [0] * (before.features.ndim - 1)
    values = call.output.values.movedim(before.axis or 0, 0)
    change = (before.values[0].double() - values[0].double()).abs().nan_to_num()
    reached = (change > _CHANGED * change.max()).nonzero()
    return [len(reached[:, dim].unique()) for dim in range(change.ndim)]


def is_inside(name: str, outer: Collection[str]) -> bool:
    """Return whether a module is inside one of others."""
    return (parent := parent_of(name)) != "" and (parent in outer or is_inside(parent, outer))


def outermost(names: Sequence[str], kept: Sequence[ModuleCall]) -> list[str]:
    """Return modules that are inside no other one, and contain none that is kept."""
    holders = {name for name in names if any(is_inside(call.name, {name}) for call in kept)}
    rest = [name for name in names if name not in holders]
    return [name for name in rest if not is_inside(name, rest)]


def parent_of(name: str) -> str:
    """Return the name of the module that contains this one, "" for the network itself."""
    return name.rpartition(".")[0]


class _Recorder:
    """Hooks for all modules, and the calls that they recorded."""

    def __init__(self, dependence: Dependence) -> None:
        self.dependence = dependence
        self.started: dict[str, tuple[int, Captured | None]] = {}
        self.calls: dict[str, ModuleCall] = {}
        self.several: dict[str, list[Tensor]] = {}
        self.given: dict[str, set[tuple[int, int | None]]] = {}
        self._last: tuple[Tensor, Captured] | None = None

    def before(self, name: str, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Note what a module takes, before it runs."""
        if name not in self.started:
            taken = [*args, *kwargs.values()]
            self.given[name] = {self.state(tensor) for tensor in dense_tensors(taken)}
            self.started[name] = len(self.calls), self.copy(taken[0]) if taken and is_whole(taken[0]) else None

    def after(self, name: str, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        """Note what a module returned."""
        if name in self.calls:
            self.calls[name].count += 1
            return
        started_after, taken = self.started[name]
        features = [tensor for tensor in dense_tensors(output) if tensor.ndim >= 2]
        returned = self.copy(features[0]) if features else None
        if len(features) > 1 and not isinstance(module, nn.RNNBase):  # whose first one is what all know as its output
            self.several[name] = features
            self.given[name] &= {self.state(features[0])}
        self.dependence.finished = len(self.calls) + 1
        self.calls[name] = ModuleCall(name, module, taken, returned, 1, started_after, self.dependence.finished)

    def add_unfinished(self, modules: Mapping[str, nn.Module]) -> None:
        """Note the modules that started and did not finish."""
        unfinished = self.started.keys() - self.calls.keys()
        self.calls |= {name: ModuleCall(name, modules[name], self.started[name][1]) for name in unfinished}

    def find_aside(self) -> None:
        """Note which modules returned in front what they were given, or what none of their class hands on (attention maps)."""
        found = {name: self.dependence.goes_on(parts, self.calls[name].finished) for name, parts in self.several.items()}
        handed_on = {type(self.calls[name].module) for name, goes_on in found.items() if goes_on[0]}
        for name, goes_on in found.items():
            unused = any(goes_on) and type(self.calls[name].module) not in handed_on
            self.calls[name].is_aside = unused or (any(goes_on[1:]) and bool(self.given[name]))

    def state(self, tensor: Tensor) -> tuple[int, int | None]:
        """Return where a tensor is, and how often it was written to."""
        return self.dependence.address(tensor), None if tensor.is_inference() else tensor._version

    def copy(self, tensor: Tensor) -> Captured:
        """Copy a tensor, together with what it depends on."""
        sources = self.dependence.of(tensor)
        # The copy is no operation of the network.
        with torch._C._DisableTorchDispatch() if type(tensor) in _PLAIN else _disable_current_modes():
            if (known := self._copied_last(tensor, sources)) is not None:
                return known
            detached = tensor.detach()
            found = Captured.of(detached, detached, copied=True, sources=sources)
        self._last = tensor, found
        return found

    def _copied_last(self, tensor: Tensor, sources: int) -> Captured | None:
        """Return the last copy if it is of this tensor as it is now: most modules take what the one before them returned."""
        if self._last is None or tensor is not self._last[0] or tensor.is_inference() or not is_dense(tensor):
            return None
        found = self._last[1]
        same = found.sources == sources and found.version == tensor._version and torch.equal(found.values, tensor)
        return found if same else None
