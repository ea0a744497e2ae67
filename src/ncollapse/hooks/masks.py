"""Which tokens of a batch are real and which are padding: as arguments are named, or as the network reads its tokens."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from ncollapse.hooks.batch_io import Arguments, signature_of, tensors_in

# A name is a promise, so a mask of a known name is used as it is. Networks also take masks of other names, or lengths, or find
# the padding in the token ids themselves. Such a rule is used only if the look proves it: then the network's own row per sample
# is the mean of the real tokens, or the last one, and is not that of all tokens.


def attention_mask(inputs: Any, model: nn.Module, rule: MaskRule | None = None) -> Tensor | None:
    """Return which tokens are real, shape (N, T), None if the inputs do not say.

    An argument named "attention_mask" or "mask" marks real tokens. One whose name ends in "padding_mask", as in PyTorch's
    transformers, marks padding. Without one, the rule is used that a look has found.
    """
    named = Arguments.of(model, inputs).by_name(model)
    masks = {name: value for name, value in named.items() if isinstance(value, Tensor) and value.ndim == 2}
    if "attention_mask" in masks:
        return masks["attention_mask"]
    for name in sorted(masks, key=lambda name: name not in {"src_key_padding_mask", "key_padding_mask"}):
        if name.endswith("padding_mask"):
            return masks[name] == 0
    # Next to a padding mask, "mask" says which tokens see one another, shape (T, T); so does one that has not a row a sample.
    signature = signature_of(model)
    other = signature is not None and any(name.endswith("padding_mask") for name in signature.parameters)
    mask = None if other else masks.get("mask")
    if mask is not None and not mask.is_floating_point() and not _is_causal(mask) and _has_row_a_sample(mask, _tensors(inputs)):
        return mask
    return None if rule is None else rule.read(inputs)


def _has_row_a_sample(mask: Tensor, tensors: list[Tensor]) -> bool:
    others = [tensor for tensor in tensors if tensor is not mask and tensor.ndim > 0]
    return not others or any(len(tensor) == len(mask) for tensor in others)


def _is_causal(mask: Tensor) -> bool:
    return mask.shape[0] == mask.shape[1] and torch.equal(mask != 0, torch.ones_like(mask, dtype=torch.bool).tril())


class MaskRule(NamedTuple):
    """A way to see from one tensor of the inputs which tokens are real.

    Attributes:
        position: The tensor, among all of the inputs.
        kind: It counts the real tokens of each sample, marks real tokens or padding, or holds ids of which one is padding.
        padding: That id.
    """

    position: int
    kind: Literal["lengths", "ids", "real", "padding"]
    padding: int = 0

    @property
    def words(self) -> str:
        """What is padding, in words."""
        given = f"argument {self.position + 1}"
        return {
            "lengths": f"padding behind the lengths in {given}",
            "ids": f"padding where {given} is {self.padding}",
            "real": f"padding where {given} is 0",
            "padding": f"padding where {given} is 1",
        }[self.kind]

    def is_boolean(self, inputs: Any) -> bool:
        """Return whether its tensor holds booleans."""
        return _tensors(inputs)[self.position].dtype == torch.bool

    def read(self, inputs: Any) -> Tensor | None:
        """Return which tokens are real, shape (N, T); None if the inputs have no such tensor."""
        tensors = _tensors(inputs)
        given = tensors[self.position] if self.position < len(tensors) else None
        if given is None or given.ndim != (1 if self.kind == "lengths" else 2):
            return None
        if self.kind == "lengths":
            length = _num_tokens(tensors, len(given))
            return torch.arange(length, device=given.device) < given.unsqueeze(1)
        return given != self.padding if self.kind == "ids" else (given != 0) == (self.kind == "real")


def mask_rules(inputs: Any, model: nn.Module) -> list[MaskRule]:
    """Return the rules that the inputs allow, the most likely first; none if a mask has a known name."""
    return [] if attention_mask(inputs, model) is not None else list(_rules(_tensors(inputs), _declared_padding(model)))


def _rules(tensors: list[Tensor], declared: set[int]) -> Iterator[MaskRule]:
    whole = {i: tensor for i, tensor in enumerate(tensors) if not tensor.is_floating_point() and tensor.numel()}
    for i, tensor in whole.items():
        longest = _num_tokens(tensors, len(tensor)) if tensor.ndim == 1 else 0
        if longest and 1 <= int(tensor.min()) and int(tensor.max()) <= longest:
            yield MaskRule(i, "lengths")
    flags = {i: tensor for i, tensor in whole.items() if tensor.ndim == 2 and bool(((tensor == 0) | (tensor == 1)).all())}
    for i, tensor in whole.items():
        if tensor.ndim == 2 and i not in flags:
            yield from (MaskRule(i, "ids", padding) for padding in sorted(declared | _repeated_at_end(tensor)))
    for i, tensor in flags.items():
        if not _is_causal(tensor) and _has_row_a_sample(tensor, tensors):
            yield from (MaskRule(i, "real"), MaskRule(i, "padding"))


def _tensors(inputs: Any) -> list[Tensor]:
    return [tensor for tensor in tensors_in(inputs) if isinstance(tensor, Tensor)]


def _num_tokens(tensors: list[Tensor], num_samples: int) -> int:
    """Return the second dimension of the first tensor of so many samples."""
    return next((tensor.shape[1] for tensor in tensors if tensor.ndim > 1 and len(tensor) == num_samples), 0)


def _declared_padding(model: nn.Module) -> set[int]:
    """Return the ids that embeddings or the configuration declare to be padding."""
    declared = [getattr(module, "padding_idx", None) for module in model.modules()]
    declared.append(getattr(getattr(model, "config", None), "pad_token_id", None))
    return {id for id in declared if isinstance(id, int)}


def _repeated_at_end(ids: Tensor) -> set[int]:
    """Return the id with which most samples end, if several do."""
    last = ids[:, -1]
    common = last.mode().values
    return {int(common)} if int((last == common).sum()) > 1 or len(last) < 3 else set()


def telling_samples(inputs: Any, model: nn.Module, num_samples: int) -> tuple[int, int]:
    """Return two samples, by default the first two; of padded ones the shortest, which shows how padding is read."""
    for rule in mask_rules(inputs, model):
        mask = rule.read(inputs)
        if mask is not None and len(mask) == num_samples and not bool(mask.all()) and bool(mask.any(dim=1).all()):
            shortest = int(mask.sum(dim=1).argmin())
            return min(shortest, int(shortest == 0)), max(shortest, 1)
    return 0, 1
