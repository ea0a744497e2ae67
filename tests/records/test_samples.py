"""The file of the samples: written and read back, the same bytes every time, and refused when its parts do not fit."""

import json
from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import load, save

from ncollapse.records import ReportError, read_run, samples
from ncollapse.records.run_directory import RunDirectory
from ncollapse.records.run_files import Status
from ncollapse.records.samples import EpochSamples, SampleHeader, Samples, read_samples, samples_content
from run_files import write_run

HEADER = SampleHeader(("a", "b"), (0, 1), ("a", "b"), 1, (0, 1, 4), (5, 5, 5), names=("x", "y", "z"), absent=(2, 3))


def made(seed=0, n=6):
    draw = np.random.default_rng(seed)

    def half(*shape):
        return draw.normal(size=shape).astype(np.float16)

    labels = np.sort(draw.integers(3, size=n)).astype(np.int64)
    return EpochSamples(
        labels, np.arange(n), np.array([2, 1]), half(2, n, 3), half(2, 3, 3), half(2, 3, 3), half(1, 3, 3), half(n, 2, 2)
    )


def written(folder, content):
    (folder / "samples.safetensors").write_bytes(content)
    return folder / "samples.safetensors"


def test_round_trip(tmp_path):
    kept = Samples(HEADER).with_epoch(12, made(1)).with_epoch(3, made(2, n=4))
    content = samples_content(kept)
    again = read_samples(written(tmp_path, content))
    assert again.header == HEADER
    assert list(again.epochs) == [3, 12]
    assert np.array_equal(again.epochs[3].points, kept.epochs[3].points)
    assert samples_content(again) == content
    assert list(again.of_epochs(lambda epoch: epoch > 3).epochs) == [12]
    assert again.of_epochs(lambda epoch: epoch > 12) is None


def test_a_resumed_run_keeps_the_samples_of_what_it_goes_on_from(tmp_path):
    run = write_run(tmp_path / "run", layers=("a", "b"), epochs=(0, 2), flagged=False)
    both = Samples(HEADER).with_epoch(0, made(1)).with_epoch(2, made(2))
    directory = RunDirectory(run)
    directory.take_up()
    directory.load(2)
    directory.samples = both
    directory.save(Status("stopped", 2, 2))
    assert (run / "samples.safetensors").read_bytes() == samples_content(both)
    for last, epochs in ((3, [0, 2]), (2, [0, 2]), (1, [0])):
        found = RunDirectory(run)
        found.load(last)
        assert samples_content(found.samples) == samples_content(both.of_epochs(lambda epoch, kept=epochs: epoch in kept))
    # None of them is kept by a run that was trained anew.
    found.load(-1)
    assert found.samples is None


def test_epochs_of_one_network_fit_together_whatever_is_drawn():
    """A loader that draws gives other numbers of samples; a picture needs the same layers, classes and path."""
    drawn = replace(HEADER, counts=(1, 2, 3), names=(), order=(2, 0, 1))
    assert HEADER.fits(drawn)
    assert drawn.fits(HEADER)
    for other in ({"layers": ("a", "c")}, {"depths": (0, 2)}, {"classes": (0, 1, 3)}, {"path": ()}, {"classifier": None}):
        assert not HEADER.fits(replace(drawn, **other))
    assert (HEADER.width, drawn.width) == (3, 2)


def test_a_file_that_would_grow_too_large_takes_no_more_epochs(monkeypatch):
    one = made()
    size = sum(part.nbytes for part in vars(one).values())
    twice = Samples(HEADER).with_epoch(0, one).with_epoch(1, one)
    assert not twice.is_full
    for most, is_full in ((2 * size, True), (2 * size + 1, False)):
        monkeypatch.setattr("ncollapse.records.samples.FULL_BYTES", most)
        assert twice.is_full is is_full
    for most, is_full in ((2, True), (3, False)):
        monkeypatch.setattr("ncollapse.records.samples.FULL_EPOCHS", most)
        assert twice.is_full is is_full


