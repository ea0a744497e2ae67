"""A measurement that is saved and loaded is the same to the bit; what is no such file is refused."""

import json
from dataclasses import fields, is_dataclass

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

import ncollapse as nc
from ncollapse.measurement.measurement_file import _digest
from ncollapse.metrics import METRICS
from ncollapse.records import ReportError
from ncollapse.records.csv_tables import read_rows

K, D = 4, 6
GENERATOR = torch.Generator().manual_seed(0)
Y = torch.randint(K, (40,), generator=GENERATOR)
X = {name: torch.randn(40, D, generator=GENERATOR) + scale * Y[:, None] for name, scale in (("a", 0.1), ("b", 1), ("c", 3))}
X["pooled"] = X["c"][:, :3]
W, B = torch.randn(K, 3, generator=GENERATOR), torch.randn(K, generator=GENERATOR)


def measured(**options):
    return nc.measure_features(X, Y, **{"num_classes": K, **options})


def streamed(**options):
    metrics = nc.CollapseMetrics(num_classes=K, **options)
    metrics.update(X, Y)
    return metrics.compute()


def on_test_split():
    return measured(split="test", reference=measured(), classes=[0, 2, 3])


CASES = {
    "plain": measured,
    "with a classifier": lambda: measured(classifier=(W, B)),
    "paths": lambda: measured(path=True, classifier=(W, B)),
    "paths beyond the budget": lambda: streamed(path=True, memory_budget=0),
    "scatters and parts": lambda: measured(metrics=["rank_total", "population", "all"]),
    "another split, of some classes": on_test_split,
    "an empty class": lambda: measured(num_classes=K + 1, convention="sample"),
    "present classes": lambda: measured(num_classes=9, classes="present", path=True),
    "no decisions": lambda: measured(metrics=["pfc1"]),
}


def assert_same(a, b, name="measurement"):
    """Equal type by type and bit by bit; nan equals nan."""
    assert type(a) is type(b), name
    if isinstance(a, torch.Tensor):
        assert (a.dtype, a.shape, a.stride()) == (b.dtype, b.shape, b.stride()), name
        assert torch.equal(a.isnan(), b.isnan()), name
        assert torch.equal(a.nan_to_num(), b.nan_to_num()), name
    elif is_dataclass(a):
        for item in fields(a):
            assert_same(getattr(a, item.name), getattr(b, item.name), f"{name}.{item.name}")
    elif isinstance(a, dict):
        assert list(a) == list(b), name
        for key in a:
            assert_same(a[key], b[key], f"{name}[{key!r}]")
    elif isinstance(a, tuple):
        assert len(a) == len(b), name
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_same(x, y, f"{name}[{i}]")
    else:
        assert a == b or a != a, name


@pytest.mark.parametrize("make", CASES.values(), ids=CASES)
def test_a_loaded_measurement_is_the_saved_one_to_the_bit(make, tmp_path):
    m = make()
    m.save(tmp_path / "new" / "m.safetensors")
    again = nc.Measurement.load(tmp_path / "new" / "m.safetensors")
    assert_same(m, again)
    assert str(again) == str(m)
    for layer, statistics in m.statistics.items():
        # Metrics that were not computed are evaluated on the loaded statistics.
        values = [(x.metric, x.value) for x in nc.metrics.evaluate_metrics(statistics, list(METRICS.values()))]
        found = [(x.metric, x.value) for x in nc.metrics.evaluate_metrics(again.statistics[layer], list(METRICS.values()))]
        assert_same(tuple(values), tuple(found), layer)
        assert (again.statistics[layer].within is again.statistics[layer].decisions) == (
            statistics.within is statistics.decisions
        )


def test_a_loaded_training_measurement_decides_on_another_split(tmp_path):
    train = measured()
    train.save(tmp_path / "train.safetensors")
    loaded = nc.Measurement.load(tmp_path / "train.safetensors")
    assert measured(split="test", reference=loaded).rows == measured(split="test", reference=train).rows


def test_statistics_of_seeds_are_merged_after_loading(tmp_path):
    halves = []
    for part in (slice(None, None, 2), slice(1, None, 2)):
        nc.measure_features(X["b"][part], Y[part], num_classes=K).save(tmp_path / "half.safetensors")
        halves.append(nc.Measurement.load(tmp_path / "half.safetensors").statistics["features"].moments)
    whole = nc.measure_features(X["b"], Y, num_classes=K).statistics["features"].moments
    torch.testing.assert_close(halves[0].merge(halves[1]).means, whole.means, rtol=1e-12, atol=1e-12)


def test_the_csv_is_the_tidy_table_of_a_run_directory(tmp_path):
    m = on_test_split()
    m.to_csv(tmp_path / "m.csv")
    assert_same(read_rows(tmp_path / "m.csv"), m.rows)


