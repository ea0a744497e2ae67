"""Files of unknown origin, read within limits: regular files only, and no more bytes than are known to be enough.

A run directory or a data file may come from anybody. A pipe would block for ever, a device would never end, a link in a run
directory could show a secret of the reader's on the page, and a sparse file of a few bytes can claim a terabyte.
"""

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

_KINDS = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket", stat.S_IFLNK: "a link"}


class UnfitFileError(ValueError):
    """What was needed and what came, without the file's name: the caller knows what the file is for."""


@contextmanager
def open_regular(path: Path, *, follow: bool = True) -> Iterator[BinaryIO]:
    """Open a file for reading; anything that is no regular file is refused, and a link too unless it is to be followed."""
    # Without O_NONBLOCK the opening of a pipe would wait for a writer.
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | (0 if follow else os.O_NOFOLLOW)
    try:
        descriptor = os.open(path, flags)
    except OSError as error:
        if error.errno not in {errno.ELOOP, errno.ENXIO}:
            raise
        kind = "a link" if error.errno == errno.ELOOP else "a socket or a device"
        raise UnfitFileError(f"needed a file, got {kind}") from error
    try:
        mode = os.fstat(descriptor).st_mode
        if not stat.S_ISREG(mode):
            raise UnfitFileError(f"needed a file, got {_KINDS.get(stat.S_IFMT(mode), 'a device')}")
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            yield file
    finally:
        os.close(descriptor)


def read_at_most(path: Path, most: int, *, follow: bool = True) -> bytes:
    """Return the content of a regular file; one with more bytes is refused before any is read."""
    with open_regular(path, follow=follow) as file:
        size = os.fstat(file.fileno()).st_size
        if size > most:
            raise UnfitFileError(f"needed at most {most} bytes, got {size}")
        return file.read(size)
