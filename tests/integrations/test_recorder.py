"""The recorder: its run directory holds what measure gives, and a recording that is killed at any write resumes to the same."""

import copy
import csv
import json
import math
import random
import shutil
from contextlib import suppress
from itertools import pairwise

import pytest
import torch
from torch import nn
from training import K, Killed, before_every_write, data, killing, network, state

from ncollapse.claims import rule_on_claims
from ncollapse.drawing.sentences import describe
from ncollapse.integrations.checkpoints import measure_checkpoints
from ncollapse.integrations.recorder import Recorder
from ncollapse.integrations.step_clock import StepClock
from ncollapse.probe import measure
from ncollapse.records import read_run
from ncollapse.report import write_report
from ncollapse.report.tables import environment_entries
from ncollapse.targets import load_network
from ncollapse.train.schedule import is_measuring_epoch, measuring_epochs

METRICS = ["pfc1", "pfc2", "pfc3", "accuracy"]


class Training:
    """A loop of five steps an epoch that can go on from its own checkpoint."""

    def __init__(self, decay=1e-3, epoch=0, saved=None):
        torch.manual_seed(5)
        self.net = network()
        self.optimizer = torch.optim.SGD(self.net.parameters(), lr=0.1, momentum=0.9, weight_decay=decay)
        self.epoch = epoch
        if saved is not None:
            self.net.load_state_dict(saved[0])
            self.optimizer.load_state_dict(saved[1])

    def saved(self):
        return state(self.net), copy.deepcopy(self.optimizer.state_dict())

    def train(self):
        inputs, labels = data()
        for _ in range(5):
            self.optimizer.zero_grad()
            loss = nn.functional.cross_entropy(self.net[5:](self.net[:3](inputs)[:, :6]), labels)
            loss.backward()
            self.optimizer.step()
        self.epoch += 1
        return loss.item()


def record(out, training, epochs=3, *, resume=False, first=None, saves=None, **options):
    recorder = Recorder(
        out, training.net, num_classes=K, epochs=epochs, optimizer=training.optimizer, resume=resume, metrics=METRICS, **options
    )
    if first is None:
        recorder.epoch(0, [data()], test=[data(seed=9)])
    while training.epoch < epochs:
        loss = training.train()
        recorder.epoch(training.epoch, [data()], loss=loss, test=[data(seed=9)])
        if saves is not None:
            saves[training.epoch] = training.saved()
    return recorder


def table(folder):
    names = ("measurements.csv", "history.csv", "recording.json", "recipe.json", "samples.safetensors")
    return {name: (folder / name).read_bytes() for name in names}


def test_the_run_directory_holds_what_measure_gives(tmp_path):
    weights = {}
    recorder = record(tmp_path / "mine", Training(), saves=weights)
    run = read_run(tmp_path / "mine")
    assert recorder.path == run.path
    assert run.epochs == (0, 1, 2, 3)
    assert (run.status.state, run.status.epochs, run.unit, run.is_recorded) == ("finished", 3, "epoch", True)
    for epoch, (saved, _) in weights.items():
        net = network()
        net.load_state_dict(saved)
        train = measure(net, [data()], num_classes=K, metrics=METRICS)
        test = measure(net, [data(seed=9)], num_classes=K, metrics=METRICS, split="test", reference=train)
        rows = [row._replace(epoch=None, step=None) for row in run.rows if row.epoch == epoch]
        assert rows == [*train.rows, *test.rows]
        assert {row.step for row in run.rows if row.epoch == epoch} == {5 * epoch}
    assert run.status.train_accuracy == train.value("accuracy")


