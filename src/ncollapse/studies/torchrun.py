"""The processes that torchrun started: joining their group, and dealing out the batches."""

from __future__ import annotations

import atexit
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import TYPE_CHECKING, Any

import torch
from torch import distributed

if TYPE_CHECKING:
    from ncollapse.groups import Processes


@contextmanager
def process_group() -> Iterator[tuple[Any, int, str]]:
    """Join the group of processes that torchrun started, if it did: over NCCL where each has a GPU, else over gloo."""
    told = [os.environ.get(name, "") for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR")]
    if not all(told) or told[1] == "1":
        yield None, 0, "cpu"
        return
    local = int(os.environ.get("LOCAL_RANK", told[0]))
    on_gpu = torch.cuda.device_count() >= int(os.environ.get("LOCAL_WORLD_SIZE", told[1]))
    if on_gpu:
        torch.cuda.set_device(local)
    distributed.init_process_group("nccl" if on_gpu else "gloo")
    try:
        yield distributed.group.WORLD, int(told[0]), f"cuda:{local}" if on_gpu else "cpu"
    except Exception:
        # Destroying the group could wait for processes that have ended; left standing, its threads can abort at the
        # interpreter's end, and hide the exit code.
        atexit.register(_leave)
        raise
    distributed.destroy_process_group()


def _leave() -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(2)


class Dealt:
    """Batches dealt out to processes in turn: each batch is taken by one of them, whole, as one process alone would take it."""

    def __init__(self, batches: Iterable[Any], processes: Processes) -> None:
        self.batches, self.processes = batches, processes

    def __iter__(self) -> Iterator[Any]:
        return islice(iter(self.batches), self.processes.rank, None, self.processes.size)
