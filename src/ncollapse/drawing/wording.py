"""Numbers, lists and names as words, which sentences, axes and tables share."""

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
_MOST_DIGITS = 6


def number(value: float | None) -> str:
    """Three significant digits; more where they would round to 1, which many quantities have as a bound; undefined for None."""
    if value is None:
        return "undefined"
    digits = next((n for n in range(3, _MOST_DIGITS) if float(f"{value:.{n}g}") != 1 or value == 1), _MOST_DIGITS)
    return f"{value:.{digits}g}".replace("e-0", "e-").replace("e+0", "e+")


def percent(value: float | None) -> str:
    """Write a share in percent with two decimals, never rounded up to 100: 0.99999 is not perfect."""
    if value is None:
        return "undefined"
    return f"{value * 100:.2f} %" if value in {0.0, 1.0} or 0.00005 <= value < 0.99995 else f"{value * 100:.6g} %"


def listed(items: Sequence[str], conjunction: str = "and") -> str:
    """Items with commas and a conjunction; of many, the first few and how many more there are."""
    shown = list(items[:_MOST_LISTED])
    if len(items) > _MOST_LISTED:
        shown.append(f"{len(items) - _MOST_LISTED} more")
    return f" {conjunction} ".join([", ".join(shown[:-1]), shown[-1]]) if len(shown) > 1 else "".join(shown)


def counted(count: int, noun: str) -> str:
    """Write a number of things, with an s unless there is one."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"
