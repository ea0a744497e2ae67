"""A run directory over its life, as the code that trains uses it: begun, saved, killed, taken up, brought back."""

import json
import os
import shutil

import pytest

from ncollapse.recipe_fingerprint import recipe_fingerprint
from ncollapse.records import EpochRecord, Row
from ncollapse.records.depth import DepthRecord
from ncollapse.records.errors import DamagedRunError, RunDirectoryError
from ncollapse.records.lock import Lock
from ncollapse.records.run_directory import RunDirectory
from ncollapse.records.run_files import Glossary, ObjectiveRecord, RecordedTime, Recording, Status
from ncollapse.records.verification import repair, verify

LAYERS = ("stem", "blocks.0")
ENTRIES = {"name": "demo", "seed": 3}
FINGERPRINT = recipe_fingerprint(ENTRIES)


def begun(path, recipe=ENTRIES):
    directory = RunDirectory(path)
    directory.create(recipe)
    directory.begin({"seed": 3}, Glossary({"pfc1": "a metric"}))
    return directory


def measure(directory, epoch):
    """Train to an epoch of ten steps, and measure."""
    directory.history += [EpochRecord(epoch, 1 / epoch, 0.5, 0.1, 2.0)] if epoch else []
    directory.add_measurement(
        [Row(epoch, 10 * epoch, "train", depth, name, "pfc1", 0.5, None, ()) for depth, name in enumerate(LAYERS)],
        DepthRecord.without_results(epoch, LAYERS),
        ObjectiveRecord(epoch, 0.1, 1.0, 1.0, 2.0, 1.0, 1.0),
    )


def save(directory, epoch, **options):
    options = {"checkpoint": b"weights of %d" % epoch, "recipe": FINGERPRINT, "keep": 2} | options
    directory.save(Status("running", epoch, 9, seconds=1.5 * epoch), **options)


@pytest.fixture
def run(tmp_path):
    """A run that has been saved at the epochs 0, 1 and 2."""
    directory = begun(tmp_path / "run")
    for epoch in range(3):
        measure(directory, epoch)
        save(directory, epoch)
    return directory


def again(directory):
    """The same folder, as another process finds it."""
    return RunDirectory(str(directory.path))


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_a_run_begins_where_nothing_would_be_replaced(tmp_path):
    directory = RunDirectory(tmp_path / "sweeps" / "run")
    assert directory.is_empty()
    directory.create(ENTRIES)
    assert directory.path.is_dir()
    # What killed writers left, what is kept aside, and a lock replace nothing; leftovers are removed.
    (directory.path / "damaged").mkdir()
    for name in (".lock", f".status.json.{'0' * 16}.tmp"):
        (directory.path / name).touch()
    directory.check_empty()
    directory.create(ENTRIES)
    assert sorted(os.listdir(directory.path)) == [".lock", "damaged"]
    (directory.path / "notes.txt").touch()
    with pytest.raises(RunDirectoryError, match=rf"{directory.path} is not empty\. Choose another place with --out\."):
        directory.create(ENTRIES)
    directory.create(ENTRIES, overwrite=True)
    with pytest.raises(RunDirectoryError, match=r"notes\.txt must be a folder, it is a file\. Choose another place"):
        RunDirectory(directory.path / "notes.txt").is_empty()


def test_a_run_that_was_saved_is_not_empty(run):
    assert not again(run).is_empty()
    assert not again(run).is_cut_off()


def test_a_run_that_was_killed_in_its_first_save_is_as_good_as_empty(tmp_path, monkeypatch):
    directory, move, calls = begun(tmp_path / "run"), os.replace, []
    measure(directory, 0)

    def dying(source, target):
        calls.append(target)
        if len(calls) == 4:
            raise KeyboardInterrupt
        move(source, target)

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", dying)
        with pytest.raises(KeyboardInterrupt):
            save(directory, 0)
    found = again(directory)
    assert found.is_cut_off()
    assert found.is_empty()
    assert found.is_whole() is False
    (found.path / "notes.txt").touch()
    assert not found.is_empty()
    (found.path / "notes.txt").unlink()
    # Nothing of it counts: the next save writes all files, also those that look finished.
    assert found.take_up() is False
    found.create(ENTRIES)
    found.begin({"seed": 3}, Glossary({"pfc1": "a metric"}))
    measure(found, 0)
    save(found, 0)
    assert [item.state for item in verify(found.path)] == ["whole"]
    assert not again(found).is_empty()


