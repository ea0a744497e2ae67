"""The lock of a run directory: one writer at a time, and words about who it is."""

from __future__ import annotations

import errno
import os
import socket
import stat
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import TracebackType

import msgspec

from ncollapse.records import file_names
from ncollapse.records.errors import FolderInUseError, RunDirectoryError
from ncollapse.records.files import make_folder

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

# The holder touches its file so often; after so long without, the holder on another machine counts as dead.
_HEARTBEAT_SECONDS = 10.0
_DEAD_SECONDS = 60.0
# Processes that a killed sweep leaves behind need a moment to end.
_PATIENCE_SECONDS, _PAUSE_SECONDS = 5.0, 0.05
# What file systems without locks answer.
_NO_LOCKS = {errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL}
# Never through a link, and never waiting for the other end of a pipe.
_SAFELY = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
_MOST_BYTES = 4096


@dataclass(frozen=True)
class Holder:
    """Who writes to a folder: the content of its lock file."""

    host: str
    pid: int
    started: int | None  # when that process was started, in ticks since the machine was; None where the system does not say
    since: str  # when it took the lock, as ISO text

    @classmethod
    def here(cls) -> Holder:
        """Return this process."""
        since = datetime.now().astimezone().isoformat(timespec="seconds")
        return cls(socket.gethostname(), os.getpid(), _start_of(os.getpid()), since)

    @property
    def is_here(self) -> bool:
        """Whether it is, or was, on this machine, and this machine says which processes it has."""
        return self.host == socket.gethostname() and os.name == "posix"

    def may_live(self, has_locks: bool, beat: float) -> bool:
        """Whether it may be writing although this machine finds its lock free."""
        if self.is_here:
            return not has_locks and self.has_process()
        # The age of the heartbeat is all there is. One from the future is of a clock that was set back.
        return time.time() - beat < _DEAD_SECONDS

    def has_process(self) -> bool:
        """Whether its process is there; another one that has got its number since does not count."""
        started = _start_of(self.pid)
        if started is not None and self.started is not None:
            return started == self.started
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except OSError:
            return True
        return True


def _start_of(pid: int) -> int | None:
    try:
        # The name of the program, which may hold anything, ends with the last bracket.
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    except (OSError, ValueError, IndexError):
        return None


def living_holder(folder: Path) -> Holder | None:
    """Return who writes to a folder now, if anybody."""
    try:
        descriptor = os.open(folder / file_names.LOCK, os.O_RDONLY | _SAFELY)
    except OSError:
        return None
    try:
        has_locks, free = _locked(descriptor, shared=True)
        holder, beat = _decoded(os.read(descriptor, _MOST_BYTES)), os.fstat(descriptor).st_mtime
        return holder if holder and (not free or holder.may_live(has_locks, beat)) else None
    except OSError:
        return None
    finally:
        os.close(descriptor)


def _decoded(content: bytes) -> Holder | None:
    try:
        return msgspec.json.decode(content, type=Holder)
    except msgspec.DecodeError:
        return None


def state_of(folder: Path, noted: str) -> str:
    """Return the state of a run, of which its status file notes one: running, stopped (saved), dead, failed or finished."""
    if noted == "finished":
        return noted
    if living_holder(folder) is not None:
        return "running"
    return "dead" if noted == "running" else noted


class Lock:
    """Context manager that holds a folder for one writer; made if it is missing, and removed again if it stays empty."""

    # Among processes of one machine the system decides, by flock: it knows who lives, whatever the clock says, and a killed
    # process lets go. The record in the file is for machines that share a folder without sharing locks, and for words. The
    # file is removed at the end, so whoever has opened it compares what it holds with what lies there.

    def __init__(self, folder: Path) -> None:
        self.folder, self.file = folder, folder / file_names.LOCK
        self._descriptor = -1
        self._made = False
        self._ended = threading.Event()
        self._beating = threading.Thread(target=self._beat, daemon=True)

    def __enter__(self) -> Lock:
        attempts = 0
        while not self._take():
            attempts += 1
            if attempts > _PATIENCE_SECONDS / _PAUSE_SECONDS:
                raise FolderInUseError(self._refusal())
            time.sleep(_PAUSE_SECONDS)
        self._beating.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self._ended.set()
        self._beating.join()
        # Of a folder that was moved the file stays, free.
        with suppress(OSError):
            if self._is_there():
                self.file.unlink()
        os.close(self._descriptor)
        with suppress(OSError):
            if self._made:
                self.folder.rmdir()

    def _take(self) -> bool:
        """Try once."""
        if self.folder.is_file():
            raise RunDirectoryError(f"{self.folder} must be a folder, it is a file. Choose another place with --out.")
        # Another process removes the folder at its end if it had made it and leaves it empty.
        self._made |= not self.folder.exists()
        make_folder(self.folder)
        try:
            self._descriptor = _opened(self.file)
        except FileNotFoundError:
            return False
        taken = False
        try:
            has_locks, free = _locked(self._descriptor)
            holder, beat = _decoded(os.read(self._descriptor, _MOST_BYTES)), os.fstat(self._descriptor).st_mtime
            if free and self._is_there() and not (holder and holder.may_live(has_locks, beat)):
                os.ftruncate(self._descriptor, 0)
                os.lseek(self._descriptor, 0, os.SEEK_SET)
                os.write(self._descriptor, msgspec.json.encode(Holder.here()))
                taken = True
        finally:
            if not taken:
                os.close(self._descriptor)
        return taken

    def _is_there(self) -> bool:
        """Whether the file that this process has opened is still the one in the folder."""
        try:
            return os.path.samestat(os.fstat(self._descriptor), self.file.lstat())
        except OSError:
            return False

    def _beat(self) -> None:
        target = self._descriptor if os.utime in os.supports_fd else self.file
        while not self._ended.wait(_HEARTBEAT_SECONDS):
            # A file server that does not answer may do so at the next beat.
            with suppress(OSError):
                os.utime(target)

    def _refusal(self) -> str:
        words = f"{self.folder} must be written by one process at a time"
        try:
            holder = _decoded(self.file.read_bytes())
        except OSError:
            holder = None
        if holder is None:
            return f"{words}, and another one is writing to it. Wait for its end, or choose another place with --out."
        gone = "" if holder.is_here else f" If that machine is gone, delete {self.file}."
        return (
            f"{words}, and process {holder.pid} on {holder.host} has been writing to it since {holder.since}. Wait for its "
            f"end, or choose another place with --out.{gone}"
        )


def _opened(file: Path) -> int:
    """Open the lock file; a link, or a file that has another name too, is somebody else's and is not written to."""
    try:
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT | _SAFELY, 0o666)
    except OSError as error:
        if error.errno in {errno.ELOOP, errno.EISDIR}:
            kind = "a link" if error.errno == errno.ELOOP else "a folder"
            raise RunDirectoryError(f"{file} must be a file of its own, got {kind}. Remove it.") from error
        if error.errno == errno.EACCES and os.path.lexists(file):
            raise OSError(error.errno, f"it cannot be opened ({error.strerror}). Remove it", str(file)) from error
        words = f"the folder cannot be written to ({error.strerror}). Make it writable, or choose another place with --out"
        raise OSError(error.errno, words, str(file.parent)) from error
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1:
        os.close(descriptor)
        raise RunDirectoryError(f"{file} must be a file of its own, got one of another kind or name. Remove it.")
    return descriptor


def _locked(descriptor: int, *, shared: bool = False) -> tuple[bool, bool]:
    """Lock an open file; return whether the system knows locks here, and whether this one was free."""
    if fcntl is None:
        return False, True
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return True, False
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        return False, True
    return True, True
