"""The lock of a run directory: one writer, whoever it is; the dead one is replaced, the clock is not asked."""

import errno
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from ncollapse.cli import main
from ncollapse.cli.run_list import list_runs
from ncollapse.records import lock
from ncollapse.records.errors import FolderInUseError, RunDirectoryError
from ncollapse.records.files import make_folder
from ncollapse.records.lock import Holder, Lock, living_holder, state_of
from ncollapse.records.run_directory import RunDirectory

# Whoever waits for a lock for ever is told soon.
pytestmark = pytest.mark.timeout(60)


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(lock, "_PATIENCE_SECONDS", 0.0)


@pytest.fixture
def other(tmp_path):
    """Another process that holds the folder `run`."""
    command = [sys.executable, str(Path(__file__).with_name("lock_holder.py")), str(tmp_path / "run")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def refused(folder):
    with pytest.raises(FolderInUseError, match="must be written by one process at a time") as caught, Lock(folder):
        pass
    return str(caught.value)


def test_a_second_process_is_told_who_writes_and_a_dead_one_is_replaced(other, tmp_path):
    run = tmp_path / "run"
    words = refused(run)
    assert f"process {other.pid} on {Holder.here().host} has been writing to it since 20" in words
    assert words.endswith("Wait for its end, or choose another place with --out.")
    assert living_holder(run).pid == other.pid
    assert state_of(run, "running") == state_of(run, "stopped") == state_of(run, "failed") == "running"
    other.kill()
    other.wait()
    assert json.loads((run / ".lock").read_text())["pid"] == other.pid
    assert living_holder(run) is None
    assert state_of(run, "running") == "dead"
    with Lock(run):
        assert living_holder(run) == Holder(**json.loads((run / ".lock").read_text()))
        assert living_holder(run).pid == os.getpid()
    assert not (run / ".lock").exists()


def test_states_that_need_no_holder(tmp_path):
    assert [state_of(tmp_path, state) for state in ("finished", "failed", "stopped", "running")] == [
        "finished", "failed", "stopped", "dead"
    ]  # fmt: skip
    with Lock(tmp_path):
        assert state_of(tmp_path, "finished") == "finished"


def test_threads_and_readers(tmp_path):
    found = []
    with Lock(tmp_path):
        thread = threading.Thread(target=lambda: found.append(refused(tmp_path)))
        thread.start()
        thread.join()
        assert f"process {os.getpid()} on " in found[0]
        # A reader asks the system for the lock, and takes nothing away.
        assert living_holder(tmp_path) is not None
        refused(tmp_path)


@pytest.mark.parametrize("shift", [-10_000, 10_000])
def test_a_clock_that_is_set_takes_no_lock_away(shift, other, tmp_path, monkeypatch):
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + shift)
    refused(tmp_path / "run")
    assert state_of(tmp_path / "run", "running") == "running"


def foreign(folder, age):
    """What a process of another machine has left, whose locks this one does not see."""
    (folder / ".lock").write_text(json.dumps({"host": "elsewhere", "pid": 1, "started": 2, "since": "2026-01-01T00:00:00"}))
    os.utime(folder / ".lock", (time.time() - age,) * 2)


@pytest.mark.parametrize("age", [5, -10_000])
def test_a_heartbeat_of_another_machine_counts(age, tmp_path):
    foreign(tmp_path, age)
    words = refused(tmp_path)
    assert "process 1 on elsewhere has been writing to it since 2026-01-01T00:00:00" in words
    assert words.endswith(f"If that machine is gone, delete {tmp_path / '.lock'}.")
    assert state_of(tmp_path, "running") == "running"
    # What refuses leaves the record of the other as it was.
    assert json.loads((tmp_path / ".lock").read_text())["host"] == "elsewhere"


def test_a_heart_that_beats_no_more_is_replaced(tmp_path):
    foreign(tmp_path, 61)
    assert state_of(tmp_path, "running") == "dead"
    with Lock(tmp_path):
        assert living_holder(tmp_path).pid == os.getpid()


def test_the_heart_beats(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "_HEARTBEAT_SECONDS", 0.01)
    with Lock(tmp_path):
        os.utime(tmp_path / ".lock", (0, 0))
        deadline = time.monotonic() + 10
        while (tmp_path / ".lock").stat().st_mtime < 1 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert time.time() - (tmp_path / ".lock").stat().st_mtime < 10


def test_without_locks_of_the_system_the_process_decides(tmp_path, monkeypatch):
    def refuse(*_arguments):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(lock.fcntl, "flock", refuse)
    with Lock(tmp_path):
        refused(tmp_path)
    here = Holder.here()
    for gone in ({"pid": 2**22 + 1}, {"started": here.started + 1}):
        record = {"host": here.host, "pid": here.pid, "started": here.started, "since": "x", **gone}
        (tmp_path / ".lock").write_text(json.dumps(record))
        assert living_holder(tmp_path) is None
        with Lock(tmp_path):
            pass


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff" * 5000])
def test_a_record_that_says_nothing_holds_nothing(content, tmp_path):
    (tmp_path / ".lock").write_bytes(content)
    assert state_of(tmp_path, "running") == "dead"
    with Lock(tmp_path):
        pass


