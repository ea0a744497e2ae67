"""The natural stages of a network, found in a trace: its repeated blocks, or the layers of a plain network."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import pairwise

from torch import nn

from ncollapse.hooks.capture import Captured
from ncollapse.hooks.classifier import Head
from ncollapse.hooks.pooling import TokenReading, pool_at, pool_of
from ncollapse.hooks.tap import Tap
from ncollapse.hooks.trace import ModuleCall, Trace, input_call, is_inside, parent_of

# A deep network repeats a block, and its author wrote a class for it: a residual block, an encoder layer, a mixer. The depth of
# the network is counted in these blocks, and their outputs are its states. Modules inside a block are not states: on a residual
# branch they return the change alone, not the sum. Modules around blocks, such as a stage that runs them one after another,
# return the output of their last block once more.
# If no class repeats, the network is plain, and its states are what its layers with weights take. A state is named after the
# last module that returned it, or, if a function made it, after the module that takes it. So the same weights give the same
# states, whether an activation is a module, a module that several layers share, or a function.


def find_stages(
    usable: Sequence[ModuleCall], takers: Sequence[ModuleCall], last: Captured | None, classified: bool
) -> tuple[list[ModuleCall], str]:
    """Find the stages among the modules that ran, up to the input of the classifier or to the output, ``last``."""
    # ``takers`` are all modules that ran before the classifier, also those that are no layers themselves.
    blocks, what = _blocks(usable), "the classifier's input" if classified else "the output"
    if blocks:
        chosen, notes = _with_ends(usable, blocks, last)
    else:
        chosen, notes = _plain_layers(usable, takers, last, classified), ["inputs of the layers with weights"]
    made = _producer(usable, last)
    if made is not None and _producer(chosen, last) is None:
        chosen, notes = [*chosen, made], [*notes, f"{what} {made.name}"]
    unique = {call.name: call for call in chosen}.values()
    return sorted(unique, key=lambda call: call.finished), " and ".join(notes)


def in_series(calls: Sequence[ModuleCall]) -> tuple[list[ModuleCall], dict[str, str]]:
    """Split stages, in order of execution, into those in series and, with the reason, those beside them."""
    # Of two stages in series, the later depends on all that the earlier one depends on. The longest series is the depth of the
    # network. If there are several, as for two equal towers, the stages that all of them share are kept. If they share none,
    # as in an ensemble, the first one is kept.
    sources = [0 if call.output is None else call.output.sources for call in calls]
    before = [[j for j in range(i) if calls[j].leads_to(sources[i])] for i in range(len(calls))]
    level = [0] * len(calls)
    for i, earlier in enumerate(before):
        level[i] = 1 + max((level[j] for j in earlier), default=0)
    left = [0] * len(calls)
    for i in reversed(range(len(calls))):
        left[i] = 1 + max((left[k] for k in range(i + 1, len(calls)) if i in before[k]), default=0)
    longest = max(level, default=0)
    on = [i for i in range(len(calls)) if level[i] + left[i] - 1 == longest]
    shared = [i for i in on if sum(level[i] == level[j] for j in on) == 1]
    kept = shared or _first_series(on, level, before)
    beside = {calls[i].name: "beside, not before" for i in range(len(calls)) if i not in kept}
    return [calls[i] for i in kept], beside | {calls[i].name: _beside(i, on, level, calls) for i in on if i not in kept}


def _beside(index: int, on: Sequence[int], level: Sequence[int], calls: Sequence[ModuleCall]) -> str:
    """Name the layers of the other series, of the same length, that are as deep."""
    others = [calls[i].name for i in on if level[i] == level[index] and i != index]
    return f"beside {', '.join(others)}"


def _first_series(on: Sequence[int], level: Sequence[int], before: Sequence[Sequence[int]]) -> list[int]:
    series: list[int] = []
    for i in on:
        if level[i] == len(series) + 1 and (not series or series[-1] in before[i]):
            series.append(i)
    return series


def _with_ends(
    usable: Sequence[ModuleCall], blocks: Sequence[ModuleCall], last: Captured | None
) -> tuple[list[ModuleCall], list[str]]:
    """Add the state before the first block, and the pooled features if a head of several layers follows the last."""
    kinds = dict.fromkeys(type(call.module).__name__ for call in blocks if not _is_plain_sequential(call.module))
    chosen, notes = list(blocks), [f"blocks {', '.join(kinds)}"]
    first = min(blocks, key=lambda call: call.started_after)
    stem = _producer(usable, first.input) or _input_state(first)
    if stem is not None and stem not in blocks:
        chosen.append(stem)
        notes.append(f"their input {stem.name}")
    pooled = _pooled(usable, blocks, last)
    if pooled is not None:
        chosen.append(pooled)
        notes.append(f"the features for the head, {pooled.name}")
    return chosen, notes


def _blocks(usable: Sequence[ModuleCall]) -> list[ModuleCall]:
    """Return the outermost modules of repeated classes, and their neighbors from the first of them on."""
    candidates = [call for call in usable if not _is_plain_sequential(call.module) and _has_layers(call.module)]
    count = Counter(type(call.module) for call in candidates)
    opened = _stage_classes(usable, candidates)
    blocks: set[str] = set()
    # From the outside in, so that a block is found before the repeated parts inside it.
    for call in sorted(candidates, key=lambda call: call.name.count(".")):
        kind = type(call.module)
        if count[kind] > 1 and kind not in opened and not is_inside(call.name, blocks):
            blocks.add(call.name)
    return _with_neighbors(usable, blocks) if blocks else []


def _with_neighbors(usable: Sequence[ModuleCall], blocks: set[str]) -> list[ModuleCall]:
    """Add the modules with weights next to blocks, such as a transition to another width."""
    first = min(call.started_after for call in usable if call.name in blocks)
    parents = {parent_of(name) for name in blocks}
    beside = [
        call for call in usable if parent_of(call.name) in parents and call.started_after >= first and _has_layers(call.module)
    ]
    # Some of these neighbors contain blocks themselves. If a neighbor runs them one after another, its output is that of its
    # last block, and it is left out. If it runs them side by side on one input, as branches, it is a state, and the blocks
    # inside it are not.
    holders = {call.name for call in beside if any(is_inside(name, {call.name}) for name in blocks)}
    branching = {call.name for call in beside if call.name in holders and _branches(call, usable)}
    names = (blocks | {call.name for call in beside} | branching) - (holders - branching)
    return [call for call in usable if call.name in names and not is_inside(call.name, branching)]


def _stage_classes(usable: Sequence[ModuleCall], candidates: Sequence[ModuleCall]) -> set[type[nn.Module]]:
    """Return repeated classes that are stages, which run blocks one after another, and not blocks."""
    # A class counts as a stage if each of its modules returns the output of a block, so that it adds no state of its own, and
    # at least one of them runs several blocks in a row. (A block that wraps one module of a repeated class stays a block.)
    chained, closed = set(), set()
    for call in candidates:
        inside = [other for other in usable if is_inside(other.name, {call.name}) and not _is_plain_sequential(other.module)]
        block = _handed_on(call, inside)
        if block is None:
            closed.add(type(call.module))
        elif type(block.module) is not type(call.module) and _in_a_row(block, inside):
            chained.add(type(call.module))
    return chained - closed


def _handed_on(call: ModuleCall, inside: Sequence[ModuleCall]) -> ModuleCall | None:
    """Return the inner module whose output a module returns, as it is or after single layers such as a normalization."""
    wanted = call.output
    for other in reversed(inside):
        if other.returned(wanted):
            if _has_layers(other.module):
                return other
            wanted = other.input
    return None


def _in_a_row(block: ModuleCall, inside: Sequence[ModuleCall]) -> bool:
    """Return whether some module of the block's class takes the output of the one before it as input."""
    row = [call for call in inside if type(call.module) is type(block.module) and parent_of(call.name) == parent_of(block.name)]
    return any(before.returned(after.input) for before, after in pairwise(row))


