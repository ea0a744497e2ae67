"""Tensors and texts of every size, sent from process to process."""

from dataclasses import dataclass

import torch

# Those of 248 bytes are the longest that travel with their length.
LENGTHS = (0, 1, 124, 247, 248, 249, 256, 257, 1000)


@dataclass(frozen=True)
class Carried:
    """Tensors that travel together or alone, of several types, and one that there is not."""

    small: torch.Tensor
    none: torch.Tensor | None
    large: torch.Tensor
    empty: torch.Tensor
    flag: torch.Tensor
    turned: torch.Tensor


def carried(rank):
    numbers = torch.arange(6.0) + rank
    return Carried(
        numbers, None, numbers.repeat(2000), torch.zeros(2, 0, 3), torch.tensor(rank == 0), numbers.view(2, 3).bfloat16().T
    )


def in_words(value):
    return [tensor if tensor is None else [str(tensor.dtype), tensor.tolist()] for tensor in vars(value).values()]


def text(length):
    return ("\0" + "b" * length)[:length]


def counted(processes, act):
    """How often the processes exchange something in this."""
    calls, exchange = [], processes._exchange
    processes._exchange = lambda: calls.append(None) or exchange()
    act()
    del processes._exchange
    return len(calls)


def made(rank, size, processes):
    return {
        "first": in_words(processes.broadcast(Carried, carried(rank) if rank == 0 else None)),
        "last": in_words(processes.first(Carried, carried(rank) if rank == size - 1 else None)),
        # Letters of two bytes, which a limit may cut in two.
        "texts": [processes.gather_texts("a" + "é" * length if rank else "b" * length) for length in LENGTHS],
        "same": [processes.gather_texts(text(length)) for length in LENGTHS],
        # Headers, the large one, the small ones.
        "exchanges": counted(processes, lambda: processes.broadcast(Carried, carried(0))),
        "exchanges of texts": [
            counted(processes, lambda length=length: processes.gather_texts(text(length))) for length in LENGTHS
        ],
    }


def expected(size):
    return {
        "first": in_words(carried(0)),
        "last": in_words(carried(size - 1)),
        "texts": [["b" * length, *["a" + "é" * length] * (size - 1)] for length in LENGTHS],
        "same": [[text(length)] * size for length in LENGTHS],
        "exchanges": 3,
        "exchanges of texts": [1 if length <= 248 else 2 for length in LENGTHS],
    }
