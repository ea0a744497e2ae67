"""The classifier of a network: the module whose affine map of its input gives the logits that the network returns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import nn

from ncollapse.hooks.affine import Affine, affine_map, is_image, rounding_of
from ncollapse.hooks.capture import INPUTS, Captured
from ncollapse.hooks.logits import Answers, Classifier, Joined, Logits, LogitsReading, is_single
from ncollapse.hooks.matrix_head import find_matrix_head, last_state
from ncollapse.hooks.pooling import is_mean_of_pixels, pool_of
from ncollapse.hooks.tap import INPUT, Read, Tap
from ncollapse.hooks.trace import ModuleCall, Trace, is_inside
from ncollapse.hooks.untouched import in_same_precision

# Of how many modules it is tried whether the network changes their outputs: each costs some passes of the first samples.
_NEAREST = 4


class Head(NamedTuple):
    """The classifier that was found, or the module that looks like it, or a note why there is none."""

    name: str | None = None
    input: Captured | None = None  # the classifier's input: (N, d), tokens (N, T, d), or pixels (N, d, H, W)
    pool: Read = "flatten"  # how it becomes one row per sample; "flatten" if the input already has one row per label
    note: str = ""  # what was found, in words for the user
    logits: Logits | None = None  # which of the returned tensors holds the logits; None if none does
    # Evaluates W and b as they are now. None if the module does not give the returned logits.
    read: Callable[[], Affine | None] | None = None
    others: tuple[str, ...] = ()  # further modules whose logits the network returns
    matrix: str | None = None  # the parameter that the forward multiplies with the input, if the classifier is no module
    layer: str | None = None  # the module that returned the input then
    affine: Affine | None = None  # W and b at the look, and the rounding of the module's outputs
    rounding: float = 0.0

    @property
    def tap(self) -> Tap | None:
        """Reads the classifier's features, None without a classifier."""
        place = self.layer if self.name is None else self.name + INPUT
        return None if place is None else Tap(place, self.pool)

    @property
    def takes_labeled_tokens(self) -> bool:
        """Whether the network classifies every token."""
        tokens = None if self.input is None or self.pool != "flatten" else self.input.values
        return tokens is not None and tokens.ndim == 3 and not is_image(tokens)


