"""Archives like Keras' ``mnist.npz``, read by what is known of the set: nothing is inflated before its shape and type fit."""

import math
import zipfile
from collections.abc import Collection
from pathlib import Path
from typing import IO, Any, BinaryIO, NoReturn

import numpy as np
from numpy.typing import NDArray

from ncollapse.data.images import ImagesAndLabels
from ncollapse.data.places import DataFileError
from ncollapse.recipes.data import Split
from ncollapse.records.bounded import UnfitFileError, open_regular

_Shape = tuple[int, ...]
# Four arrays need 250 bytes of directory. Python makes an object of 500 bytes of every entry of 46, before any is asked for.
_LARGEST_DIRECTORY = 1 << 16
# That of an image set has 118.
_LONGEST_HEADER = 1 << 10
_END, _ZIP64_LOCATOR, _END_BYTES, _LONGEST_COMMENT = b"PK\5\6", b"PK\6\7", 22, 1 << 16


def read_keras_archive(path: Path, split: Split, shapes: Collection[_Shape]) -> ImagesAndLabels:
    """Read images and labels, in one of some shapes of all images, the number of images first."""

    def refuse(how: object) -> NoReturn:
        sizes = " or ".join("×".join(map(str, shape)) for shape in shapes)
        raise DataFileError(
            f"{path} must hold an archive with the arrays x_{split}, unsigned bytes of {sizes}, and y_{split}, an integer for "
            f"each image, got something else ({how}). The file is damaged or of another kind: delete it and fetch it again."
        )

    try:
        with open_regular(path) as file:
            _check_directory(file)
            # Integrity is that of the zip format, a CRC-32 for each array; no pickled content is ever loaded.
            with zipfile.ZipFile(file) as archive:
                images = _array(archive, f"x_{split}", shapes, "u1")
                count = len(images)
                labels = _array(archive, f"y_{split}", {(count,), (count, 1)}, "u1 i1 u2 i2 u4 i4 u8 i8")
    except FileNotFoundError:
        raise
    except UnfitFileError as error:
        refuse(error)
    except Exception as error:  # damaged bytes can make the readers of zip and NumPy raise anything
        refuse(f"{type(error).__name__}: {str(error).partition(chr(10))[0]}")
    return images, labels.reshape(-1)


def _check_directory(file: BinaryIO) -> None:
    """Refuse a directory of many entries, which ``zipfile`` would read whole."""
    size = file.seek(0, 2)
    file.seek(max(0, size - _END_BYTES - _LONGEST_COMMENT))
    tail = file.read()
    place = tail.rfind(_END)
    if place < 0 or len(tail) < place + _END_BYTES:
        raise UnfitFileError("no directory of an archive at its end")
    directory = int.from_bytes(tail[place + 12 : place + 16], "little")
    # The archive of a set has no need for the long form, whose directory may have any size.
    if directory > _LARGEST_DIRECTORY or _ZIP64_LOCATOR in tail[max(0, place - 20) :]:
        raise UnfitFileError(f"a directory of {directory} bytes, at most {_LARGEST_DIRECTORY} are read")


def _array(archive: zipfile.ZipFile, name: str, shapes: Collection[_Shape], types: str) -> NDArray[Any]:
    """Read one array after its header was found to be as needed."""
    info = archive.getinfo(f"{name}.npy")
    # LZMA may ask for a dictionary of 4 GiB; NumPy writes neither it nor bzip2.
    if info.compress_type not in {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}:
        raise UnfitFileError(f"{name} is compressed by method {info.compress_type}")
    with archive.open(info) as stream:
        shape, is_fortran, dtype = _header(stream)
        if shape not in shapes or dtype.str[1:] not in types.split():
            raise UnfitFileError(f"{name} is {dtype} {shape}")
        size = math.prod(shape) * dtype.itemsize
        # One byte more, for which the stream has to check its checksum.
        content = stream.read(size) + stream.read(1)
    if len(content) != size:
        found = len(content) if len(content) < size else "more"
        raise UnfitFileError(f"{name} needs {size} bytes, has {found}")
    return np.frombuffer(content, dtype).reshape(shape, order="F" if is_fortran else "C")


def _header(stream: IO[bytes]) -> tuple[_Shape, bool, np.dtype[np.generic]]:
    # The header of version 1.0 has at most 64 KiB, that of later ones up to 4 GiB, which NumPy reads before it looks.
    version = np.lib.format.read_magic(stream)
    if version != (1, 0):
        raise UnfitFileError(f"version {version} of NumPy's format")
    shape, is_fortran, dtype = np.lib.format.read_array_header_1_0(stream, max_header_size=_LONGEST_HEADER)
    return shape, is_fortran, dtype
