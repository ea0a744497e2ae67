"""Many processes: statistics merged over a group, the same bits on each of them. The one place that knows of ranks."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from typing import TYPE_CHECKING, Any, Protocol, Self, TypeVar, get_type_hints

import torch
import torch.distributed as dist
from torch import Tensor

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


class _Merges(Protocol):
    def merge(self, other: Self) -> Self: ...


Merging = TypeVar("Merging", bound=_Merges)
Value = TypeVar("Value")

# How a tensor announces itself: its type, its number of dimensions, their sizes. Type 0 stands for None.
_DTYPES = (
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.complex64, torch.complex128),
    *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool),
)
_MOST_DIMS = 6
_HEADER = 2 + _MOST_DIMS
_SAME_TYPES: dict[str, type[Exception]] = {"TypeError": TypeError, "ValueError": ValueError, "OSError": OSError}


class Processes:
    """The processes that share one measurement; a single one without a group, for which everything here does nothing."""

    # Nothing is pickled: statistics travel as the bytes of their tensors, words as UTF-8.

    def __init__(self, group: ProcessGroup | None = None) -> None:
        """Join a group."""
        self.group, self.rank, self.size = group, 0, 1
        if group is None:
            return
        if group is dist.GroupMember.NON_GROUP_MEMBER:
            raise ValueError("group must hold this process, which it does not. Measure on its members only.")
        if not isinstance(group, dist.ProcessGroup):
            raise TypeError(
                f"group must be a torch.distributed process group or None, got {type(group).__name__}. "
                "Pass torch.distributed.group.WORLD for all processes."
            )
        self.rank, self.size = dist.get_rank(group), dist.get_world_size(group)
        backends = dict(part.split(":") for part in dist.get_backend_config(group).split(","))
        # Where tensors must lie to be sent: NCCL takes those of a GPU alone.
        name = "cpu" if "cpu" in backends else next(iter(backends))
        self._device = torch.device(name) if name == "cpu" else torch.device(name, torch.cuda.current_device())

    @contextmanager
    def together(self) -> Iterator[None]:
        """A part of the work that each process does alone: an error in one ends it in all, with the rank named."""
        if self.group is None:
            yield
            return
        error: Exception | None = None
        try:
            yield
        except Exception as caught:
            # Handed on below, when all processes have heard of it: raised here, it would leave the others waiting.
            error = caught
        told = [json.loads(text) for text in self.texts(json.dumps(error and [_kind(error), str(error)]))]
        failed = [rank for rank, words in enumerate(told) if words is not None]
        if not failed:
            return
        kind, words = told[failed[0]]
        more = f" (ranks {', '.join(map(str, failed))} failed)" if len(failed) > 1 else ""
        same = _SAME_TYPES.get(kind)
        text = f"Rank {failed[0]} of {self.size}: {words if same else f'{kind}: {words}'}{more}"
        shared = _told(same or RuntimeError, text)
        raise shared from error

    def texts(self, text: str) -> list[str]:
        """The words of every process."""
        if self.group is None:
            return [text]
        data = torch.frombuffer(bytearray(text.encode() + b"\0"), dtype=torch.uint8)
        lengths = self.numbers([len(data)]).flatten().long().tolist()
        padded = torch.zeros(max(lengths), dtype=torch.uint8, device=self._device)
        padded[: len(data)] = data.to(self._device)
        received = [torch.empty_like(padded) for _ in range(self.size)]
        dist.all_gather(received, padded, group=self.group)
        return [bytes(part[: length - 1].tolist()).decode() for part, length in zip(received, lengths, strict=True)]

    def numbers(self, values: Sequence[float]) -> Tensor:
        """The numbers of every process."""
        own = torch.tensor(values, dtype=torch.float64)
        if self.group is None:
            return own.unsqueeze(0)
        received = [torch.empty(len(own), dtype=torch.float64, device=self._device) for _ in range(self.size)]
        dist.all_gather(received, own.to(self._device), group=self.group)
        return torch.stack(received).cpu()

    def agree(self, what: str, own: str) -> list[str]:
        """Check that words are the same everywhere."""
        told = self.texts(own)
        given = [rank for rank, text in enumerate(told) if text]
        for rank in given[1:]:
            if told[rank] != told[given[0]]:
                differing = _told(
                    ValueError,
                    f"{what} must be the same on all processes, got {told[given[0]]} on rank {given[0]} and {told[rank]} on "
                    f"rank {rank}. Call with the same arguments and network everywhere.",
                )
                raise differing
        return [told[rank] for rank in given]

    def merge(self, kind: type[Merging], value: Merging | None) -> Merging | None:
        """One statistic over all processes, merged in rank order."""
        # The first process takes those of the others one after another, so that it holds two at once however many processes
        # there are, merges, and hands out what it found: the same bits everywhere, whatever each machine's rounding.
        if self.group is None:
            return value
        present = self.numbers([value is not None]).flatten().bool().tolist()
        if not any(present):
            return None
        merged = value
        for rank in (rank for rank in range(1, self.size) if present[rank]):
            if self.rank == rank:
                self._carry(kind, value, rank, target=0)
            elif self.rank == 0:
                part = self._carry(kind, None, rank, target=0)
                merged = part if merged is None else _on_cpu(kind, merged).merge(part)
        return self.hand_out(kind, merged)

    def hand_out(self, kind: type[Value], value: Value | None, source: int = 0) -> Value:
        """One process's value, on all."""
        if self.group is None:
            assert value is not None
            return value
        return self._carry(kind, value, source)

    def _carry(self, kind: type[Value], value: Value | None, source: int, target: int | None = None) -> Value:
        """A value from one process to another, or to all: first the forms of its tensors, then their bytes."""
        sending = self.rank == source
        own = list(_tensors_of(value)) if sending else [None] * _num_tensors(kind)
        header = torch.tensor([_announce(tensor) for tensor in own], dtype=torch.int64)
        header = self._move(header.to(self._device), source, target).cpu()
        found: list[Tensor | None] = []
        for tensor, row in zip(own, header.tolist(), strict=True):
            if row[0] == 0:
                found.append(None)
                continue
            given = torch.empty(row[2 : 2 + row[1]], dtype=_DTYPES[row[0] - 1]) if tensor is None else tensor.detach()
            given = given.to(self._device).contiguous()
            if given.numel():
                # Bytes, since the backends know fewer types than there are.
                self._move(given.flatten().view(torch.uint8), source, target)
            found.append(given.cpu())
        rebuilt: Value = _rebuilt(kind, iter(found))
        return rebuilt

    def _move(self, tensor: Tensor, source: int, target: int | None) -> Tensor:
        """Fill a tensor with that of one process: on another one, or on all."""
        assert self.group is not None
        sender = dist.get_global_rank(self.group, source)
        if target is None:
            dist.broadcast(tensor, sender, group=self.group)
        elif self.rank == source:
            dist.send(tensor, dist.get_global_rank(self.group, target), group=self.group)
        else:
            dist.recv(tensor, sender, group=self.group)
        return tensor


