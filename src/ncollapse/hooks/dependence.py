"""On which inputs and parameters each tensor of a forward pass depends."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ncollapse.hooks.batch_io import tensors_in

# Which layer comes before which? The memory of a module's input shows only direct neighbors, and the Python code between
# modules cannot be read. So every operation of the look hands on sources: its results depend on whatever its arguments
# depend on. The sources are the network's inputs, the lowest bit, and each of its weights. Of two layers in series, the
# later one depends on all that the earlier one depends on. Two layers beside one another, such as query and key or two
# towers, each depend on weights that the other does not. This sees through every operation of PyTorch, also without
# gradients and in scripted parts. What it cannot see is a way through NumPy or through a kernel outside of PyTorch: then the
# network's output does not depend on its inputs, and nothing is concluded.

# The source that stands for all of the network's inputs.
INPUTS = 1


class Dependence(TorchDispatchMode):
    """While active, follows which inputs and parameters each tensor depends on, as a set of bits."""

    def __init__(self, model: nn.Module, inputs: Any) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._sources: dict[int, int] = {}
        # A weak reference keeps the address of a freed memory from being used again, and does not keep its data.
        self._seen: dict[int, StorageWeakRef | Tensor] = {}
        for tensor in _tensors(tensors_in(inputs)):
            self._sources[self._address(tensor)] = INPUTS
        # The scales of a normalization do not count as weights.
        weights = (parameter for parameter in model.parameters() if parameter.ndim > 1)
        for index, parameter in enumerate(weights):
            address = self._address(parameter)
            self._sources[address] = self._sources.get(address, 0) | INPUTS << (index + 1)

    def of(self, tensors: Any) -> int:
        """Return the sources of all tensors in a structure together."""
        found = 0
        for tensor in _tensors(tensors):
            found |= self._sources.get(self._address(tensor), 0)
        return found

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation and hand on the sources of its arguments."""
        kwargs = kwargs or {}
        output = func(*args, **kwargs)
        taken = {self._address(tensor) for tensor in _tensors((args, kwargs))}
        found = 0
        for address in taken:
            found |= self._sources.get(address, 0)
        for tensor in (*_tensors(output), *_written(func, args)):
            address = self._address(tensor)
            self._sources[address] = found | (self._sources.get(address, 0) if address in taken else 0)
        return output

    def _address(self, tensor: Tensor) -> int:
        try:
            reference = StorageWeakRef(tensor.untyped_storage())
        except (NotImplementedError, RuntimeError):  # a sparse or wrapped tensor has no memory of its own
            self._seen.setdefault(-id(tensor), tensor)
            return -id(tensor)
        self._seen.setdefault(reference.cdata, reference)
        return int(reference.cdata)


def _tensors(structure: Any) -> Iterator[Tensor]:
    return (leaf for leaf in tree_leaves(structure) if isinstance(leaf, Tensor))


def _written(func: Any, args: Iterable[Any]) -> Iterator[Tensor]:
    """Return the arguments that an operation writes into."""
    for argument, value in zip(func._schema.arguments, args, strict=False):
        if argument.alias_info is not None and argument.alias_info.is_write:
            yield from _tensors(value)
