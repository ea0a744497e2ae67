"""The samples of somebody else's training loader, each once and in order, without touching that loader."""

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

_HINT = "Hand over a loader that yields every sample once, with loader=."


def share_of(loader: Any, processes: Processes) -> Iterable[Any]:
    """Make a loader over one process's share of the same samples; the given loader stays unchanged."""
    # Not by isinstance: libraries wrap loaders in classes that only pass attributes on.
    if not all(hasattr(loader, name) for name in ("dataset", "batch_sampler", "collate_fn", "num_workers")):
        raise TypeError(f"The training loader must be one DataLoader, got {type(loader).__name__}. {_HINT}")
    if isinstance(loader.dataset, IterableDataset):
        raise TypeError(f"The training data must have an order, got an IterableDataset. {_HINT}")
    sampler = _batch_sampler(loader)
    # Batches that the data set makes itself, when there is no batch sampler, are its samples.
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
    # Of several processes, each has its share of the batches of one sampler.
    while isinstance(getattr(sampler, "batch_sampler", None), BatchSampler):
        sampler = sampler.batch_sampler
    if sampler is None or type(sampler) is BatchSampler:
        return sampler
    raise ValueError(f"The training loader's batches come from {type(sampler).__name__}, which may leave samples out. {_HINT}")


def _indices(sampler: Any, dataset: Any) -> Sequence[int]:
    """Return the indices of the samples that a sampler yields, in the order of the data set."""
    everything = range(len(dataset))
    if isinstance(sampler, SequentialSampler):
        return everything
    if isinstance(sampler, RandomSampler) and not sampler.replacement and sampler.num_samples == len(dataset):
        return everything
    # One over something else than the data set, such as another sampler, says nothing of which samples come.
    if isinstance(sampler, DistributedSampler) and sampler.dataset is dataset:
        return everything
    if isinstance(sampler, SubsetRandomSampler):
        return sorted(sampler.indices)
    raise ValueError(
        f"The training loader draws by {type(sampler).__name__}, which may leave samples out or repeat them. {_HINT}"
    )
