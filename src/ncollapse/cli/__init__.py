"""The ``ncollapse`` command: parse, call, print."""

from ncollapse.cli.main import main

__all__ = ["main"]