def _branches(call: ModuleCall, usable: Sequence[ModuleCall]) -> bool:
    """Return whether a module passes its own input to several of its direct children."""
    taken = [other.input for other in usable if parent_of(other.name) == call.name]
    return call.input is not None and sum(other is not None and call.input.is_same(other) for other in taken) > 1


def _pooled(usable: Sequence[ModuleCall], blocks: Sequence[ModuleCall], last: Captured | None) -> ModuleCall | None:
    """Return the features that enter a head of several layers, such as the pooling of the last block."""
    end = blocks[-1]
    behind = [call for call in usable[usable.index(end) + 1 :] if _is_leaf(call)]
    first = next((call for call in behind if has_weights(call)), None)
    call = None if first is None else _last_leaf(usable, first.input) or _input_state(first)
    if call is None or end.output is None or call.output is None or call.returned(last):
        return None
    repeats = end.returned(call.output) or pool_of(end.values, call.values, None) is not None
    return None if repeats else call


def _plain_layers(
    usable: Sequence[ModuleCall], takers: Sequence[ModuleCall], last: Captured | None, classified: bool
) -> list[ModuleCall]:
    """Return what the layers with weights of a plain network take, after normalization, activation and pooling."""
    layers = [call for call in takers if _is_leaf(call) and has_weights(call)]
    taken = [call for call in layers if call.input is not None and call.input.depends_on_weights]
    states = [_last_leaf(usable, call.input) or _input_state(call) for call in taken]
    end = _last_leaf(usable, last)
    if end is None and not classified:
        end = next((call for call in reversed(usable) if _is_leaf(call)), None)
    found: list[ModuleCall] = []
    for state in [*states, end]:
        if state is not None and _producer(found, state.output) is None:
            found.append(state)
    return found if layers else list(usable)


