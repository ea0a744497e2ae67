"""Which dimension of a layer's output counts its tokens, (N, T, D) or (N, D, T), and which one its channels."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn

from ncollapse.hooks.batch_io import map_tensors
from ncollapse.hooks.label_rows import LabelRows
from ncollapse.hooks.masks import tensors_of_inputs
from ncollapse.hooks.pooling import MeanFrom, TokenReading
from ncollapse.hooks.tap import INPUT, Placement, Tap
from ncollapse.hooks.trace import (
    Look,
    ModuleCall,
    Trace,
    change_profile,
    changed_in_any,
    changed_sizes,
    token_calls,
    token_states,
)

# A layer is (N, T, D) unless something shows that its tokens are in the last dimension, as around a convolution over time. This
# is looked into only where the last dimension is as long as tokens are somewhere in the network. With fewer tokens in the
# inputs, the dimension that counts tokens is shorter; this holds for every network that takes sequences of any length. If it
# refuses, another last token in one sample and another first one in another sample change the two ends of that dimension, as
# long as no module has mixed the tokens. Then the kind of module decides, and at last the other layers of the same shape.

_FIRST, _LAST, _UNKNOWN = 1, 2, 0
UNCLEAR = "may have its tokens in the last dimension"
UNSHOWN = "nothing shows which dimension counts its tokens"
# Modules whose tensors have the positions in the last dimension, as long as they are no layers over all tokens.
_ALONG_TIME = (nn.Conv1d, nn.ConvTranspose1d, nn.BatchNorm1d, nn.InstanceNorm1d)
# Modules whose tensors have the features in the last dimension.
_OVER_TOKENS = (nn.RNNBase, nn.MultiheadAttention, nn.TransformerEncoderLayer, nn.TransformerDecoderLayer)


def token_axes(
    trace: Trace, inputs: Any, look: Look, wanted: Collection[str], known: Mapping[str, int] | None = None
) -> dict[str, int]:
    """Return 2 for states whose tokens are the last dimension, 0 if unknown, 1 for (N, T, D); ``known`` are some of them."""
    states, known = token_states(trace), known or {}
    lengths, widths = ({states[name].shape[abs(side - known.get(name, _FIRST))] for name in states} for side in (0, 3))
    likely, certain = _axes_by_kind(trace, states)
    certain |= known
    alike = {name for name, state in states.items() if state.shape[2] in lengths or state.shape[1] in widths}
    alike = {name for name in alike if max(states[name].shape[1:]) > 1}
    unclear = {name for name in alike | likely.keys() | certain.keys() if certain.get(name) != _FIRST}
    usual = _usual(states, inputs)
    if set(wanted) <= usual - unclear:
        return dict.fromkeys(wanted, _FIRST)
    found = _shorter_axes(trace, states, inputs, look, certain)
    others, apart = ([], {}) if unclear <= found.keys() else _ends_apart(trace, states, inputs, look, certain)
    found = likely | apart | certain | found
    unclear |= states.keys() - usual if _LAST in found.values() else set()
    found |= _axes_of_views(trace, unclear - found.keys(), found)
    shapes = {axis: {tuple(states[name].shape[1:]) for name in found if found[name] == axis} for axis in (_FIRST, _LAST)}
    for name in unclear - found.keys():
        found[name] = _axis_by_shape(tuple(states[name].shape[1:]), shapes)
        if found[name] == _UNKNOWN and _stays_at_its_end(states[name], [other[name] for other in others if name in other]):
            found[name] = _FIRST
    return {name: found.get(name, _FIRST) for name in wanted}


def _usual(states: Mapping[str, Tensor], inputs: Any) -> set[str]:
    """Return the states whose second dimension alone is as long as one of the inputs'."""
    given = [set(tensor.shape[1:]) for tensor in tensors_of_inputs(inputs) if tensor.ndim in (2, 3)]
    return {name for name, state in states.items() if any(state.shape[1] in sizes - {state.shape[2]} for sizes in given)}