def test_what_is_known_of_the_optimizer_gives_the_weight_decay_time(tmp_path):
    training = Training(decay=0.02)
    recorder = Recorder(tmp_path / "mine", training.net, num_classes=K, optimizer=training.optimizer)
    for epoch in (1, 2):
        training.optimizer.param_groups[0]["lr"] = 0.3 / epoch
        training.train()
        recorder.epoch(epoch, [data()])
    run = read_run(tmp_path / "mine")
    assert run.status.weight_decay_time == pytest.approx(5 * (0.3 + 0.15) * 0.02 / (1 - 0.9), rel=1e-12)
    assert [record.learning_rate for record in run.history] == [0.3, 0.15]
    assert run.recipe_entries == {"train": {"optimizer": "sgd", "learning_rate": 0.1, "momentum": 0.9, "weight_decay": 0.02}}


class NormalizedSGD(torch.optim.SGD):
    """Steps of its own, as those of LARS, which inherits from SGD likewise."""

    def step(self, closure=None):
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.data.sub_(parameter.grad / parameter.grad.norm(), alpha=group["lr"])


@pytest.mark.parametrize(("make", "rate"), [
    (lambda p: torch.optim.SGD(p, lr=0.5, weight_decay=0.1), 0.05),
    (lambda p: torch.optim.SGD(p, lr=0.5), 0.0),
    (lambda p: torch.optim.SGD([{"params": p[:1], "weight_decay": 0.1}, {"params": p[1:]}], lr=0.5), 0.05),
    (lambda p: torch.optim.SGD([{"params": p[:1], "weight_decay": 0.1}, {"params": p[1:]}], lr=0.5, weight_decay=0.2), None),
    (lambda p: torch.optim.AdamW(p, lr=0.5), None),
    (lambda p: torch.optim.SGD(p, lr=0.5, weight_decay=0.1, momentum=0.5, dampening=0.2), 0.08),
    # torch dampens momentum only.
    (lambda p: torch.optim.SGD(p, lr=0.5, weight_decay=0.1, dampening=0.2), 0.05),
    (lambda p: torch.optim.SGD(p, lr=0.5, weight_decay=0.1, momentum=1.0), None),
    (lambda p: NormalizedSGD(p, lr=0.5, weight_decay=0.1), None),
])  # fmt: skip
def test_the_clock_of_optimizers(make, rate):
    parameters = [nn.Parameter(torch.ones(2)) for _ in range(2)]
    clock = StepClock(optimizer := make(parameters))
    for parameter in parameters:
        parameter.grad = torch.ones(2)
    optimizer.step()
    clock.end_epoch()
    assert clock.time == (None if rate is None else pytest.approx(rate))
    assert clock.step == 1
    clock.stop()
    optimizer.step()
    assert clock.step == 1


def test_the_rate_of_the_recipe_is_that_of_the_schedule_not_of_its_warm_up():
    optimizer = torch.optim.SGD([nn.Parameter(torch.ones(2))], lr=0.5)
    torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: step / 10)
    assert optimizer.param_groups[0]["lr"] == 0.0
    assert StepClock(optimizer).settings()["learning_rate"] == 0.5


def test_measuring_epochs_grow():
    assert [epoch for epoch in range(21) if is_measuring_epoch(epoch, 20)] == [0, *measuring_epochs(20)]
    endless = [epoch for epoch in range(1, 1000) if is_measuring_epoch(epoch)]
    assert endless[:14] == list(range(1, 15))
    assert all(b / a < 1.15 for a, b in pairwise(endless[10:]))
    assert len(endless) == 61


