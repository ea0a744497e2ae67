"""Damaged files of a run: every reader names the file, or tells what it tells of the whole run; nothing is taken silently."""

import os
import random
import shutil
from functools import cache

import pytest

from crashes.commands import contents, in_child
from crashes.steps import die

pytestmark = pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="forks, on Linux")


def flipped(content, choose):
    place, bit = choose.randrange(len(content)), 1 << choose.randrange(8)
    return content[:place] + bytes([content[place] ^ bit]) + content[place + 1 :]


def cut(content, choose):
    return content[: choose.randrange(len(content))]


def doubled_line(content, choose):
    lines = content.splitlines(keepends=True)
    place = choose.randrange(len(lines))
    return b"".join([*lines[: place + 1], *lines[place:]])


def changed_digit(content, choose):
    places = [place for place, byte in enumerate(content) if chr(byte) in "0123456789"]
    if not places:
        # A table that has a header alone.
        return cut(content, choose)
    place = choose.choice(places)
    return content[:place] + str((int(chr(content[place])) + 1) % 10).encode() + content[place + 1 :]


def gone(content, choose):
    return None


DAMAGES = (flipped, flipped, cut, doubled_line, changed_digit, gone)


@pytest.fixture(scope="module")
def halfway(known, tmp_path_factory):
    """A run that was killed at two thirds of its steps."""
    command = known("run")
    ending = in_child(command.words, command.begun(), lambda count, kind: count == command.steps * 2 // 3, die)
    assert ending.code == -9
    return shutil.copytree(command.place, tmp_path_factory.mktemp("halfway") / "place")


def damage(folder, choose):
    """Damage one file of a run, and return its name."""
    files = {name: content for name, content in contents(folder / "run").items() if counts(name)}
    name = choose.choice(sorted(files))
    content = choose.choice(DAMAGES)(files[name], choose)
    assert content != files[name]
    if content is None:
        (folder / "run" / name).unlink()
    else:
        (folder / "run" / name).write_bytes(content)
    return name


def counts(name):
    """Whether a file is one of the run: pages are drawn anew, and hidden files are its lock and what killed writers left."""
    return not name.endswith((".html", ".png", ".svg")) and not name.startswith(".")


def told(command, words, page):
    """Run a command that reads the run; return its exit code, what it says, and what it has written."""
    page.unlink(missing_ok=True)
    ending = in_child(words, command.place)
    written = page.read_text() if page.exists() else ""
    if words == command.words:
        # A save that is kept is read where the present one is damaged.
        files = contents(command.place / "run").items()
        written = {name: content for name, content in files if counts(name) and not name.startswith(("previous/", "damaged/"))}
    return ending.code, ending.words if ending.code else ending.out, written


def placed(command, state):
    shutil.rmtree(command.place, ignore_errors=True)
    shutil.copytree(state, command.place)


@cache
def told_of_whole(command, state, words, page):
    placed(command, state)
    return told(command, words, page)


def taken_silently(command, state, seed, page):
    """Damage one file, and say which reader neither names it nor tells what it tells of the whole run."""
    for words in (("report", "FOLDER/run", "--out", str(page)), ("measure", "FOLDER/run", "--json"), command.words):
        expected = told_of_whole(command, state, words, page)
        placed(command, state)
        name = damage(command.place, random.Random(seed))
        found = told(command, words, page)
        if found[0] == 0 and found != expected:
            return f"{words[0]} takes {name} as it is"
        if found[0] != 0 and name not in found[1]:
            return f"{words[0]} does not name {name}: {found[1]}"
    return ""


def test_one_damage(known, tmp_path):
    assert taken_silently(known("run"), known("run").after, 0, tmp_path / "page.html") == ""


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_hundred_damages(known, halfway, tmp_path):
    found = {}
    for seed in range(100):
        state = known("run").after if seed % 2 else halfway
        found[seed] = taken_silently(known("run"), state, seed, tmp_path / "page.html")
    silent = {seed: what for seed, what in found.items() if what}
    print(f"{len(found)} damages, {len(silent)} taken silently or not named")
    assert silent == {}
