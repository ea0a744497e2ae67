"""The lock on other systems and file servers, beside processes of other users, and what it leaves behind: nothing."""

import errno
import fcntl
import json
import os
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from ncollapse.records import lock
from ncollapse.records.errors import FolderInUseError, RunDirectoryError
from ncollapse.records.lock import Holder, Lock, living_holder, state_of

# Whoever waits for a lock for ever is told soon.
pytestmark = pytest.mark.timeout(60)
ELSEWHERE = Holder("elsewhere", 1, 2, "2026-01-01T00:00:00")
linux = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="asks /proc")


def open_files():
    return len(os.listdir("/proc/self/fd"))


def test_a_folder_in_use_is_waited_for_five_seconds(tmp_path, monkeypatch):
    pauses = []
    monkeypatch.setattr(time, "sleep", pauses.append)
    with Lock(tmp_path), pytest.raises(FolderInUseError), Lock(tmp_path):
        pass
    assert sum(pauses) == pytest.approx(5)
    assert max(pauses) < 0.1


def test_a_folder_that_is_given_back_meanwhile_is_taken(tmp_path, monkeypatch):
    first = Lock(tmp_path)
    first.__enter__()
    monkeypatch.setattr(time, "sleep", lambda seconds: first.__exit__(None, None, None))
    with Lock(tmp_path):
        assert living_holder(tmp_path).pid == os.getpid()


@pytest.mark.parametrize(("age", "lives"), [(0, True), (59, True), (60, False), (-100, True)])
def test_a_heartbeat_of_another_machine_counts_for_a_minute(age, lives, monkeypatch):
    monkeypatch.setattr(time, "time", lambda: 1000.0)
    assert ELSEWHERE.may_live(True, 1000.0 - age) is ELSEWHERE.may_live(False, 1000.0 - age) is lives
    # Five beats may be lost.
    assert lock._DEAD_SECONDS >= 6 * lock._HEARTBEAT_SECONDS


def test_on_this_machine_the_system_knows(monkeypatch):
    here = Holder.here()
    assert here.is_here
    # With locks a free one has no holder; without, its process decides. Its heartbeat is not asked.
    assert (here.may_live(True, time.time()), here.may_live(False, 0.0)) == (False, True)
    assert not Holder(here.host, 2**22 + 1, None, "").may_live(False, time.time())
    assert not ELSEWHERE.is_here
    monkeypatch.setattr(os, "name", "nt")
    assert not here.is_here


@pytest.mark.parametrize(("error", "lives"), [(None, True), (PermissionError, True), (ProcessLookupError, False)])
def test_without_its_start_a_process_is_known_by_its_number(error, lives, monkeypatch):
    """That of another user may not be sent a signal, but it is there."""
    asked = []

    def kill(pid, signal):
        asked.append((pid, signal))
        if error:
            raise error

    monkeypatch.setattr(os, "kill", kill)
    assert Holder("here", 7, None, "").has_process() is lives
    monkeypatch.setattr(lock, "_start_of", lambda pid: None)
    assert Holder("here", 7, 1, "").has_process() is lives
    # Signal 0 only asks.
    assert asked == [(7, 0), (7, 0)]


@linux
def test_the_start_of_a_process_is_that_of_the_system():
    boot = next(int(line.split()[1]) for line in Path("/proc/stat").read_text().splitlines() if line.startswith("btime"))
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        started = boot + lock._start_of(process.pid) / os.sysconf("SC_CLK_TCK")
        assert abs(started - time.time()) < 30
        process.communicate(b"\n")
    assert lock._start_of(2**22 + 1) is None


@linux
def test_the_name_of_a_program_may_hold_anything():
    before, started = Path("/proc/self/comm").read_text(), lock._start_of(os.getpid())
    try:
        Path("/proc/self/comm").write_text("a) S 1 (b 2")
        assert lock._start_of(os.getpid()) == started
        assert lock._start_of(os.getpid()) > 0
    finally:
        Path("/proc/self/comm").write_text(before)


def test_a_system_without_locks_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "fcntl", None)
    monkeypatch.setattr(lock, "_PATIENCE_SECONDS", 0.0)
    with Lock(tmp_path), pytest.raises(FolderInUseError), Lock(tmp_path):
        pass
    assert state_of(tmp_path, "running") == "dead"
    (tmp_path / ".lock").write_text(json.dumps(vars(Holder.here())))
    assert state_of(tmp_path, "running") == "running"


def test_a_file_server_that_fails_is_told(tmp_path, monkeypatch):
    """It is no server without locks: whoever goes on there might write beside another."""

    def broken(*_arguments):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(fcntl, "flock", broken)
    before = open_files()
    with pytest.raises(OSError, match="Input/output error"), Lock(tmp_path):
        pass
    assert living_holder(tmp_path) is None
    assert open_files() == before


def test_a_holder_that_has_not_said_who_it_is(tmp_path, monkeypatch):
    """It has the lock and not yet written its record, or has just removed the file."""
    monkeypatch.setattr(lock, "_PATIENCE_SECONDS", 0.0)
    words = rf"^{tmp_path} must be written by one process at a time, and another one is writing to it\. Wait for its end, or"
    with (tmp_path / ".lock").open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(FolderInUseError, match=words), Lock(tmp_path):
            pass
        assert living_holder(tmp_path) is None
        monkeypatch.setattr(Path, "read_bytes", lambda path: (_ for _ in ()).throw(FileNotFoundError()))
        with pytest.raises(FolderInUseError, match=words), Lock(tmp_path):
            pass


