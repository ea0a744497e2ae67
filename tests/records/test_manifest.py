"""The manifest: every file of a run is compared with what was written, and a save that was cut off is no damage."""

import json
import os
import shutil

import pytest

from ncollapse.records import ReportError, manifest, read_run
from ncollapse.records.errors import DamagedRunError
from ncollapse.records.manifest import CheckedFiles, Manifest, damaged_files, mark_of, read_manifest, sealed, states
from ncollapse.records.run_directory import RunDirectory
from ncollapse.records.saving import held_files, save_files
from ncollapse.records.verification import repair

NAMES = ("recipe.json", "environment.json", "glossary.json", "history.csv", "measurements.csv", "depth.json", "status.json")


@pytest.fixture
def whole(run_dir, edit):
    """The synthetic run as this version writes it."""
    edit(run_dir / "environment.json", lambda content: content.update(manifest=1))
    (run_dir / "manifest.json").write_bytes(sealed(held_files(run_dir)))
    return run_dir


def flip(content):
    """One bit of a digit, a letter or whatever stands in the middle."""
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


def doubled(content):
    first, *lines = content.splitlines(keepends=True)
    return first + b"".join(lines[:1] + lines) if lines else first + first


def test_a_whole_run_is_read_as_before(whole, shared_run):
    assert repr(read_run(whole).rows) == repr(read_run(shared_run).rows)
    assert read_run(whole).unverified == ()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("damage", [flip, doubled, lambda content: content[: len(content) // 2], None])
def test_a_damaged_file_is_named_with_the_command_that_helps(whole, name, damage):
    content = (whole / name).read_bytes()
    if damage is None:
        (whole / name).unlink()
    else:
        (whole / name).write_bytes(damage(content))
    found = "is missing" if damage is None else "was changed after it was written"
    words = rf"{name}: {found}\. `ncollapse repair {whole}` says"
    with pytest.raises(DamagedRunError, match=words):
        read_run(whole)
    assert damaged_files(states(whole, read_manifest(whole))) == [name]


def test_a_file_of_another_run_is_named(whole, second_run):
    shutil.copy(second_run / "measurements.csv", whole)
    with pytest.raises(DamagedRunError, match=r"measurements\.csv: was changed after it was written"):
        read_run(whole)


def test_a_file_that_the_run_never_had_is_named(whole):
    (whole / "objective.json").write_text('{"epochs": []}')
    with pytest.raises(DamagedRunError, match=r"objective\.json: is no file of this run"):
        read_run(whole)
    assert read_run(whole, unverified=True).unverified == ("objective.json",)


def test_a_table_changed_by_hand_is_shown_when_asked_for(whole):
    table = whole / "measurements.csv"
    table.write_text(table.read_text().replace("0,train,0,stem,pfc1,0.6", "0,train,0,stem,pfc1,0.5", 1))
    run = read_run(whole, unverified=True)
    assert run.unverified == ("measurements.csv",)
    assert run.value("pfc1", 0, 0) < 0.6


@pytest.mark.parametrize("place", range(0, 100, 7))
def test_no_bit_of_the_manifest_can_change(whole, place):
    file = whole / "manifest.json"
    content = bytearray(file.read_bytes())
    index = place * len(content) // 100
    content[index] ^= 1 << place % 8
    file.write_bytes(content)
    with pytest.raises(DamagedRunError, match=r"manifest\.json: was changed after it was written"):
        read_run(whole)


def test_a_manifest_that_is_missing_is_told_but_not_of_an_older_version(whole, edit):
    (whole / "manifest.json").unlink()
    with pytest.raises(DamagedRunError, match=r"manifest\.json: is missing, so nothing tells whether"):
        read_run(whole)
    assert read_run(whole, unverified=True).unverified == ("manifest.json",)
    edit(whole / "environment.json", lambda content: content.pop("manifest"))
    assert read_run(whole).unverified == ()


def test_a_manifest_of_a_later_format(whole):
    (whole / "manifest.json").write_bytes(sealed(Manifest({}, format=2)))
    with pytest.raises(ReportError, match=r"must have format 1 at most, has 2\. Update ncollapse"):
        read_run(whole)


def test_the_digest_is_of_all_else(whole):
    content = json.loads((whole / "manifest.json").read_text())
    assert set(content["files"]) == set(NAMES)
    assert content["files"]["status.json"]["size"] == (whole / "status.json").stat().st_size
    assert content["previous"] is None
    assert len(content["digest"]) == 64


class Killed(BaseException):
    pass


def copies_at_every_move(monkeypatch, folder, action):
    """Copy the folder before every rename and removal of an action, and after the last."""
    move, remove, copies = os.replace, os.unlink, []

    def copy():
        copies.append(folder.with_name(f"{folder.name}-{len(copies)}"))
        shutil.copytree(folder, copies[-1])

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", lambda *names: (copy(), move(*names)))
        patched.setattr(os, "unlink", lambda *names: (copy(), remove(*names)))
        action()
    copy()
    return copies


def test_every_moment_of_a_save_is_read_as_before_or_after(tmp_path, monkeypatch):
    folder = tmp_path / "run"
    folder.mkdir()
    old = save_files(folder, {"history.csv": b"1", "depth.json": b"same", "checkpoint.safetensors": b"old"}, None, epoch=1)
    new = {"history.csv": b"1 2", "depth.json": b"same", "objective.json": b"new", "checkpoint.safetensors": b"new"}
    for copy in copies_at_every_move(monkeypatch, folder, lambda: save_files(folder, new, old, epoch=2)):
        found = states(copy, read_manifest(copy))
        assert damaged_files(found) == []
        files = CheckedFiles(copy)
        for name in ("history.csv", "depth.json", "checkpoint.safetensors"):
            assert files.read(copy / name) in {b"1", b"1 2", b"same", b"old", b"new"}
        # What is held is what is there, and goes on to the same end.
        save_files(copy, new, held_files(copy), epoch=2)
        assert set(states(copy, read_manifest(copy)).values()) == {"new"}
        (copy / "history.csv").write_bytes(b"1 3")
        assert damaged_files(states(copy, read_manifest(copy))) == ["history.csv"]


def test_a_checkpoint_without_its_tables_is_damage(tmp_path):
    """As a power cut could leave it on a disk that does not keep the order of renames."""
    old = save_files(tmp_path, {"history.csv": b"1", "checkpoint.safetensors": b"old", "status.json": b"1"}, None)
    marks = {"history.csv": mark_of(b"2"), "checkpoint.safetensors": mark_of(b"new"), "status.json": mark_of(b"2")}
    (tmp_path / "manifest.json").write_bytes(sealed(Manifest(marks, old.files)))
    (tmp_path / "checkpoint.safetensors").write_bytes(b"new")
    assert damaged_files(states(tmp_path, read_manifest(tmp_path))) == ["history.csv"]
    (tmp_path / "history.csv").write_bytes(b"2")
    assert damaged_files(states(tmp_path, read_manifest(tmp_path))) == []


def test_what_holds_its_content_already_is_not_written(tmp_path, monkeypatch):
    contents = {"history.csv": b"1", "depth.json": b"same"}
    held = save_files(tmp_path, contents, None, epoch=1)
    monkeypatch.setattr(os, "replace", lambda *names: pytest.fail("nothing was to be written"))
    assert save_files(tmp_path, contents, held, epoch=1) == held


def test_a_full_disk_changes_nothing(tmp_path, monkeypatch):
    held = save_files(tmp_path, {"history.csv": b"1", "depth.json": b"1"}, None)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    begin = os.open
    for last in range(1, 5):
        calls = []

        def full(path, flags, *mode, calls=calls, last=last):
            calls.append(path)
            if len(calls) == last:
                raise OSError(28, "No space left on device")
            return begin(path, flags, *mode)

        with monkeypatch.context() as patched:
            patched.setattr(os, "open", full)
            with pytest.raises(OSError, match="No space left"):
                save_files(tmp_path, {"history.csv": b"2", "depth.json": b"2"}, held)
        assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_reader_follows_saves_that_overtake_it(tmp_path, monkeypatch):
    """The manifest that was read first is two saves old when the file is read."""
    held = save_files(tmp_path, {"history.csv": b"1"}, None)
    files = CheckedFiles(tmp_path)
    for content in (b"2", b"3"):
        held = save_files(tmp_path, {"history.csv": content}, held)
    assert files.read(tmp_path / "history.csv") == b"3"
    files = CheckedFiles(tmp_path)
    look = manifest.read_bytes

    def overtaken(file, remedy=""):
        nonlocal held
        content = look(file, remedy)
        if content == b"3":
            for later in (b"4", b"5"):
                held = save_files(tmp_path, {"history.csv": later}, held)
        return content

    save_files(tmp_path, {"history.csv": b"3", "depth.json": b"1"}, held)
    held = held_files(tmp_path)
    monkeypatch.setattr(manifest, "read_bytes", overtaken)
    files.manifest = Manifest({"history.csv": mark_of(b"0")})
    assert files.read(tmp_path / "history.csv") == b"5"


def test_a_run_that_replaces_another_leaves_nothing_of_it(whole):
    (whole / "report.html").write_text("about the old run")
    (whole / "notes.txt").write_text("mine")
    directory = RunDirectory(whole)
    directory.create({"name": "new"}, overwrite=True)
    assert read_run(whole).status.state == "finished"
    save_files(whole, {"recipe.json": b"{}", "history.csv": b"1"}, None)
    assert {path.name for path in whole.iterdir()} == {"recipe.json", "history.csv", "manifest.json", "notes.txt"}


@pytest.mark.parametrize("name", ["../victim", "/tmp/victim", "..", "a/b", "C:\\victim"])
def test_a_manifest_lists_no_file_outside_of_its_folder(tmp_path, name):
    folder = tmp_path / "run"
    folder.mkdir()
    (tmp_path / "victim").write_text("mine")
    (folder / "manifest.json").write_bytes(sealed(Manifest({name: mark_of(b"theirs")})))
    with pytest.raises(ReportError, match="must list files of one run in its own folder"):
        read_manifest(folder)
    with pytest.raises(ReportError, match="must list files of one run in its own folder"):
        list(repair(folder, does=True))
    assert (tmp_path / "victim").read_text() == "mine"
