"""The parts of a batch: inputs for the network, labels, and the attention mask."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

Unpack = Callable[[Any], tuple[Any, Tensor]]

# Positions with this label are left out, as in torch.nn.functional.cross_entropy.
IGNORED_LABEL = -100
_LABEL_KEYS = ("labels", "label")
# The search for layers runs on two samples: with one, a row per sample could not be distinguished from a single value.
_FIRST_SAMPLES = 2


def unpack_batch(batch: Any) -> tuple[Any, Tensor]:
    """Split a batch into inputs and labels: a pair, or a mapping with the key "labels" or "label".

    Args:
        batch: One batch of a data loader.

    Returns:
        Inputs and labels. For a mapping, the inputs are the mapping without its labels.

    Raises:
        TypeError: If the batch has neither form.
    """
    if isinstance(batch, Mapping):
        for key in _LABEL_KEYS:
            if key in batch:
                return {name: value for name, value in batch.items() if name != key}, batch[key]
        got = f"a mapping with the keys {', '.join(map(str, batch))}"
    elif isinstance(batch, tuple | list):
        if len(batch) == 2:
            return batch[0], batch[1]
        got = f"a {type(batch).__name__} of length {len(batch)}"
    else:
        got = type(batch).__name__
    raise TypeError(
        f"batches must yield (inputs, labels) or a mapping with labels, got {got}. "
        "Pass a function that splits a batch, such as unpack=lambda batch: (batch[0], batch[1])."
    )


def next_tokens(batch: Mapping[str, Any]) -> tuple[dict[str, Any], Tensor]:
    """Split a language model's batch into inputs and next-token labels, for ``measure(..., unpack=next_tokens)``.

    The label of a position is the token after it. The last position and those before padding have none.

    Args:
        batch: A mapping with "input_ids" of shape (N, T) and, for padded sequences, "attention_mask".

    Returns:
        The inputs without labels, and labels of shape (N, T): -100 for positions without a label.

    Raises:
        TypeError: If the batch has no token ids.
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


def run_network(model: nn.Module, inputs: Any) -> Any:
    """Call a network: a mapping by keywords, a tuple or list by position, anything else as its one argument."""
    if isinstance(inputs, Mapping):
        return model(**inputs)
    if isinstance(inputs, tuple | list):
        return model(*inputs)
    return model(inputs)


def length_of(batches: Any) -> int | None:
    """Return the number of batches, None if it is unknown, as of a loader over a stream."""
    try:
        return len(batches)
    except (TypeError, NotImplementedError):
        return None


def map_tensors(function: Callable[[Tensor], Tensor], inputs: Any) -> Any:
    """Apply a function to all tensors of a network's inputs."""
    if isinstance(inputs, Tensor):
        return function(inputs)
    if isinstance(inputs, Mapping):
        return {name: map_tensors(function, value) for name, value in inputs.items()}
    if isinstance(inputs, tuple | list):
        return [map_tensors(function, value) for value in inputs]
    return inputs


def attention_mask(inputs: Any) -> Tensor | None:
    """Return the inputs' attention mask, None if they have none."""
    mask = inputs.get("attention_mask") if isinstance(inputs, Mapping) else None
    return mask if isinstance(mask, Tensor) else None


def num_samples_of(inputs: Any) -> int:
    """Return the length of the first tensor, 0 if there is none."""
    if isinstance(inputs, Tensor):
        return len(inputs) if inputs.ndim else 0
    parts = inputs.values() if isinstance(inputs, Mapping) else inputs if isinstance(inputs, tuple | list) else ()
    return next((found for part in parts if (found := num_samples_of(part))), 0)


def first_samples(inputs: Any, num_samples: int) -> tuple[Any, int]:
    """Copy the first samples, since the network may overwrite its inputs; also return how many these are."""

    def cut(tensor: Tensor) -> Tensor:
        return tensor[:_FIRST_SAMPLES].clone() if tensor.ndim > 0 and len(tensor) == num_samples else tensor.clone()

    return map_tensors(cut, inputs), min(_FIRST_SAMPLES, num_samples)
