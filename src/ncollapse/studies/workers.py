"""Processes that work on the runs of a sweep: on this machine, or on a Ray cluster."""

from __future__ import annotations

import multiprocessing
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout, suppress
from multiprocessing.connection import Connection
from pathlib import Path
from types import ModuleType
from typing import Any

from ncollapse.extras import missing_extra
from ncollapse.recipes.recipe import Recipe
from ncollapse.studies.run import run_recipe

# A recipe as JSON and its run directory.
Task = tuple[str, str]

_ATTEMPTS = 3
_SECONDS = 0.5


def work(task: Task) -> str:
    """Bring a run to its end, resuming where it is, and say why it is not finished; nothing if it is."""
    recipe, out = task
    try:
        run_recipe(Recipe.from_json(recipe), Path(out), resume=True)
    except (OSError, ValueError) as error:
        return _words(error)
    return ""


def _words(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


class _Worker:
    """A process of this machine that works on one task after another, and reports through its own pipe how each ended."""

    # Spawned, not forked: a copy of a process with running threads can hang. A pipe each: whoever is killed while writing takes
    # no lock along that others wait for. One after another: to start takes longer than a short run.

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, its_own = context.Pipe()
        self.process = context.Process(target=_serve, args=(its_own,), daemon=True)
        self.process.start()
        its_own.close()

    def begin(self, task: Task) -> None:
        """Give it a task. A worker that died while idle is noticed like one that dies at work."""
        with suppress(OSError):
            self.connection.send(task)

    def is_done(self) -> bool:
        """Whether it has reported the end of its task, or died."""
        return self.connection.poll() or not self.process.is_alive()

    def result(self) -> str | None:
        """Return the result of ``work``; None if the process died first."""
        try:
            return self.connection.recv() if self.connection.poll() else None
        except (EOFError, OSError):
            self.process.join()
            return None

    def end(self) -> None:
        """End the process, whatever it does."""
        self.process.kill()
        self.process.join()
        self.connection.close()


def _serve(connection: Connection) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    while True:
        connection.send(work(connection.recv()))


def _end_with_parent() -> None:
    # Left behind by a killed sweep, a process would write into the folders that the next call works on.
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def run_locally(tasks: Sequence[Task], workers: int, tick: Callable[[], None]) -> list[str]:
    """Work on tasks in processes of this machine."""
    results: dict[int, str] = {}
    waiting = [(index, 1) for index in range(len(tasks))]
    idle: list[_Worker] = []
    running: dict[_Worker, tuple[int, int]] = {}
    try:
        while waiting or running:
            while waiting and len(running) < workers:
                index, attempt = waiting.pop(0)
                worker = idle.pop() if idle else _Worker()
                running[worker] = index, attempt
                worker.begin(tasks[index])
            time.sleep(_SECONDS)
            tick()
            for worker in [worker for worker in running if worker.is_done()]:
                index, attempt = running.pop(worker)
                result = worker.result()
                if result is not None:
                    results[index] = result
                    idle.append(worker)
                    continue
                worker.end()
                if attempt < _ATTEMPTS:
                    waiting.append((index, attempt + 1))
                    continue
                code = worker.process.exitcode
                results[index] = f"Its process died {_ATTEMPTS} times, the last time with exit code {code}."
    finally:
        for worker in (*idle, *running):
            worker.end()
    return [results[index] for index in range(len(tasks))]


def run_on_ray(tasks: Sequence[Task], workers: int, tick: Callable[[], None], address: str | None) -> list[str]:
    """Work on tasks on a Ray cluster whose machines share this file system."""
    try:
        import ray
    except ImportError as error:
        raise ImportError(missing_extra("--engine ray", "ray", "ray")) from error
    # Ray prints on stdout which worker died, but commands write JSON there.
    with redirect_stdout(sys.stderr):
        return _all_on_ray(ray, tasks, workers, tick, address)


def _all_on_ray(
    ray: ModuleType, tasks: Sequence[Task], workers: int, tick: Callable[[], None], address: str | None
) -> list[str]:
    started_here = not ray.is_initialized()
    if started_here:
        ray.init(address=address, num_cpus=None if address else workers, include_dashboard=False, log_to_driver=False)
    try:
        share = min(1.0, ray.cluster_resources().get("GPU", 0.0) / workers)
        remote = ray.remote(num_cpus=1, num_gpus=share, max_retries=_ATTEMPTS - 1)(work)
        absolute = [(recipe, str(Path(out).absolute())) for recipe, out in tasks]
        results: dict[int, str] = {}
        waiting = list(enumerate(absolute))
        running: dict[Any, int] = {}
        while waiting or running:
            while waiting and len(running) < workers:
                index, task = waiting.pop(0)
                running[remote.remote(task)] = index
            done, _ = ray.wait(list(running), timeout=_SECONDS)
            tick()
            for reference in done:
                index = running.pop(reference)
                try:
                    results[index] = ray.get(reference)
                except ray.exceptions.RayError as error:
                    results[index] = _words(error)
    finally:
        if started_here:
            ray.shutdown()
    return [results[index] for index in range(len(tasks))]
