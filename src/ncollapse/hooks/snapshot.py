"""The state of a network and the random states: saved to be restored, or as digests by name to be compared."""

from __future__ import annotations

import hashlib
import pickle
import random
from collections import OrderedDict, defaultdict, deque
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from operator import is_
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

# Containers whose contents are saved. Subclasses may have rules of their own.
_CONTAINERS = (dict, OrderedDict, defaultdict, list, set, deque)
# Most attributes of a module are these, or containers without contents: they are passed over first.
_SIMPLE = frozenset({bool, int, float, str, type(None)})
# Stands for numbers and strings, which are not compared.
_NOTE = "note"


class _Saved(NamedTuple):
    """A tensor, its memory and where that is, and a copy of its values."""

    tensor: Tensor
    memory: Tensor
    address: int
    values: Tensor


class Snapshot:
    """The attributes of all modules (modes, hooks, caches, buffers), and the values of buffers and of some parameters."""

    # Attributes are compared by identity. Of lists, dictionaries and sets the contents are saved too, and of tensors the
    # values. Numbers and strings are left: a forward keeps its own record with them, such as how often it ran.

    def __init__(self, model: nn.Module, parameters: Iterable[nn.Parameter]) -> None:
        self._containers: dict[int, tuple[Any, Any]] = {}
        self._tensors: dict[int, _Saved] = {}
        self._sources: dict[int, tuple[Any, Any]] = {}
        self._empty: list[Any] = []
        self._memory = [(parameter, parameter.detach(), _bytes_at(parameter)) for parameter in model.parameters()]
        for module in model.modules():
            self._save(vars(module))
        # The buffers of scripted modules are not among their attributes.
        for tensor in (*model.buffers(), *parameters):
            self._save_values(tensor)

    def _save(self, value: Any) -> None:
        if type(value) in _CONTAINERS:
            if id(value) not in self._containers:
                self._containers[id(value)] = value, value.copy()
                self._save_items(value.values() if isinstance(value, dict) else value)
        elif type(value) is tuple:
            for item in value:
                self._save(item)
        elif isinstance(value, Tensor) and not isinstance(value, nn.Parameter):
            self._save_values(value)
        elif (state := _state_of(value)) is not None:
            self._sources.setdefault(id(value), (value, state))

    def _save_items(self, items: Iterable[Any]) -> None:
        for item in items:
            kind = type(item)
            if kind in _CONTAINERS and not item:
                self._empty.append(item)
            elif kind not in _SIMPLE:
                self._save(item)

    def _save_values(self, tensor: Tensor) -> None:
        if id(tensor) not in self._tensors and not is_lazy(tensor) and not tensor.is_meta:
            memory = tensor.detach()
            self._tensors[id(tensor)] = _Saved(tensor, memory, _bytes_at(memory), memory.clone())

    def restore(self) -> None:
        """Restore attributes and values; nothing is written where nothing changed."""
        for container in filter(None, self._empty):
            _restore_items(container, type(container)())
        for container, contents in self._containers.values():
            _restore_items(container, contents)
        for value, state in self._sources.values():
            _set_state(value, state)
        for parameter, memory, address in self._memory:
            _restore_memory(parameter, memory, address)
        for tensor, memory, address, values in self._tensors.values():
            with torch.inference_mode(tensor.is_inference()), torch.no_grad():
                _restore_memory(tensor, memory, address)
                if not _same_values(tensor, values):
                    tensor.copy_(values)

    def forget_unchanged(self, parameters: Collection[nn.Parameter]) -> set[nn.Parameter]:
        """Drop the copies of parameters that are as they were, and return the others."""
        changed = {parameter for parameter in parameters if not self._is_unchanged(parameter)}
        for parameter in parameters:
            if parameter not in changed:
                self._tensors.pop(id(parameter), None)
        return changed

    def _is_unchanged(self, parameter: nn.Parameter) -> bool:
        saved = self._tensors.get(id(parameter))
        return saved is None or _same_values(parameter, saved.values)

    def holds(self, tensor: Tensor) -> bool:
        """Return whether a tensor's values are saved."""
        return id(tensor) in self._tensors


def _state_of(value: Any) -> Any:
    """Return a copy of the state of a random generator, or of the numbers of a NumPy array, None for all else."""
    if isinstance(value, torch.Generator):
        return value.get_state()
    if isinstance(value, np.random.Generator):
        return deepcopy(value.bit_generator.state)
    if isinstance(value, np.random.RandomState):
        return value.get_state(legacy=False)
    if isinstance(value, random.Random) and not isinstance(value, random.SystemRandom):
        return value.getstate()
    return value.copy() if isinstance(value, np.ndarray) and value.flags.writeable and not value.dtype.hasobject else None


def _set_state(value: Any, state: Any) -> None:
    if isinstance(value, np.random.Generator):
        value.bit_generator.state = state
    elif isinstance(value, np.ndarray):
        value[...] = state
    else:
        (value.setstate if isinstance(value, random.Random) else value.set_state)(state)


def _restore_items(container: Any, contents: Any) -> None:
    if not _same_items(container, contents):
        wanted = _with_notes(container, contents)
        if not _same_items(container, wanted):
            container.clear()
            (container.update if isinstance(container, dict | set) else container.extend)(wanted)


def _restore_memory(tensor: Tensor, memory: Tensor, address: int) -> None:
    """Let a tensor use the memory again that it used before, in its shape."""
    if tensor.shape != memory.shape or _bytes_at(tensor) != address:
        tensor.data = memory


