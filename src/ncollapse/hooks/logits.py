"""The logits in a network's output, and what the network makes of a module's outputs on the way to them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from copy import copy
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ncollapse.hooks.affine import Affine, affine_map, before, fitted_map, noisy, rounding_of
from ncollapse.hooks.batch_io import copy_of, run_network
from ncollapse.hooks.capture import dense_tensors, first_feature, names_logits, parts_of
from ncollapse.hooks.snapshot import random_state_kept
from ncollapse.hooks.tap import Read, Tap

# Scales of the random inputs of a classifier behind which the network changes the logits. Probabilities of large logits are
# rounded to 0 and 1, so that some inputs are small. Bounds of the logits, such as 30 tanh(z/30), show at large ones.
LARGE = 10.0
_SCALES = (1.0, 1.0, 0.3, 0.3, 0.1, 0.1, LARGE)


class Logits(NamedTuple):
    """Where a network's logits are: the position of a returned tensor, and what made them probabilities."""

    position: int
    made: str = ""  # "softmax", "sigmoid", or "single" for one probability of two classes; "" if they are logits

    def read(self, output: Any, num_classes: int | None, tokens: bool) -> Tensor | None:
        """Return logits (N, K), or (N, T, K) of tokens, from a network's output, None if there are none."""
        returned = returned_tensors(output)[self.position :][:1]
        if not returned:
            return None
        return class_logits(returned[0].detach() - 0.5 * (self.made == "single"), num_classes, tokens)


def returned_tensors(output: Any) -> list[Tensor]:
    """Return the tensors in a network's output that may be logits, those named "logits" first."""
    return dense_tensors(output)


def names_first(output: Any) -> bool:
    """Return whether the first of the tensors in a network's output is named "logits", or with "logits" in its name."""
    named = next((part for key, part in parts_of(output) if names_logits(key) and isinstance(part, Tensor)), None)
    return named is not None and bool(dense_tensors(named))


def class_logits(output: Tensor, num_classes: int | None, tokens: bool) -> Tensor | None:
    """Return logits (N, K), or (N, T, K) of tokens, if a returned tensor has their shape; one logit z is (-z/2, z/2)."""
    if tokens and output.ndim == 4:
        output = output.flatten(2).transpose(1, 2)  # (N, K, H, W): pixels are tokens
    if tokens and output.ndim == 3 and output.shape[1] == num_classes != output.shape[2]:
        output = output.transpose(1, 2)  # (N, K, T), as the cross-entropy of PyTorch takes it
    dims = 3 if tokens else 2
    while output.ndim > dims and output.shape[-1] == 1 and not (output.ndim == dims + 1 and tokens):
        output = output.squeeze(-1)
    if output.ndim == dims and (num_classes is None or output.shape[-1] == num_classes):
        return output
    # One logit for two classes comes with a last dimension of one, or without it.
    if num_classes != 2 or not (output.ndim == dims - 1 or (output.ndim == dims and output.shape[-1] == 1)):
        return None
    half = output.reshape(*output.shape[: dims - 1], 1) / 2
    return torch.cat([-half, half], dim=-1)


def is_single(output: Tensor, num_classes: int | None, tokens: bool) -> bool:
    """Return whether a returned tensor holds one number for two classes."""
    return num_classes == 2 and not (output.ndim == (3 if tokens else 2) and output.shape[-1] == 2)


