"""``ncollapse solve``: the printed object, words, figures, exit codes."""

import json

import pytest

from ncollapse.cli import main
from ncollapse.surrogates import UFM, GradientDescent

UFM_WORDS = "solve ufm --loss mse --bias regularized --classes 4 --per-class 5 --lambda-w 5e-3 --lambda-h 2e-3 --lambda-b 0.05"
MUFM_WORDS = "solve mufm --classes 3 --per-class 10 --dim 6 --sigma 0.3 --seed 1"
PEELED_WORDS = "solve layer_peeled --classes 4 --majority 2 --e-h 2 --e-w 1"


def answer(capsys, words):
    main([*words.split(), "--json"])
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("solver", ["", " --solver lbfgs --seed 3", " --solver closed_form"])
def test_ufm(capsys, solver):
    found = answer(capsys, UFM_WORDS + solver)
    expected = UFM((5,) * 4, 4, loss="mse", lambda_w=5e-3, lambda_h=2e-3, bias="regularized", lambda_b=0.05).closed_form()
    assert found["value"] == pytest.approx(expected.value, abs=1e-12)
    assert found["lower_bound"] == found["value"] - found["gap"]
    assert found["certified"]
    assert found["status"].startswith("Global minimum: ")
    assert found["metrics"]["pfc1"] == pytest.approx(0, abs=1e-9)
    assert found["largest_collapse_number"] == pytest.approx(0.0282842712, abs=1e-10)
    assert set(found["inequality"]) == {"text", "left", "right", "holds"}


def test_ufm_with_unequal_classes(capsys):
    found = answer(capsys, "solve ufm --loss mse --classes 4 --per-class 12 8 5 1 --lambda-w 5e-3 --lambda-h 2e-3 --dim 6")
    assert found["value"] == pytest.approx(0.0296120685321, abs=1e-13)


def test_layer_peeled_and_its_threshold(capsys):
    assert answer(capsys, PEELED_WORDS)["ratio"] == 1
    found = answer(capsys, f"{PEELED_WORDS} --ratio 5")
    assert "threshold" not in found
    assert not found["inequality"]["holds"]
    assert 0 < found["minority_cosine"] < 1
    found = answer(capsys, f"{PEELED_WORDS} --threshold")
    assert found["threshold"] == found["ratio"] == pytest.approx(7.618, abs=5e-4)
    assert found["inequality"]["left"] == pytest.approx(found["inequality"]["right"], rel=1e-5)


def test_mufm(capsys):
    found = answer(capsys, f"{MUFM_WORDS} --lambda-w 0.05 --lambda-h 1e-3")
    assert found["certified"]
    assert found["metrics"]["pfc1"] < found["data_pfc1"]
    assert 0.5 < found["alignment"] < 1
    assert found["alignment_distance"] == pytest.approx((2 - 2 * found["alignment"]) ** 0.5, rel=1e-9)
    assert found["metrics"]["pfc3"] >= found["data_pfc3"] > 0.5
    assert found["lambda_critical"] <= 0.5e-3
    assert found["lambda_bound"] == pytest.approx(1 / (2 * 30 * 3 * 0.05), rel=1e-12)
    other = answer(capsys, f"{MUFM_WORDS} --lambda-w 0.05 --lambda-h 1e-3 --loss cross_entropy --bias free")
    assert other["certified"]
    assert "lambda_critical" not in other


@pytest.mark.parametrize("solver", ["lbfgs", "closed_form"])
def test_gufm(capsys, solver):
    found = answer(capsys, f"solve gufm --loss cross_entropy --classes 4 --lambda-w 0.005 --per-class 3 --solver {solver}")
    assert found["value"] == pytest.approx(0.1430641596, abs=1e-10)
    assert found["scale"] == pytest.approx(3.0916069111, abs=1e-9)
    assert found["distance_to_optima"] == pytest.approx(0, abs=1e-6)
    assert found["certified"]


@pytest.mark.parametrize(("solver", "gap"), [("flow", 0.05), ("closed_form", 1e-12)])
def test_max_margin(capsys, solver, gap):
    found = answer(capsys, f"solve max_margin --classes 3 --per-class 4 --dim 5 --seed 1 --solver {solver}")
    assert 4 <= found["value"] + 1e-12
    assert found["gap"] == pytest.approx(0, abs=gap)
    assert found["largest_margin"] == pytest.approx(0.125, rel=1e-12)
    assert found["normalized_margin"] == pytest.approx(0.5 / found["value"], rel=1e-12)
    assert found["certified"] == (solver == "closed_form")


