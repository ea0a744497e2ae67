"""What the review's experiments on held-out data and on depth compute themselves, against independent computations."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from ncollapse.data.batches import Batches
from ncollapse.experiments import EXPERIMENTS, Work
from ncollapse.experiments.experiment import least
from ncollapse.experiments.review_depth import beyond_chance, decisions
from ncollapse.experiments.review_testing import _less_on_test, at_end, corner_distances
from ncollapse.probe import collect_features

TINY = (
    "data.per_class=12",
    "model.width=12",
    "model.num_blocks=1",
    "train.epochs=6",
    "train.batch_size=10",
    "measure.epochs=[0,6]",
    "measure.test=true",
    "measure.transport_samples=0",
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    work = Work(1, False, tmp_path_factory.mktemp("runs"), lambda words: None)
    return work, work.run("demo", *TINY)


def features(work, run, *settings):
    model, data = work.network(run), work.samples(run, *settings)
    return model, data, collect_features(model, Batches(data, 50), num_classes=10)[0]["blocks.0"].double().numpy()


def test_values_of_the_test_split_are_those_of_its_samples(trained):
    work, run = trained
    _, train, rows = features(work, run)
    model, test, asked = features(work, run, "data.split=test")
    means = np.stack([rows[train.labels == k].mean(axis=0) for k in range(10)])
    spread = ((means - means.mean(axis=0)) ** 2).sum() / 10
    distances = ((asked[:, None] - means) ** 2).sum(axis=2)
    own = distances[np.arange(len(asked)), test.labels]
    by_class = [np.mean([part[test.labels == k].mean() for k in range(10)]) for part in (own, distances.min(axis=1))]
    assert at_end(run, "strong_collapse", "test") == pytest.approx(by_class[0] / spread, rel=1e-5)
    assert at_end(run, "weak_collapse", "test") == pytest.approx(by_class[1] / spread, rel=1e-5)
    right = float((decisions(model, test) == test.labels).double().mean())
    assert at_end(run, "accuracy", "test") == pytest.approx(right, abs=1e-12)


def test_both_kinds_of_test_collapse_are_compared_with_the_training_set(trained):
    work, run = trained
    _, train, rows = features(work, run)
    _, test, asked = features(work, run, "data.split=test")
    means = np.stack([rows[train.labels == k].mean(axis=0) for k in range(10)])

    def mean_distances(samples, labels):
        distances = ((samples[:, None] - means) ** 2).sum(axis=2)
        own = distances[np.arange(len(labels)), labels]
        return [np.mean([part[labels == k].mean() for k in range(10)]) for part in (own, distances.min(axis=1))]

    expected = [np.log10(on_test / on_train) for on_test, on_train in zip(
        mean_distances(asked, test.labels), mean_distances(rows, train.labels), strict=True)]  # fmt: skip
    found = [_less_on_test(run, metric) for metric in ("strong_collapse", "weak_collapse")]
    assert found == pytest.approx(expected, rel=1e-4)


def test_the_least_of_gains_is_undefined_where_one_of_them_is():
    assert least([0.5, -0.2]) == -0.2
    assert np.isnan(least([0.5, np.nan, 1.0]))
    assert np.isnan(least(iter([np.nan, 0.5])))


def test_distances_to_corners_are_those_of_points_to_unit_vectors(trained):
    _, run = trained
    found = run.samples.epochs[6]
    # Ten means in twelve dimensions: the corner of class k is e_k - 1/10.
    corners = np.eye(10)[found.labels] - 0.1
    off = np.linalg.norm(found.points[-1].astype(float) - corners, axis=1).mean() / np.sqrt(0.9)
    assert corner_distances(run, 6)[-1] == pytest.approx(off, abs=2e-3)
    assert corner_distances(run, 6)[-1] < corner_distances(run, 0)[-1]


def test_agreement_beyond_chance_is_that_of_expected_counts():
    one, other = torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 1, 1])
    # Three of four agree; by chance 1/2 · 1/4 + 1/2 · 3/4.
    assert beyond_chance(one, other) == pytest.approx(0.75 - 0.5, abs=1e-15)


def test_batch_normalization_helps_by_what_it_adds_to_the_fall_without_it():
    """Decades by which PFC1 falls: two with normalization, half a decade without."""
    ends = {"mid": {0: 1.0, None: 0.01}, "none": {0: 1.0, None: 10**-0.5}}

    def run(name, *settings):
        kind = settings[-1].partition("=")[2]
        return SimpleNamespace(epochs=[0], depths=["last"], value=lambda metric, layer, epoch, split: ends[kind][epoch])

    work = SimpleNamespace(run=run)
    assert EXPERIMENTS["review:sec3.1.4-helps"].measure(work).value == pytest.approx(1.5)
    assert EXPERIMENTS["review:sec3.1.4-without"].measure(work).value == pytest.approx(-0.5)
