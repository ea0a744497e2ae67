"""The natural stages of a network, found in a trace: its repeated blocks, or the layers of a plain network."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

from torch import nn

from ncollapse.hooks.capture import Captured
from ncollapse.hooks.pooling import pool_of
from ncollapse.hooks.trace import ModuleCall, is_inside, parent_of

# A deep network repeats a block, and its author wrote a class for it: a residual block, an encoder layer, a mixer. The depth of
# the network is counted in these blocks, and their outputs are its states. Modules inside a block are not states: on a residual
# branch they return the change alone, not the sum. Modules around blocks, such as a stage that runs them one after another,
# return the output of their last block once more.
# If no class repeats, the network is plain, and each layer with weights makes a state.


def find_stages(usable: Sequence[ModuleCall], last: Captured | None, what: str) -> tuple[list[ModuleCall], str]:
    """Find the stages among the modules that ran, up to the last features, and describe them in words."""
    blocks = _blocks(usable)
    if blocks:
        chosen, notes = _with_ends(usable, blocks, last)
    else:
        chosen, notes = _plain_layers(usable) or list(usable), ["layers with weights"]
    made = _producer(usable, last)
    if made is not None and _producer(chosen, last) is None:
        chosen, notes = [*chosen, made], [*notes, f"{what} {made.name}"]
    names = {call.name for call in chosen}
    return [call for call in usable if call.name in names], " and ".join(notes)


def _with_ends(
    usable: Sequence[ModuleCall], blocks: Sequence[ModuleCall], last: Captured | None
) -> tuple[list[ModuleCall], list[str]]:
    """Add the state before the first block, and the pooled features if a head of several layers follows the last."""
    kinds = dict.fromkeys(type(call.module).__name__ for call in blocks if not _is_plain_sequential(call.module))
    chosen, notes = list(blocks), [f"blocks {', '.join(kinds)}"]
    stem = _producer(usable, min(blocks, key=lambda call: call.started_after).input)
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
    """Return the module whose features enter a head of several layers, such as the pooling of the last block."""
    end = blocks[-1]
    behind = [call for call in usable[usable.index(end) + 1 :] if _is_leaf(call)]
    weighted = [i for i, call in enumerate(behind) if _has_weights(call)]
    if not weighted or weighted[0] == 0:
        return None
    call = behind[weighted[0] - 1]
    if end.output is None or call.output is None or call.returned(last):
        return None
    repeats = end.returned(call.output) or pool_of(end.output.values, call.output.values, None) is not None
    return None if repeats else call


def _plain_layers(usable: Sequence[ModuleCall]) -> list[ModuleCall]:
    """Return the last module before each next layer with weights of a plain network (activation, normalization, pooling)."""
    # Its output is the input of the next layer: the state after the activation, as in the papers.
    leaves = [call for call in usable if _is_leaf(call)]
    weighted = [_has_weights(call) for call in leaves]
    ends = [i for i in range(len(leaves)) if any(weighted[: i + 1]) and (i + 1 == len(leaves) or weighted[i + 1])]
    return [leaves[i] for i in ends]


def _producer(calls: Sequence[ModuleCall], tensor: Captured | None) -> ModuleCall | None:
    """Return the module that returned a tensor, the earliest if several return it."""
    return next((call for call in calls if call.returned(tensor)), None)


def _is_plain_sequential(module: nn.Module) -> bool:
    """Return whether a module only runs its children one after another."""
    return isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward


def _is_leaf(call: ModuleCall) -> bool:
    return not list(call.module.children()) and not _is_plain_sequential(call.module)


def _has_weights(call: ModuleCall) -> bool:
    """Return whether a module has a matrix or kernel of its own; the scales of a normalization do not count."""
    return any(parameter.ndim > 1 for parameter in call.module.parameters(recurse=False))


def _has_layers(module: nn.Module) -> bool:
    """Return whether some module inside has parameters."""
    return any(next(child.parameters(), None) is not None for child in module.children())
