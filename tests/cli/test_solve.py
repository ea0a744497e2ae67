"""``ncollapse solve``: fields, the printed numbers, the object, figures, help, exit codes."""

import contextlib
import json
import re
import subprocess
import sys

import pytest
import torch

from ncollapse.cli import main
from ncollapse.cli.solve import read_request
from ncollapse.cli.surrogate_models import MODELS
from ncollapse.drawing.surrogates import LinePanel, plot_panels
from ncollapse.surrogates import UFM, BatchNormNet, GradientDescent, balanced
from ncollapse.surrogates.curves import solution_panels

UFM_WORDS = "ufm loss=mse bias=regularized counts=4x5 lambda_w=5e-3 lambda_h=2e-3 lambda_b=0.05"
MUFM_WORDS = "mufm counts=3x10 dim=6 sigma=0.3 --seed 1"
PEELED_WORDS = "layer_peeled energy_h=2 energy_w=1"
KEYS = {"model", "fields", "solver", "seed", "status", "certified", "value", "lower_bound", "gap", "inequality", "metrics"}
DEEP = "deep_ufm counts=3x2 lambdas_w=2x0.02 lambda_h=0.02"
STATUS = {
    DEEP: "Global minimum: closed form",
    f"{DEEP} --solver lbfgs": "Global minimum: L-BFGS",
    "near_collapse lambda_w=0.05 lambda_h=0.02 counts=4x5": "Global minimum: features eliminated",
    "near_collapse lambda_w=0.05 lambda_h=0.02 counts=4x5 noise=0.1 --solver closed_form": "Critical point, ",
    "unregularized_ufm duration=10 num_steps=300": "End of a flow: 300 steps up to t = 10; the gap",
    "central_path counts=3x6 dim=4 duration=100 num_steps=20": "End of a flow: 20 steps",
    "batch_norm_net counts=3x3 --solver closed_form": "Global minimum: closed form",
    "batch_norm_net counts=2x2": "Global minimum: L-BFGS",
    "bounded_outputs counts=3x1 radius=2": "Global minimum: projected gradient descent",
    "bounded_outputs counts=3x1 radius=2 --solver closed_form": "Global minimum: closed form",
    "normalized_features temperature=2": "Global minimum: projected gradient descent",
    "normalized_features counts=5x1 dim=3": "Critical point: projected gradient descent",
}


def answer(capsys, words):
    with contextlib.suppress(SystemExit):
        main(["solve", *words.split(), "--json"])
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("words", STATUS)
def test_every_model_prints_the_same_keys(capsys, words):
    found = answer(capsys, words)
    assert set(found) >= KEYS
    assert found["model"] == words.split()[0]
    assert found["status"].startswith(STATUS[words])
    assert found["gap"] == found["value"] - found["lower_bound"]
    assert found["metrics"]["pfc1"] is not None


@pytest.mark.parametrize("name", MODELS)
def test_every_model_has_a_default_problem_and_a_figure(capsys, tmp_path, monkeypatch, name):
    # Flows of thousands of steps are shortened.
    short = {"unregularized_ufm": "num_steps=300 duration=10", "central_path": "duration=100 num_steps=20"}
    short["mufm"] = "counts=3x4 dim=5 draws=1"
    monkeypatch.setattr("ncollapse.surrogates.mufm_curves._COSTS", (1e-4, 1e-1))
    file = tmp_path / "figure.svg"
    found = answer(capsys, f"{name} {short.get(name, '')} --figure {file}")
    assert not found["status"].startswith("Not converged")
    assert found["seed"] == 0
    drawn = file.read_text()
    assert drawn.startswith("<?xml")


@pytest.mark.parametrize("name", MODELS)
def test_examples_of_the_help(capsys, name):
    with contextlib.suppress(SystemExit):
        main(["solve", name, *MODELS[name].example.split()])
    assert "Not converged" not in capsys.readouterr().out


def test_a_closed_form_is_drawn_without_a_descent():
    problem = BatchNormNet(torch.eye(6), torch.arange(3).repeat(2), lambda_w=0.3)
    titles = [panel.title for panel in solution_panels(problem, problem.closed_form())]
    assert titles == ["Output of the true class at the minimum"]
    assert solution_panels(problem, problem.solve(allow_unconverged=True))[0].title == "Objective"


