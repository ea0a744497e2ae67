"""JSON files as frozen records: read by type, with errors that name the place inside the file, and written back."""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, Protocol, TypeVar

import msgspec

from ncollapse.records import file_names
from ncollapse.records.bounded import UnfitFileError, read_at_most
from ncollapse.records.depth import DepthRecord
from ncollapse.records.errors import ReportError
from ncollapse.records.files import write_whole


class OfEpoch(Protocol):
    """What belongs to an epoch, or a step."""

    @property
    def epoch(self) -> int: ...  # noqa: D102


T = TypeVar("T")
E = TypeVar("E", bound=OfEpoch)
# What reads the content of a file, given what to do where there is none.
Read = Callable[[Path, str], bytes]
RUN_AGAIN = "Finish the run with `ncollapse run RECIPE --out DIR --resume` if it was killed, else run it in an empty folder."

_MIB = 1 << 20
# Far above what is written: three million rows of a table, four thousand measured epochs of depth.json, ten thousand runs in a
# ledger. Python's objects take up to 20 times the bytes of a file, so that files of a few settings have a limit of their own.
_MOST_BYTES = {
    file_names.MEASUREMENTS: 256 * _MIB,
    file_names.HISTORY: 64 * _MIB,
    file_names.DEPTH: 64 * _MIB,
    file_names.OBJECTIVE: 16 * _MIB,
    file_names.SAMPLES: 256 * _MIB,
    file_names.RECORDING: 16 * _MIB,
    file_names.SWEEP: 8 * _MIB,
    file_names.CLAIMS: 8 * _MIB,
    file_names.FEATURES: 64 * _MIB,
}
_MOST_BYTES_OF_SETTINGS = 4 * _MIB
# Settings nest three levels deep; who shows them goes down by recursion.
_MOST_LEVELS = 20
# Few characters each, values would take up to 30 times their bytes.
_MOST_VALUES = 4_000_000
NOT_OURS = "ncollapse does not write such a file: put the run's own file in its place, or leave the folder alone."


def read_json(file: Path, kind: type[T], remedy: str = RUN_AGAIN, read: Read | None = None) -> T:
    """Read a file as a record; keys that the record does not declare are ignored, so that later files stay readable."""
    return decode(file, (read or read_bytes)(file, remedy), kind, remedy)


def decode(file: Path, content: bytes, kind: type[T], remedy: str = RUN_AGAIN) -> T:
    """Make a record of a file's content."""
    if content.count(b",") > _MOST_VALUES:
        fail(file, f"holds more than {_MOST_VALUES} values", NOT_OURS)
    try:
        record = msgspec.json.decode(content, type=kind)
        if isinstance(record, dict) and _nests_deeper(record, _MOST_LEVELS):
            raise RecursionError
        return record
    except RecursionError:
        fail(file, f"nests deeper than {_MOST_LEVELS} levels", NOT_OURS)
    except msgspec.ValidationError as error:
        # As in "Expected `int`, got `float` - at `$.epochs[2].epoch`".
        words, _, place = str(error).replace("`", "").partition(" - at ")
        place = place.removeprefix("$").removeprefix(".")
        words = words.replace("Expected", "needed").replace("Object missing", "is missing the")
        words = re.sub(r"\w+ of length <=", "a length of at most", words)
        fail(file, f"{place} {words}" if words.startswith("is ") and place else f"{place}: {words}" if place else words, remedy)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        fail(file, f"is not valid JSON ({str(error).removeprefix('JSON is malformed: ')})", remedy)


def _nests_deeper(value: object, levels: int) -> bool:
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return levels < 0 or any(_nests_deeper(part, levels - 1) for part in parts)


def read_bytes(file: Path, remedy: str = RUN_AGAIN) -> bytes:
    """Read the content of a file of a run directory, or raise an error that says what to do."""
    # A link is not followed: the page of somebody else's run would show whatever file of the reader's it names.
    try:
        return read_at_most(file, _MOST_BYTES.get(file.name, _MOST_BYTES_OF_SETTINGS), follow=False)
    except UnfitFileError as error:
        fail(file, str(error), NOT_OURS)
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


