"""The Lightning callback: the training as without it, values of the network at each epoch, logs, precision, processes."""

import csv
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset
from training import K, N, data, expected, network, same, state

pl = pytest.importorskip("lightning.pytorch")

from ncollapse.integrations.lightning import NeuralCollapseCallback  # noqa: E402
from ncollapse.probe import measure  # noqa: E402
from ncollapse.records import read_run  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")
QUIET = {"enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu", "enable_checkpointing": False}


class Module(pl.LightningModule):
    def __init__(self, weights_at_epochs=None):
        super().__init__()
        self.net, self.weights_at_epochs = network(), [] if weights_at_epochs is None else weights_at_epochs

    def forward(self, x):
        return self.net(x)

    def training_step(self, batch, index):
        return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    def on_train_epoch_end(self):
        self.weights_at_epochs.append(state(self.net))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)


def loader(num_workers=0):
    """Shuffles by a generator of its own, which a second user would move on."""
    return DataLoader(TensorDataset(*data()), batch_size=8, shuffle=True, generator=torch.Generator().manual_seed(1))


def fit(tmp_path, *callbacks, epochs=4, module=None, **options):
    pl.seed_everything(3)
    module = Module() if module is None else module
    trainer = pl.Trainer(
        max_epochs=epochs, callbacks=list(callbacks), default_root_dir=tmp_path, **{"logger": False, **QUIET, **options}
    )
    trainer.fit(module, loader())
    return module, trainer


def rows_at(callback, epoch):
    return [tuple(row[2:]) for row in callback.table if row.epoch == epoch]


def test_the_weights_are_those_of_a_training_without(tmp_path):
    plain, without = fit(tmp_path)
    measured, with_callback = fit(tmp_path, NeuralCollapseCallback(num_classes=K, network="net"))
    assert same(state(plain), state(measured))
    assert without.global_step == with_callback.global_step
    assert not same(state(Module()), state(plain))


@pytest.mark.parametrize("chosen", ["net", lambda module: module.net, None])
def test_every_measured_epoch_is_that_of_the_network_then(tmp_path, chosen):
    callback = NeuralCollapseCallback(num_classes=K, every=3, network=chosen, metrics=["pfc1", "pfc3", "nc3", "nc4"])
    module, _ = fit(tmp_path, callback)
    assert sorted({row.epoch for row in callback.table}) == [3, 4]
    assert {row.step for row in callback.table if row.epoch == 3} == {18}
    prefix = "" if chosen is not None else "net."
    for epoch in (3, 4):
        m = expected(network(), module.weights_at_epochs[epoch - 1], metrics=["pfc1", "pfc3", "nc3", "nc4"])
        values = {(f"{prefix}{row.layer}", row.metric): row.value for row in m.rows}
        found = {(row[2], row[3]): row[4] for row in rows_at(callback, epoch)}
        assert found == pytest.approx(values, rel=1e-6)
    assert callback.last.num_samples == N


def test_modes_come_back_and_the_log_is_the_table(tmp_path):
    callback = NeuralCollapseCallback(num_classes=K, network="net", log=tmp_path / "nc.csv")
    module, _ = fit(tmp_path, callback, epochs=2)
    assert module.net.training
    with (tmp_path / "nc.csv").open(newline="") as file:
        _, *lines = csv.reader(file)
    assert [float(line[6]) for line in lines] == pytest.approx([row.value for row in callback.table], nan_ok=True)
    assert [(int(line[0]), int(line[1])) for line in lines] == [(row.epoch, row.step) for row in callback.table]


def test_the_default_log_and_that_an_old_one_is_not_mixed_in(tmp_path):
    fit(tmp_path, NeuralCollapseCallback(num_classes=K, network="net"), epochs=1)
    header = "epoch,step,split,depth,layer,metric,value,standard_error,flags"
    assert (tmp_path / "neural_collapse.csv").read_text().startswith(f"{header}\n1,6,train")
    first = (tmp_path / "neural_collapse.csv").read_bytes()
    with pytest.warns(UserWarning, match=r"neural_collapse.csv holds another table and stays as it is"):
        fit(tmp_path, NeuralCollapseCallback(num_classes=K, network="net"), epochs=1)
    assert (tmp_path / "neural_collapse.csv").read_bytes() == first
    assert (tmp_path / "neural_collapse-2.csv").read_text().count("\n1") > 0


def test_a_resumed_training_goes_on_with_its_log(tmp_path):
    options = {"num_classes": K, "network": "net", "metrics": ["pfc1"]}
    through, stopped = tmp_path / "through", tmp_path / "stopped"
    fit(through, NeuralCollapseCallback(**options), epochs=3)
    _, trainer = fit(stopped, NeuralCollapseCallback(**options), epochs=2)
    trainer.save_checkpoint(stopped / "a.ckpt")
    resumed = pl.Trainer(
        max_epochs=3, callbacks=[NeuralCollapseCallback(**options)], default_root_dir=stopped, logger=False, **QUIET
    )
    resumed.fit(Module(), loader(), ckpt_path=stopped / "a.ckpt", weights_only=False)
    lines = [(folder / "neural_collapse.csv").read_text().splitlines() for folder in (through, stopped)]
    assert [line.split(",")[:6] for line in lines[0]] == [line.split(",")[:6] for line in lines[1]]
    assert lines[0][:5] == lines[1][:5]


