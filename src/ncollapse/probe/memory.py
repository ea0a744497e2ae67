"""Memory for kept features: the size that the user gives, and what is free on their device."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

import torch

# The assumption if a system does not report its free memory: enough for small studies, and available on any machine.
_UNKNOWN_MEMORY = 2**30

_CGROUPS = Path("/sys/fs/cgroup")
_UNITS = {"": 1, "b": 1} | {
    f"{prefix}{unit}": base ** (power + 1) for power, prefix in enumerate("kmgt") for unit, base in (("b", 1000), ("ib", 1024))
}


def parse_bytes(size: int | str, name: str = "memory_budget") -> int:
    """Read a number of bytes, or a text such as "2GiB" or "500MB" in any case."""
    if isinstance(size, int) and not isinstance(size, bool) and size >= 0:
        return size
    found = re.fullmatch(r"\s*([0-9]+(?:[.][0-9]+)?)\s*([A-Za-z]*)\s*", size) if isinstance(size, str) else None
    if found is None or found[2].lower() not in _UNITS:
        raise ValueError(f"{name} must be a number of bytes, at least 0, or a size such as '2GiB' or '500MB', got {size!r}.")
    number, unit = found[1], _UNITS[found[2].lower()]
    return int(float(number) * unit) if "." in number else int(number) * unit


class _MemoryFiles(NamedTuple):
    """The files of one version of Linux control groups with a container's memory, and the prefix of its statistics."""

    limit: str
    usage: str
    statistics: str
    prefix: str


# The usage includes groups inside this one. In version 1, of the statistics only those with "total_" do; in version 2 all do.
_VERSIONS = (
    _MemoryFiles("memory.max", "memory.current", "memory.stat", ""),
    _MemoryFiles("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat", "total_"),
)


def available_memory(device: torch.device) -> int:
    """Return the free memory on the features' device."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    free = [_machine_memory(), *(_container_memory(_CGROUPS, files) for files in _VERSIONS)]
    return min([size for size in free if size is not None], default=_UNKNOWN_MEMORY)


def check_scatter_fits(num_classes: int, dim: int, layer: str) -> None:
    """Refuse one d×d matrix for each class where these exceed half of the free memory."""
    size, free = 8 * num_classes * dim**2, available_memory(torch.device("cpu"))
    if size > free / 2:
        raise ValueError(
            f"Metrics of the whole Σ_T, such as rank_total, need a d×d matrix for each class: at layer {layer!r} "
            f"{num_classes} × {dim}² numbers, {size / 2**30:.3g} GiB, and {free / 2**30:.3g} GiB are free. "
            "Leave these metrics out, number fewer classes, or name layers with fewer features."
        )


def _machine_memory() -> int | None:
    try:
        fields = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
        return int(fields["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError):
        return None


def _container_memory(folder: Path, files: _MemoryFiles) -> int | None:
    """Return the memory left under a container's limit, file cache included; None if there is no limit."""
    # A group's usage includes the pages of every file that it has read, so that a container that has read its data set looks
    # full. But the kernel drops these pages before it refuses memory; MemAvailable assumes the same for the whole machine. Both
    # lists of file pages are subtracted: "active" only means read twice, as in the second epoch of a training. Pages that
    # cannot be dropped are on other lists: tmpfs and shared memory count as anonymous, locked pages as unevictable.
    try:
        limit, usage = ((folder / name).read_text().strip() for name in (files.limit, files.usage))
        if not limit.isdigit():
            return None
        statistics = dict(line.split() for line in (folder / files.statistics).read_text().splitlines())
    except OSError:
        return None
    cache = sum(int(statistics.get(f"{files.prefix}{which}_file", 0)) for which in ("inactive", "active"))
    return max(0, int(limit) - max(0, int(usage) - cache))
