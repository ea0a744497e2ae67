"""The rows of a layer's output that have labels: samples, tokens, pixels or nodes, and which dimension counts the samples."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ncollapse.hooks.batch_io import IGNORED_LABEL, map_tensors, tensors_in
from ncollapse.hooks.capture import Captured
from ncollapse.hooks.tap import Placement
from ncollapse.hooks.trace import Look, Trace

# A mask of the positions that have labels, a slice of the positions of each sample, or a function of the batch that returns
# one of them.
Rows = Tensor | slice | Callable[[Any], Tensor | slice]


def class_indices(labels: Any, place: str = "") -> Tensor:
    """Return labels as a tensor; arrays and lists of integers are converted. ``place`` (" in batch 3") goes into errors."""
    if isinstance(labels, Tensor):
        # Classes of tensors may refuse to work together, such as labels and images of fastai.
        plain = type(labels) is Tensor or type(labels).__torch_dispatch__ is not Tensor.__torch_dispatch__
        return labels if plain else labels.as_subclass(Tensor)
    try:
        found = torch.as_tensor(np.asarray(labels) if hasattr(labels, "__array__") else labels)
    except (TypeError, ValueError, RuntimeError):
        found = None
    if found is None or found.is_floating_point() or found.is_complex():
        inside = type(labels[0]).__name__ if isinstance(labels, tuple | list) and labels else ""
        got = type(labels).__name__ + (f" of {inside}" if inside else "")
        several = isinstance(labels, tuple | list) and any(isinstance(part, Tensor) for part in labels)
        hint = "Choose one set of labels, such as unpack=lambda batch: (batch[0], batch[1][0])" if several else (
            "Number the classes from 0, in one tensor, array or list")  # fmt: skip
        raise TypeError(f"labels must be integer class indices, got {got}{place}. {hint}.")
    return found


@dataclass(frozen=True, eq=False)
class LabelRows:
    """The labels of one batch that count, and where their rows are in a layer's output."""

    labels: Tensor  # the labels that count, shape (M,)
    shape: tuple[int, ...]  # the shape of all labels: (N,), (N, T) of tokens or (N, H, W) of pixels
    # Flat indices of the rows, by the shape of a layer's positions; None if all rows have labels.
    places: dict[tuple[int, ...], Tensor | None]
    connected: bool = False  # whether the samples are nodes of one graph, which cannot be separated

    @classmethod
    def of(
        cls,
        labels: Any,
        ignore_index: int | None = None,
        rows: Tensor | slice | None = None,
        place: str = "",
        of_tokens: bool = False,
    ) -> LabelRows:
        """Select the labels that count, by default without ``IGNORED_LABEL`` of tokens; ``of_tokens`` if (N, 1) are these."""
        labels = class_indices(labels, place)
        if labels.ndim == 4 and labels.shape[1] == 1:
            labels = labels.squeeze(1)
        of_samples = labels.ndim > 1 and labels.shape[1] == 1 and not of_tokens
        shape = (len(labels),) if of_samples else tuple(labels.shape)
        flat = labels.reshape(-1)
        counted = torch.ones_like(flat, dtype=torch.bool)
        if ignore_index is not None or len(shape) > 1:
            counted = flat != (IGNORED_LABEL if ignore_index is None else ignore_index)
        if rows is None and len(shape) <= 1 and bool(counted.all()):
            return cls(flat if len(shape) == 1 else labels, shape, {shape: None})
        places: dict[tuple[int, ...], Tensor | None] = {}
        if rows is not None:
            mask = _mask(rows, shape, flat.device)
            if mask.shape == shape:
                counted &= mask.flatten()
            else:
                places[tuple(mask.shape)] = mask.flatten().nonzero().flatten()[counted]
        return cls(flat[counted], shape, {shape: counted.nonzero().flatten(), **places}, rows is not None and len(shape) == 1)

    @classmethod
    def for_every_position(cls, returned: Sequence[Tensor]) -> LabelRows | None:
        """Return labels for all tokens or pixels for which a network returns something, None if it returns single rows."""
        output = next((part for part in returned if part.ndim in (3, 4)), None)
        if output is None:
            return None
        positions = output.shape[1:2] if output.ndim == 3 else output.shape[2:]
        return cls.of(torch.zeros(len(output), *positions, dtype=torch.long))

    @property
    def num_samples(self) -> int:
        """How many samples or nodes the network's outputs are rows of."""
        return max(shape[0] for shape in self.places)

    @property
    def num_tokens(self) -> int:
        """How many labels each sample has if tokens or pixels have labels, else 0."""
        return math.prod(self.shape[1:]) if self.per_position else 0

    @property
    def says_where(self) -> bool:
        """Whether it is known where the labels' positions are in a layer: for pixels, and with a mask of the user's."""
        return len(self.shape) == 3 or len(self.places) > 1

    @property
    def per_position(self) -> bool:
        """Whether every token or pixel has a label."""
        return len(self.shape) > 1

    def of_samples(self, rows: Tensor) -> Tensor:
        """Select from one row per sample, (N, d)."""
        return self._at("Every layer", rows.shape[:1], rows)

    def of_output(self, output: Tensor, placement: Placement) -> Tensor:
        """Select from the network's logits, or from the classes that these choose."""
        return self.of_tokens("The network's output", output, placement) if len(self.shape) == 2 else self.of_logits(output)

    def of_positions(self, label: str, output: Tensor, placement: Placement, pool: object = "flatten") -> Tensor:
        """Select from a layer's tokens (N, T, D) or pixels (N, C, H, W)."""
        if output.ndim != len(self.shape) + 1 or pool != "flatten":
            check_not_one_hot(self, self.shape[-1], ())
            wanted, kind = ("(N, T, D)", "token") if len(self.shape) == 2 else ("(N, C, H, W)", "pixel")
            raise ValueError(
                f"Layer {label!r} must return {wanted} since every {kind} has a label, got {tuple(output.shape)}. "
                f"Name layers that keep the {kind}s, with pool='flatten'; convert one-hot labels with argmax(1)."
            )
        if len(self.shape) == 2:
            return self.of_tokens(f"Layer {label!r}", output, placement)
        return self.of_pixels(f"Layer {label!r}", output)

    def of_tokens(self, what: str, output: Tensor, placement: Placement) -> Tensor:
        """Select from tokens (N, T, D); without a mask of the user's the placement says where the first label's token is."""
        num_tokens, length = self.shape[1], output.shape[1]
        if not self.says_where:
            if length != num_tokens + placement.extra:
                beyond = f" + {placement.extra}" * (placement.extra > 0)
                raise ValueError(
                    f"{what} must have one position per label ({num_tokens}{beyond}), got {length}. Name layers with "
                    "the labels' positions, pass rows=, give others the label -100, or convert one-hot rows with argmax(1)."
                )
            output = output[:, placement.first : placement.first + num_tokens]
        return self._at(what, output.shape[:2], output.flatten(0, 1))

    def of_pixels(self, what: str, output: Tensor) -> Tensor:
        """Select from pixels (N, C, H, W)."""
        output = output.movedim(1, -1)
        return self._at(what, output.shape[:-1], output.flatten(0, -2))

    def of_logits(self, logits: Tensor) -> Tensor:
        """Select from logits (N, K), or (N, P, K) of pixels, or from the classes that these choose."""
        dims = 2 if self.per_position else 1
        seen = logits.shape[:dims]
        shape = next((known for known in self.places if math.prod(known) == seen.numel()), seen)
        return self._at("The network's logits", shape, logits.flatten(0, dims - 1))

    def check_logits(self, returned: Tensor) -> None:
        """Raise an error if the network returns a class for each pixel with the classes last, which would be read across."""
        if len(self.shape) == 3 and returned.ndim == 4 and returned.shape[1:3] == self.shape[1:] != returned.shape[2:]:
            raise ValueError(
                f"The network's logits must have their classes in the second dimension, got {tuple(returned.shape)} for labels "
                f"{self.shape}. Return logits.permute(0, 3, 1, 2)."
            )

    def _at(self, what: str, shape: Sequence[int], rows: Tensor) -> Tensor:
        """Select from the rows of positions of one shape."""
        if tuple(shape) not in self.places and None not in self.places.values():
            expected = " or ".join(str(known) for known in self.places)
            raise ValueError(
                f"{what} must have rows for the positions of the labels, {expected}, got positions {tuple(shape)}. "
                "Leave the layer out, pass rows= to say which positions have labels, or convert one-hot labels with argmax(1)."
            )
        index = self.places.get(tuple(shape))
        return rows if index is None else rows.index_select(0, index.to(rows.device))

    def elsewhere(self, output: Tensor) -> str:
        """Return why an output has no rows for the labels' tokens or pixels, "" if it has; its samples may be others."""
        if not self.per_position:
            return ""
        positions = () if output.ndim != len(self.shape) + 1 else output.shape[1:-1] if output.ndim == 3 else output.shape[2:]
        if any(tuple(positions) == shape[1:] for shape in self.places):
            return ""
        own = "×".join(map(str, positions)) or "no"
        return f"{own} positions, the labels have {'×'.join(map(str, self.shape[1:]))}"


