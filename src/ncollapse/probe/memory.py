"""Memory for kept features: the size that the user gives, what is free on their device, and the copies themselves."""

from __future__ import annotations

import mmap
import re
import weakref
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

# The assumption if a system does not report its free memory: enough for small studies, and available on any machine.
_UNKNOWN_MEMORY = 2**30

# Large, so that there are few blocks. The unused rest of the last block costs nothing: the system provides a page only when it
# is written.
BLOCK_BYTES = 2**26
# Copies start at cache lines.
_ALIGNMENT = 64

# Blocks without features. The system may take their pages back whenever it is short of memory.
_IDLE: list[mmap.mmap] = []

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


class FeatureMemory:
    """Copies of features, in memory apart from the network's that the next measurement uses again."""

    # If features were kept where the network wrote them, it would need new memory for every output. The system provides that
    # page by page, which on a virtual machine costs a third of the time of all statistics. The copies are in blocks that the
    # next measurement uses again. In between they are marked as free (``MADV_FREE``), so that others can have the memory.

    def __init__(self) -> None:
        self._block: Tensor | None = None
        self._used = 0

    def copy(self, features: Tensor) -> Tensor:
        """Copy features."""
        size = features.numel() * features.element_size()
        if not hasattr(mmap, "MADV_FREE") or features.device.type != "cpu" or size > BLOCK_BYTES:
            return features.clone()
        if self._block is None or self._used + size > BLOCK_BYTES:
            self._block, self._used = _new_block(), 0
        room = self._block[self._used : self._used + size]
        self._used += -(-size // _ALIGNMENT) * _ALIGNMENT
        return room.view(features.dtype).view(features.shape).copy_(features)


def _new_block() -> Tensor:
    try:
        memory = _IDLE.pop()
    except IndexError:
        memory = mmap.mmap(-1, BLOCK_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    # Only tensors in the block refer to this view, so that it is finalized with the last of them.
    view = memoryview(memory)
    weakref.finalize(view, _give_back, memory).atexit = False
    return torch.frombuffer(view, dtype=torch.uint8)


def _give_back(memory: mmap.mmap) -> None:
    try:
        memory.madvise(mmap.MADV_FREE)
    except OSError:
        return  # Some sandboxes have no MADV_FREE. There the memory goes back to the system now.
    _IDLE.append(memory)
