"""Processes that work on the runs of a sweep: on this machine, or on a Ray cluster."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout, suppress
from multiprocessing.connection import Connection
from pathlib import Path
from types import ModuleType
from typing import Any

from ncollapse.error_words import error_line
from ncollapse.extras import missing_extra
from ncollapse.recipes.recipe import Recipe
from ncollapse.records.errors import plain_warnings
from ncollapse.stop_signals import STOP_SIGNALS, RunStopped, handlers_kept, stop_signals
from ncollapse.studies.run import MEMORY_ADVICE, run_recipe

# A recipe as JSON and its run directory.
Task = tuple[str, str]

_ATTEMPTS = 3
_SECONDS = 0.5


# What asks whether to begin nothing more, and to stop what is running.
ShouldStop = Callable[[], bool]

_NOT_BEGUN = "It was not begun before the sweep was stopped."


def work(task: Task, signals: tuple[signal.Signals, ...] = STOP_SIGNALS) -> str:
    """Bring a run to its end, resuming where it is, and say why it is not finished; nothing if it is."""
    recipe, out = task
    try:
        with stop_signals(signals) as stop:
            run_recipe(Recipe.from_json(recipe), Path(out), resume=True, should_stop=stop)
    except RunStopped as stopped:
        return str(stopped)
    except Exception as error:
        # Whatever it is, it would be the same in another process.
        return error_line(error, MEMORY_ADVICE)
    return ""


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

    def stop(self) -> None:
        """Ask it to save its run and report; one that has not begun to listen dies, and has nothing to save."""
        self.process.terminate()

    def end(self) -> None:
        """End the process, whatever it does."""
        self.process.kill()
        self.process.join()
        self.connection.close()


def _serve(connection: Connection) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    while True:
        task = connection.recv()
        with plain_warnings():
            connection.send(work(task))


def _end_with_parent() -> None:
    # Left behind by a killed sweep, a process would write into the folders that the next call works on.
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


class _Pool:
    """Processes of this machine, the tasks that they are at, and those that wait."""

    def __init__(self, tasks: Sequence[Task], workers: int) -> None:
        self.tasks, self.workers = tasks, workers
        self.results: dict[int, str] = {}
        self.waiting = [(index, 1) for index in range(len(tasks))]
        self.idle: list[_Worker] = []
        self.running: dict[_Worker, tuple[int, int]] = {}
        self.stopping = False

    def begin(self) -> None:
        """Give tasks to free processes."""
        while self.waiting and len(self.running) < self.workers:
            index, attempt = self.waiting.pop(0)
            worker = self.idle.pop() if self.idle else _Worker()
            self.running[worker] = index, attempt
            worker.begin(self.tasks[index])

    def collect(self) -> None:
        """Note what has ended; the task of a process that died waits for another one."""
        for worker in [worker for worker in self.running if worker.is_done()]:
            index, attempt = self.running.pop(worker)
            result = worker.result()
            if result is not None:
                self.results[index] = result
                self.idle.append(worker)
                continue
            worker.end()
            if attempt < _ATTEMPTS and not self.stopping:
                self.waiting.append((index, attempt + 1))
                continue
            times, code = f"{attempt} times, the last time" if attempt > 1 else "once,", worker.process.exitcode
            advice = ' A script must call run_sweep under `if __name__ == "__main__":`.' if code == 1 else ""
            self.results[index] = f"Its process died {times} with exit code {code}.{advice}"

    def stop(self) -> None:
        """Begin nothing more, and ask for the end of what is running."""
        if not self.stopping:
            self.stopping, self.waiting = True, []
            for worker in self.running:
                worker.stop()

    def end(self) -> None:
        """End all processes."""
        for worker in (*self.idle, *self.running):
            worker.end()


def run_locally(tasks: Sequence[Task], workers: int, tick: Callable[[], None], should_stop: ShouldStop) -> list[str]:
    """Work on tasks in processes of this machine."""
    pool = _Pool(tasks, workers)
    try:
        while pool.waiting or pool.running:
            pool.begin()
            time.sleep(_SECONDS)
            tick()
            if should_stop():
                pool.stop()
            pool.collect()
    finally:
        pool.end()
    return [pool.results.get(index, _NOT_BEGUN) for index in range(len(tasks))]


def run_on_ray(
    tasks: Sequence[Task], workers: int, tick: Callable[[], None], should_stop: ShouldStop, address: str | None
) -> list[str]:
    """Work on tasks on a Ray cluster whose machines share this file system."""
    try:
        import ray
    except ImportError as error:
        raise ImportError(missing_extra("--engine ray", "ray", "ray")) from error
    # Ray prints on stdout which worker died, but commands write JSON there.
    with redirect_stdout(sys.stderr):
        return _all_on_ray(ray, tasks, workers, tick, should_stop, address)


def _all_on_ray(
    ray: ModuleType,
    tasks: Sequence[Task],
    workers: int,
    tick: Callable[[], None],
    should_stop: ShouldStop,
    address: str | None,
) -> list[str]:
    started_here = not ray.is_initialized()
    if started_here:
        # Ray takes SIGTERM for itself.
        with handlers_kept():
            ray.init(address=address, num_cpus=None if address else workers, include_dashboard=False, log_to_driver=False)
    try:
        share = min(1.0, ray.cluster_resources().get("GPU", 0.0) / workers)
        remote = ray.remote(num_cpus=1, num_gpus=share, max_retries=_ATTEMPTS - 1)(work)
        absolute = [(recipe, str(Path(out).absolute())) for recipe, out in tasks]
        results: dict[int, str] = {}
        waiting = list(enumerate(absolute))
        running: dict[Any, int] = {}
        stopping = False
        while waiting or running:
            if should_stop() and not stopping:
                stopping, waiting = True, []
                for reference in running:
                    ray.cancel(reference)
            while waiting and len(running) < workers:
                index, task = waiting.pop(0)
                # By SIGINT Ray cancels a task.
                running[remote.remote(task, (*STOP_SIGNALS, signal.SIGINT))] = index
            done, _ = ray.wait(list(running), timeout=_SECONDS)
            tick()
            for reference in done:
                results[running.pop(reference)] = _result(ray, reference)
    finally:
        if started_here:
            ray.shutdown()
    return [results.get(index, _NOT_BEGUN) for index in range(len(tasks))]


def _result(ray: ModuleType, reference: Any) -> str:
    try:
        told: str = ray.get(reference)
    except ray.exceptions.RayError as error:
        return error_line(error)
    return told
