"""docs/findings.md holds no figure but those of docs/ledger.json, which is made of run directories, and no stale sentence."""

import ast
import json
import re
import runpy
from pathlib import Path

import pytest

from ncollapse.claims.ledger import ALL_CLAIMS

SOURCE = Path(__file__).parents[2] / "docs" / "write_findings.py"
# Names with digits, which are no figures: metrics, theorems, sections of the theory.
NAMES = r"MNIST-1D|mnist1d|PFC\d|NC\d|Conjecture 1|Theorems 1 to 3|1/L|\(\d\.\d+\)|95 %|\.3g"


@pytest.fixture(scope="module")
def module():
    return runpy.run_path(str(SOURCE))


@pytest.fixture(scope="module")
def ledger(module):
    return json.loads(module["LEDGER"].read_text())


def test_the_page_is_that_of_the_ledger(module, ledger):
    assert module["PAGE"].read_text() == module["render"](ledger), "run `make docs-pages`"


def test_no_figure_stands_in_the_text():
    words = [str(node.value) for node in ast.walk(ast.parse(SOURCE.read_text())) if isinstance(node, ast.Constant)]
    # What has no space is the key of a claim.
    assert [text for text in words if " " in text and re.search(r"\d", re.sub(NAMES, "", text))] == []


def test_a_sentence_goes_with_its_verdict(module, ledger):
    key, verdict, words = module["READINGS"][0]
    row = next(part["claims"][key] for part in ledger["papers"].values() if key in part["claims"])
    row["verdict"] = verdict
    assert words in module["render"](ledger)
    row["verdict"] = "undecided"
    assert words not in module["render"](ledger)


def test_the_ledger_rules_on_the_claims_as_they_are(module, ledger):
    """A claim that says something else needs its runs again."""
    claims = {claim.key: claim.statement for claim in ALL_CLAIMS}
    assert {key: row["statement"] for key, row in module["claims_of"](ledger).items()}.items() <= claims.items()
    shown = [key for _, *keys in (*module["BY_METRIC"], *module["SINGLE"]) for key in keys]
    assert {*shown, *module["BY_SETTING"], *(key for key, *_ in module["READINGS"])} <= module["claims_of"](ledger).keys()
