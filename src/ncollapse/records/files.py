"""Files that are whole or not there: written to a temporary name, forced to the disk, renamed."""

from __future__ import annotations

import os
from pathlib import Path


def write_whole(path: str | Path, content: bytes | str) -> None:
    """Write a file in one step: a process killed at any moment leaves the old file or the new one, whole."""
    path = Path(path)
    data = content.encode() if isinstance(content, str) else content
    # A fixed name, so that what a killed process left is overwritten instead of piling up.
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        try:
            with temporary.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    except OSError as error:
        # A full disk is reported without a file name.
        raise OSError(
            error.errno,
            f"{len(data)} bytes were to be written, the system refuses ({error.strerror}). Free some space or choose a folder "
            "that can be written to; an earlier file of this name is untouched",
            str(path),
        ) from error
