"""The ``ncollapse`` command: parse the words, call the command, and turn every error into one line and an exit code.

Each command adds its own parser, with the function to call under ``call``. ``main`` calls it and handles what it raises.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import textwrap
import time
import traceback
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import Any, NoReturn

from ncollapse.cli.completion import add_completion
from ncollapse.cli.doctor import add_doctor
from ncollapse.cli.layers import add_layers
from ncollapse.cli.measure import add_measure
from ncollapse.cli.options import as_options, printable
from ncollapse.cli.report import add_report_commands
from ncollapse.cli.reproduce import add_reproduce
from ncollapse.cli.run import add_run_commands
from ncollapse.cli.run_folders import add_folder_commands
from ncollapse.cli.runs import add_runs
from ncollapse.cli.solve import add_solve
from ncollapse.cli.sweep import add_sweep
from ncollapse.error_words import error_line
from ncollapse.near_words import near_words
from ncollapse.stop_signals import STOP_SIGNALS, RunStopped, handling
from ncollapse.version import __version__

# torch takes seconds to import. So every command imports what it needs when it is called, and --help answers at once.

_WHICH_COMMAND = """\
which command do I need?
  See what it does            ncollapse demo
  Measure my own network      ncollapse measure my_module:build --data my_module:batches --num-classes 10
  Which layers do I need?     ncollapse layers my_module:build --data my_module:batches --num-classes 10
  Measure my checkpoints      ncollapse measure my_module:build --checkpoints 'ckpt/*.pt' --data digits --out DIR
  Reproduce a paper's figure  ncollapse reproduce, then ncollapse reproduce NAME
  Train a reference network   ncollapse recipes, then ncollapse run RECIPE
  Many settings and seeds     ncollapse sweep RECIPE --over FIELD=VALUE,VALUE --seeds 5
  See how far runs are        ncollapse runs DIR
  Look at results again       ncollapse report DIR, or ncollapse compare DIR DIR for several side by side
  Share a run as a picture    ncollapse animate DIR --out kgon.gif
  Is a run still intact?      ncollapse verify DIR, and ncollapse repair DIR if it is not
  Test the papers' claims     ncollapse claims DIR ...
  Check the installation      ncollapse doctor
  Solve a model of the theory ncollapse solve MODEL
  Complete words by tab       ncollapse completion bash