def _axes_by_kind(trace: Trace, states: Collection[str]) -> tuple[dict[str, int], dict[str, int]]:
    """Return the axes of states around modules of certain kinds: the likely ones, and those that are certain."""
    calls = trace.calls.values()
    likely, certain = dict[str, int](), dict[str, int]()
    for name in states:
        outer = trace.calls.get(name.removesuffix(INPUT))
        for call in [outer] if outer is not None else [call for call in calls if call.returned(trace.output)]:
            if isinstance(call.module, _OVER_TOKENS):
                certain[name] = _FIRST
            elif isinstance(call.module, _ALONG_TIME):  # a convolution of width 1 is also a layer over all tokens (N, T, D)
                width = getattr(call.module, "kernel_size", (1,))[0]
                (certain if width > 1 else likely)[name] = _LAST
    return likely, certain


def _axes_of_views(trace: Trace, names: Collection[str], known: Mapping[str, int]) -> dict[str, int]:
    """Return the axes of states that are views of known ones: their strides tell whether the dimensions are exchanged."""
    tensors = {
        call.name: call.output.tensor.movedim(call.axis or 0, 0) for call in token_calls(trace) if call.output is not None
    }
    found: dict[str, int] = {}
    for name in names & tensors.keys():
        own = tensors[name]
        for other in [other for other in tensors if known.get(other, _UNKNOWN) != _UNKNOWN]:
            strides, pairs = own.stride()[1:], sorted(zip(own.shape[1:], own.stride()[1:], strict=True))
            same = sorted(zip(tensors[other].shape[1:], tensors[other].stride()[1:], strict=True)) == pairs
            if same and own.data_ptr() == tensors[other].data_ptr() and strides[0] != strides[1] and min(own.shape[1:]) > 1:
                found[name] = known[other] if tensors[other].stride()[1:] == strides else 3 - known[other]
    return found


def _axis_by_shape(shape: tuple[int, ...], known: Mapping[int, set[tuple[int, ...]]]) -> int:
    """Return the axis of the layers of this shape; unknown if these have both, or if it could also be that of others."""
    turned, widths = shape[::-1], {seen[2 - axis] for axis, shapes in known.items() for seen in shapes}
    # Merged or split tokens may have the shape of others that are turned, such as (8, 4) and (4, 8).
    if max(shape) % min(shape) == 0 or (shape in known[_FIRST] and shape in known[_LAST]):
        return _UNKNOWN
    if shape in known[_FIRST] | known[_LAST]:
        return _FIRST if shape in known[_FIRST] else _LAST
    return _UNKNOWN if turned in known[_FIRST] or shape[0] in widths else _FIRST


def _shorter_axes(
    trace: Trace, states: Mapping[str, Tensor], inputs: Any, look: Look, certain: Mapping[str, int]
) -> dict[str, int]:
    """Return the dimension of each state that is shorter with fewer tokens in the inputs."""
    partly: dict[str, int] = {}
    for fewer, is_usual in _with_fewer_tokens(inputs, len(next(iter(states.values())))):
        other = look(fewer, partly=True)
        shorter = token_states(other, trace)
        pairs = {name: (state.shape, shorter[name].shape) for name, state in states.items() if name in shorter}
        found = {name: [axis for axis in (1, 2) if new[axis] < old[axis]] for name, (old, new) in pairs.items()}
        axes = {name: axes[0] for name, axes in found.items() if len(axes) == 1}
        if other.returned and any(found.values()):
            return axes
        # If the network refused on its way, fewer features may have passed so far as well.
        known = certain.keys() & axes.keys()
        if not partly and (known or is_usual) and all(axes[name] == certain[name] for name in known):
            partly = axes
    return partly


