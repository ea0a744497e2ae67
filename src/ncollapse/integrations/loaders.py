"""Loaders over the samples of a training loader, each once and in order; the training loader stays unchanged."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from torch.utils.data import (
    BatchSampler,
    DataLoader,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    SubsetRandomSampler,
)

from ncollapse.groups import Processes
from ncollapse.hooks.snapshot import random_state_kept

_HINT = "Pass a loader that yields every sample once, with loader=."


def share_of(loader: Any, processes: Processes) -> Iterable[Any]:
    """Make a loader over one process's share of the same samples; the given loader stays unchanged."""
    # Not checked by isinstance, since libraries wrap loaders in classes that only forward attributes.
    if not all(hasattr(loader, name) for name in ("dataset", "batch_sampler", "collate_fn", "num_workers")):
        raise TypeError(f"The training loader must be one DataLoader, got {type(loader).__name__}. {_HINT}")
    if isinstance(loader.dataset, IterableDataset):
        raise TypeError(f"The training data must have an order, got an IterableDataset. {_HINT}")
    sampler = _batch_sampler(loader)
    # Without a batch sampler the data set makes the batches itself, and they count as its samples.
    batch_size = None if sampler is None else sampler.batch_size
    indices = _indices(loader.sampler if sampler is None else sampler.sampler, loader.dataset)
    return DataLoader(
        loader.dataset,
        batch_size=batch_size,
        sampler=processes.share(indices),
        collate_fn=loader.collate_fn,
        num_workers=loader.num_workers,
        worker_init_fn=loader.worker_init_fn,
        multiprocessing_context=loader.multiprocessing_context,
    )


def _batch_sampler(loader: Any) -> BatchSampler | None:
    sampler = loader.batch_sampler
    # With several processes, each reads its share of the batches of one sampler.
    while isinstance(getattr(sampler, "batch_sampler", None), BatchSampler):
        sampler = sampler.batch_sampler
    if sampler is None or type(sampler) is BatchSampler:
        return sampler
    raise ValueError(
        f"The training loader needs a plain BatchSampler, got {type(sampler).__name__}, which may drop samples. {_HINT}"
    )


def _indices(sampler: Any, dataset: Any) -> Sequence[int]:
    """Return the indices of the samples that a sampler yields, in the order of the data set."""
    everything = range(len(dataset))
    if isinstance(sampler, SequentialSampler):
        return everything
    if isinstance(sampler, RandomSampler) and not sampler.replacement and sampler.num_samples == len(dataset):
        return everything
    # A sampler over something else than the data set, such as another sampler, does not show which samples it yields.
    if isinstance(sampler, DistributedSampler) and sampler.dataset is dataset:
        return everything
    if isinstance(sampler, SubsetRandomSampler):
        return sorted(sampler.indices)
    if not isinstance(sampler, RandomSampler) and _is_permutation(sampler, everything):
        return everything
    raise ValueError(f"The training loader must draw every sample once, got {type(sampler).__name__}, which may not. {_HINT}")


def _is_permutation(sampler: Any, everything: range) -> bool:
    """Return whether a sampler yields every index once, such as one that groups samples by length."""
    try:
        if len(sampler) != len(everything):
            return False
        with random_state_kept(sampler):
            return sorted(sampler) == list(everything)
    except TypeError:
        return False
