"""The parts of a batch: the inputs and how the network is called with them, the labels, and the mask of real tokens."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from ncollapse.default_device import as_the_user

# A function of the network and the inputs that calls the network.
Call = Callable[[nn.Module, Any], Any]
Unpack = Callable[[Any], tuple[Any, Tensor]]

# Positions with this label are left out, as in torch.nn.functional.cross_entropy.
IGNORED_LABEL = -100
_LABEL_KEYS = ("labels", "label")
_LIKE_LABELS = ("label", "target", "class", "category", "y")


def unpack_batch(batch: Any) -> tuple[Any, Tensor]:
    """Split a batch into inputs and labels: a pair, a mapping with the key "labels" or "label", or a graph with labels ``y``.

    Args:
        batch: One batch of a data loader.

    Returns:
        Inputs and labels. For a mapping, the inputs are the mapping without its labels; for a graph, the graph.

    Raises:
        TypeError: If the batch has none of these forms.
    """
    parts = "batch[0], batch[1]"
    if isinstance(batch, Mapping):
        for key in _LABEL_KEYS:
            if key in batch:
                return {name: value for name, value in batch.items() if name != key}, batch[key]
        got, parts = f"a mapping with the keys {', '.join(map(str, batch))}", _likely_parts(list(batch))
    elif isinstance(batch, tuple | list):
        if len(batch) == 2:
            return batch[0], batch[1]
        got = f"a {type(batch).__name__} of length {len(batch)}"
    elif is_object(batch) and isinstance(getattr(batch, "y", None), Tensor):
        return batch, batch.y
    else:
        got = type(batch).__name__
    raise TypeError(
        f"batches must yield (inputs, labels) or a mapping with labels, got {got}. "
        f"Pass a function that splits a batch, such as unpack=lambda batch: ({parts})."
    )


def _likely_parts(keys: list[Any]) -> str:
    """Return the expressions for inputs and labels of a mapping: labels by the name, else the last key."""
    labels = next((key for key in keys if str(key).lower().startswith(_LIKE_LABELS)), keys[-1] if len(keys) > 1 else "labels")
    inputs = next((key for key in keys if key != labels), "inputs")
    return f"batch[{inputs!r}], batch[{labels!r}]"


def next_tokens(batch: Mapping[str, Any]) -> tuple[dict[str, Any], Tensor]:
    """Split a language model's batch into inputs and next-token labels, for ``measure(..., unpack=next_tokens)``.

    The label of a position is the token after it. The last position and those before padding have none.

    Args:
        batch: A mapping with "input_ids" of shape (N, T) and, for padded sequences, "attention_mask".

    Returns:
        The inputs without labels, and labels of shape (N, T): -100 for positions without a label.

    Raises:
        TypeError: If the batch has no token ids.

    Example:
        >>> next_tokens({"input_ids": torch.tensor([[5, 7, 9]])})[1].tolist()
        [[7, 9, -100]]
    """
    ids = batch.get("input_ids") if isinstance(batch, Mapping) else None
    if not isinstance(ids, Tensor) or ids.ndim != 2:
        got = str(tuple(ids.shape)) if isinstance(ids, Tensor) else type(ids).__name__
        raise TypeError(f"next_tokens needs a mapping with input_ids of shape (N, T), got {got}. Tokenize into tensors first.")
    labels = torch.full_like(ids, IGNORED_LABEL)
    labels[:, :-1] = ids[:, 1:]
    mask = batch.get("attention_mask")
    if mask is not None:
        labels[:, :-1].masked_fill_((mask[:, 1:] == 0) | (mask[:, :-1] == 0), IGNORED_LABEL)
    return {name: value for name, value in batch.items() if name not in _LABEL_KEYS}, labels


@dataclass(frozen=True)
class Arguments:
    """The arguments of one call of a network."""

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    call: Call | None = None  # the user's function, which gets the network and the one value in `args`
    doubtful: Any = None  # the inputs as given, if the forward's signature does not take their parts

    @classmethod
    def of(cls, model: nn.Module, inputs: Any) -> Arguments:
        """Bind inputs: a mapping by keywords, a tuple or list by position, where the forward takes them so; else whole."""
        if isinstance(inputs, Arguments):
            return inputs
        if isinstance(inputs, Mapping):
            spread = cls((), inputs)
        elif isinstance(inputs, tuple | list) and not isinstance(inputs, PackedSequence):
            spread = cls(tuple(inputs), {})
        else:
            return cls((inputs,), {})
        if spread._fits(model):
            return spread
        whole = cls((inputs,), {}, doubtful=inputs)
        return whole if whole._fits(model) else replace(spread, doubtful=inputs)

    def run(self, model: nn.Module) -> Any:
        """Call the network."""
        with as_the_user():
            return self._run(model)

    def _run(self, model: nn.Module) -> Any:
        if self.call is not None:
            return self.call(model, self.args[0])
        try:
            return model(*self.args, **self.kwargs)
        except (TypeError, AttributeError, KeyError, IndexError) as error:
            if self.doubtful is None:
                raise
            raise TypeError(_refused(model, self.doubtful, error)) from error

    def map(self, function: Callable[[Any], Any]) -> Arguments:
        """Apply a function to the values."""
        return Arguments(tuple(map(function, self.args)), _values(function, self.kwargs), self.call, self.doubtful)

    def by_name(self, model: nn.Module) -> dict[str, Any]:
        """Return the values by the names of the forward's parameters, and those in mappings by their keys."""
        found = dict(self.kwargs)
        if self.call is None and (bound := self._bound(model)) is not None:
            found |= bound.arguments
        return found | _items_in([*self.args, *self.kwargs.values()])

    def _fits(self, model: nn.Module) -> bool:
        signature = signature_of(model)
        return signature is None or self._bound(model) is not None

    def _bound(self, model: nn.Module) -> inspect.BoundArguments | None:
        signature = signature_of(model)
        try:
            return None if signature is None else signature.bind(*self.args, **self.kwargs)
        except TypeError:
            return None