def test_values_reach_loggers_and_what_monitors_them(tmp_path):
    from lightning.pytorch.callbacks import ModelCheckpoint
    from lightning.pytorch.loggers import CSVLogger

    callback = NeuralCollapseCallback(num_classes=K, network="net")
    best = ModelCheckpoint(tmp_path, monitor="nc/5/pfc1", save_top_k=1, mode="min")
    _, trainer = fit(tmp_path, callback, best, epochs=3, logger=CSVLogger(tmp_path), enable_checkpointing=True)
    values = [row.value for row in callback.table if (row.layer, row.metric) == ("5", "pfc1")]
    assert float(best.best_model_score) == pytest.approx(min(values), rel=1e-6)
    with (Path(trainer.log_dir) / "metrics.csv").open(newline="") as file:
        logged = [float(line["nc/5/pfc1"]) for line in csv.DictReader(file) if line["nc/5/pfc1"]]
    assert logged == pytest.approx(values, rel=1e-6)


def test_a_loader_of_another_split(tmp_path):
    inputs, labels = data(seed=9)
    callback = NeuralCollapseCallback(num_classes=K, network="net", loader=[(inputs[:20], labels[:20])], split="test")
    module, _ = fit(tmp_path, callback, epochs=1)
    m = measure(module.net, [(inputs[:20], labels[:20])], num_classes=K, split="test")
    assert [row[4] for row in rows_at(callback, 1)] == pytest.approx([row.value for row in m.rows], nan_ok=True)
    assert {row.split for row in callback.table} == {"test"}


@pytest.mark.parametrize(
    ("precision", "dtype"), [("64-true", torch.float64), ("bf16-mixed", torch.bfloat16), ("bf16-true", torch.bfloat16)]
)
def test_the_network_runs_in_the_precision_of_the_training(tmp_path, precision, dtype):
    seen = set()
    callback = NeuralCollapseCallback(num_classes=K, network="net", metrics=["pfc1"])
    module = Module()
    module.net[0].register_forward_hook(lambda m, _, output: None if m.training else seen.add(output.dtype))
    fit(tmp_path, callback, epochs=1, precision=precision, module=module)
    assert seen == {dtype}
    assert callback.last.num_samples == N


def test_what_cannot_be_measured_is_refused_before_the_training(tmp_path):
    with pytest.raises(ValueError, match=r"every='log' needs a training with a known end, got one without"):
        fit(tmp_path, NeuralCollapseCallback(num_classes=K, every="log"), epochs=-1, max_steps=3)
    with pytest.raises(TypeError, match=r"must be those of measure, got layer\."):
        NeuralCollapseCallback(num_classes=K, layer="all")


class Prepares(Module):
    """Prepares its batches in the hooks of a transfer, as on a GPU: the loader yields raw mappings."""

    def __init__(self, hooks):
        super().__init__()
        self.hooks = hooks

    def on_before_batch_transfer(self, batch, dataloader_idx):
        return (batch["raw"] - 1.0, batch["target"]) if "before" in self.hooks else batch

    def transfer_batch_to_device(self, batch, device, dataloader_idx):
        batch = super().transfer_batch_to_device(batch, device, dataloader_idx)
        return (batch["raw"] - 1.0, batch["target"]) if "transfer" in self.hooks else batch

    def on_after_batch_transfer(self, batch, dataloader_idx):
        batch = (batch["raw"] - 1.0, batch["target"]) if self.hooks == "after" else batch
        return batch[0] * 2.0, batch[1]


@pytest.mark.parametrize("hooks", ["before", "transfer", "after", "in the data module"])
@pytest.mark.parametrize("own_loader", [False, True])
def test_batches_are_prepared_by_the_trainers_hooks(tmp_path, hooks, own_loader):
    inputs, labels = data()
    raw = [{"raw": x / 2.0 + 1.0, "target": y} for x, y in zip(inputs, labels, strict=True)]
    loader = DataLoader(raw, batch_size=8)

    class Data(pl.LightningDataModule):
        def train_dataloader(self):
            return loader

        def on_after_batch_transfer(self, batch, dataloader_idx):
            return (batch["raw"] - 1.0) * 2.0, batch["target"]

    module = Module() if hooks == "in the data module" else Prepares(hooks)
    options = {"loader": DataLoader(raw, batch_size=8)} if own_loader else {}
    callback = NeuralCollapseCallback(num_classes=K, network="net", **options)
    trainer = pl.Trainer(max_epochs=1, callbacks=[callback], default_root_dir=tmp_path, logger=False, **QUIET)
    trainer.fit(module, **({"datamodule": Data()} if hooks == "in the data module" else {"train_dataloaders": loader}))
    prepared = [((raw["raw"] - 1.0) * 2.0, raw["target"]) for raw in DataLoader(raw, batch_size=8)]
    expected = measure(module.net, prepared, num_classes=K)
    assert [row.value for row in callback.last.rows] == pytest.approx([row.value for row in expected.rows], nan_ok=True)


