"""Tiny commands, run in forked processes that can be stopped at any step."""

import gc
import os
import select
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch

import ncollapse.drawing.figures
import ncollapse.recipes
import ncollapse.studies.sweep
from crashes.steps import Steps
from ncollapse.cli import main
from ncollapse.experiments import EXPERIMENTS, Experiment, Found, Panel, Point
from ncollapse.experiments.work import Work
from ncollapse.recipes import override, recipe_by_name
from ncollapse.records import ReportError, Run, read_run
from ncollapse.report.markup import jinja_environment
from ncollapse.studies import run_recipe
from ncollapse.studies.workers import work
from ncollapse.targets import Target, measure_target

TINY = [
    "data.name=gaussian_mixture", "data.per_class=3", "train.epochs=2", "train.checkpoint_every=1", "train.batch_size=15",
    "measure.epochs=[0,2]", "measure.transport_samples=0", "model.width=4", "model.num_blocks=1",
]  # fmt: skip
SECONDS = 120


@dataclass(frozen=True)
class Command:
    """Words of a command, with FOLDER for where it works, and the commands that make what it finds there."""

    words: tuple[str, ...]
    before: tuple[tuple[str, ...], ...] = ()


def _run(name: str, *more: str) -> tuple[str, ...]:
    return ("run", "demo", "--resume", "--out", f"FOLDER/{name}", "--set", *TINY, *more)


_TWO_RUNS = (_run("run"), _run("other", "seed=1"))
COMMANDS = {
    "run": Command(_run("run")),
    "replaced run": Command(("demo", "--out", "FOLDER/run"), (_run("run", "seed=1"), ("report", "FOLDER/run"))),
    "sweep": Command(
        ("sweep", "demo", "--out", "FOLDER/sweep", "--over", "train.weight_decay=0,0.01", "--workers", "1", "--set", *TINY)
    ),
    "report": Command(("report", "FOLDER/run"), _TWO_RUNS),
    "compare": Command(("compare", "FOLDER/run", "FOLDER/other"), _TWO_RUNS),
    "measure": Command(("measure", "FOLDER/run", "--path", "--out", "FOLDER/measured"), _TWO_RUNS),
    "reproduce": Command(("reproduce", "pfc:tiny", "--seeds", "2", "--out", "FOLDER/reproduced")),
}


def _tiny(work: Work) -> Found:
    value = work.run("demo", *TINY).value("pfc1", 1)
    return Found(value, points=(Point("depth", "PFC1", 1, value),))


TINY_EXPERIMENT = Experiment("pfc:tiny", "Figure 0", "a test", "nothing", "nothing", _tiny, panels=(Panel("depth", "layer"),))


class Ending(NamedTuple):
    """How a process ended: its exit code, or -9 if it was killed; what it wrote on stderr and stdout; the steps it had made."""

    code: int
    words: str
    out: str
    steps: int


def in_child(words: tuple[str, ...], folder: Path, chosen: Callable[[int, str], bool] = lambda step, kind: False,
             act: Callable[[], None] = lambda: None, seconds: float | None = None) -> Ending:  # fmt: skip
    """Run a command in a forked process, since importing takes longer than the command; kill it after some seconds."""
    with tempfile.TemporaryFile() as told, tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as counted:
        child = os.fork()
        if child == 0:
            _in_this_process([word.replace("FOLDER", str(folder)) for word in words], folder, chosen, act, told, out, counted)
        watch = os.pidfd_open(child)
        ended, _, _ = select.select([watch], [], [], SECONDS if seconds is None else seconds)
        os.close(watch)
        if not ended:
            os.kill(child, signal.SIGKILL)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert ended or seconds is not None, f"{words} hangs"
        for file in (told, out, counted):
            file.seek(0)
        return Ending(code, told.read().decode(), out.read().decode(), int(counted.read() or 0))


def _in_this_process(words, folder, chosen, act, told, out, counted) -> None:
    code = 99
    try:
        os.dup2(told.fileno(), 2)
        sys.stderr, sys.stdout = (open(file.fileno(), "w", closefd=False) for file in (told, out))
        os.dup2(out.fileno(), 1)
        _cheap_and_repeatable()
        torch.set_num_threads(1)
        steps = Steps(folder, chosen, act)
        try:
            main(words)
            code = 0
        except SystemExit as end:
            code = end.code
        counted.write(str(steps.count).encode())
        counted.flush()
    except BaseException as error:
        os.write(2, repr(error).encode())
    finally:
        sys.stderr.flush()
        sys.stdout.flush()
        os._exit(code)