def before_probabilities(output: Tensor) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Yield a returned tensor, and its logits if it may hold probabilities: the kind, the logits, and which are usable."""
    yield "", output, torch.isfinite(output)
    if bool((output >= 0).all() and (output <= 1).all()):
        total = output.double().sum(dim=-1)
        if output.ndim > 1 and output.shape[-1] > 1 and torch.allclose(total, torch.ones_like(total), atol=1e-2):
            yield "softmax", *before("softmax", output)
        else:
            yield "sigmoid", *before("sigmoid", output)


class Answers(NamedTuple):
    """What a network returns for the first samples if other numbers are put into the place of a module's."""

    model: nn.Module
    inputs: Any

    def to_input(self, names: Sequence[str], value: Tensor) -> list[Tensor]:
        """Run the network with another input of some modules."""

        def replace(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            return ((value, *args[1:]), kwargs) if args else ((), {**kwargs, next(iter(kwargs)): value})

        modules = [self.model.get_submodule(name) for name in names]
        return self._run([module.register_forward_pre_hook(replace, with_kwargs=True) for module in modules])

    def to_inputs(self, inputs: Any) -> list[Tensor]:
        """Run the network with other inputs."""
        return self._replace(inputs=inputs)._run(())

    def to_output(self, name: str, value: Tensor) -> list[Tensor]:
        """Run the network with another output of a module."""

        def replace(module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
            return _with_feature(output, value.clone())

        return self._run([self.model.get_submodule(name).register_forward_hook(replace)])

    def _run(self, handles: Sequence[RemovableHandle]) -> list[Tensor]:
        try:
            with random_state_kept():
                output = run_network(self.model, copy_of(self.inputs))
            return [tensor.clone() for tensor in returned_tensors(output)]
        finally:
            for handle in handles:
                handle.remove()


class Changed(NamedTuple):
    """The map to the logits of a network that changes its classifier's outputs, and the change in words."""

    affine: Affine
    words: str
    made: str


class LogitsReading(NamedTuple):
    """How a network's outputs are read: the number of classes, whether every token has a label, and the attention mask."""

    num_classes: int | None
    tokens: bool
    mask: Tensor | None
    answers: Answers

    def logits(self, values: Tensor) -> Tensor | None:
        """Return logits (N, K), or (N, T, K) of tokens, if a tensor has their shape."""
        return class_logits(values, self.num_classes, self.tokens)

    def rows(self, taken: Tensor, pool: Read) -> Tensor:
        """Return a classifier's input as one row per label."""
        if not self.tokens:
            return Tap("", pool).read(taken, self.mask)
        return (taken.movedim(1, -1) if taken.ndim == 4 else taken).flatten(0, -2)

    def gives(self, affine: Affine, taken: Tensor, pool: Read, returned: Tensor, on_the_way: Tensor) -> bool:
        """Return whether a map of a classifier's input gives a returned tensor, to the rounding of both last tensors."""
        logits, rows = self.logits(returned), self.rows(taken, pool)
        rounding = max(rounding_of(returned), rounding_of(on_the_way))
        return logits is not None and affine.is_close(rows, logits.reshape(len(rows), -1), rounding)

    def joined(self, answers: Sequence[list[Tensor]], index: int) -> Tensor | None:
        """Join one of the returned tensors of several answers, None if their shapes differ."""
        parts = [answer[index] for answer in answers if index < len(answer)]
        if len({part.shape for part in parts}) != 1 or len(parts) != len(answers):
            return None
        returned = torch.cat(parts)
        return returned.flatten(2).transpose(1, 2) if self.tokens and returned.ndim == 4 else returned

    def explained(self, affine: Affine, rows: Tensor, returned: Tensor, varied: bool) -> Changed | None:
        """Return how the network makes what it returned from a map of these rows, None if that is unknown."""
        for kind, values, usable in before_probabilities(returned):
            logits = self.logits(values)
            if logits is None or logits.shape[:-1].numel() != len(rows):
                continue
            single = is_single(returned, self.num_classes, self.tokens)
            chosen = usable.reshape(len(rows), -1).all(dim=1)
            found = fitted_map(affine, rows[chosen], logits.flatten(0, -2)[chosen], rounding_of(returned), varied)
            if found is not None:
                words = "".join(filter(None, (found[1], f" before {kind}" if kind else "")))
                return Changed(found[0], words, "single" if kind and single else kind)
        return None


class Joined(nn.Module):
    """Modules with one input, whose outputs are joined."""

    def __init__(self, parts: Iterable[nn.Module]) -> None:
        super().__init__()
        self.parts = tuple(parts)  # no children: what happens to this module must not reach them

    def forward(self, rows: Tensor) -> Tensor:
        """Return the outputs of all modules, side by side."""
        return torch.cat([part(rows) for part in self.parts], dim=-1)


def drawn_states(state: Tensor) -> list[Tensor]:
    """Return random states of a network in place of one of it."""
    return [scale * noisy(state, seed) for seed, scale in enumerate(_SCALES)]


class Classifier(NamedTuple):
    """A module that may be the classifier, or several that are one together, and an input of it."""

    names: tuple[str, ...]
    module: nn.Module
    taken: Tensor
    reading: LogitsReading

    def affine(self) -> Affine | None:
        """Return the map from its input to its outputs as it is now."""
        found = affine_map(self.module, self.taken, self.reading.tokens)
        single = found is not None and len(found.weight) == 1 and self.reading.num_classes == 2
        return found.of_two_classes() if found is not None and single else found

    def returned(self, index: int, pool: Read) -> Affine | None:
        """Return the map to the network's logits if these are its outputs, also for another input."""
        # Something that adds nothing to the logits of the first samples yet, such as low-rank updates that start at zero, may
        # do so later in a watched training.
        affine, drawn = self.affine(), LARGE * noisy(self.taken, 0)
        answer = self.reading.answers.to_input(self.names, drawn)[index:][:1]
        gives = affine is not None and bool(answer) and self.reading.gives(affine, drawn, pool, answer[0], drawn)
        return affine if gives else None

    def changed(self, index: int) -> Changed | None:
        """Return the map to the network's logits if these are its outputs times a number, moved, or as probabilities."""
        # The network runs again with random inputs of the module. If it mixes the outputs with something else, such as those
        # of a second head, no number and offset explain its answers.
        affine = self.affine()
        if affine is None or self.taken.ndim not in ({3, 4} if self.reading.tokens else {2}):
            return None
        drawn = drawn_states(self.taken)
        returned = self.reading.joined([self.reading.answers.to_input(self.names, state) for state in drawn], index)
        if returned is None:
            return None
        rows = torch.cat([self.reading.rows(state, "flatten") for state in drawn])
        return self.reading.explained(affine, rows, returned, self._varied)

    def map_behind(self, index: int) -> Affine | None:
        """Return the map to the logits that the network makes of its outputs, as it is now."""
        changed = self.changed(index)
        return None if changed is None else changed.affine

    @property
    def _varied(self) -> bool:
        """Whether the samples differ in front of it: else what a second head adds looks like an offset for each class."""
        rows = self.reading.rows(self.taken, "flatten")
        return bool((rows != rows[0]).any())


def _with_feature(output: Any, value: Tensor) -> Any:
    """Return a module's output with another first feature tensor."""
    return _exchanged(output, first_feature(output), value)


def _exchanged(part: Any, old: Tensor | None, new: Tensor) -> Any:
    """Return a structure of tensors with another one in the place of one of them."""
    if part is old:
        return new
    keys = [key for key, inner in parts_of(part) if _exchanged(inner, old, new) is not inner]
    if not keys:
        return part
    if isinstance(part, tuple | list):
        parts = [_exchanged(inner, old, new) for inner in part]
        return type(part)(*parts) if hasattr(part, "_fields") else type(part)(parts)
    changed = copy(part)
    for key in keys:
        if isinstance(part, Mapping):
            changed[key] = _exchanged(part[key], old, new)
        else:
            setattr(changed, key, _exchanged(getattr(part, key), old, new))
    return changed
