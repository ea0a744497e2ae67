"""The progress of a measurement: a bar by rich if it is installed, else a line on stderr, or a function of the user."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Progress = Callable[[int, int | None], None]


@contextmanager
def reported(progress: Progress | bool | None) -> Iterator[Progress]:
    """Yield a function to call after every batch, with the number of batches done and their total (None if unknown)."""
    if not progress:
        yield lambda done, total: None
    elif progress is not True:
        yield progress
    else:
        try:
            from rich.console import Console
            from rich.progress import Progress as Bar
        except ImportError:
            yield _plain
            print(file=sys.stderr)
            return
        with Bar(console=Console(stderr=True)) as bar:
            task = bar.add_task("Measuring", total=None)
            yield lambda done, total: bar.update(task, completed=done, total=total)


def _plain(done: int, total: int | None) -> None:
    print(f"\rMeasuring: batch {done}{'' if total is None else f' of {total}'}", end="", file=sys.stderr, flush=True)
