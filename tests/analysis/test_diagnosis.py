"""A diagnosis against plain scikit-learn and NumPy on features that were collected by another way."""

import copy
import csv
import dataclasses
import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from sklearn.linear_model import Ridge
from sklearn.metrics import roc_auc_score, roc_curve
from sklearn.neighbors import KNeighborsClassifier, NearestCentroid

import ncollapse as nc
from analysis.small_network import batches_of, drawn, network
from ncollapse.analysis import false_positive_rate
from ncollapse.depth import linear_cka
from ncollapse.records.rows import CLASS_COLUMNS, PAIR_COLUMNS
from ncollapse.report import write_layers_page

FOREIGN = 2 * torch.randn(25, 5, generator=torch.Generator().manual_seed(5)) + 1


@pytest.fixture(scope="module")
def diagnosed():
    net, train, test = network(3), batches_of(drawn(0, 3, 60)), batches_of(drawn(1, 3, 40))
    options = {"strangers": {"noise": list(FOREIGN.split(10))}, "new_labels": {"coarse": [0, 1, 1]}, "k": 1, "ridge": 0.01}
    before = copy.deepcopy(net.state_dict())
    found = nc.diagnose(net, train, num_classes=3, test=test, class_names=["cat", "dog", "owl"], **options)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in net.modules())
    assert net.training
    layers = {name: nc.collect_features(net, data, num_classes=3) for name, data in (("train", train), ("test", test))}
    foreign = nc.collect_features(net, [(FOREIGN, torch.zeros(25, dtype=torch.long))], num_classes=3)[0]
    return found, net, layers, foreign


def rows_at(diagnosed, layer):
    _, _, layers, _ = diagnosed
    return {split: (features[layer].double().numpy(), labels.numpy()) for split, (features, labels) in layers.items()}


LAYERS = ["stem", "blocks.0", "blocks.1"]


@pytest.mark.parametrize("layer", LAYERS)
def test_decisions_equal_scikit_learn(diagnosed, layer):
    found, data = diagnosed[0], rows_at(diagnosed, layer)
    X, y = data["train"]
    centroids = NearestCentroid().fit(X, y)
    alpha = 0.01 * ((X - X.mean(axis=0)) ** 2).sum() / X.shape[1]
    probe = Ridge(alpha, solver="cholesky").fit(X, np.eye(3)[y])
    for split, (Z, labels) in data.items():
        assert found.value("ncc", layer, split) == pytest.approx((centroids.predict(Z) == labels).mean(), abs=1e-12)
        asked = probe.predict(Z).argmax(axis=1)
        assert found.value("probe", layer, split) == pytest.approx((asked == labels).mean(), abs=1e-12)
    neighbors = KNeighborsClassifier(1).fit(X, y)
    assert found.value("knn", layer) == pytest.approx(neighbors.score(*data["test"]), abs=1e-12)
    others = neighbors.kneighbors(n_neighbors=1, return_distance=False)[:, 0]
    assert found.value("knn", layer, "train") == pytest.approx((y[others] == y).mean(), abs=1e-12)


def test_neighbors_of_two_classes():
    net, train, test = network(2), drawn(2, 2, 41), drawn(3, 2, 30)
    found = nc.diagnose(net, batches_of(train), num_classes=2, test=batches_of(test), k=5)
    features = {name: nc.collect_features(net, [pair], num_classes=2)[0] for name, pair in (("train", train), ("test", test))}
    for layer in LAYERS:
        model = KNeighborsClassifier(5).fit(features["train"][layer].double().numpy(), train[1].numpy())
        expected = model.score(features["test"][layer].double().numpy(), test[1].numpy())
        assert found.value("knn", layer) == pytest.approx(expected, abs=1e-12)


