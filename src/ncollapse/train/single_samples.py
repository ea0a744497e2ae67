"""Training sample by sample, with the class-mean logits recorded between steps."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count, islice
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ncollapse.data import LabeledData, shuffled_batches
from ncollapse.train.losses import cross_entropy


class LogitPath(NamedTuple):
    """Class means of a network's outputs during training.

    Attributes:
        iterations: Steps taken, shape (T,), from 0.
        means: Mean logits of each class, shape (T, K, K), float64.
    """

    iterations: Tensor
    means: Tensor


def record_class_logits(
    model: nn.Module, data: LabeledData, *, iterations: int, learning_rate: float, every: int = 1, seed: int = 0
) -> LogitPath:
    """Train in place by stochastic gradient descent with batches of one sample, without momentum or decay.

    Args:
        model: Maps inputs (B, d) to logits (B, K).
        data: The training set; its means are recorded, by forward passes over all of it.
        iterations: Steps, 1 or more.
        learning_rate: Learning rate for the cross-entropy, positive.
        every: Steps between two records, 1 or more.
        seed: Decides the order of the samples.

    Returns:
        The means at 0, every, 2 every, …

    Raises:
        ValueError: If a number is out of range or a class has no samples.

    Reference:
        The experiments of Zhang, Wang & Su (2021), NeurIPS.
    """
    if iterations < 1 or every < 1 or not learning_rate > 0:
        raise ValueError(
            "record_class_logits needs iterations and every of 1 or more and a positive learning rate, got "
            f"{iterations}, {every} and {learning_rate}. Try 1000, 10 and 0.01."
        )
    counts = torch.bincount(data.labels, minlength=data.num_classes).double()
    if not bool(counts.all()):
        raise ValueError(
            f"record_class_logits needs samples of every class, got counts {counts.long().tolist()}. Leave empty classes out."
        )
    optimizer = torch.optim.SGD(model.parameters(), lr=learning_rate)
    average = nn.functional.one_hot(data.labels, data.num_classes).double() / counts

    def means() -> Tensor:
        with torch.no_grad():
            return average.T @ model(data.inputs).double()

    model.train()
    recorded = [means()]
    for iteration, (sample, label) in enumerate(islice(_one_by_one(data, seed), iterations), start=1):
        optimizer.zero_grad()
        cross_entropy(model(sample), label).backward()
        optimizer.step()
        if iteration % every == 0:
            recorded.append(means())
    return LogitPath(every * torch.arange(len(recorded)), torch.stack(recorded))


def _one_by_one(data: LabeledData, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    for epoch in count(1):
        yield from shuffled_batches(data, 1, seed, epoch)