@pytest.mark.parametrize("number", [10, pytest.param(None, marks=pytest.mark.slow)])
def test_a_recorder_killed_at_any_write_resumes_to_the_same_table(number, tmp_path, monkeypatch):
    """Ten of the writes, and all of them in the slow test."""
    whole, saves, killed = tmp_path / "whole", {}, []

    def killed_here():
        killed.append(dict(saves))
        if whole.exists():
            shutil.copytree(whole, tmp_path / f"killed{len(killed)}")

    with monkeypatch.context() as patch:
        before_every_write(patch, killed_here)
        record(whole, Training(), epochs=2, saves=saves)
    assert len(killed) > 20
    for at in random.Random(0).sample(range(1, len(killed) + 1), number or len(killed)):
        folder, saves = tmp_path / f"killed{at}", killed[at - 1]
        # Also if the own checkpoint was saved first: no part of a save that was cut off stays in the tables.
        held = Recorder(folder, network(), num_classes=K, metrics=METRICS, resume=True)._run
        found = {row.epoch for row in held.directory.rows} | {line.epoch for line in held.directory.history}
        assert found <= held.times.keys(), f"killed at write {at}"
        last = max(saves, default=0)
        # A copy, since the optimizer goes on in the memory of what it is given.
        training = Training() if not last else Training(epoch=last, saved=copy.deepcopy(saves[last]))
        record(folder, training, epochs=2, resume=True, first=last or None)
        assert table(folder) == table(whole), f"killed at write {at}"


def test_a_recording_that_is_killed_while_it_measures_an_epoch_again_can_be_read(tmp_path, monkeypatch):
    """The network differs, as after a resumed training on a GPU, so that tables and status are for a moment of two minds."""
    record(tmp_path / "mine", Training(), epochs=1)
    accuracy = read_run(tmp_path / "mine").status.train_accuracy
    differing = 0
    for at in range(1, 30):
        folder = shutil.copytree(tmp_path / "mine", tmp_path / f"killed{at}")
        recorder = Recorder(folder, network(seed=9), num_classes=K, epochs=1, resume=True, metrics=METRICS)
        with monkeypatch.context() as patch:
            count = killing(patch, at)
            with suppress(Killed):
                recorder.epoch(1, [data()])
        run = read_run(folder)
        depth = len(run.measured_layers) - 1
        differing += run.value("accuracy", depth) != accuracy == run.status.train_accuracy
        if count[0] < at:
            break
    assert differing
    assert run.status.train_accuracy == run.value("accuracy", depth) != accuracy


def test_a_second_run_gets_a_folder_of_its_own(tmp_path):
    first = record(tmp_path / "mine", Training(), epochs=1)
    before = table(first.path)
    with pytest.warns(UserWarning, match=r"mine is not empty and stays as it is; this run is recorded in .*mine-2"):
        second = record(tmp_path / "mine", Training(), epochs=1)
    assert (second.path, table(first.path)) == (tmp_path / "mine-2", before)
    # The cell with the loop is run once more.
    with pytest.warns(UserWarning, match=r"epoch 1 came after epoch 1: this is a second run, recorded in .*mine-3"):
        first.epoch(1, [data()])
    assert read_run(tmp_path / "mine-3").epochs == (1,)
    assert table(tmp_path / "mine") == before


def test_a_recording_is_continued_with_its_own_arguments_only(tmp_path):
    training = Training()
    record(tmp_path / "mine", training, epochs=1)
    with pytest.raises(ValueError, match=r"mine holds a recording with convention=class, got convention=sample"):
        Recorder(tmp_path / "mine", training.net, num_classes=K, metrics=METRICS, convention="sample", resume=True)
    torch.save(state(training.net), tmp_path / "epoch_1.pt")
    with pytest.raises(ValueError, match=r"mine holds a recording of a training, got checkpoints\. Choose another folder\."):
        measure_checkpoints(training.net, tmp_path / "epoch_1.pt", [data()], num_classes=K, out=tmp_path / "mine")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="must be a new folder or a recording to continue, got one with other content"):
        Recorder(tmp_path / "other", training.net, num_classes=K, resume=True)


def test_what_is_said_of_a_recording_fits_a_training_of_ones_own(tmp_path):
    recorder = Recorder(tmp_path / "mine", Training().net, num_classes=K, epochs=3, metrics=METRICS)
    with suppress(KeyboardInterrupt), recorder:
        recorder.epoch(1, [data()])
        assert describe(read_run(tmp_path / "mine"))[0].startswith("This run is not finished: it is running now. ")
        raise KeyboardInterrupt
    run = read_run(tmp_path / "mine")
    # A recording has no command to give --resume to, and no checkpoint.
    expected = "This run is not finished: it was stopped and can be continued. It was last saved at epoch 1 of 3."
    assert describe(run)[0] == expected
    assert "time of the recording" in dict(environment_entries(run))


