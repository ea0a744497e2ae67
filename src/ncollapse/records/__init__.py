"""Run directories: what lies in them, how it is read and written. Needs no torch."""

from ncollapse.records.parsing import ReportError
from ncollapse.records.reading import Run, read_run
from ncollapse.records.sweep import SWEEP_FILE

__all__ = ["SWEEP_FILE", "ReportError", "Run", "read_run"]
