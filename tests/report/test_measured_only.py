"""A network that was measured and not trained here: its page, a comparison and the claims say so, and show no training."""

import re

import pytest

from ncollapse.claims import rule_on_claims
from ncollapse.drawing import describe, summarize
from ncollapse.records import read_run
from ncollapse.records.recipe_settings import differing_settings
from ncollapse.report import ledger_lines, write_comparison, write_report

WORDS = "a network that was measured, not trained here"


@pytest.fixture
def measured(make_run, edit):
    """Write what `ncollapse measure --path --out` writes."""

    def write(name):
        folder = make_run(name, epochs=(5,), layers=("stem", "blocks.0", "blocks.1"))
        (folder / "recipe.json").unlink()
        history = folder / "history.csv"
        history.write_text(history.read_text().splitlines(keepends=True)[0])
        edit(folder / "environment.json", lambda content: content.update(network="mine:make", data="mine:batches"))
        edit(
            folder / "status.json", lambda content: content.update(first_perfect_epoch=5, weight_decay_time=None, seconds=None)
        )
        return folder

    return write


def seen(html):
    """The page without its script, data and style."""
    return re.sub(r"(?s)<(script|style).*?</\1>", "", html)


def test_its_page_shows_no_training(measured):
    folder = measured("mine")
    run, page = read_run(folder), seen(write_report([folder]).read_text(encoding="utf-8"))
    assert run.is_measured_only
    assert "Folder mine: network mine:make, data mine:batches, 3 layers; measured, not trained here." in page
    assert "This is a network that was measured, not trained here. Its accuracy on the split train is 100.00 %." in page
    assert "Its weights are those of epoch 5." in page
    for absent in ("Training:", "epoch 0", "Over training", "What was found at epoch", "Epoch 5", "seed unknown"):
        assert absent not in page, absent
    # What is hidden is there for the script alone.
    assert re.findall(r"<(button|output)[^>]*>", page) == re.findall(r"<(button|output)[^>]* hidden>", page)
    assert "<label hidden>Epoch" in page
    drawings = re.findall(r'<svg[^>]*aria-label="([^"]*)"', page)
    assert len(drawings) == 6
    assert all("over depth" in label for label in drawings)
    assert "<dt>NC3</dt><dd>0.02<small>classifier against class means</small></dd>" in page
    assert "<summary>Split train: " in page
    assert {file.stem for file in (folder / "figures").iterdir()} == {"pfc_over_depth"}
    for said in (summarize(run), describe(run)):
        assert WORDS in said[0]
        assert "zero error" not in " ".join(said)


def test_a_run_has_its_controls_and_panels(shared_run, tmp_path):
    run, page = read_run(shared_run), seen(write_report([shared_run], tmp_path / "page.html").read_text(encoding="utf-8"))
    assert not run.is_measured_only
    assert " hidden>Play" not in page
    assert "Over training" in page


def test_a_comparison_names_it_and_compares_the_settings_of_recipes_only(measured, make_run, edit, tmp_path, without_drawings):
    alone = seen(write_comparison([measured("mine"), measured("yours")], tmp_path / "a.html").read_text(encoding="utf-8"))
    assert "sets the runs apart" not in alone
    assert "Over training" not in alone
    assert re.findall(r'<th scope="col">(\w+)<small>\w+, ([^<]*)</small>', alone) == [("mine", WORDS), ("yours", WORDS)]
    runs = [make_run(name, layers=("stem", "blocks.0", "blocks.1"), epochs=(0, 5)) for name in ("one", "two")]
    edit(runs[1] / "recipe.json", lambda content: content["train"].update(learning_rate=0.05))
    folders = [*runs, measured("third")]
    assert differing_settings([read_run(folder) for folder in folders]) == [
        [("train.learning_rate", "0.1")],
        [("train.learning_rate", "0.05")],
        [],
    ]
    mixed = seen(write_comparison(folders, tmp_path / "b.html").read_text(encoding="utf-8"))
    headings = re.findall(r'<th scope="col">([^<]+)<small>', mixed.replace("<wbr>", ""))
    assert headings == 2 * ["train.learning_rate=0.1", "train.learning_rate=0.05", "third"]
    assert mixed.count("measured at one epoch only") == 3
    many = {f"field_{index}": 0.0 for index in range(9)}
    edit(runs[1] / "recipe.json", lambda content: content["train"].update(many))
    lettered = seen(write_comparison(folders, tmp_path / "c.html").read_text(encoding="utf-8"))
    assert re.findall(r'<th scope="col">([^<]+)<small>', lettered)[:3] == ["A: demo", "B: demo", "C: third"]
    assert "What sets the runs apart: 10 settings" in lettered
    row = re.search(r'<th scope="row">train.learning_rate</th>(.*?)</tr>', lettered)[1]
    assert re.findall(r">([^<]+)</td>", row) == ["0.1", "0.05", "–"]


def test_claims_leave_it_out(measured):
    folder = measured("mine")
    ledger = rule_on_claims([folder])
    assert ledger.runs == ()
    assert not any(ruling.evidence for ruling in ledger.rulings)
    assert ledger_lines(ledger)[1] == f"Of {len(ledger.rulings)} claims: {len(ledger.rulings)} not testable with these runs."
    assert ledger_lines(ledger)[2] == f"Left out: {folder}: {WORDS}; the claims are about training"
