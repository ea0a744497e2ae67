"""Turn parsed JSON into frozen dataclasses; every mismatch is an error that names the place inside the file."""

from dataclasses import MISSING, fields, is_dataclass
from types import NoneType, UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

__all__ = ["ReportError", "parse"]

T = TypeVar("T")


class ReportError(ValueError):
    """A file of a run directory is missing, broken, or contradicts another one; the message says which and what to do."""


def parse(kind: type[T], value: object, where: str) -> T:
    """Check a JSON value against a type and convert it."""
    # Understood are ``bool``, ``int``, ``float``, ``str``, ``tuple[X, ...]``, ``dict[str, X]``, frozen dataclasses of these,
    # and any of them ``| None``. A dataclass field with a default may be absent; keys that the dataclass does not declare are
    # ignored, so that files of later versions stay readable.
    return _parse(kind, value, where)


def _parse(kind: Any, value: Any, where: str) -> Any:
    """The recursion of :func:`parse`, untyped because type hints are values here."""
    origin = get_origin(kind)
    if origin in {Union, UnionType}:
        alternatives = [alternative for alternative in get_args(kind) if alternative is not NoneType]
        return None if value is None else _parse(alternatives[0], value, where)
    if is_dataclass(kind):
        return _parse_record(kind, value, where)
    if origin is tuple:
        items = _require(list, value, "a list", where)
        # Nearly all that a file holds are long lists of numbers; they need no look at each item's type hints.
        if get_args(kind)[0] == float | None and all(type(item) is float or item is None for item in items):
            return tuple(items)
        return tuple(_parse(get_args(kind)[0], item, f"{where}[{i}]") for i, item in enumerate(items))
    if origin is dict:
        entries = _require(dict, value, "an object", where)
        return {key: _parse(get_args(kind)[1], item, f"{where}.{key}") for key, item in entries.items()}
    return _parse_scalar(kind, value, where)


def _parse_record(kind: Any, value: Any, where: str) -> Any:
    entries = _require(dict, value, "an object", where)
    hints = get_type_hints(kind)
    parsed: dict[str, Any] = {}
    for field in fields(kind):
        if field.name in entries:
            separator = "" if where.endswith(": ") else "."
            parsed[field.name] = _parse(hints[field.name], entries[field.name], f"{where}{separator}{field.name}")
        elif field.default is MISSING and field.default_factory is MISSING:
            raise ReportError(f"{where.removesuffix(': ')}: needed the entry {field.name!r}, found {_keys(entries)}.")
    return kind(**parsed)


def _parse_scalar(kind: Any, value: Any, where: str) -> Any:
    # bool is an int in Python, and JSON writes 1.0 as 1: the one must not pass for a number, the other must.
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(value, kind) and not (kind is int and isinstance(value, bool)):
        return value
    words = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}
    raise ReportError(f"{where}: needed {words[kind]}, got {_short(value)}.")


def _require(kind: type, value: Any, words: str, where: str) -> Any:
    if not isinstance(value, kind):
        raise ReportError(f"{where.removesuffix(': ')}: needed {words}, got {_short(value)}.")
    return value


def _keys(entries: dict[str, Any]) -> str:
    return ", ".join(repr(key) for key in sorted(entries)) or "none"


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
