"""docs/findings.md has no number but those of docs/ledger.json, which is made of run directories, and no stale sentence."""

import ast
import importlib
import json
import re
from pathlib import Path

import pytest

from ncollapse.claims.ledger import ALL_CLAIMS

DOCS = Path(__file__).parents[2] / "docs"
SOURCES = [DOCS / "write_findings.py", *sorted(DOCS.glob("findings_*.py"))]
# Names with digits, which are no numbers: metrics, theorems, recipes, sections of the theory, formats.
NAMES = (
    r"MNIST-1D|mnist1d|PFC\d|NC\d|L-(?:RN|T1)\d|fig\d-(?:rn\d|(?:preln_)?t11)|(?:conj|thm|prop)\d|Conjecture 1|1/L"
    r"|Theorems 1 to 3|\(\d\.\d+\)|95 %|\.3g|pfc\d_\w+|\{pfc\d\w*\}|\{line_pfc\d\w*\}|two-sided|factors of ten"
    r"|\{?fig\d_(?:rn|t1|preln_t1)\d\w*\}?|deep_rn1_plain"
)
NUMBER_WORDS = "two three four five six seven eight nine ten eleven twelve thirteen twenty dozen hundred twice"


@pytest.fixture(scope="module")
def module(script):
    return script("write_findings")


@pytest.fixture
def ledger(module):
    return json.loads(module.LEDGER.read_text())


def numbers(text):
    """Find what looks like a number, as digits or as a word."""
    return re.findall(rf"\d|\b(?:{'|'.join(NUMBER_WORDS.split())})\b", re.sub(NAMES, "", text), re.IGNORECASE)


def test_the_page_is_that_of_the_ledger(module, ledger):
    assert module.PAGE.read_text() == module.render(ledger), "run `make docs-pages`"


def test_the_figures_are_those_of_the_ledger(module, ledger):
    figures = importlib.import_module("draw_claims").render(ledger)
    assert {name for name, text in figures.items() if (DOCS / "figures" / name).read_text() != text} == set()
    for name, text in figures.items():
        assert f"](figures/{name})" in module.PAGE.read_text()
        # Each row of the page's tables is in one figure.
        assert all(f">{paper}</text>" in "".join(figures.values()) for paper in ledger["papers"]), text


def test_a_figure_shows_value_interval_base_rate_and_verdict(module, ledger):
    draw = importlib.import_module("draw_claims")
    axis = draw.Axis(is_share=True)
    claim = {"value": 0.5, "low": 0.25, "high": 0.75, "verdict": "fails", "bases": {"before training": 1.0}}
    words = "".join(draw.row(100, "A claim", claim, axis))
    middle = axis.place(0.5)
    assert f'<rect x="{middle - 4.5}" y="95.5"' in words
    assert f'd="M{axis.place(0.25)} 100H{axis.place(0.75)}"' in words
    assert f'<text x="{axis.place(1.0)}" y="104"' in words
    assert axis.place(0.25) + axis.place(0.75) == pytest.approx(2 * middle, abs=0.2)
    # Means: square roots of the distance from 0, on both sides alike.
    means = draw.Axis(is_share=False)
    zero, quarter, one = (means.place(value) for value in (0.0, 0.25, 1.0))
    assert one - zero == pytest.approx(2 * (quarter - zero), abs=0.2)
    assert zero - means.place(-1.0) == pytest.approx(one - zero, abs=0.2)


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.name)
def test_no_number_stands_in_the_text(source):
    words = [str(node.value) for node in ast.walk(ast.parse(source.read_text())) if isinstance(node, ast.Constant)]
    # What has no space is the key of a claim.
    assert [text for text in words if " " in text and not text.startswith("Return") and numbers(text)] == []


def test_number_words_are_seen():
    assert numbers("in six of 8 settings, twice; PFC1 of one setting, 95 %, (3.3)") == ["six", "8", "twice"]