class HeadSearch:
    """The search for the classifier in one trace."""

    # features @ W.T + b must reproduce the logits that the network returns, to rounding or up to a shift common to all classes
    # of a sample. If the network returns the outputs of a module, this module is the candidate. If a function changes them
    # first (a temperature, softmax, log priors), the network's answers to random inputs of the module show what becomes of
    # them. Both is proven before NC3 is reported; accuracy and NC4 need the returned logits alone.

    def __init__(self, trace: Trace, num_classes: int | None, tokens: bool, answers: Answers) -> None:
        self.trace, self.reading = trace, LogitsReading(num_classes, tokens, trace.mask, answers)
        fitting = [i for i, part in enumerate(trace.returned) if self.reading.logits(part.values) is not None]
        fitting = [i for i in fitting if i not in trace.ranked]
        self.earlier = {i for i in fitting if self._leads_to_another(i, fitting)}
        self.fitting = sorted(fitting, key=lambda i: (i in self.earlier, self._is_single(i)))
        self.candidates = [call for call in trace.calls.values() if call.count == 1 and self._may_classify(call)]

    def _leads_to_another(self, index: int, fitting: Sequence[int]) -> bool:
        """Return whether another returned tensor is computed from this one with further weights, as logits from features."""
        # Features may be as wide as there are classes. A tensor named "logits" holds the logits in any case.
        own = self.trace.returned[index].sources
        others = [self.trace.returned[i].sources for i in fitting]
        return not (index == 0 and self.trace.names_logits) and any(
            own & INPUTS and own != other == own | other for other in others
        )

    def _is_single(self, index: int) -> bool:
        return is_single(self.trace.returned[index].values, self.reading.num_classes, self.reading.tokens)

    def find(self, named: str | None, hint: str | None) -> Head:
        """Find the module that the user named, the one that the network declares, or the one nearest to the output."""
        if named is not None:
            return self._named(named)
        head = None
        declared = [call for call in self.trace.calls.values() if call.name == hint]
        if self.fitting:
            nearest = sorted(self.candidates, key=lambda call: (-call.started_after, -call.name.count(".")))
            index = self.fitting[0]
            head = self._first_proven([*declared, *nearest], index) or self._joined(index) or self._of_matrix(index)
        return self._presumed(declared) if head is None else head

    def _named(self, name: str) -> Head:
        call = self.trace.calls.get(name)
        if call is None:
            raise ValueError(f"Classifier {name!r} must run in the forward pass, but it did not. Name one that does.")
        heads = [self._proven(call, index, returned) for returned in (True, False) for index in self.fitting]
        head = next(filter(None, heads), None)
        if head is None:
            raise ValueError(
                f"Classifier {name!r} must give the network's logits as W h + b, but {self._reason(call)}. Name another module "
                "with classifier=, or pass its weight and bias as a pair."
            )
        return head

    def _first_proven(self, calls: Sequence[ModuleCall], index: int) -> Head | None:
        for returned in (True, False):
            for call in calls if returned else calls[:_NEAREST]:
                head = self._proven(call, index, returned)
                if head is not None:
                    return self._around(call, head, index)
        return None

    def _around(self, call: ModuleCall, head: Head, index: int) -> Head:
        """Prefer the module around a classifier that adds to its outputs from the same input, such as low-rank updates."""
        for outer in sorted(self.candidates, key=lambda outer: outer.name.count(".")):
            shares = outer.input is not None and call.input is not None and outer.input.is_same(call.input)
            if shares and is_inside(call.name, {outer.name}) and _has_further_weights(outer.module, call.module):
                wider = self._proven(outer, index, True) or self._proven(outer, index, False)
                if wider is not None:
                    return wider
        return head

    def _proven(self, call: ModuleCall, index: int, returned: bool) -> Head | None:
        """Return a head if a module's outputs are these logits, or if the network makes them from its outputs."""
        if call.input is None or call.output is None or call.count != 1:
            return None
        head = Head(call.name, call.input, logits=Logits(index), others=self._others(call, index))
        head = head._replace(rounding=rounding_of(call.output.values))
        classifier = Classifier((call.name,), call.module, call.input.values, self.reading)
        if returned:
            pool = self._pool_of_returned(call, index)
            affine = None if pool is None else classifier.affine()
            taken, given, values = call.input.values, call.output.values, self.trace.returned[index].values
            if pool is None or affine is None or not self.reading.gives(affine, taken, pool, values, given):
                return None
            words = "" if pool == "flatten" else f" read at {Tap('', pool).label[1:]}"
            read = in_same_precision(partial(classifier.returned, index, pool))
            note = f"classifier {call.name} gives the logits{words}"
            return head._replace(pool=pool, read=read, note=note, affine=affine)
        changed = classifier.changed(index)
        if changed is None:
            return None
        note = f"classifier {call.name} gives the logits{changed.words}"
        read = in_same_precision(partial(classifier.map_behind, index))
        return head._replace(read=read, note=note, logits=Logits(index, changed.made), affine=changed.affine)

    def _joined(self, index: int) -> Head | None:
        """Return a head of several modules with one input, whose outputs the network joins, such as old and new classes."""
        calls = [call for call in self.trace.calls.values() if call.count == 1 and self._may_be_part(call)]
        calls = sorted(calls, key=lambda call: call.started_after)
        for first in calls:
            assert first.input is not None
            parts = [call for call in calls if call.input is not None and call.input.is_same(first.input)]
            parts = [call for call in parts if not is_inside(call.name, {other.name for other in parts})]
            if len(parts) < 2 or parts[0] is not first or sum(map(_num_outputs, parts)) != self._num_logits(index):
                continue
            names = tuple(call.name for call in parts)
            classifier = Classifier(names, Joined(call.module for call in parts), first.input.values, self.reading)
            changed = classifier.changed(index)
            if changed is not None:
                note = f"classifiers {', '.join(names)}, joined, give the logits{changed.words}"
                read = in_same_precision(partial(classifier.map_behind, index))
                head = Head(names[0], first.input, "flatten", note, Logits(index, changed.made), read)
                return head._replace(others=self._others(first, index), affine=changed.affine)
        return None

    def _of_matrix(self, index: int) -> Head | None:
        """Return a head that is no module but a matrix of the network's."""
        found = find_matrix_head(self.reading.answers.model, self.trace, self.reading, index)
        if found is None:
            return None
        matrix, changed = found
        read = in_same_precision(partial(matrix.map_behind, index))
        note = f"parameter {matrix.name}, multiplied with what {matrix.call.name} returns, gives the logits{changed.words}"
        head = Head(None, matrix.call.output, matrix.pool, note, Logits(index, changed.made), read)
        others = self._others(matrix.call, index)
        return head._replace(matrix=matrix.name, layer=matrix.call.name, others=others, affine=changed.affine)

    def _may_be_part(self, call: ModuleCall) -> bool:
        """Return whether a module has a matrix, and gives rows from rows, or tokens from tokens."""
        dims = 3 if self.reading.tokens else 2
        parts = [part.values for part in (call.input, call.output) if part is not None and part.values.ndim == dims]
        return len(parts) == 2 and parts[0].is_floating_point() and _has_matrix(call.module)

    def _num_logits(self, index: int) -> int:
        logits = self.reading.logits(self.trace.returned[index].values)
        return 0 if logits is None else logits.shape[-1]

    def _pool_of_returned(self, call: ModuleCall, index: int) -> Read | None:
        """Return how a module's outputs become the returned logits, None if they do not."""
        assert call.output is not None
        output, returned = call.output.values, self.trace.returned[index].values
        own, logits = self.reading.logits(output), self.reading.logits(returned)
        if own is not None and logits is not None and torch.equal(own.to(logits.dtype), logits):
            return "flatten"
        if self.reading.tokens:
            return None
        returned = returned if logits is None else logits
        return "mean" if is_mean_of_pixels(output, returned) else pool_of(output, returned, self.trace.mask)

    def _presumed(self, declared: Sequence[ModuleCall]) -> Head:
        """Return the module that the network declares, else the last one that looks like a classifier, and why it is none."""
        # Its input ends the layers: what follows are logits. If K is unknown, any layer as wide as the output looks like one.
        known = self.candidates if (self.fitting or self.trace.ranked) and self.reading.num_classes is not None else ()
        # A module that takes what the network takes is the whole network, wrapped, unless there is no other.
        inner = [call for call in known if call.input is not None and call.input.depends_on_weights]
        call = next(iter([*declared, *reversed(inner or known)]), None)
        logits = self._decisive(self.fitting[0]) if self.fitting else None
        none = "no linear module gives the returned logits" if self.fitting else self._no_logits()
        note = f"no classifier found, since {none if call is None else self._reason(call)}"
        if call is not None and self.fitting and logits is None:
            note += "; no accuracy, since one number in [0, 1] may be a logit or a probability"
        searched = self.fitting and self.reading.num_classes is not None and call not in declared
        if searched and (before := last_state(call, self.trace, self.reading, self.fitting[0])) is not None:
            return Head(None, before.output, note=note, logits=logits, layer=before.name)
        if call is None or call.input is None:
            return Head(logits=logits, note=note)
        is_row = call.input.values.ndim in ({3, 4} if self.reading.tokens else {2})
        return Head(call.name, call.input, note=note, logits=logits) if is_row else Head(logits=logits, note=note)

    def _decisive(self, index: int) -> Logits | None:
        """Return where the logits are; a single number in [0, 1] may be a logit or a probability, which decide otherwise."""
        values = self.trace.returned[index].values
        return None if self._is_single(index) and bool((values >= 0).all() and (values <= 1).all()) else Logits(index)

    def _others(self, call: ModuleCall, index: int) -> tuple[str, ...]:
        """Return further modules whose logits the network returns next to the classifier's."""
        logits = [self.trace.returned[i] for i in self.fitting if i not in {index, *self.earlier}]
        heads = [other.name for other in self.candidates if other is not call and any(map(other.returned, logits))]
        return tuple(name for name in heads if not is_inside(name, heads))

    def _reason(self, call: ModuleCall) -> str:
        if not self.fitting:
            return self._no_logits()
        affine = None if call.input is None else affine_map(call.module, call.input.values, self.reading.tokens)
        if affine is None:
            return f"{call.name} is no linear map of one row of features"
        return f"the returned logits are other numbers than the outputs of {call.name}"

    def _no_logits(self) -> str:
        """Say that no returned tensor has the shape of logits, and which shapes there are."""
        if self.trace.ranked:
            return "the network returns scores sorted by size, whose classes are not known"
        shapes = [f"(N, {', '.join(map(str, part.tensor.shape[1:]))})" for part in self.trace.returned]
        num, each = self.reading.num_classes, " for every token" * self.reading.tokens
        wanted = "" if num is None else f" of {num} classes{each}"
        return f"the network returns no logits{wanted} but {' and '.join(shapes) or 'no tensor'}"

    def _may_classify(self, call: ModuleCall) -> bool:
        """Return whether a module has a matrix, and an output for each class from features or tokens."""
        taken, output, num = call.input, call.output, self.reading.num_classes
        if taken is None or output is None or not taken.values.is_floating_point():
            return False
        columns = output.values.shape[1 if is_image(output.values, self.reading.tokens) else -1]
        if num is None:
            num = self.trace.returned[self.fitting[0]].values.shape[-1] if self.fitting else 0
        fits = (columns == num or (columns == 1 and num == 2)) and _has_matrix(call.module)
        return fits and taken.values.ndim in ({3, 4} if self.reading.tokens else {2, 3, 4, 5})


