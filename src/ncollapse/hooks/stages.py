"""The natural stages of a network, and how it reads out tokens, from what its modules did in one watched pass."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn

from ncollapse.hooks.capture import Captured
from ncollapse.hooks.tap import Pool, Tap
from ncollapse.hooks.trace import Run

_READ_OUTS: tuple[Pool, ...] = ("cls", "last_token", "mean")


def find_stages(usable: Sequence[Run], last: Captured | None, what: str) -> tuple[list[Run], str]:
    """The natural stages among modules that ran: blocks with what they start from and what is made of them, or layers."""
    blocks = _blocks(usable)
    if not blocks:
        chosen = _layers(usable) or list(usable)
        return _with_last(usable, chosen, last, what, ["layers with weights"])
    kinds = dict.fromkeys(type(run.module).__name__ for run in blocks if not _is_container(run.module))
    notes, chosen = [f"blocks {', '.join(kinds)}"], list(blocks)
    stem = _producer(usable, min(blocks, key=lambda run: run.begun).given)
    if stem is not None and stem not in blocks:
        chosen.append(stem)
        notes.append(f"their input {stem.name}")
    pooled = _pooled(usable, blocks, last)
    if pooled is not None:
        chosen.append(pooled)
        notes.append(f"what is made of the last, {pooled.name}")
    return _with_last(usable, chosen, last, what, notes)


def read_out(usable: Sequence[Run], runs: Sequence[Run], mask: Tensor | None) -> tuple[Pool, int]:
    """How a network turns tokens (N, T, D) into one row a sample."""
    if not any(_takes_tokens(run) for run in runs):
        return "flatten", 0  # three dimensions, but no tokens: (N, C, L) of a convolution
    given = [run.given.values for run in runs if run.given is not None and run.given.tensor.ndim == 2]
    for run in reversed([run for run in usable if features_of(run).ndim == 3]):
        for rows in given:
            pool = pool_of(cast(Captured, run.output).values, rows, mask)
            if pool is not None:
                return pool, features_of(run).shape[1]
    return "mean", 0


def pool_at(run: Run, pool: Pool, num_tokens: int) -> Pool:
    """How the output of one module is read where a network reads its tokens by a pool."""
    if features_of(run).ndim != 3:
        return "flatten"
    return "mean" if pool in {"cls", "last_token"} and features_of(run).shape[1] != num_tokens else pool


def _takes_tokens(run: Run) -> bool:
    return isinstance(run.module, nn.Linear | nn.RNNBase) and run.given is not None and run.given.tensor.ndim == 3


def pool_of(tokens: Tensor, rows: Tensor, mask: Tensor | None) -> Pool | None:
    """The pool that makes these rows of these tokens."""
    if tokens.ndim != 3 or rows.shape != (len(tokens), tokens.shape[2]) or not rows.is_floating_point():
        return None
    # Relative to the largest number: small features are equal to nothing else for that. A mean in half precision is rounded.
    atol = max(1e-5, 2 * torch.finfo(rows.dtype).eps) * float(rows.abs().max())
    read = {pool: Tap("", pool).read(tokens, mask).to(rows.dtype) for pool in _READ_OUTS}
    fitting = [pool for pool in _READ_OUTS if torch.allclose(read[pool], rows, rtol=0, atol=atol)]
    return fitting[-1] if fitting else None


def features_of(run: Run) -> Tensor:
    """The features of a module that returned some."""
    return cast(Captured, run.output).tensor


def makes(run: Run, given: Captured | None) -> bool:
    """Whether what a module takes is what another returned."""
    return given is not None and run.output is not None and run.output.is_same(given)


def is_inside(name: str, outer: Collection[str]) -> bool:
    """Whether a module lies in one of others."""
    return any(ancestor in outer for ancestor in _ancestors(name))


def _blocks(usable: Sequence[Run]) -> list[Run]:
    """The outermost modules of classes of which several run, and what runs after the first of them beside them."""
    # Stages that only run blocks one after the other are opened; branches give way to a module around them beside other blocks.
    inner = [run for run in usable if not _is_container(run.module) and _has_layers(run.module)]
    count = Counter(type(run.module) for run in inner)
    opened = _stage_classes(usable, inner)
    chosen: set[str] = set()
    for run in sorted(inner, key=lambda run: run.name.count(".")):
        if count[type(run.module)] > 1 and type(run.module) not in opened and not is_inside(run.name, chosen):
            chosen.add(run.name)
    if not chosen:
        return []
    first = min(run.begun for run in usable if run.name in chosen)
    parents = {_parent(name) for name in chosen}
    beside = [run for run in usable if _parent(run.name) in parents and run.begun >= first and _has_layers(run.module)]
    around = [run for run in beside if any(is_inside(name, {run.name}) for name in chosen)]
    branching = {run.name for run in around if _branches(run, usable)}
    names = (chosen | {run.name for run in beside} | branching) - ({run.name for run in around} - branching)
    return [run for run in usable if run.name in names and not is_inside(run.name, branching)]


def _stage_classes(usable: Sequence[Run], inner: Sequence[Run]) -> set[type[nn.Module]]:
    """Classes that hand on what a block inside returned, and in some of which blocks of its class follow one another."""
    chained, closed = set(), set()
    for run in inner:
        within = [other for other in usable if is_inside(other.name, {run.name}) and not _is_container(other.module)]
        block = _handed_on(run, within)
        if block is None:
            closed.add(type(run.module))
        elif type(block.module) is not type(run.module) and _in_a_row(block, within):
            chained.add(type(run.module))
    return chained - closed


def _handed_on(run: Run, within: Sequence[Run]) -> Run | None:
    """The module with layers whose output a module returns, as it is or after single layers such as a normalization."""
    wanted = run.output
    for other in reversed(within):
        if makes(other, wanted):
            if _has_layers(other.module):
                return other
            wanted = other.given
    return None


def _in_a_row(block: Run, within: Sequence[Run]) -> bool:
    """Whether modules of one class beside one another take what the one before returned."""
    row = [run for run in within if type(run.module) is type(block.module) and _parent(run.name) == _parent(block.name)]
    return any(makes(before, after.given) for before, after in pairwise(row))


def _branches(run: Run, usable: Sequence[Run]) -> bool:
    """Whether a module gives its own input to several modules directly inside it."""
    inside = [other.given for other in usable if _parent(other.name) == run.name]
    return run.given is not None and sum(given is not None and run.given.is_same(given) for given in inside) > 1


def _pooled(usable: Sequence[Run], blocks: Sequence[Run], last: Captured | None) -> Run | None:
    """What is made of the last block, such as its pooled features, for a head of several layers."""
    end = cast(Captured, blocks[-1].output)
    behind = [run for run in usable[usable.index(blocks[-1]) + 1 :] if _is_leaf(run)]
    heavy = [i for i, run in enumerate(behind) if _is_heavy(run)]
    if not heavy or heavy[0] == 0:
        return None
    run = behind[heavy[0] - 1]
    output = cast(Captured, run.output)
    repeats = end.is_same(output) or pool_of(end.values, output.values, None) is not None
    return None if repeats or (last is not None and output.is_same(last)) else run


def _layers(usable: Sequence[Run]) -> list[Run]:
    """Of a plain network: the last module before each further layer with weights (activation, normalization, pooling)."""
    leaves = [run for run in usable if _is_leaf(run)]
    heavy = [_is_heavy(run) for run in leaves]
    ends = [i for i in range(len(leaves)) if any(heavy[: i + 1]) and (i + 1 == len(leaves) or heavy[i + 1])]
    return [leaves[i] for i in ends]


def _with_last(
    usable: Sequence[Run], chosen: Sequence[Run], last: Captured | None, what: str, notes: Sequence[str]
) -> tuple[list[Run], str]:
    """The chosen modules in order, with the one that makes what the classifier takes."""
    made, names = _producer(usable, last), {run.name for run in chosen}
    if made is not None and _producer(chosen, last) is None:
        names.add(made.name)
        notes = [*notes, f"{what} {made.name}"]
    return [run for run in usable if run.name in names], " and ".join(notes)


def _producer(usable: Sequence[Run], given: Captured | None) -> Run | None:
    """The module whose output it is, the earliest if several hand it on."""
    return next((run for run in usable if makes(run, given)), None)


def _is_container(module: nn.Module) -> bool:
    """Whether a module only runs what it holds one after the other."""
    return isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward


def _is_leaf(run: Run) -> bool:
    return not list(run.module.children()) and not _is_container(run.module)


def _is_heavy(run: Run) -> bool:
    return any(parameter.ndim > 1 for parameter in run.module.parameters(recurse=False))


def _has_layers(module: nn.Module) -> bool:
    return any(next(child.parameters(), None) is not None for child in module.children())


def _parent(name: str) -> str:
    return name.rpartition(".")[0]


def _ancestors(name: str) -> Iterator[str]:
    while name := _parent(name):
        yield name