def spoiled(change_header=None, change_tensors=None):
    content = samples_content(Samples(HEADER).with_epoch(0, made()))
    length = int.from_bytes(content[:8], "little")
    header, tensors = json.loads(content[8 : 8 + length])["__metadata__"], dict(load(content))
    entries = json.loads(header["ncollapse.samples"])
    (change_header or (lambda _: None))(entries)
    (change_tensors or (lambda _: None))(tensors)
    return save(tensors, {"ncollapse.samples": json.dumps(entries)})


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"no such file", "needed the samples of a run"),
        (save({"x": np.zeros(3)}), "needed the samples of a run"),
        (spoiled(lambda h: h.update(format=9)), r"needed format 1, found .{20}\. Update"),
        (spoiled(lambda h: h.update(layers=3)), "layers"),
        (spoiled(lambda h: h.update(names=["x"])), "do not fit together"),
        (spoiled(lambda h: h.update(order=[0, 0, 1])), "do not fit together"),
        (spoiled(lambda h: h.update(classifier=2)), "do not fit together"),
        (spoiled(lambda h: h.update(layers=[], depths=[])), "do not fit together"),
        (samples_content(Samples(HEADER)), "it holds no epoch"),
        (spoiled(None, lambda t: t.pop("0.means")), r"0\.means needs float16 of \(2, 3, 3\), got nothing"),
        (spoiled(None, lambda t: t.update({"0.points": np.zeros((2, 6, 3))})), r"got float64"),
        (spoiled(None, lambda t: t.update({"0.labels": np.full(6, 3)})), "a class that is none"),
        (spoiled(None, lambda t: t.update({"0.ranks": np.full(2, -1)})), "a class that is none"),
        (spoiled(None, lambda t: t["0.means"].fill(np.inf)), "has a coordinate that is infinite or none"),
        (spoiled(None, lambda t: t["0.points"].fill(np.nan)), "has a coordinate that is infinite or none"),
        (spoiled(None, lambda t: t["0.points"].fill(-np.inf)), "has a coordinate that is infinite or none"),
        (spoiled(None, lambda t: t["0.means"].fill(np.nan)), "has a coordinate that is infinite or none"),
        (spoiled(None, lambda t: t["0.corners"][1].fill(np.nan)), "has a coordinate that is infinite or none"),
        (spoiled(lambda h: h.update(counts=[-1, 1, 1])), "do not fit together"),
        (spoiled(lambda h: h.update(depths=[-1, 1])), "do not fit together"),
        (spoiled(lambda h: h.update(classes=[1, 1, 2])), "do not fit together"),
        (spoiled(None, lambda t: t.update({"0.more": np.zeros(1)})), "has other parts"),
        (spoiled(None, lambda t: t.update({"x.points": np.zeros(1)})), "belongs to no epoch"),
        (spoiled(None, lambda t: t.update({"00.points": t.pop("0.points")})), r"'00\.points' belongs to no epoch"),
        (spoiled(None, lambda t: t.update({"9" * 5000: np.zeros(1)})), r"'9{40}' belongs to no epoch"),
        (spoiled(None, lambda t: t.pop("0.labels")), r"0\.labels needs int64 of \(0,\), got nothing"),
        (spoiled(None, lambda t: t["0.means"][1].fill(np.nan)), "has a coordinate that is infinite or none"),
        ((1 << 23).to_bytes(8, "little") + b"{}", "found another file or a damaged one"),
        (spoiled(None, lambda t: t.update({"1\x1b[2J": np.zeros(1)})), r"'1\\x1b\[2J' belongs to no epoch"),
        (
            (1 << 62).to_bytes(8, "little") + b"{}",
            r"a run, with a header of at most 8388608 bytes, found 4611686018427387904\.",
        ),
    ],
)
def test_what_does_not_fit_is_refused(content, match, tmp_path):
    with pytest.raises(ReportError, match=match):
        read_samples(written(tmp_path, content))


def test_one_layer_of_two_classes_without_names_or_classifier(tmp_path):
    header = SampleHeader(("a",), (0,), (), None, (0, 4), (0, 5), order=(1, 0))
    half = np.zeros((1, 2, 2), np.float16)
    epoch = EpochSamples(
        np.array([0, 1]), np.arange(2), np.array([1]), half, half, half, half[:0], np.zeros((2, 0, 2), np.float16)
    )
    found = read_samples(written(tmp_path, samples_content(Samples(header, {0: epoch}))))
    assert (found.header, list(found.epochs)) == (header, [0])
    with_classifier = replace(header, classifier=0)
    found = read_samples(written(tmp_path, samples_content(Samples(with_classifier, {0: replace(epoch, spokes=half)}))))
    assert found.header.classifier == 0


def test_limits_of_the_file():
    """So many layers fit on a page; a file that is full is a quarter of what a reader takes."""
    assert (samples.MOST_LAYERS, samples.FULL_EPOCHS, samples.FULL_BYTES) == (12, 5000, 64 << 20)


def test_samples_of_layers_that_the_table_has_elsewhere_are_refused(tmp_path):
    run = write_run(tmp_path / "run", layers=("a", "c", "b"), epochs=(0, 2), flagged=False)
    written(run, samples_content(Samples(replace(HEADER, depths=(0, 2))).with_epoch(0, made())))
    assert read_run(run).samples.header.depths == (0, 2)
    written(run, samples_content(Samples(HEADER).with_epoch(0, made())))
    with pytest.raises(ReportError, match=r"samples of the layer b, which measurements\.csv has not at that depth"):
        read_run(run)


def test_a_layer_whose_class_means_coincide_has_no_picture(tmp_path):
    """Written so where features are dead: it is nan, and no damage."""
    dead = made()
    dead.ranks[1] = 0
    for part in (dead.points, dead.means, dead.corners, dead.spokes[:0]):
        part[1:].fill(np.nan)
    found = read_samples(written(tmp_path, samples_content(Samples(HEADER).with_epoch(0, dead)))).epochs[0]
    assert np.isnan(found.points[1]).all()
    assert np.isfinite(found.points[0]).all()
