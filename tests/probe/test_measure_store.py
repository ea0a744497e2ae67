"""The feature store: the numbers of features in memory to the bit, and every damage to a file told in one line."""

import hashlib
import json
import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save, save_file
from torch import nn

from hostile import FUZZED, damaged
from ncollapse.cli import main
from ncollapse.measurement import feature_files
from ncollapse.probe import collect_features, measure, measure_features, measure_store
from ncollapse.records.errors import ReportError, RunDirectoryError

K, N = 3, 1300
X = torch.randn(N, 6, generator=torch.Generator().manual_seed(0))
Y = torch.arange(N) % K
NEEDED = {"metrics": ["pfc1", "pfc2", "pfc3", "nc1", "nc3", "nc4", "accuracy", "rank_total", "pfc1.population"], "path": True}


def network():
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, K))


def batches(size):
    return list(zip(X.split(size), Y.split(size), strict=True))


def numbers(measurement):
    """Every number of a measurement, with all digits."""
    rows = {(row.layer, row.metric): (repr(row.value), repr(row.standard_error), row.flags) for row in measurement.rows}
    return rows, repr(measurement.path.straightness), repr(measurement.geodesic.pfc1())


@pytest.fixture
def store(tmp_path, monkeypatch):
    """A store of three shards."""
    monkeypatch.setattr(feature_files, "SHARD_BYTES", 20_000)
    return collect_features(network(), batches(100), num_classes=K, to=tmp_path / "store")


def files_of(folder):
    return sorted(path for path in folder.iterdir())


@pytest.mark.parametrize("block", [4096, 500, 70])
def test_numbers_are_those_of_features_in_memory_to_the_bit(store, monkeypatch, block):
    """Wherever shards and blocks end, in one pass and in two."""
    monkeypatch.setattr("ncollapse.probe.layer_batch._MOST_ROWS", block)
    features, labels = collect_features(network(), batches(100), num_classes=K)
    head = network()[-1]
    expected = numbers(measure_features(features, labels, num_classes=K, classifier=(head.weight, head.bias), **NEEDED))
    assert len(files_of(store)) > 8
    for budget, passes in ((None, 1), (0, 2)):
        found = measure_store(store, memory_budget=budget, **NEEDED)
        assert found.passes == passes
        assert numbers(found) == expected


def test_numbers_are_those_of_the_network_where_its_batches_are_the_blocks(tmp_path):
    for name, dtype in (("single", torch.float32), ("double", torch.float64), ("half", torch.bfloat16)):
        model, data = network().to(dtype), [(X.to(dtype), Y)]
        folder = collect_features(model, data, num_classes=K, to=tmp_path / name)
        assert numbers(measure_store(folder, **NEEDED)) == numbers(measure(model, data, num_classes=K, **NEEDED)), name


def test_choices_are_those_of_measure_features(store):
    features, labels = collect_features(network(), batches(100), num_classes=K)
    chosen = {"metrics": ["pfc1", "nc1"], "classes": [0, 2], "convention": "papyan", "path": True, "split": "test"}
    reference = measure_features(features, labels, num_classes=K)
    for more in ({}, {"reference": reference}):
        expected = measure_features(features, labels, num_classes=K, **chosen, **more)
        assert numbers(measure_store(store, **chosen, **more)) == numbers(expected)
    weight, bias = torch.randn(K, 6, generator=torch.Generator().manual_seed(2)), torch.zeros(K)
    own = measure_store(store, classifier=(weight, bias), metrics=["nc3"])
    assert own.value("nc3") == measure_features(features, labels, num_classes=K, classifier=(weight, bias)).value("nc3")


def test_another_program_writes_a_store(tmp_path):
    """As docs/measuring.md says."""

    def mark(name, tensors):
        save_file(tensors, tmp_path / name)
        content = (tmp_path / name).read_bytes()
        return {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}

    parts = list(zip(X.split(700), Y.split(700), strict=True))
    labels = [mark(f"labels-{i:05}.safetensors", {"labels": y}) for i, (_, y) in enumerate(parts)]
    shards = [mark(f"layer-000-{i:05}.safetensors", {"features": x}) for i, (x, _) in enumerate(parts)]
    layer = {"name": "mine", "dim": 6, "dtype": "F32", "shards": shards}
    manifest = {"format": 1, "num_classes": K, "rows": [700, 600], "labels": labels, "layers": [layer], "digest": ""}
    text = json.dumps(manifest)
    text = text.replace('"digest": ""', f'"digest": "{hashlib.sha256(text.encode()).hexdigest()}"')
    (tmp_path / "features.json").write_text(text)
    found = measure_store(tmp_path)
    assert found.rows == measure_features({"mine": X}, Y, num_classes=K).rows
    with pytest.raises(ValueError, match=r"nc3 need a classifier \(the store has none\)"):
        measure_store(tmp_path, metrics=["nc3"])