def _cheap_and_repeatable() -> None:
    """Draw nothing, but write all files; let no time pass; work on a sweep's runs in this process."""
    # The demo is tiny, and so is one more experiment.
    figures: Any = ncollapse.drawing.figures
    figures.plot_over_epochs = figures.plot_over_depth = figures.plot_last_layer = lambda *_: figures.Figure()
    figures.render = lambda figure, kind: f"a drawing as {kind}".encode()
    for page in ("report.run_page", "report.comparison_page", "report.sweep_page", "report.depth_page", "experiments.page"):
        import_module(f"ncollapse.{page}").panel_svgs = lambda drawings, **_: [""] * len(drawings)
    for timed in ("studies.run", "experiments.reproduce", "experiments.work"):
        import_module(f"ncollapse.{timed}").time = SimpleNamespace(monotonic=lambda: 0.0, sleep=time.sleep)
    EXPERIMENTS[TINY_EXPERIMENT.name] = TINY_EXPERIMENT
    ncollapse.studies.sweep.run_locally = lambda tasks, *_: [work(task) for task in tasks]
    ncollapse.recipes.recipe_by_name = lambda name: override(recipe_by_name(name), TINY if name == "demo" else [])


def contents(folder: Path) -> dict[str, bytes]:
    """Read every file below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def warm_up(folder: Path) -> None:
    """Import what commands import, and compile the templates of pages, so that forked processes find both."""
    run_recipe(override(recipe_by_name("demo"), TINY), folder)
    measure_target(Target(str(folder)))
    import_module("rich.progress")
    for page in ("frame", "run", "comparison", "sweep", "experiment"):
        jinja_environment().get_template(f"{page}.html")
    # What is there already is neither looked at again nor copied by the processes that are forked.
    gc.collect()
    gc.freeze()


@cache
def _made(before: tuple[tuple[str, ...], ...], root: Path) -> Path:
    """Make what a command finds, once."""
    made = Path(tempfile.mkdtemp(dir=root)) / "before"
    shutil.rmtree(root / "place", ignore_errors=True)
    (root / "place").mkdir()
    for words in before:
        ending = in_child(words, root / "place")
        assert ending.code == 0, ending.words
    return shutil.copytree(root / "place", made)


class Known:
    """A command, and the files before it and after it where nothing stopped it; all in one place, which pages may name."""

    def __init__(self, name: str, root: Path) -> None:
        command = COMMANDS[name]
        self.name, self.words, self.place = name, command.words, root / "place"
        self.before, self.after = _made(command.before, root), root / name
        ending = in_child(self.words, self.begun())
        assert ending.code == 0, ending.words
        shutil.copytree(self.place, self.after)
        self.steps = ending.steps
        self.found, self.expected = contents(self.before), contents(self.after)

    def begun(self) -> Path:
        """Put the place into the state before the command."""
        shutil.rmtree(self.place, ignore_errors=True)
        return shutil.copytree(self.before, self.place)

    def lost(self) -> str:
        """Say which of the files that the command leaves alone is gone or changed, and which run is told as it never was."""
        now = contents(self.place)
        for name, content in self.found.items() if self.name != "replaced run" else ():
            if self.expected.get(name) == content and now.get(name) != content:
                return f"{name} is changed"
        for table in self.place.rglob("measurements.csv"):
            # A generation that is kept is the run up to an earlier epoch.
            place = Path(str(table.parent.relative_to(self.place)).partition("/previous/")[0])
            with suppress(ReportError):
                if not any(_is_part(read_run(table.parent), root / place) for root in (self.before, self.after)):
                    return f"{table} is read as what it never was"
        return ""

    def differs(self, but_for: tuple[str, ...] = ()) -> str:
        """Say which file is not as it is where nothing stopped the command, but for those of some name.

        A lock that nobody holds says nothing: the next writer takes it over.
        """
        for kept in self.place.rglob("previous/*"):
            # Whichever save it is of.
            read_run(kept)
        now = contents(self.place)
        but_for = (*but_for, "/.lock")
        names = sorted(name for name in {*now, *self.expected} if not name.endswith(but_for) and "/previous/" not in name)
        return next((name for name in names if now.get(name) != self.expected.get(name)), "")

    def finished(self, but_for: tuple[str, ...] = ()) -> str:
        """Give the same command again, two hours later, and say what then differs from an uninterrupted one."""
        for left in self.place.rglob(".*.tmp"):
            os.utime(left, (time.time() - 7200,) * 2)
        again = in_child(self.words, self.place)
        if again.code and self.name == "measure":
            # What is whole, but for the end of its save, is refused like any other measurement.
            again, but_for = in_child(("repair", self.words[-1], "--yes"), self.place), ("manifest.json",)
        return again.words if again.code else self.differs(but_for)


def _is_part(run: Run, of: Path) -> bool:
    """Whether a run is another one, up to some epoch."""
    if not of.is_dir():
        return False
    whole = read_run(of)
    return (
        run.recipe_entries == whole.recipe_entries
        and run.rows == whole.rows[: len(run.rows)]
        and run.history == whole.history[: len(run.history)]
    )
