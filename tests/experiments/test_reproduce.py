"""Experiments run seed by seed into a folder, stand by the rules of the ledger, and have a page."""

import json
import math
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from ncollapse.claims.verdicts import holm
from ncollapse.cli import main
from ncollapse.data.locations import Location
from ncollapse.experiments import (
    EXPERIMENTS,
    Experiment,
    Found,
    Panel,
    Place,
    Point,
    SeedFile,
    experiments_named,
    recorded,
    reproduce,
    standings,
    write_experiment_page,
)
from ncollapse.records.errors import FolderInUseError, ReportError, RunDirectoryError, RunDirectoryWarning
from ncollapse.records.json_files import write_json
from ncollapse.records.lock import Lock
from ncollapse.records.manifest import read_manifest, sealed
from ncollapse.stop_signals import RunStopped
from ncollapse.studies import run_recipe

TINY = ("train.epochs=2", "data.per_class=5", "model.width=8", "model.num_blocks=1", "measure.transport_samples=0")


def made(name="pfc:x", measure=lambda work: Found(True), **options) -> Experiment:
    return Experiment(name, "Figure 0", "a test", "nothing", "nothing", measure, **options)


def given(values, before=None) -> list[SeedFile]:
    return [SeedFile(seed, value, before, seconds=1.0) for seed, value in enumerate(values)]


def test_a_seed_is_measured_once_and_runs_are_shared(tmp_path):
    calls = []

    def measure(work):
        calls.append(work.seed)
        run = work.run("demo", *TINY)
        assert work.samples(run).num_samples == 50
        assert work.network(run).config.width == 8
        return Found(run.value("pfc1", 1), (Point("panel", "line", 1, run.value("pfc1", 1)),))

    place, experiment = Place(tmp_path), made(measure=measure)
    first = reproduce(experiment, place, [3])
    assert reproduce(experiment, place, [3, 4])[0] == first[0]
    other = reproduce(made("pfc:y", measure), place, [3])
    assert calls == [3, 4, 3]
    assert [item.seed for item in place.seeds(experiment)] == [3, 4]
    # The run of seed 3 was there, and its seconds count for the second experiment too.
    assert other[0].value == first[0].value
    assert other[0].runs == first[0].runs
    assert other[0].runs[0].startswith("../runs/demo_train.epochs=2_data.per_class=5_")
    assert first[0].seconds > 0 < other[0].seconds
    assert len(list((tmp_path / "runs").iterdir())) == 2


@pytest.fixture
def short_pauses(monkeypatch):
    monkeypatch.setattr("ncollapse.experiments.work._PAUSE_SECONDS", 0.01)


def test_a_run_that_another_process_trains_is_waited_for(tmp_path, short_pauses):
    experiment = made(measure=lambda work: Found(work.run("demo", *TINY).value("pfc1", 1)))
    (alone,) = reproduce(experiment, Place(tmp_path / "alone"), [3])
    place = Place(tmp_path / "shared")
    path = place.of(experiment) / alone.runs[0]

    def waits(other):
        with Lock(path.resolve()):
            waiting = other.submit(reproduce, experiment, place, [3])
            with pytest.raises(TimeoutError):
                waiting.result(timeout=0.3)
        return waiting.result()

    with (
        ThreadPoolExecutor(1) as other,
        pytest.warns(
            RunDirectoryWarning, match=r"process \d+ on .* has been training this run since .*\. This process waits for it"
        ),
    ):
        (shared,) = waits(other)
    assert shared.value == alone.value


def test_a_run_that_another_process_begins_first_is_waited_for(tmp_path, monkeypatch):
    """Between the look at the folder and the lock: then it is looked at again."""
    tries = []

    def taken_once(*args, **options):
        tries.append(args)
        if len(tries) == 1:
            raise FolderInUseError("process 1 has been writing to it")
        return run_recipe(*args, **options)

    monkeypatch.setattr("ncollapse.experiments.work.run_recipe", taken_once)
    (found,) = reproduce(made(measure=lambda work: Found(work.run("demo", *TINY).value("pfc1", 1))), Place(tmp_path), [3])
    assert len(tries) == 2
    assert found.value > 0