def refused(store, words):
    with pytest.raises(ReportError) as caught:
        measure_store(store)
    assert re.search(words, str(caught.value)), caught.value
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("place", [0, 0.5, 0.99])
def test_a_flipped_byte_is_found_in_every_file(store, place):
    for file in files_of(store):
        whole = file.read_bytes()
        index = int(place * len(whole))
        file.write_bytes(whole[:index] + bytes([whole[index] ^ 1]) + whole[index + 1 :])
        assert str(file) in refused(store, r"Collect the features again"), file
        file.write_bytes(whole)
    measure_store(store)


def test_damage_is_told_with_the_file(store, tmp_path):
    shard, label, manifest = store / "layer-001-00001.safetensors", store / "labels-00002.safetensors", store / "features.json"
    for file, words in (
        (shard, "is missing"),
        (label, "is missing"),
        (manifest, "is missing. The collection was never finished"),
    ):
        whole = file.read_bytes()
        file.unlink()
        refused(store, f"{file.name}: {words}")
        (tmp_path / "elsewhere").write_bytes(whole)
        file.symlink_to(tmp_path / "elsewhere")
        refused(store, f"{file.name}: needed a file, got a link")
        file.unlink()
        file.write_bytes(whole[:-9])
        refused(store, f"{file.name}: (was changed|is not valid JSON)")
        file.write_bytes(whole + b"\n")
        refused(store, f"{file.name}: (was changed|needed at most)")
        file.write_bytes(whole)
    (store / "layer-001-00009.safetensors").write_bytes(shard.read_bytes())
    refused(store, r"layer-001-00009.safetensors: is no file of this store \(features.json does not list it\). Move it away")
    refused(tmp_path / "none", "needed the folder of a feature store, found nothing")


def sealed(store, change):
    """Change the manifest, with its digest."""
    manifest = json.loads((store / "features.json").read_text())
    change(manifest)
    text = json.dumps(manifest | {"digest": ""})
    text = text.replace('"digest": ""', f'"digest": "{hashlib.sha256(text.encode()).hexdigest()}"')
    (store / "features.json").write_text(text)


def replace_shard(store, content):
    (store / "layer-000-00000.safetensors").write_bytes(content)

    def change(manifest):
        manifest["layers"][0]["shards"][0] = {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}

    sealed(store, change)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda m: m.update(format=2), "must have format 1 at most, has 2. Update ncollapse"),
        (lambda m: m.update(rows=[*m["rows"][:-1], 10**12]), "cannot have"),
        (lambda m: m.update(rows=[-1, *m["rows"][1:]]), "must be at least 1"),
        (lambda m: m.update(num_classes=0), "must be at least 1"),
        (lambda m: m.update(layers=[]), "its layers are none"),
        (lambda m: m["layers"].append(m["layers"][0]), "not distinct"),
        (lambda m: m["labels"].pop(), "needed 3 shards of the labels and of every layer"),
        (lambda m: m["layers"][0].update(dtype="I64"), "needed a type of F16, BF16, F32, F64, found 'I64'"),
        (lambda m: m["layers"][1].update(dim=10**9), "cannot have"),
        (lambda m: m["layers"][1]["shards"][0].update(size=2**50), "cannot have"),
        (lambda m: m["classifier"].update(layer="other"), "its classifier belongs to no layer"),
        (lambda m: m.update(classifier=None), "classifier.safetensors: is no file of this store"),
        (lambda m: m.update(choices=False), "cannot have|needed labels alone"),
    ],
)
def test_a_manifest_that_contradicts_itself_is_refused(store, change, words):
    sealed(store, change)
    refused(store, words)