def plain_scores(X, y, asked, head):
    """The four scores in NumPy."""
    mean, std = X.mean(axis=0), X.std(axis=0)
    P = PCA(n_components=2).fit((X - mean) / std).components_
    Z = (asked - mean) / std
    means = np.stack([X[y == k].mean(axis=0) for k in range(3)])
    within = sum((X[y == k] - means[k]).T @ (X[y == k] - means[k]) for k in range(3)) / len(X)
    inverse = np.linalg.inv(within + 1e-6 * np.trace(within) / len(within) * np.eye(len(within)))
    off = asked[:, None] - means
    logits = asked @ head[0].T + head[1]
    rows = head[0][logits.argmax(axis=1)]
    return {
        "neco": np.linalg.norm(Z @ P.T, axis=1) / np.linalg.norm(Z, axis=1),
        "nci": ((asked - mean) * rows).sum(axis=1) / np.linalg.norm(asked - mean, axis=1),
        "mahalanobis": -np.einsum("nkd,de,nke->nk", off, inverse, off).min(axis=1),
        "energy": np.log(np.exp(logits).sum(axis=1)),
    }


@pytest.mark.parametrize("layer", LAYERS)
def test_detection_equals_scikit_learn(diagnosed, layer):
    found, net, _, foreign = diagnosed
    data = rows_at(diagnosed, layer)
    X, y = data["train"]
    alpha = 0.01 * ((X - X.mean(axis=0)) ** 2).sum() / X.shape[1]
    probe = Ridge(alpha, solver="cholesky").fit(X, np.eye(3)[y])
    head = (probe.coef_, probe.intercept_)
    if layer == "blocks.1":
        head = (net.head.weight.detach().double().numpy(), net.head.bias.detach().double().numpy())
    known, other = (plain_scores(X, y, Z, head) for Z in (data["test"][0], foreign[layer].double().numpy()))
    for score, values in known.items():
        truth, both = np.r_[np.ones(len(values)), np.zeros(25)], np.r_[values, other[score]]
        assert found.value(f"auroc.noise.{score}", layer) == pytest.approx(roc_auc_score(truth, both), abs=1e-9)
        false, true, _ = roc_curve(truth, both, drop_intermediate=False)
        assert found.value(f"fpr95.noise.{score}", layer) == pytest.approx(false[true >= 0.95 - 1e-12][0], abs=1e-9)


def test_false_positive_rate():
    known = torch.arange(20.0)
    assert false_positive_rate(known, torch.tensor([0.5, 1.0, 5.0, -1.0])) == 0.5  # 19 of 20 are at least 1
    assert false_positive_rate(known, torch.tensor([-1.0])) == 0
    assert math.isnan(false_positive_rate(known, torch.tensor([math.nan])))
    with pytest.raises(ValueError, match="both kinds, got 20 and 0"):
        false_positive_rate(known, torch.zeros(0))


def test_leaving_a_block_out_equals_the_network_without_it(diagnosed):
    found, net, _, _ = diagnosed
    x, y = drawn(1, 3, 40)
    with torch.no_grad():
        for index, layer in ((1, "blocks.0"), (0, "blocks.1")):
            logits = net.head(net.blocks[index](net.stem(x)))
            expected = float((logits.argmax(dim=1) == y).double().mean())
            assert found.value("left_out", layer) == pytest.approx(expected, abs=1e-12)
        assert found.record.accuracy["test"] == pytest.approx(float((net(x).argmax(dim=1) == y).double().mean()), abs=1e-12)
    assert math.isnan(found.value("left_out", "stem"))


def test_similarity_and_spectrum(diagnosed):
    found, _, layers, _ = diagnosed
    features, _ = layers["train"]
    for name, after in pairwise(LAYERS):
        assert found.value("cka_next", name, "train") == pytest.approx(float(linear_cka(features[name], features[after])))
    s = np.linalg.svd(features["stem"].double().numpy(), compute_uv=False)
    p = s / s.sum()
    assert found.value("rankme", "stem", "train") == pytest.approx(np.exp(-(p * np.log(p)).sum()), rel=1e-9)
    assert np.shape(found.record.cka) == (3, 3)


