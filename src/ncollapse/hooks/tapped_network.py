"""A hooked network: the look that finds its layers, and the tapped features of each forward pass."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from ncollapse.hooks.batch_io import copy_of, first_samples, map_tensors, run_network, tensors_in
from ncollapse.hooks.capture import is_dense
from ncollapse.hooks.label_rows import LabelRows, check_not_one_hot
from ncollapse.hooks.logits import returned_tensors
from ncollapse.hooks.masks import mask_rules, tensors_of_inputs
from ncollapse.hooks.rows import TimeFirstError, left_out_words, misplaced
from ncollapse.hooks.snapshot import random_state_kept
from ncollapse.hooks.tap_hooks import TapHooks, Tapped, TapPlan
from ncollapse.hooks.untouched import Untouched

# How many samples show whether a layer keeps their order.
_ORDERED = 8
# Rows are alike if they differ by less than this share of the largest one.
_ALIKE = 1e-3


class TappedNetwork:
    """Context manager that hooks a network and returns the tapped features of each forward pass."""

    # On leaving, also after an error, hooks are removed and the network is restored. No gradients are computed.

    def __init__(
        self,
        model: nn.Module,
        make_plan: Callable[..., TapPlan],
        *,
        num_classes: int | None = None,
        check: bool = False,
        batches: Any = None,
    ) -> None:
        self.model, self._num_classes = model, num_classes
        self.plan: TapPlan | None = None
        self._make_plan = make_plan
        self._hooks: TapHooks | None = None
        self._untouched = Untouched(model, check=check, batches=batches)

    def __enter__(self) -> TappedNetwork:
        self._untouched.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        if self._hooks is not None:
            self._hooks.remove()
        self._untouched.__exit__(kind, error, traceback)

    def rewind(self) -> None:
        """Restore the network's state at the start, for a further pass over the data."""
        if self._hooks is not None:
            self._untouched.rewind()

    def forward(
        self,
        inputs: Any,
        labels: Tensor | LabelRows,
        receive: Callable[[str, Tensor], None] | None = None,
        hold: bool = True,
    ) -> Tapped:
        """Run the network on one batch."""
        rows = labels if isinstance(labels, LabelRows) else LabelRows.of(labels)
        with torch.no_grad():
            if self._hooks is None:
                make_plan = partial(self._make_plan, tokens=rows.num_tokens, labeled=rows)
                try:
                    self.plan = look(self._untouched, make_plan, inputs, rows, rows.per_position)
                except (ValueError, TypeError):
                    check_not_one_hot(rows, self._num_classes, ())
                    raise
                self._hooks = TapHooks(self.model, self.plan)
                self._untouched.mark()
            self._hooks.begin(self._hooks.plan.real_tokens(inputs, self.model), rows, receive, hold)
            output = run_network(self.model, inputs)
        check_not_one_hot(rows, self._hooks.plan.num_classes, returned_tensors(output))
        found = self._hooks.end(output)
        self.plan = self._hooks.plan
        return found

    def logits(self, inputs: Any, labels: LabelRows) -> Tensor | None:
        """Run the network on one batch after the first one, and return its logits without reading a layer."""
        assert self._hooks is not None
        with torch.no_grad():
            return self._hooks.logits(run_network(self.model, inputs), labels)


