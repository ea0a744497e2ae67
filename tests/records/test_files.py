"""Files that are whole or not there."""

import errno
import os

import pytest

from ncollapse.records.files import write_whole


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