def _items_in(values: Iterable[Any]) -> dict[str, Any]:
    """Return the items of all mappings in a structure by their keys, inner ones last."""
    found: dict[str, Any] = {}
    for value in values:
        if isinstance(value, Mapping):
            found |= {**value, **_items_in(value.values())}
        elif isinstance(value, tuple | list):
            found |= _items_in(value)
    return found


def signature_of(model: nn.Module) -> inspect.Signature | None:
    """Return the signature of a network's forward, None if it has none."""
    try:
        return inspect.signature(model.forward)
    except (TypeError, ValueError):
        return None


def _refused(model: nn.Module, inputs: Any, error: Exception) -> str:
    mapping = isinstance(inputs, Mapping)
    got = f"a mapping with the keys {', '.join(map(str, inputs))}" if mapping else f"a {type(inputs).__name__} of {len(inputs)}"
    key = repr(next(iter(inputs), "x")) if mapping else "0"
    signature = signature_of(model)
    return (
        f"The forward of {type(model).__name__} takes ({', '.join(signature.parameters if signature else ())}), got {got}, and "
        f"raised {type(error).__name__}: {str(error).rstrip('.')}. Pass unpack=, such as lambda batch: (batch[{key}], "
        f"batch['label']), or call=, such as lambda model, inputs: model(inputs[{key}])."
    )


def run_network(model: nn.Module, inputs: Any) -> Any:
    """Call a network with its inputs."""
    return Arguments.of(model, inputs).run(model)


def length_of(batches: Any) -> int | None:
    """Return the number of batches, None if it is unknown, as of a loader over a stream."""
    try:
        return len(batches)
    except (TypeError, NotImplementedError):
        return None


def map_tensors(function: Callable[[Tensor], Tensor], inputs: Any) -> Any:
    """Apply a function to all tensors of a network's inputs, and to objects with methods of tensors, such as graphs."""
    if isinstance(inputs, Arguments):
        return inputs.map(lambda value: map_tensors(function, value))
    if isinstance(inputs, PackedSequence):
        return type(inputs)(
            function(inputs.data), inputs.batch_sizes, *(None if part is None else function(part) for part in inputs[2:])
        )
    if isinstance(inputs, Mapping):
        return _values(lambda value: map_tensors(function, value), inputs)
    if isinstance(inputs, tuple | list):
        parts = [map_tensors(function, value) for value in inputs]
        return type(inputs)(*parts) if hasattr(inputs, "_fields") else type(inputs)(parts)
    return function(inputs) if hasattr(inputs, "to") and hasattr(inputs, "clone") else inputs


