"""A trace of one forward pass: the input and output of every module, in the order in which they finished."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from operator import or_
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from ncollapse.hooks.batch_io import is_object, run_network, tensors_in
from ncollapse.hooks.capture import INPUTS, Captured, first_feature
from ncollapse.hooks.logits import names_logits, returned_tensors
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


# Operations that can give samples another order, or leave some out: networks sort them, or send them through experts.
_REORDERING = frozenset(
    "index index_select gather take masked_select flip roll index_put index_put_ index_copy index_copy_ index_add index_add_ "
    "scatter scatter_ scatter_add scatter_add_ _pack_padded_sequence sort".split()
)

# Operations whose numbers are sorted by size.
_RANKING = frozenset({"sort", "topk"})


@dataclass(eq=False)
class ModuleCall:
    """The first call of one module.

    Attributes:
        input: Its first argument, None if that is not a tensor.
        output: Its features, None if it returned none.
        count: How often the module ran.
        started_after: How many modules had finished when it started.
        finished: How many modules had finished when its output existed, itself included.
        axis: The dimension of its output that counts the samples, None if there is none.
        input_axis: The same for its input.
    """

    name: str
    module: nn.Module
    input: Captured | None = None
    output: Captured | None = None
    count: int = 0
    started_after: int = 0
    finished: float = 0
    axis: int | None = 0
    input_axis: int | None = 0

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
    """One forward pass: the modules that ran, the tensors that the network returned, and which tokens are real.

    Attributes:
        names_logits: Whether the network named the first of the returned tensors "logits".
        may_reorder: Whether an operation ran that can give the samples another order, or leave some out.
        ranked: Which of the returned tensors hold numbers sorted by size, so that their places are no classes.
        last_used: How many modules had finished when a weight was last used, by its name.
    """

    calls: dict[str, ModuleCall]
    returned: list[Captured]
    mask: Tensor | None
    names_logits: bool = False
    may_reorder: bool = False
    ranked: frozenset[int] = frozenset()
    last_used: Mapping[str, int] = {}

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


def trace_forward(model: nn.Module, modules: dict[str, nn.Module], inputs: Any) -> Trace:
    """Run a network once, with hooks on these modules."""
    recorder = _Recorder(dependence := Dependence(model, inputs))
    handles = []
    try:
        for name, module in modules.items():
            handles.append(module.register_forward_pre_hook(recorder.before(name), with_kwargs=True))
            handles.append(module.register_forward_hook(recorder.after(name)))
        with dependence:
            output = run_network(model, inputs)
    finally:
        for handle in handles:
            handle.remove()
    tensors = returned_tensors(output)
    ranked = frozenset(i for i, tensor in enumerate(tensors) if dependence.is_ranked(tensor))
    returned = [recorder.copy(tensor) for tensor in tensors]
    last = dependence.last_used(model)
    return Trace(recorder.calls, returned, None, names_logits(output), dependence.may_reorder, ranked, last)


def input_call(call: ModuleCall) -> ModuleCall:
    """Return what a module takes, as if a module before it had returned it."""
    return replace(call, name=call.name + INPUT, output=call.input, finished=call.started_after + 0.5, axis=call.input_axis)


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

    def before(self, name: str) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            first = next(iter((*args, *kwargs.values())), None)
            self.started.setdefault(name, (len(self.calls), self.copy(first) if isinstance(first, Tensor) else None))

        return hook

    def after(self, name: str) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            if name in self.calls:
                self.calls[name].count += 1
                return
            started_after, taken = self.started[name]
            feature = first_feature(output)
            returned = None if feature is None else self.copy(feature)
            self.dependence.finished = len(self.calls) + 1
            self.calls[name] = ModuleCall(name, module, taken, returned, 1, started_after, self.dependence.finished)

        return hook

    def copy(self, tensor: Tensor) -> Captured:
        """Copy a tensor, together with what it depends on."""
        sources = self.dependence.of(tensor)
        with _disable_current_modes():  # the copy is no operation of the network
            detached = tensor.detach()
            return Captured.of(detached, detached, copied=True, sources=sources)


class Dependence(TorchDispatchMode):
    """While active, follows which inputs and parameters each tensor depends on, as a set of bits."""

    def __init__(self, model: nn.Module, inputs: Any) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.may_reorder = False
        self.finished = 0  # modules, counted by whoever hooks them
        self._used: dict[int, int] = {}
        self._sources: dict[int, int] = {}
        self._ranked: set[int] = set()
        # A weak reference keeps the address of a freed memory from being used again, and does not keep its data.
        self._seen: dict[int, StorageWeakRef | Tensor] = {}
        for tensor in _tensors([part.to_dict() if is_object(part) else part for part in tensors_in(inputs)]):
            self._sources[self._address(tensor)] = INPUTS
        # The scales of a normalization do not count as weights.
        weights = (parameter for parameter in model.parameters() if parameter.ndim > 1)
        for index, parameter in enumerate(weights):
            address = self._address(parameter)
            self._sources[address] = self._sources.get(address, 0) | INPUTS << (index + 1)

    def of(self, tensor: Tensor) -> int:
        """Return the sources of a tensor."""
        return self._sources.get(self._address(tensor), 0)

    def last_used(self, model: nn.Module) -> dict[str, int]:
        """Return how many modules had finished when each weight was last used, as it is or changed."""
        last = {bit: when for when, used in sorted(self._used.items()) for bit in _bits(used)}
        named = {name: _bits(self.of(part)) for name, part in model.named_parameters(remove_duplicate=False) if part.ndim > 1}
        return {name: max((last.get(bit, 0) for bit in bits), default=0) for name, bits in named.items()}

    def is_ranked(self, tensor: Tensor) -> bool:
        """Return whether a tensor holds what was sorted by size, as it is or changed number by number."""
        return self._address(tensor) in self._ranked

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation and hand on the sources of its arguments."""
        kwargs = kwargs or {}
        output = func(*args, **kwargs)
        self.may_reorder = self.may_reorder or _can_reorder(func, args, kwargs)
        tensors = list(_tensors((args, kwargs)))
        taken = {self._address(tensor) for tensor in tensors}
        # Weights of experts are ranked too, but what is multiplied by them is not.
        ranks = func.overloadpacket.__name__ in _RANKING or (len(tensors) == 1 and self.is_ranked(tensors[0]))
        sources = [self._sources.get(address, 0) for address in taken]
        found = reduce(or_, sources, 0)
        weights = reduce(or_, (bits for bits in sources if not bits & INPUTS), 0)
        self._used[self.finished] = self._used.get(self.finished, 0) | weights
        for tensor in (*_tensors(output), *_written(func, args)):
            address = self._address(tensor)
            self._sources[address] = found | (self._sources.get(address, 0) if address in taken else 0)
            (self._ranked.add if ranks else self._ranked.discard)(address)
        return output

    def _address(self, tensor: Tensor) -> int:
        try:
            reference = StorageWeakRef(tensor.untyped_storage())
        except (NotImplementedError, RuntimeError):  # a sparse or wrapped tensor has no memory of its own
            self._seen.setdefault(-id(tensor), tensor)
            return -id(tensor)
        self._seen.setdefault(reference.cdata, reference)
        return int(reference.cdata)


def _can_reorder(func: Any, args: Any, kwargs: Any) -> bool:
    """Return whether an operation can give the first dimension another order."""
    name = func.overloadpacket.__name__
    if name in {"cat", "stack"}:
        return (args[1] if len(args) > 1 else kwargs.get("dim", 0)) == 0
    return name in _REORDERING


def _bits(number: int) -> Iterator[int]:
    while number:
        yield number & -number
        number &= number - 1


def _tensors(structure: Any) -> Iterator[Tensor]:
    if isinstance(structure, Tensor):
        yield structure
    elif isinstance(structure, tuple | list | dict):
        for part in structure.values() if isinstance(structure, dict) else structure:
            yield from _tensors(part)


def _written(func: Any, args: Iterable[Any]) -> Iterator[Tensor]:
    """Return the arguments that an operation writes into."""
    for argument, value in zip(func._schema.arguments if func._schema.is_mutable else (), args, strict=False):
        if argument.alias_info is not None and argument.alias_info.is_write:
            yield from _tensors(value)
