"""Files of images in the format IDX, compressed or not. Needs no torch."""

import hashlib
import io
import math
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ncollapse.data.places import DataFileError, read_data

ImagesAndLabels = tuple[NDArray[np.uint8], NDArray[np.integer]]
"""Images (N, rows, columns) or (N, channels, rows, columns), and labels (N,)."""

_UNSIGNED_BYTE = 0x08  # the one element type of the MNIST family; the format knows five more
_GZIP_MAGIC = b"\x1f\x8b"
_GZIP_WBITS = 31  # zlib: "a gzip header and trailer around the stream"
_PIECE = 1 << 20
# Twice what EMNIST, the largest set of the family, has in a file: 697,932 images of 784 bytes.
_LARGEST = 1 << 30


def read_idx(path: Path, md5: str | None = None, most: int = _LARGEST) -> NDArray[np.uint8]:
    """Return the bytes of a file in the IDX format of the MNIST family, compressed by gzip or not, in the shape of its header.

    The file is judged by its content, so its name does not matter. Layout: two zero bytes, the element type 0x08,
    the number of axes, then the axes as big-endian 32-bit integers, then the elements row by row. Nothing is inflated beyond
    the size that the header names.

    Args:
        md5: Checksum of the uncompressed bytes, or None to trust them.
        most: Bytes that the file may have, uncompressed.

    Raises:
        DataFileError: If the file is truncated, too long, larger than allowed, no IDX file of bytes, or has another checksum.
    """
    return idx_content(read_data(path, most_compressed(most)), source=str(path), md5=md5, most=most)


def most_compressed(size: int) -> int:
    """Bound the size of a file of gzip by that of its content: compressed noise is larger, by less than a thousandth."""
    return size + size // 1000 + 100


def idx_content(raw: bytes, *, source: str, md5: str | None = None, most: int = _LARGEST) -> NDArray[np.uint8]:
    """Read the bytes of an IDX file; ``read_idx`` says how."""
    take = _taking(raw, source)
    magic = bytes(take(4))
    if len(magic) < 4 or magic[:3] != bytes((0, 0, _UNSIGNED_BYTE)):
        raise DataFileError(
            f"{source} must begin with 00 00 08, as an IDX file of bytes does, got {magic[:3].hex(' ') or 'nothing'}. "
            "The file is damaged or of another format: delete it and fetch it again."
        )
    num_axes = magic[3]
    axes, offset = bytes(take(4 * num_axes)), 4 + 4 * num_axes
    if len(axes) < 4 * num_axes:
        raise DataFileError(_wrong_size(source, offset, 4 + len(axes)))
    shape = struct.unpack(f">{num_axes}I", axes)
    size = offset + math.prod(shape)
    if size > most:
        raise DataFileError(
            f"{source} must hold at most {most} bytes uncompressed, its header names {size}. The file is damaged or of another "
            "set: delete it and fetch it again."
        )
    elements = take(size - offset)
    # One byte more tells a longer content, without inflating it.
    length = offset + len(elements) + len(take(1))
    if length != size:
        raise DataFileError(_wrong_size(source, size, length))
    digest = hashlib.md5(magic + axes, usedforsecurity=False)
    digest.update(elements)
    found = digest.hexdigest()
    if md5 is not None and found != md5:
        raise DataFileError(
            f"{source} must hold content with md5 {md5}, got {found}. The file is damaged, or belongs to "
            "another data set with the same file names: replace it, or point root at the right folder."
        )
    return np.frombuffer(elements, dtype=np.uint8).reshape(shape)


def _taking(raw: bytes, source: str) -> Callable[[int], memoryview]:
    """Hand out the next bytes of a content, compressed or not: as many as are asked for or left, piece by piece in place."""
    file = io.BytesIO(raw)
    # decompressobj hands out what can be had of a truncated file, so that the message can count the bytes.
    stream = zlib.decompressobj(wbits=_GZIP_WBITS) if raw.startswith(_GZIP_MAGIC) else None

    def piece(most: int) -> bytes:
        if stream is None:
            return file.read(most)
        taken = b""
        while not taken and not stream.eof and (fed := stream.unconsumed_tail or file.read(_PIECE)):
            taken = stream.decompress(fed, most)
        # What zlib still holds of all that it was fed.
        return taken or stream.decompress(b"", most)

    def take(count: int) -> memoryview:
        taken, filled = np.empty(count, np.uint8).data, 0
        try:
            while filled < count and (more := piece(min(_PIECE, count - filled))):
                taken[filled : filled + len(more)] = more
                filled += len(more)
        except zlib.error as error:
            raise DataFileError(
                f"{source} must hold a gzip file, decompressing its {len(raw)} bytes failed ({error}). "
                "The file is damaged: delete it and fetch it again."
            ) from error
        return taken[:filled]

    return take


def _wrong_size(source: str, expected: int, found: int) -> str:
    got, what = (str(found), "truncated") if found < expected else ("more", "too long")
    return f"{source} must hold {expected} bytes uncompressed, got {got}. The file is {what}: delete it and fetch it again."
