"""Few-shot episodes against loops, and the bound by CDNV on many distributions."""

import numpy as np
import pytest
import torch
from sklearn.neighbors import NearestCentroid

from ncollapse.analysis import few_shot_accuracy
from ncollapse.metrics import cdnv
from ncollapse.statistics import ClassMoments


def drawn(seed, counts, dim, spread):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    centers = spread * torch.randn(len(counts), dim, generator=generator, dtype=torch.float64)
    scales = torch.rand(len(counts), 1, generator=generator, dtype=torch.float64) + 0.1
    return centers[labels] + scales[labels] * torch.randn(len(labels), dim, generator=generator, dtype=torch.float64), labels


def test_episodes_written_out():
    features, labels = drawn(0, [9, 12, 3, 20], 4, 1.0)
    found = few_shot_accuracy(features, labels, shots=3, ways=2, episodes=7, seed=4)
    generator, values = torch.Generator().manual_seed(4), []
    kept = [k for k in range(4) if int((labels == k).sum()) > 3]
    for _ in range(7):
        chosen = [kept[i] for i in torch.randperm(3, generator=generator)[:2].tolist()]
        parts = []
        for k in chosen:
            rows = (labels == k).nonzero().flatten()
            parts.append(features[rows[torch.randperm(len(rows), generator=generator)]].numpy())
        model = NearestCentroid().fit(np.concatenate([part[:3] for part in parts]), [0] * 3 + [1] * 3)
        values.append(np.mean([(model.predict(part[3:18]) == index).mean() for index, part in enumerate(parts)]))
    assert found.accuracy == pytest.approx(np.mean(values), abs=1e-12)
    assert found.standard_error == pytest.approx(np.std(values, ddof=1) / np.sqrt(7), abs=1e-12)
    spread = float(cdnv(ClassMoments.from_batch(features[labels != 2], torch.tensor([0, 1, -1, 2])[labels[labels != 2]], 3)))
    assert found.bound == pytest.approx(1 - 4 * (1 + 1 / np.sqrt(3)) ** 2 * spread, rel=1e-12)
    assert found.ways == 2


@pytest.mark.parametrize("spread", [2.0, 8.0, 20.0])
@pytest.mark.parametrize("shots", [1, 5])
def test_the_bound_holds(spread, shots):
    features, labels = drawn(int(spread), [40, 25, 30], 6, spread)
    found = few_shot_accuracy(features, labels, shots=shots, episodes=60)
    assert found.accuracy + 3 * found.standard_error >= found.bound


def test_the_bound_is_not_far_from_two_points():
    # Each class has two values, so that half of the samples are wrong where CDNV is 1/2: far from vacuous distributions.
    features, labels = drawn(3, [30, 30], 3, 40.0)
    found = few_shot_accuracy(features, labels, shots=5, episodes=20)
    assert found.accuracy == 1
    assert 0.9 < found.bound < 1


def test_collapsed_classes_transfer_perfectly():
    labels = torch.arange(4).repeat_interleave(8)
    found = few_shot_accuracy(torch.eye(4)[labels], labels, shots=1)
    assert (found.accuracy, found.standard_error, found.bound, found.ways) == (1.0, 0.0, 1.0, 4)


def test_refusals():
    with pytest.raises(ValueError, match=r"two classes with more than 5 samples .* got 1 such"):
        few_shot_accuracy(torch.zeros(9, 2), torch.tensor([0] * 6 + [1] * 3))
    with pytest.raises(ValueError, match="shots=0"):
        few_shot_accuracy(torch.zeros(9, 2), torch.tensor([0] * 5 + [1] * 4), shots=0)
