"""The commands ``demo``, ``run`` and ``recipes``: train a recipe, measure, write its page; list what can be run."""

from __future__ import annotations

import argparse
import inspect
import json
import textwrap
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin, get_type_hints

from ncollapse.cli.options import folder
from ncollapse.cli.progress import progress
from ncollapse.records.errors import plain_warnings
from ncollapse.stop_signals import stop_signals

if TYPE_CHECKING:
    from ncollapse.recipes.recipe import Recipe
    from ncollapse.train import EpochRecord


def add_run_commands(commands: Any) -> None:
    """Add the commands to a parser."""
    demo = commands.add_parser("demo", help="train on the handwritten digits, measure, write the page")
    demo.add_argument(
        "--out", type=folder, default=Path("runs/demo"), metavar="DIR", help="run directory (default: %(default)s)"
    )
    demo.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    demo.set_defaults(call=_demo)

    run = commands.add_parser("run", help="run a recipe: train, measure, write the page; in many processes with torchrun")
    run.add_argument("recipe", metavar="RECIPE", help="a name that `ncollapse recipes` lists")
    run.add_argument(
        "--set",
        nargs="+",
        action="extend",
        default=[],
        metavar="FIELD=VALUE",
        help="such as train.epochs=50 train.milestones=0.5,0.8 seed=3",
    )
    run.add_argument("--out", type=folder, metavar="DIR", help="run directory (default: runs/RECIPE)")
    run.add_argument("--resume", action="store_true", help="continue the run in DIR, or begin it if there is none")
    run.add_argument("--json", action="store_true", help="print the result as JSON")
    run.set_defaults(call=_run)

    recipes = commands.add_parser("recipes", help="list the recipes, or the fields of one with their values")
    recipes.add_argument("recipe", metavar="RECIPE", nargs="?", help="show this one with every field that --set takes")
    recipes.add_argument("--json", action="store_true", help="print a list of objects, or the recipe")
    recipes.set_defaults(call=_recipes)


def _demo(options: argparse.Namespace) -> None:
    from ncollapse.recipes import override, recipe_by_name

    recipe = override(recipe_by_name("demo"), [f"seed={options.seed}"])
    page = _train(recipe, options.out, overwrite=True)
    if page is not None:
        _print_findings(page)


def _run(options: argparse.Namespace) -> None:
    from ncollapse.recipes import changes, override, recipe_by_name

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
    from ncollapse.recipes import changes
    from ncollapse.report import write_report
    from ncollapse.studies import run_recipe
    from ncollapse.torchrun import torchrun_processes

    # The title is about the recipe as it was named.
    title = f"{recipe.name} with changed settings" if changes(recipe) else recipe.title
    with torchrun_processes() as (processes, _), ExitStack() as stack:
        show = stack.enter_context(progress(f"{title}, seed {recipe.seed}")) if processes.is_first else None

        def on_epoch(record: EpochRecord, epochs: int) -> None:
            if show is not None:
                show(record.epoch, epochs, f"loss {record.loss:.4f}, accuracy {record.accuracy:.4f}")

        stack.enter_context(plain_warnings())
        stop = stack.enter_context(stop_signals())
        chosen: dict[str, Any] = {"resume": resume, "overwrite": overwrite, "group": processes.group}
        run_recipe(recipe, out, **chosen, on_epoch=on_epoch, should_stop=stop)
    if not processes.is_first:
        return None
    return write_report([out])


def _print_findings(page: Path) -> None:
    from ncollapse.drawing import summarize
    from ncollapse.records import read_run

    for sentence in summarize(read_run(page.parent)):
        print(f"- {sentence}")
    print(f"Page: {page}")


def _recipes(options: argparse.Namespace) -> None:
    from ncollapse.recipes import RECIPES, recipe_by_name

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
    from ncollapse.recipes import recipe_settings

    if as_json:
        print(recipe.to_json(), end="")
        return
    print(f"{recipe.description}\n\nFields, as --set takes them:")
    meanings = _meanings(recipe)
    for setting in recipe_settings(recipe):
        meaning = meanings.get(setting.partition("=")[0], "")
        start = f"    {setting:<32}  "
        print(textwrap.fill(meaning, 120, initial_indent=start, subsequent_indent=" " * 38) if meaning else start.rstrip())


def _meanings(recipe: Recipe) -> dict[str, str]:
    """Describe every field and the words it takes, from the docstrings and types of the recipe and its parts."""
    from ncollapse.cli.plain_math import plain_sections

    parts = {"": recipe, "data.": recipe.data, "model.": recipe.model, "train.": recipe.train, "measure.": recipe.measure}
    found = {}
    for prefix, part in parts.items():
        kinds = get_type_hints(type(part))
        for name, words in plain_sections(inspect.getdoc(part) or "").items():
            text = words.replace("None", "null")  # As --set takes it.
            choices = get_args(kinds.get(name)) if get_origin(kinds.get(name)) is Literal else ()
            found[f"{prefix}{name}"] = f"{text} ({', '.join(choices)})" if choices else text
    return found
