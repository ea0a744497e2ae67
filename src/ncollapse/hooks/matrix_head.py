"""Classifiers that are no module: a matrix of the network's that its forward multiplies with the features."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ncollapse.hooks.affine import Affine, noisy, rounding_of
from ncollapse.hooks.capture import INPUTS
from ncollapse.hooks.logits import LARGE, Changed, LogitsReading, drawn_states, is_single
from ncollapse.hooks.tap import Read
from ncollapse.hooks.trace import ModuleCall, Trace

# A forward may compute its logits by a function: F.linear(h, self.W), h @ self.W.T + b, torch.einsum, or with the weight of an
# embedding. No hook sees this, but the matrix is a parameter or buffer of the network, and the features are what a module
# returned, pooled or activated in a few ways. The network runs again with random numbers in place of what the module
# returned. If a matrix of the network explains the answers, and those for the first samples, it is the classifier. A weight
# that was last used before the module returned is not tried: deep networks whose layers are all as wide as their output have
# hundreds.
_ACTIVATIONS: tuple[Read, ...] = (F.relu, F.gelu, F.silu, torch.tanh)
# The features of how many modules are tried, from the last one on.
_NEAREST = 4
# Logits are the same, or linear, if they differ by less than this share of the largest one.
_SAME = 1e-3


class MatrixHead(NamedTuple):
    """A matrix of the network's, and how the features are read with which it may be multiplied."""

    model: nn.Module
    name: str
    call: ModuleCall
    pool: Read
    reading: LogitsReading

    def changed(self, index: int) -> Changed | None:
        """Return the map to the network's logits with this matrix as it is now, None if there is none."""
        answered = _answers(self.call, self.reading, index)
        return None if answered is None else self.explained(*answered)

    def map_behind(self, index: int) -> Affine | None:
        """Return the map to the network's logits as it is now."""
        changed = self.changed(index)
        return None if changed is None else changed.affine

    def explained(self, states: Sequence[Tensor], returned: Tensor) -> Changed | None:
        """Return the map that explains what the network returned for some states of the module."""
        rows = torch.cat(
            [own := self.reading.rows(states[0], self.pool), *(self.reading.rows(s, self.pool) for s in states[1:])]
        )
        maps = list(self._maps(rows.shape[1]))
        # Maps with a bias or a direction of their own come before those that are fitted by an offset for each class. Equal
        # samples would hide what is added to each of them.
        steps = (False, True) if bool((own != own[0]).any()) else (False,)
        found = (self.reading.explained(affine, rows, returned, may_move) for may_move in steps for affine in maps)
        return next(filter(None, found), None)

    def _maps(self, dim: int) -> Iterator[Affine]:
        """Return the maps that forwards make of a matrix: products, cosines, and distances from its rows."""
        module, _, own = self.name.rpartition(".")
        holder = self.model.get_submodule(module)
        matrix = getattr(holder, own).detach()
        matrix = matrix.unsqueeze(0) if matrix.ndim == 1 else matrix.flatten(1)
        biases = [
            part.detach() for part in (*holder.parameters(recurse=False), *holder.buffers(recurse=False)) if part.ndim == 1
        ]
        for weight in (part for part in (matrix, matrix.T) if part.shape[1] == dim):
            unit, zero = F.normalize(weight.float(), dim=1).to(weight.dtype), weight.new_zeros(len(weight))
            maps = [Affine(weight, bias) for bias in (zero, *biases) if len(bias) == len(weight)]
            maps += [Affine(unit, zero), Affine(weight, zero, of_direction=True), Affine(unit, zero, of_direction=True)]
            if len(weight) == 1:
                yield from (affine.of_two_classes() for affine in maps)
            else:
                yield from (*maps, Affine(2 * weight, -weight.square().sum(dim=1), up_to_shift=True))


def find_matrix_head(model: nn.Module, trace: Trace, reading: LogitsReading, index: int) -> tuple[MatrixHead, Changed] | None:
    """Find the matrix that gives the returned logits, and the module whose output it is multiplied with."""
    returned = trace.returned[index]
    logits = reading.logits(returned.values)
    if logits is None:
        return None
    single = is_single(returned.values, reading.num_classes, reading.tokens)
    matrices = _matrices(model, 1 if single else logits.shape[-1])
    for call in _apart(_states(trace, returned.sources))[:_NEAREST]:
        reads = [read for read in _reads(call, reading) if reading.rows(call.values, read).shape[1] in matrices]
        answered = _answers(call, reading, index) if reads else None
        for read in reads if answered is not None else ():
            for name in matrices[reading.rows(call.values, read).shape[1]]:
                if trace.last_used.get(name, math.inf) < call.finished:
                    continue
                head = MatrixHead(model, name, call, read, reading)
                changed = head.explained(*answered)  # type: ignore[misc]
                if changed is not None:
                    return head, changed
    return None


