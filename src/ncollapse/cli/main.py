"""The ``ncollapse`` command: parse, call, print."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from ncollapse.cli.claims import add_claims
from ncollapse.cli.compare import add_compare
from ncollapse.cli.measure import add_measure
from ncollapse.cli.options import file, folder, named_once
from ncollapse.cli.progress import progress
from ncollapse.cli.solve import add_solve
from ncollapse.cli.sweep import add_sweep
from ncollapse.version import __version__

if TYPE_CHECKING:
    from ncollapse.studies.recipe import Recipe
    from ncollapse.train import EpochRecord

# torch takes seconds to import: every command imports what it needs, so that --help answers at once.


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        # Every process has the same words to parse.
        _fail(f"{self.prog}: error: {message}. See {self.prog} --help.", silent=_follows())


def _follows() -> bool:
    """Whether this is a process of torchrun other than the first."""
    return "MASTER_ADDR" in os.environ and os.environ.get("RANK", "0") != "0"


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

    demo = commands.add_parser("demo", help="train on the handwritten digits, measure, write the page")
    demo.add_argument(
        "--out", type=folder, default=Path("runs/demo"), metavar="DIR", help="run directory (default: %(default)s)"
    )
    demo.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    demo.set_defaults(call=_demo)

    run = commands.add_parser("run", help="run a recipe: train, measure, write the page; in many processes with torchrun")
    run.add_argument("recipe", metavar="RECIPE", help="a name that `ncollapse recipes` lists")
    run.add_argument(
        "--set", nargs="+", action="extend", default=[], metavar="FIELD=VALUE", help="such as train.epochs=50 seed=3"
    )
    run.add_argument("--out", type=folder, metavar="DIR", help="run directory (default: runs/RECIPE)")
    run.add_argument("--resume", action="store_true", help="continue the run in DIR; begins it if there is none")
    run.add_argument("--json", action="store_true", help="print the result as JSON")
    run.set_defaults(call=_run)

    add_measure(commands)

    report = commands.add_parser("report", help="write the page of run directories anew, or one of sweeps over depth")
    report.add_argument("runs", type=Path, nargs="+", metavar="DIR", help="run directories, or folders of sweeps over depth")
    report.add_argument(
        "--out", type=file, metavar="FILE", help="the page (default: in the first DIR report.html, of sweeps depth.html)"
    )
    report.set_defaults(call=_report)

    recipes = commands.add_parser("recipes", help="list the recipes, or the fields of one with their values")
    recipes.add_argument("recipe", metavar="RECIPE", nargs="?", help="show this one with every field that --set takes")
    recipes.add_argument("--json", action="store_true", help="print a list of objects, or the recipe")
    recipes.set_defaults(call=_recipes)

    add_solve(commands)
    add_sweep(commands)
    add_claims(commands)
    add_compare(commands)

    doctor = commands.add_parser("doctor", help="say what is installed and which data is found")
    doctor.add_argument("--json", action="store_true", help="print an object")
    doctor.set_defaults(call=_doctor)
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
    options = _parser().parse_args(arguments)
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
        _fail(f"ncollapse: error: {' '.join(words.split())}", silent=_follows() and _told_by_all(error))


def _told_by_all(error: Exception) -> bool:
    from ncollapse.groups import told_by_all
    from ncollapse.train import TrainingDiverged

    # A loss is that of the whole batch.
    return told_by_all(error) or isinstance(error, TrainingDiverged)


def _demo(options: argparse.Namespace) -> None:
    from ncollapse.studies import override, recipe_by_name

    recipe = override(recipe_by_name("demo"), [f"seed={options.seed}"])
    page = _train(recipe, options.out, overwrite=True)
    if page is not None:
        _print_findings(page)


def _run(options: argparse.Namespace) -> None:
    from ncollapse.studies import changes, override, recipe_by_name

    recipe = override(recipe_by_name(options.recipe), options.set)
    out = options.out if options.out is not None else Path("runs") / recipe.name
    page = _train(recipe, out, resume=options.resume)
    if page is None:
        return
    if options.json:
        status = json.loads((out / "status.json").read_text())
        words = {"recipe": recipe.name, "changed": changes(recipe), "seed": recipe.seed, "out": str(out), "report": str(page)}
        print(json.dumps({**words, **status}))
    else:
        _print_findings(page)


def _train(recipe: Recipe, out: Path, *, resume: bool = False, overwrite: bool = False) -> Path | None:
    """Run a recipe under a progress bar, then write its page; of several processes the first shows and writes."""
    from ncollapse.studies import changes, run_recipe
    from ncollapse.studies.torchrun import process_group

    # The title is about the recipe as it was named.
    title = f"{recipe.name} with changed settings" if changes(recipe) else recipe.title
    with process_group() as (group, rank, _), progress(f"{title}, seed {recipe.seed}") if rank == 0 else nullcontext() as show:

        def on_epoch(record: EpochRecord, epochs: int) -> None:
            if show is not None:
                show(record.epoch, epochs, f"loss {record.loss:.4f}, accuracy {record.accuracy:.4f}")

        run_recipe(recipe, out, resume=resume, overwrite=overwrite, on_epoch=on_epoch, group=group)
    return _write_reports([out], out / "report.html") if rank == 0 else None


def _write_reports(runs: Sequence[Path], page: Path) -> Path:
    from ncollapse.drawing import save_figures
    from ncollapse.records import read_run
    from ncollapse.report import write_page

    for run in runs:
        save_figures(read_run(run))
    return write_page(runs, page)


def _print_findings(page: Path) -> None:
    from ncollapse.drawing import summarize
    from ncollapse.records import read_run

    for sentence in summarize(read_run(page.parent)):
        print(f"- {sentence}")
    print(f"Page: {page}")


def _report(options: argparse.Namespace) -> None:
    from ncollapse.records import SWEEP_FILE
    from ncollapse.report import write_depth_page

    runs = named_once(options.runs)
    sweeps = [path for path in runs if (path / SWEEP_FILE).is_file()]
    if sweeps and len(sweeps) < len(runs):
        run = next(path for path in runs if path not in sweeps)
        raise ValueError(
            f"report takes run directories, or folders of sweeps over depth, got both: {sweeps[0]} is of a sweep, {run} is "
            "not. Call it for each kind alone; `ncollapse compare` and `ncollapse claims` take both together."
        )
    if sweeps:
        print(f"Page: {write_depth_page(runs, options.out or runs[0] / 'depth.html')}")
        return
    print(f"Page: {_write_reports(runs, options.out or runs[0] / 'report.html')}")


def _recipes(options: argparse.Namespace) -> None:
    from ncollapse.studies import RECIPES, recipe_by_name

    if options.recipe is not None:
        _show_recipe(recipe_by_name(options.recipe), as_json=options.json)
        return
    recipes = [function() for function in RECIPES.values()]
    if options.json:
        print(json.dumps([{"name": r.name, "title": r.title, "description": r.description} for r in recipes]))
        return
    for recipe in recipes:
        print(f"{recipe.name}\n    {recipe.description.replace(chr(10), chr(10) + '    ')}")


def _show_recipe(recipe: Recipe, *, as_json: bool) -> None:
    from ncollapse.studies import recipe_settings

    if as_json:
        print(recipe.to_json(), end="")
        return
    print(f"{recipe.description}\n\nFields, as --set takes them:")
    for setting in recipe_settings(recipe):
        print(f"    {setting}")


def _doctor(options: argparse.Namespace) -> None:
    from ncollapse.cli.doctor import examine

    found = examine()
    if options.json:
        print(json.dumps(found))
        return
    for name, value in found.items():
        print(f"{name:<24} {value}")