def test_every_file_is_written_and_read_back(run):
    found = again(run)
    assert found.take_up()
    found.load(last_epoch=2)
    for name in ("history", "rows", "depth", "objective"):
        assert list(getattr(found, name)) == list(getattr(run, name)), name
    assert found.checkpoint.read_bytes() == b"weights of 2"
    assert json.loads(found.read_recipe()) == ENTRIES
    assert found.has_recipe()
    assert found.fingerprint() == FINGERPRINT
    assert found.is_whole()
    assert json.loads((run.path / "environment.json").read_text()) == {"seed": 3, "manifest": 1}
    assert json.loads((run.path / "glossary.json").read_text())["metrics"] == {"pfc1": "a metric"}
    assert (found.status().state, found.status().epoch, found.seconds()) == ("dead", 2, 3.0)
    assert found.recording() is None
    # Long lists take one line; what a person may want to read takes several.
    lines = {name: content.count(b"\n") for name, content in contents(run.path).items() if name.endswith(".json")}
    assert {name for name, count in lines.items() if count == 1} == {"depth.json", "objective.json"}
    found.check_checkpoint()
    (run.path / "checkpoint.safetensors").write_bytes(b"weights of 9")
    with pytest.raises(DamagedRunError, match=r"checkpoint\.safetensors: was changed after it was written"):
        found.check_checkpoint()


def test_a_run_goes_on_from_an_earlier_epoch(run):
    found = again(run)
    found.load(last_epoch=1)
    assert [record.epoch for record in found.history] == [1]
    assert [row.epoch for row in found.rows] == [0, 0, 1, 1]
    assert [record.epoch for record in found.depth] == [record.epoch for record in found.objective] == [0, 1]
    run.rows.append(Row(None, None, "train", 0, "stem", "pfc1", 0.5, None, ()))
    save(run, 2)
    found.load(last_epoch=1)
    assert [row.epoch for row in found.rows] == [0, 0, 1, 1]
    found.load(last_epoch=15, unit="step")
    assert [row.step for row in found.rows] == [0, 0, 10, 10]


def test_a_measurement_alone_needs_neither_recipe_nor_results_over_depth(tmp_path):
    directory = begun(tmp_path / "run", recipe=None)
    directory.add_measurement([Row(None, None, "train", 0, "stem", "pfc1", 0.5, None, ())], None)
    save(directory, 0, checkpoint=None, recipe=None)
    assert not {"recipe.json", "depth.json", "objective.json", "checkpoint.safetensors", "samples.safetensors"} & set(
        os.listdir(directory.path)
    )
    found = again(directory)
    assert not found.has_recipe()
    assert found.fingerprint() is None
    # There is nothing to go on from.
    assert found.take_up() is False
    # A run of a recipe says by an empty file that nothing was followed.
    with_recipe = begun(tmp_path / "other")
    save(with_recipe, 0)
    assert json.loads((with_recipe.path / "depth.json").read_text()) == {"epochs": []}


def test_earlier_saves_are_kept_only_where_asked_for(tmp_path):
    directory = begun(tmp_path / "run")
    for epoch in range(3):
        directory.save(Status("running", epoch, 9), checkpoint=b"%d" % epoch, recipe=FINGERPRINT)
        assert verify(directory.path)[0].earlier == ()
    # Nobody measured the time.
    assert directory.seconds() == 0


def test_a_recording_needs_no_results_over_depth(tmp_path):
    directory = begun(tmp_path / "run", recipe=None)
    recording = Recording({"layers": "all"}, (RecordedTime(0, step=0),))
    save(directory, 0, checkpoint=None, recipe=None, recording=recording)
    found = again(directory)
    assert found.recording() == recording
    assert found.missing() == []
    (directory.path / "recording.json").unlink()
    assert found.missing() == ["depth.json"]


@pytest.mark.parametrize(
    ("gone", "words"),
    [
        (["history.csv"], r"history\.csv in it is missing"),
        (["environment.json", "measurements.csv", "depth.json"], r"environment.json, measurements.csv, depth.json in it are"),
    ],
)
def test_files_that_are_missing_are_listed(run, gone, words):
    for name in gone:
        (run.path / name).unlink()
    with pytest.raises(RunDirectoryError, match=rf"trained up to epoch 2, but {words}"):
        again(run).load(2)


def test_a_table_of_an_older_version_that_cannot_be_read(run):
    """Without a manifest nothing tells damage but the table itself."""
    (run.path / "manifest.json").unlink()
    (run.path / "environment.json").write_text("{}")
    (run.path / "history.csv").write_text("no table")
    with pytest.raises(RunDirectoryError, match=r"has a checkpoint but damaged tables \(.*history\.csv: needs the columns"):
        again(run).load(2)


@pytest.mark.parametrize(("damage", "words"), [(None, "is missing"), (b"2", "was changed after it was written")])
def test_a_damaged_run_is_not_taken_up(run, damage, words):
    file = run.path / "depth.json"
    file.unlink() if damage is None else file.write_bytes(damage)
    with pytest.raises(DamagedRunError, match=rf"depth\.json: {words}\. `ncollapse repair {run.path}` says"):
        again(run).take_up()
    with pytest.raises(DamagedRunError) if damage else pytest.raises(RunDirectoryError, match=r"depth\.json in it is missing"):
        again(run).load(2)


