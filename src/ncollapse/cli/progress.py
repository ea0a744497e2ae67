"""Progress of long work: a bar with the time left on a terminal; elsewhere a line at each tenth of the way and at the end."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table

Show = Callable[[int, int, str], None]


@contextmanager
def progress(title: str, table: Callable[[], Table] | None = None, *, unit: str = "epoch") -> Iterator[Show]:
    """Show how far the work in the body is."""
    from rich.console import Console, RenderableType
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    class Shown(Progress):
        def get_renderables(self) -> Iterable[RenderableType]:
            yield from super().get_renderables()
            # Below, where a terminal cuts off what it has no lines for.
            if table is not None:
                yield table()

    # A name of the reader's may look like markup or like the code of an emoji.
    console = Console(stderr=True, markup=False, emoji=False)
    description = TextColumn("{task.description}", markup=False)
    columns = (description, BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    bar = Shown(*columns, console=console, refresh_per_second=2)
    with bar if console.is_terminal else nullcontext():
        task = bar.add_task(title, total=None)
        reported, latest, printed = 0, "", ""

        def show(done: int, total: int, words: str) -> None:
            nonlocal reported, latest
            bar.update(task, total=total, completed=done, description=words or title)
            latest = f"{title}: {unit} {done}/{total}" + (f", {words}" if words else "")
            tenth = 10 * done // max(1, total)
            if tenth > reported:
                reported = tenth
                print_latest()

        def print_latest() -> None:
            nonlocal printed
            if not console.is_terminal and latest != printed:
                printed = latest
                console.print(latest, highlight=False, soft_wrap=True)

        yield show
        # Work may have ended after the last tenth that was printed.
        print_latest()