@dataclass(frozen=True)
class DepthFile:
    """``depth.json``: the results over depth of every measured epoch."""

    epochs: tuple[DepthRecord, ...] = ()


def read_depth(file: Path, read: Read = read_bytes) -> dict[int, DepthRecord]:
    """Read the records by epoch, in ascending order, and check that their lists fit together."""
    # On the disk the baseline is "null", as before version 0.2. A quote inside a string has a backslash before it, so this
    # finds keys of that name only. Looking behind at every byte would take longer than all the rest.
    content = re.sub(rb'"null"(?=\s*:)', _as_baseline, read(file, RUN_AGAIN))
    records = decode(file, content, DepthFile).epochs
    for i, record in enumerate(records):
        if wrong := _misfit(record):
            fail(file, f"epochs[{i}].{wrong}")
    found = by_epoch(file, records)
    return {epoch: found[epoch] for epoch in sorted(found)}


def by_epoch(file: Path, records: Iterable[E]) -> dict[int, E]:
    """Return the records of a file by their epochs, of which each has one."""
    found: dict[int, E] = {}
    for record in records:
        if record.epoch < 0 or found.setdefault(record.epoch, record) is not record:
            fail(file, f"lists epoch {record.epoch} {'twice' if record.epoch >= 0 else 'before 0'}")
    return found


def _misfit(record: DepthRecord) -> str:
    """Say which part of a record contradicts the others, with its place."""
    for place, (found, needed) in _lengths(record).items():
        if found != needed:
            return f"{place} needs {needed} numbers, has {found}"
    for name, t in (("curve", record.curve.t), ("null", record.baseline.t)):
        if list(t) != sorted({*t}) or not all(0 <= end <= 1 for end in t[:1] + t[-1:]):
            return f"{name}.t must ascend from 0 to 1"
    for key, item in record.progression.items():
        if strange := {*item.violations, *(item.violations_tol or ())} - {*record.layers}:
            return f"progression.{key} names {min(strange)[:40]!r}, which is none of its layers"
    if any(not 0 <= item.depth < len(record.layers) for item in record.effective_depth):
        return f"effective_depth needs indices of its {len(record.layers)} layers"
    return ""


def _lengths(record: DepthRecord) -> dict[str, tuple[int, int]]:
    """Count the numbers in the lists of a record, and those that there must be."""
    num_layers, excess = len(record.layers), record.excess
    lengths = {f"positions.{key}": (len(value), num_layers) for key, value in record.positions.items()}
    for name, curve in (("curve", record.curve), ("null", record.baseline)):
        columns = {"pfc1": curve.pfc1, "pfc2": curve.pfc2, "pfc3": curve.pfc3, "cdnv": curve.cdnv}
        lengths |= {f"{name}.{key}": (len(v), len(curve.t)) for key, v in columns.items() if v is not None}
    if excess is not None:
        parts = {"speed": excess.speed, "bend": excess.bend, "step_wasserstein2": excess.step_wasserstein2}
        lengths |= {f"excess.{key}": (len(value), num_layers - 1) for key, value in parts.items()}
    return lengths


def _as_baseline(found: re.Match[bytes]) -> bytes:
    return found[0] if found.string[found.start() - 1 : found.start()] == b"\\" else b'"baseline"'


def as_read(record: DepthRecord) -> DepthRecord:
    """Return a record as a file gives it back: what is undefined is None instead of nan."""
    return msgspec.json.decode(msgspec.json.encode(record), type=DepthRecord)


def depth_text(records: Iterable[DepthRecord]) -> bytes:
    """Write the content of the file, on one line."""
    # As it is encoded here, nothing but a key has quotes around and a colon right behind.
    return encode(DepthFile(tuple(records)), indent=False).replace(b'"baseline":', b'"null":')
