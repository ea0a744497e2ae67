"""Collapse against the number of blocks: the objective in words, the page of several sweeps, and the claims."""

import json
import math

import pytest
from matplotlib.figure import Figure
from scipy import stats

from ncollapse.claims import CLAIMS, DEEP_CLAIMS, RULES, rule_on_claims
from ncollapse.claims.predicates import is_paper_setting
from ncollapse.cli import main
from ncollapse.drawing import describe
from ncollapse.drawing.sweeps import Axis, SettingRow, draw_against
from ncollapse.records import ReportError, read_run
from ncollapse.report import ledger_markdown, write_depth_page, write_sweep_page

FLOOR = 0.4
N = RULES.least_draws
METRICS = {"pfc1": 0.5, "nc2_etf_weights": 1.0, "nc3_cosine": 0.3}


def record(epoch, excess, distance=0.2):
    return {
        "epoch": epoch, "weight_decay": 0.005, "loss": 0.1, "penalty": FLOOR + excess - 0.1, "objective": FLOOR + excess,
        "floor": FLOOR, "excess": excess, "distance": distance, "relative_gradient": RULES.stationary,
    }  # fmt: skip


@pytest.fixture
def deep_sweep(tmp_path, write_sweep):
    """Write a sweep over blocks: excess 0.1/L, metrics a L^slope (1 + seed/10), so that every seed has one slope exactly."""

    def write(name, *, slope=-0.5, blocks=(1, 2, 4), seeds=N, below=False, **recipe):
        folder = write_sweep(tmp_path / name, tuple(map(str, blocks)), field="model.num_blocks", seeds=seeds)
        model = {"kind": "layernorm_resnet", "linear_layers": 1} | recipe.pop("model", {})
        for L in blocks:
            for seed in range(seeds):
                run = folder / f"model.num_blocks={L}_seed={seed}"
                held = json.loads((run / "recipe.json").read_text())
                held |= {"name": name, "title": f"Title of {name}", **recipe}
                held["model"] = held["model"] | model | {"num_blocks": L}
                (run / "recipe.json").write_text(json.dumps(held))
                excess = -1e-3 if below and seed == 0 else 0.1 / L * (1 + seed / 10)
                entries = [record(0, 1.0), record(5, excess, distance=0.3 / L)]
                (run / "objective.json").write_text(json.dumps({"epochs": entries}))
                for metric, start in METRICS.items():
                    set_last(run, metric, start * L**slope * (1 + seed / 10))
        return folder

    return write


def set_last(run, metric, value, epoch=5):
    lines = (run / "measurements.csv").read_text().splitlines()
    begin = f"{epoch},train,2,blocks.1,{metric},"
    assert sum(line.startswith(begin) for line in lines) == 1
    changed = [f"{begin}{value!r}," if line.startswith(begin) else line for line in lines]
    (run / "measurements.csv").write_text("\n".join(changed) + "\n")


def rulings(*folders):
    return {ruling.claim.key: ruling for ruling in rule_on_claims(folders, DEEP_CLAIMS).rulings}


def test_the_floor_that_knows_the_depth_in_words_and_on_the_page(deep_sweep, tmp_path, without_drawings):
    folder = deep_sweep("plain", seeds=1)
    for unmet, words, on_page in [
        ([], "No network of this depth on these data can get below 0.405, which is 0.005 higher.", "holds for every network"),
        (["no trained stem"], "No network of this depth with this (trained) first layer can get", "stem as it is"),
    ]:
        for path in folder.glob("*/objective.json"):
            entry = record(5, 0.025) | {"depth_floor": 0.405, "unmet": unmet}
            path.write_text(json.dumps({"epochs": [entry]}))
        said = describe(read_run(folder / "model.num_blocks=4_seed=0"))
        (sentence,) = (sentence for sentence in said if sentence.startswith("No network of this depth"))
        assert sentence.startswith(words)
        assert sentence.endswith("The objective is 0.02 above this floor.")
        html = write_depth_page([folder], tmp_path / "depth.html").read_text(encoding="utf-8")
        assert on_page in html
        order = "order (log L)²/L where two samples of a class differ. How fast N samples can come down is open"
        assert (order in html) == (not unmet)
    path.write_text(json.dumps({"epochs": [record(5, 0.025) | {"unmet": ["blocks of one linear layer"]}]}))
    assert any(
        "does not apply here. It needs blocks of one linear layer." in words for words in describe(read_run(path.parent))
    )


