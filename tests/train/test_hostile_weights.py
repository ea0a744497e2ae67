"""Files of weights from anybody: bombs, lying headers, pipes; damaged bytes end in our error and leave the model alone."""

import io
import json
import os
import struct
import zipfile
from contextlib import suppress

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save
from torch import nn

from hostile import FUZZED, OFTEN, damaged, memory_below
from ncollapse.train import CheckpointError, load_checkpoint, load_weights, save_checkpoint

MIB = 1 << 20


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))


def safetensors(header, data=b"", length=None):
    words = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(words) if length is None else length) + words + data


def entry(dtype="F32", shape=(2,), offsets=(0, 8)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


SAFETENSORS = {
    "a header beyond the file": safetensors({"a": entry()}, bytes(8), length=1 << 60),
    "a header of 99 MB that is not there": safetensors(b"{", length=99_000_000),
    "deep": safetensors(b'{"__metadata__":' + b"[" * 100_000),
    "deep shape": safetensors(b'{"a":{"dtype":"F32","shape":' + b"[" * 100_000),
    "overlapping": safetensors({"a": entry(), "b": entry(offsets=(4, 12))}, bytes(12)),
    "a gap": safetensors({"a": entry(), "b": entry(offsets=(12, 20))}, bytes(20)),
    "offsets beyond the file": safetensors({"a": entry(shape=(1 << 40,), offsets=(0, 1 << 42))}, bytes(8)),
    "a shape beyond its bytes": safetensors({"a": entry(shape=(1 << 40,))}, bytes(8)),
    "a size beyond 64 bits": safetensors({"a": entry(shape=(1 << 62, 4), offsets=(0, 0))}),
    "no bytes of many rows": safetensors({"a": entry(shape=(0, 1 << 62), offsets=(0, 0))}),
    "an unknown type": safetensors({"a": entry(dtype="X8")}, bytes(8)),
    "a type PyTorch lacks": safetensors({"a": entry(dtype="F6_E2M3", shape=(4,), offsets=(0, 3))}, bytes(3)),
    "backwards": safetensors({"a": entry(offsets=(8, 0))}, bytes(8)),
    "negative": safetensors({"a": entry(shape=(-2,))}, bytes(8)),
    "metadata that is none": safetensors({"__metadata__": {"format": 5}, "a": entry()}, bytes(8)),
    "no tensor": safetensors({}),
}


def archive(content, method=zipfile.ZIP_STORED, copies=1):
    """A file of torch.save, written again with compression, or with names for one and the same record."""
    whole, again = io.BytesIO(), io.BytesIO()
    torch.save(content, whole)
    with zipfile.ZipFile(whole) as source, zipfile.ZipFile(again, "w", method) as target:
        for info in source.infolist():
            target.writestr(info.filename, source.read(info))
        largest = max(target.infolist(), key=lambda info: info.file_size)
        for i in range(1, copies):
            named = zipfile.ZipInfo(f"archive/data/{i}")
            for field in ("header_offset", "file_size", "compress_size", "CRC"):
                setattr(named, field, getattr(largest, field))
            target.filelist.append(named)
        target._didModify = True
    return again.getvalue()


@pytest.mark.parametrize("lie", SAFETENSORS)
def test_headers_of_safetensors_that_lie(tmp_path, lie):
    path, model = tmp_path / "model.safetensors", network()
    path.write_bytes(SAFETENSORS[lie])
    before = save(model.state_dict())
    with memory_below(4 * MIB), pytest.raises(CheckpointError, match=r"model\.safetensors must"):
        load_weights(path, model)
    assert save(model.state_dict()) == before


def test_a_sparse_file_is_not_read_into_memory(tmp_path):
    path, size = tmp_path / "model.safetensors", 1 << 42
    path.write_bytes(safetensors({"0.weight": entry("U8", (size,), (0, size))}))
    os.truncate(path, path.stat().st_size + size)
    with memory_below(4 * MIB), pytest.raises(CheckpointError, match=r"model\.safetensors must"):
        load_weights(path, network())


@pytest.mark.parametrize(
    "content",
    [archive({"0.weight": torch.zeros(16 * MIB)}, zipfile.ZIP_DEFLATED), archive({"0.weight": torch.zeros(MIB)}, copies=1000)],
    ids=["compressed", "overlapping"],
)
def test_an_archive_does_not_unpack_to_more_than_its_size(tmp_path, content):
    path = tmp_path / "model.pt"
    path.write_bytes(content)
    with (
        memory_below(4 * MIB),
        pytest.raises(CheckpointError, match=r"without compression, got one that unpacks to \d+ bytes from"),
    ):
        load_weights(path, network())


@pytest.mark.parametrize("name", ["model.pt", "model.safetensors"])
def test_a_pipe_does_not_block(tmp_path, name):
    os.mkfifo(tmp_path / name)
    with pytest.raises(CheckpointError, match=r"model\.\w+: needed a file, got a pipe\. Name the file of the weights itself"):
        load_weights(tmp_path / name, network())


def test_mappings_without_an_end(tmp_path):
    endless = {}
    endless["state_dict"] = endless
    torch.save(endless, tmp_path / "model.pt")
    with pytest.raises(CheckpointError, match=r"model\.pt must hold a state dict of tensors, got mappings without an end"):
        load_weights(tmp_path / "model.pt", network())


def legacy(weights):
    file = io.BytesIO()
    torch.save(weights, file, _use_new_zipfile_serialization=False)
    return file.getvalue()


VALID = {
    "model.safetensors": save(network().state_dict()),
    "archive.pt": archive({"net": network().state_dict(), "epoch": 3}),
    "legacy.pt": legacy(network().state_dict()),
}


def read_damaged(folder, name, data):
    (folder / name).write_bytes(data.draw(damaged(VALID[name])))
    with suppress(CheckpointError):
        load_weights(folder / name, network())


@pytest.mark.parametrize("name", VALID)
@settings(FUZZED, max_examples=40)
@given(data=st.data())
def test_damaged_weights_end_in_our_error(tmp_path, name, data):
    read_damaged(tmp_path, name, data)


@pytest.mark.slow
@pytest.mark.parametrize("name", VALID)
@OFTEN
@given(data=st.data())
def test_many_damaged_weights_end_in_our_error(tmp_path, name, data):
    read_damaged(tmp_path, name, data)


@settings(FUZZED, max_examples=15)
@given(data=st.data())
def test_a_damaged_checkpoint_changes_nothing(tmp_path, data):
    path, model = tmp_path / "checkpoint.safetensors", network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    save_checkpoint(path, model, optimizer, 3, "abc")
    whole = path.read_bytes()
    path.write_bytes(data.draw(damaged(whole).filter(lambda content: content != whole)))
    before = save(model.state_dict())
    with pytest.raises(CheckpointError):
        load_checkpoint(path, model, optimizer, "abc")
    assert save(model.state_dict()) == before