def test_a_run_that_was_killed_at_the_end_of_its_last_save_is_ended(tmp_path):
    experiment, place = made(measure=lambda work: Found(work.run("demo", *TINY).value("pfc1", 1))), Place(tmp_path)
    (first,) = reproduce(experiment, place, [3])
    (path,) = (tmp_path / "runs").iterdir()
    manifest = read_manifest(path)
    (path / "manifest.json").write_bytes(sealed(replace(manifest, previous=manifest.files)))
    (place.of(experiment) / "seed=3.json").unlink()
    (again,) = reproduce(experiment, place, [3])
    assert again.value == first.value
    assert read_manifest(path).previous is None


def test_a_holder_that_tells_nothing_is_not_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr("ncollapse.records.lock._PATIENCE_SECONDS", 0)
    experiment, place = made(measure=lambda work: Found(work.run("demo", *TINY).value("pfc1", 1))), Place(tmp_path)
    with pytest.raises(RunStopped):
        reproduce(experiment, place, [3], should_stop=lambda: True)
    (path,) = (tmp_path / "runs").iterdir()
    with Lock(path):
        (path / ".lock").write_text("no record")
        with pytest.raises(FolderInUseError, match="and another one is writing to it"):
            reproduce(experiment, place, [3])


def test_who_waits_can_be_stopped(tmp_path, short_pauses):
    experiment, place = made(measure=lambda work: Found(work.run("demo", *TINY).value("pfc1", 1))), Place(tmp_path)
    reproduce(experiment, place, [3])
    (place.of(experiment) / "seed=3.json").unlink()
    (path,) = (tmp_path / "runs").iterdir()
    with Lock(path), pytest.warns(RunDirectoryWarning), pytest.raises(RunStopped, match="trained by another process"):
        reproduce(experiment, place, [3], should_stop=lambda: True)


