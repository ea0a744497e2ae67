"""Runs: what they write, that they find collapse, and that no kill changes the final table."""

import csv
import errno
import itertools
import json
import os
import shutil
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from distributed import launch
from ncollapse.cli import main
from ncollapse.data import Batches, DataConfig, LabeledData, load_samples
from ncollapse.drawing import figures
from ncollapse.metrics import select_metrics
from ncollapse.models import ConvResNetConfig
from ncollapse.records import ReportError, lock, read_run
from ncollapse.records.errors import RunDirectoryWarning
from ncollapse.records.manifest import CheckedFiles
from ncollapse.studies import RunDirectoryError, RunStopped, override, recipe_by_name, run, run_recipe
from ncollapse.targets import Target, measure_target, named_data
from ncollapse.train import CheckpointError

SMALL = [
    "data.per_class=20", "train.epochs=4", "train.checkpoint_every=2", "measure.epochs=[0,1,4]", "model.width=16",
    "model.num_blocks=2", "train.batch_size=50", "measure.transport_samples=50",
]  # fmt: skip

# For runs that are resumed from dozens of places.
THIN = ("model.num_blocks=1", "model.width=8", "measure.transport_samples=0")


def measure_run(path, layers="auto", **target):
    return measure_target(Target(str(path), **target), layers=layers)


TABLES = ("measurements.csv", "depth.json", "history.csv")


def small(*settings):
    return override(recipe_by_name("demo"), [*SMALL, *settings])


def tables(path):
    return {name: (path / name).read_bytes() for name in TABLES}


