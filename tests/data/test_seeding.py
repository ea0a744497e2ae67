"""Streams of one seed are apart from each other and fixed for good."""

import pytest
import torch

from ncollapse.data.seeding import Stream, stream_generator


def test_streams_indices_and_seeds_differ() -> None:
    firsts = {
        torch.rand(1, generator=stream_generator(seed, stream, index)).item()
        for seed in range(5)
        for stream in Stream
        for index in range(5)
    }
    assert len(firsts) == 5 * len(Stream) * 5


def test_a_stream_is_not_the_plain_seed() -> None:
    # Networks take their weights from the plain seed; data of the same seed must not repeat those numbers.
    plain = torch.rand(1, generator=torch.Generator().manual_seed(0))
    assert all(torch.rand(1, generator=stream_generator(0, stream)) != plain for stream in Stream)


def test_streams_are_frozen() -> None:
    # A change here changes every published number of the project.
    order = torch.randperm(8, generator=stream_generator(0, Stream.SHUFFLE, 1)).tolist()
    assert order == [0, 7, 1, 2, 4, 5, 3, 6]


@pytest.mark.parametrize(("seed", "index"), [(-1, 0), (0, -1)])
def test_negative_seeds_are_refused(seed: int, index: int) -> None:
    with pytest.raises(ValueError, match=rf"must be 0 or more, got seed {seed} and index {index}. Pass non-negative"):
        stream_generator(seed, Stream.SHUFFLE, index)