def test_the_objective_in_words(deep_sweep):
    folder = deep_sweep("deep", seeds=1)
    run = read_run(folder / "model.num_blocks=4_seed=0")
    assert run.last_objective.excess == 0.025
    (said,) = (sentence for sentence in describe(run) if "floor" in sentence)
    assert "λ = 0.005 is 0.425 (loss 0.1, penalty 0.325). That is 0.025 above its floor 0.4: no network" in said
    assert "0.075 away from its minimizers" in said
    assert any("gradient is 0.001 of the summed norms of its two parts" in sentence for sentence in describe(run))
    (run.path / "objective.json").write_text(json.dumps({"epochs": [record(5, -0.02, None)]}))
    (said,) = (sentence for sentence in describe(read_run(run.path)) if "floor" in sentence)
    assert "0.02 below its floor" in said
    assert "How far features and last layer are from its minimizers is undefined." in said
    (run.path / "objective.json").write_text('{"epochs": [{"epoch": 5}]}')
    with pytest.raises(ReportError, match=r"objective\.json: epochs\[0\] is missing the required field weight_decay"):
        read_run(run.path)


def test_a_law_in_depth_holds_with_its_slope(deep_sweep):
    found = rulings(deep_sweep("deep"))
    for key, slope in (("deep_excess", 1.0), ("deep_distance", 1.0), ("deep_nc1", 0.5), ("deep_nc2", 0.5), ("deep_nc3", 0.5)):
        assert found[key].verdict == "holds"
        (evidence,) = found[key].evidence
        assert evidence.estimate[:3] == pytest.approx((slope, slope, slope))
        assert evidence.estimate.n == N
        assert "L = 1, 2, 4" in evidence.statistic
        assert len(evidence.supporting) == 3 * N
    assert found["deep_floor"].verdict == "check passed"
    assert found["deep_floor"].row.estimate.n == N
    assert found["deep_control_nc1"].evidence == ()


def test_claims_about_optima_count_stationary_runs_only(deep_sweep):
    folder = deep_sweep("deep")

    def rewrite(change):
        for path in folder.glob("*/objective.json"):
            content = json.loads(path.read_text())
            change(content["epochs"][-1], int(path.parent.name.partition("seed=")[2]))
            path.write_text(json.dumps(content))

    # One seed is not stationary at any depth: its three runs are left out and named.
    rewrite(lambda entry, seed: entry.update(relative_gradient=1.1e-3 if seed == 3 else 1e-3))
    found = rulings(folder)
    assert (found["deep_nc1"].verdict, found["deep_nc1"].why) == ("not testable here", f"{N - 1} seeds, {N} needed")
    assert found["deep_nc1"].outside == 3
    assert found["deep_floor"].row.estimate.n == N
    rewrite(lambda entry, seed: entry.update(relative_gradient=0.2 - seed / 100))
    found = rulings(folder)
    for key in ("deep_excess", "deep_distance", "deep_nc2", "deep_helps_nc1"):
        assert found[key].verdict == "not testable here"
        assert found[key].why == (
            f"not stationary: of {3 * N} runs none has a relative gradient of the regularized objective of at most 0.001 "
            "(the least is 0.09)"
        )
    assert found["deep_floor"].verdict == "check passed"
    table = ledger_markdown(rule_on_claims([folder], DEEP_CLAIMS))
    assert sum("| not testable here: not stationary: of 36 runs none" in line for line in table) == 12
    # A directory of before it was recorded.
    rewrite(lambda entry, seed: entry.pop("relative_gradient"))
    assert rulings(folder)["deep_nc1"].why.endswith("(none recorded it)")


def test_slopes_are_those_of_each_seed_and_their_interval_that_of_the_mean(deep_sweep):
    folder = deep_sweep("deep", blocks=(1, 2, 8))
    values = {seed: [0.5, 0.3 + 0.05 * seed, 0.2 + 0.1 * seed] for seed in range(N)}
    for seed, of_seed in values.items():
        for L, value in zip((1, 2, 8), of_seed, strict=True):
            set_last(folder / f"model.num_blocks={L}_seed={seed}", "pfc1", value)
    logs = [math.log(L) for L in (1, 2, 8)]
    slopes = [-stats.linregress(logs, [math.log(v) for v in of_seed]).slope for of_seed in values.values()]
    expected = stats.ttest_1samp(slopes, 0)
    (evidence,) = rulings(folder)["deep_nc1"].evidence
    interval = expected.confidence_interval()
    assert evidence.estimate[:3] == pytest.approx((sum(slopes) / N, interval.low, interval.high))


