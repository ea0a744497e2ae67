"""Folders from anybody under `verify`, `repair` and `runs`: nothing outside is read or written; words stay plain."""

import json
import os
import socket
import time

import pytest

from hostile import memory_below
from ncollapse.cli import main
from ncollapse.recipe_fingerprint import recipe_fingerprint
from ncollapse.records.manifest import Manifest, Mark, mark_of, sealed
from ncollapse.records.saving import save_files

MIB = 1 << 20
ESCAPES = "\x1b]0;owned\x07\x1b[2J\x9b31m\u202e\n\nncollapse: all is well"
CONTENTS = {
    "recipe.json": b'{"name": "demo", "seed": 3, "changed": ["train.epochs=9"]}', "environment.json": b'{"manifest": 1}',
    "glossary.json": b"{}", "history.csv": b"epoch 0", "measurements.csv": b"epoch\n0\n", "depth.json": b"depth of 0",
    "checkpoint.safetensors": b"weights of epoch 0", "status.json": b'{"state": "stopped", "epoch": 0, "epochs": 9}',
}  # fmt: skip
RECIPE = recipe_fingerprint(json.loads(CONTENTS["recipe.json"]))
FILES = (*CONTENTS, "manifest.json", "sweep.json", "report.html", ".lock")
COMMANDS = (["verify"], ["verify", "--json"], ["repair"], ["repair", "--yes"], ["runs"], ["runs", "--json"])
# For every file and kind: the others read the same and print it in another form.
BRIEF = (["verify"], ["repair", "--yes"], ["runs", "--json"])


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    """Nobody else holds these folders, so there is nothing to wait for."""
    monkeypatch.setattr("ncollapse.records.lock._PATIENCE_SECONDS", 0)


@pytest.fixture
def folder(tmp_path):
    """A run of two saves in a place of its own, beside a folder of the reader's that must stay as it is."""
    (tmp_path / "mine" / "previous").mkdir(parents=True)
    (tmp_path / "mine" / "secret").write_text("secret of the reader")
    for name in (*FILES, "previous/note"):
        (tmp_path / "mine" / name).write_text("secret of the reader")
    run = tmp_path / "run"
    run.mkdir()
    held = save_files(run, CONTENTS, None, epoch=0, recipe=RECIPE, keep=2)
    save_files(run, {**CONTENTS, "checkpoint.safetensors": b"weights of epoch 1"}, held, epoch=1, recipe=RECIPE, keep=2)
    return run


def mine(folder):
    return {path: path.read_bytes() if path.is_file() else None for path in (folder.parent / "mine").rglob("*")}


def survives(folder, capsys, commands=COMMANDS, *, may_be_held=False):
    """Give every command; each ends soon, in few words without control characters, and leaves the reader's folder alone."""
    before = mine(folder)
    for words in commands:
        begun, code = time.monotonic(), 0
        with memory_below(24 * MIB):
            try:
                main([*words, str(folder)])
            except SystemExit as ended:
                code = ended.code
        told = capsys.readouterr()
        assert time.monotonic() - begun < 8
        assert code in {0, 1, 2}, (words, code)
        assert told.err.count("\n") == (code == 2), told.err
        assert "Put --debug" not in told.err
        assert may_be_held or "by one process at a time" not in told.err
        assert "all is well" not in {line[11:] for line in (told.out + told.err).splitlines()}
        assert not any((ord(c) < 32 and c != "\n") or 127 <= ord(c) < 160 or c == "\u202e" for c in told.out + told.err)
        assert "secret of the reader" not in told.out + told.err
        assert mine(folder) == before


def remove(path):
    path.unlink(missing_ok=True)


def a_link(path):
    remove(path)
    path.symlink_to(path.parent.parent / "mine" / path.name)


def a_loop(path):
    remove(path)
    path.symlink_to(path)


def a_pipe(path):
    remove(path)
    os.mkfifo(path)


def a_socket(path):
    remove(path)
    here = os.getcwd()
    os.chdir(path.parent)
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(path.name)
    finally:
        os.chdir(here)


def a_folder(path):
    remove(path)
    path.mkdir()
    (path / "inside").write_text("inside")


def a_terabyte(path):
    path.touch()
    os.truncate(path, 1 << 40)


def deep(path):
    path.write_text("[" * 1_000_000)


@pytest.mark.parametrize("kind", [a_link, a_loop, a_pipe, a_socket, a_folder, a_terabyte, deep])
@pytest.mark.parametrize("name", FILES)
def test_a_file_of_another_kind(folder, capsys, name, kind):
    kind(folder / name)
    survives(folder, capsys, COMMANDS if name == "manifest.json" else BRIEF)


@pytest.mark.parametrize("kind", [a_link, a_pipe, a_folder, a_terabyte])
@pytest.mark.parametrize("name", [*CONTENTS, "manifest.json"])
def test_a_file_of_another_kind_in_an_earlier_save(folder, capsys, name, kind):
    (folder / "history.csv").write_bytes(b"damaged")
    (folder / "checkpoint.safetensors").write_bytes(b"damaged")
    kind(folder / "previous" / "0" / name)
    survives(folder, capsys, BRIEF)


@pytest.mark.parametrize("name", ["previous", "damaged", "figures", "previous/0", "previous/7", "damaged/1", ".new"])
def test_a_link_in_the_place_of_a_folder(folder, capsys, name):
    (folder / "history.csv").write_bytes(b"damaged")
    (folder / "checkpoint.safetensors").write_bytes(b"damaged")
    (folder / "damaged").mkdir()
    if (folder / name).is_dir():
        os.rename(folder / name, folder / "moved")
    (folder / name).symlink_to(folder.parent / "mine")
    survives(folder, capsys)