def _mask(rows: Tensor | slice, shape: Sequence[int], device: torch.device) -> Tensor:
    """Return the mask of positions, with the samples as its first dimension, after checking that the labels fill it."""
    if isinstance(rows, slice):
        if len(shape) != 2:
            raise ValueError(f"rows as a slice needs labels of shape (N, T), got {tuple(shape)}. Pass a mask.")
        # What the slice leaves out at both ends comes on top of the positions with labels.
        before, behind = rows.start or 0, max(0, -(rows.stop or 0))
        mask = torch.zeros(before + shape[1] + behind, dtype=torch.bool, device=device)
        mask[rows] = True
    else:
        mask = rows.to(device)
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
        raise TypeError(f"rows must be a mask of booleans, got {mask.dtype}. Pass mask.bool().")
    mask = mask.expand(shape[0], *mask.shape) if mask.ndim == len(shape) - 1 else mask
    if mask.shape != tuple(shape) and not _marks_one_each(mask, shape):
        raise ValueError(
            f"rows must have the shape of the labels, {tuple(shape)}, or mark one position for each of them, got a mask of "
            f"shape {tuple(mask.shape)} with {int(mask.sum())} marks. Check the mask."
        )
    return mask


def _marks_one_each(mask: Tensor, shape: Sequence[int]) -> bool:
    if mask.ndim != len(shape) or len(shape) == 1:
        return mask.ndim == 1 == len(shape) and int(mask.sum()) == shape[0]
    return mask.shape[0] == shape[0] and bool((mask.flatten(1).sum(dim=1) == math.prod(shape[1:])).all())


