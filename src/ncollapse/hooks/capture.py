"""Features captured from a module, what they depend on and who takes them, and hooks that do not change how it computes."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from functools import cached_property, reduce, wraps
from operator import or_
from typing import Any, NamedTuple, TypeGuard

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn.utils.rnn import PackedSequence
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.hooks import RemovableHandle

from ncollapse.hooks.batch_io import is_object, tensors_in

Hook = Callable[[nn.Module, tuple[Any, ...], Any], None]

# The source that means all of the network's inputs. Each weight is a source of its own, a higher bit.
INPUTS = 1
# How many levels of tuples, lists and mappings in one another are looked into.
_DEEPEST = 4


class Captured(NamedTuple):
    """A captured tensor, its version at that time, its rows, copied where needed, and, in a trace, what it depends on."""

    tensor: Tensor
    version: int | None
    values: Tensor
    sources: int = 0

    @classmethod
    def of(cls, tensor: Tensor, rows: Tensor, copied: bool, sources: int = 0) -> Captured:
        """Capture a module's output."""
        # Tensors made in inference mode have no version counter, so they are always copied.
        version = None if tensor.is_inference() else tensor._version
        return cls(tensor, version, rows.clone() if copied or version is None else rows, sources)

    @property
    def depends_on_weights(self) -> bool:
        """Whether it depends on more than the inputs."""
        return self.sources > INPUTS

    @property
    def overwritten(self) -> bool:
        """Whether an operation has overwritten the output since."""
        return self.version is not None and self.tensor._version != self.version

    def is_same(self, other: Captured) -> bool:
        """Return whether both are the same tensor, or views of it, with no in-place operation between the captures."""
        same_memory = self.tensor.data_ptr() == other.tensor.data_ptr() and self.tensor.numel() == other.tensor.numel()
        return same_memory and self.version == other.version and torch.equal(self.values.flatten(), other.values.flatten())


def feature_of(output: Any, label: str) -> Tensor:
    """Return the first feature tensor in a module's output."""
    found = first_feature(output)
    if found is not None:
        return found
    if isinstance(output, Tensor) and output.is_nested:
        raise TypeError(
            f"Layer {label!r} must return a dense tensor, got a nested one, whose rows differ in length. Build the "
            "nn.TransformerEncoder with enable_nested_tensor=False, or tap the encoder itself."
        )
    got = f"{output.dtype} {tuple(output.shape)}" if isinstance(output, Tensor) else type(output).__name__
    raise TypeError(
        f"Layer {label!r} must return a floating-point tensor of shape (N, ...), got {got}. Tap a module inside it."
    )


def first_feature(output: Any) -> Tensor | None:
    """Return the first feature tensor in a module's output, None if there is none."""
    return next((part for part in dense_tensors(output) if part.ndim >= 2), None)


def dense_tensors(output: Any) -> list[Tensor]:
    """Return the dense floating-point tensors in an output: those that lie deeper come later, those named "logits" first."""
    parts, level = [output], [output]
    for _ in range(_DEEPEST):
        if not (level := [inner for part in level for _, inner in parts_of(part)]):
            break
        parts += level
    return [part for part in parts if is_dense(part) and part.is_floating_point() and part.ndim >= 1]


def parts_of(part: Any) -> list[tuple[Any, Any]]:
    """Return the keys and values of a mapping, a sequence or a dataclass, what is named logits first."""
    if type(part) is Tensor or isinstance(part, PackedSequence):
        return []  # rows of a packed sequence are time steps, sorted by length
    if isinstance(part, Mapping):
        items = list(part.items())
    elif is_dataclass(part) and not isinstance(part, type):
        items = [(item.name, getattr(part, item.name)) for item in fields(part)]
    else:
        return list(enumerate(part)) if isinstance(part, tuple | list) else []
    return sorted(items, key=lambda item: (item[0] != "logits", not names_logits(item[0])))


def names_logits(key: Any) -> bool:
    """Return whether a key is a name of logits, such as "logits", "pred_logits" or "logits_per_image"."""
    return isinstance(key, str) and "logits" in key.split("_")


