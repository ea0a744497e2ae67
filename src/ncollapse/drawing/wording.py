"""Numbers, lists and names as words, which sentences, axes and tables share."""

import math
import re
from collections.abc import Sequence

POSITIONS = {
    "projection": "projection on the chord",
    "index": "block index l/L",
    "arclength": "arc length",
    "ratio": "ratio of distances to both ends",
    "distance": "distance from the first layer",
}
MISSING_DEPTH = (
    "Results over depth are missing because the samples were not followed through the layers. "
    "`ncollapse measure ... --path --out DIR`, or path=True in Python, does so where layers have one dimension."
)
MEASURED_ONLY = "a network that was measured, not trained here"
_MOST_LISTED = 6
_MOST_DIGITS = 12
_SETTING_DIGITS = 6
# From here on a number is written with a power of ten.
_LARGE = 1e6
# What is nearer to a whole number is that number up to the rounding of float64.
_ROUNDING = 1e-12


def number(value: float | None, digits: int = 3) -> str:
    """Write a number with significant digits: in full from 0.0001 to a million, with a power of ten beyond."""
    # More digits where it would read as a whole number that it is not: many quantities have 1, or a rank, as a bound.
    if value is None or math.isnan(value):
        return "undefined"
    text = f"{value:.{digits}g}"
    for count in range(digits + 1, _MOST_DIGITS + 1):
        if not _misleads(text, value, digits):
            break
        text = f"{value:.{count}g}"
    return text.replace("inf", "∞").replace("e-0", "e-").replace("e+0", "e+")


def _misleads(text: str, value: float, digits: int) -> bool:
    if "e+" in text:
        return abs(value) < _LARGE
    shown = float(text)
    small = abs(value) < 10 ** (digits - 2)
    return small and shown.is_integer() and not math.isclose(shown, value, rel_tol=_ROUNDING)


def percent(value: float | None) -> str:
    """Write a share in percent with two decimals, or more where it would read as a 0 or 100 that it is not."""
    if value is None:
        return "undefined"
    text = f"{value * 100:.2f}"
    if value == 0 or math.isclose(value, 1, rel_tol=_ROUNDING):
        return f"{text} %"
    for places in range(3, _MOST_DIGITS + 1):
        if float(text) not in {0.0, 100.0}:
            break
        text = f"{value * 100:.{places}f}"
    return f"{text} %"


def spelled(text: str) -> str:
    """Spell the numbers of a setting, or of a list of them, as all numbers of a page: 5e-4 and 0.0005 are one."""
    return re.sub(r"(?<![\w.+-])-?\d*\.?\d+(?:e[+-]?\d+)?(?![\w.])", lambda found: _respelled(found[0]), text)


def _respelled(text: str) -> str:
    return number(float(text), _SETTING_DIGITS) if {".", "e"} & {*text} else text


def listed(items: Sequence[str], conjunction: str = "and") -> str:
    """Items with commas and a conjunction; of many, the first few and how many more there are."""
    shown = list(items[:_MOST_LISTED])
    if len(items) > _MOST_LISTED:
        shown.append(f"{len(items) - _MOST_LISTED} more")
    return f" {conjunction} ".join([", ".join(shown[:-1]), shown[-1]]) if len(shown) > 1 else "".join(shown)


def named(name: str, kind: str = "layer") -> str:
    """Say what a bare number names, such as a layer of a ``Sequential`` or a class without a name."""
    return f"{kind} {name}" if name.isdecimal() else name


def counted(count: int, noun: str) -> str:
    """Write a number of things, with an s unless there is one."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"
