"""Disks that are full or read-only, and folders that are moved: one clear line, and nothing lost."""

import os
import re
import shutil
import subprocess

import pytest

from crashes.commands import COMMANDS, contents, in_child
from crashes.steps import die

pytestmark = pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="forks, on Linux")


@pytest.fixture
def disk(tmp_path):
    """A small disk of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "none", folder], capture_output=True, check=False).returncode:
        pytest.skip("only root may mount a disk")
    yield folder
    subprocess.run(["umount", folder], check=True)


def change(disk, options):
    subprocess.run(["mount", "-o", f"remount,{options}", disk], check=True)


def kept(folder, place):
    """Read the files below a folder without the name of the place where they were written.

    Pages, which are not of one size then, hidden files, earlier saves, which may be those of a run that had failed, and
    manifests, which list what names the folder, are left out.
    """
    files = {name: content.replace(str(place).encode(), b"PLACE") for name, content in contents(folder).items()}
    left_out = re.compile(r"(.*/)?(\..*|previous/.*|.*\.html|manifest\.json)")
    return {name: content for name, content in files.items() if not left_out.fullmatch(name)}


def check_ended(command, folder):
    """Give a command again, which must end with the files of one that nothing stopped, all whole."""
    ending = in_child(command.words, folder)
    assert ending.code == 0, ending.words
    found, expected = kept(folder, folder), kept(command.after, command.place)
    assert {name for name in {*found, *expected} if found.get(name) != expected.get(name)} == set()
    for name in ("run", "sweep", "measured"):
        if (folder / name).exists():
            assert in_child(("verify", f"FOLDER/{name}"), folder).code == 0


def one_line(ending):
    lines = [line for line in ending.words.splitlines() if line.startswith("ncollapse: error: ")]
    assert (ending.code, len(lines)) == (2, 1), ending.words
    return lines[0]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["run", "sweep", "report", "measure", "reproduce"])
def test_a_full_disk(known, disk, name):
    command = known(name)
    shutil.copytree(command.before, disk, dirs_exist_ok=True)
    used = sum(-(-len(content) // 4096) * 4 for content in command.found.values())
    needed = sum(-(-len(content) // 4096) * 4 for content in command.expected.values())
    for room in range(4, needed - used, max(4, (needed - used) // 8)):
        change(disk, f"size={used + room}k")
        assert re.search(r"No space left on device.*Free some space", one_line(in_child(command.words, disk)))
        found = kept(disk, disk)
        assert all(found.get(name) == content for name, content in kept(command.before, command.place).items())
    change(disk, "size=64m")
    check_ended(command, disk)


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_a_read_only_disk(known, disk, name):
    command = known(name)
    shutil.copytree(command.before, disk, dirs_exist_ok=True)
    change(disk, "ro")
    assert "Read-only file system" in one_line(in_child(command.words, disk))
    # What only reads needs no lock and no room.
    if name == "measure":
        assert in_child(command.words[:2], disk).code == 0
    if name in {"report", "compare"}:
        assert in_child((*command.words, "--out", str(disk.parent / "page.html")), disk).code == 0


@pytest.mark.parametrize("name", ["run", pytest.param("sweep", marks=pytest.mark.slow)])
def test_a_folder_moved_between_two_calls(known, tmp_path, name):
    command = known(name)
    ending = in_child(command.words, command.begun(), lambda count, kind: count == command.steps * 2 // 3, die)
    assert ending.code == -9
    moved = shutil.move(command.place, tmp_path / "moved")
    check_ended(command, moved)
