"""Files that are whole or not there."""

import errno
import os
import time
from pathlib import Path

import pytest

from ncollapse.records import files
from ncollapse.records.errors import RunDirectoryError
from ncollapse.records.files import leftovers, make_own_folder, remove_leftovers, write_whole
from ncollapse.records.saving import save_files


def test_replaces_in_one_step(tmp_path):
    write_whole(tmp_path / "a.txt", "first")
    write_whole(tmp_path / "a.txt", b"second")
    assert (tmp_path / "a.txt").read_bytes() == b"second"
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_full_disk_leaves_the_old_file(tmp_path, monkeypatch):
    write_whole(tmp_path / "a.txt", "first")

    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"6 bytes were to be written, .*No space left.*Free some space.*a\.txt") as caught:
        write_whole(tmp_path / "a.txt", "second")
    assert caught.value.errno == errno.ENOSPC
    assert (tmp_path / "a.txt").read_text() == "first"
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_missing_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match="choose a folder that can be written to"):
        write_whole(tmp_path / "none" / "a.txt", "x")


def test_a_link_is_replaced_and_never_followed(tmp_path):
    (tmp_path / "precious").write_text("mine")
    (tmp_path / "a.txt").symlink_to(tmp_path / "precious")
    write_whole(tmp_path / "a.txt", "first")
    assert not (tmp_path / "a.txt").is_symlink()
    assert ((tmp_path / "a.txt").read_text(), (tmp_path / "precious").read_text()) == ("first", "mine")


def test_a_folder_in_the_place_of_a_file_is_told_before_anything_is_written(tmp_path):
    (tmp_path / "report.html").mkdir()
    with pytest.raises(RunDirectoryError, match=r"report\.html must be a file, got a folder\. Move the folder away\."):
        write_whole(tmp_path / "report.html", "page")
    # A new run in the place of another one would remove its page.
    with pytest.raises(RunDirectoryError, match=r"report\.html must be a file"):
        save_files(tmp_path, {"status.json": b"{}"}, None)
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
    (tmp_path / "link").symlink_to(tmp_path / "report.html")
    write_whole(tmp_path / "link", "page")
    assert (tmp_path / "link").read_text() == "page"


@pytest.mark.parametrize("plant", [lambda path, target: path.symlink_to(target), lambda path, _: path.write_text("there")])
def test_a_temporary_file_that_is_there_is_never_opened(tmp_path, monkeypatch, plant):
    """Even one whose name was guessed; the names themselves differ every time."""
    (tmp_path / "precious").write_text("mine")
    monkeypatch.setattr(files.secrets, "token_hex", lambda size: "0" * 2 * size)
    plant(tmp_path / f".a.txt.{'0' * 16}.tmp", tmp_path / "precious")
    with pytest.raises(FileExistsError, match="the system refuses"):
        write_whole(tmp_path / "a.txt", "first")
    assert (tmp_path / "precious").read_text() == "mine"
    assert not (tmp_path / "a.txt").exists()
    monkeypatch.undo()
    assert len({files.secrets.token_hex(8) for _ in range(20)}) == 20


def test_the_folder_is_forced_to_the_disk_after_the_rename(tmp_path, monkeypatch):
    calls = []
    rename, sync = os.replace, os.fsync
    monkeypatch.setattr(os, "replace", lambda source, target: (calls.append("rename"), rename(source, target)))
    monkeypatch.setattr(
        os, "fsync", lambda file: (calls.append("folder" if os.path.isdir(f"/dev/fd/{file}") else "file"), sync(file))
    )
    write_whole(tmp_path / "a.txt", "first")
    assert calls == ["file", "rename", "folder"]


@pytest.mark.parametrize(("code", "raises"), [(errno.EINVAL, False), (errno.EIO, True)])
def test_a_folder_that_cannot_be_forced_to_the_disk(tmp_path, monkeypatch, code, raises):
    """Some network folders cannot; a broken disk is another matter."""
    sync, calls = os.fsync, []

    def fails(file):
        calls.append(file)
        if len(calls) == 2:
            raise OSError(code, os.strerror(code))
        sync(file)

    monkeypatch.setattr(os, "fsync", fails)
    if raises:
        with pytest.raises(OSError, match=r"the folder cannot be forced to the disk"):
            write_whole(tmp_path / "a.txt", "first")
    else:
        write_whole(tmp_path / "a.txt", "first")
    assert (tmp_path / "a.txt").read_text() == "first"


def test_what_a_killed_writer_leaves_is_known_and_removed(tmp_path):
    own = [".recipe.json.tmp", ".status.json.0123456789abcdef.tmp", ".report.html.tmp"]
    foreign = [".notes.txt.tmp", ".a.xyz.tmp", "b.tmp", ".recipe.json.tmp2"]
    (tmp_path / "figures").mkdir()
    for name in (*own, *foreign, f"figures/.a.png.{'0' * 16}.tmp"):
        (tmp_path / name).write_text("half")
    (tmp_path / ".new").mkdir()
    (tmp_path / ".new" / "recipe.json").write_text("half")
    assert [path.name for path in leftovers(tmp_path)] == sorted([*own, ".new"])
    remove_leftovers(tmp_path)
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")) == sorted([*foreign, "figures"])


def test_a_leftover_that_is_a_link_is_removed_alone(tmp_path):
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "a.txt").write_text("mine")
    for link in (".new", ".status.json.tmp", "figures"):
        (tmp_path / link).symlink_to(tmp_path / "precious")
    remove_leftovers(tmp_path)
    assert (tmp_path / "precious" / "a.txt").read_text() == "mine"
    assert (tmp_path / "figures").is_symlink()


def test_own_folders_are_no_links(tmp_path):
    make_own_folder(tmp_path / "figures")
    make_own_folder(tmp_path / "figures")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "previous").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(RunDirectoryError, match=rf"previous must be a folder, got a link to {tmp_path}/elsewhere\. Remove"):
        make_own_folder(Path(tmp_path / "previous"))


def test_a_write_removes_leftovers_of_an_hour_ago(tmp_path):
    old, young = (tmp_path / f".page.html.{letter * 16}.tmp" for letter in "ab")
    for path in (old, young):
        path.write_text("half a page")
    os.utime(old, (time.time() - 4000,) * 2)
    write_whole(tmp_path / "other.html", "whole")
    assert {path.name for path in tmp_path.iterdir()} == {young.name, "other.html"}
