"""Which rows of a layer belong to which labels, as the look at the first batch proves it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ncollapse.hooks.batch_io import map_tensors
from ncollapse.hooks.capture import INPUTS
from ncollapse.hooks.label_rows import LabelRows
from ncollapse.hooks.masks import tensors_of_inputs
from ncollapse.hooks.tap import INPUT, Placement, Tap, attribute
from ncollapse.hooks.token_axes import UNCLEAR, token_axes
from ncollapse.hooks.trace import Look, ModuleCall, Trace, changed_indices, is_inside, outermost, token_states

# How many modules left out for one reason the explanation names; ``left_out`` names all.
_NAMES_SHOWN = 4


class TimeFirstError(ValueError):
    """The second dimension of the inputs counts the samples, so that the first samples are another part of the inputs."""

    def __init__(self, num_samples: int) -> None:
        super().__init__(f"the network returns {num_samples} rows, as many as the second dimension of its inputs")
        self.num_samples = num_samples


def check_samples_first(
    trace: Trace, inputs: Any, num_rows: int, num_classes: int | None, tokens: int | None, labeled: LabelRows | None
) -> None:
    """Raise an error if the network returned logits for the second dimension of its inputs instead of for the samples."""
    # Inputs with time first are cut along the wrong dimension, or not at all.
    output = None if trace.output is None else trace.output.tensor
    if output is None or len(output) == num_rows:
        return
    if tokens:
        if labeled is not None and num_rows < len(output) == labeled.num_samples == tokens:
            raise ValueError(misplaced({"": f"has {len(output)} rows for {num_rows} samples"}))  # then all samples are shown
        return
    second = {tensor.shape[1] for tensor in tensors_of_inputs(inputs) if tensor.ndim > 1}
    known = {len(output)} if labeled is None else {labeled.num_samples}
    if output.ndim == 2 and num_classes in {None, output.shape[1]} and len(output) in second & known:
        raise TimeFirstError(len(output))


class TokenRows:
    """The positions of tokens that have labels, for a network and one batch with one label per token."""

    # The i-th label belongs to the i-th position of the logits that the network returns. Other layers may have further
    # positions, such as virtual tokens in front, or positions of other inputs, such as those of an encoder. There are three
    # kinds of proof. One token of the inputs is changed: before any attention only the row of its position changes, and in a
    # causal network also after it. Or a later module takes exactly these positions of the layer. Or the network declares how
    # many tokens it adds in front. Layers with as many positions as labels need no proof, unless a changed token shows that
    # they see other inputs, or that tokens have another order inside. What the classifier takes is proven by the logits.

    def __init__(
        self,
        trace: Trace,
        inputs: Any,
        num_labels: int,
        num_classes: int | None,
        look: Look,
        num_prefix: int = 0,
        end: ModuleCall | None = None,
    ) -> None:
        self.trace, self.num_labels, self.end = trace, num_labels, end
        names = token_states(trace).keys()
        known = self._known_axes(num_classes)
        self.axes = (
            token_axes(trace, inputs, look, names, {name: axis for name, axis in known.items() if name in names}) | known
        )
        self.states = self._arranged(trace)
        looks = [(last, self._arranged(look(changed))) for last, changed in _changed_inputs(inputs, trace, num_labels)]
        elsewhere = [found for last, after in looks for found in self._moved(last, after)]
        self.moved = {name for name, _ in elsewhere} if any(alone for _, alone in elsewhere) else set()
        changes = [(last, self._responses(after)) for last, after in looks]
        labeled = [change for change in changes if len(change[1].get("", ())) == 1]
        self.others = [responses for _, responses in changes if labeled and all(responses is not own for _, own in labeled)]
        self.labeled = [responses for _, responses in labeled or changes]
        self.is_proven = bool(labeled)
        self.own: dict[str, int] = {}
        for last, responses in labeled or changes:
            moved = self._first_of_logits(last, responses) - min(responses[""]) if labeled else -last
            self.own |= {name: min(rows) + moved for name, rows in responses.items() if len(rows) == 1}
        self.in_order = self._found_in_order(inputs, look) if trace.reordered else set[str]()
        # Behind an operation that moves tokens, positions say nothing of those of layers in front of it.
        self.by_length = {} if trace.reordered else self._by_length()
        if num_prefix:
            self.by_length.setdefault(num_labels + num_prefix, num_prefix)

    def _known_axes(self, num_classes: int | None) -> dict[str, int]:
        """Return which dimension counts the tokens in the logits, and in what a linear layer makes them of."""
        logits, end = self.trace.output, self.end
        shape = () if logits is None else tuple(logits.tensor.shape[1:])
        known = {"": 2 - shape.index(num_classes)} if len(shape) == 2 and shape[0] != shape[1] and num_classes in shape else {}
        made = self.trace.calls[end.name.removesuffix(INPUT)].output if end is not None and end.name.endswith(INPUT) else None
        if end is None or made is None or logits is None or not isinstance(end.module, nn.Linear):
            return known
        own = {"": 1 if logits.tensor.stride() == made.tensor.stride() else 2}
        return {end.name: 1} | (own if logits.tensor.data_ptr() == made.tensor.data_ptr() else {}) | known

    @property
    def words(self) -> str:
        """How tokens and labels were paired."""
        how = "as a changed token shows" if self.is_proven else "by their order"
        moved = [f"of {length} positions those from {first} on" for length, first in sorted(self.by_length.items()) if first]
        return f"tokens and labels are paired {', '.join([how, *moved])}"

    def place(self, name: str) -> Placement | str:
        """Return where the labels' rows are in a layer, or why that is unknown."""
        if not self._sees_labeled_tokens(name):
            return "sees other tokens than those with labels"
        if not self.axes[name]:
            return UNCLEAR
        length, labels = self.states[name].shape[1], self.num_labels
        fits = length == labels
        moved = fits and self.moved and (name in self.moved or self.own.get(name) != 0)
        if (moved or (self._is_reordered(name) and name not in self.in_order)) and not self._ends_in(name):
            return "may have the tokens in another order, as the network changes it inside"
        first = self.own.get(name, self.by_length.get(length, 0 if fits else -1))
        if not 0 <= first <= length - labels:
            return f"has {length} positions, the labels {labels}"
        return Placement(first=first, extra=length - labels, is_last=self.axes[name] == 2)

    def place_of_logits(self) -> Placement | str:
        """Return where the labels' rows are in the network's logits (N, T, K), or why that is unknown."""
        if self.axes[""] != 1 and len(set(self.states[""].shape[1:])) == 1:
            return "has as many positions as classes, in either order"
        placed = self.place("")
        return placed if isinstance(placed, str) else placed._replace(is_last=False)

    def _arranged(self, trace: Trace) -> dict[str, Tensor]:
        """Return the states of a look as (N, T, D)."""
        states = token_states(trace, self.trace)
        return {name: state.transpose(1, self.axes.get(name) or 1) for name, state in states.items()}

    def _responses(self, after: dict[str, Tensor], sample: int = 0) -> dict[str, list[int]]:
        """Return which positions of a sample changed, by module; those of the network's output as ""."""
        alike = {name: state for name, state in self.states.items() if name in after and after[name].shape == state.shape}
        return {name: changed_indices(state, after[name], sample) for name, state in alike.items()}

    def _moved(self, last: int, after: dict[str, Tensor]) -> Iterator[tuple[str, bool]]:
        """Yield layers in which another last token of the first sample, or first one of the second, is elsewhere, if alone."""
        for place, sample, end in ((last, 0, max), (0, 1, min)):
            for name, rows in self._responses(after, sample).items():
                if name and rows and self.states[name].shape[1] == self.num_labels and end(rows) != place:
                    yield name, len(rows) == 1

    def _is_reordered(self, name: str) -> bool:
        """Return whether a layer may depend on tokens that have another order."""
        call = self.trace.call(name) if name else None
        return (
            call is not None
            and call.output is not None
            and any(not moved & ~call.output.sources for moved in self.trace.reordered)
        )

    def _found_in_order(self, inputs: Any, look: Look) -> set[str]:
        """Return layers in which tokens that are changed, those with one bit in their place at a time, change no other row."""
        tokens = next((part for part in tensors_of_inputs(inputs) if part.ndim > 1 and part.shape[1] == self.num_labels), None)
        if tokens is None or _is_mask(tokens, self.trace.mask):
            return set()
        found = {name for name, state in self.states.items() if state.shape[1] == self.num_labels}
        others = [next((row for row in tokens[0] if not torch.equal(row, own)), own) for own in tokens[0]]
        for bit in range((self.num_labels - 1).bit_length()):
            places, changed = [place for place in range(self.num_labels) if place >> bit & 1], tokens.clone()
            changed[0, places] = torch.stack(others)[places]
            responses = self._responses(self._arranged(look(_replaced(inputs, tokens, changed))))
            found &= {name for name, rows in responses.items() if rows and set(rows) <= set(places)}
        return found

    def _ends_in(self, name: str) -> bool:
        """Return whether a layer is the network's output, or what its classifier takes."""
        call, end = self.trace.call(name) if name else None, self.end
        return not name or (call is not None and end is not None and (call.name == end.name or call.returned(end.output)))

    def _first_of_logits(self, last: int, responses: dict[str, list[int]]) -> int:
        return 0 if "" not in self.states or self.states[""].shape[1] == self.num_labels else min(responses[""]) - last

    def _sees_labeled_tokens(self, name: str) -> bool:
        if self.is_proven:
            unseen = all(not responses.get(name, [0]) for responses in self.labeled)
            return not (unseen and any(responses.get(name) for responses in self.others))
        # It is unknown to which of several inputs the labels belong, so a layer must see all of them.
        return len(self.labeled) < 2 or all(responses.get(name, [0]) for responses in self.labeled)

    def _by_length(self) -> dict[int, int]:
        """Return the first position with a label for layers of each length, if all proofs agree."""
        found: dict[int, set[int]] = {}
        for name, state in self.states.items():
            length = state.shape[1]
            firsts = {self.own[name]} if name in self.own else self._taken_later(name, state)
            found.setdefault(length, set()).update(first for first in firsts if 0 <= first <= length - self.num_labels)
        return {length: next(iter(firsts)) for length, firsts in found.items() if len(firsts) == 1}

    def _taken_later(self, name: str, tokens: Tensor) -> set[int]:
        """Return the first of those positions that a later module takes, if it takes as many as there are labels."""
        call, labels = self.trace.call(name), self.num_labels
        if call is None or tokens.shape[1] <= labels:
            return set()
        parts = [other.input for other in self.trace.calls.values() if other.started_after >= call.finished]
        shape = (len(tokens), labels, tokens.shape[2])
        taken = [part.values for part in (*parts, *self.trace.returned) if part is not None and part.tensor.shape == shape]
        starts = range(tokens.shape[1] - labels + 1)
        return {first for rows in taken for first in starts if torch.equal(tokens[:, first : first + labels], rows)}


