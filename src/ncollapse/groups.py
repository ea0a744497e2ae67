"""Processes of ``torch.distributed`` that share a measurement. Beside ``torchrun``, the one file that knows of ranks."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, Protocol, Self, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from ncollapse.tensor_fields import from_tensors, num_tensors, on_cpu, tensors_of

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


class _Merges(Protocol):
    def merge(self, other: Self) -> Self: ...


Merging = TypeVar("Merging", bound=_Merges)
Value = TypeVar("Value")
Failing = TypeVar("Failing", bound=Exception)
# A tensor or a sequence: something that can be sliced.
Shared = TypeVar("Shared", bound=Any)

# The header sent before a tensor: its type, its number of dimensions, their sizes. Type 0 means None.
_DTYPES = (
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.complex64, torch.complex128),
    *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool),
)
_MOST_DIMS = 6
_HEADER = 2 + _MOST_DIMS
# An exchange takes its time however little it carries. Texts of so many bytes need one, and so do small tensors together.
_SHORT = 248
_SMALL = 1 << 15
_SAME_TYPES: dict[str, type[Exception]] = {"TypeError": TypeError, "ValueError": ValueError, "OSError": OSError}


class Processes:
    """The processes that share one measurement. Without a group there is one process, and no method communicates."""

    # Nothing is pickled: statistics are sent as the bytes of their tensors, texts as UTF-8.

    def __init__(self, group: ProcessGroup | None = None, place: str = "an exchange") -> None:
        """Join a group; errors of an exchange name the place."""
        self.group, self._rank, self.size, self.place = group, 0, 1, place
        if group is None:
            return
        if group is dist.GroupMember.NON_GROUP_MEMBER:  # type: ignore[comparison-overlap]
            raise ValueError("group must contain this process, got a group of others. Measure on its members only.")
        if not isinstance(group, dist.ProcessGroup):
            raise TypeError(
                f"group must be a torch.distributed process group or None, got {type(group).__name__}. "
                "Pass torch.distributed.group.WORLD for all processes."
            )
        self._rank, self.size = dist.get_rank(group), dist.get_world_size(group)
        backends = dict(part.split(":") for part in dist.get_backend_config(group).split(","))
        # NCCL sends only tensors on a GPU.
        name = "cpu" if "cpu" in backends else next(iter(backends))
        self._device = torch.device(name) if name == "cpu" else torch.device(name, torch.cuda.current_device())

    @property
    def is_first(self) -> bool:
        """Whether this process is the one that writes and prints; true for a single process."""
        return self._rank == 0

    @property
    def may_use_gpus(self) -> bool:
        """Whether each process has a GPU, judged by the backend: processes without one have joined over gloo."""
        return self.group is None or dist.get_backend(self.group) != "gloo"

    @property
    def num_sharing_memory(self) -> int:
        """How many processes share the memory of this machine, from torchrun's environment; all of them if unknown."""
        told = os.environ.get("LOCAL_WORLD_SIZE", "")
        return min(self.size, int(told)) if told.isdigit() and int(told) > 0 else self.size

    def share(self, items: Shared) -> Shared:
        """Return this process's share of a tensor's rows or of a sequence: every ``size``-th one, possibly none."""
        share: Shared = items[self._rank :: self.size]
        return share

    def every_nth_batch(self, batches: Iterable[Any]) -> Iterable[Any]:
        """Return this process's share of batches. Batches stay whole, as one process alone would see them."""
        return batches if self.group is None else _EveryNth(batches, self._rank, self.size)

    @contextmanager
    def sharing_errors(self) -> Iterator[None]:
        """Run a part of the work in each process alone; an error in one is raised in all, with its rank."""
        if self.group is None:
            yield
            return
        error: Exception | None = None
        try:
            yield
        except Exception as caught:
            # Raised below, after all processes know of it. Raised here, it would leave the others waiting.
            error = caught
        told = [json.loads(text) for text in self.gather_texts(json.dumps(error and [_kind(error), str(error)]))]
        failed = [rank for rank, words in enumerate(told) if words is not None]
        if not failed:
            return
        kind, words = told[failed[0]]
        more = f" (ranks {', '.join(map(str, failed))} failed)" if len(failed) > 1 else ""
        same = _SAME_TYPES.get(kind)
        text = f"Rank {failed[0]} of {self.size}: {words if same else f'{kind}: {words}'}{more}"
        shared = _shared(same or RuntimeError, text)
        raise shared from error

    def gather_texts(self, text: str) -> list[str]:
        """Gather a text from every process."""
        if self.group is None:
            return [text]
        data = text.encode()
        found = self._gather_bytes(len(data).to_bytes(8, "little") + data[:_SHORT], 8 + _SHORT)
        lengths = [int.from_bytes(part[:8], "little") for part in found]
        parts = [part[8:] for part in found] if max(lengths) <= _SHORT else self._gather_bytes(data, max(lengths))
        return [part[:length].decode() for part, length in zip(parts, lengths, strict=True)]

    def _gather_bytes(self, data: bytes, length: int) -> list[bytes]:
        """Gather bytes from every process, filled up to one length."""
        own = torch.frombuffer(bytearray(data.ljust(length, b"\0")), dtype=torch.uint8).to(self._device)
        received = [torch.empty_like(own) for _ in range(self.size)]
        with self._exchange():
            dist.all_gather(received, own, group=self.group)
        return [bytes(part.tolist()) for part in received]

    def gather_numbers(self, values: Sequence[float]) -> Tensor:
        """Gather numbers from every process, one row each."""
        own = torch.tensor(values, dtype=torch.float64)
        if self.group is None:
            return own.unsqueeze(0)
        received = [torch.empty(len(own), dtype=torch.float64, device=self._device) for _ in range(self.size)]
        with self._exchange():
            dist.all_gather(received, own.to(self._device), group=self.group)
            return torch.stack(received).cpu()

    def sum(self, own: Tensor) -> Tensor:
        """Add up a tensor over all processes, in place."""
        if self.group is not None:
            with self._exchange():
                dist.all_reduce(own, group=self.group)
        return own

    def check_same(self, what: str, own: str) -> list[str]:
        """Check that a text is the same on all processes, and return the texts that are not empty."""
        told = self.gather_texts(own)
        given = [rank for rank, text in enumerate(told) if text]
        for rank in given[1:]:
            if told[rank] != told[given[0]]:
                differing = _shared(
                    ValueError,
                    f"{what} must be the same on all processes, got {told[given[0]]} on rank {given[0]} and {told[rank]} on "
                    f"rank {rank}. Call with the same arguments and network everywhere.",
                )
                raise differing
        return [told[rank] for rank in given]

    def merge(self, kind: type[Merging], value: Merging | None) -> Merging | None:
        """Merge one statistic over all processes, in the order of their ranks."""
        # The first process receives and merges the statistics of the others one after another, so that it holds two at a time
        # for any number of processes. Then it sends the result to all: every process has the same bits, even if machines round
        # differently.
        if self.group is None:
            return value
        present = self.gather_numbers([value is not None]).flatten().bool().tolist()
        if not any(present):
            return None
        merged = value
        for rank in (rank for rank in range(1, self.size) if present[rank]):
            if self._rank == rank:
                self._carry(kind, value, rank, target=0)
            elif self._rank == 0:
                part = self._carry(kind, None, rank, target=0)
                merged = part if merged is None else on_cpu(kind, merged).merge(part)
        return self.broadcast(kind, merged)

    def first(self, kind: type[Value], value: Value | None) -> Value | None:
        """Send the value of the first process that has one to all; None if none has."""
        present = self.gather_numbers([value is not None]).flatten().bool().tolist()
        if self.group is None or not any(present):
            return value
        return self._carry(kind, value, source=present.index(True))

    def broadcast(self, kind: type[Value], value: Value | None) -> Value:
        """Send the first process's value to all."""
        if self.group is None:
            assert value is not None
            return value
        return self._carry(kind, value, source=0)

    def _carry(self, kind: type[Value], value: Value | None, source: int, target: int | None = None) -> Value:
        """Send a value from one process to another, or to all: first the shapes of its tensors, then their bytes."""
        sending = self._rank == source
        own = list(tensors_of(value)) if sending else [None] * num_tensors(kind)
        header = torch.tensor([_announce(tensor) for tensor in own], dtype=torch.int64)
        header = self._move(header.to(self._device), source, target).cpu()
        found: list[Tensor | None] = []
        for tensor, (dtype, ndim, *shape) in zip(own, header.tolist(), strict=True):
            given = torch.empty(shape[:ndim], dtype=_DTYPES[dtype - 1]) if tensor is None else tensor.detach()
            found.append(given.to(self._device).contiguous() if dtype else None)
        # Sent as bytes, since the backends do not support all types.
        parts = [tensor.flatten().view(torch.uint8) for tensor in found if tensor is not None and tensor.numel()]
        small = [part for part in parts if len(part) <= _SMALL]
        for part in filter(lambda part: len(part) > _SMALL, parts):
            self._move(part, source, target)
        if small:
            arrived = self._move(torch.cat(small), source, target).split([len(part) for part in small])
            for part, piece in () if sending else zip(small, arrived, strict=True):
                part.copy_(piece)
        rebuilt: Value = from_tensors(kind, (None if tensor is None else tensor.cpu() for tensor in found))
        return rebuilt

    def _move(self, tensor: Tensor, source: int, target: int | None) -> Tensor:
        """Fill a tensor with the one of another process, here or on all processes."""
        assert self.group is not None
        sender = dist.get_global_rank(self.group, source)
        with self._exchange():
            if target is None:
                dist.broadcast(tensor, sender, group=self.group)
            elif self._rank == source:
                dist.send(tensor, dist.get_global_rank(self.group, target), group=self.group)
            else:
                dist.recv(tensor, sender, group=self.group)
        return tensor

    @contextmanager
    def _exchange(self) -> Iterator[None]:
        """Exchange with the other processes; that one of them is gone or does not answer is an error with the place."""
        begun = time.monotonic()
        try:
            yield
        except RuntimeError as error:
            waited = time.monotonic() - begun
            # Such as "[/src/gloo/tcp/pair.cc:537] Read error [::1]:7326: Connection reset by peer. This is typically …".
            told = re.sub(r"^\[[^\]]*\] ", "", " ".join(str(error).split())).split(". ")[0].rstrip(".")
            words = (
                f"Rank {self._rank} of {self.size} needed an answer of the other processes in {self.place}, got none in "
                f"{waited:.1f} s ({told}). One of them has ended or hangs: see what it printed, and start all of them again."
            )
            raise ConnectionError(words) from error


