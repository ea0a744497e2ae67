"""Parsing of memory sizes: a number of bytes, or a text such as "2GiB" or "500MB"."""

from __future__ import annotations

import re

_UNITS = {"": 1, "B": 1} | {
    f"{prefix}{unit}": base ** (power + 1) for power, prefix in enumerate("KMGT") for unit, base in (("B", 1000), ("iB", 1024))
}
_BY_LOWER = {unit.lower(): size for unit, size in _UNITS.items()}


def parse_bytes(size: int | str, name: str = "memory_budget") -> int:
    """Read a size in bytes; units of 1000 (MB, GB) and of 1024 (MiB, GiB) in any case."""
    if isinstance(size, int) and not isinstance(size, bool) and size >= 0:
        return size
    found = re.fullmatch(r"\s*([0-9]+(?:[.][0-9]+)?)\s*([A-Za-z]*)\s*", size) if isinstance(size, str) else None
    if found is None or found[2].lower() not in _BY_LOWER:
        raise ValueError(f"{name} must be a number of bytes, at least 0, or a size such as '2GiB' or '500MB', got {size!r}.")
    number, unit = found[1], _BY_LOWER[found[2].lower()]
    return int(float(number) * unit) if "." in number else int(number) * unit