def test_a_sentence_goes_with_its_verdict(module, ledger):
    key, verdict, words = next(item for item in module.READINGS if item[0] == "pfc1")
    begins = words.partition("{")[0]
    row = next(part["claims"][key] for part in ledger["papers"].values() if key in part["claims"])
    row["verdict"] = verdict
    assert begins in module.render(ledger)
    row["verdict"] = "undecided"
    assert begins not in module.render(ledger)


@pytest.mark.parametrize("verdict", ["holds", "fails", "depends on the setting", "undecided", "not testable here"])
def test_every_sentence_can_be_filled(module, ledger, verdict):
    for part in ledger["papers"].values():
        for row in part["claims"].values():
            row["verdict"] = verdict
    page = module.render(ledger)
    assert "{" not in page
    sentences = [words for _, of, words in module.READINGS if of == verdict]
    assert [words for words in sentences if words.partition("{")[0] not in page] == []


def test_the_sentence_on_depth_says_each_verdict(module, script, ledger):
    claims = module.claims_of(ledger)
    for name, verdict in (("excess", "holds"), ("nc1", "fails"), ("nc2", "undecided"), ("nc3", "holds")):
        claims[f"deep_helps_{name}"]["verdict"] = verdict
    words = script("findings_depth").facts_of_depth(ledger, claims)["deep_verdicts"]
    assert words == "holds for the objective and NC3, fails for NC1 and is undecided for NC2"


def test_sentences_count_what_the_ledger_has(module, ledger):
    readings = importlib.import_module("findings_readings")
    claims = module.claims_of(ledger)
    claims["decay_energy"] |= {"value": 1 / 3, "low": 0.2, "high": 0.5}
    name = readings.chosen_settings(ledger)[0]
    claims["pfc2_all"]["by_setting"] = {
        "demo": {"value": 0.75, "seeds": 12},
        "demo, train.weight_decay=0.005": {"value": 1.0, "seeds": 10},
        "demo, model.normalization=none": {"value": 0.0, "seeds": 8},
        name: {"value": 0.5, "seeds": 12},
    }
    found = readings.facts(ledger, claims)
    assert found["energy_order"] == "of 6 pairs of decays 4 are in order on average"
    assert (found["pfc2_all_demo"], found["pfc2_all_unnormalized"]) == ("19 of 22", "0 of 8")
    assert found["pfc2_all_chosen"] == f"6 of 12 seeds ({readings.data_of(name)})"


def test_a_setting_of_several_sweeps_counts_once(module, ledger):
    names = {name for sweep in ledger["sweeps"].values() for name in sweep["settings"]}
    assert f"in {len(names)} settings" in module.render(ledger)
    assert len(names) < sum(len(sweep["settings"]) for sweep in ledger["sweeps"].values())


def test_the_ledger_rules_on_the_claims_as_they_are(module, script, ledger):
    tables = script("findings_tables")
    """A claim that says something else needs its runs again."""
    claims = {claim.key: claim.statement for claim in ALL_CLAIMS}
    assert {key: row["statement"] for key, row in module.claims_of(ledger).items()}.items() <= claims.items()
    shown = [key for _, *keys in (*tables.BY_METRIC, *tables.SINGLE) for key in keys]
    assert {*shown, *tables.BY_SETTING, *(key for key, *_ in module.READINGS)} <= module.claims_of(ledger).keys()


# What the README says of claims, line by line.
README = (
    ("pfc1", "pfc3", "pfc1_all", "pfc3_all", "order"),
    ("pfc2", "pfc2_all"),
    ("line_pfc1_projection", "theorem1_line"),
    ("line_pfc2_projection",),
    ("transport_near",),
    ("deep_helps_excess", "deep_helps_nc1", "deep_helps_nc3"),
)


def test_the_readme_has_the_verdicts_of_the_ledger(module, ledger):
    section = (DOCS.parent / "README.md").read_text().partition("## What is reproduced")[2].partition("\n## ")[0]
    lines = re.findall(r"^- (\w[\w ]*): ", section, re.MULTILINE)
    claims = module.claims_of(ledger)
    assert len(lines) == len(README)
    assert [(line, key) for line, keys in zip(lines, README, strict=True) for key in keys
            if claims[key]["verdict"] != line.lower()] == []  # fmt: skip


