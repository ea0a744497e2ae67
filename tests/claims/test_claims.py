"""The ledger of claims: every verdict is reached from run directories, and by the rules."""

import csv
import json
import math
from html import unescape

import pytest
from scipy import stats

from ncollapse.claims import DEEP_CLAIMS, rule_on_claims
from ncollapse.claims.estimates import Estimate, share_estimate
from ncollapse.claims.ledger import ALL_CLAIMS
from ncollapse.claims.rules import Evidence, combine, judge_mean, judge_share
from ncollapse.cli import main
from ncollapse.records import ReportError
from ncollapse.report import ledger_lines, write_claims_page

EVIL = "</script><script>alert(1)</script>"
FALLING, RISING = (0.9, 0.5, 0.1), (0.9, 0.95, 0.1)


@pytest.fixture
def write_seed(make_run, edit):
    """A finished run of three layers in the terminal phase: all metrics rise over depth before training, fall after it."""

    def write(name, seed, *, decay=0.01, tau=8.0, straight=0.9, values=None, **last):
        run = make_run(name, layers=("stem", "blocks.0", "blocks.1"), epochs=(0, 5), seed=seed, bump=False, flagged=False)
        edit(run / "recipe.json", lambda recipe: recipe["train"].update(weight_decay=decay))
        edit(run / "status.json", lambda status: status.update(weight_decay_time=tau, first_perfect_epoch=3))

        def change(content):
            content["epochs"][-1].update(last)
            content["epochs"][-1]["straightness"]["mean"] = straight

        edit(run / "depth.json", change)
        table = {(0, metric): RISING for metric in ("pfc1", "pfc2", "pfc3_error")}
        table |= {(5, metric): FALLING for metric in ("pfc1", "pfc2", "pfc3_error")}
        set_values(run / "measurements.csv", table | (values or {}))
        return run

    return write


def set_values(file, values):
    with file.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    for row in rows:
        changed = values.get((int(row["epoch"]), row["metric"]))
        row["value"] = row["value"] if changed is None else repr(changed[int(row["depth"])])
    with file.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def rulings(folders):
    return {ruling.claim.key: ruling for ruling in rule_on_claims(folders).rulings}


def errors(line, null):
    one = {"line": {"pfc1": line, "pfc2": line}, "null": {"pfc1": null, "pfc2": null}}
    return {"prediction_error": {"projection": one, "index": one}}


def theorem2(monotone):
    return {"monotone": monotone, "intervals": [], "sufficient_a": None, "sufficient_b": None, "relative_cost": 1.0}


@pytest.fixture
def five(write_seed):
    """Five seeds: PFC2 falls in two of them; the line beats the null by 0.1 to 0.5 decades; the lines' PFC2 falls in four."""
    return [
        write_seed(
            f"seed{seed}",
            seed,
            values={} if seed < 2 else {(5, "pfc2"): RISING},
            theorem2=theorem2(seed < 4),
            **errors(0.1, 0.2 + 0.1 * seed),
        )
        for seed in range(5)
    ]


def test_every_claim_is_ruled_on_by_its_share_or_mean(five):
    found = rulings(five)
    keys = [claim.key for claim in ALL_CLAIMS]
    # Those with a verdict first, then those that no run could tell, at last those that no run bears on.
    assert list(found) == sorted(keys, key=lambda k: (found[k].verdict == "not testable here", found[k].evidence == ()))
    assert list(found)[:3] == ["terminal", "pfc1", "pfc1_all"]
    assert found[list(found)[-1]].evidence == ()
    assert {key: ruling.verdict for key, ruling in found.items()} == {
        "terminal": "holds",
        "pfc1": "holds", "pfc1_all": "holds", "pfc2": "fails", "pfc2_all": "fails", "pfc3": "holds", "pfc3_all": "holds",
        "order": "holds", "line_pfc1": "holds", "line_pfc2": "holds",
        "theorem1": "holds", "theorem1_line": "holds", "theorem2_line": "holds partly",
        **dict.fromkeys((
            "transport", "alignment", "weight_decay", "weight_decay_energy", "weight_decay_line", "decay_bound", "depth", "mse",
            "mse_line", "random_labels", "random_labels_order", "other_order", "other_line", "skip_connections",
            *(claim.key for claim in DEEP_CLAIMS),
        ), "not testable here"),
    }  # fmt: skip
    (pfc1,), (pfc2,), (line_fall,) = (found[key].evidence for key in ("pfc1", "pfc2", "theorem2_line"))
    assert pfc1.estimate == pytest.approx((1, 0.025**0.2, 1, 5))
    assert pfc2.estimate[:1] + pfc2.estimate[3:] == (0.4, 5)
    assert line_fall.estimate == share_estimate(4, 5)
    assert (pfc2.supporting, pfc2.opposing) == (tuple(map(str, five[:2])), tuple(map(str, five[2:])))
    projection, index = found["line_pfc1"].evidence
    reference = stats.ttest_1samp([0.1, 0.2, 0.3, 0.4, 0.5], 0).confidence_interval(0.95)
    assert projection.estimate == pytest.approx((0.3, reference.low, reference.high, 5))
    assert ("projection" in projection.statistic, "index" in index.statistic) == (True, True)
    assert found["weight_decay"].why == "no run fits"


