"""Files of images: IDX, compressed or not, and archives like that of Keras. Needs no torch."""

import hashlib
import math
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ncollapse.data.places import DataFileError

ImagesAndLabels = tuple[NDArray[np.uint8], NDArray[np.integer]]
"""Images (N, rows, columns) or (N, channels, rows, columns), and labels (N,)."""

_UNSIGNED_BYTE = 0x08  # the one element type of the MNIST family; the format knows five more
_GZIP_MAGIC = b"\x1f\x8b"
_GZIP_WBITS = 31  # zlib: "a gzip header and trailer around the stream"


def read_idx(path: Path, md5: str | None = None) -> NDArray[np.uint8]:
    """Return the bytes of a file in the IDX format of the MNIST family, compressed by gzip or not, in the shape of its header.

    The file is judged by its content, so its name does not matter. Layout: two zero bytes, the element type 0x08,
    the number of axes, then the axes as big-endian 32-bit integers, then the elements row by row.

    Args:
        md5: Checksum of the uncompressed bytes, or None to trust them.

    Raises:
        DataFileError: If the file is truncated, too long, no IDX file of bytes, or has another checksum.
    """
    return idx_content(path.read_bytes(), source=str(path), md5=md5)


def idx_content(raw: bytes, *, source: str, md5: str | None = None) -> NDArray[np.uint8]:
    """Read the bytes of an IDX file; ``read_idx`` says how."""
    content = _gunzip(raw, source) if raw.startswith(_GZIP_MAGIC) else raw
    if len(content) < 4 or content[:3] != bytes((0, 0, _UNSIGNED_BYTE)):
        raise DataFileError(
            f"{source} must begin with 00 00 08, as an IDX file of bytes does, got {content[:3].hex(' ') or 'nothing'}. "
            "The file is damaged or of another format: delete it and fetch it again."
        )
    num_axes = content[3]
    offset = 4 + 4 * num_axes
    if len(content) < offset:
        raise DataFileError(_wrong_size(source, offset, len(content)))
    shape = struct.unpack(f">{num_axes}I", content[4:offset])
    if len(content) != offset + math.prod(shape):
        raise DataFileError(_wrong_size(source, offset + math.prod(shape), len(content)))
    found = hashlib.md5(content, usedforsecurity=False).hexdigest()
    if md5 is not None and found != md5:
        raise DataFileError(
            f"{source} must hold content with md5 {md5}, got {found}. The file is damaged, or belongs to "
            "another data set with the same file names: replace it, or point root at the right folder."
        )
    return np.frombuffer(content, dtype=np.uint8, offset=offset).reshape(shape)


def _gunzip(raw: bytes, source: str) -> bytes:
    # decompressobj hands out what can be had of a truncated file, so that the message can count the bytes.
    stream = zlib.decompressobj(wbits=_GZIP_WBITS)
    try:
        return stream.decompress(raw)
    except zlib.error as error:
        raise DataFileError(
            f"{source} must hold a gzip file, decompressing its {len(raw)} bytes failed ({error}). "
            "The file is damaged: delete it and fetch it again."
        ) from error


def _wrong_size(source: str, expected: int, found: int) -> str:
    what = "truncated" if found < expected else "too long"
    return f"{source} must hold {expected} bytes uncompressed, got {found}. The file is {what}: delete it and fetch it again."


def read_keras_archive(path: Path, split: Literal["train", "test"]) -> ImagesAndLabels:
    """Read images and labels from an archive like Keras' ``mnist.npz``."""
    # Its integrity is that of the zip format (a CRC-32 for each array); no pickled content is ever loaded.
    names = (f"x_{split}", f"y_{split}")
    try:
        # Opened here: NumPy leaves its own file open when the archive is broken.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            images, labels = (archive[name] for name in names)
    except (zipfile.BadZipFile, zlib.error, KeyError, ValueError, TypeError, EOFError) as error:
        raise DataFileError(
            f"{path} must hold an archive with the arrays {names[0]} and {names[1]}, reading it failed ({error}). "
            "The file is damaged or of another kind: delete it and fetch it again."
        ) from error
    if images.dtype != np.uint8 or labels.dtype.kind not in "iu" or labels.size != len(images):
        raise DataFileError(
            f"{path} must hold images as unsigned bytes with one integer label each, got {images.dtype} {images.shape} and "
            f"{labels.dtype} {labels.shape}. The file is of another kind: delete it and fetch it again."
        )
    return images, labels.reshape(-1)