def look(
    untouched: Untouched, make_plan: Callable[[Any, int], TapPlan], inputs: Any, labeled: LabelRows | int, tokens: bool = False
) -> TapPlan:
    """Find the layers with two samples, or with the whole batch if its parts cannot be separated, as in a graph."""
    num_samples, whole = (labeled, False) if isinstance(labeled, int) else (labeled.num_samples, labeled.connected)
    model = untouched.model
    try:
        if not whole:
            try:
                plan = make_plan(*first_samples(inputs, num_samples, _telling_samples(inputs, model, num_samples)))
            except TimeFirstError as error:
                untouched.rewind()
                num_samples = error.num_samples
                plan = make_plan(inputs, num_samples)
            if plan.may_reorder:  # then further samples run
                untouched.rewind()
            second = [tensor.shape[1] for tensor in tensors_of_inputs(inputs) if tensor.ndim > 1]
            sizes = list(dict.fromkeys([num_samples, *second])) if isinstance(labeled, int) else [num_samples]
            return _without_reordered(plan, _wrong_rows(model, plan, inputs, sizes, tokens))
    except ReorderedError:
        raise
    except Exception:
        if is_dense(inputs) and num_samples not in inputs.shape[1:2] and _takes_two(model, inputs, num_samples):
            raise  # cutting to the first samples tore nothing apart
    finally:
        # The features of the look, which a module may have cached, are not those of the passes.
        untouched.rewind()
    try:
        return make_plan(inputs, num_samples)
    except TimeFirstError as error:
        return make_plan(inputs, error.num_samples)
    finally:
        untouched.rewind()


def _takes_two(model: nn.Module, inputs: Any, num_samples: int) -> bool:
    """Return whether a network runs on two samples, unlike one that is made for batches of one size."""
    try:
        run_network(model, first_samples(inputs, num_samples)[0])
    except Exception:  # a network may refuse in any way
        return False
    return True


def _telling_samples(inputs: Any, model: nn.Module, num_samples: int) -> tuple[int, int]:
    """Return two samples, by default the first two; of padded ones the shortest and one of full length, if there is one."""
    for rule in mask_rules(inputs, model):
        mask = rule.read(inputs, model)
        if mask is None or len(mask) != num_samples:
            continue
        lengths, whole = mask.sum(dim=1), mask.all(dim=1) | ~mask.any(dim=1)
        if not bool(whole.all()):
            shortest = int(lengths.masked_fill(whole, mask.shape[1]).argmin())
            others = [*(mask.all(dim=1) | ~mask.any(dim=1) & ~mask.all(dim=1).any()).nonzero().flatten().tolist(), 0, 1]
            other = next(place for place in others if place != shortest)
            return min(shortest, other), max(shortest, other)
    return 0, 1


def checked(model: nn.Module, plan: TapPlan, inputs: Any) -> tuple[TapPlan, ValueError | None]:
    """Compare a whole batch with what its first samples proved: return the plan, and an error if it reads others wrongly."""
    if plan.repeats is None and plan.proof is None:
        return plan, None
    hooks = TapHooks(model, plan)
    try:
        hooks.begin(plan.real_tokens(inputs, model))
        hooks.end(run_network(model, copy_of(inputs)))
    except ValueError as error:
        return plan, error
    finally:
        hooks.remove()
    return hooks.plan.settled, None


class ReorderedError(ValueError):
    """A layer that the measurement needs has its rows in another order than the samples."""


def _wrong_rows(model: nn.Module, plan: TapPlan, inputs: Any, sizes: Sequence[int], tokens: bool) -> dict[str, str]:
    """Return layers without one row per sample in the order of the samples, by some samples in order and in reverse."""
    # `sizes` are the numbers of samples that the batch may have, the likely one first.
    # As many time steps as samples leave two dimensions that may count the samples. Along the wrong one, no layer returns as
    # many rows as there are samples left.
    found: list[dict[str, str]] = []
    for size in [size for size in sizes if size > 1] if plan.may_reorder else []:
        axes = [axis for axis in dict.fromkeys(_sample_axes(inputs, size, place) for place in (0, -1)) if axis]
        fewer = len(axes) > 1 or size != sizes[0] == _ORDERED
        chosen = tuple(range(min(size, _ORDERED) - fewer))
        reasons = [_rows_in_order(model, plan, inputs, chosen, axis, tokens) for axis in axes]
        found += [reason for reason in reasons if reason is not None]
        if found and len(min(found, key=len)) < len(plan.labels):
            break
    return min(found, key=len, default={})


