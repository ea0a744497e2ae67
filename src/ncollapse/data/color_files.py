"""The files of CIFAR and STL-10: fixed-length records, pickled batches read without running their code, column-major images."""

import io
import pickle
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


# All that a pickled array needs. NumPy's own name of the first has moved between its versions.
_ALLOWED: dict[tuple[str, str], Any] = {
    ("numpy.core.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
}


class _ArraysOnly(pickle.Unpickler):
    """Loads containers, numbers, strings and NumPy arrays; a pickle that names anything else is not run."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which is no array")
        return _ALLOWED[module, name]


def _unpickled(file: DataFile, num_samples: int, label_key: bytes) -> ImagesAndLabels:
    def refuse(found: object) -> NoReturn:
        raise DataFileError(
            f"{file.source} must hold a pickled dictionary with data, {num_samples} rows of 3072 bytes, and as many "
            f"{label_key.decode()}, got something else ({found}). The file is damaged or of another kind: delete it and "
            "fetch it again."
        )

    try:
        # Written by Python 2, whose strings are bytes.
        batch = _ArraysOnly(io.BytesIO(file.content), encoding="bytes").load()
        images, labels = batch[b"data"], np.asarray(batch[label_key], dtype=np.int64)
    except Exception as error:  # damaged bytes can make an unpickler raise anything
        refuse(f"{type(error).__name__}: {error}")
    if not isinstance(images, np.ndarray) or images.dtype != np.uint8 or images.shape != (num_samples, 3072):
        refuse(f"data of {getattr(images, 'dtype', type(images).__name__)} {getattr(images, 'shape', '')}")
    if labels.shape != (num_samples,):
        refuse(f"{label_key.decode()} of shape {labels.shape}")
    return images, labels