def tensors_of_arrays(inputs: Any, precision: torch.dtype) -> Any:
    """Convert NumPy arrays among the inputs of a network to tensors, those of floating-point numbers in its precision."""
    if isinstance(inputs, Arguments):
        return inputs.map(lambda value: tensors_of_arrays(value, precision))
    if isinstance(inputs, np.ndarray) and inputs.dtype.kind in "fiub":
        tensor = torch.as_tensor(inputs)
        return tensor.to(precision) if tensor.is_floating_point() else tensor
    if type(inputs) is dict:
        return {name: tensors_of_arrays(value, precision) for name, value in inputs.items()}
    return type(inputs)(tensors_of_arrays(value, precision) for value in inputs) if type(inputs) in {tuple, list} else inputs


def _values(function: Callable[[Any], Any], mapping: Mapping[str, Any]) -> Mapping[str, Any]:
    """Apply a function to the values of a mapping, and keep its type if that holds a dictionary alone."""
    values = {name: function(value) for name, value in mapping.items()}
    return type(mapping)(values) if hasattr(mapping, "data") else values  # type: ignore[call-arg]


def is_object(value: Any) -> bool:
    """Return whether a value is no tensor but has tensors, and methods of tensors, such as a graph of PyTorch Geometric."""
    return hasattr(value, "to_dict") and hasattr(value, "to") and hasattr(value, "clone") and not isinstance(value, Tensor)


def tensors_in(inputs: Any) -> list[Any]:
    """Return the tensors of a network's inputs, and objects like them, in order."""
    found: list[Any] = []

    def note(tensor: Any) -> Any:
        found.append(tensor)
        return tensor

    map_tensors(note, inputs)
    return found


def num_samples_of(inputs: Any) -> int:
    """Return the length of the first tensor that is not empty, or of a PackedSequence its sequences; 0 if there is none."""
    parts = (*inputs.args, *inputs.kwargs.values()) if isinstance(inputs, Arguments) else (inputs,)
    for part in parts:
        if isinstance(part, PackedSequence):
            return int(part.batch_sizes[0])
        lengths = [len(tensor) for tensor in tensors_in(part) if isinstance(tensor, Tensor) and tensor.ndim and len(tensor)]
        if lengths:
            return lengths[0]
    return 0


def first_samples(inputs: Any, num_samples: int, chosen: tuple[int, ...] = (0, 1)) -> tuple[Any, int]:
    """Copy two samples, or others, since the network may overwrite its inputs; also return how many these are."""
    chosen = tuple(index for index in chosen if index < num_samples)
    in_front = chosen == tuple(range(len(chosen)))

    def cut(tensor: Any) -> Any:
        if not isinstance(tensor, Tensor) or tensor.is_nested or tensor.ndim == 0:
            return _copied(tensor, tensor)
        if heads := num_heads(tensor, num_samples):
            return _copied(tensor.unflatten(0, (num_samples, heads))[list(chosen)].flatten(0, 1), tensor)
        if len(tensor) != num_samples:
            return _copied(tensor, tensor)
        return _copied(tensor[: len(chosen)] if in_front else tensor[list(chosen)], tensor)

    return map_tensors(cut, inputs), len(chosen)


def num_heads(tensor: Tensor, num_samples: int) -> int:
    """Return of how many heads of each sample a tensor is the mask, (N · heads, T, T); 0 if it is none."""
    is_mask = tensor.ndim == 3 and tensor.shape[1] == tensor.shape[2] and len(tensor) > num_samples > 0
    return len(tensor) // num_samples if is_mask and len(tensor) % num_samples == 0 else 0


def copy_of(inputs: Any) -> Any:
    """Copy the inputs, since the network may overwrite them."""
    return map_tensors(lambda tensor: _copied(tensor, tensor), inputs)


def _copied(part: Any, tensor: Any) -> Any:
    return part.detach().clone().requires_grad_(tensor.requires_grad) if isinstance(tensor, Tensor) else part.clone()
