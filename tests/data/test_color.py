"""CIFAR and STL-10 in every layout, on small files written in the published formats, whole and damaged."""

import hashlib
import io
import pickle
import pickletools
import struct
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from ncollapse.data import DataConfig, DataFileError, DataNotFoundError, catalog, load_samples
from ncollapse.data.color import CIFAR10, CIFAR100, STL10, ColorSet, load_color_set
from ncollapse.data.color_files import DataFile, read_cifar_pickles

GENERATOR = np.random.default_rng(0)
IMAGES = {
    "cifar": GENERATOR.integers(256, size=(10, 3, 32, 32), dtype=np.uint8),
    "stl": GENERATOR.integers(256, size=(4, 3, 96, 96), dtype=np.uint8),
}
LABELS = np.array([3, 9, 0, 1, 2, 5, 4, 8, 7, 6], dtype=np.uint8)
FINE = 10 * LABELS + 9


@pytest.fixture(autouse=True)
def no_other_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("NCOLLAPSE_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def small(color_set: ColorSet, folder: Path) -> ColorSet:
    """The set with few images, and no place of this computer in its search path."""
    few = {"train": 4, "test": 3} if color_set is STL10 else {"train": 10, "test": 3}
    return replace(color_set, num_samples=few, system_folder=folder / "system")


def cifar_binary(images: NDArray[np.uint8], *labels: NDArray[np.uint8]) -> bytes:
    """Record by record, as the publisher's page describes it: labels, then red, green, blue, each row by row."""
    content = bytearray()
    for i, image in enumerate(images):
        content += bytes(int(column[i]) for column in labels)
        for channel in image:
            for row in channel:
                content += bytes(row.tolist())
    return bytes(content)


def python2_pickle(images: NDArray[np.uint8], labels: NDArray[np.uint8], key: str) -> bytes:
    """What Python 2 wrote with protocol 2, opcode by opcode: a dictionary of byte strings, a NumPy array and a list."""

    def string(text: bytes) -> bytes:
        return b"U" + bytes([len(text)]) + text if len(text) < 256 else b"T" + struct.pack("<i", len(text)) + text

    def integer(value: int) -> bytes:
        return b"K" + bytes([value]) if value < 256 else b"M" + struct.pack("<H", value)

    array = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85" + string(b"b") + b"\x87R"
    dtype = b"cnumpy\ndtype\n" + string(b"u1") + b"K\x00K\x01\x87R(K\x03" + string(b"|")
    dtype += b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    shape = integer(len(images)) + integer(3072) + b"\x86"
    array += b"(K\x01" + shape + dtype + b"\x89" + string(images.tobytes()) + b"tb"
    listed = b"](" + b"".join(integer(int(label)) for label in labels) + b"e"
    items = string(b"data") + array + string(key.encode()) + listed + string(b"batch_label") + string(b"training batch 1 of 5")
    content = b"\x80\x02}(" + items + b"u."
    assert sum(1 for _ in pickletools.genops(content)) > 20
    return content


def put(folder: Path, name: str, content: bytes) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(content)


def write_cifar10_binary(root: Path) -> None:
    for batch in range(5):
        part = slice(2 * batch, 2 * batch + 2)
        content = cifar_binary(IMAGES["cifar"][part], LABELS[part])
        put(root / "cifar-10-batches-bin", f"data_batch_{batch + 1}.bin", content)
    put(root / "cifar-10-batches-bin", "test_batch.bin", cifar_binary(IMAGES["cifar"][:3], LABELS[:3]))


def write_cifar10_python(root: Path) -> None:
    for batch in range(5):
        part = slice(2 * batch, 2 * batch + 2)
        content = python2_pickle(IMAGES["cifar"][part], LABELS[part], "labels")
        put(root / "cifar-10-batches-py", f"data_batch_{batch + 1}", content)
    put(root / "cifar-10-batches-py", "test_batch", python2_pickle(IMAGES["cifar"][:3], LABELS[:3], "labels"))


def write_cifar100_binary(root: Path) -> None:
    for name, count in (("train.bin", 10), ("test.bin", 3)):
        content = cifar_binary(IMAGES["cifar"][:count], LABELS[:count] * 2, FINE[:count])
        put(root / "cifar-100-binary", name, content)


def write_cifar100_python(root: Path) -> None:
    for name, count in (("train", 10), ("test", 3)):
        put(root / "cifar-100-python", name, python2_pickle(IMAGES["cifar"][:count], FINE[:count], "fine_labels"))


def write_stl(root: Path) -> None:
    for half, count in (("train", 4), ("test", 3)):
        pixels = bytearray()
        for image in IMAGES["stl"][:count]:
            for channel in image:
                for column in range(96):
                    pixels += bytes(channel[:, column].tolist())
        put(root / "stl10_binary", f"{half}_X.bin", bytes(pixels))
        put(root / "stl10_binary", f"{half}_y.bin", bytes((LABELS[:count] + 1).tolist()))


LAYOUTS = [
    (CIFAR10, write_cifar10_binary, LABELS),
    (CIFAR10, write_cifar10_python, LABELS),
    (CIFAR100, write_cifar100_binary, FINE),
    (CIFAR100, write_cifar100_python, FINE),
    (STL10, write_stl, LABELS),
]


def archived(color_set: ColorSet, number: int, root: Path) -> ColorSet:
    """Moves the folder of a layout into its archive; the set with the archive's checksum."""
    layout = color_set.layouts[number]
    with tarfile.open(root / layout.archive, "w:gz") as archive:
        archive.add(root / layout.folder, layout.folder)
    for file in (root / layout.folder).iterdir():
        file.unlink()
    (root / layout.folder).rmdir()
    md5 = hashlib.md5((root / layout.archive).read_bytes()).hexdigest()
    layouts = tuple(replace(item, md5=md5) if item is layout else item for item in color_set.layouts)
    return replace(color_set, layouts=layouts)


def check(color_set: ColorSet, labels: NDArray[np.uint8], root: Path) -> None:
    images = IMAGES["stl" if color_set.name == "stl10" else "cifar"]
    for split, count in color_set.num_samples.items():
        found, found_labels = load_color_set(color_set, split, root=str(root), download=False)
        assert np.array_equal(found, images[:count])
        assert found_labels.tolist() == labels[:count].tolist()


@pytest.mark.parametrize(("color_set", "write", "labels"), LAYOUTS)
def test_folders(color_set, write, labels, tmp_path):
    write(tmp_path / "mine")
    check(small(color_set, tmp_path), labels, tmp_path / "mine")
    (folder,) = (tmp_path / "mine").iterdir()
    check(small(color_set, tmp_path), labels, folder)


@pytest.mark.parametrize("number", range(4))
def test_archives(number, tmp_path):
    color_set, write, labels = LAYOUTS[number]
    write(tmp_path)
    check(archived(small(color_set, tmp_path), number % 2, tmp_path), labels, tmp_path)


@pytest.mark.parametrize("channels_first", [False, True])
def test_npz(channels_first, tmp_path):
    images = IMAGES["cifar"] if channels_first else IMAGES["cifar"].transpose(0, 2, 3, 1)
    arrays = {"x_train": images, "y_train": LABELS[:, None], "x_test": images[:3], "y_test": LABELS[:3, None]}
    np.savez(tmp_path / "cifar10.npz", **arrays)
    check(small(CIFAR10, tmp_path), LABELS, tmp_path)


def test_every_place_and_the_first_layout(tmp_path, monkeypatch):
    write_cifar10_python(tmp_path / "system")
    check(small(CIFAR10, tmp_path), LABELS, tmp_path / "mine")
    write_cifar10_binary(tmp_path / "data")
    (tmp_path / "system" / "cifar-10-batches-py" / "data_batch_1").write_bytes(b"broken, and not read")
    check(small(CIFAR10, tmp_path), LABELS, tmp_path / "mine")


@pytest.mark.parametrize(("color_set", "write", "labels"), LAYOUTS)
@pytest.mark.parametrize("damage", ["truncated", "too long", "empty"])
def test_damaged_files(color_set, write, labels, damage, tmp_path):
    write(tmp_path)
    (folder,) = tmp_path.iterdir()
    for file in folder.iterdir():
        content = file.read_bytes()
        broken = {"truncated": content[:-5], "too long": content + b"more", "empty": b""}[damage]
        if damage == "too long" and folder.name.endswith(("-py", "-python")):
            broken = python2_pickle(IMAGES["cifar"][:1], LABELS[:1], "labels")  # bytes behind a pickle's end are not read
        file.write_bytes(broken)
    for split in ("train", "test"):
        with pytest.raises(DataFileError, match=rf"{folder.name}.* must hold .*, got .* delete it and fetch it\s+again"):
            load_color_set(small(color_set, tmp_path), split, root=str(tmp_path), download=False)


def test_labels_out_of_range_are_refused(tmp_path):
    write_cifar10_binary(tmp_path)
    put(tmp_path / "cifar-10-batches-bin", "test_batch.bin", cifar_binary(IMAGES["cifar"][:3], LABELS[:3] + 7))
    with pytest.raises(DataFileError, match=r"test_batch.bin must hold labels of 10 classes, got 7 to 16"):
        load_color_set(small(CIFAR10, tmp_path), "test", root=str(tmp_path), download=False)
    write_stl(tmp_path)
    put(tmp_path / "stl10_binary", "test_y.bin", bytes([1, 0, 2]))
    with pytest.raises(DataFileError, match=r"must hold labels of 10 classes, got -1 to 1"):
        load_color_set(small(STL10, tmp_path), "test", root=str(tmp_path), download=False)


class Evil:
    def __reduce__(self):
        return (Path.touch, (Path("touched"),))


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_a_pickle_with_code_is_not_run(protocol, tmp_path):
    content = pickle.dumps({b"data": Evil(), b"labels": [1]}, protocol=protocol)
    with pytest.raises(DataFileError, match=r"x must hold a pickled .*got something else \(UnpicklingError: it names "):
        read_cifar_pickles([DataFile("x", content)], 1, b"labels")
    assert not (tmp_path / "touched").exists()


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ([1, 2], "TypeError"),
        ({b"labels": [1]}, "KeyError: b'data'"),
        ({b"data": b"pixels", b"labels": [1]}, "data of bytes"),
        ({b"data": None, b"labels": ["a"]}, "data of NoneType"),
    ],
)
def test_pickles_of_something_else(batch, message):
    with pytest.raises(DataFileError, match=rf"got something else \({message}"):
        read_cifar_pickles([DataFile("x", pickle.dumps(batch))], 1, b"labels")