def test_what_fails_and_what_is_not_testable(deep_sweep):
    assert rulings(deep_sweep("rising", slope=0.2))["deep_nc1"].verdict == "fails"
    assert rulings(deep_sweep("few", seeds=N - 1))["deep_nc1"].verdict == "not testable here"
    below = rulings(deep_sweep("below", below=True))
    assert below["deep_floor"].verdict == "check failed"
    # A quantity that is not positive has no logarithm: that seed says nothing.
    assert below["deep_excess"].row.estimate.n == N - 1
    two_depths = rulings(deep_sweep("two", blocks=(1, 2)))
    why = "0 seeds, 12 needed; 2 numbers of blocks L, 3 needed"
    assert (two_depths["deep_nc1"].verdict, two_depths["deep_nc1"].why) == ("not testable here", why)
    assert two_depths["deep_nc1"].evidence[0].estimate.n == 0
    control = rulings(deep_sweep("two_control", blocks=(1, 2), model={"linear_layers": 2}))
    assert control["deep_control_nc1"].why == why


def set_decay(folder, decays):
    for L, decay in decays.items():
        for path in folder.glob(f"model.num_blocks={L}_seed=*/objective.json"):
            held = json.loads(path.read_text())
            held["epochs"][-1]["weight_decay"] = decay
            path.write_text(json.dumps(held))


def test_depth_helps_only_if_it_beats_the_shallowest_network_with_the_same_decay(deep_sweep):
    """The metrics fall as 1/sqrt(L): by 2 and 4 against one block that is the control of both, in decades."""
    ruling = rulings(deep_sweep("deep"))["deep_helps_nc1"]
    assert ruling.row.estimate[:3] == pytest.approx([math.log10(2 * math.sqrt(2)) / 2] * 3)
    assert ruling.verdict == "holds"
    # With λ ∝ 1/L the network of one block has another λ: without a control nothing is said.
    scaled = deep_sweep("scaled", decay_over_blocks=True)
    set_decay(scaled, {1: 0.4, 2: 0.2, 4: 0.1})
    assert rulings(scaled)["deep_helps_nc1"].row.estimate.n == 0
    # A second arm of one block with the λ and the steps of each depth reaches the same: depth adds nothing.
    arms = []
    for L, decay in {2: 0.2, 4: 0.1}.items():
        arm = deep_sweep(f"arm{L}", blocks=(1,))
        set_decay(arm, {1: decay})
        for path in arm.glob("*/recipe.json"):
            held = json.loads(path.read_text())
            deep = json.loads((scaled / path.parent.name / "recipe.json").read_text())
            path.write_text(json.dumps({**deep, "train": {**deep["train"], "weight_decay": decay}, "decay_over_blocks": False}))
            assert held["seed"] == deep["seed"]
            set_last(path.parent, "pfc1", METRICS["pfc1"] * L**-0.5 * (1 + held["seed"] / 10))
        arms.append(arm)
    ruling = rulings(scaled, *arms)["deep_helps_nc1"]
    assert (ruling.row.estimate.n, ruling.verdict) == (N, "undecided")
    assert ruling.row.estimate.value == pytest.approx(0.0, abs=1e-12)
    assert rulings(scaled, *arms)["deep_nc1"].verdict == "holds"


