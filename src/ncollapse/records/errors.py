"""Errors and warnings about run directories."""

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager


class ReportError(ValueError):
    """A file of a run directory is missing, broken, or contradicts another one; the message says which and what to do."""


class RunDirectoryError(ValueError):
    """A folder cannot hold this run; the message says why and what to do."""


class FolderInUseError(RunDirectoryError):
    """Another process writes to a folder; the message says which."""


class RunDirectoryWarning(UserWarning):
    """A run went on although a file of it was damaged; the message says from where."""


class DamagedRunError(ReportError):
    """A file of a run is not as it was written."""


@contextmanager
def plain_warnings() -> Iterator[None]:
    """Print warnings in one line each, without the place in the code."""
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_, **__: print(f"ncollapse: {message}", file=sys.stderr)
        yield