def test_a_shard_that_is_not_what_the_manifest_says_is_refused(store):
    rows = json.loads((store / "features.json").read_text())["rows"][0]
    for tensors, words in (
        (
            {"features": torch.zeros(rows, 6, dtype=torch.int32)},
            r"needed 'features' as torch.float32 of \(\d+, 6\), got torch.int32",
        ),
        ({"features": torch.zeros(6, rows)}, r"got torch.float32 of \(6, \d+\)"),
        ({"other": torch.zeros(rows, 6)}, "got nothing"),
        ({"features": torch.zeros(rows, 6), "more": torch.zeros(1)}, "needed features alone, got 2 tensors"),
    ):
        replace_shard(store, save(tensors))
        refused(store, f"layer-000-00000.safetensors: .*{words}")
    size = rows * 24
    replace_shard(store, (2**40).to_bytes(8, "little") + b"{}" + bytes(size))
    refused(store, "layer-000-00000.safetensors: is no safetensors file")
    header = json.dumps({"features": {"dtype": "F32", "shape": [rows, 6], "data_offsets": [0, size * 100]}}).encode()
    replace_shard(store, len(header).to_bytes(8, "little") + header + bytes(size))
    refused(store, "layer-000-00000.safetensors: is no safetensors file")


@FUZZED
@given(data=st.data())
def test_any_manifest_is_read_or_refused(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("fuzzed")
    mark = {"sha256": "0" * 64, "size": 100}
    layer = {"name": "a", "dim": 1, "dtype": "F32", "shards": [mark]}
    manifest = {"format": 1, "num_classes": 2, "rows": [3], "labels": [mark], "layers": [layer], "digest": ""}
    (folder / "features.json").write_bytes(data.draw(damaged(json.dumps(manifest).encode())))
    with pytest.raises(ReportError):
        measure_store(folder)


def test_a_collection_that_was_killed_is_repeated(store, tmp_path):
    """A kill between two shards, or in one, leaves no store; the same folder takes it again."""
    folder = tmp_path / "killed"

    def killed():
        yield from batches(100)[:7]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        collect_features(network(), killed(), num_classes=K, to=folder)
    assert [path.name for path in files_of(folder)] == [
        f"{name}-00000.safetensors" for name in ("labels", "layer-000", "layer-001")
    ]
    refused(folder, "features.json: is missing. The collection was never finished")
    (folder / ".layer-000-00001.safetensors.0123456789abcdef.tmp").write_bytes(b"half")
    (folder / "layer-009-00077.safetensors").write_bytes(b"of another one")
    collect_features(network(), batches(100), num_classes=K, to=folder)
    assert {path.name: path.read_bytes() for path in files_of(folder)} == {
        path.name: path.read_bytes() for path in files_of(store)
    }


def test_nothing_else_is_replaced(store, tmp_path):
    before = {path: path.read_bytes() for path in files_of(store)}
    with pytest.raises(RunDirectoryError, match="must be free for a feature store, it holds one"):
        collect_features(network(), batches(100), num_classes=K, to=store)
    assert {path: path.read_bytes() for path in files_of(store)} == before
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(RunDirectoryError, match="must be empty for a feature store, it holds 'store'"):
        collect_features(network(), batches(100), num_classes=K, to=tmp_path)
    assert (tmp_path / "thesis.tex").read_text() == "mine"


def test_what_cannot_be_stored_is_refused(tmp_path):
    with pytest.raises(ValueError, match="There is no data"):
        collect_features(network(), [], num_classes=K, to=tmp_path / "new")
    assert not (tmp_path / "new").exists()
    with pytest.raises(ValueError, match="Pass classes and min_per_class to measure_store"):
        collect_features(network(), batches(100), num_classes=K, min_per_class=2, to=tmp_path)
    with pytest.raises(ValueError, match=r"labels must be in \[0, 2\), got 2 at position 2 in batch 0"):
        collect_features(network(), batches(100), num_classes=2, to=tmp_path)
    sizes = [(torch.randn(4, 3, size, size), torch.arange(4) % K) for size in (4, 5)]
    with pytest.raises(ValueError, match="Layers must have as many features in all batches"):
        collect_features(nn.Sequential(nn.Conv2d(3, 2, 1)), sizes, num_classes=K, layers="0", to=tmp_path)


def test_the_command_measures_a_store(store, capsys):
    main(["measure", str(store), "--metrics", "pfc1", "nc3", "--classes", "0", "1", "--json"])
    rows = json.loads(capsys.readouterr().out)
    expected = measure_store(store, metrics=["pfc1", "nc3"], classes=[0, 1])
    assert [row["value"] for row in rows] == [row.value for row in expected.rows]
    for words in (["--data", "digits"], ["--split", "test"], ["--layers", "1"]):
        with pytest.raises(SystemExit) as caught:
            main(["measure", str(store), *words])
        assert caught.value.code == 2
        assert f"is a folder of features, which has its labels and classifier; got {words[0]}" in capsys.readouterr().err