def test_a_seed_without_its_own_control_is_silent(deep_sweep):
    """One block is not stationary in seed 3: its four blocks are not compared with its two, but with nothing."""
    folder = deep_sweep("deep", seeds=N + 1)
    for seed in range(N + 1):
        set_last(folder / f"model.num_blocks=2_seed={seed}", "pfc1", 100.0)
        set_last(folder / f"model.num_blocks=1_seed={seed}", "pfc1", 10.0)
    path = folder / "model.num_blocks=1_seed=3" / "objective.json"
    held = json.loads(path.read_text())
    held["epochs"][-1]["relative_gradient"] = 0.1
    path.write_text(json.dumps(held))
    ruling = rulings(folder)["deep_helps_nc1"]
    (evidence,) = ruling.evidence
    assert [draw.seed for draw in evidence.draws] == [seed for seed in range(N + 1) if seed != 3]
    assert (evidence.silent, ruling.outside, ruling.row.estimate.n) == (1, 1, N)
    # Against one block: a decade lost with two, and gained with four but for their own factor.
    expected = [(math.log10(10 / 100) + math.log10(10 / (0.25 * (1 + seed / 10)))) / 2 for seed in range(N + 1) if seed != 3]
    assert [draw.value for draw in evidence.draws] == pytest.approx(expected)
    assert "control of 1 block minus deeper network" in evidence.statistic


def test_depth_must_do_more_than_before_training(deep_sweep):
    """Before training NC1 falls with depth too: faster than after it, and half as fast in the next sweep."""
    for name, slope, verdict in (("faster", -0.6, "undecided"), ("slower", -0.25, "holds")):
        folder = deep_sweep(name)
        for run in folder.glob("model*"):
            L, seed = (int(part.rpartition("=")[2]) for part in run.name.split("_seed"))
            set_last(run, "pfc1", 7.0 * L**slope, epoch=0)
            entries = [record(0, 5.0 * L**slope, distance=L**slope), record(5, 0.1 / L * (1 + seed / 10), distance=0.3 / L)]
            (run / "objective.json").write_text(json.dumps({"epochs": entries}))
        found = rulings(folder)
        assert [base.value for base in found["deep_nc1"].row.bases] == pytest.approx([-slope])
        assert [base.value for base in found["deep_helps_nc1"].row.bases] == pytest.approx([-slope * math.log10(8) / 2])
        assert [base.value for base in found["deep_excess"].row.bases] == pytest.approx([-slope])
        assert [base.value for base in found["deep_helps_excess"].row.bases] == pytest.approx([-slope * math.log10(8) / 2])
        assert [found[key].verdict for key in ("deep_nc1", "deep_helps_nc1", "deep_excess")] == [verdict, verdict, "holds"]
        assert [base.value for base in found["deep_distance"].row.bases] == pytest.approx([-slope])
        assert found["deep_control_nc1"].row.bases == ()


@pytest.mark.parametrize(("slope", "verdict"), [(0.1, "holds"), (-0.1, "fails")])
def test_the_negative_control(deep_sweep, slope, verdict):
    control = deep_sweep("control", slope=slope, model={"linear_layers": 2})
    found = rulings(control, deep_sweep("deep"))
    assert found["deep_control_nc1"].verdict == verdict
    assert len(found["deep_control_nc1"].evidence) == 1
    # It is no setting in which depth is to help.
    assert [len(rulings(folder)["deep_helps_nc1"].evidence) for folder in (control, deep_sweep("covered"))] == [0, 1]
    assert found["deep_nc1"].verdict == "holds"


def test_what_is_a_negative_control(deep_sweep):
    """The same blocks with a decay that falls with L are what theory covers; so are transformers by their multilayer part."""
    scaled = rulings(deep_sweep("scaled", model={"linear_layers": 2}, decay_over_blocks=True))
    assert (scaled["deep_control_nc1"].evidence, len(scaled["deep_nc1"].evidence)) == ((), 1)
    transformer = deep_sweep("t12", model={"kind": "transformer", "mlp_layers": 2})
    for path in transformer.glob("*/recipe.json"):
        held = json.loads(path.read_text())
        del held["model"]["linear_layers"]
        path.write_text(json.dumps(held))
    assert len(rulings(transformer)["deep_control_nc1"].evidence) == 1


def test_runs_without_a_floor_bear_on_no_claim(write_sweep, tmp_path):
    folder = write_sweep(tmp_path / "plain", ("1", "2", "4"), field="model.num_blocks", seeds=2)
    assert all(ruling.evidence == () for ruling in rulings(folder).values())
    assert any(ruling.evidence for ruling in rule_on_claims([folder]).rulings)


def test_deep_regularized_runs_bear_on_no_claim_of_the_other_paper(deep_sweep):
    papers = [claim for claim in CLAIMS if claim.about is is_paper_setting]
    assert len(papers) > 15
    assert all(ruling.evidence == () for ruling in rule_on_claims([deep_sweep("deep")], papers).rulings)