@dataclass(frozen=True)
class _EveryNth:
    """An iterable over every n-th batch that can be iterated again."""

    batches: Iterable[Any]
    first: int
    step: int

    def __iter__(self) -> Iterator[Any]:
        return islice(iter(self.batches), self.first, None, self.step)


def all_processes(size: int) -> Processes:
    """Return the processes of a trainer, which has joined them if there are several."""
    return Processes(dist.group.WORLD if size > 1 else None)


def raised_as_itself(kind: type[Failing]) -> type[Failing]:
    """Let an error of one process, of a type that somebody catches, have this type in the other processes too."""
    _SAME_TYPES[kind.__name__] = kind
    return kind


def _kind(error: Exception) -> str:
    """Return the name of the type under which other processes raise an error: its own, or that of a base class."""
    names = [kind.__name__ for kind in type(error).__mro__]
    return next((name for name in names if name in _SAME_TYPES), names[0])


_RAISED = "_raised_by_all_processes"


def _shared(kind: type[Exception], text: str) -> Exception:
    error = kind(text)
    error.__dict__[_RAISED] = True
    return error


def raised_by_all(error: BaseException) -> bool:
    """Return whether every process of a group raises this error, so that only one needs to print it."""
    return _RAISED in error.__dict__ or (error.__cause__ is not None and raised_by_all(error.__cause__))


def _announce(tensor: Tensor | None) -> list[int]:
    if tensor is None:
        return [0] * _HEADER
    return [1 + _DTYPES.index(tensor.dtype), tensor.ndim, *tensor.shape, *[0] * (_MOST_DIMS - tensor.ndim)]
