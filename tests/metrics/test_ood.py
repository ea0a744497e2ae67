"""NC5 and OOD scores: loops written out, orthogonal complements, whitening, AUROC against scikit-learn."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.decomposition import PCA
from sklearn.metrics import roc_auc_score

import reference
from ncollapse import metrics as m
from ncollapse.statistics import ClassMoments, ClassScatter, LinearClassifier

SEEDS = st.integers(0, 2**32)


def normal(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


LABELS = torch.arange(3).repeat_interleave(torch.tensor([9, 5, 7]))
TRAIN = 2 * normal(0, 3, 5)[LABELS] + normal(1, 21, 5) + 1
ASKED = 3 * normal(2, 8, 5)
MOMENTS, SCATTER = ClassMoments.from_batch(TRAIN, LABELS, 3), ClassScatter.from_batch(TRAIN, LABELS, 3)
MU = reference.means(TRAIN.numpy(), LABELS.numpy(), 3)


def test_orthogonality_written_out():
    mean = ASKED.numpy().mean(axis=0)
    expected = np.mean([abs(mu @ mean) / (np.linalg.norm(mu) * np.linalg.norm(mean)) for mu in MU])
    assert float(m.ood_orthogonality(MOMENTS, ASKED)) == pytest.approx(expected, rel=1e-13)
    axes = ClassMoments.from_batch(torch.eye(4)[:2], torch.arange(2), 2)
    assert float(m.ood_orthogonality(axes, torch.eye(4)[2:])) == 0
    assert float(m.ood_orthogonality(axes, -torch.eye(4)[:1])) == pytest.approx(0.5, rel=1e-15)
    assert math.isnan(float(m.ood_orthogonality(ClassMoments.empty(2, 4), torch.eye(4))))


@pytest.mark.parametrize("standardize", [True, False])
def test_neco_equals_principal_components(standardize):
    X, Z = TRAIN.numpy(), ASKED.numpy()
    if standardize:
        mean, std = X.mean(axis=0), X.std(axis=0)
        X, Z = (X - mean) / std, (Z - mean) / std
        assert m.PrincipalSubspace.fit(TRAIN, 2).scale.numpy() == pytest.approx(std, rel=1e-12)
    P = PCA(n_components=2).fit(X).components_.T
    expected = np.linalg.norm(Z @ P, axis=1) / np.linalg.norm(Z, axis=1)
    subspace = m.PrincipalSubspace.fit(TRAIN, 2, standardize=standardize)
    assert m.neco_score(ASKED, subspace).numpy() == pytest.approx(expected, rel=1e-10)
    logits = normal(3, 8)
    assert m.neco_score(ASKED, subspace, max_logits=logits).numpy() == pytest.approx(expected * logits.numpy(), rel=1e-10)


def test_neco_of_the_orthogonal_complement():
    inside, outside = torch.zeros(20, 6).double(), torch.zeros(9, 6).double()
    inside[:, :2], outside[:, 2:] = normal(4, 20, 2), normal(5, 9, 4)
    inside[:, :2] -= inside[:, :2].mean(dim=0)
    for standardize in (True, False):
        subspace = m.PrincipalSubspace.fit(inside, 2, standardize=standardize)
        scores = m.neco_score(inside, subspace), m.neco_score(outside, subspace)
        assert torch.allclose(scores[0], torch.ones(20).double(), atol=1e-14)
        assert torch.allclose(scores[1], torch.zeros(9).double(), atol=1e-14)
        assert m.auroc(*scores) == 1
    assert [m.PrincipalSubspace.fit(inside, number).directions.shape[1] for number in (1, 6)] == [1, 6]
    for number in (0, 7):
        with pytest.raises(ValueError, match=rf"num_directions must be between 1 and 6, got {number}\. Pass K - 1 or K"):
            m.PrincipalSubspace.fit(inside, number)


def test_nci_written_out():
    classifier = LinearClassifier(normal(6, 3, 5), 2 * normal(7, 3))
    mu, expected, decided = normal(8, 5), [], set()
    for h in ASKED:
        y = int((classifier.weight @ h + classifier.bias).argmax())
        decided.add(y)
        expected.append(float(classifier.weight[y] @ (h - mu) / (h - mu).norm() + 0.3 * h.abs().sum()))
    assert len(decided) > 1
    assert m.nci_score(ASKED, classifier, mu, l1_weight=0.3).tolist() == pytest.approx(expected, rel=1e-13)
    dual = LinearClassifier(torch.eye(5).double()[:3], torch.zeros(3).double())
    assert m.nci_score(7 * dual.weight, dual, torch.zeros(5).double()).tolist() == pytest.approx([1, 1, 1], rel=1e-15)


def test_distances_written_out():
    expected = [-min(np.linalg.norm(h - mu) for mu in MU) for h in ASKED.numpy()]
    assert m.center_distance_score(ASKED, MOMENTS).tolist() == pytest.approx(expected, rel=1e-13)
    assert m.center_distance_score(MOMENTS.means, MOMENTS).tolist() == [0, 0, 0]
    for shrinkage in (0.0, 1e-6, 0.5):
        SW = reference.within_covariance(TRAIN.numpy(), LABELS.numpy(), 3, "sample")
        inverse = np.linalg.inv(SW + shrinkage * np.trace(SW) / 5 * np.eye(5))
        expected = [-min((h - mu) @ inverse @ (h - mu) for mu in MU) for h in ASKED.numpy()]
        assert m.mahalanobis_score(ASKED, SCATTER, shrinkage=shrinkage).tolist() == pytest.approx(expected, rel=1e-10)


def test_mahalanobis_sees_no_linear_map():
    turn = normal(9, 5, 5) + 3 * torch.eye(5)
    moved = ClassScatter.from_batch(TRAIN @ turn + 4, LABELS, 3)
    scores = m.mahalanobis_score(ASKED @ turn + 4, moved, shrinkage=0.0)
    assert scores.tolist() == pytest.approx(m.mahalanobis_score(ASKED, SCATTER, shrinkage=0.0).tolist(), rel=1e-8)


def test_a_singular_covariance_is_named():
    collapsed = ClassScatter.from_batch(TRAIN[:3], torch.arange(3), 3)
    with pytest.raises(ValueError, match=r"regular within-class covariance, got a singular one with shrinkage=1e-06\. Raise"):
        m.mahalanobis_score(ASKED, collapsed)


@given(st.integers(1, 30), st.integers(1, 30), st.integers(1, 6), SEEDS)
def test_auroc_equals_scikit_learn_with_ties(num_in, num_out, levels, seed):
    generator = torch.Generator().manual_seed(seed)
    given_scores = torch.randint(0, levels + 1, (num_in,), generator=generator).double()
    other = torch.randint(0, levels, (num_out,), generator=generator).double()
    expected = roc_auc_score([1] * num_in + [0] * num_out, torch.cat([given_scores, other]).numpy())
    assert m.auroc(given_scores, other) == pytest.approx(expected, rel=1e-12, abs=1e-15)
    assert m.auroc(other, given_scores) == pytest.approx(1 - expected, rel=1e-12, abs=1e-15)


def test_auroc_of_degenerate_scores():
    assert m.auroc(torch.ones(3), torch.ones(4)) == 0.5
    assert math.isnan(m.auroc(torch.tensor([math.nan]), torch.ones(4)))
    with pytest.raises(ValueError, match=r"scores of both kinds, got 0 in-distribution and 4 foreign\. Score samples of both"):
        m.auroc(torch.ones(0), torch.ones(4))