def test_steps_that_nobody_saw_leave_the_time_unknown(tmp_path):
    training = Training()
    recorder = Recorder(tmp_path / "mine", training.net, num_classes=K, optimizer=training.optimizer, resume=True)
    training.train()
    recorder.epoch(7, [data()])
    assert read_run(tmp_path / "mine").status.weight_decay_time is None


def test_an_accuracy_in_percent_is_refused_before_anything_is_written(tmp_path):
    recorder = Recorder(tmp_path / "run", network(), num_classes=K)
    with pytest.raises(ValueError, match=r"`accuracy` must be a share in \[0, 1\], got 93\.5\. Divide percentages by 100\."):
        recorder.epoch(0, [data()], accuracy=93.5)


def test_how_a_training_ended_is_noted(tmp_path):
    training = Training()
    recorder = Recorder(tmp_path / "a", training.net, num_classes=K, epochs=9)
    recorder.epoch(1, [data()])
    assert read_run(tmp_path / "a").status.state == "running"
    with pytest.raises(KeyError), recorder:
        raise KeyError("mine")
    assert read_run(tmp_path / "a").status.state == "failed"
    with Recorder(tmp_path / "b", training.net, num_classes=K) as recorder:
        recorder.epoch(1, [data()], accuracy=0.5)
    run = read_run(tmp_path / "b")
    assert (run.status.state, run.status.epochs, run.history[0].accuracy) == ("finished", 1, 0.5)
    assert math.isnan(run.history[0].loss)


def test_networks_without_a_path_are_recorded_and_others_followed(tmp_path):
    net = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, K))
    Recorder(tmp_path / "a", net, num_classes=K).epoch(0, [data()])
    assert read_run(tmp_path / "a").has_depth
    Recorder(tmp_path / "b", network(), num_classes=K).epoch(0, [data()])
    assert not (tmp_path / "b" / "depth.json").exists()
    with pytest.raises(ValueError, match="A path needs at least two layers"):
        Recorder(tmp_path / "c", network(), num_classes=K, path=True).epoch(0, [data()])


@pytest.mark.parametrize(("options", "match"), [
    ({"epochs": 0}, "epochs must be an integer, at least 1, or None, got 0"),
    ({"every": 0}, "every must be 'log' or an integer, at least 1, got 0"),
    ({"optimizer": 3}, r"optimizer must be a torch.optim.Optimizer, got int"),
    ({"layer": "auto"}, "must be those of measure, got layer"),
    ({"recipe": {"seed": "one"}}, "recipe.json: seed: needed int"),
])  # fmt: skip
def test_wrong_arguments(tmp_path, options, match):
    with pytest.raises((ValueError, TypeError), match=match):
        Recorder(tmp_path / "mine", network(), num_classes=K, **options)


def test_wrong_epochs(tmp_path):
    recorder = Recorder(tmp_path / "mine", network(), num_classes=K)
    with pytest.raises(ValueError, match=r"epoch must be an integer, at least 0, got 1.5"):
        recorder.epoch(1.5, [data()])
    with pytest.raises(ValueError, match=r"at least 0, got a list\. Pass the number of epochs trained, and then the loader\.$"):
        recorder.epoch([data()], 1)


def test_the_history_holds_a_loss_with_its_graph_and_the_rate_as_it_was_set(tmp_path):
    net = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    batch = (torch.eye(3), torch.tensor([0, 1, 0]))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05)
    recorder = Recorder(tmp_path / "mine", net, num_classes=2, optimizer=optimizer, metrics=["pfc1"])
    # The mean of three equal rates, summed and divided, is 0.05000000000000001.
    for _ in range(3):
        loss = nn.functional.cross_entropy(net(batch[0]), batch[1])
        loss.backward()
        optimizer.step()
    recorder.epoch(1, [batch], loss=loss)
    (row,) = read_run(tmp_path / "mine").history
    assert (row.loss, row.learning_rate) == (loss.item(), 0.05)


