"""A row of the benchmark: calls that do the same work, timed in interleaved rounds, and the memory that each needs."""

import os
import platform
import resource
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

# A call shorter than this is repeated, so that the clock's steps do not matter.
_SHORTEST = 0.05

Calls = Mapping[str, Callable[[], object]]


class Ratio(NamedTuple):
    """A call over another in pairs, and the largest ratio that is wanted, None for one without a goal."""

    ours: str
    against: str
    wanted: float | None = None


class Row(NamedTuple):
    """One row.

    Attributes:
        title: What is done, in words.
        calls: Prepares the data and returns the calls by name.
        ratios: What is compared, by name.
        peaks: The calls whose memory is measured, each in a process of its own.
        threads: Threads of the process.
        rounds: Rounds of interleaved calls.
        slow: Whether the row runs only when it is named.
    """

    title: str
    calls: Callable[[], Calls]
    ratios: Mapping[str, Ratio]
    peaks: tuple[str, ...] = ()
    threads: int = 1
    rounds: int = 7
    slow: bool = False


def cpu_seconds() -> float:
    """Return the CPU time of this process and of the children that it waited for."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def interleaved(calls: Calls, rounds: int) -> dict[str, list[tuple[float, float]]]:
    """Return CPU and wall seconds of each call in rounds, forwards and backwards in turn, after one that is not counted."""
    repeats: dict[str, int] = {}
    for name, call in calls.items():
        if rounds == 1:  # minutes long, so that a first call costs no more than a second one
            repeats[name] = 1
            continue
        call()
        start = time.perf_counter()
        call()
        repeats[name] = max(1, round(_SHORTEST / max(time.perf_counter() - start, 1e-6)))
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in calls}
    for index in range(rounds):
        for name in list(calls)[:: 1 if index % 2 else -1]:
            count, call, cpu, wall = repeats[name], calls[name], cpu_seconds(), time.perf_counter()
            for _ in range(count):
                call()
            times[name].append(((cpu_seconds() - cpu) / count, (time.perf_counter() - wall) / count))
    return times


def measured(row: Row) -> dict[str, Any]:
    """Time a row: median CPU and wall seconds of each call, and the ratio of pairs with its spread."""
    times = interleaved(row.calls(), row.rounds)
    # With more than one thread the wall clock counts.
    clock = 0 if row.threads == 1 else 1

    def compared(ratio: Ratio) -> dict[str, Any]:
        pairs = zip(times[ratio.ours], times[ratio.against], strict=True)
        found = sorted(own[clock] / max(other[clock], 1e-9) for own, other in pairs)
        middle, ends = statistics.median(found), (found[0], found[-1])
        return {**ratio._asdict(), "ratio": round(middle, 4), "spread": [round(end, 4) for end in ends]}

    return {
        "cpu": {name: round(statistics.median(cpu for cpu, _ in pair), 5) for name, pair in times.items()},
        "wall": {name: round(statistics.median(wall for _, wall in pair), 5) for name, pair in times.items()},
        "ratios": {name: compared(ratio) for name, ratio in row.ratios.items()},
        "rounds": row.rounds,
    }


def peak_growth(row: Row, name: str) -> float:
    """Return the MiB by which the peak resident size of this process grows during one call, by the operating system."""
    call = row.calls()[name]
    status, refs = Path("/proc/self/status"), Path("/proc/self/clear_refs")
    if not status.exists():
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        call()
        unit = 2**20 if sys.platform == "darwin" else 2**10
        return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / unit

    def resident(field: str) -> float:
        return next(float(line.split()[1]) for line in status.read_text().splitlines() if line.startswith(field)) / 2**10

    # The peak of making the data does not count.
    refs.write_text("5")
    before = resident("VmRSS")
    call()
    return resident("VmHWM") - before


def machine() -> dict[str, Any]:
    """Describe the machine and the versions, without names of hosts or paths."""
    import torch

    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return {
        "processor": names[0] if names else platform.machine(),
        "cores": os.cpu_count(),
        "system": platform.system(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