def test_a_sweep_without_a_floor_shows_none(write_sweep, tmp_path, without_drawings):
    folder = write_sweep(tmp_path / "plain", ("1", "2"), seeds=1)
    assert "what no such network gets below" not in write_sweep_page(folder).read_text(encoding="utf-8")


def test_page_of_a_sweep_shows_the_objective_where_there_is_one(deep_sweep, without_drawings):
    html = write_sweep_page(deep_sweep("deep")).read_text(encoding="utf-8")
    assert "<b>Objective</b>" in html
    for key in ("floor", "excess", "distance"):
        assert f" ({key})</b>" in html
    assert "Log-log slope with model.num_blocks: -1," in html


def test_page_of_depth(deep_sweep, tmp_path, capsys):
    changed = ["model.num_blocks=1", "data.per_class=9"]
    two = {"slope": 0.1, "model": {"linear_layers": 2}, "changed": changed}
    folders = [deep_sweep("deep", seeds=5), deep_sweep("control", seeds=5, **two)]
    out = write_depth_page(folders, tmp_path / "pages" / "depth.html")
    html = out.read_text(encoding="utf-8")
    assert html.count('role="img"') == 18
    # Excess 0.1/L times 1 to 1.4, over λ = 0.005 and over the floor 0.4; the gradient of each run is at the bound.
    for cell in ("6 ± 0.791", "0.075 ± 0.00988", "0.001 ± 0"):
        assert html.count(f'<tr><th scope="row">4</th><td>{cell}</td></tr>') == 2
    assert html.index("Title of deep") < html.index("Recipe control with changed settings")
    assert "Title of control" not in html
    assert html.count("Negative control:") == 1
    assert html.count("Changed relative to the recipe: data.per_class=9.") == 1
    assert "Log-log slope with L: -0.5, 95 % interval" in html
    assert "Log-log slope with L: 0.1, 95 % interval" in html
    assert '<tr><th scope="row">4</th><td>0.03 ± 0.00395</td></tr>' in html
    assert html.count("<b>NC1</b><small>pfc1: ") == html.count("<b>NC3</b><small>nc3_cosine: ") == 2
    assert html.count("dashed: its floor") == 2
    assert "15 finished runs; train accuracy 1 in 15 of 15" in " ".join(html.split())
    # Equal runs give an equal page, and so does the command.
    main(["report", *map(str, folders)])
    assert "depth.html" in capsys.readouterr().out
    assert (folders[0] / "depth.html").read_text(encoding="utf-8") == html


def test_what_a_page_of_depth_needs(write_sweep, tmp_path, deep_sweep, without_drawings):
    with pytest.raises(ReportError, match="needs at least one folder of a sweep"):
        write_depth_page([], tmp_path / "x.html")
    plain = write_sweep(tmp_path / "plain", ("1", "2"), seeds=1)
    with pytest.raises(ReportError, match=r"found one over train\.weight_decay with 2 finished runs"):
        write_depth_page([plain], tmp_path / "x.html")


def test_a_page_of_depth_without_a_floor_says_when_there_is_one(deep_sweep, tmp_path):
    folder = deep_sweep("deep", seeds=1)
    assert "The objective is not shown" not in write_depth_page([folder], tmp_path / "x.html").read_text(encoding="utf-8")
    for path in folder.glob("*/objective.json"):
        path.unlink()
    html = write_depth_page([folder], tmp_path / "x.html").read_text(encoding="utf-8")
    assert "The objective is not shown: its floor" in html
    assert html.count('role="img"') == 3


def test_a_dashed_line_far_below_cuts_no_dot():
    rows = [SettingRow((value,), value, math.nan) for value in (1.0, 1.1)]
    figure = Figure()
    axes = figure.subplots()
    draw_against(axes, Axis("L", (1.0, 2.0), ("1", "2"), True), rows, [SettingRow((0.01,), 0.01, math.nan)] * 2)
    low, high = axes.get_ylim()
    assert axes.get_yscale() == "log"
    assert low < 0.01
    assert high == pytest.approx(1.12 * 1.1)
    (dashed,) = (line for line in axes.get_lines() if line.get_linestyle() == "--")
    assert list(dashed.get_ydata()) == [0.01, 0.01]
