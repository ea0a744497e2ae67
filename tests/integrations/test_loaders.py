"""Every sample of a training loader once, and the loader left as it was."""

import pytest
import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    Sampler,
    SequentialSampler,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

from ncollapse.groups import Processes
from ncollapse.integrations.loaders import share_of

DATA = TensorDataset(torch.arange(23).float().unsqueeze(1), torch.arange(23))


def process(rank=0, size=1):
    """One of several processes, without joining them."""
    processes = Processes()
    processes._rank, processes.size = rank, size
    return processes


def samples(loader):
    return [int(label) for _, labels in loader for label in labels]


@pytest.mark.parametrize("options", [
    {},
    {"shuffle": True},
    {"shuffle": True, "drop_last": True},
    {"sampler": DistributedSampler(DATA, num_replicas=4, rank=1)},
    {"sampler": RandomSampler(DATA, generator=torch.Generator())},
])  # fmt: skip
@pytest.mark.parametrize("size", [1, 3])
def test_each_sample_once_over_all_processes(options, size):
    loader = DataLoader(DATA, batch_size=5, **options)
    shares = [list(share_of(loader, process(rank, size))) for rank in range(size)]
    assert [samples(share) for share in shares] == [list(range(rank, 23, size)) for rank in range(size)]
    assert max(len(labels) for share in shares for _, labels in share) == 5


def test_a_subset_stays_a_subset():
    loader = DataLoader(DATA, batch_size=4, sampler=SubsetRandomSampler([7, 3, 20, 11]))
    assert samples(share_of(loader, process())) == [3, 7, 11, 20]
    assert samples(share_of(loader, process(1, 2))) == [7, 20]


def test_generators_stay_as_they_were():
    generator = torch.Generator().manual_seed(3)
    loader = DataLoader(DATA, batch_size=5, shuffle=True, generator=generator)
    before = generator.get_state()
    samples(share_of(loader, process()))
    assert torch.equal(generator.get_state(), before)


def test_collation_and_batches_that_the_data_set_makes():
    loader = DataLoader(DATA, batch_size=6, collate_fn=lambda items: {"labels": torch.stack([y for _, y in items])})
    assert [len(batch["labels"]) for batch in share_of(loader, process())] == [6, 6, 6, 5]
    whole = [(torch.ones(4, 1), torch.arange(4)), (torch.ones(2, 1), torch.arange(2))]
    assert samples(share_of(DataLoader(whole, batch_size=None), process())) == [0, 1, 2, 3, 0, 1]


class ByLength(Sampler):
    """Groups samples of about one length, in a random order, as the sampler of transformers does."""

    def __init__(self, drops=0, generator=None):
        self.lengths, self.drops, self.generator = [(7 * i) % 11 for i in range(23)], drops, generator

    def __len__(self):
        return 23

    def __iter__(self):
        order = torch.randperm(23, generator=self.generator).tolist()
        groups = [sorted(order[i : i + 8], key=self.lengths.__getitem__) for i in range(0, 23, 8)]
        return iter([index for group in groups for index in group][: 23 - self.drops] + [0] * self.drops)


@pytest.mark.parametrize("size", [1, 3])
def test_any_permutation_of_the_samples_will_do(size):
    generator = torch.Generator().manual_seed(1)
    loader = DataLoader(DATA, batch_size=5, sampler=ByLength(generator=generator))
    before, state = torch.get_rng_state(), generator.get_state()
    shares = [share_of(loader, process(rank, size)) for rank in range(size)]
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(generator.get_state(), state)
    assert [samples(share) for share in shares] == [list(range(rank, 23, size)) for rank in range(size)]
    with pytest.raises(ValueError, match="once, got ByLength, which may not"):
        share_of(DataLoader(DATA, batch_size=5, sampler=ByLength(drops=1)), process())


def test_the_length_grouped_sampler_of_transformers():
    trainer_pt_utils = pytest.importorskip("transformers.trainer_pt_utils")
    sampler = trainer_pt_utils.LengthGroupedSampler(5, lengths=[(7 * i) % 11 + 1 for i in range(23)])
    assert samples(share_of(DataLoader(DATA, batch_size=5, sampler=sampler), process())) == list(range(23))


class Stream(IterableDataset):
    def __iter__(self):
        return iter(DATA)


class Odd(BatchSampler):
    pass


@pytest.mark.parametrize(("loader", "error", "message"), [
    ([DATA], TypeError, "must be one DataLoader, got list"),
    (DataLoader(Stream()), TypeError, "got an IterableDataset"),
    (DataLoader(DATA, sampler=WeightedRandomSampler([1.0] * 23, 23)), ValueError, "once, got WeightedRandomSampler"),
    (DataLoader(DATA, sampler=RandomSampler(DATA, replacement=True)), ValueError, "once, got RandomSampler"),
    (DataLoader(DATA, sampler=RandomSampler(DATA, num_samples=9)), ValueError, "once, got RandomSampler"),
    (DataLoader(DATA, sampler=DistributedSampler(range(5), 2, 0)), ValueError, "once, got DistributedSampler"),
    (DataLoader(DATA, batch_sampler=Odd(SequentialSampler(DATA), 4, False)), ValueError, "needs a plain BatchSampler, got Odd"),
])  # fmt: skip
def test_what_may_leave_samples_out_is_refused(loader, error, message):
    with pytest.raises(error, match=rf"{message}.*Pass a loader that yields every sample once, with loader="):
        share_of(loader, process())
