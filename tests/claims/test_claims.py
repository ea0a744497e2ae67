"""The ledger of claims: every verdict is reached from run directories, and by the rules."""

import csv
import json
import math
from html import unescape

import pytest
from scipy import stats

from ncollapse.claims import RULES, rule_on_claims
from ncollapse.claims.estimates import share_estimate
from ncollapse.claims.ledger import ALL_CLAIMS
from ncollapse.cli import main
from ncollapse.records import ReportError
from ncollapse.report import ledger_lines, write_claims_page
from run_files import set_train_accuracy

EVIL = "</script><script>alert(1)</script>"
FALLING, RISING = (0.9, 0.7, 0.5, 0.1), (0.9, 0.95, 0.97, 0.1)
LAYERS = ("stem", "blocks.0", "blocks.1", "blocks.2")
N = RULES.least_draws


@pytest.fixture
def write_seed(make_run, edit):
    """A finished run of four layers in the terminal phase: all metrics rise over depth before training, fall after it."""

    def write(name, seed, *, decay=0.01, tau=8.0, straight=0.9, values=None, **last):
        run = make_run(name, layers=LAYERS, epochs=(0, 5), seed=seed, bump=False, flagged=False)
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
def twelve(write_seed):
    """Twelve seeds: PFC2 falls in one; the line beats the null by 0.1 to 1.2 decades; its PFC2 falls in 9, PFC3 never in 6."""
    return [
        write_seed(
            f"seed{seed}",
            seed,
            values={} if seed < 1 else {(5, "pfc2"): RISING},
            theorem2=theorem2(seed < 9),
            theorem3={"guaranteed": True, "violating_pairs": 0, "num_pairs": 9, "num_falls": seed // 6, "num_steps": 100},
            **errors(0.1, 0.2 + 0.1 * seed),
        )
        for seed in range(N)
    ]


def test_every_claim_is_ruled_on_by_its_share_or_mean(twelve):
    found = rulings(twelve)
    verdicts = {key: ruling.verdict for key, ruling in found.items() if ruling.evidence}
    assert verdicts == {
        "terminal": "holds",
        "pfc1": "holds", "pfc1_all": "holds", "pfc2": "fails", "pfc2_all": "fails", "pfc3": "holds", "pfc3_all": "holds",
        "order_gradual": "not testable here",
        "order": "holds", "line_pfc1_projection": "holds", "line_pfc1_index": "holds", "line_pfc2_projection": "holds",
        "line_pfc2_index": "holds", "theorem1": "check passed", "theorem1_line": "undecided", "theorem2_line": "undecided",
        "theorem3": "holds", "theorem3_line": "undecided", "transport_exact": "not testable here",
        "transport_near": "not testable here", "alignment": "not testable here", "decay_bound": "not testable here",
        "flow_line": "not testable here", "flow_baseline": "not testable here", "nc0": "not testable here",
    }  # fmt: skip
    assert set(found) == {claim.key for claim in ALL_CLAIMS}
    # By verdict; those that no run bears on come last.
    assert list(found)[:3] == ["terminal", "pfc1", "pfc1_all"]
    assert found[list(found)[-1]].evidence == ()
    (pfc1,), (pfc2,) = (found[key].evidence for key in ("pfc1", "pfc2"))
    assert pfc1.estimate == pytest.approx((1, 0.025 ** (1 / N), 1, N))
    assert found["theorem2_line"].row.estimate == share_estimate(9, N)
    assert found["theorem3_line"].row.estimate == share_estimate(6, N)
    assert found["theorem3"].row.bases[0].value == found["theorem3_line"].row.bases[0].value == 0
    assert (pfc2.supporting, pfc2.opposing) == (tuple(map(str, twelve[:1])), tuple(map(str, twelve[1:])))
    reference = stats.ttest_1samp([0.1 * i for i in range(1, N + 1)], 0)
    interval = reference.confidence_interval(0.95)
    assert found["line_pfc1_projection"].row.estimate == pytest.approx((0.65, interval.low, interval.high, N))
    assert found["decay_energy"].why == "no run fits"


def test_base_rates_are_those_of_the_run_before_training_and_of_its_layers_in_random_order(twelve, write_seed):
    row = rulings(twelve)["pfc1_all"].row
    assert [(base.name, base.value) for base in row.bases] == [
        ("before training", 0.0),
        ("layers in random order", pytest.approx(1 / 24)),
    ]
    assert row.steps == (3, 3)
    # Before training PFC1 falls too; two of the four values are equal, which two orders share.
    early, late = {(0, "pfc1"): FALLING}, {(5, "pfc1"): (0.9, 0.5, 0.5, 0.1)}
    found = rulings([write_seed(f"early{seed}", seed, values=early | late) for seed in range(N)])["pfc1_all"]
    assert [base.value for base in found.row.bases] == [1.0, pytest.approx(2 / 24)]
    assert (found.verdict, found.why) == ("undecided", "no better than before training")
    # Up to the effective depth the last error of PFC3 is the smallest by definition: of three others six orders.
    errors = {(5, "pfc3_error"): (0.4, 0.3, 0.2, 0.0)}
    found = rulings([write_seed(f"reached{seed}", seed, values=errors) for seed in range(N)])
    chances = {key: found[key].row.bases[1].value for key in ("pfc3", "pfc3_all")}
    assert chances == pytest.approx({"pfc3": 1 / 6, "pfc3_all": 1 / 24})
    # The line that Theorem 1 is about falls before training in the made-up runs.
    assert rulings(twelve)["theorem1_line"].why == "no better than before training"


def test_an_order_appears_gradually_if_more_steps_fall_later(make_run, edit):
    def seeds(name, shares):
        """Twelve runs whose PFC1 to PFC3 rise at so many of three steps, first before training and then at each epoch."""
        folders, epochs = [], tuple(range(len(shares)))
        over_depth = {3: (1, 2, 3, 4), 2: (1, 2, 3, 2), 1: (1, 2, 1, 0.5), 0: (4, 3, 2, 1)}
        table = {(epoch, key): over_depth[k] for epoch, k in enumerate(shares) for key in ("pfc1", "pfc2", "pfc3_error")}
        for seed in range(N):
            run = make_run(f"{name}{seed}", layers=LAYERS, epochs=epochs, seed=seed, bump=False, flagged=False)
            edit(run / "recipe.json", lambda recipe: recipe["train"].update(weight_decay=0.01))
            edit(run / "status.json", lambda status: status.update(weight_decay_time=8.0, first_perfect_epoch=1))
            set_values(run / "measurements.csv", table)
            folders.append(run)
        return rulings(folders)["order_gradual"]

    gradual, back = seeds("gradual", (3, 3, 3, 2, 2, 1, 1, 0, 0)), seeds("back", (3, 0, 0, 1, 1, 2, 2, 3, 3))
    # Kendall's tau-b of eight times with four pairs of ties: 24 of 28 pairs agree, and none is against it.
    assert (gradual.verdict, gradual.row.estimate.value) == ("holds", pytest.approx(24 / math.sqrt(28 * 24)))
    assert (back.verdict, back.row.estimate.value) == ("fails", pytest.approx(-24 / math.sqrt(28 * 24)))
    # An order that is there after the first epoch has not come gradually, and few epochs say nothing.
    for name, shares in (("sudden", (3, 0, 0, 0, 0, 0, 0, 0, 0)), ("few", (3, 3, 2, 2, 1, 1, 0, 0))):
        ruling = seeds(name, shares)
        assert (ruling.verdict, ruling.row.estimate.n) == ("not testable here", 0)


def test_eleven_seeds_are_too_few(twelve):
    found = rulings(twelve[:11])
    assert {ruling.verdict for ruling in found.values()} == {"not testable here", "check passed"}
    assert found["pfc1"].why == "11 seeds, 12 needed"
    assert found["pfc1"].row.estimate.n == 11


def test_what_rises_behind_the_effective_depth_breaks_no_conjecture(make_run, edit):
    """Up to the fourth of five layers there are three steps."""
    runs = []
    for seed in range(N):
        run = make_run(f"run{seed}", layers=(*LAYERS, "blocks.3"), epochs=(0, 5), seed=seed, bump=False, flagged=False)
        edit(run / "status.json", lambda status: status.update(weight_decay_time=8.0, first_perfect_epoch=3))
        table = {(0, metric): (0.9, 0.95, 0.8, 0.9, 0.1) for metric in ("pfc1", "pfc2", "pfc3_error")}
        table |= {(5, "pfc3_error"): (0.3, 0.2, 0.1, 0.004, 0.02), (5, "pfc1"): (0.3, 0.2, 0.15, 0.1, 0.2)}
        set_values(run / "measurements.csv", table | {(5, "pfc2"): (0.3, 0.35, 0.2, 0.2, 0.2)})
        runs.append(run)
    found = rulings(runs)
    assert {key: found[key].verdict for key in ("pfc1", "pfc1_all", "pfc2", "pfc2_all", "pfc3", "pfc3_all")} == {
        "pfc1": "holds", "pfc1_all": "fails", "pfc2": "fails", "pfc2_all": "fails", "pfc3": "holds", "pfc3_all": "fails",
    }  # fmt: skip
    assert (found["pfc1"].row.steps, found["pfc1_all"].row.steps) == ((3, 3), (4, 4))


def test_fewer_than_three_steps_are_no_order(write_seed):
    values = {(5, "pfc3_error"): (0.3, 0.1, 0.004, 0.0)}
    found = rulings([write_seed(f"seed{seed}", seed, values=values) for seed in range(N)])
    assert (found["pfc1"].verdict, found["pfc1"].row.estimate.n) == ("not testable here", 0)
    assert found["pfc1"].why == "0 seeds, 12 needed; nothing to test in 12 of them"
    assert found["pfc1_all"].verdict == "holds"


def test_undefined_values_do_not_count(write_seed):
    """Where a layer is nan nothing is known of every step."""
    runs = [write_seed(f"seed{seed}", seed, values={(5, "pfc1"): (0.3, 0.2, math.nan, 0.2)}) for seed in range(4)]
    runs.append(write_seed("seed4", 4, values={(5, "pfc3_error"): (0.0, 0.0, 0.0, 0.0)}, theorem1=None))
    found = rulings(runs)
    assert found["pfc1_all"].row.estimate.n == 1
    assert found["pfc2_all"].row.estimate.n == 5
    # The error of the nearest center is 0 at all layers of the last run.
    assert found["pfc3_all"].row.estimate.n == 4
    assert found["theorem1"].row.estimate.n == 4
    assert found["pfc1_all"].why == "1 seed, 12 needed; nothing to test in 4 of them"


def test_layers_that_do_nothing_do_not_progress(write_seed):
    found = rulings([write_seed(f"seed{seed}", seed, values={(5, "pfc1"): (0.4, 0.4, 0.4, 0.4)}) for seed in range(N)])
    assert (found["pfc1_all"].verdict, found["pfc1_all"].row.estimate.value) == ("fails", 0)


def test_order_is_gained_by_the_share_of_rises_lost(write_seed):
    runs = [write_seed(f"seed{seed}", seed, values={(5, "pfc1"): RISING} if seed else {}) for seed in range(N)]
    row = rulings(runs)["order"].row
    # Before training 6 of 9 steps rise; at the end none with seed 0, two with the others.
    expected = stats.ttest_1samp([6 / 9, *[4 / 9] * (N - 1)], 0).confidence_interval(0.95)
    assert row.estimate == pytest.approx(((6 + 4 * (N - 1)) / 9 / N, expected.low, expected.high, N))
    # Of layers in random order half of the steps rise.
    assert [(base.name, base.value) for base in row.bases] == [("layers in random order", pytest.approx(6 / 9 - 1 / 2))]
    # Between equal layers no step rises: PFC3 has three of six pairs that differ, the others all.
    flat = {(5, "pfc3_error"): (0.2, 0.0, 0.0, 0.0)}
    tied = rulings([write_seed(f"tied{seed}", seed, values=flat) for seed in range(N)])["order"].row
    assert [base.value for base in tied.bases] == [pytest.approx(6 / 9 - 15 / 18 / 2)]
    wild = {(5, metric): (0.1, 0.5, 0.9, 0.7) for metric in ("pfc1", "pfc3_error")}
    found = rulings([write_seed(f"wild{seed}", seed, values=wild | {(5, "pfc2"): RISING}) for seed in range(N)])
    assert found["order"].verdict == "undecided"
    still = {(0, metric): FALLING for metric in ("pfc1", "pfc2", "pfc3_error")}
    found = rulings([write_seed(f"still{seed}", seed, values=still) for seed in range(N)])
    assert found["order"].verdict == "undecided"


@pytest.mark.parametrize(
    "status",
    [{"weight_decay_time": 1.9}, {"weight_decay_time": None}, {"train_accuracy": 0.9999}, {"first_perfect_epoch": 5},
     {"first_perfect_epoch": None}],
)  # fmt: skip
def test_runs_outside_the_terminal_phase_do_not_count(twelve, edit, status):
    for run in twelve:
        edit(run / "status.json", lambda content: content.update(status))
        set_train_accuracy(run, status.get("train_accuracy", 1.0))
    found = rulings(twelve)
    assert found["terminal"].verdict == "fails"
    assert (found["pfc1"].verdict, found["pfc1"].outside, found["pfc1"].row.estimate.n) == ("not testable here", N, 0)
    assert found["pfc1"].why.startswith(
        "no run is in the terminal phase of training, which needs zero training error and a weight-decay time"
    )
    # What hangs on the bound of the time is shown: from 0 on runs without training error count whatever it is.
    shown = {tau: row.estimate.n for tau, row in found["pfc1"].sensitivity}
    assert shown == {0.0: N if "weight_decay_time" in status else 0, 4.0: 0, 8.0: 0}


def test_other_bounds_of_the_terminal_phase_are_shown(twelve, edit):
    for seed, run in enumerate(twelve):
        edit(run / "status.json", lambda content, tau=seed: content.update(weight_decay_time=float(tau)))
    ruling = rulings(twelve)["pfc2"]
    assert (ruling.row.estimate.n, ruling.outside) == (N - 2, 2)
    assert [(tau, row.estimate) for tau, row in ruling.sensitivity] == [
        (0.0, share_estimate(1, N)), (4.0, share_estimate(0, 8)), (8.0, share_estimate(0, 4))
    ]  # fmt: skip
    words = "\n".join(ledger_lines(rule_on_claims(twelve)))
    assert (
        "With another bound of the terminal phase than τ ≥ 2: 1 of 12 [0.0021, 0.38] from τ ≥ 0, 0 of 8 (≤ 0.37) from" in words
    )
    assert "2 runs outside the terminal phase not counted." in words


def test_weight_decay_is_paired_over_seeds(write_seed):
    """Seeds rank as the decays, but for seed 4 with one of three pairs wrong, tau 1/3; the last seed lacks a decay."""
    runs = []
    for seed in range(N + 1):
        order = (0.5, 0.6, 0.7) if seed != 4 else (0.5, 0.7, 0.6)
        runs += [
            write_seed(f"{decay}-{seed}", seed, decay=decay, straight=straight)
            for decay, straight in zip((0, 0.001, 0.01), order, strict=True)
            if (seed, decay) != (N, 0.01)
        ]
    found = rulings(runs)
    # The line-shape score of all runs is one: it ranks nothing.
    assert (found["decay_shape"].row.estimate.n, found["decay_shape"].verdict) == (0, "not testable here")
    row = found["decay_straightness"].row
    reference = stats.ttest_1samp([*[1] * (N - 1), 1 / 3], 0).confidence_interval(0.95)
    assert row.estimate == pytest.approx(((N - 1 + 1 / 3) / N, reference.low, 1.0, N))
    assert reference.high > 1
    assert found["decay_straightness"].verdict == "holds"
    (evidence,) = found["decay_straightness"].evidence
    assert "0, 0.001, 0.01" in evidence.statistic
    assert len(evidence.supporting) == 3 * N


def test_weight_decay_that_bends_fails(write_seed):
    runs = [write_seed(f"{decay}-{seed}", seed, decay=decay, straight=0.9 - decay) for seed in range(N) for decay in (0, 0.01)]
    assert rulings(runs)["decay_straightness"].verdict == "fails"
    # Runs that differ in something else too are no pair.
    for run in runs[::2]:
        recipe = json.loads((run / "recipe.json").read_text())
        recipe["model"]["width"] = 8
        (run / "recipe.json").write_text(json.dumps(recipe))
    assert rulings(runs)["decay_straightness"].why == "no run fits"


def test_settings_that_disagree_are_named(write_seed):
    """PFC1 falls with one decay and not with the other; what is measured of a run makes no setting."""
    runs = [
        write_seed(f"{decay}-{seed}", seed, decay=decay, values={(5, "pfc1"): RISING} if decay == 0.02 else {})
        for seed in range(N)
        for decay in (0.01, 0.02)
    ]
    for run in runs[::3]:
        recipe = json.loads((run / "recipe.json").read_text())
        recipe["measure"]["transport_samples"] = 7
        (run / "recipe.json").write_text(json.dumps(recipe))
    ruling = rulings(runs)["pfc1_all"]
    assert [(item.setting, item.estimate.value, stands) for item, stands in ruling.settings] == [
        ("train.weight_decay=0.01", 1.0, "right"),
        ("train.weight_decay=0.02", 0.0, "wrong"),
    ]
    assert (ruling.verdict, ruling.row.estimate.value) == ("depends on the setting", 0.5)
    assert ruling.why == "right in (train.weight_decay=0.01); wrong in (train.weight_decay=0.02)"
    words = "\n".join(ledger_lines(rule_on_claims(runs)))
    assert "[depends on the setting] PFC1 progresses over all measured layers: 50 % [" in words
    assert f"{N} seeds from 2 settings: 1 right, 1 wrong." in words


def test_claims_that_no_run_counts_for_are_listed_once(twelve, edit):
    for run in twelve:
        edit(run / "status.json", lambda content: content.update(weight_decay_time=0.5))
    listed = [line for line in ledger_lines(rule_on_claims(twelve)) if line.startswith("[not testable here]")]
    assert [" claims: no run is in the terminal phase" in line for line in listed] == [True]


def test_a_seed_that_was_measured_in_two_ways_counts_once(write_seed, edit):
    """Of one setting, since only what was measured differs; a recipe that leaves out a default is no other sample at all."""
    runs = [write_seed(f"seed{seed}", seed) for seed in range(N)]
    again, older = write_seed("again", 0), write_seed("older", 1)
    edit(again / "recipe.json", lambda recipe: recipe["measure"].update(transport_samples=7))
    edit(older / "recipe.json", lambda recipe: recipe["train"].update(balance="none"))
    ledger = rule_on_claims([*runs, again, older])
    assert [path for path, _ in ledger.left_out] == [str(older)]
    (evidence,) = next(ruling for ruling in ledger.rulings if ruling.claim.key == "pfc1_all").evidence
    assert (evidence.estimate.n, len(evidence.supporting), evidence.silent) == (N, N + 1, 0)


def test_a_recipe_without_a_younger_field_is_no_other_setting(write_seed):
    runs = [write_seed(f"seed{seed}", seed) for seed in range(N)]
    recipe = json.loads((runs[0] / "recipe.json").read_text())
    recipe["train"] |= {"balance": "none", "optimizer": "sgd"}
    (runs[0] / "recipe.json").write_text(json.dumps(recipe))
    assert len(rulings(runs)["pfc1_all"].evidence) == 1
    recipe["train"]["balance"] = "weights"
    (runs[0] / "recipe.json").write_text(json.dumps(recipe))
    assert len(rulings(runs)["pfc1_all"].evidence) == 2


def test_a_seed_counts_once_and_unfinished_runs_are_left_out(twelve, write_seed, edit):
    again, running = write_seed("again", 3), write_seed("running", 17)
    edit(running / "status.json", lambda status: status.update(state="running", epoch=4))
    ledger = rule_on_claims([*twelve, again, running, twelve[0]])
    assert ledger.runs == tuple(map(str, twelve))
    assert ledger.left_out == (
        (str(again), f"has the same settings and seed as {twelve[3]}, so it is not another sample"),
        (str(running), "dead at epoch 4 of 5"),
        (str(twelve[0]), f"has the same settings and seed as {twelve[0]}, so it is not another sample"),
    )


def test_a_sweep_stands_for_its_runs(twelve):
    folder = twelve[0].parent
    listed = [{"name": run.name, "settings": {}, "seed": seed} for seed, run in enumerate(twelve)]
    listed.append({"name": "missing", "settings": {}, "seed": 19})
    (folder / "sweep.json").write_text(json.dumps({"runs": listed}))
    ledger = rule_on_claims([folder])
    assert ledger.runs == tuple(map(str, twelve))
    assert ledger.left_out == ((str(folder / "missing"), "not begun"),)


def test_nothing_to_rule_on(tmp_path):
    with pytest.raises(ReportError, match=r"need at least one folder, got none\. Name run directories"):
        rule_on_claims([])
    with pytest.raises(ReportError, match="needed a run directory, found nothing"):
        rule_on_claims([tmp_path / "none"])


def test_page_and_command_say_the_same(twelve, tmp_path, capsys):
    page = tmp_path / "pages" / "ledger.html"
    main(["claims", *map(str, twelve), "--out", str(page), "--json"])
    printed = json.loads(capsys.readouterr().out)
    ledger = rule_on_claims(twelve)
    assert [(claim["key"], claim["verdict"]) for claim in printed["claims"]] == [
        (ruling.claim.key, ruling.verdict) for ruling in ledger.rulings
    ]
    pfc2 = next(claim for claim in printed["claims"] if claim["key"] == "pfc2")
    assert (pfc2["seeds"], pfc2["value"], pfc2["evidence"][0]["opposing"]) == (N, 1 / N, list(map(str, twelve[1:])))
    assert (printed["rules_dated"], pfc2["steps"], len(pfc2["sensitivity"])) == (RULES.dated, [3, 3], 3)
    assert printed["page"] == str(page)
    kept = json.loads((tmp_path / "pages" / "ledger.json").read_text())
    assert [(page.parent / name).resolve() for name in kept["runs"]] == [run.resolve() for run in twelve]
    main(["claims", *map(str, twelve), "--out", str(page), "--markdown"])
    table = capsys.readouterr().out.splitlines()
    start, end = table.index("<details>"), table.index("</details>")
    tables = table[: start - 1], table[start + 3 : end - 1]
    row, details = (next(line for line in lines if line.startswith("| PFC2 progresses from layer")) for lines in tables)
    assert row.endswith("| fails | 1 of 12 [0.0021, 0.38] | 1 setting, 12 seeds |")
    assert "| 1 wrong | – |" in details
    steps = next(ruling.row.steps for ruling in ledger.rulings if ruling.claim.key == "pfc2")
    assert f"| {' to '.join(map(str, dict.fromkeys(steps)))} | before training " in details
    for lines in tables:
        assert len({line.count("|") for line in lines}) == 1
        assert len(lines) == 2 + sum(ruling.row.estimate.n > 0 for ruling in ledger.rulings)
    html = unescape(page.read_text(encoding="utf-8"))
    failed = sum(ruling.verdict == "fails" for ruling in ledger.rulings)
    assert html.count('data-verdict="fails">fails') == failed >= 2
    main(["claims", *map(str, twelve)])
    words = capsys.readouterr().out
    assert "[fails] PFC2 progresses from layer to layer before the effective depth: 1 of 12 [0.0021, 0.38]" in words
    assert "demo: share of seeds 1 of 12 [0.0021, 0.38] (wrong). Against it: seed1, seed2, seed3, seed4, " in words
    assert words.splitlines()[-1] == f"Page: {twelve[0] / 'claims.html'}"


def test_the_page_begins_with_the_counts_and_with_what_to_run(twelve, tmp_path):
    ledger = rule_on_claims(twelve)
    html = unescape(write_claims_page(ledger, tmp_path / "claims.html").read_text(encoding="utf-8"))
    body = html[html.index("<main") :] if "<main" in html else html
    untested = [ruling.claim for ruling in ledger.rulings if ruling.verdict == "not testable here"]
    hold, fail = (sum(ruling.verdict == verdict for ruling in ledger.rulings) for verdict in ("holds", "fails"))
    places = [body.index(f"{hold} hold, {fail} fail"), *(body.index(f"<code>{claim.command}</code>") for claim in untested)]
    assert max(places) < body.index('<h2 id="ledger">')
    assert all(claim.command.startswith("ncollapse sweep ") for claim in ALL_CLAIMS)
    # What no run says anything about has no row.
    table = body[body.index("<table") : body.index("</table>")]
    for ruling in ledger.rulings:
        assert (ruling.claim.statement in table) == bool(ruling.row.estimate.n)


OWN = """
from ncollapse.claims import Claim, by_seed

def claims():
    test = lambda run: run.value("pfc1", 3) < run.value("pfc1", 0) / FACTOR
    return [Claim("mine", "PFC1 falls", "a note", "first over last", lambda runs: by_seed(runs, "share of seeds", test))]

def strange():
    return [3]

def same():
    return [Claim("pfc1_all", "", "", "", lambda runs: [])]

def broken():
    return [Claim("mine", "", "", "", lambda runs: by_seed(runs, "share", lambda run: {}["key"]))]
"""


def test_claims_of_the_users_own_from_the_command_line(twelve, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    folders = [*map(str, twelve), "--json", "--claims"]
    for module, factor, verdict in (("easy_claims", 8, "holds"), ("hard_claims", 10, "fails")):
        (tmp_path / f"{module}.py").write_text(OWN.replace("FACTOR", str(factor)))
        main(["claims", *folders, f"{module}:claims"])
        found = {claim["key"]: claim for claim in json.loads(capsys.readouterr().out)["claims"]}
        assert set(found) == {"mine", *(claim.key for claim in ALL_CLAIMS)}
        assert (found["mine"]["verdict"], found["mine"]["family"]) == (verdict, "Your own claims")
        assert found["pfc1_all"]["verdict"] == "holds"
    for function, words in {
        "strange": "must return values of ncollapse.claims.Claim, got int. Return a list of them.",
        "same": "must give every claim a key of its own, got 'pfc1_all' twice. Choose another.",
        "broken": "testing the claims of hard_claims:broken raised KeyError: 'key'",
        "clams": "must name a function of module 'hard_claims', got none of that name. Near ones: claims, Claim.",
    }.items():
        with pytest.raises(SystemExit) as stop:
            main(["claims", *folders, f"hard_claims:{function}"])
        assert stop.value.code == 2
        assert words in capsys.readouterr().err


def test_no_name_can_break_the_page(write_seed, edit, tmp_path):
    runs = [write_seed(f"seed{seed}", seed) for seed in range(2)]
    edit(runs[0] / "recipe.json", lambda recipe: recipe["train"].update({EVIL: EVIL}))
    html = write_claims_page(rule_on_claims(runs), tmp_path / "claims.html").read_text(encoding="utf-8")
    assert "<script" not in html
    assert "&lt;script&gt;" in html
    assert "default-src 'none'" in html
    assert "script-src" not in html