def test_classes_and_pairs(diagnosed):
    found, data = diagnosed[0], rows_at(diagnosed, "blocks.1")
    X, y = data["train"]
    means = np.stack([X[y == k].mean(axis=0) for k in range(3)])
    variances = [((X[y == k] - means[k]) ** 2).sum(axis=1).mean() for k in range(3)]
    squares = ((means[:, None] - means) ** 2).sum(axis=2)
    scale = math.sqrt(squares[np.triu_indices(3, 1)].mean())
    decided = NearestCentroid().fit(X, y).predict(data["test"][0])
    for item in found.record.classes:
        k = item.index
        others = [j for j in range(3) if j != k]
        assert item.name == ["cat", "dog", "owl"][k]
        assert item.variance == pytest.approx(variances[k], rel=1e-9)
        assert item.nearest == min(others, key=lambda j: squares[k, j])
        assert item.distance == pytest.approx(math.sqrt(min(squares[k, others])) / scale, rel=1e-9)
        assert item.cdnv == pytest.approx(
            np.mean([(variances[k] + variances[j]) / 2 / squares[k, j] for j in others]), rel=1e-9
        )
        mine = data["test"][1] == k
        assert item.test == pytest.approx((decided[mine] == k).mean(), abs=1e-12)
    for pair in found.record.pairs:
        i, j, truth = pair.first, pair.second, data["test"][1]
        wrong = ((truth == i) & (decided == j)).sum() + ((truth == j) & (decided == i)).sum()
        assert pair.confusion == pytest.approx(wrong / np.isin(truth, [i, j]).sum(), abs=1e-12)
        assert pair.distance == pytest.approx(math.sqrt(squares[i, j]) / scale, rel=1e-9)


def test_tables_are_written(diagnosed, tmp_path):
    found = diagnosed[0]
    folder = found.save(tmp_path / "new")
    tables = {
        name: list(csv.reader((folder / name).read_text().splitlines())) for name in ("layers.csv", "classes.csv", "pairs.csv")
    }
    assert tables["classes.csv"][0] == list(CLASS_COLUMNS)
    assert tables["pairs.csv"][0] == list(PAIR_COLUMNS)
    assert len(tables["layers.csv"]) == 1 + len(found.rows)
    values = {tuple(line[3:6]): float(line[6]) for line in tables["pairs.csv"][1:]}
    assert values["0", "1", "cdnv"] == next(pair.cdnv for pair in found.record.pairs if (pair.first, pair.second) == (0, 1))
    frame = found.to_pandas()
    assert frame.loc[frame.layer == "blocks.0", "probe.test"].item() == found.value("probe", "blocks.0")
    assert "Redundant after" in str(found) or "No layer is redundant" in str(found)


def test_one_layer_has_none_before_it(tmp_path):
    found = nc.diagnose(network(5), [(torch.randn(20, 5), torch.arange(20) % 5)], num_classes=5, layers=["blocks.1"])
    assert found.verdicts()[0].startswith("Only blocks.1 was read. The best head on it reaches ")
    assert "redundant" not in " ".join(found.verdicts())
    assert "Similarity of layers" not in write_layers_page(found.record, tmp_path / "page.html").read_text()


def test_all_layers_are_needed_where_no_head_suffices(tmp_path, diagnosed, monkeypatch):
    worse = dataclasses.replace(diagnosed[0].record, accuracy={"train": 1.2, "test": 1.2})
    count = len(worse.layers)
    monkeypatch.setattr("ncollapse.report.layers_page.EPSILON", 0.125)
    assert "effective depth (error ≤ 0.125)" in write_layers_page(worse, tmp_path / "page.html").read_text()
    assert f"{count} of {count}" in write_layers_page(worse, tmp_path / "page.html").read_text()


def test_merged_minorities_are_named():
    # Classes 2 and 3 are few and the same; class 4 has no sample.
    generator = torch.Generator().manual_seed(1)
    labels = torch.tensor([0] * 40 + [1] * 40 + [2] * 10 + [3] * 10)
    centers = torch.tensor([[6.0, 0, 0, 0, 0], [0, 6, 0, 0, 0], [0, 0, 6, 0, 0], [0, 0, 6, 0, 0]])
    inputs = centers[labels] + torch.randn(100, 5, generator=generator)
    found = nc.diagnose(network(5), [(inputs, labels)], num_classes=5, class_names=list("abcde"))
    assert found.record.merged == ((2, 3),)
    assert found.record.names == {0: "a", 1: "b", 2: "c", 3: "d"}
    assert any(line.startswith("Merged at blocks.1: c and d.") for line in found.verdicts())
    assert [(group.name, group.num_classes, group.most) for group in found.record.groups] == [("many", 2, 40), ("few", 2, 10)]
    few = found.record.groups[1]
    assert few.distance < 0.5 < found.record.groups[0].distance


