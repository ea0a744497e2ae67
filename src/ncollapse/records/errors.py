"""Errors about run directories."""


class ReportError(ValueError):
    """A file of a run directory is missing, broken, or contradicts another one; the message says which and what to do."""


class RunDirectoryError(ValueError):
    """A folder cannot hold this run; the message says why and what to do."""