def test_labels_of_another_number():
    content = python2_pickle(IMAGES["cifar"][:2], LABELS[:1], "labels")
    with pytest.raises(DataFileError, match=r"labels that are no list of 2 bytes"):
        read_cifar_pickles([DataFile("x", content)], 2, b"labels")


def test_archives_that_are_damaged(tmp_path):
    write_cifar100_binary(tmp_path)
    color_set = archived(small(CIFAR100, tmp_path), 0, tmp_path)
    path = tmp_path / "cifar-100-binary.tar.gz"
    whole = path.read_bytes()
    path.write_bytes(whole[:-100])
    with pytest.raises(DataFileError, match=r"binary.tar.gz must hold an archive with md5 .*, got .* bytes\)\. The file"):
        load_color_set(color_set, "train", root=str(tmp_path), download=False)
    for content in (whole[:-100], whole[:50], b"no archive", b"", archive_of("other")):
        path.write_bytes(content)
        layout = replace(color_set.layouts[0], md5=hashlib.md5(content).hexdigest())
        trusted = replace(color_set, layouts=(layout,))
        with pytest.raises(DataFileError, match=r"binary.tar.gz.* must hold (an archive of cifar-100-binary|30740 bytes)"):
            load_color_set(trusted, "train", root=str(tmp_path), download=False)