def test_a_figure_explains_a_name_once():
    curve = {"model": ([0, 1], [1.0, 2.0])}
    figure = plot_panels("title", [LinePanel("first", "x", curve), LinePanel("second", "x", curve)])
    assert [axes.get_legend() is not None for axes in figure.axes] == [True, False]
    figure = plot_panels("title", [LinePanel("first", "x", curve), LinePanel("second", "x", curve, marks={"here": 0.5})])
    assert [axes.get_legend() is not None for axes in figure.axes] == [True, True]


def test_the_folder_of_a_figure_is_made_and_the_figure_named(capsys, tmp_path):
    figure = tmp_path / "new" / "ufm.svg"
    main(["solve", "ufm", "--solver", "closed_form", "--figure", str(figure)])
    assert capsys.readouterr().out.splitlines()[-1] == f"Figure: {figure}"
    assert figure.is_file()
    main(["solve", "ufm", "--solver", "closed_form", "--json", "--figure", str(figure)])
    assert "Figure:" not in capsys.readouterr().out


def test_an_error_names_the_option_of_a_solver(capsys):
    with pytest.raises(SystemExit):
        main(["solve", "ufm", "dim=2"])
    assert "solve in the weight and the features with --solver lbfgs." in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["png", "pdf"])
def test_kinds_of_figures(capsys, tmp_path, kind):
    file = tmp_path / f"solution.{kind}"
    main(["solve", "max_margin", "counts=1,1", "--solver", "closed_form", "--figure", str(file)])
    assert file.read_bytes().startswith({"png": b"\x89PNG", "pdf": b"%PDF"}[kind])


@pytest.mark.parametrize("solver", ["", " --solver lbfgs --seed 3", " --solver closed_form"])
def test_ufm(capsys, solver):
    found = answer(capsys, UFM_WORDS + solver)
    numbers = {"loss": "mse", "lambda_w": 5e-3, "lambda_h": 2e-3, "bias": "regularized", "lambda_b": 0.05}
    expected = UFM(balanced(4, 5), 4, **numbers).closed_form()
    assert found["value"] == pytest.approx(expected.value, abs=1e-12)
    assert found["lower_bound"] == found["value"] - found["gap"]
    assert found["certified"]
    assert found["status"].startswith("Global minimum: ")
    assert found["metrics"]["pfc1"] == pytest.approx(0, abs=1e-9)
    assert found["largest_collapse_number"] == pytest.approx(0.0282842712, abs=1e-10)
    assert set(found["inequality"]) == {"text", "left", "right", "holds"}
    assert found["fields"] | {"counts": [5] * 4, "dim": 4} | numbers == found["fields"]


@pytest.mark.parametrize("counts", ["12,8,5,1", "12,8,1x5,1"])
def test_unequal_classes(capsys, counts):
    found = answer(capsys, f"ufm loss=mse counts={counts} lambda_w=5e-3 lambda_h=2e-3 dim=6")
    assert found["value"] == pytest.approx(0.0296120685321, abs=1e-13)
    assert found["fields"]["counts"] == [12, 8, 5, 1]


def test_fields_may_come_after_options(capsys):
    main(["solve", "ufm", "--json", "counts=2x3", "--seed", "2", "dim=3"])
    found = json.loads(capsys.readouterr().out)
    assert (found["fields"]["counts"], found["fields"]["dim"], found["seed"]) == ([3, 3], 3, 2)


def test_none_is_a_value(capsys):
    assert answer(capsys, "layer_peeled counts=4x1 dim=5")["fields"]["dim"] == 5
    assert answer(capsys, "layer_peeled counts=4x1 dim=none")["fields"]["dim"] is None


@pytest.mark.parametrize("words", ["mufm counts=3x5", "near_collapse counts=2x5", "normalized_features counts=5x1 dim=3"])
def test_the_seed_decides_data_and_start(capsys, words):
    found = [answer(capsys, f"{words} --seed {seed}")["metrics"] for seed in (1, 1, 2)]
    assert found[0] == found[1] != found[2]


