"""What the experiments on strangers compute themselves, against scikit-learn."""

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from ncollapse.data.labeled import LabeledData
from ncollapse.experiments import EXPERIMENTS, review_strangers
from ncollapse.experiments.review_strangers import Data, LayerFound, areas_of, by_layer
from ncollapse.models import build_model
from ncollapse.recipes import FCResNetConfig
from ncollapse.statistics.centers import LinearClassifier


def rows(seed, n, shift):
    return shift + torch.randn(n, 5, generator=torch.Generator().manual_seed(seed))


def test_areas_are_those_of_scikit_learn():
    labels = torch.arange(60) % 3
    features, known, foreign = rows(1, 60, labels.unsqueeze(1)), rows(2, 30, 1.0), rows(3, 40, -1.0)
    head = LinearClassifier(torch.eye(3, 5, dtype=torch.float64), torch.zeros(3, dtype=torch.float64))
    found = areas_of(features, labels, known, {"far": foreign}, head)
    both = torch.cat([known, foreign]).double().numpy()
    is_known = np.arange(70) < 30
    logits = both[:, :3]
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    means = np.stack([features.double().numpy()[labels == k].mean(axis=0) for k in range(3)])
    residuals = features.double().numpy() - means[labels]
    inverse = np.linalg.inv(residuals.T @ residuals / 60)
    off = both[:, None] - means
    distances = np.einsum("nki,ij,nkj->nk", off, inverse, off).min(axis=1)
    expected = {
        "softmax": roc_auc_score(is_known, shares.max(axis=1)),
        "energy": roc_auc_score(is_known, np.log(np.exp(logits).sum(axis=1))),
        "mahalanobis": roc_auc_score(is_known, -distances),
    }
    for score, area in expected.items():
        assert found["far", score] == pytest.approx(area, abs=1e-9)


def test_every_layer_is_judged_for_every_kind_of_strangers():
    labels = torch.arange(60) % 3
    known = LabeledData(rows(1, 60, labels.unsqueeze(1)), labels, 3, "known")
    far = LabeledData(rows(3, 20, -9.0), torch.zeros(20, dtype=torch.int64), 1, "far")
    model = build_model(FCResNetConfig(width=6, num_blocks=2), (5,), 3, 0, None)
    found = by_layer(model, Data(known, known, {"far": far, "own": known}))
    assert len(found) == 3
    assert all(layer.areas["own", "energy"] == 0.5 for layer in found)
    assert all(layer.areas["far", "mahalanobis"] == 1 for layer in found)
    # The stem without bias takes minus the mean to minus its image.
    assert found[0].cosines["far"] > 0.9


def test_each_kind_of_strangers_has_the_decades_of_its_own_cosine(monkeypatch):
    """At the last layer: before training over after it."""

    def layers(*cosines):
        first = dict.fromkeys(("new classes", "digits", "noise"), 7.0)
        return [LayerFound({}, first, 1.0), LayerFound({}, dict(zip(first, cosines, strict=True)), 1.0)]

    monkeypatch.setattr(review_strangers, "_measured", lambda work: (layers(0.01, 0.1, 0.5), layers(0.1, 0.1, 0.05)))
    found = {name: EXPERIMENTS[f"review:strangers-nc5-{name}"].measure(None) for name in ("classes", "digits", "noise")}
    assert {name: item.value for name, item in found.items()} == pytest.approx({"classes": 1.0, "digits": 0.0, "noise": -1.0})
    assert [(point.line, point.y) for point in found["noise"].points] == [
        ("trained", 7.0), ("trained", 0.5), ("not trained", 7.0), ("not trained", 0.05),
    ]  # fmt: skip
