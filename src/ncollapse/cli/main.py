"""The ``ncollapse`` command: parse, call, print."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
import traceback
from collections.abc import Sequence
from typing import NoReturn

from ncollapse.cli.doctor import add_doctor
from ncollapse.cli.measure import add_measure
from ncollapse.cli.report import add_report_commands
from ncollapse.cli.run import add_run_commands
from ncollapse.cli.solve import add_solve
from ncollapse.cli.sweep import add_sweep
from ncollapse.version import __version__

# torch takes seconds to import: every command imports what it needs, so that --help answers at once.


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        # Every process has the same words to parse.
        _fail(f"{self.prog}: error: {message}. See {self.prog} --help.", silent=_follows())


def _follows() -> bool:
    """Whether this is a process of torchrun other than the first."""
    if "MASTER_ADDR" not in os.environ:
        return False
    from ncollapse.groups import follows_another

    return follows_another()


def _fail(words: str, silent: bool) -> NoReturn:
    """One line and exit 2; silent where the first process says it."""
    if silent:
        # torchrun ends all processes when one has ended: not before the first has written.
        time.sleep(5)
    else:
        sys.stderr.write(f"{words}\n")
    raise SystemExit(2)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="ncollapse", description="Measure neural collapse and progressive feedforward collapse.")
    parser.add_argument("--version", action="version", version=f"ncollapse {__version__}")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=_Parser)

    add_run_commands(commands)
    add_measure(commands)
    add_solve(commands)
    add_sweep(commands)
    add_report_commands(commands)
    add_doctor(commands)
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line.

    Exits with 0, with 2 and one line on stderr for a user's error (a traceback with --debug), with 130 when interrupted, with
    141 when nobody reads on.

    Args:
        arguments: The words after ``ncollapse``; None takes those of the process.

    Raises:
        SystemExit: With the exit code, unless it is 0.
    """
    parser = _parser()
    options, rest = parser.parse_known_args(arguments)
    if rest and not hasattr(options, "rest"):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    # Fields of a surrogate model may come after options: argparse leaves them over.
    options.rest = rest
    try:
        options.call(options)
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader, such as head, has seen enough. Python would complain when it closes stdout at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(128 + signal.SIGPIPE) from None
    except KeyboardInterrupt:
        sys.stderr.write(
            "ncollapse: interrupted. What was finished is kept; continue with --resume, a sweep with its own command.\n"
        )
        raise SystemExit(130) from None
    except (ValueError, TypeError, KeyError, OSError, ImportError) as error:
        if options.debug:
            traceback.print_exc()
        words = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
        _fail(f"ncollapse: error: {' '.join(words.split())}", silent=_follows() and _raised_by_all(error))


def _raised_by_all(error: Exception) -> bool:
    from ncollapse.groups import raised_by_all
    from ncollapse.train import TrainingDiverged

    # A loss is that of the whole batch.
    return raised_by_all(error) or isinstance(error, TrainingDiverged)
