"""Runs: what they write, that they find collapse, and that no kill changes the final table."""

import csv
import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from ncollapse.files import write_whole
from ncollapse.studies import RunDirectoryError, measure_run, override, recipe_by_name, run_recipe, rundir
from ncollapse.train import CheckpointError, checkpoint

SMALL = [
    "data.per_class=20", "train.epochs=7", "train.checkpoint_every=2", "measure.epochs=[0,1,3,7]", "model.width=16",
    "model.num_blocks=2", "train.batch_size=50", "measure.transport_samples=50",
]  # fmt: skip
TABLES = ("measurements.csv", "depth.json", "history.csv")


def small(*settings):
    return override(recipe_by_name("demo"), [*SMALL, *settings])


def tables(path):
    return {name: (path / name).read_bytes() for name in TABLES}


def rows(path):
    with (path / "measurements.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "whole"
    run_recipe(small(), out)
    return out


def test_files_of_a_run(finished):
    status = json.loads((finished / "status.json").read_text())
    assert (status["state"], status["epoch"], status["epochs"]) == ("finished", 7, 7)
    assert status["weight_decay_time"] == pytest.approx(sum([0.1] * 2 + [0.01] * 2 + [0.001] * 3) / 0.1 * 1e-2 * 4)
    table = rows(finished)
    assert {int(row["epoch"]) for row in table} == {0, 1, 3, 7}
    assert {row["layer"] for row in table} == {"stem", "blocks.0", "blocks.1"}
    assert {row["layer"] for row in table if row["metric"] == "nc3"} == {"blocks.1"}
    depth = json.loads((finished / "depth.json").read_text())["epochs"]
    assert [entry["epoch"] for entry in depth] == [0, 1, 3, 7]
    last = depth[-1]
    assert last["layers"] == ["stem", "blocks.0", "blocks.1"]
    assert last["positions"]["projection"][0] == 0.0
    assert last["positions"]["projection"][-1] == pytest.approx(1.0)
    energy = last["energy"]
    assert energy["energy"] >= energy["energy_min"] >= energy["identity_cost"]
    assert energy["identity_cost_sample"] >= energy["wasserstein2"] >= energy["gelbrich"] > 0
    assert 0 <= energy["pair_violation_rate"] <= 1
    assert energy["num_pairs"] == energy["num_samples_wasserstein"] * (energy["num_samples_wasserstein"] - 1) // 2
    assert "wasserstein2" not in depth[0]["energy"]
    verdict = last["collapsed_optimality"]
    assert verdict["optimal"] == (verdict["cycle"] is None) == (verdict["gain"] == 0.0)
    environment = json.loads((finished / "environment.json").read_text())
    assert (environment["torch"], environment["seed"], environment["threads"]) == (torch.__version__, 0, 1)


def test_measuring_the_finished_run_again_gives_its_last_rows(finished):
    again = {(row.layer, row.metric): row.value for row in measure_run(finished).rows}
    last = {(row["layer"], row["metric"]): float(row["value"]) for row in rows(finished) if row["epoch"] == "7"}
    assert again.keys() == last.keys()
    assert all(again[key] == pytest.approx(last[key], nan_ok=True) for key in last)


def test_same_seed_same_bits_other_seed_other_numbers(finished, tmp_path):
    run_recipe(small(), tmp_path / "again")
    run_recipe(small("seed=1"), tmp_path / "other")
    assert tables(tmp_path / "again") == tables(finished)
    assert tables(tmp_path / "other") != tables(finished)


class Killed(BaseException):
    """Stands for SIGKILL: nothing may catch it and go on."""


def test_kill_at_every_write_then_resume(finished, tmp_path, monkeypatch):
    """Die before, and right after, each single write of the run; resuming ends with the uninterrupted tables, to the bit."""
    writes = 0
    die_at = None

    def dying(path, content):
        nonlocal writes
        writes += 1
        if writes == die_at and path.name != "status.json":
            write_whole(path, content)  # the write itself is whole; what comes after it never happens
        if writes == die_at:
            raise Killed
        write_whole(path, content)

    for module in (rundir, checkpoint):
        monkeypatch.setattr(module, "write_whole", dying)
    run_recipe(small(), tmp_path / "count")
    total, expected = writes, tables(finished)
    assert total > 20
    for die_at in range(1, total + 1):
        out = tmp_path / f"killed-{die_at}"
        writes = 0
        with pytest.raises(Killed):
            run_recipe(small(), out)
        writes = -(10**9)
        run_recipe(small(), out, resume=True)
        assert tables(out) == expected, f"killed at write {die_at} of {total}"


def test_sigkill_then_resume(finished, tmp_path):
    """The same with real processes, killed at growing delays after their first checkpoint."""
    out = tmp_path / "killed"
    command = [sys.executable, "-m", "ncollapse", "run", "demo", "--out", str(out), "--resume", "--set", *SMALL]
    for delay in (0.0, 0.02):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 120
        while not (out / "checkpoint.safetensors").exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.005)
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        process.wait()
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert tables(out) == tables(finished)
    assert "Page: " in result.stdout


