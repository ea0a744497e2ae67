"""Memory for kept features, which the next measurement in the process finds warm."""

from __future__ import annotations

import mmap
import weakref

import torch
from torch import Tensor

# Enough that blocks are few beside the features they hold; of the last, what nobody writes to is never handed out.
BLOCK_BYTES = 2**26
# Rooms begin where a cache line does.
_ALIGNMENT = 64

# Blocks that hold no features any more. The system may take their pages back whenever it is short of memory.
_IDLE: list[mmap.mmap] = []


class FeatureStore:
    """Copies of features in memory apart from the network's, which has its own to itself."""

    # Were they kept where the network wrote them, it would get new memory for every output, page by page from the system; on a
    # virtual machine that costs a third of what all statistics do. The copies lie in blocks that go from one measurement to
    # the next; in between they are marked as free (``MADV_FREE``), so that they are in nobody's way.

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
    # All tensors in the block hold this view of it, and nothing else does: it ends with the last of them.
    view = memoryview(memory)
    weakref.finalize(view, _give_back, memory).atexit = False
    return torch.frombuffer(view, dtype=torch.uint8)


def _give_back(memory: mmap.mmap) -> None:
    try:
        memory.madvise(mmap.MADV_FREE)
    except OSError:
        return  # Some sandboxes' kernels know no such mark: there the memory goes back to the system now.
    _IDLE.append(memory)
