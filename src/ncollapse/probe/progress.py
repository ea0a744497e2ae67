"""The progress of a measurement: a bar by rich if it is installed, else a line on stderr, or a function of the user."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from ncollapse.metrics.pairs import REPORT_TILES

Progress = Callable[[int, int | None], None]


@contextmanager
def reported(progress: Progress | bool | None) -> Iterator[Progress]:
    """Yield a function to call after every batch, with the number of batches done and their total (None if unknown)."""
    if not progress:
        yield lambda done, total: None
    elif progress is not True:
        yield progress
    else:
        with _line("Measuring", "batch") as show:
            yield show


@contextmanager
def pairs_reported(progress: Progress | bool | None) -> Iterator[None]:
    """Show how far the walks over pairs of classes are, if a bar was asked for; of few classes there is nothing to show."""
    with ExitStack() as stack:
        shown: list[Progress] = []

        def report(done: int, total: int) -> None:
            if not shown:
                shown.append(stack.enter_context(_line("Pairs of classes", "tile")))
            shown[0](done, total)

        if progress is True:
            stack.callback(REPORT_TILES.reset, REPORT_TILES.set(report))
        yield


@contextmanager
def _line(title: str, unit: str) -> Iterator[Progress]:
    """Show a bar on stderr, or a plain line where rich is not installed."""
    try:
        from rich.console import Console
        from rich.progress import Progress as Bar
    except ImportError:
        yield lambda done, total: print(
            f"\r{title}: {unit} {done}{'' if total is None else f' of {total}'}", end="", file=sys.stderr, flush=True
        )
        print(file=sys.stderr)
        return
    with Bar(console=Console(stderr=True)) as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