def declared_prefix(model: nn.Module) -> int:
    """Return how many tokens a network declares to add in front of its own."""
    declared = (attribute(module, "num_prefix_tokens") for module in model.modules())
    return next((number for number in declared if isinstance(number, int)), 0)


def _changed_inputs(inputs: Any, trace: Trace, num_labels: int) -> Iterator[tuple[int, Any]]:
    """Yield inputs with another last token in the first sample and another first one in the second, and the last position."""
    for chosen in tensors_of_inputs(inputs):
        of_pixels = chosen.ndim == 4 and chosen.shape[2:].numel() == num_labels
        if chosen.ndim < 2 or (chosen.shape[1] == num_labels) == of_pixels or _is_mask(chosen, trace.mask):
            continue  # with as many channels as pixels, either may be tokens
        tokens = chosen.flatten(2).transpose(1, 2) if of_pixels else chosen
        real = range(num_labels) if trace.mask is None or trace.mask.shape != chosen.shape[:2] else trace.mask[0].nonzero()
        places = [int(place) for place in real]
        last = places[-1] if places else 0
        earlier = [place for place in places[:-1] if not torch.equal(tokens[0, place], tokens[0, last])]
        if earlier:
            changed = tokens.clone()
            changed[0, last] = tokens[0, earlier[-1]]
            changed[1:, 0] = tokens[1:, 1]
            yield last, _replaced(inputs, chosen, changed.transpose(1, 2).reshape(chosen.shape) if of_pixels else changed)


