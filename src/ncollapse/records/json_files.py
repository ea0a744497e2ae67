"""JSON files as frozen records: read by type, with errors that name the place inside the file, and written back."""

from pathlib import Path
from typing import Any, NoReturn, TypeVar

import msgspec

from ncollapse.records.errors import ReportError
from ncollapse.records.files import write_whole

T = TypeVar("T")
RUN_AGAIN = "Finish the run with `ncollapse run RECIPE --out DIR --resume` if it was killed, else run it in an empty folder."


def read_json(file: Path, kind: type[T], remedy: str = RUN_AGAIN) -> T:
    """Read a file as a record; keys that the record does not declare are ignored, so that later files stay readable."""
    return decode(file, read_bytes(file, remedy), kind, remedy)


def decode(file: Path, content: bytes, kind: type[T], remedy: str = RUN_AGAIN) -> T:
    """Make a record of a file's content."""
    try:
        return msgspec.json.decode(content, type=kind)
    except msgspec.ValidationError as error:
        # As in "Expected `int`, got `float` - at `$.epochs[2].epoch`".
        words, _, place = str(error).replace("`", "").partition(" - at ")
        place = place.removeprefix("$").removeprefix(".")
        words = words.replace("Expected", "needed").replace("Object missing", "is missing the")
        fail(file, f"{place} {words}" if words.startswith("is ") and place else f"{place}: {words}" if place else words, remedy)
    except msgspec.DecodeError as error:
        fail(file, f"is not valid JSON ({str(error).removeprefix('JSON is malformed: ')})", remedy)


def read_bytes(file: Path, remedy: str = RUN_AGAIN) -> bytes:
    """Read the content of a file, or raise an error that says what to do."""
    try:
        return file.read_bytes()
    except FileNotFoundError:
        fail(file, "is missing", remedy)


def write_json(file: Path, record: Any, *, indent: bool = True) -> None:
    """Write a record or a mapping, whole."""
    write_whole(file, encode(record, indent=indent))


def encode(record: Any, *, indent: bool = True) -> bytes:
    """Write the content of a file; nan becomes null. Without indent all is on one line."""
    content = msgspec.json.encode(record)
    return (msgspec.json.format(content, indent=2) if indent else content) + b"\n"


def fail(file: Path, what: str, remedy: str = RUN_AGAIN) -> NoReturn:
    """Raise the error about a file."""
    raise ReportError(f"{file}: {what}. {remedy}")