def test_four_seeds_are_too_few(five):
    found = rulings(five[:4])
    assert {ruling.verdict for ruling in found.values()} == {"not testable here"}
    assert found["pfc1"].why == "4 seeds, 5 needed"
    assert found["pfc1"].evidence[0].estimate.n == 4


def test_what_rises_behind_the_effective_depth_breaks_no_conjecture(write_seed):
    values = {(5, "pfc3_error"): (0.3, 0.004, 0.02), (5, "pfc1"): (0.3, 0.1, 0.2), (5, "pfc2"): (0.3, 0.35, 0.2)}
    found = rulings([write_seed(f"seed{seed}", seed, values=values) for seed in range(5)])
    verdicts = {key: found[key].verdict for key in ("pfc1", "pfc1_all", "pfc2", "pfc2_all", "pfc3", "pfc3_all")}
    assert verdicts == {
        "pfc1": "holds", "pfc1_all": "fails", "pfc2": "fails", "pfc2_all": "fails", "pfc3": "holds", "pfc3_all": "fails",
    }  # fmt: skip


def test_undefined_values_and_empty_ranges_do_not_count(write_seed):
    """At effective depth 0 there is no step; where a layer is nan nothing is known of every step."""
    runs = [write_seed(f"seed{seed}", seed, values={(5, "pfc1"): (0.3, math.nan, 0.2)}) for seed in range(4)]
    runs.append(write_seed("seed4", 4, values={(5, "pfc3_error"): (0.0, 0.0, 0.0)}, theorem1=None))
    found = rulings(runs)
    assert found["pfc1"].evidence[0].estimate.n == 0
    assert found["pfc1"].why == "0 seeds, 5 needed; nothing to test in 5 runs"
    assert found["pfc1_all"].evidence[0].estimate.n == 1
    assert found["pfc2"].evidence[0].estimate.n == 4
    # The error of the nearest center is 0 at all layers of the last run.
    assert found["pfc3_all"].evidence[0].estimate.n == 4
    assert found["theorem1"].evidence[0].why == "4 seeds, 5 needed; nothing to test in 1 run"


def test_layers_that_do_nothing_do_not_progress(write_seed):
    found = rulings([write_seed(f"seed{seed}", seed, values={(5, "pfc1"): (0.4, 0.4, 0.4)}) for seed in range(5)])
    assert (found["pfc1_all"].verdict, found["pfc1_all"].evidence[0].estimate.value) == ("fails", 0)


def test_order_is_gained_by_the_share_of_rises_lost(write_seed):
    runs = [write_seed(f"seed{seed}", seed, values={(5, "pfc1"): RISING} if seed else {}) for seed in range(5)]
    (evidence,) = rulings(runs)["order"].evidence
    # Before training 3 of 6 steps rise; at the end none with seed 0, one with the others.
    expected = stats.ttest_1samp([3 / 6, 2 / 6, 2 / 6, 2 / 6, 2 / 6], 0).confidence_interval(0.95)
    assert evidence.estimate == pytest.approx((11 / 30, expected.low, expected.high, 5))
    still = {(0, metric): FALLING for metric in ("pfc1", "pfc2", "pfc3_error")}
    found = rulings([write_seed(f"still{seed}", seed, values=still) for seed in range(5)])
    assert found["order"].verdict == "fails"


@pytest.mark.parametrize(
    "status",
    [{"weight_decay_time": 3.9}, {"weight_decay_time": None}, {"train_accuracy": 0.9999}, {"first_perfect_epoch": 5},
     {"first_perfect_epoch": None}],
)  # fmt: skip
def test_runs_outside_the_terminal_phase_are_shown_and_do_not_count(five, edit, status):
    for run in five:
        edit(run / "status.json", lambda content: content.update(status))
    found = rulings(five)
    assert found["terminal"].verdict == "fails"
    assert found["pfc1"].verdict == "not testable here"
    assert found["pfc1"].why.startswith(
        "no run is in the terminal phase of training, which needs zero training error and a weight-decay time"
    )
    (evidence,) = found["pfc1"].evidence
    assert (evidence.counts, evidence.verdict, evidence.estimate.n) == (False, "holds", 5)
    words = "\n".join(ledger_lines(rule_on_claims(five, ALL_CLAIMS)))
    assert "n = 5: holds (5 runs outside the terminal phase); not counted." in words


