"""Data files from anybody: bombs, lying headers, devices; random and damaged bytes end in a set or in our error alone."""

import gzip
import os
import pickle
import struct
from contextlib import suppress
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hostile import FUZZED, OFTEN, damaged, memory_below
from ncollapse.data import DataConfig, DataFileError, DataNotFoundError, load_samples, read_idx
from ncollapse.data.color_files import DataFile, read_cifar_pickles
from ncollapse.data.keras_archives import read_keras_archive
from ncollapse.data.places import read_data
from ncollapse.data.sources import MNIST, load_image_set
from ncollapse.data.text import load_text_set
from ncollapse.data.text_files import read_imdb, read_table, read_wordnet
from ncollapse.data.text_sets import OWN_TEXTS

MIB = 1 << 20


def idx(*shape: int, data: bytes = b"") -> bytes:
    return bytes((0, 0, 8, len(shape))) + struct.pack(f">{len(shape)}I", *shape) + data


def inflating(head: bytes, size: int) -> bytes:
    """A file of gzip that begins with some bytes and goes on with zeros."""
    return gzip.compress(head + bytes(size), compresslevel=9)


# Made by the test: the processes of a test session collect all tests, and one of them runs these.
IDX_BOMBS = {
    "no end": lambda: inflating(idx(60_000, 28, 28), 96 * MIB),
    "a size beyond the set": lambda: inflating(idx(1 << 20, 28, 28), 16 * MIB),
    "a size beyond 64 bits": lambda: inflating(idx(*[0xFFFFFFFF] * 255), 16 * MIB),
    "zeros": lambda: inflating(b"", 16 * MIB),
    "a compressed bomb inside": lambda: gzip.compress(inflating(idx(2, 2), 16 * MIB)),
}


@pytest.mark.parametrize("bomb", IDX_BOMBS)
def test_gzip_is_not_inflated_beyond_the_known_size(tmp_path, bomb):
    path = tmp_path / "train-images-idx3-ubyte.gz"
    path.write_bytes(IDX_BOMBS[bomb]())
    # The first is inflated as far as its header says, which is what the set has, and never held twice.
    most = MNIST.most_bytes("train") + 5 * MIB if bomb == "no end" else 2 * MIB
    with memory_below(most), pytest.raises(DataFileError, match=r"ubyte\.gz must .*delete it and fetch it again"):
        read_idx(path, md5="", most=MNIST.most_bytes("train"))


def test_a_sparse_file_is_refused_by_its_size(tmp_path):
    path = tmp_path / "train-images-idx3-ubyte"
    path.write_bytes(idx(1 << 30, 32, 32))
    os.truncate(path, 1 << 40)
    with memory_below(MIB), pytest.raises(DataFileError, match=r"needed at most \d+ bytes, got 1099511627776"):
        read_idx(path)


@pytest.mark.parametrize("kind", ["pipe", "device", "folder"])
def test_what_is_no_file_neither_blocks_nor_fills_the_memory(tmp_path, kind):
    path = tmp_path / "x"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        path.mkdir()
    with memory_below(MIB), pytest.raises(DataFileError, match=rf"x: needed a file, got a {kind}\. The file is"):
        read_data(path, 100)


@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_a_set_that_is_no_file_is_not_found(tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NCOLLAPSE_DATA", str(tmp_path))
    for name in ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "mnist.npz", "train.csv", "cifar10.npz"):
        os.mkfifo(tmp_path / name) if kind == "pipe" else (tmp_path / name).symlink_to("/dev/zero")
    for name in ("mnist", "cifar10", "texts"):
        with suppress(DataFileError), pytest.raises(DataNotFoundError, match=r"was needed and not found in"):
            load_samples(DataConfig(name, root=str(tmp_path)))


@pytest.mark.parametrize("root", ["~nobody-of-this-name/sets", "a\0b", "/dev/null", "/dev/zero/x"])
def test_a_root_that_is_no_folder(tmp_path, monkeypatch, root):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(DataNotFoundError, match=r"Write its whole path|was needed and not found in"):
        load_samples(DataConfig("imdb", root=root))


def test_any_archive_does_not_pass_as_mnist(tmp_path):
    images, labels = np.zeros((100, 5, 5), np.uint8), np.zeros(100, np.uint8)
    np.savez(tmp_path / "mnist.npz", x_train=images, y_train=labels)
    with pytest.raises(DataFileError, match=r"unsigned bytes of 60000×28×28, .*x_train is uint8 \(100, 5, 5\)"):
        load_image_set(MNIST, "train", root=str(tmp_path), download=False)
    images, labels = np.zeros((60_000, 28, 28), np.uint8), np.full(60_000, 10, np.uint8)
    np.savez_compressed(tmp_path / "mnist.npz", x_train=images, y_train=labels)
    with pytest.raises(DataFileError, match=r"mnist\.npz must hold labels of 10 classes, got 10 to 10"):
        load_image_set(MNIST, "train", root=str(tmp_path), download=False)


def laughing(depth: int) -> bytes:
    """Lists of ten times the list before: a few bytes that are ten to the power of the depth as an array."""
    value: list[object] = [1] * 10
    for _ in range(depth):
        value = [value] * 10
    return pickle.dumps({b"data": None, b"labels": value})


PICKLE_BOMBS = {
    # Room for four billion objects, in five bytes.
    "memo": b"\x80\x02Nr\xff\xff\xff\xff.",
    "laughs": laughing(12),
    "bytes": b"\x80\x04\x8e\xff\xff\xff\xff\xff\0\0\0.",
    "bytearray": b"\x80\x05\x96\xff\xff\xff\xff\xff\0\0\0.",
    "a huge array": b"\x80\x02}(U\x04datacnumpy\nndarray\n\x8a\x06\0\0\0\0\0\1\x85U\x02u1\x86RU\x06labels](K\1eu.",
    "labels of a huge array": b"\x80\x02}(U\x06labelscnumpy\nndarray\n\x8a\x06\0\0\0\0\0\1\x85U\x02u1\x86RU\x04dataNu.",
    "steps": b"\x80\x02" + b"]0" * 1000 + b"].",
}


