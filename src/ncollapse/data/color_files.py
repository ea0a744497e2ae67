"""The files of CIFAR and STL-10: fixed-length records, pickled batches read without running their code, column-major images."""

import io
import pickle
import pickletools
from collections.abc import Sequence
from typing import Any, NamedTuple, NoReturn

import numpy as np
from numpy.typing import NDArray

from ncollapse.data.images import ImagesAndLabels
from ncollapse.data.places import DataFileError

_CIFAR_SHAPE, _STL_SHAPE = (3, 32, 32), (3, 96, 96)


class DataFile(NamedTuple):
    """A file in memory."""

    source: str
    content: bytes


def read_cifar_binary(files: Sequence[DataFile], num_samples: int, label_bytes: int) -> ImagesAndLabels:
    """Read the binary version of CIFAR."""
    # A record is the label, one byte (CIFAR-10) or a coarse and a fine one (CIFAR-100), then 1,024 bytes each of red, green and
    # blue, row by row.
    length = label_bytes + 3 * 32 * 32
    parts = [_bytes(file, num_samples // len(files) * length).reshape(-1, length) for file in files]
    records = np.concatenate(parts)
    return records[:, label_bytes:].reshape(-1, *_CIFAR_SHAPE), records[:, label_bytes - 1]


def read_cifar_pickles(files: Sequence[DataFile], num_samples: int, label_key: bytes) -> ImagesAndLabels:
    """Read the Python version of CIFAR: dictionaries with labels and ``data``, (N, 3072), ordered as in the binary version."""
    each = num_samples // len(files)
    images, labels = zip(*(_unpickled(file, each, label_key) for file in files), strict=True)
    return np.concatenate(images).reshape(-1, *_CIFAR_SHAPE), np.concatenate(labels)


def read_stl(files: Sequence[DataFile], num_samples: int) -> ImagesAndLabels:
    """Read STL-10: one byte per pixel, channel by channel and column by column, and labels from 1 to 10."""
    images, labels = files
    pixels = _bytes(images, num_samples * 3 * 96 * 96).reshape(-1, *_STL_SHAPE).swapaxes(2, 3)
    return pixels, _bytes(labels, num_samples).astype(np.int64) - 1


def _bytes(file: DataFile, size: int) -> NDArray[np.uint8]:
    if len(file.content) != size:
        what = "truncated" if len(file.content) < size else "too long"
        raise DataFileError(
            f"{file.source} must hold {size} bytes, got {len(file.content)}. The file is {what}: delete it and fetch it again."
        )
    return np.frombuffer(file.content, dtype=np.uint8)


class _Array:
    """Stands for a pickled array: its state is kept as it was written, and no code of NumPy sees it before it is checked."""

    def __init__(self, *_: Any) -> None:
        self.state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def bytes_of(self, shape: tuple[int, int]) -> NDArray[np.uint8] | None:
        """Return an array of bytes in rows if that is what was pickled."""
        match self.state:
            case (_, found, _Type(name=b"u1" | "u1"), is_fortran, bytes(content)) if found == shape and not is_fortran:
                return np.frombuffer(content, np.uint8).reshape(shape) if len(content) == shape[0] * shape[1] else None
        return None


class _Type:
    """Stands for a pickled type of numbers."""

    def __init__(self, name: Any = None, *_: Any) -> None:
        self.name = name

    def __setstate__(self, state: Any) -> None:
        """Byte order and the like, which bytes have not."""


# All that a pickled array needs. NumPy's own name of the first has moved between its versions.
_STAND_INS = {("numpy.core.multiarray", "_reconstruct"): _Array, ("numpy", "ndarray"): _Array, ("numpy", "dtype"): _Type}
# The largest, CIFAR-100's training half, has 50,000 names and twice as many labels in at most 300,000 steps. The unpickler
# makes room for all numbers below that of a memo, so that 5 bytes can ask for 64 GiB.
_MOST_STEPS = 1 << 20


class _ArraysOnly(pickle.Unpickler):
    """Loads containers, numbers, strings and stand-ins for arrays; a pickle that names anything else is not run."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _STAND_INS:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which is no array")
        return _STAND_INS[module, name]


def _unpickled(file: DataFile, num_samples: int, label_key: bytes) -> ImagesAndLabels:
    def refuse(found: object) -> NoReturn:
        raise DataFileError(
            f"{file.source} must hold a pickled dictionary with data, {num_samples} rows of 3072 bytes, and as many "
            f"{label_key.decode()}, got something else ({found}). The file is damaged or of another kind: delete it and "
            "fetch it again."
        )

    try:
        for step, (code, argument, _) in enumerate(pickletools.genops(file.content)):
            if step > _MOST_STEPS or (code.name in {"PUT", "LONG_BINPUT"} and int(argument or 0) > _MOST_STEPS):
                refuse(f"more than {_MOST_STEPS} steps or numbered objects")
        # Written by Python 2, whose strings are bytes.
        batch = _ArraysOnly(io.BytesIO(file.content), encoding="bytes").load()
        images, labels = batch[b"data"], batch[label_key]
    except DataFileError:
        raise
    except Exception as error:  # damaged bytes can make an unpickler raise anything
        refuse(f"{type(error).__name__}: {str(error).partition(chr(10))[0]}")
    pixels = images.bytes_of((num_samples, 3072)) if isinstance(images, _Array) else None
    if pixels is None:
        refuse(f"data of {type(images).__name__.strip('_')}")
    if not isinstance(labels, list) or len(labels) != num_samples or not all(type(k) is int and 0 <= k < 256 for k in labels):
        refuse(f"{label_key.decode()} that are no list of {num_samples} bytes")
    return pixels, np.array(labels, dtype=np.int64)