def content(file):
    with safe_open(file, framework="pt") as opened:
        return opened.metadata(), {name: opened.get_tensor(name) for name in opened.keys()}


def rewrite(file, change):
    """Change header and tensors, with the checksum of the changed file."""
    metadata, tensors = content(file)
    header = json.loads(metadata["ncollapse.measurement"])
    change(header, tensors)
    text = json.dumps(header)
    save_file(tensors, file, {"ncollapse.measurement": text, "sha256": _digest(text, tensors)})


HOSTILE = {
    "a later format": (
        lambda h, t: h.update(format=99, version="9.9"),
        r"format 2 at most, found 99, .* ncollapse 9\.9",
    ),
    "no version": (lambda h, t: h.pop("version"), "damaged one .*version"),
    "a field of another type": (lambda h, t: h.update(num_samples="many"), "damaged one .*num_samples"),
    "a tensor is missing": (lambda h, t: t.pop("layers.0.moments.means"), "layers.0.moments.means is missing"),
    "a tensor too many": (lambda h, t: t.update(virus=torch.zeros(1)), "virus belongs to nothing"),
    "another size": (
        lambda h, t: t.update({"layers.0.moments.means": torch.zeros(K, 1, dtype=torch.float64)}),
        r"layers\.0\.centers\.basis must be torch\.float64 of sizes \(d, r\)",
    ),
    "another type": (
        lambda h, t: t.update({"layers.1.moments.counts": torch.zeros(K)}),
        r"layers\.1\.moments\.counts must be torch\.int64 of sizes \(K\), got torch\.float32",
    ),
    "a type without a NumPy one": (
        lambda h, t: t.update({"layers.0.moments.means": torch.zeros(K, D, dtype=torch.bfloat16)}),
        r"layers\.0\.moments\.means must be torch\.float64 of sizes \(K, d\), got torch\.bfloat16",
    ),
    "more classes": (lambda h, t: h.update(num_classes=5, classes=[0, 1, 2, 3, 3], num_labels=10**15), r"sizes \(K\)"),
    "the wrong value twice": (lambda h, t: h["same"].update({"layers.0.decisions": "layers.0.moments"}), "of another kind"),
    "an unknown value twice": (lambda h, t: h["same"].update({"layers.0.decisions": "layers.7"}), "of another kind"),
    "a row of no layer": (lambda h, t: h["rows"][0].__setitem__(3, 7), "a row belongs to no layer"),
    "layers twice": (lambda h, t: h.update(layers=["a", "a", "c", "pooled"]), "not distinct"),
    "no layer": (lambda h, t: h.update(layers=[]), "belongs to nothing"),
    "paths that are none": (lambda h, t: h.update(has_paths=True), "paths is missing"),
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    file = tmp_path_factory.mktemp("saved") / "m.safetensors"
    measured().save(file)
    return file.read_bytes()


@pytest.mark.parametrize(("change", "words"), HOSTILE.values(), ids=HOSTILE)
def test_a_file_that_contradicts_itself_is_refused(change, words, saved, tmp_path):
    file = tmp_path / "m.safetensors"
    file.write_bytes(saved)
    rewrite(file, lambda header, tensors: None)
    assert nc.Measurement.load(file).layers == tuple(X)
    rewrite(file, change)
    with pytest.raises(ReportError, match=words):
        nc.Measurement.load(file)


def test_other_files_are_refused_and_none_is_run(saved, tmp_path):
    file = tmp_path / "m.safetensors"
    with pytest.raises(FileNotFoundError, match=r"needed the file of a measurement, found nothing"):
        nc.Measurement.load(file)
    with pytest.raises(FileNotFoundError, match="found a folder"):
        nc.Measurement.load(tmp_path)
    for junk in (b"", b"\x80\x04junk", saved[:-1], saved[:1000], b"\xff" * 64):
        file.write_bytes(junk)
        with pytest.raises(ReportError, match=r"damaged one .not a safetensors file, or cut off"):
            nc.Measurement.load(file)
    torch.save({"a": torch.zeros(1)}, file)
    with pytest.raises(ReportError, match="not a safetensors file"):
        nc.Measurement.load(file)
    save_file({"weight": torch.zeros(1)}, file)
    with pytest.raises(ReportError, match="found other tensors"):
        nc.Measurement.load(file)
    save_file({"weight": torch.zeros(1)}, file, {"ncollapse.measurement": "{" * 100_000, "sha256": ""})
    with pytest.raises(ReportError, match="checksum"):
        nc.Measurement.load(file)


def test_a_flipped_bit_is_noticed(saved, tmp_path):
    file = tmp_path / "m.safetensors"
    for place in (-1, -5000, len(saved) // 2):
        damaged = bytearray(saved)
        damaged[place] ^= 1
        file.write_bytes(damaged)
        with pytest.raises(ReportError, match="damaged"):
            nc.Measurement.load(file)