def test_layer_peeled_and_its_threshold(capsys):
    assert "minority_threshold" not in answer(capsys, f"{PEELED_WORDS} counts=4x1")
    found = answer(capsys, f"{PEELED_WORDS} counts=2x5,2x1")
    assert found["minority_threshold"] == pytest.approx(7.618, abs=5e-4)
    assert found["ratio"] == 5
    assert not found["inequality"]["holds"]
    assert 0 < found["minority_cosine"] < 1
    found = answer(capsys, f"{PEELED_WORDS} counts=2x{found['minority_threshold']},2x1")
    assert found["inequality"]["left"] == pytest.approx(found["inequality"]["right"], rel=1e-5)
    # Without bounds that bind there is no collapse up to a ratio of a million.
    assert answer(capsys, "layer_peeled energy_h=60 counts=2x5,2x1")["minority_threshold"] is None


def test_mufm(capsys):
    found = answer(capsys, f"{MUFM_WORDS} lambda_w=0.05 lambda_h=1e-3")
    assert found["certified"]
    assert found["metrics"]["pfc1"] < found["data_pfc1"]
    assert 0.5 < found["alignment"] < 1
    assert found["alignment_distance"] == pytest.approx((2 - 2 * found["alignment"]) ** 0.5, rel=1e-9)
    assert found["metrics"]["pfc3"] >= found["data_pfc3"] > 0.5
    assert found["lambda_critical"] <= 0.5e-3
    assert found["lambda_bound"] == pytest.approx(1 / (2 * 30 * 3 * 0.05), rel=1e-12)
    other = answer(capsys, f"{MUFM_WORDS} lambda_w=0.05 lambda_h=1e-3 loss=cross_entropy bias=free")
    assert other["certified"]
    assert "lambda_critical" not in other
    assert found["proof"] == other["proof"] == "PFC1 never rises over the layers; proven."
    open_case = answer(capsys, f"{MUFM_WORDS} lambda_w=0.05 lambda_h=1e-3 loss=cross_entropy")
    assert open_case["proof"] == "PFC1 never rises over the layers; not proven: the bias is not free."


def test_figures_of_the_multilayer_model_show_several_draws(monkeypatch, capsys, tmp_path):
    seen = []
    monkeypatch.setattr("ncollapse.drawing.surrogates.plot_panels", lambda title, panels: seen.append(panels))
    monkeypatch.setattr("ncollapse.surrogates.mufm_curves._COSTS", (1e-3, 1e-1))
    monkeypatch.setattr("ncollapse.drawing.figures.render", lambda figure, kind: "")
    words = "solve mufm counts=3x3 dim=5 draws=3 bias=free"
    main([*words.split(), "--figure", str(tmp_path / "a.svg")])
    main([*words.split(), "--solver", "descent", "num_steps=20", "--figure", str(tmp_path / "b.svg")])
    layers, *over_decays = seen[0]
    values = layers.curves[""][1]
    assert values == sorted(values, reverse=True)
    assert [panel.title[:4] for panel in seen[1]] == ["PFC1", "PFC2", "PFC3"]
    for panel in (*over_decays, *seen[1]):
        for name, (_, low, high) in panel.bands.items():
            assert "mean and range of 3 data sets" in name
            assert all(a <= mean <= b for a, mean, b in zip(low, panel.curves[name][1], high, strict=True))
            assert any(a < b for a, b in zip(low, high, strict=True)) or "PFC3" in panel.title
    assert list(seen[1][0].theory) == ["data"]
    # The descent of the first data set is that of the printed solution.
    assert "20 steps of gradient descent" in capsys.readouterr().out


def test_gufm_in_too_few_dimensions_has_no_distance(capsys):
    found = answer(capsys, "gufm counts=4x3 dim=2 loss=mse")
    assert "distance_to_optima" not in found


@pytest.mark.parametrize("solver", ["lbfgs", "closed_form"])
def test_gufm(capsys, solver):
    found = answer(capsys, f"gufm loss=cross_entropy counts=4x3 lambda_w=0.005 --solver {solver}")
    assert found["value"] == pytest.approx(0.1430641596, abs=1e-10)
    assert found["scale"] == pytest.approx(3.0916069111, abs=1e-9)
    assert found["distance_to_optima"] == pytest.approx(0, abs=1e-6)
    assert found["certified"]