def _kind(error: Exception) -> str:
    """The type under which others can raise it: its own, or one that it is a kind of."""
    names = [kind.__name__ for kind in type(error).__mro__]
    return next((name for name in names if name in _SAME_TYPES), names[0])


_TOLD = "_told_by_all_processes"


def _told(kind: type[Exception], text: str) -> Exception:
    error = kind(text)
    error.__dict__[_TOLD] = True
    return error


def told_by_all(error: BaseException) -> bool:
    """Whether every process of a group raises this error, so that one of them is enough to print it."""
    return _TOLD in error.__dict__ or (error.__cause__ is not None and told_by_all(error.__cause__))


def _parts(kind: Any) -> list[tuple[str, Any]] | None:
    """Names and classes of a statistic's fields; None for a tensor."""
    if not is_dataclass(kind):
        return None
    hints = get_type_hints(kind)
    return [(item.name, hints[item.name]) for item in fields(kind)]


def _num_tensors(kind: Any) -> int:
    parts = _parts(kind)
    return 1 if parts is None else sum(_num_tensors(part) for _, part in parts)


def _tensors_of(value: Any) -> Iterable[Tensor | None]:
    if not is_dataclass(value):
        yield value
        return
    for item in fields(value):
        yield from _tensors_of(getattr(value, item.name))


def _rebuilt(kind: Any, tensors: Iterator[Tensor | None]) -> Any:
    parts = _parts(kind)
    return next(tensors) if parts is None else kind(**{name: _rebuilt(part, tensors) for name, part in parts})


def _on_cpu(kind: Any, value: Any) -> Any:
    return _rebuilt(kind, (None if tensor is None else tensor.cpu() for tensor in _tensors_of(value)))


def _announce(tensor: Tensor | None) -> list[int]:
    if tensor is None:
        return [0] * _HEADER
    return [1 + _DTYPES.index(tensor.dtype), tensor.ndim, *tensor.shape, *[0] * (_MOST_DIMS - tensor.ndim)]