def test_a_damaged_run_is_brought_back_if_it_is_of_the_same_recipe(run):
    (run.path / "checkpoint.safetensors").write_bytes(b"broken")
    found = again(run)
    assert found.is_whole() is False
    assert found.recover(recipe_fingerprint({**ENTRIES, "seed": 4})) == ""
    assert found.is_whole() is False
    said = found.recover(FINGERPRINT)
    assert said.startswith(f"{run.path}: checkpoint.safetensors is not as it was written; the run goes back to its save at ep")
    assert said.endswith(f". The damaged files are in {run.path}/damaged/1.")
    assert (run.path / "damaged" / "1" / "checkpoint.safetensors").read_bytes() == b"broken"
    assert found.take_up()
    assert found.checkpoint.read_bytes() == b"weights of 1"
    # Nothing is to do any more; and nothing can be done where no save is whole.
    assert found.recover(FINGERPRINT) == ""
    shutil.rmtree(run.path / "previous", ignore_errors=True)
    (run.path / "checkpoint.safetensors").write_bytes(b"broken")
    assert found.recover(FINGERPRINT) == ""
    assert found.checkpoint.read_bytes() == b"broken"


def test_a_file_that_an_earlier_save_holds_is_brought_back_without_loss(run):
    (run.path / "recipe.json").write_bytes(b"broken")
    assert "so nothing is lost" in again(run).recover(FINGERPRINT)
    assert again(run).take_up()
    assert again(run).status().epoch == 2


def test_how_a_run_has_ended_is_noted_beside_its_last_save(run):
    before = contents(run.path)
    run.mark("failed", "full disk")
    after = contents(run.path)
    assert {name for name in after if after[name] != before.get(name)} == {"status.json", "manifest.json"}
    status = again(run).status()
    assert (status.state, status.reason, status.epoch, status.seconds) == ("failed", "full disk", 2, 3.0)
    assert again(run).is_whole()
    assert again(run).fingerprint() == FINGERPRINT
    # The run itself goes on from there, and its generations stay.
    measure(run, 3)
    save(run, 3)
    assert [item.name for item in verify(run.path)[0].earlier] == ["previous/2"]


def test_a_run_that_is_to_replace_another_does_not_speak_for_it(run):
    """Until its first save the files are those of the other."""
    before = contents(run.path)
    later = again(run)
    later.create(ENTRIES, overwrite=True)
    later.mark("failed", "full disk")
    assert contents(run.path) == before
    # A status that was deleted is not made up.
    (run.path / "status.json").unlink()
    run.mark("failed", "full disk")
    assert not (run.path / "status.json").exists()


def test_there_is_nothing_to_take_up_in_an_empty_folder(tmp_path):
    assert RunDirectory(tmp_path).take_up() is False
    assert RunDirectory(tmp_path).is_whole() is True


def test_nothing_is_noted_where_nothing_was_saved(tmp_path):
    directory = begun(tmp_path / "run")
    directory.mark("failed", "full disk")
    assert os.listdir(directory.path) == []
    assert (directory.status(), directory.seconds()) == (None, 0.0)


@pytest.mark.parametrize("first", [True, False])
def test_after_a_save_that_failed_the_next_one_writes_what_is_needed(tmp_path, monkeypatch, first):
    """Whatever had been replaced until then, the folder ends whole, and with the files of the later save."""
    move, number, failed = os.replace, 0, True
    while failed:
        number += 1
        directory, failed, calls = begun(tmp_path / f"run-{number}"), False, []
        if not first:
            measure(directory, 0)
            save(directory, 0)

        def failing(source, target, calls=calls, number=number):
            calls.append(target)
            if len(calls) == number:
                raise OSError(28, "No space left on device")
            move(source, target)

        measure(directory, 1)
        with monkeypatch.context() as patched:
            patched.setattr(os, "replace", failing)
            try:
                save(directory, 1)
            except OSError:
                failed = True
        # As a run is that ends with an error.
        directory.mark("failed", "full disk")
        save(directory, 1)
        (found,) = verify(directory.path)
        assert (found.state, found.leftovers) == ("whole", ()), number
        assert [item.name for item in found.earlier] == ([] if first else ["previous/0"])
        later = again(directory)
        assert later.take_up()
        later.load(1)
        assert json.loads(later.read_recipe()) == ENTRIES
        assert directory.checkpoint.read_bytes() == b"weights of 1"
    assert number > 5


@pytest.mark.timeout(60)
def test_only_who_holds_the_folder_repairs_it(run):
    (run.path / "checkpoint.safetensors").write_bytes(b"broken")
    said = repair(run.path, does=False)
    with Lock(run.path):
        # To look needs no lock.
        assert repair(run.path, does=False) == said
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr("ncollapse.records.lock._PATIENCE_SECONDS", 0.0)
            with pytest.raises(RunDirectoryError, match="must be written by one process at a time"):
                repair(run.path, does=True)
    assert (run.path / "checkpoint.safetensors").read_bytes() == b"broken"
    assert repair(run.path, does=True) == said[:1]
    assert (run.path / "checkpoint.safetensors").read_bytes() == b"weights of 1"