def is_dense(part: Any) -> TypeGuard[Tensor]:
    """Return whether something is a tensor with a number at each place in memory, for all samples at once."""
    return is_whole(part) and not part.is_nested and part.layout == torch.strided


def is_whole(part: Any) -> TypeGuard[Tensor]:
    """Return whether something is a tensor of all samples, as it is not inside of ``vmap``."""
    return isinstance(part, Tensor) and not torch._C._functorch.is_functorch_wrapped_tensor(part)


def hook_output(module: nn.Module, hook: Hook) -> AroundForward | RemovableHandle:
    """Call a hook with every output of a module."""
    return AroundForward(module, hook) if _has_fast_path(module) else module.register_forward_hook(hook)


def _has_fast_path(module: nn.Module) -> bool:
    # PyTorch's encoder layers use one fused call, but only while neither they nor the modules inside them have a hook.
    return (
        isinstance(module, nn.TransformerEncoderLayer)
        and module._compiled_call_impl is None
        and not any(part._forward_hooks or part._forward_pre_hooks for part in module.modules())
    )


class AroundForward:
    """A hook in place of a module's ``forward``."""

    def __init__(self, module: nn.Module, hook: Hook) -> None:
        self._module, self._own = module, vars(module).get("forward")
        plain = module.forward

        @wraps(plain)
        def forward(*args: Any, **kwargs: Any) -> Any:
            output = plain(*args, **kwargs)
            hook(module, args, output)
            return output

        module.forward = forward

    def remove(self) -> None:
        """Restore the module's own ``forward``."""
        if self._own is None:
            del self._module.forward
        else:
            self._module.forward = self._own


# Operations that can give samples another order, or leave some out: networks sort them, or send them through experts.
_REORDERING = frozenset(
    "index index_select gather take masked_select flip roll index_put index_put_ index_copy index_copy_ index_add index_add_ "
    "scatter scatter_ scatter_add scatter_add_ _pack_padded_sequence sort".split()
)

# Operations whose numbers are sorted by size.
_RANKING = frozenset({"sort", "topk"})


