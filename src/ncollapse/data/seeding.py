"""Random streams of the data: every use of a seed draws from a stream of its own."""

from enum import IntEnum

import numpy as np
import torch


class Stream(IntEnum):
    """What a seed is used for. The numbers are part of the results: never renumber them."""

    SHUFFLE = 0
    CORRUPTION = 1
    SUBSET = 2
    MIXTURE_CENTERS = 3
    MIXTURE_NOISE = 4
    GEO_MNIST = 5


def stream_generator(seed: int, stream: Stream, index: int = 0) -> torch.Generator:
    """Make a generator that depends on nothing but the seed, the stream and the index."""
    # Streams of one seed are independent, so a mixture's centers are not the numbers that a network with the same
    # seed takes as its first weights, and epoch ``e`` needs no generator carried over from epoch ``e - 1``.
    if seed < 0 or index < 0:
        raise ValueError(
            f"a seed and its index must be 0 or more, got seed {seed} and index {index}. Pass non-negative integers."
        )
    mixed = np.random.SeedSequence(seed, spawn_key=(int(stream), index)).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(mixed))
