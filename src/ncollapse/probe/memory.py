"""Free memory on the device where features are kept."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch

# Where a system does not say what is free: enough for small studies, little enough for any machine.
_UNKNOWN_MEMORY = 2**30

_CGROUPS = Path("/sys/fs/cgroup")


class _MemoryFiles(NamedTuple):
    """Where one version of Linux control groups tells a container's memory, and the prefix of its statistics' names."""

    limit: str
    usage: str
    statistics: str
    prefix: str


# In version 1 only the names with "total_" include the groups inside this one, as its usage does; version 2 always does.
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


def _machine_memory() -> int | None:
    try:
        fields = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
        return int(fields["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError):
        return None


def _container_memory(folder: Path, files: _MemoryFiles) -> int | None:
    """Return the memory left under a container's limit, file cache included; None if there is no limit."""
    # A group's usage includes the pages of every file that it has read. A container that has read its data set is soon "full",
    # but the kernel drops these pages before it refuses memory, as MemAvailable presumes for the whole machine. Both lists of
    # file pages are subtracted, for "active" only means read twice, as training does in its second epoch. What cannot be
    # dropped is on other lists: tmpfs and shared memory count as anonymous, locked pages as unevictable.
    try:
        limit, usage = ((folder / name).read_text().strip() for name in (files.limit, files.usage))
        if not limit.isdigit():
            return None
        statistics = dict(line.split() for line in (folder / files.statistics).read_text().splitlines())
    except OSError:
        return None
    cache = sum(int(statistics.get(f"{files.prefix}{which}_file", 0)) for which in ("inactive", "active"))
    return max(0, int(limit) - max(0, int(usage) - cache))
