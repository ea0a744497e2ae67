"""Hooks that capture the features of a network's layers. This room knows nothing of classes or statistics."""

from ncollapse.hooks.batch_io import next_tokens, unpack_batch
from ncollapse.hooks.tap import Tap

__all__ = ["Tap", "next_tokens", "unpack_batch"]