def _with_fewer_tokens(inputs: Any, num_rows: int) -> Iterator[tuple[Any, bool]]:
    """Yield inputs with half of the length in a dimension that may count tokens, pixels or time, and if it usually does."""
    leading = next((tensor for tensor in tensors_of_inputs(inputs) if tensor.ndim > 1), None)
    if leading is None or num_rows not in leading.shape[:2]:
        return
    counts = [axis for axis in (0, 1) if leading.shape[axis] == num_rows]  # as many time steps as samples: either
    axes = [axis for axis in range(min(leading.ndim, 4)) if counts != [axis] and leading.shape[axis] > 1]
    for axis in sorted(axes, key=lambda axis: axis in counts):
        length, samples = leading.shape[axis], counts[0] if axis != counts[0] else counts[-1]
        usual = 2 if leading.ndim == 4 else 1 - samples

        def cut(tensor: Tensor, axis: int = axis, length: int = length, samples: int = samples) -> Tensor:
            if not isinstance(tensor, Tensor):
                return tensor
            same = tensor.shape == leading.shape
            dims = [axis] if same else [dim for dim in range(1 - samples, tensor.ndim) if tensor.shape[dim] == length]
            for dim in dims:
                tensor = tensor.narrow(dim, 0, (length + 1) // 2)
            return tensor

        yield map_tensors(cut, inputs), axis == usual


def _ends_apart(
    trace: Trace, states: Mapping[str, Tensor], inputs: Any, look: Look, certain: Mapping[str, int]
) -> tuple[list[dict[str, Tensor]], dict[str, int]]:
    """Return the states of two looks at inputs with other ends, and the axes that these show."""
    num_rows = len(next(iter(states.values())))
    longest = max((max((*tensor.shape, tensor.shape[2:].numel())) for tensor in tensors_of_inputs(inputs)), default=0)
    for axis in (_FIRST, _LAST):  # inputs of three dimensions may be (N, D, T)
        changed = [
            map_tensors(lambda part, axis=axis, turn=turn: with_other_ends(part, num_rows, axis, turn), inputs)  # type: ignore[misc]
            for turn in (0, 1)
        ]
        looks = [token_states(look(other), trace) for other in changed]
        others = [{name: other for name, other in look.items() if other.shape == states[name].shape} for look in looks]
        found = dict[str, int]()
        for name, state in states.items():
            own = [look[name] for look in others if name in look]
            axes = [side for side in (_FIRST, _LAST) if own and _are_apart(state, own, side, longest)]
            found |= {name: axes[0]} if len(axes) == 1 else {}
        if all(found.get(name, at) == at for name, at in certain.items()):
            return others, found
    return [], {}


def with_other_ends(tensor: Any, num_rows: int, axis: int = _FIRST, turn: int = 0) -> Any:
    """Return inputs whose last token or pixel is another one in the first sample, and the first one in the others."""
    if not isinstance(tensor, Tensor) or tensor.ndim < 2 or tensor.dtype == torch.bool or num_rows not in tensor.shape[:2]:
        return tensor
    if not tensor.is_floating_point() and bool(((tensor == 0) | (tensor == 1)).all()):
        return tensor  # a mask
    changed = tensor.detach().clone(memory_format=torch.contiguous_format)
    new, old = (part if len(part) == num_rows else part.transpose(0, 1) for part in (changed, tensor))
    if old.ndim > 3:  # pixels are last
        new, old = (part.movedim((-2, -1), (1, 2)).flatten(1, 2) for part in (new, old))
    elif old.ndim == 3 and axis == _LAST:
        new, old = new.transpose(1, 2), old.transpose(1, 2)
    far = turn * (old.shape[1] // 2)
    new[0, -1] = old[0, far]
    new[1:, 0] = old[1:, -1 - far]
    return changed


def _are_apart(state: Tensor, others: Sequence[Tensor], axis: int, longest: int) -> bool:
    """Return whether all that changed in the first sample is behind all that changed in the second."""
    last, first = (changed_in_any(state, others, sample, axis) for sample in (0, 1))
    if not last or not first or max(first) >= min(last):
        return False
    if axis == _LAST and len(last | first) == state.shape[_LAST] > longest:
        return False  # parts of joined features: of more tokens than were given, such as a prompt's, not all change
    # Merged tokens are in different parts of the features, too: then both dimensions are apart.
    return bool(changed_in_any(state, others, 0, 3 - axis) & changed_in_any(state, others, 1, 3 - axis))


def _stays_at_its_end(state: Tensor, others: Sequence[Tensor]) -> bool:
    """Return whether the changed tokens changed most, as where attention adds to every token what it takes of others."""
    for sample, end in ((0, -1), (1, 0)):
        for profile in [change_profile(state, other, sample, _FIRST) for other in others]:
            if not profile[end] or profile[end] < profile.max():
                return False
    return bool(others) and len(state) > 1


def unproven(trace: Trace, inputs: Any, look: Look, names: Collection[str]) -> list[str]:
    """Return those of some states of which nothing shows that their tokens are the second dimension."""
    states = token_states(trace)
    certain = _axes_by_kind(trace, states)[1]
    left = [name for name in names if name in states and certain.get(name) != _FIRST]
    found = _shorter_axes(trace, states, inputs, look, certain) if left else {}
    left = [name for name in left if found.get(name) != _FIRST]
    others, apart = _ends_apart(trace, states, inputs, look, certain) if left else ([], {})
    left = [name for name in left if apart.get(name) != _FIRST]
    return [name for name in left if not _stays_at_its_end(states[name], [other[name] for other in others if name in other])]


def turned(
    trace: Trace, taps: Sequence[Tap], inputs: Any, look: Look, labeled: LabelRows | None, read: TokenReading
) -> tuple[dict[str, Placement | str], str]:
    """Return layers of images (N, H, W, C) whose pixels have labels, and of tokens (N, D, T) that are averaged or chosen."""
    # If it is unknown where their positions are, return why. Also return of which this is taken for granted, in words.
    if labeled is not None and len(labeled.shape) == 3:
        calls = {tap.label: trace.taken(tap) for tap in taps}
        placed = {label: call for label, call in calls.items() if call.output is not None and call.axis is not None}
        return _channels_last(placed, inputs, look, labeled.shape[1:]), ""
    states = token_states(trace)
    pooled = [tap for tap in taps if isinstance(tap.pool, str | MeanFrom) and tap.pool != "flatten" and tap.name in states]
    by_rows = {read.tokens.name: _LAST} if read.is_turned and read.tokens is not None else {}
    axes = token_axes(trace, inputs, look, [tap.name for tap in pooled], by_rows) if pooled else {}
    found: dict[str, Placement | str] = {tap.label: Placement(is_last=True) for tap in pooled if axes[tap.name] == _LAST}
    found |= {tap.label: UNCLEAR for tap in pooled if axes[tap.name] == _UNKNOWN}
    names = [] if read.is_known else [tap.name for tap in pooled if axes[tap.name] == _FIRST]
    unshown, usual = unproven(trace, inputs, look, names), _usual(states, inputs)
    found |= {tap.label: UNSHOWN for tap in pooled if tap.name in set(unshown) - usual}
    granted = ", ".join(name for name in unshown if name in usual)
    return found, f"nothing shows that the second dimension of {granted} counts tokens" if granted else ""


def _channels_last(
    calls: Mapping[str, ModuleCall], inputs: Any, look: Look, pixels: tuple[int, ...]
) -> dict[str, Placement | str]:
    # A layer has its channels last if its shape can be read so, unless the looks show otherwise: there may be as many channels
    # as rows. The images are cut in half, so that there are fewer columns. If the network refuses, one pixel is changed: then
    # all channels change, but few positions.
    shapes = {label: tuple(call.features.shape[1:]) for label, call in calls.items()}
    last = [label for label, shape in shapes.items() if len(shape) == 3 and shape[:2] == pixels]
    found: dict[str, Placement | str] = {}
    if not last:
        return found
    num_rows = len(next(iter(calls.values())).features)
    narrower, after = None, look(map_tensors(lambda part: with_other_ends(part, num_rows), inputs))
    with suppress(Exception):  # a network may refuse other sizes in any way
        narrower = look(map_tensors(_half_as_wide, inputs))
    for label in last:
        call, count = calls[label], changed_sizes(calls[label], after)
        other = None if narrower is None else narrower.call(call.name)
        cut = () if other is None or other.output is None else other.output.tensor.movedim(call.axis or 0, 0).shape[1:]
        if len(cut) == 3 and (cut[1] < pixels[1]) != (cut[2] < pixels[1]):
            found |= {label: Placement(channels_last=True)} if cut[1] < pixels[1] else {}
        elif count[0] == count[1] != count[2] or (shapes[label][1:] != pixels and count[0] < pixels[0]):
            found[label] = Placement(channels_last=True)
        elif shapes[label][1:] != pixels and count[1] == pixels[1]:
            found[label] = Placement(channels_last=True)  # all pixels are mixed
        elif not count[0] != count[1] == count[2] and not _is_convolutional(call.module):
            found[label] = "may have its channels last or second"
    return found


def _half_as_wide(tensor: Any) -> Any:
    is_image = isinstance(tensor, Tensor) and tensor.ndim > 3
    return tensor.narrow(tensor.ndim - 1, 0, (tensor.shape[-1] + 1) // 2) if is_image else tensor


def _is_convolutional(module: nn.Module) -> bool:
    """Return whether a module has weights, and none of a kind that has its channels last."""
    kinds = {type(part) for part in module.modules() if any(True for _ in part.parameters(recurse=False))}
    return bool(kinds) and not any(issubclass(kind, nn.Linear | nn.LayerNorm) for kind in kinds)
