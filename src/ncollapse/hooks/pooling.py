"""The way in which a network turns tokens (N, T, D) into one row per sample, inferred from a trace."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ncollapse.hooks.capture import Captured
from ncollapse.hooks.masks import MaskRule, Run, convention, is_causal, is_wide, named_rules, shown_rule, tensors_of_inputs
from ncollapse.hooks.tap import Pool, Read, Tap, attribute
from ncollapse.hooks.trace import ModuleCall, Trace

# A hook cannot see that a forward reads the class token with x[:, 0]. But networks pool their tokens in few ways, so each way
# is tried. If one of them gives exactly the rows that are the input of a later module, it is the network's own. Chance cannot
# produce this: it would have to hit all D numbers of a row. If several ways give the same rows, as for a single token, any of
# them will do.
_CANDIDATES: tuple[Pool, ...] = ("cls", "last_token", "mean")
# Networks put few tokens of their own in front: a class token, one of a teacher, registers.
_MOST_IN_FRONT = 16

# Settings of sentence-transformers: the older ones are flags, the newer ones values of "pooling_mode".
_DECLARED: dict[str, Pool] = {
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_cls_token": "cls",
    "pooling_mode_lasttoken": "last_token",
}
_MOST_SETTINGS = 1 << 16
_MODES: dict[str, Pool] = {"mean": "mean", "cls": "cls", "lasttoken": "last_token"}


@dataclass(frozen=True)
class MeanFrom:
    """Reads the mean of the tokens from a position on, as networks do that leave out a class token in front."""

    first: int

    @property
    def __name__(self) -> str:
        return f"mean_from_{self.first}"

    def __call__(self, tokens: Tensor) -> Tensor:
        """Return the mean of tokens (N, T, D), shape (N, D)."""
        return Tap("", "mean").read(tokens[:, self.first :], None)


class TokenReading(NamedTuple):
    """How a network reads its tokens."""

    pool: Read
    num_tokens: int = 0  # from how many of them, 0 if unknown
    words: str = ""  # on what evidence
    tokens: ModuleCall | None = None  # the module whose tokens the network reads so, None if unknown
    rows: Captured | None = None  # what it makes of them
    taker: ModuleCall | None = None  # the module that takes these rows, None if the network returns them
    is_turned: bool = False  # whether these are its last dimension
    is_known: bool = True  # whether anything shows how it reads them


def read_out(model: nn.Module, usable: Sequence[ModuleCall], trace: Trace, classified: bool) -> TokenReading:
    """Return how a network reads its tokens."""
    calls = list(trace.calls.values())
    if not any(_takes_tokens(call) for call in calls):
        return TokenReading("flatten")  # three dimensions, but no tokens: (N, C, L) of a convolution
    # Without a classifier, an encoder's pooling layer shows what its pre-training took, not what its users take.
    declared = None if classified else declared_pool(model)
    if declared is not None:
        return TokenReading(declared[0], 0, f"tokens read at {declared[0]}, as {declared[1]} declares")
    for call, taker, rows in _tokens_and_rows(usable, trace):
        for is_turned in (False, True):
            tokens = call.values.transpose(1, 2) if is_turned else call.values
            pool = pool_of(tokens, rows.values, None if is_turned else trace.mask)
            if pool is not None:
                who = "the network returns" if taker is None else f"{taker.name} takes"
                words = f"tokens read at {Tap('', pool).label.removeprefix(':')}, as {who} them"
                return TokenReading(pool, tokens.shape[1], words, call, rows, taker, is_turned)
    return TokenReading("mean", 0, "tokens averaged, since it is unknown how the network reads them", is_known=False)


def _tokens_and_rows(usable: Sequence[ModuleCall], trace: Trace) -> Iterator[tuple[ModuleCall, ModuleCall | None, Captured]]:
    """Yield layers with tokens, and rows that a network may have made of them, with the module that takes these."""
    taken: list[tuple[ModuleCall | None, Captured | None]] = [(None, part) for part in trace.returned]
    taken += [(call, call.input) for call in trace.calls.values()]
    rows = [(taker, part) for taker, part in taken if part is not None and part.tensor.ndim == 2]
    # Start with the last tokens, since the network reads from these. Rows made of earlier tokens may be part of a block.
    tokens = [call for call in usable if call.features.ndim == 3 and call.features.is_floating_point()]
    return ((call, taker, part) for call in reversed(tokens) for taker, part in rows)


def padding_rule(
    rules: Sequence[MaskRule], inputs: Any, model: nn.Module, usable: Sequence[ModuleCall] | None, trace: Trace, run: Run
) -> MaskRule | None:
    """Return which tokens are real, None if the inputs do not say."""
    if usable is None:  # then every token has a label, and those without one are left out in any case
        return next((rule for rule in rules if isinstance(rule.place, str)), None)
    proven = _read_rule(rules, inputs, model, usable, trace) or shown_rule(rules, inputs, model, run)
    return proven or _presumed_rule(rules, inputs, model)


def _read_rule(
    rules: Sequence[MaskRule], inputs: Any, model: nn.Module, usable: Sequence[ModuleCall], trace: Trace
) -> MaskRule | None:
    """Return the rule by which the network ignores padding when it makes one row of its tokens, None if none is proven."""
    for rule in rules:
        mask = rule.read(inputs, model)
        if mask is None or bool(mask.all()) or not bool(mask.any(dim=1).all()):
            continue
        for call, _, rows in _tokens_and_rows(usable, trace):
            fits = call.features.shape[1] == mask.shape[1] and pool_of(call.values, rows.values, mask) is not None
            if fits and _named_pool(call.values, rows.values, None) is None:
                return rule
    return None


def silent_rule(rules: Sequence[MaskRule], inputs: Any, model: nn.Module, read: TokenReading) -> MaskRule | None:
    """Return the likely rule if the first samples have no padding, but the network reads its tokens so that it would count."""
    if read.tokens is None or read.pool not in {"mean", "last_token"}:
        return None
    for rule in rules:
        given, mask = rule.tensor(inputs, model), rule.read(inputs, model)
        likely = rule.kind != "padding" or (given is not None and given.dtype == torch.bool)
        if likely and mask is not None and bool(mask.all()) and mask.shape[1] == read.num_tokens:
            other = rule.opposite.read(inputs, model) if given is not None and is_wide(given) else None
            if other is None or not bool(other.any()):
                return rule
    return None


def _presumed_rule(rules: Sequence[MaskRule], inputs: Any, model: nn.Module) -> MaskRule | None:
    """Return what an argument that is named as a mask means, as samples of full length, constant padding or its name say."""
    named = {rule.place: rule for rule in reversed(rules) if isinstance(rule.place, str)}
    readings = [(rule, rule.read(inputs, model)) for rule in reversed(named.values())]
    masks = [(rule, real) for rule, real in readings if real is not None]
    found = (_presumed(rule, real, inputs, model) for rule, real in masks)
    unclear = (rule._replace(kind="unknown") for rule, real in masks if not is_causal(real))
    return next(filter(None, found), next(unclear, None))


def _presumed(rule: MaskRule, real: Tensor, inputs: Any, model: nn.Module) -> MaskRule | None:
    if real.all() and (other := rule.opposite.read(inputs, model)) is not None and other.all():
        return rule  # it says only which token sees which
    full, empty = bool(real.all(dim=1).any()), bool((~real).all(dim=1).any())
    if rule.kind == "added":
        return rule
    if full != empty:
        return (rule if full else rule.opposite)._replace(why="as samples of full length show")
    for tensor in tensors_of_inputs(inputs):
        if tensor.shape[:2] == real.shape and tensor is not rule.tensor(inputs, model) and tensor.dtype != torch.bool:
            constant = [_is_constant_end(tensor, side) for side in (~real, real)]
            if constant[0] != constant[1]:
                return (rule if constant[0] else rule.opposite)._replace(why="where all tokens are alike")
    return rule._replace(why="as its name says") if convention(str(rule.place)) else None


def _is_constant_end(tensor: Tensor, side: Tensor) -> bool:
    """Return whether the tokens of one side are at one end of every sample and alike, and no other token is like them."""
    steps, rows = side.int().diff(dim=1), tensor[side]
    if len(rows) < 2 or not bool((steps >= 0).all() or (steps <= 0).all()):
        return False
    alike = (tensor == rows[0]).flatten(2).all(dim=2) if tensor.ndim > 2 else tensor == rows[0]
    return torch.equal(alike, side)


def real_tokens(inputs: Any, model: nn.Module, rule: MaskRule | None) -> Tensor | None:
    """Return which tokens of a batch are real, shape (N, T), None if the inputs do not say; masks may come after the first."""
    if rule is not None:
        return rule.read(inputs, model)
    late = _presumed_rule(list(named_rules(inputs, model)), inputs, model)
    if late is not None and late.kind == "unknown":
        raise ValueError(
            f"The first batch must show which tokens are padding, but {late.given!r} comes in a later one. Pass it with every "
            "batch."
        )
    return None if late is None else late.read(inputs, model)


def declared_pool(model: nn.Module) -> tuple[Pool, str] | None:
    """Return the pool that a sentence encoder declares, in a module or in the folder that it was loaded from."""
    for name, module in model.named_modules():
        pool = _pool_in(vars(module)) if type(module).__name__ == "Pooling" else None
        if pool is not None:
            return pool, name
    folder = Path(str(attribute(attribute(model, "config"), "_name_or_path") or "?"))
    for file in sorted(folder.glob("*_Pooling/config.json")):
        pool = _pool_in(_settings(file))
        if pool is not None:
            return pool, f"{file.parent.name}/{file.name}"
    return None


def _settings(file: Path) -> Mapping[str, Any]:
    """Read a file of settings, which has some hundred bytes; what is none declares nothing."""
    try:
        settings = json.loads(file.read_text()) if file.is_file() and file.stat().st_size < _MOST_SETTINGS else None
    except (OSError, ValueError, RecursionError):
        return {}
    return settings if isinstance(settings, dict) else {}


def _pool_in(settings: Mapping[str, Any]) -> Pool | None:
    """Return the pool in the settings of sentence-transformers, None if it is none of ours, or several are joined."""
    chosen = [_DECLARED[name] for name, value in settings.items() if name in _DECLARED and value is True]
    others = [name for name, value in settings.items() if name.startswith("pooling_mode_") and value is True]
    mode = settings.get("pooling_mode")
    if isinstance(mode, str):
        return _MODES.get(mode)
    return chosen[0] if len(others) == 1 and chosen else None


def pool_at(call: ModuleCall, read: TokenReading) -> Read:
    """Return the pool for one layer of a network that reads its tokens so."""
    if call.features.ndim != 3:
        return "flatten"
    # If a layer has another number of tokens, as before a class token is added, its first or last token is a different one.
    other = read.num_tokens > 0 and call.features.shape[1] != read.num_tokens
    return "mean" if read.pool != "flatten" and other else read.pool


def unknown_padding(call: ModuleCall, tap: Tap, read: TokenReading, mask: Tensor | None, rule: MaskRule | None) -> str:
    """Return why it is unknown which positions of a pooled layer are padding, "" if it is known."""
    # The mask of a layer with further positions in front is extended there, if the network itself reads such a layer so.
    length = call.features.shape[1] if call.output is not None and call.features.ndim == 3 else 0
    if not tap.skips_padding or not length:
        return ""
    if rule is not None and rule.kind == "unknown" and (read.tokens is None or read.pool != tap.pool):
        return f"is read without padding, and nothing shows which mark in {rule.given} is padding"
    if mask is None or length == mask.shape[1]:
        return ""
    return "" if length == read.num_tokens > mask.shape[1] else f"has {length} positions, the attention mask {mask.shape[1]}"


def pool_of(tokens: Tensor, rows: Tensor, mask: Tensor | None) -> Read | None:
    """Return the pool that turns these tokens into these rows, None if there is none."""
    if tokens.ndim != 3 or rows.shape != (len(tokens), tokens.shape[2]) or not rows.is_floating_point():
        return None
    named = _named_pool(tokens, rows, mask)
    if named is not None or mask is not None:
        return named
    some = map(MeanFrom, range(1, min(_MOST_IN_FRONT + 1, tokens.shape[1] - 1)))
    return next((read for read in some if is_same(read(tokens), rows)), None)


def _named_pool(tokens: Tensor, rows: Tensor, mask: Tensor | None) -> Pool | None:
    mask = None if mask is not None and mask.shape[1] > tokens.shape[1] else mask
    fitting = [pool for pool in _CANDIDATES if is_same(Tap("", pool).read(tokens, mask), rows)]
    return fitting[-1] if fitting else None


def is_mean_of_pixels(images: Tensor, rows: Tensor) -> bool:
    """Return whether rows (N, C) are the means of images (N, C, H, W) over their pixels."""
    return images.ndim == 4 and rows.shape == images.shape[:2] and is_same(images.mean(dim=(2, 3)), rows)


def is_same(read: Tensor, rows: Tensor) -> bool:
    """Return whether two ways to read tokens give the same rows, to rounding."""
    # The tolerance is relative to the largest number, so that small features do not all count as equal. It leaves room for the
    # rounding of a mean in half precision.
    atol = max(1e-5, 2 * torch.finfo(rows.dtype).eps) * float(rows.abs().max())
    return read.shape == rows.shape and torch.allclose(read.to(rows.dtype), rows, rtol=0, atol=atol)


def _takes_tokens(call: ModuleCall) -> bool:
    kinds = (nn.Linear, nn.RNNBase, nn.MultiheadAttention)
    return isinstance(call.module, kinds) and call.input is not None and call.input.tensor.ndim == 3
