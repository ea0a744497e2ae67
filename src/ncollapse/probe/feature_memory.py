"""Memory for kept features, reused by the next measurement in the process."""

from __future__ import annotations

import mmap
import weakref

import torch
from torch import Tensor

# Large, so that there are few blocks. The unused rest of the last block costs nothing: the system provides a page only when it
# is written.
BLOCK_BYTES = 2**26
# Copies start at cache lines.
_ALIGNMENT = 64

# Blocks without features. The system may take their pages back whenever it is short of memory.
_IDLE: list[mmap.mmap] = []


class FeatureStore:
    """A store for copies of features, in memory apart from the network's."""

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
