"""Which tokens of a batch are real and which are padding: as masks mark them, or as the network reads its tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from ncollapse.hooks.batch_io import Arguments, map_tensors, num_heads, signature_of, tensors_in
from ncollapse.hooks.capture import is_dense
from ncollapse.hooks.tap import attribute

# Masks of one name mark real tokens in one network and padding in another, so a name alone proves nothing. A rule says which
# tokens are real. The look proves it in one of two ways. The network's own row per sample is the mean of the real tokens, or
# the last one, and is not that of all tokens. Or it is shown by what the network returns: the contents of padding make no
# difference to it, those of real tokens do, and so do other marks. A network may ignore a mask, though. Then samples of full
# length decide, since none is padding alone; or padding that is one constant at one end of every sample; or a name, if it
# states a convention. Lengths, marks of other names, and padding among the token ids need a proof.

# How much less padding may change than real tokens do, which must exceed rounding by far.
_QUIET, _LOUD = 1e-4, 1000.0
# Which arguments count first.
_RANK = {"attention_mask": 0, "src_key_padding_mask": 1, "key_padding_mask": 1}

# Runs the network, and returns the tensors that it returned.
Run = Callable[[Any], list[Tensor]]


class MaskRule(NamedTuple):
    """A way to see from one tensor of the inputs which tokens are real."""

    place: int | str  # the name of an argument, or the position of the tensor among all of the inputs
    # It counts the real tokens of each sample, marks real tokens or padding, is added to the scores of tokens, holds ids of
    # which one is `padding`, or its meaning is unknown.
    kind: Literal["lengths", "ids", "real", "padding", "added", "unknown"]
    padding: int = 0
    why: str = ""  # on what evidence, in words

    @property
    def given(self) -> str:
        """The argument, in words."""
        return self.place if isinstance(self.place, str) else f"argument {self.place + 1}"

    @property
    def words(self) -> str:
        """What is padding, in words."""
        words = {
            "lengths": f"padding behind the lengths in {self.given}",
            "ids": f"padding where {self.given} is {self.padding}",
            "real": f"padding where {self.given} is 0",
            "padding": f"padding where {self.given} is 1",
            "added": f"padding where {self.given} is negative",
            "unknown": "",
        }[self.kind]
        return ", ".join(filter(None, [words, self.why]))

    @property
    def opposite(self) -> MaskRule:
        """The rule for which the other mark is padding."""
        return self._replace(kind="padding" if self.kind == "real" else "real")

    def tensor(self, inputs: Any, model: nn.Module) -> Tensor | None:
        """Return its tensor, None if the inputs have none."""
        if isinstance(self.place, str):
            found = Arguments.of(model, inputs).by_name(model).get(self.place)
            return found if is_dense(found) else None
        tensors = tensors_of_inputs(inputs)
        return tensors[self.place] if self.place < len(tensors) else None

    def read(self, inputs: Any, model: nn.Module) -> Tensor | None:
        """Return which tokens are real, shape (N, T); None if the inputs do not say."""
        given = self.tensor(inputs, model)
        if given is None or self.kind == "unknown":
            return None
        if self.kind == "lengths":
            length = _num_tokens(tensors_of_inputs(inputs), len(given)) if given.ndim == 1 else 0
            return torch.arange(length, device=given.device) < given.unsqueeze(1) if length else None
        if self.kind == "ids":
            return given != self.padding if given.ndim == 2 else None
        return _unmasked(given, self.kind != "real" or _is_added(given), tensors_of_inputs(inputs))


def _unmasked(given: Tensor, hides: bool, tensors: Sequence[Tensor]) -> Tensor | None:
    """Return which tokens, (N, T), any token may look at by a mask that hides or shows what is not 0; None if it is none."""
    given = _by_head(given, tensors)
    if given.ndim < 2 or not given.numel():
        return None
    wide, shown = is_wide(given), (given == 0) == hides
    if (wide or given.is_floating_point()) and not _is_added(given) and not bool(((given == 0) | (given == 1)).all()):
        return None
    return shown.flatten(1, -2).any(dim=1) if wide else shown.reshape(len(given), -1)


def _by_head(given: Tensor, tensors: Sequence[Tensor]) -> Tensor:
    """Return a mask (N · heads, T, T) next to tokens (N, T, ...) or (T, N, ...) as (N, heads, T, T), others unchanged."""
    if given.ndim != 3:
        return given
    shapes = [tensor.shape[:2] for tensor in tensors if tensor is not given and tensor.ndim > 1]
    sizes = [pair[1 - axis] for pair in shapes for axis in (0, 1) if pair[axis] == given.shape[2]]
    heads = next((num_heads(given, size) for size in sizes if num_heads(given, size)), 0)
    return given.unflatten(0, (-1, heads)) if heads and len(given) not in sizes else given


def is_wide(given: Tensor) -> bool:
    """Return whether a mask says which token may look at which, shape (N, T, T) or (N, heads, T, T)."""
    return sum(size > 1 for size in given.shape[1:]) > 1


def _is_added(given: Tensor) -> bool:
    """Return whether a mask may be added to the scores of attention, such as -inf for padding."""
    return bool((given < 0).any() and (given <= 0).all())


def mask_rules(inputs: Any, model: nn.Module) -> list[MaskRule]:
    """Return the rules that the inputs allow, the most likely first; of arguments that are named as masks alone if any is."""
    return list(named_rules(inputs, model)) or list(_rules(tensors_of_inputs(inputs), model))


def named_rules(inputs: Any, model: nn.Module) -> Iterator[MaskRule]:
    """Yield what the arguments that are named as masks may mean, the most likely first."""
    values, signature = Arguments.of(model, inputs).by_name(model), signature_of(model)
    known = {*values, *(signature.parameters if signature else ())}
    # Next to these, a "mask" says which tokens see one another, shape (T, T); so does one without a row per sample.
    conventional = sorted((name for name in known if convention(name)), key=lambda name: (_RANK.get(name, 2), name))
    others = [name for name in values if "mask" in name.lower() or "pad" in name.lower()]
    for name in conventional or others:
        given = values.get(name)
        tensors = tensors_of_inputs(inputs)
        marks = _unmasked(given, True, tensors) if is_dense(given) else None
        if given is None or marks is None or not _has_row_a_sample(given, marks, tensors):
            continue
        if _is_added(given):
            yield MaskRule(name, "added")
        else:
            kinds: tuple[Literal["real", "padding"], ...] = ("real", "padding")
            yield from (MaskRule(name, kind) for kind in sorted(kinds, key=lambda kind: kind != convention(name)))


def convention(name: str) -> str:
    """Return what an argument marks by its name, "" if that varies."""
    return "real" if name == "attention_mask" else "padding" if name.endswith("padding_mask") else ""


def _has_row_a_sample(mask: Tensor, marks: Tensor, tensors: list[Tensor]) -> bool:
    others = [tensor for tensor in tensors if tensor is not mask and tensor.ndim > 0]
    time_first = marks.shape[::-1]
    return not others or any(len(tensor) == len(marks) or tensor.shape[:2] == time_first for tensor in others)


def is_causal(mask: Tensor) -> bool:
    """Return whether a mask may say that tokens see those before them."""
    below = torch.ones_like(mask, dtype=torch.bool).tril()
    return mask.shape[0] == mask.shape[1] and (torch.equal(mask != 0, below) or torch.equal(mask == 0, below))


def _rules(tensors: list[Tensor], model: nn.Module) -> Iterator[MaskRule]:
    whole = {i: tensor for i, tensor in enumerate(tensors) if not tensor.is_floating_point() and tensor.numel()}
    for i, tensor in whole.items():
        longest = _num_tokens(tensors, len(tensor)) if tensor.ndim == 1 else 0
        if longest and 1 <= int(tensor.min()) and int(tensor.max()) <= longest:
            yield MaskRule(i, "lengths")
    flags = {i: tensor for i, tensor in whole.items() if tensor.ndim == 2 and bool(((tensor == 0) | (tensor == 1)).all())}
    for i, tensor in whole.items():
        if tensor.ndim == 2 and i not in flags:
            declared = _declared_padding(model)
            yield from (MaskRule(i, "ids", padding) for padding in sorted(declared | _repeated_at_end(tensor)))
    for i, tensor in flags.items():
        if not is_causal(tensor) and _has_row_a_sample(tensor, tensor, tensors):
            yield from (MaskRule(i, "real"), MaskRule(i, "padding"))
    yield from _wide_rules(tensors)


def _wide_rules(tensors: list[Tensor]) -> Iterator[MaskRule]:
    """Yield what masks of more dimensions, or those that are added to scores, may mean for tokens next to them."""
    for i, tensor in enumerate(tensors):
        others = [other for other in tensors if other is not tensor and other.ndim > 1]
        # Without other tokens, which is the case of most networks, the whole of the inputs is not read.
        marks = _unmasked(tensor, True, tensors) if others and (tensor.ndim > 2 or tensor.is_floating_point()) else None
        if marks is not None and any(other.shape[:2] == marks.shape for other in others):
            yield from [MaskRule(i, "added")] if _is_added(tensor) else [MaskRule(i, "real"), MaskRule(i, "padding")]


def tensors_of_inputs(inputs: Any) -> list[Tensor]:
    """Return the dense tensors among the inputs of a network."""
    return [tensor for tensor in tensors_in(inputs) if is_dense(tensor)]


def _num_tokens(tensors: list[Tensor], num_samples: int) -> int:
    """Return the second dimension of the first tensor of so many samples."""
    return next((tensor.shape[1] for tensor in tensors if tensor.ndim > 1 and len(tensor) == num_samples), 0)


def _declared_padding(model: nn.Module) -> set[int]:
    """Return the ids that embeddings or the configuration declare to be padding."""
    declared = [attribute(module, "padding_idx") for module in model.modules()]
    declared.append(attribute(attribute(model, "config"), "pad_token_id"))
    return {id for id in declared if isinstance(id, int)}


def _repeated_at_end(ids: Tensor) -> set[int]:
    """Return the id with which most samples end, if several do."""
    last = ids[:, -1]
    common = last.mode().values
    return {int(common)} if int((last == common).sum()) > 1 or len(last) < 3 else set()


def shown_rule(rules: Sequence[MaskRule], inputs: Any, model: nn.Module, run: Run) -> MaskRule | None:
    """Return the rule that is shown by what the network returns: the contents of padding make no difference to it."""
    looked: dict[int | str | MaskRule, MaskRule | None] = {}
    for rule in rules:
        given = rule.tensor(inputs, model)
        # Where a mask has one mark for each token, the opposite rule needs no runs of its own.
        place = rule if given is not None and is_wide(given) else rule.place
        if rule.kind != "ids" and place not in looked:
            looked[place] = found = _shown_direction(rule, inputs, model, run)
            if found is not None:
                return found
    return None


def _shown_direction(rule: MaskRule, inputs: Any, model: nn.Module, run: Run) -> MaskRule | None:
    given, real = rule.tensor(inputs, model), rule.read(inputs, model)
    if given is None or real is None:
        return None
    try:
        before = run(inputs)
        changes = [_change_by(side, given, inputs, before, run) for side in (real, ~real)]
        quiet, loud = sorted(changes)
        if not loud > _LOUD * torch.finfo(torch.float32).eps or quiet > _QUIET * loud:
            return None
        other = run(map_tensors(lambda tensor: _other_marks(tensor, real) if tensor is given else tensor, inputs))
    except Exception:  # a network may refuse other contents in any way
        return None
    if not _change(before, other, torch.zeros_like(real)) > _QUIET * loud:
        return None  # it ignores these marks, and some contents by chance
    if changes[0] != loud and rule.kind not in {"real", "padding"}:
        return None
    return (rule if changes[0] == loud else rule.opposite)._replace(why="whose contents do not matter to the network")


def _other_marks(mask: Tensor, real: Tensor) -> Tensor:
    """Return a mask that says the opposite, or other lengths."""
    if mask.ndim == 1:
        return mask % real.shape[1] + 1
    return torch.where(mask == 0, mask.min(), 0) if _is_added(mask) else (mask == 0).to(mask.dtype)


def _change_by(side: Tensor, mask: Tensor, inputs: Any, before: list[Tensor], run: Run) -> float:
    """Return how much changes elsewhere if the tokens of one side have contents of the other, 0 if there are none."""
    places = side & ~side.all(dim=1, keepdim=True)
    changed = map_tensors(lambda tensor: tensor if tensor is mask else _exchanged(tensor, places, side), inputs)
    if all(new is old for new, old in zip(tensors_of_inputs(changed), tensors_of_inputs(inputs), strict=True)):
        return 0.0
    return _change(before, run(changed), places)


def _exchanged(tensor: Tensor, places: Tensor, side: Tensor) -> Tensor:
    """Return contents (N, T, ...) or (T, N, ...) in which tokens have those of the same sample's other side."""
    if not isinstance(tensor, Tensor) or tensor.dtype == torch.bool or tensor.ndim < 2:
        return tensor
    time_first = tensor.shape[:2] != side.shape
    if time_first and tensor.shape[:2] != side.shape[::-1]:
        return tensor
    new = tensor.detach().clone()
    rows = new.transpose(0, 1) if time_first else new
    for row, chosen, own in zip(rows, places, side, strict=True):
        to, source = chosen.nonzero().flatten(), (~own).nonzero().flatten()
        if len(to):
            row[to] = row[source[torch.arange(len(to), device=source.device) % len(source)]]
    return new


def _change(before: list[Tensor], after: list[Tensor], places: Tensor) -> float:
    """Return the largest change of what the network returned, relative to its size, but for the tokens at some places."""
    found = [0.0]
    for old, new in zip(before, after, strict=True):
        if old.shape != new.shape or not old.is_floating_point() or old.ndim not in {2, 3} or not old.numel():
            continue
        change = (old.double() - new.double()).abs().masked_fill(old.isnan() & new.isnan(), 0).nan_to_num(nan=float("inf"))
        change = change.transpose(0, 1) if old.shape[:2] == places.shape[::-1] != places.shape else change
        further = change.shape[1] - places.shape[1]
        if len(change) == len(places) and (further == 0 or (further > 0 and change.ndim == 3)):
            own = torch.cat([places.new_zeros(len(places), further), places], dim=1)
            change = change.flatten(2).amax(dim=2) if change.ndim == 3 else change
            change = change.masked_fill(own, 0)
        size = float(old.double().abs().nan_to_num(posinf=0).max())
        found.append(float(change.max()) / (size or 1.0))
    return max(found)