def rows(path):
    with (path / "measurements.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("connections", ["plain", "dense"])
def test_networks_without_skips_are_measured_along_their_layers(connections, tmp_path):
    run_recipe(
        override(small(), [f"model.connections={connections}", "train.epochs=1", "measure.epochs=[1]"]), tmp_path / "run"
    )
    (record,) = json.loads((tmp_path / "run" / "depth.json").read_text())["epochs"]
    assert record["layers"] == ["stem", "blocks.0", "blocks.1"]
    assert record["energy"]["energy"] > 0
    # What their blocks do is no step that weights bound.
    assert record["weight_decay"] is None


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "whole"
    run_recipe(small(), out)
    return out


def test_files_of_a_run(finished):
    status = json.loads((finished / "status.json").read_text())
    assert (status["state"], status["epoch"], status["epochs"]) == ("finished", 4, 4)
    assert status["first_perfect_epoch"] is None
    assert status["weight_decay_time"] == pytest.approx(sum([0.1, 0.01, 0.001, 0.001]) / 0.1 * 1e-2 * 4)
    table = rows(finished)
    assert {int(row["epoch"]) for row in table} == {0, 1, 4}
    assert {row["layer"] for row in table} == {"stem", "blocks.0", "blocks.1"}
    assert {row["layer"] for row in table if row["metric"] == "nc3"} == {"blocks.1"}
    depth = json.loads((finished / "depth.json").read_text())["epochs"]
    assert [entry["epoch"] for entry in depth] == [0, 1, 4]
    last = depth[-1]
    assert last["layers"] == ["stem", "blocks.0", "blocks.1"]
    assert last["positions"]["projection"][0] == 0.0
    assert last["positions"]["projection"][-1] == pytest.approx(1.0)
    energy = last["energy"]
    assert energy["energy"] >= energy["energy_min"] >= energy["identity_cost"]
    # Where the network's own pairing is the optimal one, both are sums of the same costs, in another order.
    assert energy["identity_cost_sample"] >= energy["wasserstein2"] * (1 - 1e-14)
    assert energy["wasserstein2"] >= energy["gelbrich"] > 0
    assert 0 <= energy["pair_violation_rate"] <= 1
    assert energy["num_pairs"] == energy["num_samples_wasserstein"] * (energy["num_samples_wasserstein"] - 1) // 2
    assert energy["random_cost_sample"] > energy["wasserstein2"]
    # Before training too, where features hardly move, and at no other epoch.
    before, *between = (record["energy"] for record in depth[:-1])
    assert before["wasserstein2"] > 0
    assert before["random_cost_sample"] > before["wasserstein2"]
    assert between
    assert all(energy["wasserstein2"] is None for energy in between)
    assert all(-1 <= entry["alignment"]["alignment"] <= 1 for entry in depth)
    bounds = last["weight_decay"]
    assert [block["block"] for block in bounds["blocks"]] == ["blocks.0", "blocks.1"]
    assert bounds["is_bound"] is True
    assert all(0 < block["energy"] <= block["by_moment"] <= block["by_weights"] for block in bounds["blocks"])
    assert depth[0]["weight_decay"] is None
    verdict = last["collapsed_optimality"]
    assert verdict["optimal"] == (verdict["cycle"] is None) == (verdict["gain"] == 0.0)
    environment = json.loads((finished / "environment.json").read_text())
    assert (environment["torch"], environment["seed"], environment["threads"]) == (torch.__version__, 0, 1)


def test_measuring_the_finished_run_again_gives_its_last_rows(finished):
    again = {(row.layer, row.metric): row.value for row in measure_run(finished).rows}
    last = {(row["layer"], row["metric"]): float(row["value"]) for row in rows(finished) if row["epoch"] == "4"}
    assert again.keys() == last.keys()
    assert all(again[key] == pytest.approx(last[key], nan_ok=True) for key in last)


def test_same_seed_same_bits_other_seed_other_numbers(finished, tmp_path):
    run_recipe(small(), tmp_path / "again")
    run_recipe(small("seed=1"), tmp_path / "other")
    assert tables(tmp_path / "again") == tables(finished)
    assert tables(tmp_path / "other") != tables(finished)


def test_a_convolutional_run_measures_its_last_stage_and_resumes(tmp_path, monkeypatch):
    """Figures and transport run through the layers of one shape; what the head takes stands behind them in the table."""
    fields = (
        "train.epochs=3", "measure.epochs=[0,1]", "train.batch_size=64", "data.per_class=20", "measure.transport_samples=50"
    )  # fmt: skip
    recipe = override(replace(recipe_by_name("demo"), model=ConvResNetConfig(channels=(4, 6), blocks=(0, 2))), fields)
    run_recipe(recipe, tmp_path / "whole")
    last = json.loads((tmp_path / "whole" / "depth.json").read_text())["epochs"][-1]
    assert last["layers"] == ["stages.1.0", "stages.1.1", "stages.1.2"]
    assert 0 < last["energy"]["wasserstein2"] <= last["energy"]["identity_cost_sample"] * (1 + 1e-9)
    assert {key: len(value) for key, value in last["positions"].items()} == dict.fromkeys(last["positions"], 3)
    table = rows(tmp_path / "whole")
    assert {row["layer"] for row in table if row["metric"] == "nc3"} == {"head.input"}
    assert {row["depth"] for row in table if row["layer"] == "head.input"} == {"3"}
    monkeypatch.setattr(figures, "render", lambda figure, kind: b"")
    figures.save_figures(read_run(tmp_path / "whole"))
    with pytest.raises(Stopped):
        run_recipe(recipe, tmp_path / "broken", on_epoch=stop_after(2))
    run_recipe(recipe, tmp_path / "broken", resume=True)
    assert tables(tmp_path / "broken") == tables(tmp_path / "whole")
    again = measure_run(tmp_path / "whole")
    assert again.layers == (*last["layers"], "head.input")
    assert again.value("pfc1") == pytest.approx(float([r for r in table if r["metric"] == "pfc1"][-1]["value"]))


@pytest.mark.parametrize("which", ["one of each file", pytest.param("all", marks=pytest.mark.slow)])
def test_kill_at_writes_then_resume(which, tmp_path, monkeypatch):
    """What lies there before a write of a run, of each file one or all, is resumed to the uninterrupted tables, to the bit."""
    killed, writes = [], {}
    move = os.replace

    def watched(source, target):
        killed.append(tmp_path / f"killed-{len(killed)}")
        writes.setdefault(Path(target).name, []).append(killed[-1])
        shutil.copytree(tmp_path / "run", killed[-1])
        move(source, target)

    # Short, since it is resumed from everywhere: a checkpoint between two measured epochs, one at each, and the end.
    recipe = small("train.epochs=3", "measure.epochs=[0,1]", *THIN)
    run_recipe(recipe, tmp_path / "whole")
    monkeypatch.setattr(os, "replace", watched)
    run_recipe(recipe, tmp_path / "run")
    monkeypatch.undo()
    assert len(killed) > 20
    expected = tables(tmp_path / "whole")
    # An earlier or a later one of each, from file to file.
    some = [outs[number % len(outs)] for number, outs in enumerate(writes.values())]
    assert len(some) > 8
    for out in killed if which == "all" else some:
        run_recipe(recipe, out, resume=True)
        assert tables(out) == expected, out.name


def test_sigkill_then_resume(finished, tmp_path, capsys, without_drawings):
    """The same with a real process, killed after its first checkpoint."""
    out = tmp_path / "killed"
    words = ["run", "demo", "--out", str(out), "--resume", "--set", *SMALL]
    process = launch.started(["-m", "ncollapse", *words], tmp_path)
    deadline = time.monotonic() + 120
    # The last of the files that a checkpoint writes.
    while not (out / "status.json").exists() and process.is_alive() and time.monotonic() < deadline:
        time.sleep(0.005)
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    main(words)
    assert tables(out) == tables(finished)
    assert "Page: " in capsys.readouterr().out


def asked_after(number):
    """Stands for a signal: from the n-th time on it says that the run must stop."""
    calls = itertools.count(1)
    return lambda: next(calls) >= number


# Asked before each of four epochs and after each of its four batches: 20 times.
@pytest.mark.parametrize("number", [1, 2, 5, 13, 20])
def test_a_stopped_run_is_resumed_to_the_bit(number, finished, tmp_path):
    out = tmp_path / "run"
    epoch, batch = divmod(number - 1, 5)
    place = f"in epoch {epoch + 1}, after batch {batch} of 4"
    with pytest.raises(RunStopped, match=rf"run is saved {place}\. Continue it with --resume"):
        run_recipe(small(), out, should_stop=asked_after(number))
    status = json.loads((out / "status.json").read_text())
    assert (status["state"], status["epoch"], status["reason"]) == ("stopped", epoch, place)
    if batch:
        with pytest.raises(CheckpointError, match=rf"got one of a run that was stopped inside epoch {epoch + 1}\. Continue"):
            measure_run(out)
    run_recipe(small(), out, resume=True)
    assert tables(out) == tables(finished)
    # Weights, momentum and position: the files are equal, so the rest of the run would be too.
    assert (out / "checkpoint.safetensors").read_bytes() == (finished / "checkpoint.safetensors").read_bytes()
    status = json.loads((out / "status.json").read_text())
    assert (status["state"], status["epoch"], status["reason"]) == ("finished", 4, None)


def test_stopped_again_and_again_a_run_comes_to_its_end(finished, tmp_path):
    stops = 0
    while True:
        try:
            run_recipe(small(), tmp_path, resume=True, should_stop=asked_after(3))
            break
        except RunStopped:
            stops += 1
    assert stops >= 16 / 2 - 1
    assert tables(tmp_path) == tables(finished)


def test_an_interrupted_run_says_so(finished, tmp_path):
    def interrupt(record, _epochs):
        if record.epoch == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_recipe(small(), tmp_path, on_epoch=interrupt)
    status = json.loads((tmp_path / "status.json").read_text())
    assert (status["state"], status["epoch"], status["reason"]) == ("stopped", 2, "interrupted, goes on from here")
    run_recipe(small(), tmp_path, resume=True)
    assert tables(tmp_path) == tables(finished)


def test_a_folder_has_one_writer_and_says_that_it_is_written_to(finished, tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "_PATIENCE_SECONDS", 0.0)
    out, seen = tmp_path / "run", []

    def disturb(record, _epochs):
        if record.epoch == 2:
            for resume, overwrite in ((True, False), (False, True)):
                with pytest.raises(
                    RunDirectoryError, match=rf"run must be written by one process at a time, .* {os.getpid()} on"
                ):
                    run_recipe(small(), out, resume=resume, overwrite=overwrite)
            seen.append(read_run(out).status.state)

    run_recipe(small(), out, on_epoch=disturb)
    assert seen == ["running"]
    assert tables(out) == tables(finished)
    assert read_run(out).status.state == "finished"
    assert {path.name for path in out.iterdir()} == {path.name for path in finished.iterdir()}


def test_a_folder_that_is_moved_away_is_told_and_goes_on_in_its_new_place(finished, tmp_path):
    out, new = tmp_path / "run", tmp_path / "new"

    def move(record, _epochs):
        if record.epoch == 3:
            out.rename(new)

    with pytest.raises(OSError, match=r"the folder is gone, moved or removed perhaps\. Move it back or choose"):
        run_recipe(small(), out, on_epoch=move)
    assert not out.exists()
    assert read_run(new).status.state == "dead"
    run_recipe(small(), new, resume=True)
    assert tables(new) == tables(finished)


class Killed(BaseException):
    """Stands for SIGKILL: nothing may catch it and go on."""


def test_resume_of_a_finished_run_changes_nothing(finished):
    before = tables(finished)
    run_recipe(small(), finished, resume=True)
    assert tables(finished) == before


def test_a_finished_run_calls_nobody_on_resume(finished):
    run_recipe(small(), finished, resume=True, on_epoch=lambda record, epochs: pytest.fail("nothing was trained"))


def test_resume_begins_a_run_that_does_not_exist(finished, tmp_path):
    run_recipe(small(), tmp_path / "new", resume=True)
    assert tables(tmp_path / "new") == tables(finished)


def test_folder_with_a_run(finished, tmp_path):
    before = tables(finished)
    with pytest.raises(RunDirectoryError, match=r"holds a run of 'demo' already\. Continue it with --resume"):
        run_recipe(small(), finished)
    with pytest.raises(CheckpointError, match=r"holds a run of .demo. with seed=0, got seed=5\. Resume it with its own"):
        run_recipe(small("seed=5"), finished, resume=True)
    assert tables(finished) == before
    out = tmp_path / "replaced"
    run_recipe(small("seed=1"), out)
    (out / "report.html").write_text("about the old run")
    (out / "notes.txt").write_text("mine")
    run_recipe(small(), out, overwrite=True)
    assert tables(out) == before
    assert not (out / "report.html").exists()
    assert (out / "notes.txt").read_text() == "mine"
    assert not list(out.glob(".new*"))


def test_only_a_run_of_the_same_settings_is_overwritten(tmp_path):
    run_recipe(small("train.epochs=5"), tmp_path)
    before = tables(tmp_path)
    with pytest.raises(
        RunDirectoryError, match=r"holds a run of 'demo' with train\.epochs=5, which is not replaced by .*--out"
    ):
        run_recipe(small(), tmp_path, overwrite=True)
    assert tables(tmp_path) == before


def failing_write(monkeypatch, fails):
    """Every file for which `fails(its number, its temporary name)` is true meets a full disk."""
    calls, begin = 0, os.open

    def write(path, flags, *mode):
        nonlocal calls
        if flags & os.O_CREAT and str(path).endswith(".tmp"):
            calls += 1
            if fails(calls, Path(path).name):
                raise OSError(28, "No space left on device", str(path))
        return begin(path, flags, *mode)

    monkeypatch.setattr(os, "open", write)


def test_a_full_disk_at_the_first_files_of_a_replacement_keeps_the_old_run(finished, tmp_path, monkeypatch):
    out = tmp_path / "run"
    shutil.copytree(finished, out)
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    for last in range(1, 9):
        failing_write(monkeypatch, lambda number, name, last=last: number >= last)
        with pytest.raises(OSError, match="No space left on device"):
            run_recipe(small("seed=1"), out, overwrite=True)
        assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
    monkeypatch.undo()
    run_recipe(small("seed=1"), out, overwrite=True)
    run_recipe(small("seed=1"), tmp_path / "other")
    assert tables(out) == tables(tmp_path / "other")


def test_a_replacement_killed_among_its_moves_starts_over(tmp_path, monkeypatch):
    """The old run has another seed. Of the mixture nothing is reported, and --resume trains the new run from the start."""
    move, moves, die_at = os.replace, 0, 0
    recipe, other = (small("train.epochs=1", "measure.epochs=[0]", *THIN, f"seed={seed}") for seed in (0, 1))
    run_recipe(recipe, tmp_path / "whole")
    run_recipe(other, tmp_path / "old")

    def dying(source, target):
        nonlocal moves
        moves += 1
        if moves == die_at:
            raise Killed
        move(source, target)

    monkeypatch.setattr(os, "replace", dying)
    for die_at in range(2, 11):
        out = tmp_path / f"killed-{die_at}"
        shutil.copytree(tmp_path / "old", out)
        moves = 0
        with pytest.raises(Killed):
            run_recipe(recipe, out, overwrite=True)
        if die_at < 10:
            with pytest.raises(ReportError, match=r"first save was cut off\. Finish the run with .*--resume"):
                read_run(out)
        moves = 20
        run_recipe(recipe, out, resume=True)
        assert tables(out) == tables(tmp_path / "whole")


def test_changes_are_written(finished, tmp_path):
    assert json.loads((finished / "recipe.json").read_text())["changed"] == [
        *("data.per_class=20", "model.width=16", "model.num_blocks=2", "train.epochs=4", "train.batch_size=50"),
        *("train.checkpoint_every=2", "measure.epochs=[0, 1, 4]", "measure.transport_samples=50"),
    ]
    run_recipe(replace(small(), name="mine", seed=2), tmp_path / "mine")
    assert json.loads((tmp_path / "mine" / "recipe.json").read_text())["changed"] == []


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


def test_a_network_without_blocks_is_refused_and_leaves_nothing_behind(tmp_path):
    with pytest.raises(ValueError, match=r"needs two layers or more, got one, stem\. Give it a block"):
        run_recipe(small("model.num_blocks=0"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["checkpoint.safetensors", "measurements.csv", "manifest.json"])
def test_a_damaged_run_goes_on_from_the_save_before(finished, tmp_path, name):
    """Once it is finished, and once it is not; with the bits of a run that was never damaged."""
    for epochs, back in ((4, 2), (1, 0)):
        out = tmp_path / f"damaged-{epochs}"
        if epochs < 4:
            with pytest.raises(Stopped):
                run_recipe(small(), out, on_epoch=stop_after(epochs))
        else:
            shutil.copytree(finished, out)
        whole = (out / name).read_bytes()
        (out / name).write_bytes(whole[: len(whole) // 2])
        with pytest.raises(ReportError, match=rf"`ncollapse repair {out}` says"):
            CheckedFiles(out).check(name)
        words = rf"{name} is not as it was written; the run goes back to its save at epoch {back}, and what came later is tr"
        with pytest.warns(RunDirectoryWarning, match=words):
            run_recipe(small(), out, resume=True)
        assert tables(out) == tables(finished)
        assert (out / "damaged" / "1" / name).read_bytes() == whole[: len(whole) // 2]


def test_a_damaged_run_without_an_earlier_save_is_refused_with_a_command_that_helps(finished, tmp_path, capsys):
    recipe = small("train.keep=1", "train.epochs=1", "measure.epochs=[0]")
    run_recipe(recipe, tmp_path / "run")
    assert not (tmp_path / "run" / "previous").exists()
    (tmp_path / "run" / "checkpoint.safetensors").write_bytes(b"damaged")
    with pytest.raises(
        ReportError, match=r"checkpoint\.safetensors: was changed after it was written\. `ncollapse repair .*run`"
    ):
        run_recipe(recipe, tmp_path / "run", resume=True)
    with pytest.raises(
        ValueError, match=r"checkpoint\.safetensors: was changed after it was written\. `ncollapse repair .*run`"
    ):
        measure_run(tmp_path / "run")
    main(["repair", str(tmp_path / "run"), "--yes"])
    run_recipe(recipe, tmp_path / "run", resume=True)
    main(["verify", str(tmp_path / "run")])


def test_a_recipe_edited_by_hand_and_a_checkpoint_of_another_recipe_are_told(finished, tmp_path):
    out, other = shutil.copytree(finished, tmp_path / "edited"), tmp_path / "other"
    text = (out / "recipe.json").read_text()
    (out / "recipe.json").write_text(text.replace('"seed": 0', '"seed": 1'))
    for look in (read_run, measure_run):
        with pytest.raises(ValueError, match=r"recipe\.json: was changed after it was written"):
            look(out)
    run_recipe(small("seed=1", "train.epochs=1", "measure.epochs=[0]"), other)
    (out / "recipe.json").write_text(text)
    shutil.copy(other / "checkpoint.safetensors", out)
    with pytest.raises(ValueError, match=r"checkpoint\.safetensors: was changed after it was written"):
        measure_run(out)
    # A folder of an older version has no manifest; the checkpoint itself names its recipe.
    environment = json.loads((out / "environment.json").read_text())
    environment.pop("manifest")
    (out / "environment.json").write_text(json.dumps(environment))
    (out / "manifest.json").unlink()
    with pytest.raises(CheckpointError, match="must be a checkpoint of the recipe with fingerprint"):
        measure_run(out)


def test_how_many_checkpoints_are_kept_changes_no_number():
    assert small("train.keep=5").fingerprint() == small().fingerprint()


def test_full_disk_in_the_middle_loses_nothing(finished, tmp_path, monkeypatch):
    out = tmp_path / "full"
    failing_write(monkeypatch, lambda number, name: number > 20)
    with pytest.raises(OSError, match="No space left on device"):
        run_recipe(small(), out)
    monkeypatch.undo()
    run_recipe(small(), out, resume=True)
    assert tables(out) == tables(finished)


@pytest.mark.parametrize("code", [errno.EROFS, errno.EACCES])
def test_read_only_folder(tmp_path, monkeypatch, code):
    """As a read-only file system and a locked folder refuse; a real locked folder would not stop root."""

    def refuse(self, *_arguments, **_options):
        raise OSError(code, os.strerror(code), str(self))

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(OSError, match=rf"the folder cannot be made .*--out.*{tmp_path}"):
        run_recipe(small(), tmp_path / "run")


def test_divergence_keeps_what_was_measured(tmp_path):
    with pytest.raises(ValueError, match="finite losses and gradients"):
        run_recipe(small("train.learning_rate=1e30", "train.clip_norm=null", "model.normalization=none"), tmp_path / "run")
    assert {row["epoch"] for row in rows(tmp_path / "run")} >= {"0"}
    status = json.loads((tmp_path / "run" / "status.json").read_text())
    assert (status["state"], status["epoch"], status["epochs"]) == ("failed", 0, 4)
    assert status["reason"].startswith("training needs finite losses and gradients, got ")


def test_a_failed_run_says_so_and_resumes(finished, tmp_path, monkeypatch):
    failing_write(monkeypatch, lambda number, name: name.startswith(".checkpoint") and number > 11)
    with pytest.raises(OSError, match="No space left"):
        run_recipe(small(), tmp_path)
    monkeypatch.undo()
    status = json.loads((tmp_path / "status.json").read_text())
    assert (status["state"], status["epoch"], status["weight_decay_time"]) == ("failed", 0, 0)
    assert "No space left on device" in status["reason"]
    run_recipe(small(), tmp_path, resume=True)
    assert tables(tmp_path) == tables(finished)
    status = json.loads((tmp_path / "status.json").read_text())
    assert status["state"] == "finished"
    assert status["reason"] is None


class Stopped(Exception):
    pass


def stop_after(last):
    def on_epoch(record, _epochs):
        if record.epoch == last:
            raise Stopped

    return on_epoch


def test_an_unfinished_run_counts_time_and_weight_decay_so_far(tmp_path, monkeypatch):
    clock = iter(range(0, 10_000, 10))
    monkeypatch.setattr(run.time, "monotonic", lambda: next(clock))
    with pytest.raises(Stopped):
        run_recipe(small(), tmp_path, on_epoch=stop_after(2))
    first = json.loads((tmp_path / "status.json").read_text())
    assert (first["epoch"], first["reason"]) == (2, "Stopped: no words. Put --debug after ncollapse to see where.")
    assert first["weight_decay_time"] == pytest.approx(sum([0.1, 0.01]) / 0.1 * 1e-2 * 4)
    # The clock of another process starts anywhere.
    clock = iter(range(5, 10_000, 10))
    run_recipe(small(), tmp_path, resume=True)
    last = json.loads((tmp_path / "status.json").read_text())
    saves = 1  # epoch 4; the reading of the end follows
    assert last["seconds"] == first["seconds"] + 10 * (saves + 1)


def test_first_perfect_epoch_is_the_first_measured_one(tmp_path):
    """On classes far apart: the epochs between 0 and 40 may have been perfect too, and nobody looked."""
    recipe = small("data.name=gaussian_mixture", "train.epochs=60", "measure.epochs=[0,40,50]", "data.per_class=10")
    run_recipe(recipe, tmp_path)
    accuracies = {int(row["epoch"]): float(row["value"]) for row in rows(tmp_path) if row["metric"] == "accuracy"}
    assert accuracies[0] < 1
    assert (accuracies[40], accuracies[50], accuracies[60]) == (1, 1, 1)
    assert json.loads((tmp_path / "status.json").read_text())["first_perfect_epoch"] == 40


def test_convention_reaches_the_run(finished, tmp_path):
    """The digits have unequal classes when all are taken, so the weights show."""
    settings = ("data.per_class=null", "train.epochs=1", "measure.epochs=[0]")
    values = {}
    for convention in ("class", "sample"):
        out = tmp_path / convention
        run_recipe(small(*settings, f"measure.convention={convention}"), out)
        values[convention] = {(r["epoch"], r["layer"]): float(r["value"]) for r in rows(out) if r["metric"] == "pfc1"}
        again = measure_run(out)
        assert again.convention == convention
        assert again.value("pfc1", "stem") == pytest.approx(values[convention]["1", "stem"])
    assert all(values["class"][key] != values["sample"][key] for key in values["class"])


def test_stratified_takes_the_first_of_every_class_in_equal_numbers():
    inputs, labels = torch.arange(9.0)[:, None], torch.tensor([0, 1, 0, 2, 0, 1, 0, 2, 0])
    data = LabeledData(inputs, labels, num_classes=3, name="nine")
    sample = run._stratified(data, 7)
    assert sample.inputs.flatten().tolist() == [0, 2, 1, 5, 3, 7]
    assert sample.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert run._stratified(data, 1).labels.tolist() == [0, 1, 2]
    assert run._stratified(data, 12).labels.tolist() == [0, 0, 0, 0, 1, 1, 2, 2]


def test_the_test_split_of_a_run_is_whole_and_not_corrupted(tmp_path, monkeypatch):
    recipe = small("data.name=gaussian_mixture", "data.corrupt=0.5", "train.epochs=1", "measure.epochs=[0]")
    run_recipe(recipe, tmp_path)
    loaded = []
    monkeypatch.setattr(named_data, "load_samples", lambda config: loaded.append(config) or load_samples(config))
    measurement = measure_run(tmp_path, split="test")
    assert measurement.split == "test"
    assert [(c.split, c.corrupt, c.per_class) for c in loaded] == [("train", 0.5, 20), ("test", 0.0, None)]
    clean = load_samples(DataConfig("gaussian_mixture", split="test"))
    assert measurement.num_samples == clean.num_samples


def test_a_run_measures_its_test_split_by_the_training_means(finished, tmp_path):
    both = run_recipe(small("measure.test=true"), tmp_path / "both")
    found = {split: [row for row in rows(both) if row["split"] == split] for split in ("train", "test")}
    assert found["train"] == rows(finished)
    again = measure_run(both, split="test")
    assert again.num_samples == 1797 - 200
    last = [row for row in found["test"] if row["epoch"] == "4"]
    assert {(row["layer"], row["metric"]): float(row["value"]) for row in last} == pytest.approx(
        {(row.layer, row.metric): row.value for row in again.rows}, nan_ok=True
    )
    assert (
        json.loads((both / "status.json").read_text())["train_accuracy"]
        == json.loads((finished / "status.json").read_text())["train_accuracy"]
    )


def test_a_run_is_measured_again_with_other_layers_and_batch_sizes(finished, monkeypatch):
    assert measure_run(finished, layers=["blocks.1"]).layers == ("blocks.1",)
    sizes = []
    monkeypatch.setattr(named_data, "Batches", lambda data, size: sizes.append(size) or Batches(data, size))
    measure_run(finished, batch_size=13)
    measure_run(finished)
    assert sizes == [13, 1000]


def test_threads_are_restored(tmp_path):
    before = torch.get_num_threads()
    run_recipe(small("threads=2", "train.epochs=1", "measure.epochs=[0]", *THIN), tmp_path / "run")
    assert torch.get_num_threads() == before


def test_unknown_device(tmp_path):
    with pytest.raises(ValueError, match="device must be one that is available here, got 'quantum'"):
        run_recipe(small("device=quantum"), tmp_path / "run")


def test_last_epoch_is_always_measured(tmp_path):
    run_recipe(small("measure.epochs=[2]"), tmp_path / "run")
    assert {int(row["epoch"]) for row in rows(tmp_path / "run")} == {2, 4}


def test_what_holds_for_the_squared_loss_is_measured_where_it_is_trained_by(tmp_path):
    found = {}
    for loss in ("cross_entropy", "mse"):
        recipe = override(small(), [f"train.loss={loss}", "train.epochs=1", "measure.epochs=[1]"])
        run_recipe(recipe, tmp_path / loss)
        found[loss] = {row["metric"] for row in rows(tmp_path / loss)}
    assert found["mse"] - found["cross_entropy"] == {"snc1", "snc2", "snc3"}
    assert found["cross_entropy"] == {metric.id for metric in select_metrics(None)}
