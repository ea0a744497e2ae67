"""Checkpoints as a run directory: times read from names, values those of measure, finished ones skipped; logs imported."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from training import K, Killed, data, killing, network, same, state

from ncollapse.cli import main
from ncollapse.integrations import CSVLog, JSONLLog, import_log, measure_checkpoints
from ncollapse.integrations.checkpoint_times import find_checkpoints, timed_checkpoints
from ncollapse.probe import measure
from ncollapse.records import read_run
from ncollapse.report import write_report

METRICS = ["pfc1", "pfc3", "accuracy"]


@pytest.mark.parametrize(("names", "unit", "times"), [
    (["epoch_2.pt", "epoch_10.pt", "epoch_1.pt"], "epoch", [1, 2, 10]),
    (["net-e003_acc0.91.pth", "net-e012_acc0.99.pth"], "epoch", [3, 12]),
    (["step_1000.pt", "step_50.pt"], "step", [50, 1000]),
    (["model-0007.pt", "model-0012.pt"], "epoch", [7, 12]),
    (["resnet18_5.pt", "resnet18_20.pt"], "epoch", [5, 20]),
    (["epoch=0-step=40.ckpt", "epoch=1-step=80.ckpt"], "epoch", [1, 2]),
    (["epoch=0-step=40.ckpt", "epoch=0-step=60.ckpt"], "step", [40, 60]),
    (["epoch=0-step=30.ckpt", "epoch=2-step=50.ckpt"], "step", [30, 50]),
    (["epoch=09-val_loss=0.31.ckpt", "epoch=4-val_loss=0.52.ckpt"], "epoch", [5, 10]),
    # The e of a learning rate counts no epochs.
    (["lr1e-3_epoch2.pt", "lr1e-3_epoch7.pt"], "epoch", [2, 7]),
    (["e1_epoch2.pt", "e1_epoch7.pt"], "epoch", [2, 7]),
    (["lr1e-5_12.pt", "lr1e-5_20.pt"], "epoch", [12, 20]),
])  # fmt: skip
def test_times_are_read_from_names(names, unit, times):
    found = timed_checkpoints([Path(name) for name in names])
    assert (found[0], [item.time for item in found[1]]) == (unit, times)


@pytest.mark.parametrize(("names", "match"), [
    (["epoch_1.pt", "last.pt"], r"must hold their epoch, got 'last.pt', in which none can be read"),
    (["best.pt", "last.pt"], r"must hold their epoch or step, got best.pt, last.pt, in which none can be read"),
    (["a1_b2.pt", "a3_b4.pt"], r"must hold their epoch or step, got a1_b2.pt, a3_b4.pt"),
    (["epoch_1.pt", "epoch_01.pt"], r"must be of different epochs, got epoch_1.pt and epoch_01.pt, both of epoch 1"),
    (["e2e_x.pt", "epoch_0.93.pt"], "in which none can be read"),
])  # fmt: skip
def test_names_that_do_not_say_when_are_refused(names, match):
    with pytest.raises(ValueError, match=match):
        timed_checkpoints([Path(name) for name in names])


def test_the_user_may_say_what_names_count():
    paths = [Path("epoch_0.pt"), Path("epoch_1.pt")]
    assert [item.time for item in timed_checkpoints(paths, counts_from_zero=True)[1]] == [1, 2]
    assert timed_checkpoints([Path("epoch=0-step=40.ckpt")], "step")[1][0].time == 40


def networks(folder):
    """Three networks, saved in three ways."""
    folder.mkdir()
    nets = {epoch: network(seed=epoch) for epoch in (1, 2, 10)}
    torch.save(state(nets[1]), folder / "epoch_1.pt")
    save_file(state(nets[2]), folder / "epoch_2.safetensors")
    torch.save({"state_dict": {f"net.{k}": v for k, v in state(nets[10]).items()}, "epoch": 9}, folder / "epoch_10.pth")
    return nets


def test_the_values_are_those_of_measure_on_the_same_weights(tmp_path):
    nets, own = networks(tmp_path / "ckpt"), network(seed=7)
    before, said = state(own), []
    options = {"num_classes": K, "metrics": METRICS, "test": [data(seed=9)]}
    out = measure_checkpoints(
        own, tmp_path / "ckpt", [data()], out=tmp_path / "mine", progress=lambda *words: said.append(words), **options
    )
    assert same(before, state(own))
    run = read_run(out)
    assert (run.epochs, run.unit, run.status.state, run.is_measured_only) == ((1, 2, 10), "epoch", "finished", False)
    for epoch, net in nets.items():
        train = measure(net, [data()], num_classes=K, metrics=METRICS)
        test = measure(net, [data(seed=9)], num_classes=K, metrics=METRICS, split="test", reference=train)
        assert [row._replace(epoch=None) for row in run.rows if row.epoch == epoch] == [*train.rows, *test.rows]
    assert said[-1] == (3, 3, "epoch_10.pth: epoch 10; 0:00:00 left")


def test_what_is_finished_is_skipped_and_what_changed_is_measured_again(tmp_path):
    networks(tmp_path / "ckpt")
    options = {"num_classes": K, "metrics": METRICS, "out": tmp_path / "mine"}

    def again():
        said = []
        measure_checkpoints(
            network(), f"{tmp_path}/ckpt/*", [data()], progress=lambda *words: said.append(words[2].partition(":")), **options
        )
        return {name: "measured before" in words for name, _, words in said}

    assert set(again().values()) == {False}
    table = (tmp_path / "mine" / "measurements.csv").read_bytes()
    assert set(again().values()) == {True}
    torch.save(state(network(seed=99)), tmp_path / "ckpt" / "epoch_1.pt")
    torch.save(state(network(seed=5)), tmp_path / "ckpt" / "epoch_5.pt")
    assert again() == {"epoch_1.pt": False, "epoch_2.safetensors": True, "epoch_5.pt": False, "epoch_10.pth": True}
    run = read_run(tmp_path / "mine")
    assert run.epochs == (1, 2, 5, 10)
    assert [row.epoch for row in run.rows] == sorted(row.epoch for row in run.rows)
    assert (tmp_path / "mine" / "measurements.csv").read_bytes() != table
    with pytest.raises(ValueError, match="holds a recording with convention=class, got convention=sample"):
        measure_checkpoints(network(), tmp_path / "ckpt", [data()], convention="sample", **options)


@pytest.mark.parametrize(("change", "match"), [
    ({"unit": "step"}, r"holds a recording with unit=epoch, got unit=step"),
    ({"recipe": {"data": {"name": "other"}}}, r"holds a recording with data.name=mine, got data.name=other"),
    ({"test": None}, r"holds a recording with test samples, got no test samples"),
    ({"recipe": None}, r"holds a recording with data.name=mine, got no data.name"),
])  # fmt: skip
def test_a_folder_holds_one_kind_of_times_and_one_data_set(tmp_path, change, match):
    (tmp_path / "ckpt").mkdir()
    for epoch in (0, 1):
        torch.save(state(network(seed=epoch)), tmp_path / "ckpt" / f"epoch={epoch}-step={6 * epoch + 6}.ckpt")
    options = {"num_classes": K, "metrics": ["pfc1"], "out": tmp_path / "mine", "recipe": {"data": {"name": "mine"}}}
    options["test"] = [data(seed=9)]
    measure_checkpoints(network(), tmp_path / "ckpt", [data()], **options)
    before = (tmp_path / "mine" / "measurements.csv").read_bytes()
    with pytest.raises(ValueError, match=match):
        measure_checkpoints(network(), tmp_path / "ckpt", [data()], **{**options, **change})
    assert (tmp_path / "mine" / "measurements.csv").read_bytes() == before


def test_a_checkpoint_whose_save_was_cut_off_leaves_nothing_behind(tmp_path, monkeypatch):
    networks(tmp_path / "ckpt")
    options = {"num_classes": K, "metrics": ["pfc1"]}
    measure_checkpoints(network(), tmp_path / "ckpt", [data()], out=tmp_path / "whole", **options)
    torch.save(state(network(seed=5)), tmp_path / "ckpt" / "epoch_5.pt")
    for at in range(1, 9):
        folder = shutil.copytree(tmp_path / "whole", tmp_path / f"killed{at}")
        with monkeypatch.context() as patch:
            killing(patch, at)
            with pytest.raises(Killed):
                measure_checkpoints(network(), tmp_path / "ckpt", [data()], out=folder, **options)
        measure_checkpoints(network(), [tmp_path / "ckpt" / "epoch_1.pt"], [data()], out=folder, **options)
        run = read_run(folder)
        assert run.epochs == tuple(item.time for item in run.recording.times), f"killed at write {at}"


def test_folders_of_transformers_and_their_steps(tmp_path):
    for step in (500, 1000):
        folder = tmp_path / "ckpt" / f"checkpoint-{step}"
        folder.mkdir(parents=True)
        save_file(state(network(seed=step)), folder / "model.safetensors")
    out = measure_checkpoints(network(), tmp_path / "ckpt", [data()], num_classes=K, out=tmp_path / "mine", metrics=METRICS)
    run = read_run(out)
    assert (run.unit, run.epochs) == ("step", (500, 1000))
    assert {(row.epoch, row.step) for row in run.rows} == {(500, 500), (1000, 1000)}
    expected = measure(network(seed=500), [data()], num_classes=K, metrics=METRICS)
    assert run.value("pfc1", 0, 500) == expected.value("pfc1", 0)
    assert "step" in Path(write_report([out])).read_text()


def test_lightnings_copy_of_the_last_checkpoint_is_left_out_of_a_folder(tmp_path):
    for name in ("epoch=0-step=6.ckpt", "last.ckpt", "last-v1.ckpt"):
        (tmp_path / name).touch()
    assert [path.name for path in find_checkpoints(tmp_path)] == ["epoch=0-step=6.ckpt"]
    assert len(find_checkpoints(f"{tmp_path}/*")) == 3


def test_no_checkpoints(tmp_path):
    with pytest.raises(ValueError, match=r"checkpoints must name files or folders of weights, got '.*none/\*.pt'"):
        find_checkpoints(f"{tmp_path}/none/*.pt")
    (tmp_path / "checkpoint-5").mkdir()
    with pytest.raises(ValueError, match=r"must hold model.safetensors or pytorch_model.bin, got neither"):
        timed_checkpoints([tmp_path / "checkpoint-5"])


@pytest.mark.parametrize("kind", [CSVLog, JSONLLog])
def test_logs_are_imported(tmp_path, kind):
    file = tmp_path / f"log.{'csv' if kind is CSVLog else 'jsonl'}"
    log = kind(file)
    for epoch in (1, 2):
        log(measure(network(seed=epoch), [data()], num_classes=K, metrics=METRICS), epoch=epoch, step=10 * epoch)
    with file.open("a") as opened:
        opened.write("2,20,train")  # a killed training
    main(["import", str(file), "--out", str(tmp_path / "mine")])
    run = read_run(tmp_path / "mine")
    assert (run.epochs, run.status.state) == ((1, 2), "finished")
    expected = measure(network(seed=2), [data()], num_classes=K, metrics=METRICS)
    assert [row._replace(epoch=None, step=None) for row in run.rows if row.epoch == 2] == list(expected.rows)
    assert Path(write_report([tmp_path / "mine"])).exists()
    with pytest.raises(ValueError, match="must be a new or empty folder"):
        import_log(file, tmp_path / "mine")


def test_a_log_of_version_0_1_over_steps(tmp_path):
    row = {"epoch": None, "split": "train", "depth": 0, "layer": "1", "metric": "pfc1", "value": None, "flags": ["few"]}
    (tmp_path / "old.jsonl").write_text("".join(json.dumps({**row, "step": step}) + "\n" for step in (5, 10)))
    run = read_run(import_log(tmp_path / "old.jsonl", tmp_path / "a"))
    assert (run.unit, run.epochs, run.rows[0].flags) == ("step", (5, 10), ("few",))
    header = "epoch,step,split,depth,layer,metric,value,flags\n"
    (tmp_path / "old.csv").write_text(header + "0.5,5,train,0,1,pfc1,0.25,a;b\n1.0,10,train,0,1,pfc1,0.5,\n")
    run = read_run(import_log(tmp_path / "old.csv", tmp_path / "b"))
    assert (run.unit, [row.value for row in run.rows], run.rows[0].flags) == ("step", [0.25, 0.5], ("a", "b"))


@pytest.mark.parametrize(("text", "match"), [
    ("epoch,metric\n1,2\n", "must be a log with the columns epoch or step, split, .*got another file"),
    ("epoch,split,depth,layer,metric,value,flags\n", "must hold at least one measurement"),
    ("epoch,split,depth,layer,metric,value,flags\n" + "1,train,0,a,pfc1,1,\n" * 2, "every value once, got pfc1 of a twice"),
    ("epoch,split,depth,layer,metric,value,flags\n1,train,0,a,pfc1,1,\n1,test,0,b,pfc1,1,\n", "a and b at depth 0 of epoch 1"),
    ("epoch,split,depth,layer,metric,value,flags\n,train,0,a,pfc1,1,\n", "must have an epoch or a step in every row"),
    ("epoch,split,depth,layer,metric,value,flags\ninf,train,0,a,pfc1,1,\n", "step and depth must be at least 0, got inf"),
    ("step,split,depth,layer,metric,value,flags\n-1,train,0,a,pfc1,1,\n", "must be at least 0, got None, -1"),
    (b"epoch,split,depth,layer,metric,value,flags\n1,train,0,\xff,pfc1,1,\n", "a damaged one .UnicodeDecodeError"),
    ('{"step": 5.7, "split": "train", "depth": 0, "layer": "a", "metric": "pfc1", "value": 1, "flags": []}\n', r"\.step"),
    ('{"step": 5, "split": ["train"], "depth": 0, "layer": "a", "metric": "pfc1", "value": 1, "flags": []}\n', r"\.split"),
    ('{"step": 5, "flags": ' + "[" * 100_000 + "\n", "a damaged one"),
])  # fmt: skip
def test_files_that_are_no_logs(tmp_path, text, match):
    (tmp_path / "x.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValueError, match=match):
        import_log(tmp_path / "x.csv", tmp_path / "mine")


def test_the_command_measures_checkpoints_of_a_network_by_name(tmp_path, capsys, monkeypatch):
    (tmp_path / "mine_nets.py").write_text(
        "from torch import nn\ndef make(): return nn.Sequential(nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 10))\n"
    )
    monkeypatch.chdir(tmp_path)
    for epoch in (1, 2):
        torch.save(nn.Sequential(nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 10)).state_dict(), tmp_path / f"epoch_{epoch}.pt")
    words = ["measure", "mine_nets:make", "--checkpoints", "epoch_*.pt", "--data", "digits", "--metrics", "pfc1"]
    main([*words, "--out", "runs/mine"])
    assert "Run directory: runs/mine" in capsys.readouterr().out
    assert read_run(tmp_path / "runs" / "mine").epochs == (1, 2)
    with pytest.raises(SystemExit):
        main(words)
    assert "--checkpoints writes a run directory and needs --out DIR" in capsys.readouterr().err
