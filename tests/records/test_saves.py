"""What a save keeps, drops and refuses, and what a reader makes of a save that is under way."""

import errno
import os
import stat

import pytest

from ncollapse.records import ReportError, file_names, manifest
from ncollapse.records.errors import DamagedRunError, RunDirectoryError
from ncollapse.records.files import make_folder, staged, sync_folder, write_whole
from ncollapse.records.manifest import (
    CheckedFiles,
    Manifest,
    Mark,
    compared_files,
    damaged_files,
    is_cut_off,
    is_sealed,
    mark_of,
    mark_of_file,
    read_manifest,
    sealed,
    states,
)
from ncollapse.records.saving import generations, held_files, keep_generation, save_files

OLD = {"recipe.json": b"{}", "history.csv": b"1", "checkpoint.safetensors": b"old", "status.json": b"1"}
NEW = OLD | {"history.csv": b"2", "checkpoint.safetensors": b"new", "status.json": b"2", "objective.json": b"2"}
MARKS = {name: mark_of(content) for name, content in NEW.items()}


def put(folder, contents):
    for name, content in contents.items():
        (folder / name).write_bytes(content)


def under_way(folder, present, files=NEW, previous=OLD):
    """A folder whose save was cut off: the manifest of the new files and the old ones, and some of the files."""
    marks = [{name: mark_of(content) for name, content in contents.items()} for contents in (files, previous)]
    put(folder, present)
    (folder / "manifest.json").write_bytes(sealed(Manifest(*marks, epoch=2)))


def test_a_mark_is_of_all_bytes_and_read_in_pieces(tmp_path, monkeypatch):
    content = bytes(range(256)) * 10
    (tmp_path / "a").write_bytes(content)
    expected = mark_of(content)
    assert expected.size == 2560
    for piece in (7, 2560, 1 << 20):
        monkeypatch.setattr(manifest, "_PIECE", piece)
        assert mark_of_file(tmp_path / "a") == mark_of_file(tmp_path / "a", {1, 2560}) == expected
    # Another size is enough to know that it is another file.
    assert mark_of_file(tmp_path / "a", {1}) == Mark("", 2560)
    assert mark_of_file(tmp_path / "b") is None
    (tmp_path / "link").symlink_to(tmp_path / "a")
    assert mark_of_file(tmp_path / "link") == Mark("", 0)


def test_a_digest_is_of_everything_but_itself():
    content = sealed(Manifest(MARKS))
    digest = content.partition(b'"digest": "')[2][:64].decode()
    assert is_sealed(content, digest)
    assert not is_sealed(content, "0" * 64)
    assert not is_sealed(content + b" ", digest)


@pytest.mark.parametrize(("count", "fits"), [(1000, True), (1001, False)])
def test_a_manifest_lists_at_most_a_thousand_files(tmp_path, count, fits):
    """Those of the save before included, and each once."""
    files = {f"f{i}": Mark("0" * 64, 0) for i in range(500)}
    previous = {f"f{i}": Mark("0" * 64, 0) for i in range(400, count)}
    (tmp_path / "manifest.json").write_bytes(sealed(Manifest(files, previous)))
    if fits:
        assert len(read_manifest(tmp_path).previous) == 600
    else:
        with pytest.raises(ReportError, match=r"must list files of one run in its own folder, lists 1001 files\. Do not use"):
            read_manifest(tmp_path)


@pytest.mark.parametrize("name", ["", ".x", "a/b", "a\\b", "C:x", "a\nb", "manifest.json", "previous", "damaged", "figures"])
def test_names_that_are_no_files_of_a_run(tmp_path, name):
    for files in (({name: MARKS["history.csv"]}, None), ({}, {"a.csv": Mark("", 0), name: MARKS["history.csv"]})):
        (tmp_path / "manifest.json").write_bytes(sealed(Manifest(*files)))
        with pytest.raises(ReportError, match=r"lists .*Do not use this folder") as caught:
            read_manifest(tmp_path)
        assert repr(name) in str(caught.value)
    (tmp_path / "manifest.json").write_bytes(sealed(Manifest({"x" * 200 + "/": Mark("", 0)})))
    with pytest.raises(ReportError, match=rf"lists '{'x' * 100}'\."):
        read_manifest(tmp_path)