def _rows_in_order(
    model: nn.Module, plan: TapPlan, inputs: Any, chosen: Sequence[int], axes: Sequence[int | None], tokens: bool
) -> dict[str, str] | None:
    """Return layers whose rows do not follow the samples, which these dimensions count; None if the network refuses."""
    found: list[dict[str, Tensor]] = []
    try:
        for order in (chosen, chosen[::-1]):
            samples = _in_order(inputs, order, axes)
            hooks, rows = TapHooks(model, plan), dict[str, Tensor]()

            def receive(label: str, features: Tensor, rows: dict[str, Tensor] = rows) -> None:
                rows[label] = features.clone()  # the network may write into the same memory again

            hooks.begin(plan.real_tokens(samples, model), None, receive, hold=False, whole=tokens)
            try:
                with random_state_kept():
                    run_network(model, samples)
            finally:
                hooks.remove()
            found.append(rows)
    except Exception:  # a network may refuse another order in any way, such as sequences that are not sorted by length
        return None
    return _misordered(found[0], found[1], len(chosen), plan.labels)


def _misordered(outputs: dict[str, Tensor], reverse: dict[str, Tensor], num: int, labels: Iterable[str]) -> dict[str, str]:
    """Return layers without one row per sample, or with an order of their own, and why; ``reverse`` is for reversed samples."""
    found = {}
    for label in labels:
        if label not in outputs or label not in reverse:
            found[label] = f"does not run for {num} samples"
        elif not len(outputs[label]) == len(reverse[label]) == num:
            found[label] = f"returns {len(outputs[label])} rows for {num} samples"
        elif _follows_another(outputs[label].flip(0).flatten(1).float(), reverse[label].flatten(1).float()):
            found[label] = "reorders the samples"
    return found


def _follows_another(expected: Tensor, rows: Tensor) -> bool:
    """Return whether a row is that of another sample, and not that of its own."""
    distance = torch.cdist(rows, expected)
    alike = distance <= _ALIKE * expected.norm(dim=1).max()
    return bool((alike.any(dim=1) & ~alike.diagonal()).any())


def _sample_axes(inputs: Any, num_samples: int, place: int) -> tuple[int | None, ...]:
    """Return the dimension of each input that counts the samples, None if it has none; () if that is unknown."""
    axes: list[int | None] = []
    for tensor in tensors_in(inputs):
        if not isinstance(tensor, Tensor) or tensor.is_nested:
            return ()
        fitting = [axis for axis, size in enumerate(tensor.shape[:2]) if size == num_samples]
        # Several rows for each sample, such as crops of an image, follow the samples in a way of their own.
        if not fitting and tensor.ndim and len(tensor) and len(tensor) % num_samples == 0:
            return ()
        axes.append(fitting[place] if fitting else None)
    return tuple(axes) if set(axes) - {None} else ()


def _in_order(inputs: Any, order: Sequence[int], axes: Sequence[int | None]) -> Any:
    """Copy some samples of the inputs, along a dimension for each tensor."""
    left = iter(axes)

    def cut(tensor: Tensor) -> Tensor:
        axis, part = next(left), tensor.detach()
        part = part.clone() if axis is None else part.index_select(axis, torch.tensor(order, device=tensor.device))
        return part.requires_grad_(tensor.requires_grad)

    return map_tensors(cut, inputs)


def _without_reordered(plan: TapPlan, reasons: dict[str, str]) -> TapPlan:
    taps = tuple(tap for tap in plan.taps if tap.label not in reasons)
    if not reasons:
        return plan
    if plan.named or plan.feeding in reasons or not (taps or plan.feeding):
        raise ReorderedError(misplaced(reasons))
    words = "; ".join([plan.explanation, *left_out_words(reasons)])
    return replace(plan, taps=taps, explanation=words, left_out={**plan.left_out, **reasons})