@pytest.mark.parametrize("bomb", PICKLE_BOMBS)
def test_pickles_that_ask_for_memory_are_refused(bomb, monkeypatch):
    monkeypatch.setattr("ncollapse.data.color_files._MOST_STEPS", 1000)
    file = DataFile("data_batch_1", PICKLE_BOMBS[bomb])
    with memory_below(4 * MIB), pytest.raises(DataFileError, match=r"data_batch_1 must hold a pickled .*something else"):
        read_cifar_pickles([file], 1, b"labels")


TABLES = {
    "a cell without an end": (
        "train.csv",
        b'text,label\n"' + b"a" * 200_000,
        r"line \d must hold cells of at most 131072 char",
    ),
    "no label but a list": ("train.jsonl", b'{"text": "a", "label": []}', r"line 1 must hold a text and a label"),
    "deep": ("train.jsonl", b'{"text": ' + b"[" * 100_000, r"line 1 must hold a JSON object, reading it failed"),
    "a number of 5,000 digits": (
        "train.jsonl",
        b'{"text": "a", "label": ' + b"9" * 5000 + b"}",
        r"line 1 must hold a JSON object",
    ),
    "no text at all": ("train.csv", b"\0" * 1000, r"train\.csv"),
}


@pytest.mark.parametrize("case", TABLES)
def test_tables_that_are_none(tmp_path, case):
    name, content, message = TABLES[case]
    (tmp_path / name).write_bytes(content)
    with memory_below(8 * MIB), pytest.raises(DataFileError, match=message):
        read_table(tmp_path / name)


def test_labels_that_look_like_numbers(tmp_path):
    for half in ("train", "test"):
        (tmp_path / f"{half}.csv").write_text("text,label\na,²\nb,--5\nc," + "9" * 5000 + "\n", encoding="utf-8")
    data = load_text_set(OWN_TEXTS, "train", root=str(tmp_path), vocabulary=5, length=4)
    assert data.labels.tolist() == [2, 0, 1]


def wordnet(folder: Path) -> None:
    for part in ("noun", "verb", "adj", "adv"):
        (folder / f"data.{part}").write_bytes(b"  1 license\n00001740 03 n 01 entity 0 | that which is\n")


IDX = gzip.compress(idx(2, 2, 2, data=bytes(range(8))), mtime=0)
TABLE, LINES = b'text,label\n"a, b",1\nc,2\n', b'{"text": "a", "label": 1}\n{"text": "b", "label": "c"}\n'
PICKLE = (
    b"\x80\x02}(U\x04datacnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\0\x85U\1b\x87R(K\1K\1M\0\x0c\x86"
    b"cnumpy\ndtype\nU\2u1K\0K\1\x87R(K\3U\1|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\0tb\x89T\0\x0c\0\0"
) + (bytes(3072) + b"tbU\6labels](K\1eu.")
READERS = {
    "idx": (IDX, "x", read_idx),
    "plain idx": (gzip.decompress(IDX), "x", partial(read_idx, most=1000)),
    "csv": (TABLE, "train.csv", read_table),
    "jsonl": (LINES, "train.jsonl", read_table),
    "wordnet": (b"00001740 03 n 01 entity 0 | that which is\n", "data.noun", lambda path: read_wordnet(path.parent, "train")),
    "imdb": (b"good<br />film", "train/pos/1.txt", lambda path: read_imdb(path.parents[2], "train")),
    "pickle": (PICKLE, "x", lambda path: read_cifar_pickles([DataFile("x", path.read_bytes())], 1, b"labels")),
}


@pytest.fixture
def folder(tmp_path):
    wordnet(tmp_path)
    for sentiment in ("pos", "neg"):
        (tmp_path / "train" / sentiment).mkdir(parents=True)
        (tmp_path / "train" / sentiment / "1.txt").write_text("film")
    np.savez_compressed(tmp_path / "valid.npz", x_train=np.zeros((2, 3, 4), np.uint8), y_train=np.array([1, 0]))
    return tmp_path


def read_damaged(folder, name, data):
    valid, file, read = READERS[name]
    read_whole = folder / file
    read_whole.write_bytes(valid)
    read(read_whole)
    read_whole.write_bytes(data.draw(damaged(valid)))
    with suppress(DataFileError):
        read(read_whole)


def read_damaged_archive(folder, data):
    path = folder / "damaged.npz"
    path.write_bytes(data.draw(damaged((folder / "valid.npz").read_bytes())))
    with suppress(DataFileError):
        read_keras_archive(path, "train", [(2, 3, 4)])


@pytest.mark.parametrize("name", READERS)
@FUZZED
@given(data=st.data())
def test_damaged_files_end_in_our_error(folder, name, data):
    read_damaged(folder, name, data)


@FUZZED
@given(data=st.data())
def test_damaged_archives_end_in_our_error(folder, data):
    read_damaged_archive(folder, data)


@pytest.mark.slow
@pytest.mark.parametrize("name", READERS)
@OFTEN
@given(data=st.data())
def test_many_damaged_files_end_in_our_error(folder, name, data):
    read_damaged(folder, name, data)


@pytest.mark.slow
@OFTEN
@given(data=st.data())
def test_many_damaged_archives_end_in_our_error(folder, data):
    read_damaged_archive(folder, data)
