"""The processes that torchrun started: joined for the work in a body, and left after it."""

from __future__ import annotations

import atexit
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist

from ncollapse.groups import Processes
from ncollapse.stop_signals import RunStopped


def follows_another() -> bool:
    """Return whether torchrun started this process with a rank other than 0; works before the processes have joined."""
    return "MASTER_ADDR" in os.environ and os.environ.get("RANK", "0") != "0"


@contextmanager
def torchrun_processes() -> Iterator[tuple[Processes, str]]:
    """Join the processes that torchrun started, if any, and yield them with their device."""
    told = [os.environ.get(name, "") for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR")]
    if not all(told) or told[1] == "1":
        yield Processes(), "auto"
        return
    local = int(os.environ.get("LOCAL_RANK", told[0]))
    on_gpu = torch.cuda.device_count() >= int(os.environ.get("LOCAL_WORLD_SIZE", told[1]))
    if on_gpu:
        torch.cuda.set_device(local)
    dist.init_process_group("nccl" if on_gpu else "gloo")
    try:
        yield Processes(dist.group.WORLD), f"cuda:{local}" if on_gpu else "cpu"
    except RunStopped:
        # By all processes, at one place.
        leave()
        raise
    except Exception:
        # Destroying the group could wait for processes that have ended. Keeping it is no better: its threads can abort when the
        # interpreter ends, and hide the exit code. So the process ends at once, with the exit code.
        atexit.register(_exit_at_once)
        raise
    leave()


def leave() -> None:
    """Leave the group of processes."""
    # Before torch 2.8, destroying a group of gloo keeps Python's lock while it waits for the group's threads. One of them may
    # still need the lock to free the tensors of the last exchange, and then both wait for ever: of 180 processes in groups of
    # three, 48 did. While this process sleeps, the lock is free.
    time.sleep(0.05)
    dist.destroy_process_group()


def _exit_at_once() -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(2)