@pytest.mark.parametrize("solver", ["lbfgs", "closed_form"])
def test_fixed_etf(capsys, solver):
    words = "solve fixed_etf --loss cross_entropy --classes 3 --per-class 20 3 1 --e-w 4 --e-h 4 --solver"
    found = answer(capsys, f"{words} {solver}")
    assert found["value"] == pytest.approx(0.004945249, abs=1e-8)
    assert found["certified"]
    assert found["scale"] == 4


def test_le_sde(capsys, tmp_path):
    words = "solve le_sde --classes 3 --alpha 0.5 --beta -0.3 --end 12 --steps 300"
    found = answer(capsys, f"{words} --figure {tmp_path / 'path.png'}")
    assert found["integral_alpha"] == pytest.approx(5.5, rel=1e-9)
    assert found["estimated_alpha"] == pytest.approx(5.5, rel=0.05)
    assert found["estimated_beta"] == pytest.approx(-3.3, rel=0.05)
    assert found["lower_bound"] == 0 < found["value"] == found["gap"]
    assert found["separability"] > 0.9
    assert found["status"].startswith("Simulated: L-model up to t = 12")


def test_what_is_undefined_is_null(capsys):
    found = answer(capsys, "solve ufm --classes 3 --per-class 4 --lambda-w 1 --lambda-h 1")
    assert found["metrics"]["pfc1"] is None
    assert found["value"] == pytest.approx(1.0986122886681098, rel=1e-14)


def test_words_for_people(capsys):
    main(UFM_WORDS.split())
    status, inequality, *rows = capsys.readouterr().out.splitlines()
    assert status.startswith("Global minimum: accelerated proximal gradient descent")
    assert inequality.startswith("‖Γ‖₂ <= √(λ_W λ_H) holds: ")
    assert [row.split()[0] for row in rows[:4]] == ["value", "lower_bound", "gap", "largest_collapse_number"]
    assert float(rows[0].split()[1]) == pytest.approx(0.0258842712475, abs=1e-12)


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        ("solve max_margin --classes 2 --per-class 1", "png"),
        (UFM_WORDS, "png"),
        (f"{PEELED_WORDS} --threshold", "svg"),
        (f"{MUFM_WORDS} --lambda-w 0.1 --lambda-h 0.01", "svg"),
    ],
)
def test_figures(capsys, tmp_path, words, kind):
    file = tmp_path / f"solution.{kind}"
    main([*words.split(), "--figure", str(file)])
    assert file.read_bytes().startswith(b"\x89PNG" if kind == "png" else b"<?xml")


def test_a_solver_that_stops_early_exits_with_one(capsys, monkeypatch):
    monkeypatch.setattr("ncollapse.surrogates.GradientDescent", lambda: GradientDescent(max_iterations=5))
    with pytest.raises(SystemExit) as caught:
        main([*UFM_WORDS.split(), "--solver", "gradient_descent"])
    assert caught.value.code == 1
    assert capsys.readouterr().out.startswith("Not converged: gradient descent, 5 steps")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (f"{UFM_WORDS} --lambda-w -1", "error: lambda_w must be finite and positive, got -1.0."),
        (f"{UFM_WORDS} --per-class 5 5", "error: --per-class takes one number or one for each of 4 classes, got 2."),
        (f"{UFM_WORDS} --figure x.pdf", "error: --figure needs a name that ends in .png or .svg, got 'x.pdf'."),
        (f"{UFM_WORDS} --dim 2", "error: The optimal logits have rank 4, which needs dim >= 4, got 2."),
        (f"{PEELED_WORDS} --ratio 0.5", "error: ratio must be at least 1, got 0.5."),
        (f"{PEELED_WORDS} --ratio 5 --threshold", "error: argument --threshold: not allowed with argument --ratio"),
        ("solve nothing", "error: argument MODEL: invalid choice: 'nothing'"),
    ],
)
def test_errors_are_one_line(capsys, words, message):
    with pytest.raises(SystemExit) as caught:
        main(words.split())
    printed = capsys.readouterr()
    assert caught.value.code == 2
    assert (printed.out, len(printed.err.splitlines())) == ("", 1)
    assert message in printed.err
