"""Archives like Keras' ``mnist.npz``, whole and damaged; what is no set of its name is refused before its data is read."""

import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest

from hostile import memory_below
from ncollapse.data import DataFileError
from ncollapse.data.keras_archives import read_keras_archive

PIXELS = np.arange(2 * 3 * 4, dtype=np.uint8).reshape(2, 3, 4)
SHAPES = [(2, 3, 4), (1, 3, 4)]


def test_keras_archive(tmp_path: Path) -> None:
    path = tmp_path / "mnist.npz"
    labels = np.array([1, 0], dtype=np.uint8)
    np.savez(path, x_train=PIXELS, y_train=labels, x_test=PIXELS[:1], y_test=labels[:1])
    images, read_labels = read_keras_archive(path, "train", SHAPES)
    assert np.array_equal(images, PIXELS)
    assert read_labels.tolist() == [1, 0]
    assert len(read_keras_archive(path, "test", SHAPES)[0]) == 1


def test_keras_archive_of_color_images_has_labels_as_a_column(tmp_path: Path) -> None:
    path = tmp_path / "cifar10.npz"
    np.savez(path, x_train=PIXELS, y_train=np.array([[1], [0]]))
    assert read_keras_archive(path, "train", SHAPES)[1].tolist() == [1, 0]


@pytest.mark.parametrize("damage", ["truncated", "missing", "pickled", "floats", "no zip", "too few labels"])
def test_damaged_keras_archive(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "mnist.npz"
    arrays = {"x_train": PIXELS, "y_train": np.array([1, 0], dtype=np.uint8)}
    if damage == "missing":
        del arrays["y_train"]
    if damage == "floats":
        arrays["x_train"] = PIXELS.astype(np.float32)
    if damage == "pickled":
        arrays["y_train"] = np.array([{}, {}], dtype=object)
    if damage == "too few labels":
        arrays["y_train"] = arrays["y_train"][:1]
    np.savez(path, **arrays)
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:-40])
    if damage == "no zip":
        path.write_bytes(b"hello")
    with pytest.raises(DataFileError, match=r"mnist.npz must hold .* of another kind: delete it and fetch it again"):
        read_keras_archive(path, "train", SHAPES)


def npy(shape: tuple[int, ...], descr: str = "|u1", data: bytes = b"") -> bytes:
    """A file of NumPy's format 1.0 with a header of ours and some data, written from the definition of the format."""
    header = f"{{'descr': {descr!r}, 'fortran_order': False, 'shape': {shape}, }}".encode()
    header += b" " * (-(len(header) + 11) % 64) + b"\n"
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(header)) + header + data


def archive(path: Path, images: bytes, labels: bytes = npy((2,), data=b"\1\0"), method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as file:
        file.writestr("x_train.npy", images)
        file.writestr("y_train.npy", labels)
    return path


LIES = {
    "another shape": npy((2, 5, 5), data=bytes(50)),
    "more images": npy((10**12, 3, 4)),
    "too few bytes": npy((2, 3, 4), data=bytes(23)),
    "too many bytes": npy((2, 3, 4), data=bytes(1 << 24)),
    "objects": npy((2, 3, 4), "|O", b"cos\nsystem\n(S'true'\ntR."),
    "numbers": npy((2, 3, 4), "<f8", bytes(192)),
    "a long header": b"\x93NUMPY\2\0" + struct.pack("<I", 1 << 31) + bytes(1 << 24),
    "deep header": b"\x93NUMPY\1\0" + struct.pack("<H", 9000) + b"(" * 9000,
    "negative": npy((-1, 3, 4)),
    "nothing": b"",
}


@pytest.mark.parametrize("lie", LIES)
def test_a_lying_header_is_refused_before_memory_is_taken(tmp_path: Path, lie: str) -> None:
    path = archive(tmp_path / "mnist.npz", LIES[lie])
    with (
        memory_below(1 << 20),
        pytest.raises(
            DataFileError, match=r"mnist\.npz must hold .* x_train, unsigned bytes of 2×3×4 or 1×3×4, .*fetch it again"
        ),
    ):
        read_keras_archive(path, "train", SHAPES)


def test_a_directory_of_many_entries_is_not_read(tmp_path: Path) -> None:
    path = archive(tmp_path / "mnist.npz", npy((2, 3, 4), data=bytes(24)))
    assert read_keras_archive(path, "train", SHAPES)[1].tolist() == [1, 0]
    with zipfile.ZipFile(path, "a") as file:
        for i in range(2000):
            file.writestr(f"{i}", b"")
    with pytest.raises(DataFileError, match=r"a directory of \d+ bytes, at most 65536 are read"):
        read_keras_archive(path, "train", SHAPES)


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_other_compressions_are_refused(tmp_path: Path, method: int) -> None:
    with pytest.raises(DataFileError, match=rf"x_train is compressed by method {method}"):
        read_keras_archive(archive(tmp_path / "a.npz", npy((2, 3, 4), data=bytes(24)), method=method), "train", SHAPES)
