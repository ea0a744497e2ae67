"""The classifier of a network: the linear layer that computes the logits, and its input."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from ncollapse.hooks.capture import Captured
from ncollapse.hooks.logits import class_logits
from ncollapse.hooks.pooling import pool_of
from ncollapse.hooks.tap import Pool
from ncollapse.hooks.trace import ModuleCall, Trace, is_inside

_ONE_HOT = "Labels of shape (N, T) mean one label per token; convert one-hot rows with argmax(1)."


class Head(NamedTuple):
    """The classifier that was found, or a note why there is none.

    Attributes:
        input: The classifier's input: (N, d), or tokens (N, T, d).
        pool: How tokens become one row per sample; "flatten" if the input already has one row per label.
        note: What was found, in words for the user.
    """

    name: str | None = None
    input: Captured | None = None
    pool: Pool = "flatten"
    note: str = ""

    @property
    def takes_labeled_tokens(self) -> bool:
        """Whether the network classifies every token."""
        return self.input is not None and self.input.tensor.ndim == 3 and self.pool == "flatten"


def find_head(trace: Trace, named: str | None, num_classes: int | None, tokens: bool | None) -> Head:
    """Find the classifier: the module that the user named, or the one that computes the network's logits."""
    # If K is unknown, a layer counts as the classifier only if its outputs appear in the network's output. If it is unknown
    # whether every token has a label (tokens is None), the answer is yes if the network returns logits for every token.
    call = _named_call(trace, named) if named is not None else _found_call(trace, num_classes)
    if call is None:
        return Head(note=_none_found(trace, num_classes))
    taken = cast(Captured, call.input)
    if tokens is None:
        tokens = taken.tensor.ndim == 3 and trace.output is not None and trace.output.tensor.ndim == 3
    if taken.tensor.ndim == (3 if tokens else 2):
        return Head(call.name, taken)
    # Some text models run the classifier on every token and return the logits of one token, or their mean. The classifier is
    # linear, so that the same token, or mean, of its input gives the same logits.
    pool = None if tokens else _pool_of_logits(call, trace)
    if pool is not None:
        return Head(call.name, taken, pool, f"logits read at {pool}")
    if named is not None:
        raise TypeError(
            f"The input of classifier {call.name!r} must have shape {'(N, T, d)' if tokens else '(N, d)'}, got "
            f"{tuple(taken.tensor.shape)}. Name another with classifier=. {_ONE_HOT if tokens else ''}".rstrip()
        )
    return Head(note=f"no classifier metrics, since the input of {call.name} has shape {tuple(taken.tensor.shape)}, not (N, d)")


def find_logits(trace: Trace, classifier: str | None, num_classes: int | None, tokens: bool) -> int | None:
    """Return which returned tensor holds the logits: those of the classifier, else the first of their shape."""
    fitting = [index for index, part in enumerate(trace.returned) if class_logits(part.values, num_classes, tokens) is not None]
    own = [index for index in fitting if classifier is not None and trace.calls[classifier].returned(trace.returned[index])]
    return next(iter([*own, *fitting]), None)


def further_heads(usable: Sequence[ModuleCall], trace: Trace, num_classes: int) -> list[str]:
    """Return modules before the classifier that make logits which the network returns next to the classifier's."""
    linear = [call for call in usable if _has_outputs(call, num_classes)]
    logits = [call.output for call in linear if any(call.returned(part) for part in trace.returned)]
    heads = [call.name for call in usable if any(call.returned(part) for part in logits)]
    return [name for name in heads if not is_inside(name, heads)]


def _named_call(trace: Trace, named: str) -> ModuleCall:
    if named not in trace.calls:
        raise ValueError(f"Classifier {named!r} must run in the forward pass, but it did not. Name one that does.")
    return trace.calls[named]


def _found_call(trace: Trace, num_classes: int | None) -> ModuleCall | None:
    """Return the linear layer whose output the network returns, else the last one that may be the classifier."""
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
    """Return whether the network's output is these logits, one token of them, or their softmax or scaled values."""
    output = trace.output
    if output is None or call.output is None:
        return False
    return call.returned(output) or _pool_of_logits(call, trace) is not None or _same_order(call.output.values, output.values)


def _same_order(logits: Tensor, output: Tensor) -> bool:
    # Softmax and a temperature keep the order of the classes in each row. A ReLU or a residual connection does so only by
    # chance.
    if logits.shape != output.shape or logits.shape[-1] < 2:
        return False
    return torch.equal(logits.argsort(dim=-1), output.argsort(dim=-1))


def _pool_of_logits(call: ModuleCall, trace: Trace) -> Pool | None:
    if call.output is None or trace.output is None:
        return None
    return pool_of(call.output.values, trace.output.values, trace.mask)


def _none_found(trace: Trace, num_classes: int | None) -> str:
    if num_classes is None:
        return "no classifier, since the network returns the output of no nn.Linear"
    linear = _linear_calls(trace)
    others = f" (the last one has {cast(nn.Linear, linear[-1].module).out_features})" if linear else ""
    return f"no classifier metrics, since no nn.Linear has {num_classes} outputs{others}"