def test_the_table_has_the_columns_of_every_run(tmp_path):
    record(tmp_path / "mine", Training(), epochs=1)
    with (tmp_path / "mine" / "measurements.csv").open(newline="") as file:
        assert next(csv.reader(file)) == "epoch,step,split,depth,layer,metric,value,standard_error,flags".split(",")


RECIPE = {"model": {"connections": "residual"}, "train": {"loss": "cross_entropy"}, "data": {"corrupt": 0.0}}


def test_pages_comparisons_sweeps_and_claims_take_recorded_runs(tmp_path):
    for seed, decay in ((0, 0.0), (1, 0.02)):
        record(tmp_path / f"run{seed}", Training(decay), epochs=2, recipe={**RECIPE, "seed": seed})
    record(tmp_path / "unsaid", Training(), epochs=1)
    page = write_report([tmp_path / "run1"]).read_text()
    assert "train accuracy at epoch 2 of 2" in page
    assert "Weight-decay time τ = 0.2 " in page
    compared = write_report([tmp_path / "run0", tmp_path / "run1"]).read_text()
    assert "train.weight_decay=0.02" in compared
    ledger = rule_on_claims([tmp_path / "run0", tmp_path / "run1", tmp_path / "unsaid"])
    assert ledger.runs == (str(tmp_path / "run0"), str(tmp_path / "run1"))
    assert ledger.left_out == ((
        str(tmp_path / "unsaid"),
        "its recipe does not say seed, model.connections, train.loss, data.corrupt; pass them to the recorder with recipe=",
    ),)  # fmt: skip
    # A run whose loss nobody said.
    training = Training()
    Recorder(tmp_path / "run2", training.net, num_classes=K, metrics=METRICS).epoch(1, [data()])
    entries = [{"name": f"run{seed}", "settings": {"decay": str(seed)}, "seed": 0} for seed in (0, 1, 2)]
    (tmp_path / "sweep.json").write_text(json.dumps({"runs": entries}))
    swept = write_report([tmp_path]).read_text()
    assert "run1/report.html" in swept
    assert "<b></b>" not in swept
    with pytest.raises(ValueError, match="holds what was recorded of a training by other code, and no network"):
        load_network(tmp_path / "run0")


def test_the_page_names_the_classes(tmp_path):
    names = [f"kind {k}" for k in range(K)]
    recorder = Recorder(tmp_path / "mine", network(), num_classes=K, class_names=names, layers=["0"])
    recorder.epoch(0, [data()])
    # Continued without names, or with others: the sample is the same.
    again = Recorder(tmp_path / "mine", network(), num_classes=K, layers=["0"], resume=True)
    assert read_run(tmp_path / "mine").samples.header.names == tuple(names)
    again.epoch(1, [data()])
    samples = read_run(tmp_path / "mine").samples
    assert (samples.header.names, list(samples.epochs)) == ((), [0, 1])
    with pytest.raises(ValueError, match=rf"class_names must name all {K} classes, got 1 names"):
        Recorder(tmp_path / "other", network(), num_classes=K, class_names=["a"])


def test_the_default_precision_and_a_wrapper_do_not_matter(tmp_path):
    net, batches, before = network(), [data()], torch.get_default_dtype()
    expected = Recorder(tmp_path / "a", net, num_classes=K, metrics=METRICS).epoch(0, batches)
    torch.set_default_dtype(torch.bfloat16)
    try:
        found = Recorder(tmp_path / "b", nn.DataParallel(net), num_classes=K, metrics=METRICS).epoch(0, batches)
    finally:
        torch.set_default_dtype(before)
    assert found.rows == expected.rows
    assert (tmp_path / "a" / "samples.safetensors").read_bytes() == (tmp_path / "b" / "samples.safetensors").read_bytes()
