"""The report of a battery: which laws hold, which fail, and which do not apply."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from ncollapse.records.rows import Row

_VERDICTS = {True: "holds", False: "fails", None: "not applicable"}
# Sums in another order differ by rounding, which cancellation in values near 0 makes relatively large.
_RELATIVE, _ABSOLUTE = 1e-9, 1e-12


class Law(NamedTuple):
    """One law.

    Attributes:
        holds: None if the law does not apply.
        words: The numbers that were compared, or why the law does not apply.
    """

    name: str
    holds: bool | None
    words: str


@dataclass(frozen=True, repr=False)
class Report:
    """The laws of one metric or network. ``print`` shows one line per law.

    Attributes:
        subject: What was checked.
    """

    subject: str
    laws: tuple[Law, ...]

    @property
    def holds(self) -> bool:
        """Whether no law fails."""
        return all(law.holds is not False for law in self.laws)

    def __getitem__(self, name: str) -> Law:
        """Return one law by its name."""
        for law in self.laws:
            if law.name == name:
                return law
        raise KeyError(f"No law {name!r}. Laws: {', '.join(law.name for law in self.laws)}.")

    def __repr__(self) -> str:
        failed = sum(law.holds is False for law in self.laws)
        total = sum(law.holds is not None for law in self.laws)
        verdict = f"{failed} of {total} laws fail" if failed else f"all {total} laws hold"
        width = max(len(law.name) for law in self.laws)
        lines = [f"{_VERDICTS[law.holds]:<14}  {law.name:<{width}}  {law.words}" for law in self.laws]
        return "\n".join([f"{self.subject}: {verdict}", *lines])


class Pair(NamedTuple):
    """Two rows that must be the same, and how the second came about, such as "features times 7"."""

    how: str
    before: Row
    after: Row


def is_same_value(before: float, after: float) -> bool:
    """Return whether two values are equal up to rounding, or both nan."""
    both_nan = math.isnan(before) and math.isnan(after)
    return both_nan or math.isclose(before, after, rel_tol=_RELATIVE, abs_tol=_ABSOLUTE)


def unchanged(name: str, pairs: Iterable[Pair]) -> Law:
    """Return the law that values and flags stay the same."""
    compared = list(pairs)
    for how, before, after in compared:
        if not is_same_value(before.value, after.value):
            return Law(name, False, f"{before.value:.6g} becomes {after.value:.6g} ({how})")
        if before.flags != after.flags:
            return Law(name, False, f"the flags {flag_words(before)} become {flag_words(after)} ({how})")
    defined = [pair for pair in compared if not math.isnan(pair.before.value)]
    if not defined:
        return Law(name, None, f"nan on all data ({flag_words(compared[0].before)})")
    return Law(name, True, f"{defined[0].before.value:.6g} stays {defined[0].after.value:.6g}, in {len(defined)} comparisons")


def flag_words(row: Row) -> str:
    """Return the flags of a row in words."""
    return ", ".join(row.flags) or "none"