def _is_note(value: Any) -> bool:
    """Return whether a value is a number, a string, or several of them."""
    if isinstance(value, list | tuple):
        return all(map(_is_note, value))
    return isinstance(value, int | float | str) and not isinstance(value, bool)


def _with_notes(container: Any, contents: Any) -> Any:
    """Return the saved contents, but numbers and strings as they are now."""
    if isinstance(container, dict):
        notes = {key: item for key, item in container.items() if _is_note(item) and _is_note(contents.get(key, 0))}
        return {**contents, **notes} if notes else contents
    return container if _is_note(container) and _is_note(contents) else contents


def _same_items(container: Any, contents: Any) -> bool:
    if len(container) != len(contents):
        return False
    if isinstance(container, set):
        return bool(container == contents)
    # The order counts, as of hooks.
    if isinstance(container, dict) and not all(map(is_, container.values(), contents.values())):
        return False
    return all(map(is_, container, contents))


def _same_values(tensor: Tensor, values: Tensor) -> bool:
    own, other = _bytes_of(tensor), _bytes_of(values)
    return own is not None and other is not None and own.device == other.device and torch.equal(own, other)


def _local(tensor: Tensor) -> Tensor:
    """Return this process's part of a tensor that is split between processes, others unchanged."""
    part: Tensor = tensor.to_local() if hasattr(tensor, "to_local") else tensor
    return part


def _bytes_at(tensor: Tensor) -> int:
    if not _is_plain(tensor):
        return 0
    return (_local(tensor.detach()) if hasattr(tensor, "to_local") else tensor).data_ptr()


def _is_plain(tensor: Tensor) -> bool:
    return tensor.layout == torch.strided and not (tensor.is_quantized or tensor.is_nested or tensor.is_meta or is_lazy(tensor))


def _bytes_of(tensor: Tensor) -> Tensor | None:
    """View a tensor as bytes, so that nan equals nan; None if it has another layout."""
    if not _is_plain(tensor):
        return None
    return _local(tensor.detach()).resolve_conj().resolve_neg().reshape(-1).view(torch.uint8)


@contextmanager
def random_state_kept(batches: Any = None) -> Iterator[None]:
    """Restore the global random states of PyTorch, NumPy and Python, and those of a loader's own generators."""
    # A shuffling loader draws its seed from PyTorch's state or from its generator. Augmentation in the main process may draw
    # from any of them.
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else []
    numpy_state, python_state = np.random.get_state(), random.getstate()
    states = [(generator, generator.get_state()) for generator in _generators(batches)]
    try:
        with torch.random.fork_rng(devices=list(devices)):
            yield
    finally:
        np.random.set_state(numpy_state)
        random.setstate(python_state)
        for generator, state in states:
            generator.set_state(state)


def _generators(loader: Any) -> list[torch.Generator]:
    """Return the generators of a loader and of its samplers."""
    found: dict[int, torch.Generator] = {}
    parts = [loader]
    for part in parts:
        generator = getattr(part, "generator", None)
        if isinstance(generator, torch.Generator):
            found[id(generator)] = generator
        inner = (getattr(part, name, None) for name in ("sampler", "batch_sampler"))
        parts += [other for other in inner if other is not None and all(other is not known for known in parts)]
    return list(found.values())


def differing(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return the names under which two fingerprints differ."""
    return [name for name in {**before, **now} if before.get(name, _NOTE) != now.get(name, _NOTE)]


def fingerprint(model: nn.Module) -> dict[str, Any]:
    """Return digests of a network and of the global random states, by what they are digests of."""
    found: dict[str, Any] = {}
    for name, module in model.named_modules():
        place = f"module {name!r}" if name else "the network"
        for key, value in vars(module).items():
            if key not in {"_parameters", "_buffers"}:
                found[f"the mode of {place}" if key == "training" else f"attribute {key!r} of {place}"] = _digest(value)
    for name, buffer in model.named_buffers():
        found[f"buffer {name!r}"] = _digest(buffer)
    for name, parameter in model.named_parameters():
        found[f"parameter {name!r}"] = _digest(parameter)
        found[f"requires_grad of {name!r}"] = parameter.requires_grad
        found[f"the gradient of {name!r}"] = _digest(parameter.grad)
    found["PyTorch's random state"] = _content(torch.get_rng_state())
    if torch.cuda.is_initialized():
        for index, state in enumerate(torch.cuda.get_rng_state_all()):
            found[f"the random state of GPU {index}"] = _content(state)
    found["NumPy's random state"] = pickle.dumps(np.random.get_state(legacy=False))
    found["Python's random state"] = random.getstate()
    return found


def _digest(value: Any) -> Any:
    # First what most attributes of a module are: a flag, nothing, or a container of hooks.
    if value is None or isinstance(value, bool):
        return id(value)
    if isinstance(value, Tensor):
        return id(value), _content(value)
    if _is_note(value):
        return _NOTE
    if type(value) in _CONTAINERS or type(value) is tuple:
        items = [part for item in value.items() for part in item] if isinstance(value, dict) else list(value)
        return id(value) if type(value) is not tuple else 0, [_digest(item) for item in items]
    if (state := _state_of(value)) is not None:
        return id(value), _content(state) if isinstance(state, Tensor) else pickle.dumps(state)
    return id(value)


def _content(tensor: Tensor) -> tuple[Any, ...]:
    content = _bytes_of(tensor)
    data = b"" if content is None else content.cpu().numpy().tobytes()
    return tensor.dtype, tensor.shape, hashlib.blake2b(data).hexdigest()
