"""What the review's experiments on transfer compute themselves, against independent computations."""

import numpy as np
import pytest
import torch

from ncollapse.data.labeled import LabeledData
from ncollapse.experiments import Work, review_transfer
from ncollapse.experiments.review_transfer import variance_bound, with_labels
from ncollapse.metrics import cdnv
from ncollapse.statistics.moments import ClassMoments


def drawn(seed, sizes, dim=4):
    generator = torch.Generator().manual_seed(seed)
    return [3 * k + torch.randn(n, dim, generator=generator, dtype=torch.float64) for k, n in enumerate(sizes)]


def test_the_variance_is_that_of_the_metric_and_its_bound_that_of_equation_16():
    population, sample = drawn(1, (40, 50, 60)), drawn(2, (5, 6, 7))
    found, wanted, bound = variance_bound(sample, population)
    for classes, values in ((sample, found), (population, wanted)):
        labels = torch.cat([torch.full((len(rows),), k) for k, rows in enumerate(classes)])
        assert float(values.mean()) == pytest.approx(float(cdnv(ClassMoments.from_batch(torch.cat(classes), labels, 3))))
    (m0, m2), (s0, s2) = ([part[k].numpy().mean(axis=0) for k in (0, 2)] for part in (population, sample))
    (v0, v2), (w0, w2) = ([part[k].numpy().var(axis=0).sum() for k in (0, 2)] for part in (population, sample))
    a = (np.linalg.norm(m0 - s0) + np.linalg.norm(m2 - s2)) / np.linalg.norm(m0 - m2)
    b = (abs(v0 - w0) + abs(v2 - w2)) / (2 * np.linalg.norm(s0 - s2) ** 2)
    right = ((w0 + w2) / (2 * np.linalg.norm(s0 - s2) ** 2) + b) * (1 + a) ** 2
    assert float(bound[1]) == pytest.approx(right, rel=1e-12)
    assert bool((wanted <= bound).all())


def test_the_bound_is_tight_for_the_population_itself():
    population = drawn(3, (10, 20))
    found, wanted, bound = variance_bound(population, population)
    assert torch.equal(found, wanted)
    assert torch.equal(bound, wanted)


def test_labels_are_mapped_and_samples_kept():
    data = LabeledData(torch.arange(6.0).reshape(3, 2), torch.tensor([2, 0, 1]), 3, "three")
    coarse = with_labels(data, (0, 1, 1))
    assert coarse.labels.tolist() == [1, 0, 1]
    assert coarse.num_classes == 2
    assert torch.equal(coarse.inputs, data.inputs)


def test_mcr2_is_compared_with_the_better_of_the_other_losses(tmp_path, monkeypatch):
    accuracies = {"mcr2": 0.7, "mse": 0.4, "cross_entropy": 0.6}
    work = Work(0, False, tmp_path, print)
    monkeypatch.setattr(review_transfer, "small_run", lambda work, *settings: " ".join(settings))
    monkeypatch.setattr(review_transfer, "at_end", lambda run, metric: 0.5)
    monkeypatch.setattr(review_transfer, "by_depth", lambda model, data, seed: [0.0, accuracies[model]])
    monkeypatch.setattr(
        work, "network", lambda run: next((loss for loss in accuracies if f"loss={loss}" in run), "cross_entropy")
    )
    data = LabeledData(torch.zeros(10, 2), torch.arange(10), 10, "drawn")
    monkeypatch.setattr(work, "samples", lambda run, *settings: data)
    assert review_transfer.losses(work).value == pytest.approx(0.7 - 0.6)


def test_a_network_of_coarse_classes_is_asked_for_the_fine_ones(tmp_path, monkeypatch):
    work = Work(3, False, tmp_path, print)
    monkeypatch.setattr(review_transfer, "small_run", lambda work, *settings: settings)
    monkeypatch.setattr(review_transfer, "untrained", lambda run: "before")
    monkeypatch.setattr(review_transfer, "_first_and_last", lambda *given: given)
    monkeypatch.setattr(work, "network", lambda run: run)
    monkeypatch.setattr(work, "samples", lambda run, *settings: settings)
    model, before, data, seed, sign = review_transfer.splitting(work)
    assert (model, before, seed, sign) == (("data.labels=coarse",), "before", 3, -1)
    assert data[-1] == "data.labels=fine"


def test_glosses_are_split_into_files_and_merged_into_parts_of_speech(tmp_path, monkeypatch):
    work = Work(3, False, tmp_path, print)
    monkeypatch.setattr(review_transfer, "untrained", lambda run: "before")
    monkeypatch.setattr(review_transfer, "_first_and_last", lambda *given: given)
    monkeypatch.setattr(work, "run", lambda name, *settings: settings)
    monkeypatch.setattr(work, "network", lambda run: run[-1])
    monkeypatch.setattr(work, "samples", lambda run, *settings: settings)
    test = ("data.split=test", "data.per_class=100")
    split, merged = review_transfer.splitting_glosses(work), review_transfer.merging_glosses(work)
    assert split == ("data.labels=coarse", "before", (*test, "data.labels=fine"), 3, -1)
    assert merged == ("measure.transport_samples=0", "before", (*test, "data.labels=coarse"), 3, 1)
