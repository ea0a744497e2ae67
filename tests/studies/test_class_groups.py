"""Classes of unequal size in a run: the numbers of those with many and with few samples equal plain loops, on the page too."""

import itertools
import re

import pytest
import torch

from ncollapse.data import load_samples
from ncollapse.metrics import METRICS
from ncollapse.probe import collect_features
from ncollapse.records import read_run
from ncollapse.report import write_page
from ncollapse.studies import override, recipe_by_name, run_recipe
from ncollapse.studies.run_metrics import group_metrics
from ncollapse.targets import load_network

UNEQUAL = override(
    recipe_by_name("demo"),
    [
        "data.per_class=40", "data.imbalance=8", "data.minority=3", "measure.test=true", "train.epochs=3", "measure.epochs=[3]",
        "train.checkpoint_every=1", "model.width=16", "model.num_blocks=1", "measure.transport_samples=0",
        "train.batch_size=50", "train.learning_rate=0.02", "train.balance=weights",
    ],
)  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return run_recipe(UNEQUAL, tmp_path_factory.mktemp("groups") / "run")


def cosine(rows):
    pairs = list(itertools.combinations(rows, 2))
    return sum(float(a @ b / (a.norm() * b.norm())) for a, b in pairs) / len(pairs)


def features_of(network, data):
    kept, _ = collect_features(network, [(data.inputs, data.labels)], num_classes=10, layers=["blocks.0"])
    return kept["blocks.0"].double()


def test_numbers_of_a_group_equal_plain_loops(folder):
    network, test, run = load_network(folder), load_samples(UNEQUAL.data.test_part), read_run(folder)
    train = load_samples(UNEQUAL.data)
    assert train.labels.bincount().tolist() == [40] * 7 + [5] * 3
    found = {(row.split, row.layer, row.metric): row.value for row in run.rows}
    own, held = features_of(network, train), features_of(network, test)
    means = torch.stack([own[train.labels == k].mean(0) for k in range(10)])
    centered = means - means.mean(0)
    rows = network.get_submodule(network.collapse_classifier).weight.detach().double()
    chosen = network.eval()(test.inputs).argmax(1)
    for group, classes in (("many", range(7)), ("few", range(7, 10))):
        of_group = torch.isin(test.labels, torch.tensor(list(classes)))
        nearest = torch.cdist(held[of_group], means).argmin(1)
        spread = sum(own[train.labels == k].var(0, correction=0).sum() for k in classes) / len(classes)
        expected = {
            ("test", "accuracy"): (chosen == test.labels)[of_group].double().mean(),
            ("test", "pfc3"): (nearest == test.labels[of_group]).double().mean(),
            ("train", "pfc1"): spread / centered.square().sum(1).mean(),
            ("train", "cosine"): cosine(centered[list(classes)]),
            ("train", "cosine_weights"): cosine(rows[list(classes)]),
        }
        for (split, metric), value in expected.items():
            assert found[split, "blocks.0", f"{metric}.{group}"] == pytest.approx(float(value), rel=1e-6)


def test_the_page_has_a_row_for_each_group_and_split(folder, tmp_path):
    run = read_run(folder)
    page = re.sub(r"\s+", " ", write_page(folder, tmp_path / "page.html").read_text(encoding="utf-8"))
    part = page.split("Classes with many and with few training samples")[1].split("</section>")[0]
    assert re.findall(r'scope="row">(\w+)</th><td>(\w+)</td>', part) == [
        ("many", "train"), ("few", "train"), ("many", "test"), ("few", "test"),
    ]  # fmt: skip
    assert f"<td>{run.value('accuracy.few', 1):.4g}</td>" in part
    assert "accuracy of the network, classes with few samples" in page


def test_classes_of_one_size_have_no_groups():
    assert group_metrics(torch.tensor([5, 5, 5])) == []
    known = [metric.id for metric in group_metrics(torch.tensor([50, 20, 9, 5]))]
    assert known[0] == "accuracy.many"
    assert len(known) == 10
    assert not set(known) & set(METRICS)
