"""Files that are whole or not there: written to a temporary name, forced to the disk, renamed."""

from __future__ import annotations

import errno
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from ncollapse.records import file_names
from ncollapse.records.errors import RunDirectoryError

# What a killed writer may leave: a temporary file of this version, and of version 0.1, whose names were fixed, for the files
# of a run; the folder in which that version prepared a run that was to replace another.
_TEMPORARY = re.compile(r"\.[^/]+\.[0-9a-f]{16}\.tmp")
_FORMER = {f".{name}.tmp" for name in (*file_names.OF_A_RUN, file_names.REPORT, file_names.SWEEP, file_names.CLAIMS)}
_FORMER_STAGE = ".new"
# Seconds. No writer takes so long for a file, so what is older was left by one that was killed.
_LONGEST_WRITE = 3600
# Folders of a network that cannot be forced to the disk answer with one of these.
_CANNOT_SYNC = {errno.EINVAL, errno.ENOTSUP, errno.EBADF, errno.EACCES}


def write_whole(path: str | Path, content: bytes | str) -> None:
    """Write a file in one step: a process killed at any moment leaves the old file or the new one, whole."""
    path = Path(path)
    data = content.encode() if isinstance(content, str) else content
    with staged(path.parent, {path.name: data}) as temporary:
        os.replace(temporary[path.name], path)
    sync_folder(path.parent)


@contextmanager
def staged(folder: Path, contents: Mapping[str, bytes]) -> Iterator[dict[str, Path]]:
    """Write files under temporary names, forced to the disk, for the body to rename; none is left if it fails."""
    for name in contents:
        check_no_folder(folder / name)
    # Nobody can guess the name, and a file or link that is there already is never opened.
    temporary = {name: folder / f".{name}.{secrets.token_hex(8)}.tmp" for name in contents}
    name, data = "", b""
    try:
        for name, data in contents.items():
            _write_new(temporary[name], data)
        yield temporary
        _remove_old_leftovers(folder)
    except BaseException as error:
        for path in temporary.values():
            with suppress(OSError):
                path.unlink()
        if not isinstance(error, OSError):
            raise
        # Not the words of the error, which may be those of a file that was to be kept meanwhile.
        why = os.strerror(error.errno or errno.EIO)
        gone = "; the folder is gone, moved or removed perhaps. Move it back" if not folder.exists() else ". Free some space"
        words = (
            f"{len(data)} bytes were to be written, the system refuses ({why}){gone} or choose a folder that can be "
            "written to; an earlier file of this name is untouched"
        )
        # A full disk is reported without a file name.
        raise OSError(error.errno, words, str(folder / name)) from error


def _write_new(path: Path, data: bytes) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
    with os.fdopen(os.open(path, flags, 0o666), "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _remove_old_leftovers(folder: Path) -> None:
    """Remove what killed writers left; younger files may be those of a process that writes at the same time."""
    for path in leftovers(folder):
        with suppress(OSError):
            if path.lstat().st_mtime < time.time() - _LONGEST_WRITE:
                path.unlink()


def sync_folder(folder: Path) -> None:
    """Force a folder's names to the disk, where the system can: else a power cut could undo a rename."""
    if os.name != "posix":
        return
    try:
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno not in _CANNOT_SYNC:
            raise OSError(error.errno, f"the folder cannot be forced to the disk ({error.strerror})", str(folder)) from error


def make_folder(folder: Path) -> None:
    """Make a folder, and those above it, unless it is there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        words = f"the folder cannot be made ({error.strerror}). Choose another place with --out"
        raise OSError(error.errno, words, str(folder)) from error


def make_own_folder(folder: Path) -> None:
    """Make a folder whose name is ours, not the user's, unless it is there."""
    check_no_link(folder)
    folder.mkdir(exist_ok=True)


def check_no_link(folder: Path) -> None:
    """Refuse a link in the place of a folder whose name is ours: in a folder of somebody else it could lead anywhere."""
    if folder.is_symlink():
        raise RunDirectoryError(f"{folder} must be a folder, got a link to {os.readlink(folder)}. Remove the link.")


def check_no_folder(file: Path) -> None:
    """Refuse a folder in the place of a file that is to be replaced."""
    if file.is_dir() and not file.is_symlink():
        raise RunDirectoryError(f"{file} must be a file, got a folder. Move the folder away.")


def leftovers(folder: Path) -> list[Path]:
    """List what a killed writer left in a folder."""
    left = [path for path in folder.iterdir() if path.name in _FORMER or _TEMPORARY.fullmatch(path.name)]
    stage = folder / _FORMER_STAGE
    return sorted([*left, stage] if stage.is_dir() and not stage.is_symlink() else left)


def remove_leftovers(folder: Path) -> None:
    """Remove what a killed writer left in a folder, and in its figures."""
    for place in (folder, folder / file_names.FIGURES):
        for path in leftovers(place) if place.is_dir() and not place.is_symlink() else ():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