def test_a_single_run_outside_the_terminal_phase_is_no_seed(five, edit):
    edit(five[0] / "status.json", lambda content: content.update(weight_decay_time=1.0))
    (evidence,) = rulings(five)["pfc1"].evidence
    assert (evidence.estimate.n, evidence.counts) == (4, True)
    assert evidence.why == "4 seeds, 5 needed; 1 run outside the terminal phase"


def test_weight_decay_is_paired_over_seeds(write_seed):
    """Seed 0 to 3 rank as the decays, seed 4 has one of three pairs wrong: tau 1/3; seed 5 lacks a decay."""
    runs = []
    for seed in range(6):
        order = (0.5, 0.6, 0.7) if seed != 4 else (0.5, 0.7, 0.6)
        runs += [
            write_seed(f"{decay}-{seed}", seed, decay=decay, straight=straight)
            for decay, straight in zip((0, 0.001, 0.01), order, strict=True)
            if (seed, decay) != (5, 0.01)
        ]
    ruling = rulings(runs)["weight_decay"]
    # The line-shape score of all runs is one: it ranks nothing.
    evidence, shape = ruling.evidence
    assert (shape.estimate.n, shape.verdict) == (0, "not testable here")
    reference = stats.ttest_1samp([1, 1, 1, 1, 1 / 3], 0).confidence_interval(0.95)
    assert evidence.estimate == pytest.approx((13 / 15, reference.low, 1.0, 5))
    assert reference.high > 1
    assert ruling.verdict == "holds"
    assert "0, 0.001, 0.01" in evidence.statistic
    assert len(evidence.supporting) == 15


def test_weight_decay_that_bends_fails(write_seed):
    runs = [write_seed(f"{decay}-{seed}", seed, decay=decay, straight=0.9 - decay) for seed in range(5) for decay in (0, 0.01)]
    assert rulings(runs)["weight_decay"].verdict == "fails"
    # Runs that differ in something else too are no pair.
    for run in runs[::2]:
        recipe = json.loads((run / "recipe.json").read_text())
        recipe["model"]["width"] = 8
        (run / "recipe.json").write_text(json.dumps(recipe))
    assert rulings(runs)["weight_decay"].why == "no run fits"


def test_settings_are_tested_apart(write_seed):
    """PFC1 falls with one decay in all seeds and with the other in none: the claim holds partly."""
    runs = [
        write_seed(f"{decay}-{seed}", seed, decay=decay, values={(5, "pfc1"): RISING} if decay == 0.02 else {})
        for seed in range(5)
        for decay in (0.01, 0.02)
    ]
    ruling = rulings(runs)["pfc1_all"]
    assert [(item.setting, item.verdict) for item in ruling.evidence] == [
        ("train.weight_decay=0.01", "holds"),
        ("train.weight_decay=0.02", "fails"),
    ]
    assert ruling.verdict == "holds partly"


def test_a_seed_counts_once_and_unfinished_runs_are_left_out(five, write_seed, edit):
    again, running = write_seed("again", 3), write_seed("running", 7)
    edit(running / "status.json", lambda status: status.update(state="running", epoch=4))
    ledger = rule_on_claims([*five, again, running, five[0]])
    assert ledger.runs == tuple(map(str, five))
    assert ledger.left_out == (
        (str(again), f"has the same settings and seed as {five[3]}, so it is not another sample"),
        (str(running), "dead at epoch 4 of 5"),
        (str(five[0]), f"has the same settings and seed as {five[0]}, so it is not another sample"),
    )


def test_a_sweep_stands_for_its_runs(five):
    folder = five[0].parent
    listed = [{"name": run.name, "settings": {}, "seed": seed} for seed, run in enumerate(five)]
    listed.append({"name": "missing", "settings": {}, "seed": 9})
    (folder / "sweep.json").write_text(json.dumps({"runs": listed}))
    ledger = rule_on_claims([folder])
    assert ledger.runs == tuple(map(str, five))
    assert ledger.left_out == ((str(folder / "missing"), "not begun"),)


def test_nothing_to_rule_on(tmp_path):
    with pytest.raises(ReportError, match=r"need at least one folder, got none\. Name run directories"):
        rule_on_claims([])
    with pytest.raises(ReportError, match="needed a run directory, found nothing"):
        rule_on_claims([tmp_path / "none"])


@pytest.mark.parametrize(
    ("right", "n", "verdict"),
    [(5, 5, "holds"), (4, 5, "holds partly"), (3, 5, "holds partly"), (2, 5, "fails"), (3, 6, "fails"),
     (4, 4, "not testable here"), (0, 4, "not testable here"), (0, 0, "not testable here")],
)  # fmt: skip
def test_rule_for_shares(right, n, verdict):
    assert judge_share(share_estimate(right, n))[0] == verdict