@pytest.mark.parametrize(
    ("present", "expected"),
    [
        (OLD, {"recipe.json": "new", "history.csv": "old", "checkpoint.safetensors": "old", "status.json": "old",
               "objective.json": "old"}),
        ({**OLD, "history.csv": b"2", "objective.json": b"2"},
         {"recipe.json": "new", "history.csv": "new", "checkpoint.safetensors": "old", "status.json": "old",
          "objective.json": "new"}),
        (NEW, dict.fromkeys(NEW, "new")),
        ({**NEW, "history.csv": b"3", "status.json": b"1"},
         {**dict.fromkeys(NEW, "new"), "history.csv": "changed", "status.json": "old"}),
        ({"history.csv": b"2"}, {"recipe.json": "missing", "history.csv": "new", "checkpoint.safetensors": "missing",
                                 "status.json": "missing", "objective.json": "old"}),
    ],
)  # fmt: skip
def test_states_of_files_while_a_save_is_under_way(tmp_path, present, expected):
    under_way(tmp_path, present)
    found = states(tmp_path, read_manifest(tmp_path))
    assert found == expected
    # A status may be behind its checkpoint, nothing else may.
    damaged = [name for name, state in expected.items() if state in {"changed", "missing"}]
    assert damaged_files(found) == damaged
    assert compared_files(tmp_path) == (read_manifest(tmp_path), found)
    assert not is_cut_off(read_manifest(tmp_path), found)


def test_tables_that_are_behind_their_checkpoint_are_damage(tmp_path):
    under_way(tmp_path, {**NEW, "history.csv": b"1", "status.json": b"1"})
    assert damaged_files(states(tmp_path, read_manifest(tmp_path))) == ["history.csv"]


def test_a_file_that_a_save_removes_may_be_there_or_not(tmp_path):
    previous = {**OLD, "objective.json": b"1"}
    for name, present in (("a", OLD), ("b", previous)):
        (tmp_path / name).mkdir()
        under_way(tmp_path / name, present, OLD, previous)
        assert states(tmp_path / name, read_manifest(tmp_path / name)) == {
            **dict.fromkeys(OLD, "new"), "objective.json": "old"
        }  # fmt: skip
        assert CheckedFiles(tmp_path / name).has("objective.json") is (name == "b")


@pytest.mark.parametrize(("present", "cut_off"), [({}, True), ({"history.csv": b"2"}, True), (NEW, False)])
def test_a_first_save_counts_when_all_its_files_are_there(tmp_path, present, cut_off):
    under_way(tmp_path, present, previous={})
    assert is_cut_off(*compared_files(tmp_path)) is cut_off
    files = CheckedFiles(tmp_path)
    assert files.is_under_way
    if cut_off:
        with pytest.raises(ReportError, match=r"checkpoint\.safetensors: is not written yet, or its first save was cut off\."):
            files.check("checkpoint.safetensors")
    else:
        files.check("checkpoint.safetensors")
        assert files.read(tmp_path / "history.csv") == b"2"


def test_nothing_is_cut_off_without_a_manifest(tmp_path):
    assert compared_files(tmp_path) == (None, {})
    assert is_cut_off(None, {}) is False
    assert not CheckedFiles(tmp_path).is_under_way
    CheckedFiles(tmp_path).check("checkpoint.safetensors")


def test_what_a_run_has_while_a_save_is_under_way(tmp_path):
    under_way(tmp_path, {"history.csv": b"2"})
    files = CheckedFiles(tmp_path)
    # In both saves, so it was deleted: who reads it is told. The objective may not have been written yet.
    assert files.has("recipe.json")
    assert not files.has("objective.json")
    assert not CheckedFiles(tmp_path, unverified=True).has("recipe.json")
    with pytest.raises(DamagedRunError, match=r"recipe\.json: is missing\. `ncollapse repair"):
        files.read(tmp_path / "recipe.json")
    with pytest.raises(ReportError, match=r"depth\.json: is missing\. Measure again") as caught:
        files.read(tmp_path / "depth.json", "Measure again.")
    assert not isinstance(caught.value, DamagedRunError)


def test_a_file_read_unverified_is_named_once(tmp_path):
    save_files(tmp_path, OLD, None)
    put(tmp_path, {"history.csv": b"9", "objective.json": b"{}"})
    files = CheckedFiles(tmp_path, unverified=True)
    for _ in range(2):
        assert files.read(tmp_path / "history.csv") == b"9"
        assert files.has("objective.json")
    assert files.changed == ["history.csv", "objective.json"]
    with pytest.raises(ReportError, match=r"depth\.json: is missing"):
        files.read(tmp_path / "depth.json")


