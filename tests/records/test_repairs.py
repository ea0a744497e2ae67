"""Where a damaged run goes back to, what is put aside, and what is said: one case for each way."""

import os

import pytest

from ncollapse.records.errors import RunDirectoryError
from ncollapse.records.files import leftovers, remove_leftovers, write_whole
from ncollapse.records.manifest import Manifest, mark_of, read_manifest, sealed
from ncollapse.records.saving import generations, held_files, save_files
from ncollapse.records.verification import FileReport, plan_recovery, recover, repair, verify

FIRST = {
    "recipe.json": b'{"name": "demo"}', "environment.json": b'{"manifest": 1}', "history.csv": b"1",
    "measurements.csv": b"same", "checkpoint.safetensors": b"weights 1", "status.json": b"1",
}  # fmt: skip
SECOND = FIRST | {"history.csv": b"2", "checkpoint.safetensors": b"weights 2", "status.json": b"2", "objective.json": b"2"}
WHOLE = ("whole", "")


@pytest.fixture
def run(tmp_path):
    """A run of two saves, of which the second brought a file."""
    folder = tmp_path / "run"
    folder.mkdir()
    held = save_files(folder, FIRST, None, epoch=1, keep=2)
    save_files(folder, SECOND, held, epoch=2, keep=2)
    return folder


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file() and path.name != "manifest.json"}


def reports(folder):
    return {item.name: (item.state, item.meaning) for item in verify(folder)[0].files}


def test_what_is_replaced_goes_aside_and_nothing_else(run):
    (run / "checkpoint.safetensors").write_bytes(b"broken")
    plan = plan_recovery(run)
    assert (plan.damaged, plan.epoch, plan.is_lost) == (("checkpoint.safetensors",), 1, False)
    aside = recover(plan)
    assert contents(run) == FIRST
    # What came later goes too; what is the same in both saves is not touched.
    replaced = {"checkpoint.safetensors": b"broken", "history.csv": b"2", "status.json": b"2", "objective.json": b"2"}
    assert contents(aside) == replaced
    assert aside == run / "damaged" / "1"
    assert read_manifest(run).epoch == 1
    assert reports(run) == dict.fromkeys(FIRST, WHOLE)


def test_a_file_of_the_same_content_is_put_back_alone(run):
    (run / "measurements.csv").unlink()
    plan = plan_recovery(run)
    assert (plan.damaged, plan.epoch, plan.manifest) == (("measurements.csv",), None, None)
    assert plan.words().startswith("measurements.csv is not as it was written; an earlier save holds the same content")
    aside = recover(plan)
    assert (contents(run), contents(aside)) == (SECOND, {})


def test_a_file_that_is_no_part_of_the_run_goes_aside(run):
    (run / "samples.safetensors").write_bytes(b"foreign")
    (run / "history.csv").unlink()
    plan = plan_recovery(run)
    assert plan.damaged == ("history.csv", "samples.safetensors")
    assert plan.words().startswith("history.csv, samples.safetensors are not as they were written; the run goes back")
    assert reports(run)["samples.safetensors"] == ("foreign", "it is no file of this run")
    assert contents(recover(plan))["samples.safetensors"] == b"foreign"
    assert contents(run) == FIRST
    # Alone it costs nothing.
    (run / "samples.safetensors").write_bytes(b"foreign")
    assert plan_recovery(run).epoch is None
    recover(plan_recovery(run))
    assert contents(run) == FIRST


@pytest.mark.parametrize("finished", [False, True])
def test_damage_beside_a_save_that_was_cut_off(run, finished):
    """Whether the checkpoint is the old or the new one tells which files belong to it."""
    third = SECOND | {"history.csv": b"3", "checkpoint.safetensors": b"weights 3", "status.json": b"3"}
    marks = [{name: mark_of(content) for name, content in files.items()} for files in (third, SECOND)]
    save_files(run, SECOND | {"checkpoint.safetensors": b"weights 2b"}, held_files(run), epoch=3, keep=2)
    assert [item.epoch for item in generations(run)] == [2]
    (run / "manifest.json").write_bytes(sealed(Manifest(*marks, epoch=3)))
    (run / "checkpoint.safetensors").write_bytes(third["checkpoint.safetensors"] if finished else b"weights 2")
    (run / "history.csv").write_bytes(b"broken")
    plan = plan_recovery(run)
    if finished:
        assert (plan.epoch, plan.manifest is None) == (2, False)
        assert reports(run)["history.csv"] == ("changed", "the losses of training cannot be trusted")
    else:
        assert (plan.epoch, plan.manifest, list(plan.sources)) == (None, None, ["history.csv"])
    recover(plan)
    assert contents(run) == SECOND
    assert verify(run)[0].state == "whole"