def check_not_one_hot(labeled: LabelRows, num_classes: int | None, outputs: Sequence[Tensor]) -> None:
    """Refuse labels (N, K) of zeros and ones, if the network does not return something for each of K positions."""
    labels, shape = labeled.labels, labeled.shape
    if (
        len(shape) != 2
        or shape[1] != num_classes
        or len(labels) != math.prod(shape)
        or not bool(((labels == 0) | (labels == 1)).all())
    ):
        return
    returned = any(output.ndim >= 3 and output.shape[:2] == shape for output in outputs)
    if not returned or (num_classes > 2 and bool((labels.view(shape).sum(dim=1) == 1).all())):
        raise ValueError(
            f"`labels` must be class indices, one per sample (N,) or one per token (N, T), got rows {shape} of zeros and ones. "
            "Convert one-hot rows with argmax(1)."
        )


def find_sample_axes(trace: Trace, inputs: Any, num_rows: int, look: Look) -> None:
    """Note for all modules along which dimension their tensors have the samples."""
    # One look cannot tell (time, samples, ...) from (samples, time, ...) if both are 2. With one sample more, the dimension of
    # the samples grows. The second look is needed only if a second dimension is as long.
    seen = [part.tensor for call in trace.calls.values() for part in (call.output, call.input) if part is not None]
    doubtful = any(not tensor.is_nested and tensor.ndim > 2 and tensor.shape[1] == num_rows for tensor in seen)
    more = _look_at_more(trace, inputs, num_rows, look) if doubtful else None
    for call in trace.calls.values():
        other = None if more is None else more.calls.get(call.name)
        call.axis = _axis(call.output, None if other is None else other.output, num_rows)
        call.input_axis = _axis(call.input, None if other is None else other.input, num_rows)


def _look_at_more(trace: Trace, inputs: Any, num_rows: int, look: Look) -> Trace | None:
    """Return a look at one sample more, None if the network refuses."""
    # If inputs have as many time steps as samples, it is the samples if the network also returns one row more.
    looks = [_one_more(inputs, num_rows, look, (0, 1))]
    if not _returns_more(trace, looks[0]):
        looks.append(_one_more(inputs, num_rows, look, (1, 0)))
    return next((more for more in looks if _returns_more(trace, more)), looks[0])


def _returns_more(trace: Trace, more: Trace | None) -> bool:
    """Return whether a network returned further rows in another look."""
    ends = None if more is None or more.output is None else more.output.tensor
    return ends is not None and trace.output is not None and len(ends) > len(trace.output.tensor)


def _one_more(inputs: Any, num_rows: int, look: Look, axes: Sequence[int]) -> Trace | None:
    indices = torch.tensor([*range(num_rows), 0])

    def one_more(tensor: Tensor) -> Tensor:
        if not isinstance(tensor, Tensor):
            raise TypeError("a graph or another object cannot be extended")
        axis = next((axis for axis in axes if axis < tensor.ndim and tensor.shape[axis] == num_rows), None)
        return tensor if axis is None else tensor.index_select(axis, indices.to(tensor.device))

    try:
        more = map_tensors(one_more, inputs)
        return None if all(new is old for new, old in zip(tensors_in(more), tensors_in(inputs), strict=True)) else look(more)
    except Exception:  # a network may refuse one sample more in any way: then the dimension stays unknown
        return None


def _axis(seen: Captured | None, more: Captured | None, num_rows: int) -> int | None:
    """Return the dimension of the samples, None if there is none."""
    if seen is None or seen.tensor.is_nested:
        return None
    if more is None or more.tensor.ndim != seen.tensor.ndim:
        return 0 if seen.tensor.ndim > 0 and len(seen.tensor) == num_rows else None
    pairs = zip(seen.tensor.shape[:2], more.tensor.shape[:2], strict=True)
    return next((axis for axis, pair in enumerate(pairs) if pair == (num_rows, num_rows + 1)), None)
