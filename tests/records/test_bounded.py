"""Files of unknown origin: read when they are regular and short enough, and refused in words otherwise."""

import os
import socket

import pytest

from ncollapse.records.bounded import UnfitFileError, open_regular, read_at_most


def a_socket(path):
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(path))


@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (lambda path: path.mkdir(), "a folder"),
        (os.mkfifo, "a pipe"),
        (a_socket, "a socket or a device"),
        (lambda path: path.symlink_to("/dev/null"), "a device"),
        (lambda path: path.symlink_to(path), "a link"),
    ],
)
def test_what_is_no_file_is_refused_by_its_kind(tmp_path, monkeypatch, make, kind):
    # The name of a socket is short on any system.
    monkeypatch.chdir(tmp_path)
    path = tmp_path.relative_to(tmp_path) / "x"
    make(path)
    before = os.listdir("/proc/self/fd")
    with pytest.raises(UnfitFileError, match=rf"^needed a file, got {kind}$"), open_regular(path):
        pass
    assert os.listdir("/proc/self/fd") == before


def test_a_link_is_followed_where_the_user_names_the_file(tmp_path):
    (tmp_path / "file").write_bytes(b"content")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    before = os.listdir("/proc/self/fd")
    for place in ("file", "link"):
        assert read_at_most(tmp_path / place, 7) == b"content"
        with pytest.raises(UnfitFileError, match=r"^needed at most 6 bytes, got 7$"):
            read_at_most(tmp_path / place, 6)
    assert read_at_most(tmp_path / "file", 7, follow=False) == b"content"
    with pytest.raises(UnfitFileError, match=r"^needed a file, got a link$"):
        read_at_most(tmp_path / "link", 7, follow=False)
    with pytest.raises(FileNotFoundError):
        read_at_most(tmp_path / "none", 7)
    assert os.listdir("/proc/self/fd") == before
