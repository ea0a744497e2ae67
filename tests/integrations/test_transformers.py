"""The callback for Hugging Face's Trainer: the training as without it, values of the model at each moment, masks, logs."""

import csv
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from training import K, N, data, same, state

transformers = pytest.importorskip("transformers")
pytest.importorskip("accelerate")

from ncollapse.hooks import Tap  # noqa: E402
from ncollapse.integrations.transformers import NeuralCollapseCallback  # noqa: E402
from ncollapse.probe import measure, measure_features  # noqa: E402
from ncollapse.records import read_run  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")
LENGTH = 6


def samples():
    generator = torch.Generator().manual_seed(2)
    _, labels = data()
    ids = torch.randint(5, 40, (N, LENGTH), generator=generator)
    ids[:, 0] = labels + 1
    lengths = torch.arange(N) % (LENGTH - 1) + 2
    mask = (torch.arange(LENGTH) < lengths.unsqueeze(1)).long()
    return [{"input_ids": i, "attention_mask": m, "label": int(y)} for i, m, y in zip(ids, mask, labels, strict=True)]


def model():
    config = transformers.BertConfig(
        vocab_size=40, hidden_size=12, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16, num_labels=K
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return transformers.BertForSequenceClassification(config)


class Weights(transformers.TrainerCallback):
    def __init__(self):
        self.at = {}

    def on_step_end(self, args, state_, control, model, **kwargs):
        self.at[state_.global_step] = state(model)


def fit(folder, *callbacks, epochs=3, report_to="none", batch_size=8, **options):
    arguments = transformers.TrainingArguments(
        output_dir=str(folder), num_train_epochs=epochs, per_device_train_batch_size=batch_size, learning_rate=1e-2,
        use_cpu=True, seed=1, report_to=report_to, save_strategy="no", disable_tqdm=True, logging_strategy="no", **options,
    )  # fmt: skip
    trainer = transformers.Trainer(model=model(), args=arguments, train_dataset=samples(), eval_dataset=samples()[:9])
    for callback in callbacks:
        trainer.add_callback(callback(trainer) if isinstance(callback, type(lambda: 0)) else callback)
    trainer.train()
    return trainer


def expected(weights, **options):
    net = model()
    net.load_state_dict(weights)
    # In batches of the callback's size: of another one float32 rounds otherwise, which a collapsed layer multiplies.
    batches = torch.utils.data.DataLoader([{**row, "labels": row["label"]} for row in samples()], batch_size=8)
    wanted = ("input_ids", "attention_mask", "labels")
    return measure(net, [{name: batch[name] for name in wanted} for batch in batches], num_classes=K, **options)


def test_the_weights_are_those_of_a_training_without(tmp_path):
    plain = fit(tmp_path / "plain")
    measured = fit(tmp_path / "measured", NeuralCollapseCallback(num_classes=K))
    assert same(state(plain.model), state(measured.model))
    assert plain.state.global_step == measured.state.global_step
    assert plain.state.log_history[-1]["train_loss"] == measured.state.log_history[-1]["train_loss"]
    assert not same(state(model()), state(plain.model))


@pytest.mark.parametrize(("options", "trainer_options", "steps"), [
    ({"every": 2}, {}, [12, 18]),
    ({"every": 4, "unit": "step"}, {}, [4, 8, 12, 16, 18]),
    ({"every": "log", "unit": "step"}, {}, [*range(1, 15), 15, 16, 18]),
    ({"unit": "evaluation"}, {"eval_strategy": "steps", "eval_steps": 7}, [7, 14, 18]),
])  # fmt: skip
def test_every_moment_is_that_of_the_model_then(tmp_path, options, trainer_options, steps):
    weights = Weights()
    callback = NeuralCollapseCallback(num_classes=K, metrics=["pfc1", "pfc3", "nc3"], **options)
    fit(tmp_path, weights, callback, **trainer_options)
    assert sorted({row.step for row in callback.table}) == steps
    for step in steps:
        m = expected(weights.at[step], metrics=["pfc1", "pfc3", "nc3"])
        found = {(row.layer, row.metric): row.value for row in callback.table if row.step == step}
        assert found == pytest.approx({(row.layer, row.metric): row.value for row in m.rows}, rel=1e-6)
    assert callback.last.num_samples == N
    assert sorted({row.epoch for row in callback.table}) == pytest.approx([step / 6 for step in steps])


def test_the_attention_mask_is_respected(tmp_path):
    name = "bert.encoder.layer.1"
    callback = NeuralCollapseCallback(num_classes=K, layers=Tap(name, "mean"), metrics=["pfc1", "pfc3"])
    net = fit(tmp_path, callback, epochs=1).model.eval()
    hidden = []
    net.get_submodule(name).register_forward_hook(lambda _, __, output: hidden.append(output))
    rows = samples()
    ids, mask = (torch.stack([row[key] for row in rows]) for key in ("input_ids", "attention_mask"))
    with torch.no_grad():
        net(input_ids=ids, attention_mask=mask)
    pooled = torch.stack([tokens[real.bool()].mean(0) for tokens, real in zip(hidden[0], mask, strict=True)])
    m = measure_features(pooled, torch.tensor([row["label"] for row in rows]), num_classes=K, metrics=["pfc1", "pfc3"])
    found = [callback.last.value(metric, f"{name}:mean") for metric in ("pfc1", "pfc3")]
    assert found == pytest.approx([m.value("pfc1"), m.value("pfc3")], rel=1e-5)


def test_the_log_is_the_table_and_an_old_one_is_not_mixed_in(tmp_path):
    callback = NeuralCollapseCallback(num_classes=K)
    trainer = fit(tmp_path, callback, epochs=2)
    assert trainer.model.training
    with (tmp_path / "neural_collapse.csv").open(newline="") as file:
        _, *lines = csv.reader(file)
    assert [float(line[6]) for line in lines] == pytest.approx([row.value for row in callback.table], nan_ok=True)
    assert [(int(line[0]), int(line[1])) for line in lines] == [(row.epoch, row.step) for row in callback.table]
    first = (tmp_path / "neural_collapse.csv").read_bytes()
    with pytest.warns(UserWarning, match=r"neural_collapse.csv holds another table and stays as it is"):
        fit(tmp_path, NeuralCollapseCallback(num_classes=K), epochs=1)
    assert (tmp_path / "neural_collapse.csv").read_bytes() == first
    assert (tmp_path / "neural_collapse-2.csv").read_text().count("\n1") > 0


def test_values_reach_the_trainers_history_and_its_loggers(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    callbacks = []

    def reporting(trainer):
        callbacks.append(NeuralCollapseCallback(num_classes=K, report=trainer.log, log=tmp_path / "nc.jsonl"))
        return callbacks[0]

    trainer = fit(tmp_path, reporting, epochs=2, report_to="tensorboard")
    values = [row.value for row in callbacks[0].table if row.metric == "pfc1" and row.layer == callbacks[0].last.layers[-1]]
    name = f"nc/{callbacks[0].last.layers[-1]}/pfc1"
    assert [entry[name] for entry in trainer.state.log_history if name in entry] == values
    (folder,) = {path.parent for path in tmp_path.rglob("events.out.tfevents*")}
    events = EventAccumulator(str(folder)).Reload()
    assert [event.value for event in events.Scalars(f"train/{name}")] == pytest.approx(values, rel=1e-6)


def test_wrong_arguments_are_refused_at_once(tmp_path):
    with pytest.raises(ValueError, match="unit must be one of epoch, step, evaluation, got 'batch'"):
        NeuralCollapseCallback(num_classes=K, unit="batch")
    with pytest.raises(ValueError, match="needs unit='epoch' or 'step', whose number is known, got 'evaluation'"):
        NeuralCollapseCallback(num_classes=K, every="log", unit="evaluation")
    callback = NeuralCollapseCallback(num_classes=K)
    pieces = type("Arguments", (), {"fsdp": "full_shard", "deepspeed": None})()
    with pytest.raises(TypeError, match="needs the whole network on every process, got FSDP or DeepSpeed"):
        callback.on_train_begin(pieces, None, None)


@pytest.mark.parametrize(("unit", "every"), [("epoch", 1), ("step", 3)])
def test_a_folder_becomes_a_run_directory_over_epochs_or_steps(tmp_path, unit, every):
    callback = NeuralCollapseCallback(num_classes=K, metrics=["pfc1"], unit=unit, every=every, out=tmp_path / "mine")
    trainer = fit(tmp_path, callback, epochs=2)
    run = read_run(callback.path)
    assert (run.unit, run.status.state) == (unit, "finished")
    assert run.epochs == tuple(sorted({round(getattr(row, unit)) for row in callback.table}))
    assert run.status.epoch == (2 if unit == "epoch" else trainer.state.global_step)
    assert [row.value for row in run.rows] == [row.value for row in callback.table]
    assert run.recipe_entries["train"]["optimizer"] == "adamw"
    assert not (tmp_path / "neural_collapse.csv").exists()


def test_two_processes_write_one_run(tmp_path):
    worker = [str(Path(__file__).with_name("transformers_worker.py")), str(tmp_path)]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *worker]
    result = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert result.returncode == 0, result.stderr[-3000:]
    run = read_run(tmp_path / "mine")
    assert (run.epochs, run.status.state, [item.step for item in run.recording.times]) == ((1, 2), "finished", [6, 12])
    m = expected(torch.load(tmp_path / "weights.pt", weights_only=True), metrics=["pfc1", "pfc3", "accuracy"])
    found = [row for row in run.rows if row.epoch == 2]
    assert [(row.layer, row.metric) for row in found] == [(row.layer, row.metric) for row in m.rows]
    assert [row.value for row in found] == pytest.approx([row.value for row in m.rows], rel=1e-5, abs=1e-7, nan_ok=True)
    assert sorted(path.name for path in tmp_path.glob("mine*")) == ["mine"]


def test_a_training_of_so_many_steps_is_a_run_over_steps(tmp_path):
    callback = NeuralCollapseCallback(num_classes=K, metrics=["pfc1"], every=2, out=tmp_path / "mine")
    fit(tmp_path, callback, max_steps=15)
    run = read_run(tmp_path / "mine")
    # Six steps an epoch: it ended in the middle of the third, which is no whole epoch.
    assert callback.path == tmp_path / "mine"
    assert [(item.time, item.step) for item in run.recording.times] == [(6, 6), (12, 12), (15, 15)]
    assert (run.unit, run.epochs, run.status.epoch, run.status.epochs) == ("step", (12, 15), 15, 15)
    assert (run.status.state, run.history) == ("finished", ())
    assert {row.epoch for row in callback.table} == {2.0, 2.5}


def test_a_run_is_continued_over_what_it_began_with(tmp_path):
    options = {"num_classes": K, "metrics": ["pfc1"], "out": tmp_path / "mine"}
    fit(tmp_path / "a", NeuralCollapseCallback(**options), epochs=1)
    run = read_run(tmp_path / "mine")
    callback = NeuralCollapseCallback(**options, unit="step")
    with pytest.raises(ValueError, match="holds a recording with unit=epoch, got unit=step"):
        callback.begin_run("step", 9, model(), None, resume=True)
    assert read_run(tmp_path / "mine").rows == run.rows