def test_networks_that_depth_helps_are_counted_once_however_they_are_rounded(script):
    commands = {
        "plain": "sweep deep_rn1_plain --over model.num_blocks=1,4",
        "rounded": "sweep deep_rn1_plain --over model.num_blocks=1,4 --set model.norm_rounding=0.1",
        "falling": "sweep deep_rn2_small --over model.num_blocks=1,4 --set model.norm_rounding=0.1",
        "second arm": "sweep deep_rn2_small --over train.weight_decay=0.1 --set model.norm_rounding=0.2",
        "control": "sweep deep_rn1_plain --over model.num_blocks=1,4 --set model.linear_layers=2",
    }
    count = script("findings_depth").networks_of_depth

    def sweeps(*names):
        return {"sweeps": {name: {"command": commands[name], "data": ["digits"], "depths": [0]} for name in names}}

    assert count(sweeps(*commands)).startswith("These settings are 2 combinations of ")
    assert count(sweeps("plain", "falling", "second arm", "control")) == ""


def test_where_the_decay_falls_its_own_share_of_the_fall_is_taken_out(script):
    """The excess over λ is the same everywhere, so that all of its fall from 8 to 1 is that of λ."""
    rest = {"nc2_etf_weights": 1.0, "nc3_cosine": 1.0}
    entries = [{"blocks": blocks, "decay": decay, "excess/λ": 2.0, "pfc1": nc1, **rest}
               for blocks, decay, nc1 in ((1, 0.8, 1.0), (8, 0.1, 0.01))]  # fmt: skip
    alone = [{"blocks": 1, "decay": decay, "excess/λ": 2.0, "pfc1": 0.1, **rest} for decay in (0.4, 0.1)]
    command = "ncollapse sweep deep_rn2_small --over {}=1,2 --set model.norm_rounding=0.1"
    ledger = {"sweeps": {field: {"command": command.format(field), "data": ["digits"], "depths": depths}
                         for field, depths in (("model.num_blocks", entries), ("train.weight_decay", alone))}}  # fmt: skip
    *_, whole, alone, last = script("findings_tables").falls_with_decay(ledger)
    network = "L-RN2 with λ ∝ 1/L, digits, cross-entropy, normalization rounded within 0.1"
    assert whole == f"| {network} | 1 to 8 | in all | 0.90 | 2.00 | 0.00 | 0.00 |"
    assert alone == f"| {network} | 1 to 8 | from one block with the λ of L = 8 | 0.00 | 1.00 | 0.00 | 0.00 |"
    assert last == ""
    assert script("findings_tables").falls_with_decay({"sweeps": {}}) == []


def test_only_settings_with_a_vote_have_a_place_in_the_range(script):
    votes = {"a": {"value": 0.25, "stands": "wrong"}, "b": {"value": 0.5, "stands": "open"}, "c": {"value": 1, "stands": ""}}
    between = script("findings_tables").between_settings
    assert between({"is_share": True, "by_setting": votes}) == "25 to 50 %"
    assert between({"is_share": False, "by_setting": votes}) == "0.25 to 0.5"
    assert between({"is_share": False, "by_setting": {"a": votes["a"], "c": votes["c"]}}) == "–"


def test_new_seeds_stand_beside_the_same_settings(module, ledger):
    """The column in the middle: the mean over the settings that were repeated, of the runs above."""
    claims, repeated = module.claims_of(ledger), ledger["again"]["claims"]["line_pfc1_projection"]
    above = claims["line_pfc1_projection"]
    values = [above["by_setting"][name]["value"] for name in repeated["by_setting"]]
    assert 0 < len(values) < len(above["by_setting"])
    line = next(line for line in module.again(ledger) if line.startswith(f"| {above['statement']} |"))
    assert f"| {sum(values) / len(values):.3g} |" in line