def test_a_recipe_that_is_no_json_is_not_that_of_the_run(tmp_path):
    recipe = {"recipe.json": b"no json"}
    save_files(tmp_path, OLD | recipe, None, recipe="0" * 16)
    assert states(tmp_path, read_manifest(tmp_path))["recipe.json"] == "changed"
    # Where its fingerprint is not known, its bytes decide.
    save_files(tmp_path, OLD | recipe, None)
    assert states(tmp_path, read_manifest(tmp_path))["recipe.json"] == "new"


def test_a_look_ends_although_a_run_is_saved_again_and_again(tmp_path, monkeypatch):
    held = save_files(tmp_path, OLD, None, epoch=0)
    real, calls = manifest.states, []

    def meanwhile(folder, found):
        nonlocal held
        calls.append(found)
        held = save_files(tmp_path, {**OLD, "history.csv": b"save %d" % len(calls)}, held, epoch=len(calls))
        return real(folder, found)

    with monkeypatch.context() as patched:
        patched.setattr(manifest, "states", meanwhile)
        compared_files(tmp_path)
    assert len(calls) == 5
    # What is damaged and does not move is known after two looks.
    put(tmp_path, {"history.csv": b"broken"})
    calls.clear()
    monkeypatch.setattr(manifest, "states", lambda *arguments: (calls.append(arguments), real(*arguments))[1])
    assert damaged_files(compared_files(tmp_path)[1]) == ["history.csv"]
    assert len(calls) == 2


def test_what_a_save_that_was_cut_off_holds_goes_on(tmp_path):
    under_way(tmp_path, {**OLD, "history.csv": b"2"})
    held = held_files(tmp_path)
    assert held.files == {**{name: mark_of(content) for name, content in OLD.items()}, "history.csv": MARKS["history.csv"]}
    assert (held.epoch, held.previous is None) == (2, False)
    # It is no run that can go on, so no generation is made of it.
    done = save_files(tmp_path, NEW, held, epoch=3, keep=3)
    assert (done.files, done.previous, generations(tmp_path)) == (MARKS, None, [])


def test_what_was_never_saved_with_a_manifest_is_held_by_its_content(tmp_path):
    assert held_files(tmp_path) is None
    put(tmp_path, {"history.csv": b"1", "notes.txt": b"mine"})
    assert held_files(tmp_path) == Manifest({"history.csv": mark_of(b"1")})


@pytest.mark.parametrize(
    ("held", "epoch", "kept"),
    [({"epoch": 1}, 2, True), ({"epoch": 1}, 1, False), ({"epoch": 2}, 1, False), ({"epoch": None}, 1, False),
     ({"epoch": 1}, None, False), ({"epoch": 0}, 1, True)],
)  # fmt: skip
def test_a_generation_is_a_run_of_an_earlier_epoch_with_a_checkpoint(tmp_path, held, epoch, kept):
    for name, contents in (("with", OLD), ("without", {key: OLD[key] for key in OLD if key != file_names.CHECKPOINT})):
        folder = tmp_path / name
        folder.mkdir()
        before = save_files(folder, contents, None, **held)
        save_files(folder, {**contents, "history.csv": b"2"}, before, epoch=epoch, keep=2)
        assert len(generations(folder)) == (kept and name == "with")


def test_a_save_without_a_checkpoint_drops_no_generation(tmp_path):
    """Only the run that goes on says how many there are; a mark of its end keeps all."""
    held = None
    for epoch in range(4):
        held = save_files(tmp_path, {**OLD, "checkpoint.safetensors": b"%d" % epoch}, held, epoch=epoch, keep=4)
    save_files(tmp_path, {"status.json": b"end"}, held, epoch=3)
    assert [item.epoch for item in generations(tmp_path)] == [2, 1, 0]
    save_files(tmp_path, OLD, held_files(tmp_path), epoch=4)
    assert generations(tmp_path) == []
    assert not any((tmp_path / "previous").iterdir())