def test_resume_of_a_finished_run_changes_nothing(finished):
    before = tables(finished)
    run_recipe(small(), finished, resume=True)
    assert tables(finished) == before


def test_resume_begins_a_run_that_does_not_exist(finished, tmp_path):
    run_recipe(small(), tmp_path / "new", resume=True)
    assert tables(tmp_path / "new") == tables(finished)


def test_folder_with_a_run(finished, tmp_path):
    before = tables(finished)
    with pytest.raises(RunDirectoryError, match=r"holds a run of 'demo' already\. Continue it with --resume"):
        run_recipe(small(), finished)
    with pytest.raises(CheckpointError, match="another recipe or other settings"):
        run_recipe(small("seed=5"), finished, resume=True)
    assert tables(finished) == before
    out = tmp_path / "replaced"
    run_recipe(small("seed=1"), out)
    run_recipe(small(), out, overwrite=True)
    assert tables(out) == before


def test_folder_that_is_not_a_run(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(RunDirectoryError, match="is not empty and holds no run"):
        run_recipe(small(), tmp_path, overwrite=True)
    assert (tmp_path / "notes.txt").read_text() == "mine"
    with pytest.raises(RunDirectoryError, match="must be a folder, it is a file"):
        run_recipe(small(), tmp_path / "notes.txt")
    with pytest.raises(RunDirectoryError, match="holds no run"):
        measure_run(tmp_path)


def test_missing_data_leaves_no_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("NCOLLAPSE_DATA", str(tmp_path / "none"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="MNIST"):
        run_recipe(override(recipe_by_name("fc_mnist"), [f"data.root={tmp_path}"]), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_damaged_checkpoint_and_tables(finished, tmp_path):
    out = tmp_path / "damaged"
    run_recipe(small(), out)
    whole = (out / "checkpoint.safetensors").read_bytes()
    (out / "checkpoint.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match="damaged or truncated"):
        run_recipe(small(), out, resume=True)
    (out / "checkpoint.safetensors").write_bytes(whole)
    (out / "measurements.csv").write_text("nonsense\n")
    with pytest.raises(RunDirectoryError, match="damaged tables"):
        run_recipe(small(), out, resume=True)


def test_full_disk_in_the_middle_loses_nothing(finished, tmp_path, monkeypatch):
    out = tmp_path / "full"
    calls = 0

    def filling(path, content):
        nonlocal calls
        calls += 1
        if calls > 12:
            raise OSError(28, "No space left on device", str(path))
        write_whole(path, content)

    for module in (rundir, checkpoint):
        monkeypatch.setattr(module, "write_whole", filling)
    with pytest.raises(OSError, match="No space left on device"):
        run_recipe(small(), out)
    monkeypatch.undo()
    run_recipe(small(), out, resume=True)
    assert tables(out) == tables(finished)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_read_only_folder(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(PermissionError, match=str(tmp_path)):
        run_recipe(small(), tmp_path / "run")


def test_divergence_keeps_what_was_measured(tmp_path):
    with pytest.raises(ValueError, match="finite losses and gradients"):
        run_recipe(small("train.learning_rate=1e30", "train.clip_norm=null", "model.normalization=none"), tmp_path / "run")
    assert {row["epoch"] for row in rows(tmp_path / "run")} >= {"0"}


def test_threads_are_restored(tmp_path):
    before = torch.get_num_threads()
    run_recipe(small("threads=2", "train.epochs=1"), tmp_path / "run")
    assert torch.get_num_threads() == before


def test_unknown_device(tmp_path):
    with pytest.raises(ValueError, match="device 'quantum' is not available here"):
        run_recipe(small("device=quantum"), tmp_path / "run")


def test_last_epoch_is_always_measured(tmp_path):
    run_recipe(small("measure.epochs=[2]"), tmp_path / "run")
    assert {int(row["epoch"]) for row in rows(tmp_path / "run")} == {2, 7}
