"""JSON files of a run: their limits, the words about what does not fit, and what is written."""

import json
import math
import os
from pathlib import Path

import pytest

from ncollapse.records import ReportError
from ncollapse.records.depth import DepthRecord, Straightness
from ncollapse.records.json_files import as_read, decode, encode, read_bytes, read_depth, read_json, write_json
from ncollapse.records.run_files import ClaimRecord, ClaimsFile, Status

MIB = 1 << 20
LIMITS = {
    "measurements.csv": 256, "history.csv": 64, "depth.json": 64, "objective.json": 16, "samples.safetensors": 256,
    "recording.json": 16, "sweep.json": 8, "claims.json": 8, "features.json": 64, "status.json": 4, "recipe.json": 4,
    "anything.json": 4,
}  # fmt: skip


@pytest.mark.parametrize("name", LIMITS)
def test_more_bytes_than_are_ever_written_are_refused_unread(tmp_path, name):
    (tmp_path / name).touch()
    os.truncate(tmp_path / name, LIMITS[name] * MIB + 1)
    with pytest.raises(
        ReportError, match=rf"{name}: needed at most {LIMITS[name] * MIB} bytes, got {LIMITS[name] * MIB + 1}\."
    ):
        read_bytes(tmp_path / name)


def nested(levels, wrap):
    value = 1
    for _ in range(levels):
        value = wrap(value)
    return {"first": value}


@pytest.mark.parametrize("wrap", [lambda value: {"a": value}, lambda value: [value], lambda value: {"a": [], "b": value}])
def test_settings_nest_at_most_twenty_levels_deep(tmp_path, wrap):
    file = tmp_path / "recipe.json"
    file.write_text(json.dumps(nested(19, wrap)))
    assert read_json(file, dict) == nested(19, wrap)
    file.write_text(json.dumps(nested(20, wrap)))
    with pytest.raises(ReportError, match=r"recipe\.json: nests deeper than 20 levels\. ncollapse does not write such a file"):
        read_json(file, dict)


def test_what_is_written_and_what_for(tmp_path):
    assert encode({"a": math.nan, "b": [1]}) == b'{\n  "a": null,\n  "b": [\n    1\n  ]\n}\n'
    assert encode({"a": math.nan, "b": [1]}, indent=False) == b'{"a":null,"b":[1]}\n'
    for options in ({}, {"indent": False}):
        write_json(tmp_path / "status.json", Status("stopped", 1, 2), **options)
        assert (tmp_path / "status.json").read_bytes() == encode(Status("stopped", 1, 2), **options)
        assert read_json(tmp_path / "status.json", Status) == Status("stopped", 1, 2)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('{"state": "stopped", "epoch": 1}', "is missing the required field epochs"),
        ("[]", "needed object, got array"),
        ('{"state": "stopped", "epoch": "1", "epochs": 2}', "epoch: needed int, got str"),
        ('{"state": "stopped', r"is not valid JSON \(Input data was truncated\)"),
        ('{"state"; 5}', r"is not valid JSON \(expected ':' \(byte 8\)\)"),
    ],
)
def test_words_about_what_does_not_fit(tmp_path, content, words):
    (tmp_path / "status.json").write_text(content)
    with pytest.raises(ReportError, match=rf"^{tmp_path}/status\.json: {words}\. Look again\.$"):
        read_json(tmp_path / "status.json", Status, "Look again.")
    # The content may come from elsewhere.
    assert read_json(tmp_path / "status.json", dict, read=lambda file, remedy: b"{}") == {}


@pytest.mark.parametrize(
    ("entries", "fits"),
    [
        ({"epoch": 0, "seconds": 0.0, "train_accuracy": 0.0}, True), ({"train_accuracy": 1.0, "seconds": 0.5}, True),
        ({"epoch": 2**53, "epochs": 2**53}, True), ({"epochs": 2**53 + 1}, False), ({"epoch": -1}, False),
        ({"train_accuracy": 1.5}, False), ({"train_accuracy": -0.1}, False), ({"seconds": -0.1}, False),
    ],
)  # fmt: skip
def test_numbers_of_a_status_lie_where_they_can(entries, fits):
    content = json.dumps({"state": "stopped", "epoch": 1, "epochs": 2, **entries}).encode()
    if fits:
        assert decode(Path("status.json"), content, Status).state == "stopped"
    else:
        with pytest.raises(ReportError, match=rf"status\.json: {next(iter(entries))}: needed "):
            decode(Path("status.json"), content, Status)


