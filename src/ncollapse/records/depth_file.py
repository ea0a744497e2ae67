"""``depth.json``: the results over depth of every measured epoch, read and written."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ncollapse.records.depth import DepthRecord
from ncollapse.records.files import write_whole
from ncollapse.records.json_files import decode, encode, fail, read_bytes


@dataclass(frozen=True)
class DepthFile:
    """The whole file."""

    epochs: tuple[DepthRecord, ...] = ()


def read_depth(file: Path) -> dict[int, DepthRecord]:
    """Read the records by epoch, in ascending order, and check that their lists fit together."""
    records = decode(file, _renamed(read_bytes(file), b"null", b"baseline"), DepthFile).epochs
    for i, record in enumerate(records):
        num_layers = len(record.layers)
        lengths = {f"positions.{key}": (len(value), num_layers) for key, value in record.positions.items()}
        for name, curve in (("curve", record.curve), ("null", record.baseline)):
            columns = {"pfc1": curve.pfc1, "pfc2": curve.pfc2, "pfc3": curve.pfc3, "cdnv": curve.cdnv}
            lengths |= {f"{name}.{key}": (len(v), len(curve.t)) for key, v in columns.items() if v is not None}
        for place, (found, needed) in lengths.items():
            if found != needed:
                fail(file, f"epochs[{i}].{place} needs {needed} numbers, has {found}")
    return {record.epoch: record for record in sorted(records, key=lambda record: record.epoch)}


def write_depth(file: Path, records: Iterable[DepthRecord]) -> None:
    """Write the records on one line, whole."""
    write_whole(file, _renamed(encode(DepthFile(tuple(records)), indent=False), b"baseline", b"null"))


def _renamed(content: bytes, old: bytes, new: bytes) -> bytes:
    """Rename a key: on the disk the baseline is "null", as before version 0.2."""
    # A quote inside a string has a backslash before it, so this finds keys of that name only.
    return re.sub(rb'(?<!\\)"%b"(?=\s*:)' % old, b'"%b"' % new, content)