def test_a_generation_that_a_kill_left_half_made_is_completed(tmp_path):
    held = save_files(tmp_path, OLD, None, epoch=1)
    own = tmp_path / "previous" / "1"
    own.mkdir(parents=True)
    put(own, {"recipe.json": b"{}", "history.csv": b"half", "status.json": b"half"})
    kept = (own / "recipe.json").stat().st_ino
    keep_generation(tmp_path, held, {"history.csv", "checkpoint.safetensors"})
    (found,) = generations(tmp_path)
    assert (found.epoch, found.damaged) == (1, ())
    assert {name: (own / name).read_bytes() for name in OLD} == OLD
    # What was kept already is not made again, and a whole one is left alone.
    assert (own / "recipe.json").stat().st_ino == kept
    (own / "recipe.json").write_bytes(b"x")
    keep_generation(tmp_path, held, ())
    assert (own / "recipe.json").read_bytes() == b"x"


def test_folders_that_are_no_generations_are_left_alone(tmp_path):
    held = save_files(tmp_path, OLD, None, epoch=9)
    save_files(tmp_path, {**OLD, "checkpoint.safetensors": b"10"}, held, epoch=10, keep=2)
    (tmp_path / "previous" / "notes").mkdir()
    (tmp_path / "previous" / "7").write_text("mine")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "previous" / "8").symlink_to(tmp_path / "elsewhere")
    assert [item.epoch for item in generations(tmp_path)] == [9]
    save_files(tmp_path, {**OLD, "checkpoint.safetensors": b"11"}, held_files(tmp_path), epoch=11, keep=3)
    # By number, not by text.
    assert [item.epoch for item in generations(tmp_path)] == [10, 9]
    assert {"notes", "7", "8"} < set(os.listdir(tmp_path / "previous"))


def test_a_disk_that_fails_to_link_is_told(tmp_path, monkeypatch):
    held = save_files(tmp_path, OLD, None, epoch=1)

    def broken(*names, **options):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "link", broken)
    with pytest.raises(OSError, match="Input/output error"):
        save_files(tmp_path, {**OLD, "checkpoint.safetensors": b"2"}, held, epoch=2, keep=2)
    assert {name: (tmp_path / name).read_bytes() for name in OLD} == OLD


@pytest.mark.parametrize("name", ["figures", "report.html", "depth.json"])
def test_a_folder_in_the_place_of_a_file_that_would_go(tmp_path, name):
    """A new run removes what an old one has left; a folder is somebody's own."""
    (tmp_path / name).mkdir()
    if name == "figures":
        save_files(tmp_path, OLD, None)
        return
    with pytest.raises(RunDirectoryError, match=rf"{name} must be a file, got a folder"):
        save_files(tmp_path, OLD, None)
    assert os.listdir(tmp_path) == [name]


def test_files_are_as_open_as_the_user_wants(tmp_path):
    before = os.umask(0o027)
    try:
        write_whole(tmp_path / "a", "x")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o640


def fails(folder, contents, error, before=lambda temporary: None):
    """Stage files, do something with them, and fail."""
    with staged(folder, contents) as temporary:
        before(temporary)
        raise error


def test_a_body_that_fails_leaves_nothing_and_says_its_own_words(tmp_path):
    with pytest.raises(ZeroDivisionError):
        fails(tmp_path, {"a": b"1", "b": b"2"}, ZeroDivisionError, lambda temporary: temporary["a"].unlink())
    assert list(tmp_path.iterdir()) == []
    words = r"1 bytes were to be written, the system refuses \(Input/output error\)\. Free some space or choose"
    with pytest.raises(OSError, match=words) as caught:
        fails(tmp_path, {"a": b"1"}, OSError)
    assert caught.value.filename == str(tmp_path / "a")
    (tmp_path / "b").mkdir()
    with pytest.raises(OSError, match=r"; the folder is gone, moved or removed perhaps\. Move it back or choose a folder"):
        fails(tmp_path / "b", {"a": b"1"}, OSError(errno.ENOENT, "x"), lambda _: (tmp_path / "b").rename(tmp_path / "moved"))


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(
        OSError, match=r"the folder cannot be made \(Not a directory\)\. Choose another place with --out: .*sub'"
    ):
        make_folder(tmp_path / "file" / "sub")
    make_folder(tmp_path / "a" / "b")
    make_folder(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir()


def test_folders_are_forced_to_the_disk_where_the_system_can(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(os, "fsync", asked.append)
    before = len(os.listdir("/proc/self/fd"))
    sync_folder(tmp_path)
    assert len(asked) == 1
    assert len(os.listdir("/proc/self/fd")) == before
    monkeypatch.setattr(os, "name", "nt")
    sync_folder(tmp_path)
    monkeypatch.undo()
    assert len(asked) == 1
