"""The natural stages of a network: its repeated blocks, or the layers of a plain one, found in a trace."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

from torch import nn

from ncollapse.hooks.capture import Captured
from ncollapse.hooks.pooling import pool_of
from ncollapse.hooks.trace import ModuleCall, is_inside, parent_of

# A deep network repeats something, and what its author made a class of and repeats is the unit in which its depth is counted:
# a residual block, an encoder layer, a mixer. Its outputs are the states between which the network takes its steps. What lies
# inside a block is no state: beside a residual connection a module on the branch returns the change alone, not the sum. What
# lies around blocks, such as a stage that runs them one after another, repeats the output of its last one.
# Where no class repeats, the network is plain, and each layer with weights makes a state.


def find_stages(usable: Sequence[ModuleCall], last: Captured | None, what: str) -> tuple[list[ModuleCall], str]:
    """Find the stages among the modules that ran, up to the last features, with words on what they are."""
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
    """Blocks with the state before the first of them, and what a head of several layers makes of the last."""
    kinds = dict.fromkeys(type(call.module).__name__ for call in blocks if not _is_plain_sequential(call.module))
    chosen, notes = list(blocks), [f"blocks {', '.join(kinds)}"]
    stem = _producer(usable, min(blocks, key=lambda call: call.started_after).input)
    if stem is not None and stem not in blocks:
        chosen.append(stem)
        notes.append(f"their input {stem.name}")
    pooled = _pooled(usable, blocks, last)
    if pooled is not None:
        chosen.append(pooled)
        notes.append(f"what is made of the last, {pooled.name}")
    return chosen, notes


def _blocks(usable: Sequence[ModuleCall]) -> list[ModuleCall]:
    """The outermost modules of classes of which several run, and what runs beside them from the first on."""
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
    """Blocks and the modules with weights beside them, such as a transition to another width."""
    first = min(call.started_after for call in usable if call.name in blocks)
    parents = {parent_of(name) for name in blocks}
    beside = [
        call for call in usable if parent_of(call.name) in parents and call.started_after >= first and _has_layers(call.module)
    ]
    # Some of these neighbors hold blocks themselves. One that runs them in a row adds nothing to its last block. One that runs
    # them side by side, as branches of one input, is a state, and the blocks inside it are not.
    holders = {call.name for call in beside if any(is_inside(name, {call.name}) for name in blocks)}
    branching = {call.name for call in beside if call.name in holders and _branches(call, usable)}
    names = (blocks | {call.name for call in beside} | branching) - (holders - branching)
    return [call for call in usable if call.name in names and not is_inside(call.name, branching)]


def _stage_classes(usable: Sequence[ModuleCall], candidates: Sequence[ModuleCall]) -> set[type[nn.Module]]:
    """Repeated classes that are no blocks but stages, which run blocks one after another."""
    # A class counts as a stage if all its modules hand on a block's output, so that it adds no state of its own, and at least
    # one holds several blocks in a row. (A block that wraps a single module of a repeated class stays a block.)
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
    """The module with layers whose output a module returns, as it is or after single layers such as a normalization."""
    wanted = call.output
    for other in reversed(inside):
        if other.returned(wanted):
            if _has_layers(other.module):
                return other
            wanted = other.input
    return None


def _in_a_row(block: ModuleCall, inside: Sequence[ModuleCall]) -> bool:
    """Whether modules of one class beside one another take what the one before returned."""
    row = [call for call in inside if type(call.module) is type(block.module) and parent_of(call.name) == parent_of(block.name)]
    return any(before.returned(after.input) for before, after in pairwise(row))


def _branches(call: ModuleCall, usable: Sequence[ModuleCall]) -> bool:
    """Whether a module gives its own input to several modules directly inside it."""
    taken = [other.input for other in usable if parent_of(other.name) == call.name]
    return call.input is not None and sum(other is not None and call.input.is_same(other) for other in taken) > 1


def _pooled(usable: Sequence[ModuleCall], blocks: Sequence[ModuleCall], last: Captured | None) -> ModuleCall | None:
    """What is made of the last block for a head of several layers, such as its pooled features."""
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
    """Of a plain network: the last module before each further layer with weights (activation, normalization, pooling)."""
    # That is what the next layer takes: the state after the activation, as in the papers, whatever comes in between.
    leaves = [call for call in usable if _is_leaf(call)]
    weighted = [_has_weights(call) for call in leaves]
    ends = [i for i in range(len(leaves)) if any(weighted[: i + 1]) and (i + 1 == len(leaves) or weighted[i + 1])]
    return [leaves[i] for i in ends]


def _producer(calls: Sequence[ModuleCall], tensor: Captured | None) -> ModuleCall | None:
    """The module whose output it is, the earliest if several hand it on."""
    return next((call for call in calls if call.returned(tensor)), None)


def _is_plain_sequential(module: nn.Module) -> bool:
    """Whether a module only runs what it holds one after the other."""
    return isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward


def _is_leaf(call: ModuleCall) -> bool:
    return not list(call.module.children()) and not _is_plain_sequential(call.module)


def _has_weights(call: ModuleCall) -> bool:
    """Whether a module has a matrix or a kernel of its own; scales of a normalization are none."""
    return any(parameter.ndim > 1 for parameter in call.module.parameters(recurse=False))


def _has_layers(module: nn.Module) -> bool:
    """Whether some module inside has parameters."""
    return any(next(child.parameters(), None) is not None for child in module.children())
