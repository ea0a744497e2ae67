"""Labeled samples: checks, subsets, shards, corruption, and the order of batches."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ncollapse.data import Batches, LabeledData, shuffled_batches


def numbered(num_samples: int, num_classes: int = 3) -> LabeledData:
    """Sample i is (i, 10 i) with class i mod K, so that every sample can be told by its input."""
    index = torch.arange(num_samples)
    inputs = torch.stack((index, 10 * index), dim=1).float()
    return LabeledData(inputs, index % num_classes, num_classes, "numbered")


def ids(data: LabeledData) -> list[int]:
    return data.inputs[:, 0].int().tolist()


def labels_belong_to_inputs(data: LabeledData) -> bool:
    return data.labels.tolist() == [i % data.num_classes for i in ids(data)]


def test_sizes() -> None:
    data = numbered(7)
    assert (data.num_samples, data.input_dim, data.num_classes, data.name) == (7, 2, 3, "numbered")


@pytest.mark.parametrize(
    ("inputs", "labels", "num_classes", "message"),
    [
        (torch.zeros(2, 3, 4), torch.zeros(2).long(), 2, r"must be floating point of shape \(N, d\), got .*\(2, 3, 4\)"),
        (torch.zeros(2, 3).int(), torch.zeros(2).long(), 2, r"got torch.int32 .* inputs.flatten\(1\).float\(\)"),
        (torch.zeros(2, 3), torch.zeros(3).long(), 2, r"must be int64 of shape \(2,\).*got torch.int64 of shape \(3,\)"),
        (torch.zeros(2, 3), torch.zeros(2), 2, r"got torch.float32 of shape \(2,\). Pass class indices"),
        (torch.zeros(2, 3), torch.zeros(2).long(), 0, r"num_classes of 'x' must be 1 or more, got 0. Pass"),
        (torch.zeros(2, 3), torch.tensor([0, 2]), 2, r"must be in \[0, 2\), got 2 at position 1. Raise num_classes"),
        (torch.zeros(2, 3), torch.tensor([-1, 0]), 2, r"must be in \[0, 2\), got -1 at position 0"),
        (torch.tensor([[1.0], [math.nan]]), torch.tensor([0, 1]), 2, r"must be finite, got nan or inf in sample 1 \(1 su"),
        (torch.tensor([[math.inf], [-math.inf]]), torch.tensor([0, 1]), 2, r"in sample 0 \(2 such.*Remove or repair"),
    ],
)
def test_what_does_not_fit_is_refused(inputs: torch.Tensor, labels: torch.Tensor, num_classes: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LabeledData(inputs, labels, num_classes, "x")


def test_images_keep_their_shape() -> None:
    data = LabeledData(torch.zeros(4, 24), torch.zeros(4).long(), 1, "images", image_shape=(2, 3, 4))
    assert data.sample_shape == data.subset([0, 2]).shard(0, 2).corrupt_labels(1.0, seed=0).sample_shape == (2, 3, 4)
    assert numbered(3).sample_shape == (2,)
    with pytest.raises(
        ValueError, match=r"images of shape \(1, 5, 5\) need 25 numbers per sample, 'x' has 24\. Pass \(channels"
    ):
        LabeledData(torch.zeros(4, 24), torch.zeros(4).long(), 1, "x", image_shape=(1, 5, 5))


def test_two_devices_are_refused() -> None:
    with pytest.raises(ValueError, match=r"must lie on one device, got cpu and meta. Move both"):
        LabeledData(torch.zeros(2, 3), torch.zeros(2, device="meta").long(), 2, "x")


def test_large_finite_inputs_whose_sum_overflows_are_accepted() -> None:
    big = torch.full((4, 1), 3e38)
    assert LabeledData(big, torch.zeros(4).long(), 1, "big").num_samples == 4


def test_subset_keeps_order_and_pairs() -> None:
    data = numbered(9).subset([4, 0, 4])
    assert ids(data) == [4, 0, 4]
    assert labels_belong_to_inputs(data)
    assert ids(numbered(4).subset(torch.tensor([True, False, False, True]))) == [0, 3]
    assert numbered(4).subset([]).num_samples == 0


def test_per_class_takes_the_first_of_each_class_in_order() -> None:
    # Classes by position: 2 0 0 1 2 1 0 2 1
    data = LabeledData(torch.arange(9.0)[:, None], torch.tensor([2, 0, 0, 1, 2, 1, 0, 2, 1]), 3, "mixed")
    assert ids(data.per_class(2)) == [0, 1, 2, 3, 4, 5]
    assert ids(data.per_class(1)) == [0, 1, 3]


def test_per_class_of_unequal_classes_equals_a_loop() -> None:
    labels = torch.randint(9, (3000,), generator=torch.Generator().manual_seed(0)) // 3 * torch.arange(3000).fmod(2).long()
    data = LabeledData(torch.arange(3000.0)[:, None], labels, 3, "unequal")
    expected = sorted(i for k in range(3) for i in [j for j, label in enumerate(labels.tolist()) if label == k][:100])
    assert ids(data.per_class(100)) == expected


def test_per_class_at_random_is_balanced_seeded_and_without_repetition() -> None:
    data = numbered(300)
    first, again, other = (data.per_class(20, generator_seed=seed) for seed in (1, 1, 2))
    assert ids(first) == ids(again) != ids(other)
    assert first.labels.bincount().tolist() == [20, 20, 20]
    assert ids(first) == sorted(set(ids(first)))
    assert labels_belong_to_inputs(first)
    assert max(ids(first)) > 200  # not the first 60


def test_the_first_of_each_class_and_the_rest() -> None:
    # Classes by position: 2 0 0 1 2 1 0 2 1
    data = LabeledData(torch.arange(9.0)[:, None], torch.tensor([2, 0, 0, 1, 2, 1, 0, 2, 1]), 3, "mixed")
    assert ids(data.first_of_each([3, 1, 2])) == [0, 1, 2, 3, 4, 6]
    assert ids(data.first_of_each([0, 0, 3])) == [0, 4, 7]
    assert ids(data.after_the_first(2)) == [6, 7, 8]
    for counts in ([4, 0, 0], [1, 1]):
        with pytest.raises(ValueError, match=r"the counts of the 3 classes of 'mixed' must be at most \[3, 3, 3\], got"):
            data.first_of_each(counts)


@pytest.mark.parametrize("n", [0, 3])
def test_per_class_names_the_smallest_class(n: int) -> None:
    with pytest.raises(ValueError, match=rf"per_class of 'numbered' must be between 1 and 2, .*\(2\), got {n}. Ask for"):
        numbered(8).per_class(n)


def test_balanced_batches_have_as_many_samples_of_each_class() -> None:
    labels = torch.tensor([0] * 20 + [1] * 3 + [3] * 6)
    data = LabeledData(torch.arange(29.0)[:, None], labels, 4, "unequal")
    epochs = [list(shuffled_batches(data, 8, seed=1, epoch=epoch, balanced=True)) for epoch in (1, 1, 2)]
    assert [[len(y) for _, y in batches] for batches in epochs] == [[8, 8, 8, 5]] * 3
    first, again, other = (torch.cat([x.flatten() for x, _ in batches]).int() for batches in epochs)
    assert first.equal(again)
    assert not first.equal(other)
    for order in (first, other):
        assert sorted(labels[order].bincount(minlength=4).tolist()) == [0, 9, 10, 10]
        times = order.bincount(minlength=29)
        assert all(times[labels == k].max() - times[labels == k].min() <= 1 for k in (0, 1, 3))
    # Of the large class others come in another epoch, and the classes do not come one after the other.
    assert set(first[labels[first] == 0].tolist()) != set(other[labels[other] == 0].tolist())
    assert labels[first].diff().ne(0).sum() > 5
    equal = numbered(9)
    batches = shuffled_batches(equal, 4, seed=0, epoch=1, balanced=True)
    assert sorted(torch.cat([x[:, 0] for x, _ in batches]).tolist()) == list(range(9))


@given(num_samples=st.integers(0, 40), count=st.integers(1, 50))
@settings(max_examples=50, deadline=None)
def test_shards_are_an_exact_partition(num_samples: int, count: int) -> None:
    data = numbered(num_samples)
    shards = [data.shard(index, count) for index in range(count)]
    assert sorted(i for shard in shards for i in ids(shard)) == list(range(num_samples))
    sizes = [shard.num_samples for shard in shards]
    assert max(sizes) - min(sizes) <= 1
    assert all(labels_belong_to_inputs(shard) for shard in shards)


def test_shards_of_sorted_classes_hold_every_class() -> None:
    data = LabeledData(torch.zeros(40, 1), torch.arange(4).repeat_interleave(10), 4, "sorted")
    assert all(data.shard(index, 3).labels.unique().tolist() == [0, 1, 2, 3] for index in range(3))


@pytest.mark.parametrize(("index", "count"), [(3, 3), (-1, 3), (0, 0)])
def test_shard_out_of_range(index: int, count: int) -> None:
    with pytest.raises(ValueError, match=rf"needs an index in \[0, {count}\), got {index}. Pass the process's rank"):
        numbered(5).shard(index, count)


def test_corruption_changes_the_expected_fraction() -> None:
    data = LabeledData(torch.zeros(40_000, 1), torch.arange(40_000) % 4, 4, "many")
    corrupted = data.corrupt_labels(0.4, seed=3)
    changed = (corrupted.labels != data.labels).double().mean().item()
    # 0.4 * (1 - 1/4) = 0.3, standard deviation 0.0023: five of them.
    assert changed == pytest.approx(0.3, abs=0.0115)
    assert corrupted.labels.bincount().double() / 10_000 == pytest.approx(torch.ones(4), abs=0.05)
    assert corrupted.inputs is data.inputs


def test_corruption_is_seeded_nested_and_exact_at_the_ends() -> None:
    data = numbered(500)
    assert data.corrupt_labels(0.0, seed=1).labels.equal(data.labels)
    assert data.corrupt_labels(0.5, seed=1).labels.equal(data.corrupt_labels(0.5, seed=1).labels)
    assert not data.corrupt_labels(0.5, seed=1).labels.equal(data.corrupt_labels(0.5, seed=2).labels)
    few, many = (data.corrupt_labels(p, seed=1).labels for p in (0.2, 0.6))
    assert few[few != data.labels].equal(many[few != data.labels])
    everything = data.corrupt_labels(1.0, seed=1).labels
    assert (everything == data.labels).double().mean().item() == pytest.approx(1 / 3, abs=0.1)


@pytest.mark.parametrize("probability", [-0.1, 1.1, math.nan])
def test_corruption_needs_a_probability(probability: float) -> None:
    with pytest.raises(ValueError, match=r"needs a probability in \[0, 1\], got .* Pass a fraction"):
        numbered(5).corrupt_labels(probability, seed=0)


def test_to_device() -> None:
    moved = LabeledData(torch.zeros(2, 1), torch.tensor([0, 1]), 2, "x").to("cpu")
    assert moved.inputs.device.type == moved.labels.device.type == "cpu"


def test_batches_are_in_order_whole_and_repeatable() -> None:
    batches = Batches(numbered(10), batch_size=4)
    for _ in range(2):
        walked = list(batches)
        assert [len(labels) for _, labels in walked] == [4, 4, 2]
        assert torch.cat([inputs for inputs, _ in walked]).equal(batches.data.inputs)
        assert torch.cat([labels for _, labels in walked]).equal(batches.data.labels)
    assert (len(batches), batches.num_samples) == (3, 10)


def test_batches_of_nothing() -> None:
    batches = Batches(numbered(0), batch_size=4)
    assert (len(batches), batches.num_samples, list(batches)) == (0, 0, [])


def test_batch_size_must_be_positive() -> None:
    with pytest.raises(ValueError, match=r"batch_size must be 1 or more, got 0. Pass the number"):
        Batches(numbered(3), batch_size=0)
    with pytest.raises(ValueError, match=r"batch_size must be 1 or more, got -1"):
        shuffled_batches(numbered(3), -1, seed=0, epoch=0)


def shuffled_ids(seed: int, epoch: int) -> list[int]:
    return [i for inputs, _ in shuffled_batches(numbered(30), 8, seed, epoch) for i in inputs[:, 0].int().tolist()]


def test_shuffling_depends_on_seed_and_epoch_alone() -> None:
    before = shuffled_ids(seed=5, epoch=2)
    torch.rand(3)
    shuffled_ids(seed=5, epoch=1)
    assert shuffled_ids(seed=5, epoch=2) == before
    orders = {tuple(shuffled_ids(seed, epoch)) for seed in range(4) for epoch in range(4)}
    assert len(orders) == 16


def test_shuffled_batches_hold_every_sample_once_with_its_label() -> None:
    batches = list(shuffled_batches(numbered(30), 8, seed=0, epoch=1))
    assert [len(labels) for _, labels in batches] == [8, 8, 8, 6]
    seen = torch.cat([inputs[:, 0] for inputs, _ in batches]).int().tolist()
    assert sorted(seen) == list(range(30)) != seen
    assert torch.cat([labels for _, labels in batches]).tolist() == [i % 3 for i in seen]


def test_shuffling_leaves_the_global_generator_alone() -> None:
    state = torch.random.get_rng_state()
    shuffled_ids(seed=0, epoch=1)
    numbered(9).corrupt_labels(0.5, seed=0).per_class(1, generator_seed=0)
    assert torch.random.get_rng_state().equal(state)