NAMES = ["../mine/secret", "/etc/hostname", "..", ".", "", "a/b", "a\\b", "C:x", "a\0b", "previous", "damaged", "figures",
         ".lock", "manifest.json", "report.html", ".x.tmp", ESCAPES.replace("/", ""), "x" * 300]  # fmt: skip


@pytest.mark.parametrize("place", ["own", "earlier"])
@pytest.mark.parametrize("name", NAMES)
def test_a_manifest_that_lists_what_is_no_file_of_the_run(folder, capsys, name, place):
    where = folder if place == "own" else folder / "previous" / "0"
    files = {name: mark_of(content) for name, content in CONTENTS.items()}
    (where / "manifest.json").write_bytes(sealed(Manifest({**files, name: mark_of(b"other")}, epoch=0, recipe=RECIPE)))
    (folder / "history.csv").write_bytes(b"damaged")
    survives(folder, capsys)


@pytest.mark.parametrize("place", ["own", "earlier"])
@pytest.mark.parametrize(
    "changes",
    [
        {"epoch": -5}, {"epoch": 10**30}, {"recipe": ESCAPES}, {"version": ESCAPES}, {"format": -1},
        {"previous": {}}, {"previous": {"history.csv": Mark("", -1)}}, {"files": {}},
        {"files": {"history.csv": Mark("0" * 64, 1 << 40)}},
        {"files": {f"{i}": Mark("", 0) for i in range(20_000)}},
    ],
    ids=range(10),
)  # fmt: skip
def test_a_manifest_that_lies(folder, capsys, changes, place):
    where = folder if place == "own" else folder / "previous" / "0"
    files = {name: mark_of(content) for name, content in CONTENTS.items()}
    (where / "manifest.json").write_bytes(sealed(Manifest(**{"files": files, "epoch": 0, "recipe": RECIPE, **changes})))
    (folder / "history.csv").write_bytes(b"damaged")
    if place == "earlier":
        (where / "history.csv").unlink()
    survives(folder, capsys)


@pytest.mark.parametrize("name", [*NAMES, "../mine", "linked", "sweep.json"])
def test_a_sweep_that_lists_runs_elsewhere(folder, capsys, name):
    """The folder above holds a run that is damaged: it is not the sweep's, and stays as it is."""
    (folder / "linked").symlink_to(folder.parent / "mine")
    (folder / "sweep.json").write_text(json.dumps({"runs": [{"name": name, "settings": {}, "seed": 0}]}))
    for above in (folder.parent, folder.parent / "mine"):
        save_files(above, CONTENTS, None, epoch=0)
        (above / "history.csv").write_bytes(b"damaged")
    before = sorted(folder.parent.iterdir())
    survives(folder, capsys)
    assert sorted(folder.parent.iterdir()) == before


@pytest.mark.parametrize("content", [
    {"host": ESCAPES, "pid": 1, "started": None, "since": ESCAPES}, {"host": "x", "pid": 10**40, "started": -1, "since": ""},
    {"host": "x", "pid": -1, "started": 0, "since": "x" * 4000},
    {"host": socket.gethostname(), "pid": 1, "started": 1, "since": "x"},
])  # fmt: skip
@pytest.mark.parametrize("beat", [0, 2**33])
def test_a_lock_that_lies(folder, capsys, content, beat):
    """At worst it has to be deleted, as the message says."""
    (folder / "history.csv").write_bytes(b"damaged")
    (folder / ".lock").write_text(json.dumps(content))
    os.utime(folder / ".lock", (beat, beat))
    survives(folder, capsys, may_be_held=True)


@pytest.mark.parametrize("field", ["name", "title", "changed", "seed"])
def test_words_of_a_recipe_in_advice(folder, capsys, field):
    value = {"changed": [ESCAPES, "; touch x", "$(touch x)"], "seed": 10**30}.get(field, f"{ESCAPES}; $(touch x)")
    recipe = json.dumps(entries := {**json.loads(CONTENTS["recipe.json"]), field: value}).encode()
    held = save_files(folder, {**CONTENTS, "recipe.json": recipe}, None, epoch=2, recipe=recipe_fingerprint(entries), keep=2)
    contents = {**CONTENTS, "recipe.json": recipe, "checkpoint.safetensors": b"3", "status.json": b"3"}
    save_files(folder, contents, held, epoch=3, recipe=recipe_fingerprint(entries), keep=2)
    (folder / "checkpoint.safetensors").write_bytes(b"damaged")
    survives(folder, capsys)


@pytest.mark.parametrize(
    "words", [{"state": ESCAPES}, {"reason": ESCAPES}, {"epoch": 10**30}, {"epochs": -1}, {"unit": "step"}]
)
def test_words_of_a_status(folder, capsys, words):
    (folder / "status.json").write_text(json.dumps({"state": "failed", "epoch": 0, "epochs": 9, **words}))
    survives(folder, capsys)


def test_a_folder_whose_name_is_a_command(folder, capsys):
    """What is told to be typed must not run anything else."""
    hostile = folder.rename(folder.with_name("x; touch owned $(touch owned)"))
    (hostile / "history.csv").write_bytes(b"damaged")
    main(["repair", str(hostile)])
    assert f"`ncollapse repair '{hostile}' --yes` does it" in capsys.readouterr().out