def test_data_that_is_missing_is_listed_whatever_the_words(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("ncollapse.data.locations.locate", lambda name: Location(name != "mnist", "not found: or is it?"))
    main(["reproduce", "--json", "--out", str(tmp_path)])
    missing = {row["name"]: row["missing_data"] for row in json.loads(capsys.readouterr().out)}
    assert missing == {name: [data for data in item.needs if data == "mnist"] for name, item in EXPERIMENTS.items()}


def test_verdicts_are_those_of_the_ledger():
    rows = {
        "pfc:holds": given([True] * 12),
        "pfc:fails": given([False] * 12),
        "pfc:few": given([True, True, False]),
        "pfc:base": given([True] * 12, before=True),
        "pfc:silent": given([None] * 3),
        "deep:mean": given([1.0 + seed / 100 for seed in range(12)]),
    }
    experiments = [made(name) for name in (*rows, "pfc:none")]
    experiments.append(made("pfc:code", checks_code=True))
    found = standings(rows | {"pfc:code": given([True])}, experiments)
    states = {name: standing.state for name, standing in found.items()}
    assert states == {
        "pfc:holds": "holds",
        "pfc:fails": "fails",
        "pfc:few": "undecided",
        "pfc:base": "undecided",
        "pfc:silent": "not testable here",
        "deep:mean": "holds",
        "pfc:none": "not run",
        "pfc:code": "check passed",
    }
    assert found["pfc:few"].why == "right in 2 of 3 seeds; 12 needed"
    assert found["pfc:holds"].seconds == 12


def test_the_least_of_several_gains_shows_that_all_are_and_not_that_one_is_none():
    rows = {
        "pfc:below": given([-1.0 - seed / 100 for seed in range(12)]),
        "pfc:above": given([1.0 + s / 100 for s in range(12)]),
    }
    plain, least = (standings(rows, [made(name, takes_least=flag) for name in rows]) for flag in (False, True))
    assert {name: item.state for name, item in plain.items()} == {"pfc:below": "fails", "pfc:above": "holds"}
    assert {name: item.state for name, item in least.items()} == {"pfc:below": "undecided", "pfc:above": "holds"}
    assert least["pfc:below"].why == "the least of several gains may be below zero by chance alone"


def test_seeds_without_the_base_rate_of_the_others_do_not_count():
    seeds = [*given([2.0] * 12, before=1.0), SeedFile(12, 2.0, seconds=1.0)]
    found = standings({"pfc:x": seeds}, [made(base="at the start")])["pfc:x"]
    assert (found.row.estimate.n, found.state, found.why) == (12, "holds", "1 seed has no base rate and does not count")
    assert (found.row.bases[0].name, found.seconds) == ("at the start", 13.0)
    few = standings({"pfc:x": seeds[6:]}, [made()])["pfc:x"]
    assert few.why == "right in 6 of 6 seeds; 12 needed; 1 seed has no base rate and does not count"
    assert standings({"pfc:x": seeds}, [made(checks_code=True)])["pfc:x"].row.estimate.n == 13


def test_rows_of_one_paper_are_corrected_together():
    # Eleven of twelve: p = 0.0063 alone, and 0.063 among ten.
    rows = {f"pfc:{index}": given([True] * 11 + [False]) for index in range(10)}
    alone = standings(rows, [made("pfc:0")])["pfc:0"]
    among = standings(rows, [made(name) for name in rows])["pfc:0"]
    assert (alone.state, among.state) == ("holds", "undecided")
    assert holm([alone.row.p_value] * 10)[0] == pytest.approx(10 * 26 / 4096)


def test_a_page_shows_numbers_and_escapes_names(tmp_path):
    points = (
        Point("<b>", "a", 1, 2.0),
        Point("<b>", "a", 10, 400.0),
        Point("words", "b", "sgd", 0.5),
        Point("words", "b", "adam", None),
    )
    panels = (Panel("<b>", "x", log_x=True), Panel("words", "optimizer"), Panel("empty", "x"))
    experiment = made(measure=lambda work: Found(0.25 * work.seed, points, -1.0), panels=panels, base="on the pixels")
    place = Place(tmp_path)
    seeds = reproduce(experiment, place, [1, 2])
    page = write_experiment_page(experiment, standings({"pfc:x": seeds}, [experiment])["pfc:x"], place).read_text()
    assert "<b>" not in page.split("<main>")[1].replace('<b class="verdict"', "").replace("<figcaption><b>", "")
    assert all(
        words in page for words in ("right in 2 of 2 seeds; 12 needed", "0.25", "<td>400</td>", "sgd", "nothing to draw")
    )
    assert "Base rate: the same test on the pixels." in page


def test_pages_of_runs_are_counted_while_those_that_are_missing_are_written(tmp_path, monkeypatch):
    runs = [tmp_path / "runs" / name for name in "ab"]
    for run in runs:
        run.mkdir(parents=True)
    (runs[0] / "report.html").touch()
    place, written, seen = Place(tmp_path), [], []
    monkeypatch.setattr("ncollapse.experiments.page.write_report", written.append)
    seed = SeedFile(1, True, runs=("../runs/a", "../runs/b"))
    monkeypatch.setattr(Place, "seeds", lambda *_: (seed,))
    place.of(made()).mkdir()
    write_experiment_page(
        made(), standings({}, [made()])["pfc:x"], place, say=lambda *counts: seen.append((*counts, len(written)))
    )
    assert written == [[runs[1]]]
    # How many pages are there, of how many, and how many were written by then.
    assert seen == [(0, 2, "a", 0), (1, 2, "b", 0), (2, 2, "", 1)]


def test_a_folder_that_cannot_be_made_is_told_before_the_work():
    experiment = made(measure=lambda work: pytest.fail("measured"))
    with pytest.raises(OSError, match=r"the folder cannot be made .*Choose another place with --out"):
        reproduce(experiment, Place(Path("/proc/ncollapse")), [1])


def test_there_is_no_other_size_unless_it_says_so(tmp_path):
    with pytest.raises(ValueError, match="one size only"):
        reproduce(made(), Place(tmp_path), [1], at_paper_size=True)


def test_the_command_lists_all_with_their_states(tmp_path, capsys):
    main(["reproduce", "--json", "--out", str(tmp_path)])
    rows = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in rows] == list(EXPERIMENTS)
    assert all(row["command"] == f"ncollapse reproduce {row['name']}" for row in rows)
    ours = standings(recorded(), EXPERIMENTS.values())
    assert {row["name"]: row["state"] for row in rows} == {name: item.state for name, item in ours.items()}
    main(["reproduce", "--out", str(tmp_path)])
    printed = capsys.readouterr().out
    assert all(name in printed for name in EXPERIMENTS)


