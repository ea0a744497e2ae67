"""One batch cut into float64 blocks in memory that is taken once."""

import pytest
import torch

from ncollapse.statistics import ClassCenters, ClassDecisions, ClassMoments, batch, nearest
from ncollapse.statistics.batch import Workspace, check_labels, flatten_features


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch, "_BLOCK_ELEMENTS_CPU", 160)


@pytest.mark.parametrize("shape", [(1, 3), (40, 7), (53, 3), (3, 200), (0, 4)])
def test_blocks_and_tiles_put_together_are_the_features_in_float64(shape: tuple[int, int], small_blocks: None) -> None:
    features = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    workspace = Workspace()
    by_rows = torch.full((shape[0], 2, shape[1]), torch.nan, dtype=torch.float64)
    for rows, block in workspace.rows([features, -features]):
        by_rows[rows] = block
    by_tiles = torch.full(shape, torch.nan, dtype=torch.float64)
    for rows, columns, tile in workspace.tiles(features):
        by_tiles[rows, columns] = tile
    assert torch.equal(by_rows, torch.stack([features, -features], dim=1).double())
    assert torch.equal(by_tiles, features.double())


def test_a_room_is_the_same_memory_for_one_purpose_and_another_for_another() -> None:
    workspace = Workspace()
    first = workspace.room("block", torch.empty(4, 5)).fill_(1.0)
    other = workspace.room("shift", torch.empty(4, 5)).fill_(2.0)
    again = workspace.room("block", torch.empty(2, 3))
    assert again.data_ptr() == first.data_ptr()
    assert torch.equal(again, torch.ones(2, 3, dtype=torch.float64))
    assert other.data_ptr() != first.data_ptr()
    assert workspace.room("block", torch.empty(6, 5)).shape == (6, 5)


def test_decisions_block_by_block_are_those_of_all_samples_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(1)
    features, labels = torch.randn(203, 12, generator=generator), torch.arange(203) % 5
    centers = ClassCenters.from_moments(ClassMoments.from_batch(features, labels, 5))
    whole = ClassDecisions.from_batch(features, labels, centers)
    monkeypatch.setattr(batch, "_BLOCK_ELEMENTS_CPU", 160)
    monkeypatch.setattr(nearest, "_MARGIN_ROWS", 7)
    parts = ClassDecisions.from_batch(features, labels, centers)
    assert torch.equal(parts.ncc_correct, whole.ncc_correct)
    assert torch.equal(parts.counts, whole.counts)
    torch.testing.assert_close(parts.margin_sums, whole.margin_sums, rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(parts.within_class, whole.within_class, rtol=1e-13, atol=1e-13)


def test_features_and_labels_of_which_each_process_holds_a_part_are_refused() -> None:
    labels = torch.tensor([0, 1])
    # Stand-ins for DTensors, which no single process can make.
    labels.full_tensor = labels.clone  # type: ignore[attr-defined]
    features = torch.ones(2, 3)
    features.full_tensor = features.clone  # type: ignore[attr-defined]
    with pytest.raises(TypeError, match="features must be whole on every process"):
        flatten_features(features)
    with pytest.raises(TypeError, match="labels must be whole on every process"):
        check_labels(labels, 2, 2)
