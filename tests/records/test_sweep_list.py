"""The list of a sweep and what there is of each run: finished, cut off, damaged or not begun."""

import json
import shutil

import pytest

from ncollapse.records import ReportError
from ncollapse.records.sweep import folders_of, read_sweep, swept_words, unfinished
from run_files import write_swept_runs

FIELD = "train.weight_decay"


@pytest.fixture(scope="module")
def shared_sweep(tmp_path_factory):
    return write_swept_runs(tmp_path_factory.mktemp("shared") / "sweep", ("0.1", "0.01"))


@pytest.fixture
def sweep(shared_sweep, tmp_path):
    return shutil.copytree(shared_sweep, tmp_path / "sweep")


def name(value, seed):
    return f"{FIELD}={value}_seed={seed}"


def test_finished_runs_stand_by_their_settings(sweep):
    found = read_sweep(str(sweep))
    assert (found.path, found.fields, found.tied) == (sweep, (FIELD,), ())
    assert [(run.name, run.settings, run.seed, run.problem, run.has_page) for run in found.runs] == [
        (name(value, seed), {FIELD: value}, seed, "", False) for value in ("0.1", "0.01") for seed in (0, 1)
    ]
    assert [(values, [run.path.name for run in runs]) for values, runs in found.by_setting()] == [
        ((value,), [name(value, 0), name(value, 1)]) for value in ("0.1", "0.01")
    ]
    assert [run.run.epochs for run in read_sweep(sweep, "last").runs] == [(5,)] * 4


def test_what_is_not_finished_says_why(sweep, edit):
    shutil.rmtree(sweep / name("0.1", 0))
    (sweep / name("0.1", 1) / "depth.json").write_text("{")
    status = sweep / name("0.01", 0) / "status.json"
    edit(status, lambda content: content.update(state="failed", epoch=5, epochs=9, reason="full disk"))
    (sweep / name("0.01", 1) / "report.html").touch()
    found = read_sweep(sweep)
    assert [run.problem.partition(" Finish")[0] for run in found.runs] == [
        "not begun", f"{sweep / name('0.1', 1)}/depth.json: is not valid JSON (Input data was truncated).",
        "failed at epoch 5 of 9: full disk", "",
    ]  # fmt: skip
    assert [run.has_page for run in found.runs] == [False, False, False, True]
    assert [(values, len(runs)) for values, runs in found.by_setting()] == [(("0.1",), 0), (("0.01",), 1)]
    edit(status, lambda content: content.update(state="stopped", reason=None))
    stopped = read_sweep(sweep).runs[2]
    assert (stopped.run, stopped.problem) == (None, "stopped at epoch 5 of 9")
    assert unfinished(found.runs[3].run) == ""


def test_fields_that_belong_to_a_swept_one_are_named_with_it(sweep, edit):
    edit(sweep / "sweep.json", lambda content: [run.update(tied={"train.epochs": "9"}) for run in content["runs"]])
    assert read_sweep(sweep).tied == ("train.epochs",)
    assert swept_words([FIELD, "seed"], ["train.epochs"]) == f"{FIELD}, seed with train.epochs"
    assert (swept_words([FIELD], []), swept_words([], [])) == (FIELD, "seeds")
    edit(sweep / "sweep.json", lambda content: content["runs"][1].update(tied={}))
    with pytest.raises(ReportError, match=r"sweep\.json: needed runs that all set the same fields, found runs with different"):
        read_sweep(sweep)


def test_a_sweep_of_one_run(sweep, edit):
    edit(sweep / "sweep.json", lambda content: content.update(runs=[{**content["runs"][0], "tied": {"train.epochs": "9"}}]))
    found = read_sweep(sweep)
    assert (len(found.runs), found.fields, found.tied) == (1, (FIELD,), ("train.epochs",))


def test_a_name_that_leads_elsewhere_is_shown_in_part(sweep, edit):
    edit(sweep / "sweep.json", lambda content: content["runs"][0].update(name="/" + "x" * 200))
    with pytest.raises(ReportError, match=rf"needed names of folders in the sweep, found '/{'x' * 99}'\. Run"):
        read_sweep(sweep)


def test_a_list_that_is_none(sweep):
    (sweep / "sweep.json").write_text('{"runs": []}')
    with pytest.raises(ReportError, match=r"all set the same fields, found no run\. Run `ncollapse sweep` again"):
        read_sweep(sweep)
    (sweep / "sweep.json").unlink()
    with pytest.raises(ReportError, match=r"sweep\.json: needed the list of a sweep's runs, found nothing\. Name the folder"):
        read_sweep(sweep)


def test_folders_of_a_run_and_of_a_sweep(sweep, tmp_path):
    runs = [sweep / name(value, seed) for value in ("0.1", "0.01") for seed in (0, 1)]
    assert folders_of(runs[0]) == [runs[0]]
    assert folders_of(sweep) == [sweep, *runs]
    # One that is not there yet, and one that leads elsewhere, are passed over; so are names that lead out of the sweep.
    shutil.rmtree(runs[0])
    runs[1].rename(tmp_path / "elsewhere")
    runs[1].symlink_to(tmp_path / "elsewhere")
    listed = json.loads((sweep / "sweep.json").read_text())["runs"]
    (sweep / "sweep.json").write_text(json.dumps({"runs": [*listed, listed[-1], {**listed[0], "name": "../elsewhere"}]}))
    assert folders_of(sweep) == [sweep, *runs[2:]]
    # Of a damaged list nothing is known: what has a manifest is a run.
    (sweep / "sweep.json").write_text("{")
    (runs[3] / "manifest.json").touch()
    assert folders_of(sweep) == [sweep, runs[3]]
    (sweep / "a file").touch()
    for place in (tmp_path, tmp_path / "nowhere", sweep / "a file"):
        with pytest.raises(ReportError, match=r"needed a run directory or the folder of a sweep, found neither\. Name one"):
            folders_of(place)