class Dependence(TorchDispatchMode):
    """While active, follows which inputs and parameters each tensor depends on, as a set of bits."""

    def __init__(self, model: nn.Module, inputs: Any) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.may_reorder = False
        self.reordered: list[int] = []  # on what tokens depend that have another order than before
        self.finished = 0  # modules, counted by whoever hooks them
        self._used: dict[int, int] = {}
        self._read: dict[int, float] = {}
        self._sources: dict[int, int] = {}
        self._ranked: set[int] = set()
        # A weak reference keeps the address of a freed memory from being used again, and does not keep its data.
        self._seen: dict[int, StorageWeakRef | Tensor] = {}
        for tensor in _tensors([part.to_dict() if is_object(part) else part for part in tensors_in(inputs)]):
            self._sources[self.address(tensor)] = INPUTS
        # The scales of a normalization do not count as weights.
        weights = (parameter for parameter in model.parameters() if parameter.ndim > 1)
        for index, parameter in enumerate(weights):
            address = self.address(parameter)
            self._sources[address] = self._sources.get(address, 0) | INPUTS << (index + 1)

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        # PyTorch would import its compiler (a second) only to exclude these calls from it. Below they are, if it is loaded.
        return False

    def of(self, tensor: Tensor) -> int:
        """Return the sources of a tensor."""
        return self._sources.get(self.address(tensor), 0)

    def end(self, returned: Iterable[Tensor]) -> None:
        """Note that the network returned these tensors."""
        self._read |= {self.address(tensor): math.inf for tensor in returned}

    def goes_on(self, tensors: Sequence[Tensor], finished: float) -> list[bool]:
        """Return which of these an operation took after so many modules had finished, or the network returned."""
        return [self._read.get(self.address(tensor), -1) >= finished for tensor in tensors]

    def last_used(self, model: nn.Module) -> dict[str, int]:
        """Return how many modules had finished when each weight was last used, as it is or changed."""
        last = {bit: when for when, used in sorted(self._used.items()) for bit in _bits(used)}
        named = {name: _bits(self.of(part)) for name, part in model.named_parameters(remove_duplicate=False) if part.ndim > 1}
        return {name: max((last.get(bit, 0) for bit in bits), default=0) for name, bits in named.items()}

    def is_ranked(self, tensor: Tensor) -> bool:
        """Return whether a tensor holds what was sorted by size, as it is or changed number by number."""
        return self.address(tensor) in self._ranked

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation and hand on the sources of its arguments, hidden from PyTorch's compiler if that is there."""
        run = self._hidden if "torch._dynamo" in sys.modules else self._run
        return run(func, args, kwargs or {})

    @cached_property
    def _hidden(self) -> Any:
        return torch.compiler.disable(self._run)

    def _run(self, func: Any, args: Any, kwargs: Any) -> Any:
        output = func(*args, **kwargs)
        self.may_reorder = self.may_reorder or _can_reorder(func, args, kwargs)
        tensors = _tensors((args, kwargs))
        taken = {self.address(tensor) for tensor in tensors}
        self._read |= dict.fromkeys(taken, self.finished)
        # Weights of experts are ranked too, but what is multiplied by them is not.
        ranks = func.overloadpacket.__name__ in _RANKING or (len(tensors) == 1 and self.is_ranked(tensors[0]))
        sources = [self._sources.get(address, 0) for address in taken]
        found = reduce(or_, sources, 0)
        weights = reduce(or_, (bits for bits in sources if not bits & INPUTS), 0)
        self._used[self.finished] = self._used.get(self.finished, 0) | weights
        self.reordered += [found] if found & INPUTS and found != INPUTS and _reorders_tokens(func, args, output) else []
        for tensor in (*_tensors(output), *_written(func, args)):
            address = self.address(tensor)
            self._sources[address] = found | (self._sources.get(address, 0) if address in taken else 0)
            (self._ranked.add if ranks else self._ranked.discard)(address)
        return output

    def address(self, tensor: Tensor) -> int:
        """Return where a tensor's memory is, for as long as this is active."""
        try:
            storage = tensor.untyped_storage()
        except (NotImplementedError, RuntimeError):  # a sparse or wrapped tensor has no memory of its own
            self._seen.setdefault(-id(tensor), tensor)
            return -id(tensor)
        if storage._cdata not in self._seen:
            self._seen[storage._cdata] = StorageWeakRef(storage)
        return int(storage._cdata)


def _can_reorder(func: Any, args: Any, kwargs: Any) -> bool:
    """Return whether an operation can give the first dimension another order."""
    name = func.overloadpacket.__name__
    if name in {"cat", "stack"}:
        return (args[1] if len(args) > 1 else kwargs.get("dim", 0)) == 0
    return name in _REORDERING


# Operations that can give tokens another order, and which of their arguments holds the dimensions in which they do.
_MOVING = {"index_select": 1, "gather": 1, "flip": 1, "roll": 2}


def _reorders_tokens(func: Any, args: Any, output: Any) -> bool:
    """Return whether an operation can give the first or second one of three dimensions another order."""
    name = func.overloadpacket.__name__
    if (
        name not in {"index", *_MOVING}
        or not isinstance(output, Tensor)
        or output.ndim != 3
        or len(args) <= _MOVING.get(name, 1)
    ):
        return False
    dims = args[_MOVING.get(name, 1)]
    dims = [dim for dim, index in enumerate(dims) if index is not None] if name == "index" else dims
    first = bool({dim % 3 for dim in ([dims] if isinstance(dims, int) else dims)} & {0, 1})
    return first and not torch.equal(args[0], output)


def _bits(number: int) -> Iterator[int]:
    while number:
        yield number & -number
        number &= number - 1


def _tensors(structure: Any) -> list[Tensor]:
    if isinstance(structure, tuple | list | dict):
        parts = structure.values() if isinstance(structure, dict) else structure
        return [tensor for part in parts for tensor in _tensors(part)]
    return [structure] if isinstance(structure, Tensor) else []


def _written(func: Any, args: Iterable[Any]) -> list[Tensor]:
    """Return the arguments that an operation writes into."""
    written = zip(func._schema.arguments, args, strict=False) if func._schema.is_mutable else ()
    return _tensors([value for argument, value in written if argument.alias_info is not None and argument.alias_info.is_write])
