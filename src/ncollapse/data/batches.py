"""The orders in which labeled samples are walked through, batch by batch."""

from collections.abc import Iterator

import torch
from torch import Tensor

from ncollapse.data.labeled import LabeledData
from ncollapse.data.seeding import Stream, stream_generator


def _check_batch_size(batch_size: int) -> None:
    if batch_size < 1:
        raise ValueError(f"batch_size must be 1 or more, got {batch_size}. Pass the number of samples in a batch.")


class Batches:
    """The samples in order, batch by batch; can be iterated over many times.

    Every iteration yields ``(inputs, labels)`` views of at most ``batch_size`` samples; the last batch holds what is
    left, so every sample comes exactly once.

    Raises:
        ValueError: If the batch size is below 1.

    Example:
        >>> data = LabeledData(torch.zeros(5, 2), torch.zeros(5, dtype=torch.int64), num_classes=1, name="zeros")
        >>> [len(labels) for _, labels in Batches(data, batch_size=2)]
        [2, 2, 1]
    """

    def __init__(self, data: LabeledData, batch_size: int) -> None:
        _check_batch_size(batch_size)
        self.data = data
        self.batch_size = batch_size

    def __len__(self) -> int:
        return -(-self.data.num_samples // self.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        # Not torch.split: of zero samples it makes one empty batch, and len() says there is none.
        for start in range(0, self.data.num_samples, self.batch_size):
            window = slice(start, start + self.batch_size)
            yield self.data.inputs[window], self.data.labels[window]

    @property
    def num_samples(self) -> int:
        """Samples in one iteration."""
        return self.data.num_samples


def shuffled_batches(
    data: LabeledData, batch_size: int, seed: int, epoch: int, *, balanced: bool = False
) -> Iterator[tuple[Tensor, Tensor]]:
    """Return the batches of one epoch, in an order that depends on the seed and the epoch alone.

    A run that resumes at epoch e therefore sees the batches that the uninterrupted run sees, without any stored generator
    state. Every sample comes exactly once; the last batch holds what is left.

    Args:
        balanced: As many samples, but equally many of each class that has any, up to one: every sample of a class comes equally
            often, up to once. Which ones come more often, or at all, changes from epoch to epoch.

    Raises:
        ValueError: If the batch size is below 1, or the seed or epoch negative.
    """
    _check_batch_size(batch_size)
    order = balanced_order(data, seed, epoch) if balanced else shuffled_order(data, seed, epoch)
    windows = (order[start : start + batch_size] for start in range(0, data.num_samples, batch_size))
    return ((data.inputs[window], data.labels[window]) for window in windows)


def shuffled_order(data: LabeledData, seed: int, epoch: int) -> Tensor:
    """Return the order of the samples in which ``shuffled_batches`` walks through them: (N,) positions, on the data's device.

    Raises:
        ValueError: If the seed or epoch is negative.
    """
    generator = stream_generator(seed, Stream.SHUFFLE, epoch)
    return torch.randperm(data.num_samples, generator=generator).to(data.inputs.device)


def balanced_order(data: LabeledData, seed: int, epoch: int) -> Tensor:
    """Return the order of ``shuffled_batches`` with ``balanced``: (N,) positions, on the data's device."""
    generator = stream_generator(seed, Stream.SHUFFLE, epoch)
    shuffled = torch.randperm(data.num_samples, generator=generator)
    labels = data.labels.cpu()[shuffled]
    present = labels.unique()
    # Classes in random order: of those that get one sample more there are others in every epoch.
    present = present[torch.randperm(len(present), generator=generator)]
    drawn = []
    for place, k in enumerate(present.tolist()):
        own = shuffled[labels == k]
        share = (data.num_samples - place + len(present) - 1) // len(present)
        drawn.append(own[torch.arange(share) % len(own)])
    order = torch.cat(drawn)[torch.randperm(data.num_samples, generator=generator)]
    return order.to(data.inputs.device)