def test_a_table_behind_its_checkpoint_is_told_as_changed(run):
    marks = [{name: mark_of(content) for name, content in files.items()} for files in (SECOND, FIRST)]
    (run / "manifest.json").write_bytes(sealed(Manifest(*marks, epoch=2)))
    (run / "history.csv").write_bytes(FIRST["history.csv"])
    (run / "status.json").write_bytes(FIRST["status.json"])
    found = reports(run)
    assert found.pop("history.csv") == ("changed", "the losses of training cannot be trusted")
    assert set(found.values()) == {WHOLE}


def test_what_verify_says_of_other_files(run):
    present = read_manifest(run)
    files = {**present.files, "notes.csv": mark_of(b"notes")}
    (run / "manifest.json").write_bytes(sealed(Manifest(files, epoch=2)))
    (run / f".page.html.{'0' * 16}.tmp").touch()
    (found,) = verify(run)
    assert FileReport("notes.csv", "missing", "it cannot be trusted") in found.files
    assert (found.path, found.leftovers) == (str(run), (f".page.html.{'0' * 16}.tmp",))
    assert found.advice == f"`ncollapse repair {run}` says what can be saved."
    (run / "notes.csv").write_bytes(b"notes")
    assert (verify(run)[0].state, verify(run)[0].advice) == ("whole", "")


def test_a_damaged_earlier_save_is_no_source(run):
    """It is told, and set aside by a repair."""
    (run / "previous" / "1" / "history.csv").write_bytes(b"broken")
    (found,) = verify(run)
    assert (found.state, [item.state for item in found.earlier]) == ("damaged", ["damaged"])
    assert found.earlier[0].meaning == "history.csv: not as written"
    assert {item.state for item in found.files} == {"whole"}
    assert found.advice.startswith("`ncollapse repair")
    said = repair(run, does=False)
    assert said[0] == f"{run}/previous/1: is not as it was written, and goes into {run}/damaged."
    assert len(said) == 2
    (run / "checkpoint.safetensors").unlink()
    assert plan_recovery(run).is_lost
    assert repair(run, does=True)[0].startswith(
        f"{run}: checkpoint.safetensors is not as it was written, and no earlier save is"
    )
    assert os.listdir(run) == ["damaged"]


def test_what_cannot_be_saved_is_set_aside_as_it_is(run):
    (run / "checkpoint.safetensors").write_bytes(b"broken")
    (run / "previous" / "1" / "manifest.json").write_bytes(b"broken")
    (run / "report.html").write_bytes(b"page")
    (run / "notes.txt").write_bytes(b"mine")
    before = contents(run)
    aside = recover(plan_recovery(run))
    assert {**contents(aside), "notes.txt": b"mine"} == before
    assert sorted(os.listdir(run)) == ["damaged", "notes.txt"]
    assert (aside / "previous" / "1" / "manifest.json").read_bytes() == b"broken"


def test_a_repair_leaves_no_leftovers_and_says_what_to_do_next(run):
    (run / f".page.html.{'0' * 16}.tmp").touch()
    assert repair(run, does=True) == [f"{run}: nothing to repair."]
    assert leftovers(run) == []
    (run / "checkpoint.safetensors").unlink()
    (run / f".page.html.{'0' * 16}.tmp").touch()
    said = repair(run, does=True)
    assert said == [
        f"{run}: checkpoint.safetensors is not as it was written; the run goes back to its save at epoch 1, and what came "
        f"later is trained again. What is replaced goes into {run}/damaged. Then finish it with `ncollapse run demo --out "
        f"{run} --resume`."
    ]
    assert leftovers(run) == []


def test_a_run_of_a_sweep_is_finished_by_the_sweep(run):
    (run / "checkpoint.safetensors").unlink()
    (run.parent / "sweep.json").touch()
    assert repair(run, does=False)[0].endswith(" Then give the command of the sweep again: its finished runs stay as they are.")