def test_wide_convolutions_are_averaged():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = torch.nn.Sequential(
            *(torch.nn.Conv2d(1, 4, 3, padding=1), torch.nn.ReLU(), torch.nn.Conv2d(4, 4, 3, padding=1), torch.nn.ReLU()),
            *(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(4, 2)),
        )
    images, labels = torch.randn(20, 1, 6, 6, generator=torch.Generator().manual_seed(2)), torch.arange(20) % 2
    wide = nc.diagnose(net, [(images, labels)], num_classes=2, layers=["1", "3"], k=1)
    narrow = nc.diagnose(net, [(images, labels)], num_classes=2, layers=["1", "3"], k=1, max_dim=100)
    assert wide.record.dims[:2] == (144, 144)
    assert narrow.record.dims[:2] == (4, 4)
    assert narrow.record.notes == {"1": "mean over 6 × 6 positions", "3": "mean over 6 × 6 positions"}
    pooled = nc.diagnose(net, [(images, labels)], num_classes=2, layers=[nc.Tap("1", "mean"), nc.Tap("3", "mean")], k=1)
    for metric in ("ncc", "probe", "knn", "rankme"):
        assert narrow.value(metric, "1", "train") == pytest.approx(pooled.value(metric, "1:mean", "train"), rel=1e-9)


def test_tasks_of_their_own_data():
    found = nc.diagnose(
        network(3), [drawn(0, 3, 60)], num_classes=3, new_labels={"other": [drawn(4, 4, 80)]}, shots=2, max_samples=50
    )
    assert found.record.tasks == ("other",)
    assert 0 <= found.value("few_shot.other", "stem") <= 1
    assert any(line.startswith("Transfer to other from") for line in found.verdicts())
    assert found.record.num_samples == {"train": 50}


def test_refusals():
    net, data = network(3), [drawn(0, 3, 30)]
    with pytest.raises(ValueError, match="class_names must name all 3 classes, got 1"):
        nc.diagnose(net, data, num_classes=3, class_names=["cat"])
    with pytest.raises(ValueError, match="two classes must have training samples, got 1"):
        nc.diagnose(net, [(torch.zeros(4, 5), torch.zeros(4, dtype=torch.long))], num_classes=3)
    with pytest.raises(ValueError, match=r"must map 3 classes to integers of 0 or more, got shape \(2,\)"):
        nc.diagnose(net, data, num_classes=3, new_labels={"coarse": [0, 1]})
    with pytest.raises(ValueError, match="k and shots must be at least 1, got 0 and 5"):
        nc.diagnose(net, data, num_classes=3, k=0)
    with pytest.raises(ValueError, match="must be finite, got NaN or inf at layer 'stem'"):
        nc.diagnose(net, [(torch.full((4, 5), math.nan), torch.arange(4) % 3)], num_classes=3)


def test_a_network_without_logits_is_compared_with_its_last_layer():
    net = network(3)
    net.head = torch.nn.Identity()
    found = nc.diagnose(net, [drawn(0, 3, 60)], num_classes=3, layers=LAYERS, test=[drawn(1, 3, 40)])
    assert math.isnan(found.record.accuracy["test"])
    assert "best head on the last layer" in found.verdicts()[0]


def test_few_held_out_samples_do_not_merge_classes():
    net, train = network(3), batches_of(drawn(0, 3, 60))
    few = nc.diagnose(net, train, num_classes=3, test=[drawn(1, 3, 12)])
    many = nc.diagnose(net, train, num_classes=3, test=[drawn(1, 3, 15)])
    assert (few.record.decided, few.record.judged, many.record.judged) == ("test", "train", "test")
    assert few.record.pairs == nc.diagnose(net, train, num_classes=3).record.pairs
