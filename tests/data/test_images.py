"""Reading IDX files, whole and damaged; the scale of pixels; the digits."""

import gzip
import hashlib
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from ncollapse.data import DataFileError, digits, read_idx
from ncollapse.data.pixels import scale_pixels

PIXELS = np.arange(2 * 3 * 4, dtype=np.uint8).reshape(2, 3, 4)


def idx_bytes(array: NDArray[np.uint8]) -> bytes:
    """The format, written down once more from its definition."""
    return bytes((0, 0, 8, array.ndim)) + b"".join(struct.pack(">I", n) for n in array.shape) + array.tobytes()


@pytest.fixture
def idx_file(tmp_path: Path) -> Path:
    path = tmp_path / "images-idx3-ubyte"
    path.write_bytes(idx_bytes(PIXELS))
    return path


def test_reads_plain_and_compressed_by_content(idx_file: Path) -> None:
    assert np.array_equal(read_idx(idx_file), PIXELS)
    idx_file.write_bytes(gzip.compress(idx_bytes(PIXELS)))
    assert np.array_equal(read_idx(idx_file), PIXELS)


def test_reads_labels(idx_file: Path) -> None:
    idx_file.write_bytes(idx_bytes(np.array([3, 1, 255], dtype=np.uint8)))
    assert read_idx(idx_file).tolist() == [3, 1, 255]


def test_checksum_is_of_the_uncompressed_bytes(idx_file: Path) -> None:
    md5 = hashlib.md5(idx_bytes(PIXELS)).hexdigest()
    idx_file.write_bytes(gzip.compress(idx_bytes(PIXELS), compresslevel=1))
    assert np.array_equal(read_idx(idx_file, md5=md5), PIXELS)
    with pytest.raises(DataFileError, match=rf"must hold content with md5 0abc, got {md5}.*another data set"):
        read_idx(idx_file, md5="0abc")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (idx_bytes(PIXELS)[:-1], r"must hold 40 bytes uncompressed, got 39. The file is truncated: delete it"),
        (idx_bytes(PIXELS)[:10], r"must hold 16 bytes uncompressed, got 10. The file is truncated"),
        (idx_bytes(PIXELS) + b"x", r"must hold 40 bytes uncompressed, got more. The file is too long"),
        (b"", r"must begin with 00 00 08, as an IDX file of bytes does, got nothing"),
        (
            b"\x00\x00\x0d\x01" + bytes(8),
            r"as an IDX file of bytes does, got 00 00 0d. .* of another format",
        ),
        (b"<html>not found</html>", r"must begin with 00 00 08, as an IDX file of bytes does, got 3c 68 74"),
    ],
)
@pytest.mark.parametrize("compressed", [False, True])
def test_damage_is_named_with_file_and_bytes(idx_file: Path, content: bytes, message: str, compressed: bool) -> None:
    idx_file.write_bytes(gzip.compress(content) if compressed else content)
    with pytest.raises(DataFileError, match=message) as caught:
        read_idx(idx_file)
    assert str(idx_file) in str(caught.value)


def test_truncated_gzip_counts_what_is_left(idx_file: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, 5000, dtype=np.uint8)
    idx_file.write_bytes(gzip.compress(idx_bytes(noise))[:3000])
    with pytest.raises(DataFileError, match=r"must hold 5008 bytes uncompressed, got [12]\d{3}\. The file is truncated"):
        read_idx(idx_file)


def test_broken_gzip(idx_file: Path) -> None:
    raw = bytearray(gzip.compress(idx_bytes(PIXELS)))
    raw[12] ^= 0xFF
    idx_file.write_bytes(raw)
    with pytest.raises(DataFileError, match=rf"must hold a gzip file, decompressing its {len(raw)} bytes failed"):
        read_idx(idx_file)


def test_scaling_follows_its_definition() -> None:
    pixels = np.random.default_rng(1).random((50, 3, 4))
    mean, std = pixels.mean(), pixels.std()
    flat = pixels.reshape(50, 12)
    options = {"mean": mean, "std": std}
    assert scale_pixels(pixels, scaling="none", **options) == pytest.approx(flat, abs=1e-6)
    assert scale_pixels(pixels, scaling="standard", **options) == pytest.approx((flat - mean) / std, abs=1e-5)
    norm64 = scale_pixels(pixels, scaling="norm64", **options)
    assert norm64.square().sum(1).mean().item() == pytest.approx(64, rel=1e-5)
    assert norm64.mean().item() == pytest.approx(0, abs=1e-5)
    assert norm64.dtype == torch.float32


def test_scaling_by_channel() -> None:
    pixels = np.random.default_rng(1).random((50, 2, 3, 4))
    mean, std = pixels.mean(axis=(0, 2, 3)), pixels.std(axis=(0, 2, 3))
    expected = (pixels - mean[:, None, None]) / std[:, None, None]
    found = scale_pixels(pixels, mean=tuple(mean), std=tuple(std), scaling="standard")
    assert found.reshape(50, 2, 3, 4).numpy() == pytest.approx(expected, abs=1e-5)
    norm64 = scale_pixels(pixels, mean=tuple(mean), std=tuple(std), scaling="norm64")
    assert norm64.square().sum(1).mean().item() == pytest.approx(64, rel=1e-5)
    assert scale_pixels(pixels, mean=tuple(mean), std=tuple(std), scaling="none").numpy() == pytest.approx(
        pixels.reshape(50, 24)
    )


def test_scaling_leaves_its_argument_alone() -> None:
    pixels = np.ones((2, 3), dtype=np.float32)
    scale_pixels(pixels, mean=0.5, std=2.0, scaling="standard")
    assert (pixels == 1).all()


def test_digits() -> None:
    data = digits()
    assert (data.num_samples, data.input_dim, data.num_classes, data.name) == (1797, 64, 10, "digits")
    counts = data.labels.bincount()
    assert (int(counts.min()), int(counts.max())) == (174, 183)
    assert data.inputs.dtype == torch.float32
    assert data.inputs.double().mean().item() == pytest.approx(0, abs=1e-6)
    assert data.inputs.double().square().sum(1).mean().item() == pytest.approx(64, rel=1e-6)
    assert digits("standard").inputs.equal(data.inputs)


def test_digits_unscaled_are_pixels_of_the_unit_interval() -> None:
    inputs = digits("none").inputs
    assert (inputs.min(), inputs.max()) == (0, 1)
    # The first image is a zero: its top row, known from the data set.
    assert (16 * inputs[0, :8]).tolist() == [0, 0, 5, 13, 9, 1, 0, 0]
    assert digits().labels[:3].tolist() == [0, 1, 2]
