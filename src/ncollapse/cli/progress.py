"""What long work shows: a bar with the time left on a terminal, a line every tenth of the way elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

Show = Callable[[int, int, str], None]


@contextmanager
def progress(title: str) -> Iterator[Show]:
    """Show how far the work in the body is.

    Args:
        title: What it is.

    Yields:
        To be called with the epochs done, the epochs in all, and words on the last one.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task(title, total=None)
        told = 0

        def show(done: int, total: int, words: str) -> None:
            nonlocal told
            bar.update(task, total=total, completed=done, description=words or title)
            tenth = 10 * done // max(1, total)
            if not console.is_terminal and tenth > told:
                told = tenth
                line = f"{title}: epoch {done}/{total}" + (f", {words}" if words else "")
                console.print(line, highlight=False, markup=False, soft_wrap=True)

        yield show
