"""Processes that work on the runs of a sweep: on this machine, or on a Ray cluster."""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path

from ncollapse.studies.recipe import Recipe
from ncollapse.studies.run import run_recipe
from ncollapse.studies.together import run_together

# Recipes as JSON and their run directories: what one process works on at a time.
Task = list[tuple[str, str]]
# Why each run of a task is not finished; None where it is.
Errors = list[str | None]

_ATTEMPTS = 3
_SECONDS = 0.5


def work(task: Task) -> Errors:
    """Bring the runs of one task to their end, resuming where they are.

    Args:
        task: Recipes that can run together, or a single one, with their run directories.

    Returns:
        An error for each run, None where it finished.
    """
    recipes, outs = [Recipe.from_json(text) for text, _ in task], [Path(out) for _, out in task]
    try:
        if len(task) > 1:
            return [None if error is None else _words(error) for error in run_together(recipes, outs, resume=True)]
        run_recipe(recipes[0], outs[0], resume=True)
    except (OSError, ValueError) as error:
        return [_words(error)] * len(task)
    return [None]


def _words(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


class _Process:
    """A process of this machine that works on one task, and tells through a pipe of its own how that ended.

    Spawned, not forked: a copy of a process with running threads can hang. A pipe each: whoever is killed while writing takes
    no lock along that others wait for.
    """

    def __init__(self, task: Task) -> None:
        context = multiprocessing.get_context("spawn")
        self.receiver, sender = context.Pipe(duplex=False)
        self.process = context.Process(target=_report, args=(task, sender), daemon=True)
        self.process.start()
        sender.close()

    def errors(self) -> Errors | None:
        """What it told; None if it died first."""
        self.process.join()
        with self.receiver:
            return self.receiver.recv() if self.process.exitcode == 0 else None


def _report(task: Task, sender: Connection) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    sender.send(work(task))


def _end_with_parent() -> None:
    # Left behind by a killed sweep, a process would write into the folders that the next call works on.
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def run_locally(tasks: Sequence[Task], workers: int, tick: Callable[[], None]) -> list[Errors]:
    """Work on tasks in processes of this machine.

    Args:
        tasks: What to do.
        workers: Processes at a time.
        tick: Called about twice a second.

    Returns:
        The errors of every task.
    """
    results: dict[int, Errors] = {}
    waiting = [(index, 1) for index in range(len(tasks))]
    running: dict[_Process, tuple[int, int]] = {}
    try:
        while waiting or running:
            while waiting and len(running) < workers:
                index, attempt = waiting.pop(0)
                running[_Process(tasks[index])] = index, attempt
            time.sleep(_SECONDS)
            tick()
            for worker in [worker for worker in running if not worker.process.is_alive()]:
                index, attempt = running.pop(worker)
                errors = worker.errors()
                if errors is None and attempt < _ATTEMPTS:
                    waiting.append((index, attempt + 1))
                    continue
                died = f"its process died {_ATTEMPTS} times, the last time with exit code {worker.process.exitcode}"
                results[index] = [died] * len(tasks[index]) if errors is None else errors
    finally:
        for worker in running:
            worker.process.kill()
    return [results[index] for index in range(len(tasks))]


def run_on_ray(tasks: Sequence[Task], workers: int, tick: Callable[[], None], address: str | None) -> list[Errors]:
    """Work on tasks on a Ray cluster whose machines share this file system.

    Args:
        tasks: What to do.
        workers: Tasks at a time.
        tick: Called about twice a second.
        address: Of a running cluster; None takes one that is found, or starts one here.

    Returns:
        The errors of every task.

    Raises:
        ImportError: If Ray is not installed.
    """
    try:
        import ray
    except ImportError as error:
        raise ImportError("--engine ray needs Ray. Install it: pip install 'ncollapse[ray]'.") from error
    started_here = not ray.is_initialized()
    if started_here:
        ray.init(address=address, num_cpus=None if address else workers, include_dashboard=False, log_to_driver=False)
    try:
        share = min(1.0, ray.cluster_resources().get("GPU", 0.0) / workers)
        remote = ray.remote(num_cpus=1, num_gpus=share, max_retries=_ATTEMPTS - 1)(work)
        absolute = [[(text, str(Path(out).absolute())) for text, out in task] for task in tasks]
        results: dict[int, Errors] = {}
        waiting = list(enumerate(absolute))
        running: dict[ray.ObjectRef, int] = {}
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
                    results[index] = [_words(error)] * len(tasks[index])
    finally:
        if started_here:
            ray.shutdown()
    return [results[index] for index in range(len(tasks))]
