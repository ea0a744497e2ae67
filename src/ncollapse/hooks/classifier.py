"""The classifier of a network: the linear layer that makes its logits, and what that layer takes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from ncollapse.hooks.capture import Captured
from ncollapse.hooks.pooling import pool_of
from ncollapse.hooks.tap import Pool
from ncollapse.hooks.trace import ModuleCall, Trace, is_inside

_ONE_HOT = "Labels of shape (N, T) give every token a label; convert one-hot rows with argmax(1)."


class Head(NamedTuple):
    """The classifier that was found, or a note why there is none.

    Attributes:
        input: What it takes: (N, d), or tokens (N, T, d).
        pool: How one row per sample is read from tokens; "flatten" where the input has one row for each label already.
        note: Words on what was found.
    """

    name: str | None = None
    input: Captured | None = None
    pool: Pool = "flatten"
    note: str = ""

    @property
    def takes_labeled_tokens(self) -> bool:
        """Whether it classifies every token."""
        return self.input is not None and self.input.tensor.ndim == 3 and self.pool == "flatten"


def find_head(trace: Trace, named: str | None, num_classes: int | None, tokens: bool | None) -> Head:
    """Find the classifier: the one that the user named, or the one that makes the network's logits."""
    # Without K only a layer is trusted whose outputs are seen in what the network returns. Where it is not known whether every
    # token has a label (tokens is None), every one has if the network returns logits for each.
    call = _named_call(trace, named) if named is not None else _found_call(trace, num_classes)
    if call is None:
        return Head(note=_none_found(trace, num_classes))
    taken = cast(Captured, call.input)
    if tokens is None:
        tokens = taken.tensor.ndim == 3 and trace.output is not None and trace.output.tensor.ndim == 3
    if taken.tensor.ndim == (3 if tokens else 2):
        return Head(call.name, taken)
    # Some text classifiers run the classifier on every token, and return the logits of one token, or their mean. As the
    # classifier is linear, the token that is picked from the logits may as well be picked from its input.
    pool = None if tokens else _pool_of_logits(call, trace)
    if pool is not None:
        return Head(call.name, taken, pool, f"its logits are read out at {pool}")
    if named is not None:
        raise TypeError(
            f"Classifier {call.name!r} must take features of shape {'(N, T, d)' if tokens else '(N, d)'}, got "
            f"{tuple(taken.tensor.shape)}. Name another with classifier=. {_ONE_HOT if tokens else ''}".rstrip()
        )
    return Head(note=f"{call.name} takes {tuple(taken.tensor.shape)}, not (N, d): no metrics of a classifier")


def further_heads(usable: Sequence[ModuleCall], trace: Trace, num_classes: int) -> list[str]:
    """Modules before the classifier whose logits the network returns beside those of the classifier."""
    linear = [call for call in usable if _has_outputs(call, num_classes)]
    logits = [call.output for call in linear if any(call.returned(part) for part in trace.returned)]
    heads = [call.name for call in usable if any(call.returned(part) for part in logits)]
    return [name for name in heads if not is_inside(name, heads)]


def _named_call(trace: Trace, named: str) -> ModuleCall:
    if named not in trace.calls:
        raise ValueError(f"Classifier {named!r} did not run in the forward pass. Name one that does.")
    return trace.calls[named]


def _found_call(trace: Trace, num_classes: int | None) -> ModuleCall | None:
    """The linear layer whose output the network returns; else the last one that may be the classifier."""
    if num_classes is None:
        possible = [call for call in _linear_calls(trace) if _shows_in_output(call, trace)]
    else:
        possible = [call for call in _linear_calls(trace) if _has_outputs(call, num_classes)]
    return next((call for call in possible if call.returned(trace.output)), possible[-1] if possible else None)


def _linear_calls(trace: Trace) -> list[ModuleCall]:
    return [call for call in trace.calls.values() if isinstance(call.module, nn.Linear) and call.count == 1]


def _has_outputs(call: ModuleCall, num: int) -> bool:
    return isinstance(call.module, nn.Linear) and call.module.out_features == num


def _shows_in_output(call: ModuleCall, trace: Trace) -> bool:
    """Whether the network returns these logits, those of one token, or what softmax or a temperature made of them."""
    output = trace.output
    if output is None or call.output is None:
        return False
    return call.returned(output) or _pool_of_logits(call, trace) is not None or _same_order(call.output.values, output.values)


def _same_order(logits: Tensor, output: Tensor) -> bool:
    # Softmax and a temperature keep the order of the classes in each row, a ReLU or a residual connection only by chance.
    if logits.shape != output.shape or logits.shape[-1] < 2:
        return False
    return torch.equal(logits.argsort(dim=-1), output.argsort(dim=-1))


def _pool_of_logits(call: ModuleCall, trace: Trace) -> Pool | None:
    if call.output is None or trace.output is None:
        return None
    return pool_of(call.output.values, trace.output.values, trace.mask)


def _none_found(trace: Trace, num_classes: int | None) -> str:
    if num_classes is None:
        return "no nn.Linear makes what the network returns: no classifier"
    linear = _linear_calls(trace)
    others = f", the last one has {cast(nn.Linear, linear[-1].module).out_features}" if linear else ""
    return f"no nn.Linear with {num_classes} outputs{others}: no metrics of a classifier"
