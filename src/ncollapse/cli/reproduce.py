"""The command ``reproduce``: the figures and statements of the papers, how they stand, and each by its name."""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ncollapse.cli.options import count, folder
from ncollapse.cli.progress import progress
from ncollapse.records.errors import plain_warnings
from ncollapse.stop_signals import stop_signals

if TYPE_CHECKING:
    from ncollapse.experiments import Experiment, Place, Standing

# Recipes were chosen by looking at seeds 0 to 14.
_FIRST_SEED = 100


def add_reproduce(commands: Any) -> None:
    """Add the command to a parser."""
    words = "list the figures and statements of the papers with their verdicts, or run one and write its page"
    command = commands.add_parser("reproduce", help=words)
    command.add_argument(
        "names", nargs="*", metavar="NAME", help="such as pfc:fig2, or a pattern: 'review:*' (default: list all)"
    )
    command.add_argument(
        "--seeds", type=count(1), metavar="N", help="the number of seeds (default: as many as end within ten minutes)"
    )
    command.add_argument("--first-seed", type=count(0), default=_FIRST_SEED, metavar="SEED", help="default: %(default)s")
    command.add_argument("--paper", action="store_true", help="the paper's size instead of the small version")
    command.add_argument("--out", type=folder, default=Path("reproduced"), metavar="DIR", help="default: %(default)s")
    command.add_argument("--json", action="store_true", help="print a list of objects")
    command.set_defaults(call=_reproduce)


def _reproduce(options: argparse.Namespace) -> None:
    from ncollapse.experiments import EXPERIMENTS, Place, experiments_named

    place = Place(options.out)
    chosen = experiments_named(options.names) if options.names else []
    for experiment in chosen:
        _run(experiment, place, options)
    listed = chosen or list(EXPERIMENTS.values())
    rows = _rows(listed, place, options.paper, write=bool(chosen))
    if options.json:
        print(json.dumps(rows))
    elif chosen:
        for row in rows:
            print(f"{row['name']}: {row['state']}{', ' if row['why'] else ''}{row['why']}\nPage: {row['page']}")
    else:
        _print_table(rows)


def _run(experiment: Experiment, place: Place, options: argparse.Namespace) -> None:
    from ncollapse.experiments import reproduce

    number = options.seeds or (1 if options.paper else experiment.seeds)
    with plain_warnings(), progress(experiment.name, unit="seed") as show, stop_signals() as stop:
        reproduce(
            experiment,
            place,
            range(options.first_seed, options.first_seed + number),
            at_paper_size=options.paper,
            say=lambda done, words: show(done, number, words),
            should_stop=stop,
        )


def _rows(experiments: list[Experiment], place: Place, at_paper_size: bool, *, write: bool) -> list[dict[str, Any]]:
    """List experiments with how they stand, in the folder or else as the project recorded them; write their pages if asked."""
    from ncollapse.experiments import EXPERIMENTS, recorded, standings, write_experiment_page

    own = {name: place.seeds(experiment, at_paper_size) for name, experiment in EXPERIMENTS.items()}
    here = standings(own, EXPERIMENTS.values())
    ours = standings({} if at_paper_size else recorded(), EXPERIMENTS.values())
    for item in experiments:
        if write and own[item.name]:
            with progress(f"{item.name}: pages of runs", unit="page") as show:
                write_experiment_page(item, here[item.name], place, at_paper_size=at_paper_size, say=show)
    return [_row(item, place, here[item.name], ours[item.name], at_paper_size) for item in experiments]


def _row(item: Experiment, place: Place, here: Standing, ours: Standing, at_paper_size: bool) -> dict[str, Any]:
    from ncollapse.experiments.page import value_words

    shown = here if here.state != "not run" else ours
    page = place.of(item, at_paper_size) / "index.html"
    per_seed = shown.seconds / shown.row.estimate.n if shown.row is not None and shown.row.estimate.n else math.nan
    return {
        "name": item.name,
        "item": item.item,
        "title": item.title,
        "command": f"ncollapse reproduce {item.name}",
        "minutes": None if math.isnan(per_seed) else round(per_seed * item.seeds / 60, 2),
        "state": shown.state,
        "why": shown.why,
        "value": value_words(shown),
        "seeds": 0 if shown.row is None else shown.row.estimate.n,
        "from": "this folder" if here.state != "not run" else "recorded" if shown.state != "not run" else "",
        "missing_data": _missing(item),
        "page": str(page) if page.is_file() else "",
    }


def _missing(item: Experiment) -> list[str]:
    from ncollapse.data.locations import locate

    return [name for name in item.needs if not locate(name).is_found]


def _print_table(rows: list[dict[str, Any]]) -> None:
    heads = ("NAME", "VERDICT", "VALUE", "SEEDS", "MINUTES", "WHAT")
    table = [heads]
    for row in rows:
        minutes = "" if row["minutes"] is None else f"{row['minutes']:.1f}"
        missing = f" (needs {', '.join(row['missing_data'])})" if row["missing_data"] else ""
        what = f"{row['item']}: {row['title']}{missing}"
        table.append((row["name"], row["state"], row["value"], str(row["seeds"] or ""), minutes, what))
    widths = [max(len(line[column]) for line in table) for column in range(5)]
    for line in table:
        print("  ".join([*(word.ljust(width) for word, width in zip(line, widths, strict=False)), line[5]]).rstrip())
    print("\nRun one with: ncollapse reproduce NAME. MINUTES is the time of its default number of seeds on busy cores;")
    print("on free cores it takes less.")