@pytest.mark.parametrize(("length", "fits"), [(2000, True), (2001, False)])
def test_a_sentence_of_a_claim_has_an_end(length, fits):
    claim = ClaimRecord("a", "x" * length, "", "", "holds", "", ())
    assert claim.seeds == 0
    content = encode(ClaimsFile((), (), (claim,)))
    if fits:
        assert decode(Path("claims.json"), content, ClaimsFile).claims == (claim,)
    else:
        with pytest.raises(ReportError, match=r"claims\[0\]\.statement: needed a length of at most 2000"):
            decode(Path("claims.json"), content, ClaimsFile)


def test_a_file_that_is_missing(tmp_path):
    with pytest.raises(ReportError, match=r"status\.json: is missing\. Look again\."):
        read_bytes(tmp_path / "status.json", "Look again.")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda record: record["curve"].update(t=[i / 100 for i in range(-1, 100)]), "curve.t must ascend from 0 to 1"),
        (lambda record: record["null"]["t"].__setitem__(-1, 1.5), "null.t must ascend from 0 to 1"),
        (lambda record: record["progression"]["pfc1"].update(violations=["x" * 90]), f"pfc1 names '{'x' * 40}', which is none"),
        (lambda record: record["progression"]["pfc1"].update(violations=[], violations_tol=["b", "a"]), "names 'a', which"),
        (lambda record: record["effective_depth"][0].update(depth=6), "effective_depth needs indices of its 6 layers"),
        (lambda record: record["curve"]["cdnv"].pop(), "curve.cdnv needs 101 numbers, has 100"),
        (lambda record: record["positions"]["index"].append(1), "positions.index needs 6 numbers, has 7"),
        (
            lambda record: record.update(excess={**EXCESS, "bend": [1.0] * 6}),
            "excess.bend needs 5 numbers, has 6",
        ),
    ],
)  # fmt: skip
def test_lists_that_do_not_fit_together(run_dir, edit, change, words):
    edit(run_dir / "depth.json", lambda content: change(content["epochs"][1]))
    with pytest.raises(ReportError, match=rf"depth\.json: epochs\[1\]\..*{words}"):
        read_depth(run_dir / "depth.json")


EXCESS = {"energy": 1.0, "identity_cost": 1.0, "wasserstein2": 1.0} | dict.fromkeys(
    ("speed", "bend", "step_wasserstein2"), [1.0] * 5
)


def test_what_fits_together_is_read_in_order_of_epochs(run_dir, edit):
    def change(content):
        content["epochs"].reverse()
        first = content["epochs"][0]
        first["effective_depth"][0]["depth"] = 0
        first["excess"] = EXCESS
        first["progression"]["pfc1"]["violations_tol"] = None
        # A name that looks like the key of the baseline.
        first["positions"]['a"null"'] = first["positions"]["index"]
        first["curve"]["pfc3"] = first["curve"]["cdnv"] = None

    edit(run_dir / "depth.json", change)
    found = read_depth(run_dir / "depth.json")
    assert list(found) == sorted(found)
    last = found[150]
    assert (last.effective_depth[0].depth, last.excess.speed) == (0, (1.0,) * 5)
    assert last.positions['a"null"'] == last.positions["index"]
    assert (last.curve.pfc3, last.baseline.pfc3 is None) == (None, False)


def test_a_record_as_a_file_gives_it_back():
    record = DepthRecord.without_results(3, ("stem",))
    assert as_read(record) == record
    found = as_read(
        DepthRecord(3, ("stem",), {}, record.curve, record.curve, {}, {}, (), straightness=Straightness(math.nan, 0.5))
    )
    assert (found.straightness.mean, found.straightness.median) == (None, 0.5)