def _num_outputs(call: ModuleCall) -> int:
    return 0 if call.output is None else call.output.values.shape[-1]


def find_head(
    trace: Trace, named: str | None, hint: str | None, num_classes: int | None, tokens: int | None, answers: Answers
) -> Head:
    """Find the classifier; ``hint`` is the one that the network declares, ``tokens`` counts labels per sample, if known."""
    if tokens is not None:
        return HeadSearch(trace, num_classes, bool(tokens), answers).find(named, hint)
    # Then every token has a label if the network returns logits for every token.
    pooled = HeadSearch(trace, num_classes, False, answers).find(named, hint)
    if pooled.read is not None or trace.output is None or trace.output.tensor.ndim != 3:
        return pooled
    each = HeadSearch(trace, num_classes, True, answers).find(named, hint)
    return pooled if each.read is None else each


def _has_matrix(module: nn.Module) -> bool:
    """Return whether a module has a matrix, trained, fixed or quantized."""
    tensors = [*module.parameters(), *module.buffers()]
    return any(tensor.ndim > 1 for tensor in tensors) or callable(getattr(module, "weight", None))


def _has_further_weights(outer: nn.Module, inner: nn.Module) -> bool:
    own = {id(parameter) for parameter in inner.parameters()}
    return any(id(parameter) not in own for parameter in outer.parameters())
