"""Logs: what a file holds, what a kill leaves, what a resumed training goes on with."""

import contextlib
import csv
import json
import math
import sqlite3
import types

import pytest
import torch

from ncollapse.integrations import CSVLog, JSONLLog, TensorBoardLog, TrackioLog, WandbLog
from ncollapse.integrations.logs import scalars
from ncollapse.probe import measure_features
from ncollapse.records import Row

COLUMNS = ["epoch", "step", "split", "depth", "layer", "metric", "value", "standard_error", "flags"]


def measurement(seed=0, split="train", num_classes=3):
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(20, 3, generator=generator)
    labels = torch.arange(20) % 3
    return measure_features({"a,b": features, "c": features**2}, labels, num_classes=num_classes, split=split)


def read(path):
    if path.suffix == ".csv":
        with path.open(newline="") as file:
            header, *rows = csv.reader(file)
        assert header == COLUMNS
        return [[float(e), int(s) if s else None, p, int(d), la, m, float(v), f.split(";") if f else []]
                for e, s, p, d, la, m, v, _, f in rows]  # fmt: skip
    entries = [json.loads(line) for line in path.read_text().splitlines()]
    assert all(list(entry) == COLUMNS for entry in entries)
    return [
        [*list(entry.values())[:6], math.nan if entry["value"] is None else entry["value"], entry["flags"]] for entry in entries
    ]


@pytest.fixture(params=[CSVLog, JSONLLog])
def kind(request):
    return request.param


@pytest.fixture
def path(kind, tmp_path):
    return tmp_path / "new" / f"log.{'csv' if kind is CSVLog else 'jsonl'}"


def test_a_file_holds_every_row_to_the_last_digit(kind, path):
    log = kind(path)
    log(measurement(0), epoch=1.0)
    log(measurement(1), epoch=2, step=70)
    rows = read(path)
    expected = [[1, None, *row[2:7], list(row.flags)] for row in measurement(0).rows]
    expected += [[2, 70, *row[2:7], list(row.flags)] for row in measurement(1).rows]
    assert repr(rows).replace("1.0, None", "1, None").replace("[2.0,", "[2,") == repr(expected)


def test_a_log_needs_a_place(kind, path):
    with pytest.raises(
        ValueError, match=r"needs the epoch or the step of a measurement, got neither. Call log\(measurement, ep"
    ):
        kind(path)(measurement())


def test_a_file_that_holds_something_is_not_appended_to_by_accident(kind, path):
    kind(path)(measurement(), epoch=1)
    with pytest.raises(ValueError, match=rf"must be a new file, got one with content.*{kind.__name__}\(path, resume=True"):
        kind(path)


@pytest.mark.parametrize("torn", [0, 1, 30])
@pytest.mark.parametrize("by", ["epoch", "step"])
def test_a_killed_training_resumes_to_the_same_file(kind, path, torn, by):
    through = path.with_name(f"through{path.suffix}")
    for place in range(1, 5):
        kind(through, resume=True)(measurement(place), **{by: place})
        if place < 4:
            kind(path, resume=True)(measurement(place), **{by: place})
    # Killed while the third was written; the checkpoint is from the second.
    path.write_bytes(path.read_bytes()[: -torn or None])
    log = kind(path, resume=True)
    log(measurement(3), **{by: 3})
    log(measurement(4), **{by: 4})
    assert path.read_bytes() == through.read_bytes()


@pytest.mark.parametrize("content", ["epoch,metric\n1,pfc1\n", '{"epoch": 1}\n', "no end of line", "[1]\n"])
def test_another_file_is_not_resumed(kind, path, content):
    path.parent.mkdir()
    path.write_text(content)
    with pytest.raises(ValueError, match=r"must be a log with the columns epoch, step, split, .* got the first line "):
        kind(path, resume=True)
    assert path.read_text() == content


def test_names_for_loggers_leave_out_what_is_undefined():
    rows = measurement().rows
    assert scalars(measurement()) == {f"nc/{row.layer}/{row.metric}": row.value for row in rows}
    assert all(math.isnan(row.value) for row in measurement(num_classes=4).rows)
    assert scalars(measurement(num_classes=4)) == {}
    assert {name.split("/")[1] for name in scalars(measurement(split="test"))} == {"test"}


def test_any_run_object_with_log_will_do():
    calls = []
    log = WandbLog(types.SimpleNamespace(log=lambda values, step: calls.append((values, step))))
    log(measurement(), epoch=3)
    log(measurement(), step=9)
    assert calls == [({**scalars(measurement()), "epoch": 3}, None), (scalars(measurement()), 9)]


def test_tensorboard_reads_back_what_was_written(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    log = TensorBoardLog(tmp_path)
    log(measurement(0), epoch=1)
    log(measurement(1), epoch=2, step=50)
    events = EventAccumulator(str(tmp_path)).Reload()
    for name, value in scalars(measurement(1)).items():
        first, second = events.Scalars(name)
        assert (first.step, second.step) == (1, 50)
        assert second.value == pytest.approx(value, rel=1e-6)


def test_wandb_takes_the_active_run(tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb")
    with pytest.raises(ValueError, match=r"WandbLog needs an active run, got none\. Call wandb\.init first, or pass its run\."):
        WandbLog()
    run = wandb.init(mode="offline", dir=str(tmp_path), settings=wandb.Settings(silent=True))
    log = WandbLog()
    log(measurement(), epoch=1, step=5)
    # wandb takes the values of a step in when the next one comes.
    log(measurement(1), epoch=2, step=6)
    assert run.summary["nc/c/pfc1"] == measurement().value("pfc1", "c")
    assert run.summary["epoch"] == 1
    run.finish()


def test_trackio_holds_what_was_logged(tmp_path, monkeypatch):
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path))
    trackio = pytest.importorskip("trackio")
    log = TrackioLog()
    with pytest.raises(RuntimeError, match=r"Call trackio\.init\(\)"):
        log(measurement(), epoch=1)
    run = trackio.init(project="collapse", name="one", embed=False, auto_log_cpu=False, auto_log_gpu=False)
    log(measurement(), epoch=1, step=5)
    TrackioLog(run)(measurement(1), epoch=2, step=6)
    trackio.finish()
    (database,) = tmp_path.glob("*.db")
    with contextlib.closing(sqlite3.connect(database)) as opened:
        found = [json.loads(text) for (text,) in opened.execute("select metrics from metrics order by step")]
    assert [entry["nc/c/pfc1"] for entry in found] == [measurement(seed).value("pfc1", "c") for seed in range(2)]
    assert [entry["epoch"] for entry in found] == [1, 2]


@pytest.mark.parametrize(("make", "module", "extra"), [
    (lambda: TensorBoardLog("."), "torch.utils.tensorboard", "tensorboard"),
    (WandbLog, "wandb", "wandb"),
    (TrackioLog, "trackio", "trackio"),
])  # fmt: skip
def test_what_is_not_installed_is_named(make, module, extra, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, module, None)
    with pytest.raises(ImportError, match=rf'pip install -e "\.\[{extra}\]"'):
        make()


def test_a_log_has_the_columns_of_a_run_directory():
    assert list(Row._fields) == COLUMNS