"""


_EXAMPLES = {
    "measure": (
        "ncollapse measure my_module:build --data my_module:batches --num-classes 10",
        "ncollapse measure my_module:build --checkpoints 'ckpt/*.pt' --data digits --out runs/mine",
        "ncollapse measure runs/demo --metrics pfc1 nc1 cdnv",
    ),
    "layers": (
        "ncollapse layers runs/demo --out demo_layers",
        "ncollapse layers my_module:build --data digits --strangers noise=my_module:noise",
    ),
    "run": ("ncollapse run demo --set train.epochs=20 seed=1 --out runs/short",),
    "sweep": ("ncollapse sweep demo --over train.weight_decay=0,5e-3 --seeds 2 --set train.epochs=20 --out runs/decay",),
    "reproduce": ("ncollapse reproduce", "ncollapse reproduce pfc:fig3"),
    "report": ("ncollapse report runs/demo", "ncollapse report runs/demo runs/short --out compare.html"),
    "compare": ("ncollapse compare runs/demo runs/short", "ncollapse compare runs/decay --position arclength"),
    "claims": ("ncollapse claims runs/decay",),
    "animate": ("ncollapse animate runs/demo --out kgon.gif",),
}


# Seconds. torchrun ends all processes as soon as one has ended. A pause gives the first one time to write its line.
_FIRST_WRITES_WITHIN = 5.0


class _Parser(argparse.ArgumentParser):
    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            known = list(map(str, action.choices))
            words = f"must be one of {', '.join(known)}, got {value!r}. {near_words(str(value), known)}"
            raise argparse.ArgumentError(action, words.rstrip(". "))

    def error(self, message: str) -> NoReturn:
        # All processes of torchrun parse the same words, so the first one reports the error for all.
        _fail(f"{self.prog}: error: {message}. See {self.prog} --help.", is_reported=_is_follower())


def _is_follower() -> bool:
    """Return whether this is a process of torchrun other than the first."""
    if "MASTER_ADDR" not in os.environ:
        return False
    from ncollapse.torchrun import follows_another

    return follows_another()


def _fail(words: str, is_reported: bool) -> NoReturn:
    """Write one line and exit with code 2; if the first process of torchrun reports the same error, exit in silence."""
    if is_reported:
        time.sleep(_FIRST_WRITES_WITHIN)
    else:
        sys.stderr.write(f"{printable(words)}\n")
    raise SystemExit(2)


@cache
def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="ncollapse",
        description="Measure neural collapse and progressive feedforward collapse (PFC) at every layer of a network.",
        epilog=_WHICH_COMMAND,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"ncollapse {__version__}")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=_Parser)

    add_measure(commands)
    add_layers(commands)
    add_run_commands(commands)
    add_sweep(commands)
    add_reproduce(commands)
    add_runs(commands)
    add_report_commands(commands)
    add_folder_commands(commands)
    add_solve(commands)
    add_doctor(commands)
    add_completion(commands)
    _describe(commands)
    return parser


def _refuse(parser: argparse.ArgumentParser, name: str, words: Sequence[str]) -> NoReturn:
    """Fail because a command does not know some words, and name its options that are near."""
    (commands,) = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    command: argparse.ArgumentParser = commands.choices[name]
    known = [option for action in (*parser._actions, *command._actions) for option in action.option_strings]
    near = "".join(near_words(word.partition("=")[0], known) for word in words if word.startswith("--"))
    command.error(f"unrecognized arguments: {' '.join(words)}. {near}".rstrip(". "))


def _describe(commands: argparse._SubParsersAction[Any]) -> None:
    """Begin the help of each command with a sentence, and end it with the examples, if any."""
    words = {action.dest: action.help or "" for action in commands._choices_actions}
    for name, command in commands.choices.items():
        said = command.description or words[name]
        command.description = f"{said[:1].upper()}{said[1:].rstrip('.')}."
        if name in _EXAMPLES:
            command.formatter_class = argparse.RawDescriptionHelpFormatter
            command.description = textwrap.fill(command.description, 78)
            command.epilog = "\n  ".join(["examples:", *_EXAMPLES[name]])


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line on the words after ``ncollapse``, by default those of the process."""
    # The exit code is 0, or 2 for an error, reported in one line on stderr (with a traceback if --debug is given), 130 after
    # Ctrl-C, 128 + n after signal n (143 after SIGTERM), and 141 when the reader of stdout has gone.
    parser = _parser()
    options, rest = parser.parse_known_args(arguments)
    if rest and not hasattr(options, "rest"):
        _refuse(parser, options.command, rest)
    # Fields of a surrogate model may come after options: argparse leaves them over.
    options.rest = rest
    try:
        with _termination_raised():
            options.call(options)
            sys.stdout.flush()
    except BrokenPipeError:
        # The reader of stdout, such as head, has closed it. Without this, Python would complain when it flushes stdout at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(128 + signal.SIGPIPE) from None
    except (KeyboardInterrupt, _Terminated) as stop:
        number = signal.SIGINT if isinstance(stop, KeyboardInterrupt) else stop.signal
        how = "interrupted" if number == signal.SIGINT else f"ended by {number.name}"
        remedy = "Continue a run with --resume, and a sweep with the same command."
        sys.stderr.write(f"ncollapse: {how}. What was finished is kept. {remedy}\n")
        raise SystemExit(128 + number) from None
    except RunStopped as stopped:
        asked = stopped.signal or signal.SIGTERM
        if not _is_follower():
            sys.stderr.write(f"ncollapse: stopped by {asked.name}: {stopped}\n")
        raise SystemExit(128 + asked) from None
    except Exception as error:
        if options.debug:
            traceback.print_exc()
        words = error_line(error, _memory_advice(options))
        is_reported = _is_follower() and _raised_by_all(error)
        _fail(f"ncollapse: error: {as_options(words, vars(options))}", is_reported)


class _Terminated(BaseException):
    """A signal that ends the program, raised as an exception, so that files and locks are closed as after Ctrl-C."""

    def __init__(self, number: int) -> None:
        self.signal = signal.Signals(number)


def _termination_raised() -> AbstractContextManager[None]:
    # Not under torchrun. It ends its processes by SIGTERM, and they may be waiting for one another inside torch: Python could
    # raise nothing there, so the signal itself must end them.
    return nullcontext() if "MASTER_ADDR" in os.environ else handling(STOP_SIGNALS, _raise_terminated)


def _raise_terminated(number: int, _: object) -> NoReturn:
    raise _Terminated(number)


def _memory_advice(options: argparse.Namespace) -> str:
    if hasattr(options, "set"):
        return "Try --set train.batch_size=32 measure.batch_size=100, or a smaller model.width."
    if hasattr(options, "memory_budget"):
        return "Try a smaller --batch-size, fewer --layers, or --memory-budget 0."
    return "Name fewer folders, or a smaller problem."


def _raised_by_all(error: Exception) -> bool:
    from ncollapse.groups import raised_by_all
    from ncollapse.train import TrainingDiverged

    # Every process computes the loss of the whole batch, so training diverges in all of them.
    return raised_by_all(error) or isinstance(error, TrainingDiverged)