def forced(monkeypatch):
    """Note what is forced to the disk: folders by name, files by their size at that moment."""
    asked = []

    def note(descriptor):
        place = os.readlink(f"/proc/self/fd/{descriptor}")
        asked.append(os.path.basename(place) if os.path.isdir(place) else os.fstat(descriptor).st_size)

    monkeypatch.setattr(os, "fsync", note)
    return asked


def test_folders_are_forced_to_the_disk_after_a_save_and_a_repair(run, monkeypatch):
    asked = forced(monkeypatch)
    save_files(run, SECOND | {"history.csv": b"three"}, held_files(run), epoch=3, keep=3)
    assert asked.count("2") >= 1
    assert asked[-1] == "run"
    # Before it is renamed, all of a file is on the disk.
    assert 5 in asked
    assert 0 not in asked
    (run / "history.csv").unlink()
    asked.clear()
    recover(plan_recovery(run))
    assert asked[-1] == "run"


def test_a_new_run_drops_the_saves_of_the_old_one(run):
    save_files(run, FIRST, None, epoch=0)
    assert generations(run) == []
    assert not any((run / "previous").iterdir())


def test_a_save_that_keeps_one_makes_no_generation(run):
    save_files(run, {"status.json": b"3"}, held_files(run), epoch=3, keep=1)
    assert [item.epoch for item in generations(run)] == [1]


def test_a_link_in_the_place_of_a_file_is_kept_as_a_link(run, tmp_path):
    """A second name of the reader's own file would be written to by who repairs it."""
    (tmp_path / "mine").write_bytes(b"mine")
    held = held_files(run)
    (run / "history.csv").unlink()
    (run / "history.csv").symlink_to(tmp_path / "mine")
    save_files(run, SECOND | {"history.csv": b"3"}, held, epoch=3, keep=2)
    assert (tmp_path / "mine").stat().st_nlink == 1
    assert (run / "previous" / "2" / "history.csv").is_symlink()
    assert generations(run)[0].damaged == ("history.csv",)


def test_a_generation_goes_manifest_first(run, monkeypatch):
    """Killed in between, it is one that was never finished; one that cannot be removed stops no save."""

    def killed(*arguments, **options):
        raise KeyboardInterrupt

    held = held_files(run)
    with monkeypatch.context() as patched:
        patched.setattr("ncollapse.records.saving.shutil.rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            save_files(run, SECOND | {"checkpoint.safetensors": b"3"}, held, epoch=3, keep=2)
    assert os.path.isdir(run / "previous" / "1")
    assert [item.epoch for item in generations(run)] == [2]
    assert verify(run)[0].state == "whole"
    with monkeypatch.context() as patched:
        patched.setattr(os, "rmdir", lambda *arguments, **options: (_ for _ in ()).throw(PermissionError()))
        save_files(run, SECOND | {"checkpoint.safetensors": b"4"}, held_files(run), epoch=4, keep=2)
    assert [item.epoch for item in generations(run)] == [3]


def test_leftovers_that_cannot_be_removed_or_are_gone_stop_nothing(tmp_path, monkeypatch):
    (tmp_path / ".new").mkdir()
    (tmp_path / ".status.json.tmp").touch()
    found = [*leftovers(tmp_path), tmp_path / ".recipe.json.tmp"]
    with monkeypatch.context() as patched:
        patched.setattr("ncollapse.records.files.leftovers", lambda place: found)
        patched.setattr(os, "rmdir", lambda *arguments, **options: (_ for _ in ()).throw(PermissionError()))
        remove_leftovers(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [".new"]


def test_leftovers_are_old_after_an_hour(tmp_path, monkeypatch):
    names = [f".a.html.{letter * 16}.tmp" for letter in "abc"]
    for name, age in zip(names, (3599, 3600, 3601), strict=True):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (10_000 - age,) * 2)
    monkeypatch.setattr("ncollapse.records.files.time.time", lambda: 10_000)
    write_whole(tmp_path / "b.html", "x")
    assert sorted(os.listdir(tmp_path)) == [*names[:2], "b.html"]


def test_a_folder_in_the_place_of_a_checkpoint_stops_a_save_before_anything_is_written(run):
    held = held_files(run)
    (run / "checkpoint.safetensors").unlink()
    (run / "checkpoint.safetensors").mkdir()
    before = contents(run)
    with pytest.raises(RunDirectoryError, match=r"checkpoint\.safetensors must be a file, got a folder"):
        save_files(run, SECOND | {"history.csv": b"3", "checkpoint.safetensors": b"3"}, held, epoch=3)
    assert contents(run) == before