def test_planted_files_are_not_written_to(tmp_path):
    mine, folder = tmp_path / "mine.txt", tmp_path / "run"
    mine.write_text("mine")
    folder.mkdir()
    for plant, words in ((os.symlink, "got a link"), (os.link, "another kind or name"), (pipe, "another kind or name")):
        plant(mine, folder / ".lock")
        with (
            pytest.raises(RunDirectoryError, match=rf"\.lock must be a file of its own, .*{words}\. Remove it\."),
            Lock(folder),
        ):
            pass
        assert living_holder(folder) is None
        (folder / ".lock").unlink()
    assert mine.read_text() == "mine"
    (folder / ".lock").mkdir()
    with pytest.raises(RunDirectoryError, match=r"\.lock must be a file of its own, got a folder\. Remove it\."), Lock(folder):
        pass


def pipe(_mine, place):
    os.mkfifo(place)


def test_a_folder_that_stays_empty_is_removed_again(tmp_path):
    with Lock(tmp_path / "a"):
        assert RunDirectory(tmp_path / "a").is_empty()
    assert not (tmp_path / "a").exists()
    (tmp_path / "b").mkdir()
    with Lock(tmp_path / "b"):
        (tmp_path / "b" / "file").touch()
    assert [path.name for path in (tmp_path / "b").iterdir()] == ["file"]
    with pytest.raises(RunDirectoryError, match=r"file must be a folder, it is a file"), Lock(tmp_path / "b" / "file"):
        pass


def test_a_folder_that_another_process_removes_at_its_end_is_made_again(tmp_path, monkeypatch):
    """Between the look at the folder and the opening of the file: whoever holds it next is the one who made it."""
    made = []

    def removed_at_first(folder):
        make_folder(folder)
        made.append(folder)
        if len(made) == 1:
            folder.rmdir()

    monkeypatch.setattr(lock, "make_folder", removed_at_first)
    monkeypatch.setattr(lock, "_PATIENCE_SECONDS", 5.0)
    with Lock(tmp_path / "a"):
        assert living_holder(tmp_path / "a").pid == os.getpid()
    assert len(made) == 2
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("code", [errno.EROFS, errno.EACCES])
def test_a_read_only_folder_is_told_and_can_be_read(code, tmp_path, monkeypatch):
    opened = os.open

    def refuse(path, flags, *rest, **options):
        if flags & os.O_CREAT:
            raise OSError(code, os.strerror(code), str(path))
        return opened(path, flags, *rest, **options)

    monkeypatch.setattr(os, "open", refuse)
    words = rf"cannot be written to \({os.strerror(code)}\)\. Make it writable, or choose .*--out.*{tmp_path}"
    with pytest.raises(OSError, match=words), Lock(tmp_path):
        pass
    assert living_holder(tmp_path) is None


def test_a_given_back_lock_leaves_that_of_the_next_alone(tmp_path):
    """Its file is removed at the end: whoever has opened it before does not hold what lies there then."""
    first = Lock(tmp_path)
    first.__enter__()
    (tmp_path / ".lock").unlink()
    with Lock(tmp_path):
        first.__exit__(None, None, None)
        refused(tmp_path)


def write_status(folder, **entries):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "status.json").write_text(json.dumps({"state": "running", "epoch": 3, "epochs": 9, **entries}))
    (folder / "measurements.csv").write_text("epoch,value\n0,1\n0,2\n3,1\n")


def test_runs_are_listed_with_state_progress_and_age(other, tmp_path, capsys):
    write_status(tmp_path / "run")
    write_status(tmp_path / "sweep" / "seed=0", state="finished", epoch=9)
    write_status(tmp_path / "sweep" / "seed=1")
    write_status(tmp_path / "c", state="failed", reason="full disk")
    write_status(tmp_path / "d", state="stopped", reason="in epoch 4, after batch 2 of 5")
    (tmp_path / "e").mkdir()
    (tmp_path / "e" / "status.json").write_text("{")
    (tmp_path / "f").mkdir()
    (tmp_path / "f" / "recipe.json").write_text("{}")
    (tmp_path / "notes").mkdir()
    os.utime(tmp_path / "c" / "status.json", (time.time() - 7300,) * 2)
    found = {run.name: run for run in list_runs(tmp_path)}
    assert {name: run.state for name, run in found.items()} == {
        "c": "failed", "d": "stopped", "e": "damaged", "f": "not begun", "run": "running", "sweep/seed=0": "finished",
        "sweep/seed=1": "dead",
    }  # fmt: skip
    assert (found["d"].epoch, found["d"].epochs, found["d"].measured) == (3, 9, 2)
    main(["runs", str(tmp_path)])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["RUN", "STATE", "EPOCH", "MEASURED", "SAVED"]
    assert lines[1].split(None, 9) == ["c", "failed", "3", "of", "9", "2", "epochs", "2", "h", "ago  full disk"]
    assert f"process {other.pid} on " in lines[5]
    main(["runs", str(tmp_path), "--json"])
    assert [run["name"] for run in json.loads(capsys.readouterr().out)] == list(found)
    main(["runs", str(tmp_path / "d")])
    assert capsys.readouterr().out.splitlines()[1].startswith("d    stopped  3 of 9  2 epochs")


@pytest.mark.parametrize(("make", "words"), [(Path.mkdir, "must hold run directories, got none"), (Path.touch, "got a file")])
def test_a_folder_without_runs(make, words, tmp_path, capsys):
    make(tmp_path / "x")
    with pytest.raises(SystemExit):
        main(["runs", str(tmp_path / "x")])
    assert words in capsys.readouterr().err