def _replaced(inputs: Any, old: Tensor, new: Tensor) -> Any:
    return map_tensors(lambda tensor: new if tensor is old else tensor, inputs)


def _is_mask(tensor: Tensor, mask: Tensor | None) -> bool:
    return mask is not None and tensor.shape == mask.shape and torch.equal(tensor, mask)


def shape_words(call: ModuleCall) -> str:
    """Return what a module returned, in words."""
    return "" if call.output is None else f"returns {tuple(call.output.tensor.shape)}"


def misplaced(unplaced: dict[str, str]) -> str:
    """Return an error for layers of which it is unknown which rows belong to which labels."""
    words = [f"{repr(label) if label else 'the output'} {why}" for label, why in unplaced.items()]
    return (
        f"Which rows of a layer belong to which labels must be clear, but {', '.join(words)}. Check that every sample "
        "has a label. If so, name layers with the labels' positions, or pass a function: layers=[Tap(name, pool=function)]."
    )


def left_out_words(left_out: dict[str, str]) -> list[str]:
    """Return what was left out in words, by reason."""
    by_reason: dict[str, list[str]] = {}
    for name, reason in left_out.items():
        by_reason.setdefault(reason, []).append(name)
    words = []
    for reason, names in by_reason.items():
        more = f" and {len(names) - _NAMES_SHOWN} more" if len(names) > _NAMES_SHOWN else ""
        words.append(f"{', '.join(names[:_NAMES_SHOWN])}{more} left out ({reason})")
    return words