def test_a_lock_file_of_another_user(tmp_path, monkeypatch):
    (tmp_path / ".lock").touch()

    def refuse(path, flags, *rest, **options):
        raise OSError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(os, "open", refuse)
    with (
        pytest.raises(OSError, match=r"it cannot be opened \(Permission denied\)\. Remove it: '.*\.lock'") as caught,
        Lock(tmp_path),
    ):
        pass
    assert caught.value.errno == errno.EACCES


def test_nothing_stays_open_and_no_thread_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "_PATIENCE_SECONDS", 0.0)
    before, touch = open_files(), os.utime
    monkeypatch.setattr(lock, "_HEARTBEAT_SECONDS", 0.001)
    monkeypatch.setattr(os, "utime", lambda *arguments: (time.sleep(0.1), touch(*arguments)))
    with Lock(tmp_path) as held:
        assert stat.S_IMODE((tmp_path / ".lock").stat().st_mode) == 0o666 & ~umask()
        with pytest.raises(FolderInUseError), Lock(tmp_path):
            pass
        assert living_holder(tmp_path) is not None
        time.sleep(0.02)
    assert not held._beating.is_alive()
    os.mkfifo(tmp_path / ".lock")
    with pytest.raises(RunDirectoryError), Lock(tmp_path):
        pass
    assert living_holder(tmp_path) is None
    assert open_files() == before


def umask():
    found = os.umask(0)
    os.umask(found)
    return found


def test_a_thread_that_beats_ends_with_its_process(tmp_path):
    """Not even a run that is killed by an error in the middle is kept alive by it."""
    others = threading.enumerate()
    with Lock(tmp_path):
        assert [thread.daemon for thread in threading.enumerate() if thread not in others] == [True]


def test_a_file_server_that_does_not_answer_is_asked_again(tmp_path, monkeypatch):
    touch, calls = os.utime, []

    def sometimes(*arguments):
        calls.append(arguments)
        if len(calls) < 3:
            raise OSError(errno.EIO, "Input/output error")
        touch(*arguments)

    monkeypatch.setattr(lock, "_HEARTBEAT_SECONDS", 0.001)
    with Lock(tmp_path):
        touch(tmp_path / ".lock", (0, 0))
        monkeypatch.setattr(os, "utime", sometimes)
        deadline = time.monotonic() + 10
        while (tmp_path / ".lock").stat().st_mtime < 1 and time.monotonic() < deadline:
            time.sleep(0.001)
        assert (tmp_path / ".lock").stat().st_mtime > 1


def test_a_folder_that_is_moved_stays_locked_and_keeps_its_file(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "_HEARTBEAT_SECONDS", 0.001)
    with Lock(tmp_path / "a"):
        os.rename(tmp_path / "a", tmp_path / "b")
        os.utime(tmp_path / "b" / ".lock", (0, 0))
        deadline = time.monotonic() + 10
        while (tmp_path / "b" / ".lock").stat().st_mtime < 1 and time.monotonic() < deadline:
            time.sleep(0.001)
        assert living_holder(tmp_path / "b").pid == os.getpid()
        assert (tmp_path / "b" / ".lock").stat().st_mtime > 1
    assert [path.name for path in (tmp_path / "b").iterdir()] == [".lock"]
    assert living_holder(tmp_path / "b") is None
    with Lock(tmp_path / "b"):
        pass


def test_a_file_that_is_removed_while_it_is_taken_is_no_lock(tmp_path, monkeypatch):
    """Another process ends between the opening and the locking: who then held the removed file would not hold the folder."""
    real, calls = lock._locked, []

    def removed_at_first(descriptor, **options):
        calls.append(descriptor)
        if len(calls) == 1:
            (tmp_path / ".lock").unlink()
        return real(descriptor, **options)

    with monkeypatch.context() as patched:
        patched.setattr(lock, "_locked", removed_at_first)
        held = Lock(tmp_path).__enter__()
    assert living_holder(tmp_path).pid == os.getpid()
    held.__exit__(None, None, None)
    assert list(tmp_path.iterdir()) == []


def test_readers_do_not_take_each_other_for_a_writer(tmp_path):
    """A free lock has no holder, even if the process that its record names is there."""
    (tmp_path / ".lock").write_text(json.dumps(vars(Holder.here())))
    assert living_holder(tmp_path) is None
    with (tmp_path / ".lock").open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        assert living_holder(tmp_path) is None
        assert state_of(tmp_path, "running") == "dead"


def test_a_long_record_is_written_over(tmp_path):
    (tmp_path / ".lock").write_text("x" * 4000)
    with Lock(tmp_path):
        assert living_holder(tmp_path).pid == os.getpid()


def test_an_empty_folder_that_was_there_stays(tmp_path):
    (tmp_path / "a").mkdir()
    with Lock(tmp_path / "a"):
        pass
    assert (tmp_path / "a").is_dir()


def test_a_lock_file_that_somebody_removed(tmp_path):
    with Lock(tmp_path):
        (tmp_path / ".lock").unlink()
    assert list(tmp_path.iterdir()) == []
