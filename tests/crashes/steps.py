"""Steps at which a process changes files below a folder, counted, so that it can be stopped at any one of them.

A step is an opening for writing, either half of a write, a forcing to the disk, a rename, a removal, a new folder or a link.
Nothing on the disk changes between two steps, so to die before each of them is also to die after each of them; and to die
before the second half of a write is to die inside it.
"""

import builtins
import errno
import io
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
# By the place of the path that is changed among the arguments.
_CHANGES = {
    "replace": 1, "rename": 1, "link": 1, "symlink": 1, "unlink": 0, "remove": 0, "rmdir": 0, "mkdir": 0, "truncate": 0,
    "fsync": 0, "fdatasync": 0, "ftruncate": 0,
}  # fmt: skip


class Steps:
    """Counts the steps below a folder in this process, and acts at those that are chosen. There is no way back: fork first."""

    def __init__(self, folder: Path, chosen: Callable[[int, str], bool], act: Callable[[], None]) -> None:
        self.folder, self.chosen, self.act, self.count = os.path.realpath(folder), chosen, act, 0
        self._open, self._os_open, self._os_write = io.open, os.open, os.write
        # In one piece and out of sight otherwise.
        shutil._USE_CP_SENDFILE = False  # type: ignore[attr-defined]
        io.open = builtins.open = self._opened  # type: ignore[assignment]
        os.open, os.write = self._opened_low, self._written_low  # type: ignore[assignment]
        for name, place in _CHANGES.items():
            setattr(os, name, self._counted(name, getattr(os, name), place))

    def step(self, kind: str, path: Any, dir_fd: int | None = None) -> None:
        """Count a step if it is below the folder."""
        name = os.readlink(f"/proc/self/fd/{path}") if isinstance(path, int) else os.fspath(path)
        above = os.readlink(f"/proc/self/fd/{dir_fd}") if dir_fd is not None else os.getcwd()
        if os.path.join(above, name).startswith(self.folder):
            self.count += 1
            if self.chosen(self.count, kind):
                self.act()

    def _counted(self, name: str, change: Callable[..., Any], place: int) -> Callable[..., Any]:
        def counted(*arguments: Any, **options: Any) -> Any:
            self.step(name, arguments[place], options.get("dir_fd"))
            return change(*arguments, **options)

        return counted

    def _opened_low(self, path: Any, flags: int, *arguments: Any, **options: Any) -> int:
        if flags & _WRITING:
            self.step("open", path, options.get("dir_fd"))
        return self._os_open(path, flags, *arguments, **options)

    def _written_low(self, descriptor: int, data: bytes) -> int:
        half = len(data) // 2
        self.step("write", descriptor)
        done = self._os_write(descriptor, data[:half])
        self.step("write", descriptor)
        return done + self._os_write(descriptor, data[half:])

    def _opened(self, file: Any, mode: str = "r", buffering: int = -1, encoding=None, errors=None, newline=None, closefd=True,
                opener=None) -> Any:  # fmt: skip
        if not set(mode) & set("wax+"):
            return self._open(file, mode, buffering, encoding, errors, newline, closefd, opener)
        if not isinstance(file, int):
            self.step("open", file)
        raw = _File(file, mode.replace("b", "").replace("t", ""), closefd, opener)
        raw.steps = self
        if buffering == 0:
            return raw
        buffered = io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)
        return buffered if "b" in mode else io.TextIOWrapper(buffered, encoding, errors, newline)


class _File(io.FileIO):
    steps: Steps

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        half = len(view) // 2
        self.steps.step("write", self.fileno())
        done = super().write(view[:half]) if half else 0
        self.steps.step("write", self.fileno())
        return done + super().write(view[half:])


def die() -> NoReturn:
    """End this process as SIGKILL does."""
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("still alive")


def no_space() -> NoReturn:
    """Fail as on a full disk."""
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def disk_error() -> NoReturn:
    """Fail as a broken disk does."""
    raise OSError(errno.EIO, os.strerror(errno.EIO))


def no_memory() -> NoReturn:
    """Fail as where the memory is used up."""
    raise MemoryError


def interrupt() -> NoReturn:
    """Be stopped by Ctrl-C."""
    raise KeyboardInterrupt