def _input_state(taker: ModuleCall) -> ModuleCall | None:
    """Return what a module takes as a state of the network, made by a function; None if that is not possible."""
    taken = taker.input
    if taken is None or taker.input_axis is None or taker.count > 1 or taken.tensor.ndim < 2:
        return None
    return input_call(taker) if taken.depends_on_weights and taken.tensor.is_floating_point() else None


def parallel_layers(usable: Sequence[ModuleCall]) -> dict[str, str]:
    """Return the layers with weights of a plain network that lie beside others, as queries, keys and values do."""
    return {} if _blocks(usable) else in_series([call for call in usable if _is_leaf(call) and has_weights(call)])[1]


def _producer(calls: Sequence[ModuleCall], tensor: Captured | None) -> ModuleCall | None:
    """Return the module that returned a tensor, the earliest if several return it."""
    return next((call for call in calls if call.returned(tensor)), None)


def _last_leaf(calls: Sequence[ModuleCall], tensor: Captured | None) -> ModuleCall | None:
    """Return the module that returned a tensor: the last one without modules inside, else the last one."""
    found = [call for call in calls if call.returned(tensor)]
    return next((call for call in reversed(found) if _is_leaf(call)), found[-1] if found else None)


def _is_plain_sequential(module: nn.Module) -> bool:
    """Return whether a module only runs its children one after another."""
    return isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward


def _is_leaf(call: ModuleCall) -> bool:
    return not list(call.module.children()) and not _is_plain_sequential(call.module)


def has_weights(call: ModuleCall) -> bool:
    """Return whether a module has a matrix or kernel of its own; the scales of a normalization do not count."""
    return any(parameter.ndim > 1 for parameter in call.module.parameters(recurse=False))


def _has_layers(module: nn.Module) -> bool:
    """Return whether some module inside has parameters."""
    return any(next(child.parameters(), None) is not None for child in module.children())


def repeated(trace: Trace, taps: Iterable[Tap]) -> dict[str, str]:
    """Return modules that run more than once, such as layers with shared weights, and that no tap covers."""
    again = [call.name for call in trace.calls.values() if call.count > 1 and any(True for _ in call.module.children())]
    tapped = {tap.name for tap in taps}
    outer = [name for name in again if not is_inside(name, again) and not is_inside(name, tapped)]
    return dict.fromkeys(outer, "runs more than once")


def check_ran_once(taps: Sequence[Tap], trace: Trace) -> None:
    """Raise an error if a layer that was named did not run exactly once."""
    missing = [tap.name for tap in taps if trace.call(tap.name) is None]
    if missing:
        raise ValueError(f"Layers must run in the forward pass, but {', '.join(missing)} did not. Name layers that do.")
    for tap in taps:
        if trace.taken(tap).count > 1:
            raise ValueError(
                f"Layers must run once per forward pass, but {tap.label!r} ran {trace.taken(tap).count} times. "
                "Tap the modules around it."
            )


def natural_taps(chosen: Sequence[ModuleCall], head: Head, read: TokenReading) -> tuple[Tap, ...]:
    """Return a tap for each natural stage, pooling tokens as the network does."""
    # The classifier's own input has been pooled by the network already, whatever its shape.
    direct = {call.name for call in chosen if (callable(head.pool) or head.pool == "flatten") and call.returned(head.input)}
    return tuple(Tap(call.name, head.pool if call.name in direct else pool_at(call, read)) for call in chosen)