def without_rows(before: Sequence[ModuleCall], usable: Sequence[ModuleCall], num_rows: int) -> dict[str, str]:
    """Return layers without one row per sample, though they see the inputs, and those with another tensor first."""
    aside = outermost([call.name for call in before if call.is_aside], ())
    rowless = [
        call
        for call in before
        if call.count == 1 and call.axis is None and call.output is not None and call.output.sources & INPUTS
    ]
    calls = {call.name: call for call in rowless}
    inside = {call.name for call in usable}
    layers = [call.name for call in rowless if any(True for _ in call.module.parameters()) and not is_inside(call.name, inside)]
    found = {name: f"{shape_words(calls[name])} for {num_rows} samples" for name in outermost(layers, usable)}
    return dict.fromkeys(aside, "the network goes on with another tensor than its first") | found


def aside_words(taps: Sequence[Tap], trace: Trace) -> str:
    """Return of which layers that were named the network goes on with another tensor than the first, in words."""
    names = [tap.label for tap in taps if trace.taken(tap).is_aside and not tap.name.endswith(INPUT)]
    return f"{', '.join(names)}: the first tensor, though the network goes on with another" if names else ""


def nothing_found(num_rows: int, left_out: dict[str, str]) -> str:
    """Return an error for a network without layers."""
    known = f" Left out: {'; '.join(left_out_words(left_out))}." if left_out else ""
    return (
        f"No module before the classifier ran once and returned {num_rows} rows for {num_rows} samples.{known} Likely causes: "
        "(a) samples are not the first dimension (batch_first=False): pass layers=[Tap(name, pool=function)]; (b) every module "
        "runs several times: name the module around them."
    )
