"""The command ``ncollapse sweep``: a recipe over values and seeds, in several processes, and the page about it."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ncollapse.cli.options import count, folder
from ncollapse.cli.progress import progress
from ncollapse.stop_signals import stop_signals

if TYPE_CHECKING:
    from ncollapse.records.run_files import Status


def add_sweep(commands: Any) -> None:
    """Add the command to a parser."""
    sweep = commands.add_parser("sweep", help="run a recipe over values of its fields and over seeds")
    sweep.add_argument("recipe", metavar="RECIPE", help="a name that `ncollapse recipes` lists")
    sweep.add_argument(
        "--over", nargs="+", action=_Over, default=(), metavar="FIELD=V,V", help="such as train.weight_decay=0,5e-4,5e-3"
    )
    sweep.add_argument(
        "--with",
        nargs="+",
        action=_Over,
        dest="over",
        metavar="FIELD=V,V",
        help="a second field that changes together with the --over before it, value by value: "
        "--over train.optimizer=sgd,adam --with train.learning_rate=0.1,0.001",
    )
    sweep.add_argument("--seeds", type=count(1), default=1, metavar="N", help="seeds for each combination (default: 1)")
    sweep.add_argument("--set", nargs="+", action="extend", default=[], metavar="FIELD=VALUE", help="settings of all runs")
    sweep.add_argument("--engine", choices=("local", "ray"), default="local", help="default: processes on this machine")
    sweep.add_argument("--workers", type=count(1), metavar="N", help="processes at a time (default: one per core)")
    sweep.add_argument("--address", help="the address of a running Ray cluster")
    sweep.add_argument("--out", type=folder, metavar="DIR", help="folder of the runs (default: runs/sweep-RECIPE)")
    sweep.add_argument("--json", action="store_true", help="print the result as JSON")
    sweep.set_defaults(call=run_command)


class _Over(argparse.Action):
    """Collects the axes of a sweep: every ``--over`` begins one, and ``--with`` adds fields to the last."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option_string: str | None = None
    ) -> None:
        axes = namespace.over
        if self.option_strings == ["--over"]:
            axes = (*axes, *((value,) for value in values))
        elif axes:
            axes = (*axes[:-1], (*axes[-1], *values))
        else:
            parser.error(f"--with needs an --over before it, got --with {' '.join(values)}. Write --over FIELD=V,V first.")
        namespace.over = axes


def run_command(options: argparse.Namespace) -> None:
    """Run the command."""
    from ncollapse.cli.sweep_summary import SweepSummary
    from ncollapse.studies import override, plan_sweep, recipe_by_name, run_sweep

    _check_set_once(options.set, options.over)
    out = options.out or Path("runs") / f"sweep-{options.recipe}"
    runs = plan_sweep(override(recipe_by_name(options.recipe), options.set), options.over, options.seeds, out)
    summary = SweepSummary(runs)
    with progress(options.recipe, summary.table) as show, stop_signals() as stop:
        workers = options.workers or os.cpu_count() or 1
        where: dict[str, Any] = {"engine": options.engine, "workers": workers, "address": options.address}
        outcome = run_sweep(
            runs, out, **where, on_progress=lambda done, total: show(done, total, summary.words()), should_stop=stop
        )
    page = _write_pages(out, compared=any(run.is_finished for run in runs))
    if options.json:
        states = [run.status() for run in runs]
        listed = [
            {"name": run.name, "path": str(run.path), **({} if status is None else dataclasses.asdict(status))}
            for run, status in zip(runs, states, strict=True)
        ]
        print(json.dumps({"out": str(out), "page": str(page), "runs": listed, "errors": outcome.errors}))
    else:
        for run in runs:
            print(f"{run.name}: {_words(run.status())}")
        print(f"Page: {page}")
    if outcome.errors:
        listing = "; ".join(f"{name}: {error}" for name, error in outcome.errors.items())
        raise ValueError(
            f"{len(outcome.errors)} of {len(runs)} runs are not finished. Correct what is named here; runs that were "
            f"interrupted go on when the command is run again. {listing}"
        )


def _check_set_once(settings: list[str], over: Sequence[Sequence[str]]) -> None:
    swept = {item.partition("=")[0].strip() for axis in over for item in axis}
    both = [item for item in settings if item.partition("=")[0] in swept]
    if both:
        raise ValueError(
            f"--set is for all runs, --over and --with for what differs, got {both[0].partition('=')[0]} in both (--set "
            f"{both[0]}). Leave it out of one of them."
        )


def _write_pages(out: Path, *, compared: bool) -> Path:
    """Write the pages of the runs, which state their part in the claims, and then those that link them."""
    from ncollapse.claims import rule_on_claims
    from ncollapse.report import write_claims_page, write_comparison, write_run_pages, write_sweep_page

    write_claims_page(rule_on_claims([out]), out / "claims.html")
    with progress("Pages", unit="page") as show:
        write_run_pages(out, on_progress=lambda done, total: show(done, total, ""))
    if compared:
        write_comparison([out], out / "compare.html")
    return write_sweep_page(out)


def _words(status: Status | None) -> str:
    if status is None:
        return "not begun"
    shown = "" if status.train_accuracy is None else f", train accuracy {status.train_accuracy:.4f}"
    return f"{status.state}, epoch {status.epoch} of {status.epochs}{shown}"
