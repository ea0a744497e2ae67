"""Copies of kept features: equal, apart from everything, and in memory that goes round only when nobody sees it."""

import mmap

import pytest
import torch

from ncollapse.probe import memory
from ncollapse.probe.memory import FeatureMemory

pytestmark = pytest.mark.skipif(not hasattr(mmap, "MADV_FREE"), reason="memory is not kept there")


def numbers(*shape, dtype=torch.float32, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(memory, "BLOCK_BYTES", 4096)
    monkeypatch.setattr(memory, "_IDLE", [])
    return memory._IDLE


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [(7, 5), (1, 1), (3, 0), (40, 50)])
def test_a_copy_is_equal_and_stays_when_the_features_are_overwritten(small_blocks, dtype, shape):
    features = numbers(*shape, dtype=dtype)
    before = features.clone()
    copy = FeatureMemory().copy(features)
    features.zero_()
    assert (copy.dtype, copy.shape) == (dtype, before.shape)
    assert torch.equal(copy, before)


def test_features_in_any_layout_are_copied():
    features = numbers(6, 8).T
    assert torch.equal(FeatureMemory().copy(features), features)
    assert torch.equal(FeatureMemory().copy(features[::2, 1:]), features[::2, 1:])


def test_copies_of_all_sizes_in_many_blocks_do_not_touch_each_other(small_blocks):
    features = [numbers(1 + 36 * i % 90, 1 + i % 11, dtype=(torch.float32, torch.bfloat16)[i % 2], seed=i) for i in range(200)]
    kept = FeatureMemory()
    copies = [kept.copy(tensor) for tensor in features]
    assert all(torch.equal(copy, tensor) for copy, tensor in zip(copies, features, strict=True))
    assert small_blocks == []
    del kept, copies
    assert len(small_blocks) > 10


def test_a_block_is_used_again_when_the_last_copy_in_it_is_gone(small_blocks):
    kept = FeatureMemory()
    first, second = kept.copy(numbers(3, 4)), kept.copy(numbers(3, 4, seed=1))
    place = first.data_ptr()
    del kept, first
    assert small_blocks == []
    other = FeatureMemory().copy(numbers(3, 4, seed=2))
    assert other.data_ptr() != place
    part = second[1:]
    del second
    assert small_blocks == []
    assert torch.equal(part, numbers(3, 4, seed=1)[1:])
    del part
    assert len(small_blocks) == 1
    again = FeatureMemory().copy(numbers(3, 4, seed=3))
    assert again.data_ptr() == place
    assert torch.equal(again, numbers(3, 4, seed=3))
    assert torch.equal(other, numbers(3, 4, seed=2))


def test_what_exceeds_a_block_has_memory_of_its_own(small_blocks):
    features = numbers(40, 26)
    copy = FeatureMemory().copy(features)
    assert features.numel() * 4 > memory.BLOCK_BYTES
    assert torch.equal(copy, features)
    assert copy.untyped_storage().nbytes() == features.numel() * 4


def test_where_the_system_knows_no_such_mark_memory_goes_back_at_once(small_blocks):
    class Refused:
        def madvise(self, option):
            assert option == mmap.MADV_FREE
            raise OSError(22, "Invalid argument")

    memory._give_back(Refused())
    assert small_blocks == []


def test_a_system_without_the_mark_gets_plain_copies(small_blocks, monkeypatch):
    monkeypatch.delattr(mmap, "MADV_FREE")
    features = numbers(3, 4)
    copy = FeatureMemory().copy(features)
    assert torch.equal(copy, features)
    assert copy.untyped_storage().nbytes() == features.numel() * 4