@pytest.mark.parametrize(("solver", "gap"), [("flow", 0.05), ("closed_form", 1e-12)])
def test_max_margin(capsys, solver, gap):
    found = answer(capsys, f"max_margin counts=3x4 dim=5 --seed 1 --solver {solver}")
    assert 4 <= found["value"] + 1e-12
    assert found["gap"] == pytest.approx(0, abs=gap)
    assert found["largest_margin"] == pytest.approx(0.125, rel=1e-12)
    assert found["normalized_margin"] == pytest.approx(0.5 / found["value"], rel=1e-12)
    assert found["certified"] == (solver == "closed_form")


@pytest.mark.parametrize("solver", ["lbfgs", "closed_form"])
def test_fixed_etf(capsys, solver):
    found = answer(capsys, f"fixed_etf loss=cross_entropy counts=20,3,1 energy_w=4 energy_h=4 --solver {solver}")
    assert found["value"] == pytest.approx(0.004945249, abs=1e-8)
    assert found["certified"]
    assert found["scale"] == 4


def test_locally_elastic_sde(capsys):
    found = answer(capsys, "locally_elastic_sde alpha=0.5 beta=-0.3 end=12 num_steps=300")
    assert found["integral_alpha"] == pytest.approx(5.5, rel=1e-9)
    assert found["estimated_alpha"] == pytest.approx(5.5, rel=0.05)
    assert found["estimated_beta"] == pytest.approx(-3.3, rel=0.05)
    assert found["lower_bound"] == 0 < found["value"] == found["gap"]
    assert found["separability"] > 0.9
    assert found["status"].startswith("Simulated: L-model up to t = 12")


def test_low_rank(capsys):
    words = "deep_ufm activation=relu counts=6x1 lambdas_w=4x0.02 dim=6 lambda_h=0.02"
    found = answer(capsys, f"{words} --solver low_rank")
    assert found["value"] < 0.96 * found["collapse_value"]
    assert [found[f"rank_{layer}"] for layer in range(4)] == [4, 4, 4, 6]
    assert found["lower_bound"] is None


def test_numbers_of_models(capsys):
    found = answer(capsys, "near_collapse lambda_w=0.05 lambda_h=0.02 noise=1e-3")
    assert found["pfc1_ratio"] == pytest.approx(found["predicted_ratio"], abs=1e-5)
    assert abs(found["sensitivity_lambda_w"]) < found["sensitivity_lambda_h"]
    found = answer(capsys, "weight_normalized_net lambda_w=1e-4 counts=2x3 sigma=0.1 dim=6 width=8")
    assert found["rho"] == pytest.approx(found["rho_of_margins"], rel=1e-4)
    assert found["margin_variation"] < 0.05
    found = answer(capsys, "normalized_features dim=3 temperature=2 --solver closed_form")
    assert found["value"] == pytest.approx(0.1893388394, abs=1e-10)


def test_what_is_undefined_is_null(capsys):
    found = answer(capsys, "ufm counts=3x4 lambda_w=1 lambda_h=1")
    assert found["metrics"]["pfc1"] is None
    assert found["value"] == pytest.approx(1.0986122886681098, rel=1e-14)


def test_words_for_people(capsys):
    main(["solve", *UFM_WORDS.split()])
    title, status, inequality, *rows = capsys.readouterr().out.splitlines()
    assert title == "ufm counts=4x5 dim=4 loss=mse lambda_w=0.005 lambda_h=0.002 bias=regularized lambda_b=0.05"
    assert status.startswith("Global minimum: accelerated proximal gradient descent")
    assert inequality.startswith("‖Γ‖₂ <= √(λ_W λ_H) holds")
    names = [row.split()[0] for row in rows]
    assert names[:4] == ["value", "lower_bound", "gap", "largest_collapse_number"]
    assert float(rows[0].split()[1]) == pytest.approx(0.0258842712475, abs=1e-12)
    assert {"accuracy", "pfc1", "pfc2", "pfc3", "nc1", "nc2_equiangularity", "nc3", "nc4", "cdnv"} <= set(names)
    assert "stable_rank_between" not in names
    assert rows[-1].endswith(" more metrics with --all.")
    main(["solve", *UFM_WORDS.split(), "--all"])
    every = [row.split()[0] for row in capsys.readouterr().out.splitlines()[3:]]
    assert len(every) == len(names) - 1 + int(names[-1])
    assert {"stable_rank_between", "snc1", "snc2", "snc3"} <= set(every)


