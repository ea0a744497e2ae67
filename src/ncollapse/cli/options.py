"""Types of the command's options: counts, places to write to, directories named once; words for a terminal."""

import argparse
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path


def count(least: int) -> Callable[[str], int]:
    """Make the type of an option that is an integer of at least a limit."""

    def convert(text: str) -> int:
        if not text.strip().isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"must be an integer of {least} or more, got {text!r}")
        return int(text)

    return convert


def class_word(text: str) -> str | int:
    """Read one word of --classes: all, present, or a class index."""
    if text in ("all", "present"):
        return text
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"must be all, present or class indices, got {text!r}")
    return int(text)


def folder(text: str) -> Path:
    """Read an option that names a folder to write to."""
    path = Path(text)
    if path.exists() and not path.is_dir():
        raise argparse.ArgumentTypeError(f"must be a folder, {text} is a file; choose another name")
    _check_above(path)
    return path


def file(text: str) -> Path:
    """Read an option that names a file to write."""
    path = Path(text)
    if path.is_dir():
        raise argparse.ArgumentTypeError(f"must be a file, {text} is a folder; name a file in it")
    _check_above(path)
    return path


def _check_above(path: Path) -> None:
    above = next((parent for parent in path.parents if parent.exists()), None)
    if above is not None and not above.is_dir():
        raise argparse.ArgumentTypeError(f"must lie in a folder, got {path}, and {above} is a file; choose another place")


def as_options(words: str, options: Iterable[str]) -> str:
    """Write arguments of Python in an error, such as path=True or layers=['a', 'b'], as the options that were typed."""

    def written(found: re.Match[str]) -> str:
        flag, value = f"--{found[1].replace('_', '-')}", found[2] or ""
        items = re.findall(r"[^\s,'\[\]]+", value)
        return " ".join([flag, *items]) if items and items != ["True"] else flag

    names = "|".join(map(re.escape, options))
    return re.sub(rf"(?<![\w.-])({names})=(\[[^\]]*\]|'[^']*'|-?\w+(?:\.\w+)*)?", written, words)


def printable(words: str) -> str:
    """Make one line of words: control characters, which a terminal obeys, and those that turn text around are replaced."""
    return re.sub(r"[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", "\N{REPLACEMENT CHARACTER}", words)


def check_distinct(folders: Sequence[Path]) -> Sequence[Path]:
    """Return the directories if none is named twice."""
    seen: dict[Path, Path] = {}
    for path in folders:
        first = seen.setdefault(path.resolve(), path)
        if first is not path:
            raise ValueError(f"Every DIR must be another one, got one twice: {first} and {path}. Name it once.")
    return folders


def find_own_modules() -> None:
    """Let module:function find the modules of the current folder, as with python -m."""
    # Otherwise that may be a folder of somebody else, whose files must not pass as libraries that are imported later.
    if "" not in sys.path:
        sys.path.insert(0, "")