def last_state(presumed: ModuleCall | None, trace: Trace, reading: LogitsReading, index: int) -> ModuleCall | None:
    """Return the last module whose rows alone give the returned logits, by a linear map of several modules."""
    # None if there is none, or if what the presumed classifier takes gives them alone, by any map, or what it returns, by a
    # linear one.
    # Weights beside a classifier may give a part of the logits, as in base(h) + B(A(h)) without a module around it.
    answers, dims = reading.answers, 3 if reading.tokens else 2
    taken = None if presumed is None or presumed.input is None else presumed.input.values
    if presumed is not None and taken is not None:
        if _gives(taken, partial(answers.to_input, [presumed.name]), index, linear=False):
            return None
    states = [call for call in _states(trace, trace.returned[index].sources) if call.values.ndim == dims]
    found = [call for call in states if _gives(call.values, partial(answers.to_output, call.name), index)]
    if any(call is presumed for call in found):
        return None
    # What has a number for each class, or for each but one, holds logits rather than features.
    num = trace.returned[index].values.shape[-1]
    return next((call for call in found if call.values.shape[-1] not in {num, num - 1}), next(iter(found), None))


def _gives(values: Tensor, answer: Callable[[Tensor], list[Tensor]], index: int, linear: bool = True) -> bool:
    """Return whether samples with the same numbers in one place have the same logits, and whether these are linear in them."""
    drawn = LARGE * noisy(values, 0)
    # An odd function of the numbers fails between 0 and large ones, others between large ones and their negatives.
    states = [drawn[:1].expand_as(drawn).clone(), *([drawn, -drawn, drawn / 2, 0 * drawn] if linear else [])]
    try:
        returned = [answer(state)[index] for state in states]
    except Exception:  # a network may refuse other numbers there in any way
        return False
    limit = max(_SAME, 8 * rounding_of(returned[0]))
    same, *others = [part.double() for part in returned]
    off = [same - same[:1]]
    if linear:
        large, negative, half, zero = others
        off += [large + negative - 2 * zero, large + zero - 2 * half]
    return all(bool(part.abs().amax() <= limit * same.abs().amax()) for part in off)


def _answers(call: ModuleCall, reading: LogitsReading, index: int) -> tuple[list[Tensor], Tensor] | None:
    """Return the state of a module and random ones, and what the network returns for them."""
    assert call.output is not None
    states = [call.output.values, *drawn_states(call.output.values)]
    try:
        answers = [reading.answers.to_output(call.name, state) for state in states]
    except Exception:  # a network may refuse other numbers there in any way
        return None
    returned = reading.joined(answers, index)
    return None if returned is None else (states, returned)


def _states(trace: Trace, end: int) -> list[ModuleCall]:
    """Return modules that ran once and returned something from which the logits are made, the last ones first."""
    calls = sorted(trace.calls.values(), key=lambda call: (-call.finished, call.name.count(".")))
    states = [(call, call.output) for call in calls if call.count == 1 and call.axis == 0]
    return [
        call
        for call, output in states
        if output is not None and output.tensor.is_floating_point() and output.tensor.ndim > 1 and output.sources & INPUTS
        if call.leads_to(end)
    ]


def _apart(states: Sequence[ModuleCall]) -> list[ModuleCall]:
    """Return those of some modules that return other tensors than those before them in the list."""
    found: list[ModuleCall] = []
    for call in states:
        found += [] if any(other.returned(call.output) for other in found) else [call]
    return found


def _reads(call: ModuleCall, reading: LogitsReading) -> list[Read]:
    """Return the ways to read a module's output as one row per label."""
    dims = call.values.ndim
    if reading.tokens:
        return ["flatten"] if dims in {3, 4} else []
    if dims == 3 and reading.mask is not None and call.values.shape[1] < reading.mask.shape[1]:
        return ["flatten"]
    return ["flatten", *({2: _ACTIVATIONS, 3: ("cls", "last_token", "mean"), 4: ("mean",)}.get(dims, ()))]


def _matrices(model: nn.Module, num_classes: int) -> dict[int, list[str]]:
    """Return the names of a network's matrices with a row or column for each class, by the other dimension."""
    named = {f"{name}.{own}".lstrip("."): getattr(module, own) for name, module in model.named_modules()
             for own in getattr(module, "parametrizations", ())}  # fmt: skip
    found: dict[int, list[str]] = {}
    for name, tensor in {**named, **dict(model.named_parameters()), **dict(model.named_buffers())}.items():
        shape = (
            tensor.shape if tensor.ndim == 2 else (len(tensor), tensor[0].numel()) if tensor.ndim > 2 and len(tensor) else ()
        )
        dims = {shape[1 - axis] for axis in (0, 1) if len(shape) == 2 and shape[axis] == num_classes}
        # A vector of two numbers, such as a bias, could explain any logits of two numbers.
        if num_classes == 1 and tensor.ndim == 1 and len(tensor) > 2:
            dims.add(len(tensor))
        for dim in dims:
            found.setdefault(dim, []).append(name)
    return found