@pytest.mark.parametrize(
    ("low", "high", "n", "verdict", "why"),
    [(0.1, 0.3, 5, "holds", ""), (-0.3, -0.1, 5, "fails", ""), (0.0, 0.0, 5, "fails", ""),
     (-0.1, 0.3, 5, "not testable here", "the interval contains 0; more seeds are needed"),
     (0.1, 0.3, 4, "not testable here", "4 seeds, 5 needed")],
)  # fmt: skip
def test_rule_for_means(low, high, n, verdict, why):
    assert judge_mean(Estimate((low + high) / 2, low, high, n)) == (verdict, why)


@pytest.mark.parametrize(
    ("found", "verdict"),
    [("h h", "holds"), ("h f", "holds partly"), ("h u", "holds partly"), ("f u", "fails"), ("f f", "fails"),
     ("p", "holds partly"),
     ("p f", "holds partly"), ("u", "not testable here"), ("4", "not testable here"), ("h 4", "holds"), ("f 4", "fails"),
     ("h F", "holds"), ("H", "not testable here"), ("", "not testable here")],
)  # fmt: skip
def test_rule_for_claims(found, verdict):
    """h, p, f, u: holds, partly, fails, undecided with five seeds; 4: four seeds; capitals do not count."""
    verdicts = {"h": "holds", "p": "holds partly", "f": "fails", "u": "not testable here", "4": "not testable here"}
    evidence = [
        Evidence("", "", Estimate(0.5, 0, 1, 4 if word == "4" else 5), verdicts[word.lower()], "", not word.isupper(), (), ())
        for word in found.split()
    ]
    assert combine(evidence)[0] == verdict


def test_page_and_command_say_the_same(five, tmp_path, capsys):
    page = tmp_path / "pages" / "ledger.html"
    main(["claims", *map(str, five), "--out", str(page), "--json"])
    printed = json.loads(capsys.readouterr().out)
    ledger = rule_on_claims(five, ALL_CLAIMS)
    assert [(claim["key"], claim["verdict"]) for claim in printed["claims"]] == [
        (ruling.claim.key, ruling.verdict) for ruling in ledger.rulings
    ]
    pfc2 = next(claim for claim in printed["claims"] if claim["key"] == "pfc2")["evidence"][0]
    assert (pfc2["seeds"], pfc2["value"], pfc2["opposing"]) == (5, 0.4, list(map(str, five[2:])))
    assert printed["page"] == str(page)
    kept = json.loads((tmp_path / "pages" / "ledger.json").read_text())
    assert [(page.parent / name).resolve() for name in kept["runs"]] == [run.resolve() for run in five]
    main(["claims", *map(str, five), "--out", str(page), "--markdown"])
    table = capsys.readouterr().out.splitlines()
    assert len(table) == 2 + len(ALL_CLAIMS)
    row = next(line for line in table if line.startswith("| PFC2 progresses from layer to layer"))
    assert row.endswith("| fails | demo: share of seeds **0.4 [0.0527, 0.853]**, n = 5, fails |")
    assert all(line.count("|") == 4 for line in table)
    html = page.read_text(encoding="utf-8")
    assert all(claim.statement in unescape(html) for claim in ALL_CLAIMS)
    assert html.count('data-verdict="fails">fails') == 2
    main(["claims", *map(str, five)])
    words = capsys.readouterr().out
    assert "[fails] PFC2 progresses from layer to layer before the effective depth (Section III-A, Conjecture 1 (PFC2)" in words
    assert (
        "share of seeds 0.4 [0.0527, 0.853], n = 5: fails. Shown by: seed0 and seed1. Against it: seed2, seed3 and seed4."
        in words
    )
    assert words.splitlines()[-1] == f"Page: {five[0] / 'claims.html'}"
    silent = [claim["key"] for claim in printed["claims"] if not claim["evidence"]]
    assert f"[not testable here: no run fits] {len(silent)} further claims: {', '.join(silent)}." in words
    assert "deep_floor" in silent
    assert words.count("no run fits") == 1
    ledger, rest = html.split("Not testable here: no run fits")
    statements = {claim.key: claim.statement for claim in ALL_CLAIMS}
    assert all((statements[key] in unescape(rest)) is (key in silent) for key in statements)
    assert all((statements[key] in unescape(ledger)) is (key not in silent) for key in statements)


def test_no_name_can_break_the_page(write_seed, edit, tmp_path):
    runs = [write_seed(f"seed{seed}", seed) for seed in range(2)]
    edit(runs[0] / "recipe.json", lambda recipe: recipe["train"].update({EVIL: EVIL}))
    html = write_claims_page(rule_on_claims(runs), tmp_path / "claims.html").read_text(encoding="utf-8")
    assert "<script" not in html
    assert "&lt;script&gt;" in html
    assert "default-src 'none'" in html
    assert "script-src" not in html