class Endless(IterableDataset):
    """Samples without a length."""

    def __iter__(self):
        return iter(zip(*data(), strict=True))


def test_a_loader_without_a_length(tmp_path):
    callback = NeuralCollapseCallback(num_classes=K, network="net", loader=DataLoader(Endless(), batch_size=8))
    module, _ = fit(tmp_path, callback, epochs=1)
    expected = measure(module.net, DataLoader(TensorDataset(*data()), batch_size=8), num_classes=K)
    assert [row.value for row in callback.last.rows] == pytest.approx([row.value for row in expected.rows], nan_ok=True)


def test_two_processes_measure_as_one(tmp_path):
    worker = Path(__file__).with_name("lightning_worker.py")
    result = subprocess.run([sys.executable, worker, tmp_path], capture_output=True, text=True, timeout=200, check=False)
    assert result.returncode == 0, result.stderr[-3000:]
    weights = torch.load(tmp_path / "weights.pt", weights_only=True)
    plain = torch.load(tmp_path / "plain.pt", weights_only=True)
    assert same(weights, plain)
    m = expected(network(), weights)
    with (tmp_path / "neural_collapse.csv").open(newline="") as file:
        lines = [line for line in csv.DictReader(file) if line["epoch"] == "2"]
    assert [line["metric"] for line in lines] == [row.metric for row in m.rows]
    assert [float(line["value"]) for line in lines] == pytest.approx(
        [row.value for row in m.rows], rel=1e-5, abs=1e-7, nan_ok=True
    )
    assert (tmp_path / "samples.txt").read_text() == f"{N}"
    run = read_run(tmp_path / "mine")
    assert (run.epochs, run.status.state, [item.step for item in run.recording.times]) == ((1, 2), "finished", [3, 6])
    found = [row.value for row in run.rows if row.epoch == 2]
    assert found == pytest.approx([float(line["value"]) for line in lines], rel=0, abs=0, nan_ok=True)
    assert run.status.weight_decay_time == 0.0
    assert sorted(path.name for path in tmp_path.glob("mine*")) == ["mine"]
    # What the first process cannot do ends all of them, and at once.
    words = [(tmp_path / f"error{rank}.txt").read_text() for rank in (0, 1)]
    assert words[0] == words[1]
    assert words[0].startswith("Rank 0 of 2: ")
    assert "Not a directory" in words[0]


def test_the_other_package_name():
    pytest.importorskip("pytorch_lightning")
    program = (
        "import sys; sys.modules['lightning'] = sys.modules['lightning.pytorch'] = None\n"
        "import pytorch_lightning as pl, torch\n"
        "from ncollapse.integrations.lightning import NeuralCollapseCallback\n"
        "assert issubclass(NeuralCollapseCallback, pl.Callback)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)
    missing = program.replace("sys.modules['lightning'] =", "sys.modules['pytorch_lightning'] = sys.modules['lightning'] =")
    missing = missing.replace("import pytorch_lightning as pl, torch\n", "")
    result = subprocess.run([sys.executable, "-c", missing], capture_output=True, text=True, check=False)
    assert 'pip install -e ".[lightning]"' in result.stderr


def test_a_folder_becomes_a_run_directory_and_a_resumed_training_goes_on_in_it(tmp_path):
    options = {"num_classes": K, "network": "net", "metrics": ["pfc1", "accuracy"]}
    through = NeuralCollapseCallback(**options, out=tmp_path / "through")
    fit(tmp_path, through, epochs=3)
    run = read_run(tmp_path / "through")
    assert (run.epochs, run.status.state, run.status.epochs) == ((1, 2, 3), "finished", 3)
    assert [(row.epoch, row.step, *row[2:]) for row in run.rows] == [tuple(row) for row in through.table]
    assert not (tmp_path / "neural_collapse.csv").exists()
    assert run.recipe_entries["train"]["momentum"] == 0.9
    _, trainer = fit(tmp_path, NeuralCollapseCallback(**options, out=tmp_path / "stopped"), epochs=2)
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    resumed = pl.Trainer(
        max_epochs=3,
        callbacks=[NeuralCollapseCallback(**options, out=tmp_path / "stopped")],
        default_root_dir=tmp_path,
        logger=False,
        **QUIET,
    )
    resumed.fit(Module(), loader(), ckpt_path=tmp_path / "a.ckpt", weights_only=False)
    again = read_run(tmp_path / "stopped")
    assert (again.epochs, again.status.weight_decay_time) == ((1, 2, 3), run.status.weight_decay_time)
    assert [row[:6] for row in again.rows] == [row[:6] for row in run.rows]
    assert [row for row in again.rows if row.epoch < 3] == [row for row in run.rows if row.epoch < 3]
    second = NeuralCollapseCallback(**options, out=tmp_path / "through")
    with pytest.warns(UserWarning, match="through is not empty and stays as it is"):
        fit(tmp_path, second, epochs=1)
    assert second.path == tmp_path / "through-2"
