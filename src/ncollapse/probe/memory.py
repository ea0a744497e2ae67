"""How much memory is free where features live."""

from __future__ import annotations

from pathlib import Path

import torch

# Where a system does not say what is free: enough for small studies, little enough for any machine.
_UNKNOWN_MEMORY = 2**30


def available_memory(device: torch.device) -> int:
    """Free memory where features live."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    free = [_memory_free(), _group_memory_free()]
    return min([size for size in free if size is not None], default=_UNKNOWN_MEMORY)


def _memory_free() -> int | None:
    try:
        fields = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
        return int(fields["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError):
        return None


def _group_memory_free() -> int | None:
    """What a container's limit leaves."""
    try:
        limit, used = (Path(f"/sys/fs/cgroup/memory.{name}").read_text().strip() for name in ("max", "current"))
    except OSError:
        return None
    return max(0, int(limit) - int(used)) if limit.isdigit() else None