def archive_of(name: str) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        archive.addfile(tarfile.TarInfo(name))
    return buffer.getvalue()


@pytest.mark.parametrize("color_set", [CIFAR10, CIFAR100, STL10])
def test_nothing_found_names_every_place_and_the_way_out(color_set, tmp_path):
    with pytest.raises(DataNotFoundError) as caught:
        load_color_set(small(color_set, tmp_path), "test", root=str(tmp_path / "mine"), download=False)
    message = str(caught.value)
    assert message.startswith(f"{color_set.title} (test) was needed and not found in: {tmp_path / 'mine'}, ")
    assert str(tmp_path / "data") in message
    assert str(tmp_path / "system") in message
    assert message.endswith(f"{color_set.hint}.")
    assert ("download=True" in message) == (color_set is not STL10)
    if color_set is STL10:
        with pytest.raises(DataNotFoundError, match="unpack stl10_binary"):
            load_color_set(small(color_set, tmp_path), "test", root=None, download=True)


def test_download_checks_and_keeps_the_archive(tmp_path):
    for mirror in ("broken", "mirror"):
        write_cifar10_binary(tmp_path / mirror)
    color_set = archived(small(CIFAR10, tmp_path), 0, tmp_path / "mirror")
    archived(color_set, 0, tmp_path / "broken")
    (tmp_path / "broken" / "cifar-10-binary.tar.gz").write_bytes(b"an error page")
    color_set = replace(color_set, mirrors=tuple(f"{(tmp_path / name).as_uri()}/" for name in ("broken", "mirror")))
    _, labels = load_color_set(color_set, "train", root=str(tmp_path / "mine"), download=True)
    assert labels.tolist() == LABELS.tolist()
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["cifar-10-binary.tar.gz"]
    check(color_set, LABELS, tmp_path / "mine")


def test_loaded_standardized_by_channel(tmp_path, monkeypatch):
    write_cifar100_binary(tmp_path)
    monkeypatch.setattr(catalog, "CIFAR100", small(CIFAR100, tmp_path))
    data = load_samples(DataConfig("cifar100", scaling="standard", root=str(tmp_path)))
    assert (data.num_samples, data.sample_shape, data.num_classes, data.name) == (10, (3, 32, 32), 100, "cifar100")
    pixels = data.inputs.reshape(10, 3, 32, 32)
    for channel, (mean, std) in enumerate(zip((0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761), strict=True)):
        expected = (IMAGES["cifar"][:, channel] / 255 - mean) / std
        assert pixels[:, channel].numpy() == pytest.approx(expected, abs=1e-5)


def test_published_sizes():
    """Of the real files: 30,730,000 bytes a batch of CIFAR-10, 153,700,000 the training set of CIFAR-100."""
    assert CIFAR10.num_samples["train"] // 5 * 3073 == 30_730_000
    assert CIFAR100.num_samples["train"] * 3074 == 153_700_000
