"""Processes as torchrun starts them, forked from one that has imported everything: a fresh one takes seconds to import."""

import importlib
import multiprocessing
import os
import runpy
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch

ENVIRONMENT = {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
FORKS = "forkserver" in multiprocessing.get_all_start_methods()
CONTEXT = multiprocessing.get_context("forkserver" if FORKS else "spawn")
if FORKS:
    # DistributedDataParallel imports torch._dynamo.
    CONTEXT.set_forkserver_preload(
        ["torch._dynamo", "sklearn.datasets", "ncollapse.studies", "ncollapse.targets", "ncollapse.drawing", "ncollapse.report"]
    )


def torchrun(size: int, words: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """The real one: ``torchrun WORDS`` in fresh processes."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(size), *words]
    environment = {**os.environ, **ENVIRONMENT}
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=200, env=environment)


def forked(size: int, words: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """What torchrun does, but for its own report: the same variables, the same words, what all have printed."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        arguments = [(rank, size, port, os.getcwd(), folder, list(words)) for rank in range(size)]
        code = together(_rank, arguments)
        printed = ["".join(path.read_text() for path in sorted(Path(folder).glob(f"{kind}-*"))) for kind in ("out", "err")]
    return subprocess.CompletedProcess(list(words), code, *printed)


def started(words: Sequence[str], folder: Path) -> BaseProcess:
    """Start ``python WORDS``; what it prints lies in ``out-0`` and ``err-0`` of the folder."""
    process = CONTEXT.Process(target=_run, args=(0, os.getcwd(), str(folder), list(words)))
    process.start()
    return process


def together(act: Callable[..., None], arguments: Sequence[tuple[Any, ...]]) -> int:
    """Run this with each of the arguments, in a process each; the largest exit code."""
    processes = [CONTEXT.Process(target=act, args=each) for each in arguments]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    return max(abs(process.exitcode) for process in processes)


def _rank(rank: int, size: int, port: int, here: str, folder: str, words: list[str]) -> None:
    """One of them."""
    told = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size, "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in told.items()}, MASTER_ADDR="127.0.0.1", **ENVIRONMENT)
    # Here no process is ended because another has.
    importlib.import_module("ncollapse.cli.main")._FIRST_WRITES_WITHIN = 0.0
    _run(rank, here, folder, words)


def _run(number: int, here: str, folder: str, words: list[str]) -> None:
    """``python WORDS``."""
    for descriptor, kind in ((1, "out"), (2, "err")):
        os.dup2(os.open(Path(folder) / f"{kind}-{number}", os.O_WRONLY | os.O_CREAT), descriptor)
    os.chdir(here)
    torch.set_num_threads(1)
    sys.path.insert(0, here)
    if words[0] == "-m":
        sys.argv = words[1:]
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = words
        runpy.run_path(words[0], run_name="__main__")
