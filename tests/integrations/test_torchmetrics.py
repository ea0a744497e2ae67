"""A metric of torchmetrics: in a collection, in Lightning's logs, saved and restored, copied, and in two processes."""

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

torchmetrics = pytest.importorskip("torchmetrics")

from training import K, data, network  # noqa: E402

from ncollapse.integrations.torchmetrics import CollapseMetric  # noqa: E402
from ncollapse.probe import measure_features  # noqa: E402
from ncollapse.torchrun import leave  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")
FEATURES, LABELS = data()
EXPECTED = measure_features(FEATURES, LABELS, num_classes=K, metrics=["all"])
IDS = ("pfc1", "pfc3", "nc1", "nc2_max_angle")


def batches(size=10):
    return list(zip(FEATURES.split(size), LABELS.split(size), strict=True))


def test_a_collection_has_the_values_of_measure_features_and_keeps_features_once():
    collection = torchmetrics.MetricCollection({name: CollapseMetric(name, num_classes=K) for name in IDS}, prefix="train/")
    buffer = torch.empty(10, FEATURES.shape[1])
    for _ in range(2):
        for features, labels in batches():
            # A loop may write every batch into one buffer.
            view = buffer[: len(features)].copy_(features)
            collection.update(view, labels)
        values = collection.compute()
        assert {name: value.item() for name, value in values.items()} == {f"train/{n}": EXPECTED.value(n) for n in IDS}
        assert all(value.dtype == torch.float64 for value in values.values())
        assert [*collection.compute_groups.values()] == [[*sorted(IDS)]]
        collection.reset()
    with pytest.raises(ValueError, match=r"at least one batch since the start or the last reset, got none\. Call update first"):
        collection.compute()


def test_forward_returns_the_value_of_the_batch_and_adds_it():
    metric = CollapseMetric("pfc1", num_classes=K)
    for features, labels in batches(20):
        alone = measure_features(features, labels, num_classes=K, metrics=["pfc1"]).value("pfc1")
        assert metric(features, labels).item() == pytest.approx(alone, nan_ok=True)
    assert metric.compute().item() == EXPECTED.value("pfc1")


def test_a_metric_goes_on_from_its_state_dict():
    first, second = (CollapseMetric("nc1", num_classes=K) for _ in range(2))
    (_, *rest), (features, labels) = batches(), batches()[0]
    first.update(features, labels)
    assert first.state_dict() == {}
    first.persistent(True)
    second.load_state_dict(first.state_dict())
    for metric in (first, second):
        for batch in rest:
            metric.update(*batch)
        assert metric.compute().item() == EXPECTED.value("nc1")


def test_the_classifier_is_that_of_now_also_of_a_copy():
    head = nn.Linear(FEATURES.shape[1], K)
    metric = CollapseMetric("nc3", num_classes=K, classifier=lambda: (head.weight, head.bias))
    copied = torchmetrics.MetricCollection([metric]).clone()["CollapseMetric"]
    nn.init.ones_(head.weight)
    wanted = measure_features(FEATURES, LABELS, num_classes=K, metrics=["nc3"], classifier=(head.weight, head.bias))
    for each in (metric, copied):
        for batch in batches():
            each.update(*batch)
        assert each.compute().item() == wanted.value("nc3")
    assert [*metric.parameters()] == []


def test_one_layer_of_several_and_a_test_split():
    layers = {"a": FEATURES, "b": FEATURES**2}
    reference = measure_features(layers, LABELS, num_classes=K)
    metric = CollapseMetric("pfc3", num_classes=K, layer="b", reference=measure_features(layers["b"], LABELS, num_classes=K))
    metric.update({name: value[::2] for name, value in layers.items()}, LABELS[::2])
    half = {name: value[::2] for name, value in layers.items()}
    wanted = measure_features(half, LABELS[::2], num_classes=K, split="test", reference=reference, metrics=["pfc3"])
    assert metric.compute().item() == wanted.value("pfc3", "b")
    with pytest.raises(ValueError, match=r"layer must be one of a, b, got None\. Pass layer= to the metric"):
        CollapseMetric("pfc1", num_classes=K).update(layers, LABELS)
    with pytest.raises(ValueError, match=r"metric must be an id of ncollapse\.METRICS, got 'pcf1'\. Near ones: pfc1"):
        CollapseMetric("pcf1", num_classes=K)


def share(rank, folder):
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    metric = CollapseMetric("pfc1", num_classes=K)
    for batch in batches()[rank::2]:
        metric.update(*batch)
    (folder / str(rank)).write_text(str(metric.compute().item()))
    leave()


def test_two_processes_give_the_value_of_one(tmp_path):
    torch.multiprocessing.start_processes(share, (tmp_path,), nprocs=2, start_method="fork")
    found = [float((tmp_path / str(rank)).read_text()) for rank in range(2)]
    assert found == pytest.approx([EXPECTED.value("pfc1")] * 2, rel=1e-12)


def test_lightning_logs_metrics_and_collections(tmp_path):
    pl = pytest.importorskip("lightning.pytorch")

    class Module(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = network()
            self.single = CollapseMetric("pfc1", num_classes=K)
            self.several = torchmetrics.MetricCollection(
                {name: CollapseMetric(name, num_classes=K) for name in IDS}, prefix="nc/"
            )

        def training_step(self, batch, index):
            return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

        def validation_step(self, batch, index):
            self.single.update(*batch)
            self.several.update(*batch)
            self.log("single", self.single)
            self.log_dict(self.several)

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

    trainer = pl.Trainer(max_epochs=2, logger=False, enable_progress_bar=False, enable_model_summary=False, accelerator="cpu",
                         enable_checkpointing=False, default_root_dir=tmp_path)  # fmt: skip
    loader = DataLoader(TensorDataset(*data()), batch_size=10)
    trainer.fit(Module(), loader, loader)
    logged = trainer.callback_metrics
    assert logged["single"].item() == pytest.approx(EXPECTED.value("pfc1"), rel=1e-6)
    for name in IDS:
        assert logged[f"nc/{name}"].item() == pytest.approx(EXPECTED.value(name), rel=1e-6)