def test_names_may_be_patterns():
    assert experiments_named(["pfc:*"]) == [item for item in EXPERIMENTS.values() if item.source == "pfc"]
    with pytest.raises(ValueError, match=r"No experiment 'pfc:fig22'\. Near ones: pfc:fig2"):
        experiments_named(["pfc:fig22"])


def test_what_is_recorded_belongs_to_an_experiment():
    found = recorded()
    assert found.keys() <= EXPERIMENTS.keys()
    assert all(len({item.seed for item in seeds}) == len(seeds) for seeds in found.values())
    assert all(math.isfinite(item.seconds) and item.machine for seeds in found.values() for item in seeds)


@pytest.mark.parametrize("experiment", EXPERIMENTS.values(), ids=EXPERIMENTS)
def test_every_experiment_says_what_it_needs_to(experiment):
    assert experiment.says.endswith(".")
    assert experiment.tested.endswith(".")
    assert experiment.seeds >= 1
    assert len({panel.title for panel in experiment.panels}) == len(experiment.panels)


def test_a_folder_of_somebody_else_cannot_write_outside_itself(tmp_path):
    experiment, place = made(measure=lambda work: Found(True)), Place(tmp_path / "theirs")
    own = tmp_path / "mine"
    own.mkdir()
    (place.out / "runs").mkdir(parents=True)
    (place.out / "runs" / "link").symlink_to(own)
    (seed,) = reproduce(experiment, place, [0])
    # A run of the reader's, named by its path and by a link, and one that is gone.
    write_json(place.of(experiment) / "seed=0.json", replace(seed, runs=("../../mine", "../runs/link", "..", "../runs/gone")))
    assert place.runs(place.seeds(experiment)) == []
    write_experiment_page(experiment, standings({}, [experiment])["pfc:x"], place)
    assert list(own.iterdir()) == []


def test_a_planted_link_is_not_written_through(tmp_path):
    experiment, place = made(measure=lambda work: Found(work.run("demo", *TINY).value("pfc1", 1))), Place(tmp_path / "theirs")
    own = tmp_path / "mine"
    own.mkdir()
    write_json(own / "seed=0.json", SeedFile(0, True, seconds=1.0))  # so that there is nothing to measure behind the link
    with pytest.raises(RunStopped):
        reproduce(experiment, place, [0], should_stop=lambda: True)
    (run,) = (place.out / "runs").iterdir()
    for path in (run, place.out / "runs", place.of(experiment)):
        path.rename(tmp_path / path.name)
        path.symlink_to(own)
        with pytest.raises(RunDirectoryError, match=f"{re.escape(path.name)} must be a folder, got a link to .*mine"):
            reproduce(experiment, place, [0], should_stop=lambda: True)  # told before anything is trained
        path.unlink()
        (tmp_path / path.name).rename(path)
    assert list(own.iterdir()) == [own / "seed=0.json"]


@pytest.mark.parametrize(
    ("points", "words"),
    [
        ([("a", f"line {i}", 0, 1) for i in range(101)], "needed at most 100 lines in its figure"),
        ([("a", "b", 0, 1e308)], "needed numbers of at most 1e+100 in its figure"),
        ([("a", "b", "\x1b[2J", 1)], "needed printable names of at most 200 characters in its figure"),
        ([("a", "b" * 201, 0, 1)], "needed printable names of at most 200 characters in its figure"),
    ],
)
def test_points_that_nobody_writes_are_refused(tmp_path, points, words):
    experiment, place = made(), Place(tmp_path)
    (seed,) = reproduce(experiment, place, [0])
    write_json(place.of(experiment) / "seed=0.json", replace(seed, points=tuple(Point(*point) for point in points)))
    with pytest.raises(ReportError, match=rf"seed=0\.json: {re.escape(words)}"):
        place.seeds(experiment)


def test_a_copied_seed_is_refused(tmp_path):
    experiment, place = made(), Place(tmp_path)
    reproduce(experiment, place, [0])
    folder = place.of(experiment)
    (folder / "seed=1.json").write_bytes((folder / "seed=0.json").read_bytes())
    with pytest.raises(ReportError, match=r"seed=1\.json: holds seed 0\. Delete it"):
        place.seeds(experiment)