def test_a_solver_that_stops_early_exits_with_one(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["solve", *UFM_WORDS.split(), "--solver", "gradient_descent", "max_iterations=5"])
    assert caught.value.code == 1
    title, status, *_ = capsys.readouterr().out.splitlines()
    assert title.endswith("max_iterations=5 --solver gradient_descent")
    assert status.startswith("Not converged: gradient descent, 5 steps")
    assert GradientDescent().max_iterations > 5


def test_the_list_of_models_needs_no_torch():
    program = "import sys; from ncollapse.cli import main; main(['solve', '--help']); assert 'torch' not in sys.modules"
    printed = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    listed = [line.split()[0] for line in printed.splitlines() if line.startswith("  ") and not line.startswith("  -")]
    assert [name for name in listed if name in MODELS] == list(MODELS)


def test_a_model_is_listed_without_being_named(capsys):
    main(["solve"])
    alone = capsys.readouterr().out
    main(["solve", "--help"])
    assert capsys.readouterr().out == alone


@pytest.mark.parametrize("name", MODELS)
def test_help_of_a_model(capsys, name):
    main(["solve", name, "--help"])
    text = capsys.readouterr().out
    about, formula, *_ = text.split("\n\n")
    assert about.startswith(f"ncollapse solve {name} [FIELD=VALUE ...]: {MODELS[name].text}")
    assert formula
    assert f"  ncollapse solve {name} {MODELS[name].example}" in text
    # No markup is left, and every field says what it is and where it begins.
    assert not [mark for mark in ("\\", ":math:", "``", "{") if mark in text]
    rows = [line for line in text.splitlines() if line.startswith("  ") and "=" in line.split()[0]]
    assert rows
    assert all(len(row.split()) > 1 and not row.split()[0].endswith("=") for row in rows)
    assert "inspect._empty" not in text


def test_the_objective_is_stated(capsys):
    main(["solve", "ufm", "--help"])
    text = capsys.readouterr().out
    assert "    min_(W, H, b) ℓ(W H + b 1ᵀ) + λ_W/2 ‖W‖² + λ_H/2 ‖H‖² + λ_b/2 ‖b‖²\n" in text
    assert "  lambda_w=0.005                Decay of the weight, positive.\n" in text
    assert "Solvers: proximal (default), lbfgs, gradient_descent, closed_form\n" in text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("ufm lambda_w=-1", "error: lambda_w must be finite and positive, got -1.0."),
        ("ufm lambda_w=x", "error: lambda_w must be a number, got 'x'. Type for example lambda_w=0.005."),
        ("ufm dim=x", "error: dim must be an integer, got 'x'. Type for example dim=8."),
        ("ufm dim=2.5", "error: dim must be an integer, got '2.5'."),
        ("ufm loss=mes", "error: loss must be mse or cross_entropy, got 'mes'."),
        ("ufm counts=4x5,", "error: counts must be numbers such as 5,5,5,5 or 4x5, got '4x5,'."),
        ("layer_peeled dim=x", "error: dim must be an integer or none, got 'x'."),
        ("ufm --figure x.jpg", "error: argument --figure: must end in .svg, .png, .pdf, got 'x.jpg'"),
        ("ufm dim=2", "rank 3"),
        ("ufn", "error: There is no model 'ufn'. Near ones: ufm"),
        ("ufm lamda_w=1", "error: ufm has no field 'lamda_w'. Near ones: lambda_w"),
        ("ufm 4", "error: A field is set as FIELD=VALUE, got '4'."),
        ("ufm --solver closed_from", "error: ufm has no solver 'closed_from'. Near ones: closed_form."),
        ("ufm --figur x.svg", "error: solve has no option --figur. Near ones: --figure."),
        ("mufm counts=5,6", "error: The data needs balanced classes, got counts (5, 6)."),
    ],
)
def test_errors_are_one_line(capsys, words, message):
    assert message in failing(capsys, words)


