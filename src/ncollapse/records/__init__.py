"""Run directories: what lies in them, how it is read and written. Needs no torch."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ncollapse.records.errors import ReportError as ReportError
    from ncollapse.records.reading import Run as Run
    from ncollapse.records.reading import read_run as read_run
    from ncollapse.records.rows import EpochRecord as EpochRecord
    from ncollapse.records.rows import Row as Row

# Each name is imported when it is first used: whoever measures needs rows and results, but no reader of files.
_HOMES = {"ReportError": "errors", "Run": "reading", "read_run": "reading", "EpochRecord": "rows", "Row": "rows"}

__all__ = ["EpochRecord", "ReportError", "Row", "Run", "read_run"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