@pytest.mark.parametrize(
    ("words", "form"),
    [
        ("ufm --loss ce --classes 4 --per-class 5 --lambda-w 5e-3", "ufm counts=4x5 loss=cross_entropy lambda_w=5e-3"),
        ("ufm --classes 3 --per-class 5 4 3 dim=3", "ufm dim=3 counts=5,4,3"),
        ("layer_peeled --classes 10 --majority 4 --ratio 5 --e-h 5", "layer_peeled counts=4x5,6x1 energy_h=5"),
        ("layer_peeled --classes 10 --ratio 5", "layer_peeled counts=5x5,5x1"),
        ("layer_peeled --ratio 20 --e-w 2", "layer_peeled counts=5x20,5x1 energy_w=2"),
        ("layer_peeled --classes 5 --majority 3 --threshold", "layer_peeled counts=3x10,2x1"),
        ("deep_ufm --classes 4 --layers 3 --lambda-w 1e-2", "deep_ufm counts=4x1 lambdas_w=3x1e-2"),
        (
            "le_sde --classes 3 --alpha 1 --beta -0.5 --steps 9",
            "locally_elastic_sde counts=3x100 alpha=1 beta=-0.5 num_steps=9",
        ),
        ("weight_normalized --decay 1e-3", "weight_normalized_net lambda_w=1e-3"),
        ("near_collapse --solver reduced", "near_collapse --solver eliminated"),
        ("near_collapse noise=0.1 --solver reduced --seed 2", "near_collapse noise=0.1 --solver eliminated --seed 2"),
        (
            "normalized_features --classes 4 --per-class 1 --dim 3 --solver riemannian --json",
            "normalized_features counts=4x1 dim=3 --solver projected --json",
        ),
        ("ufm --loss ce --solver lbfgs", "ufm loss=cross_entropy --solver lbfgs"),
        # Not an option of version 0.1, but what people try.
        ("ufm --counts 5 5 5", "ufm counts=5,5,5"),
    ],
)
def test_options_of_version_0_1_are_told_as_fields(capsys, words, form):
    assert failing(capsys, words).endswith(f"Type: ncollapse solve {form}\n")
    # What is to be typed is understood.
    name, *settings = form.partition(" --")[0].split()
    read_request(name, settings, re.findall(r"--solver (\w+)", form)[0] if "--solver" in form else None)


def test_what_has_another_name_is_told(capsys):
    said = failing(capsys, "near_collapse --solver reduced")
    assert "error: reduced is eliminated since version 0.2. Type: " in said
    assert "error: mixon_flow is unregularized_ufm since version 0.2. Type: " in failing(capsys, "mixon_flow")


@pytest.mark.parametrize(
    ("words", "near"),
    [
        ("ufm K=4", "Set counts: counts=4x5 means 4 classes of 5 samples each."),
        ("ufm per_class=4", "Set counts: counts=4x5 means 4 classes of 5 samples each."),
        ("ufm d=4", "Near ones: dim."),
        ("bounded_outputs R=2", "Near ones: radius."),
        ("batch_norm_net beta=2", "Near ones: lambda_w."),
        ("layer_peeled e_h=2", "Near ones: energy_h."),
    ],
)
def test_the_letters_of_formulas_and_old_names_are_near_their_fields(capsys, words, near):
    assert f"has no field '{words.split()[1].split('=')[0]}'. {near} See ncollapse solve" in failing(capsys, words)


@pytest.mark.parametrize("name", MODELS)
def test_help_states_the_objective_as_a_formula(capsys, name):
    main(["solve", name, "--help"])
    formulas = [line for line in capsys.readouterr().out.splitlines() if re.match(r"    \S", line)]
    # A simulation minimizes nothing; its equation is shown.
    assert any(line.split()[0].startswith("dX" if name == "locally_elastic_sde" else "min") for line in formulas)


def test_the_old_threshold_option_is_answered_by_the_number_that_is_printed(capsys):
    words = "It prints the threshold as minority_threshold. Set counts to that ratio to solve there. Type:"
    assert words in failing(capsys, "layer_peeled --classes 4 --majority 2 --threshold")
    assert "threshold" not in failing(capsys, "layer_peeled --classes 4 --majority 2 --ratio 3")


def failing(capsys, words):
    with pytest.raises(SystemExit) as caught:
        main(["solve", *words.split()])
    printed = capsys.readouterr()
    assert caught.value.code == 2
    assert (printed.out, len(printed.err.splitlines())) == ("", 1)
    return printed.err
