"""``ncollapse solve`` of the deep, flowing, normalized and bounded models: one object with the same keys, and figures."""

import contextlib
import json

import pytest

from ncollapse.cli import main

KEYS = {"model", "status", "certified", "value", "lower_bound", "gap", "inequality", "metrics"}
DEEP = "deep_ufm --classes 3 --per-class 2 --layers 2 --lambda-w 0.02 --lambda-h 0.02"
CASES = {
    DEEP: "Global minimum: closed form",
    f"{DEEP} --solver lbfgs": "Global minimum: L-BFGS",
    "near_collapse --lambda-w 0.05 --lambda-h 0.02 --per-class 5": "Global minimum: features eliminated",
    "near_collapse --lambda-w 0.05 --lambda-h 0.02 --per-class 5 --noise 0.1 --solver closed_form": "Critical point, ",
    "mixon_flow --duration 10 --steps 300": "End of a flow: 300 steps up to t = 10; the gap",
    "central_path --classes 3 --per-class 6 --dim 4 --duration 100 --steps 20": "End of a flow: 20 steps",
    "batch_norm --classes 3 --per-class 3 --beta 0.3 --solver closed_form": "Global minimum: closed form",
    "batch_norm --classes 2 --per-class 2 --beta 0.3": "Global minimum: L-BFGS",
    "weight_normalized --decay 1e-2 --per-class 4": "Not converged: L-BFGS",
    "bounded_outputs --classes 3 --radius 2": "Global minimum: projected gradient descent",
    "bounded_outputs --classes 3 --radius 2 --solver closed_form": "Global minimum: closed form",
    "normalized_features --classes 4 --temperature 2": "Global minimum: projected gradient descent",
    "normalized_features --classes 5 --dim 3": "Critical point, not certified: projected gradient descent",
}


def answer(capsys, words):
    # Descent with ReLU ends at kinks, where the gradient tells nothing: exit code 1.
    with contextlib.suppress(SystemExit):
        main(["solve", *words.split(), "--json"])
    found = json.loads(capsys.readouterr().out)
    assert ("relu" in words or "weight_normalized" in words) or not found["status"].startswith("Not converged")
    return found


@pytest.mark.parametrize("words", CASES)
def test_every_family_prints_the_same_keys(capsys, words):
    found = answer(capsys, words)
    assert set(found) >= KEYS
    assert found["model"] == words.split()[0]
    assert found["status"].startswith(CASES[words])
    assert found["gap"] == found["value"] - found["lower_bound"]
    assert found["metrics"]["pfc1"] is not None


def test_low_rank(capsys):
    words = "deep_ufm --activation relu --classes 6 --layers 4 --dim 6 --lambda-w 0.02 --lambda-h 0.02"
    found = answer(capsys, f"{words} --solver low_rank")
    assert found["value"] < 0.96 * found["collapse_value"]
    assert [found[f"rank_{layer}"] for layer in range(4)] == [4, 4, 4, 6]
    assert found["lower_bound"] is None


def test_numbers_of_the_families(capsys):
    found = answer(capsys, "near_collapse --lambda-w 0.05 --lambda-h 0.02 --noise 1e-3")
    assert found["pfc1_ratio"] == pytest.approx(found["predicted_ratio"], abs=1e-5)
    assert abs(found["sensitivity_lambda_w"]) < found["sensitivity_lambda_h"]
    found = answer(capsys, "weight_normalized --decay 1e-4 --per-class 3 --sigma 0.1 --dim 6 --width 8")
    assert found["rho"] == pytest.approx(found["rho_of_margins"], rel=1e-4)
    assert found["margin_variation"] < 0.05
    found = answer(capsys, "normalized_features --classes 4 --dim 3 --temperature 2 --solver closed_form")
    assert found["value"] == pytest.approx(0.1893388394, abs=1e-10)


@pytest.mark.parametrize("words", [words for words in CASES if "closed_form" not in words and "lbfgs" not in words])
def test_figures(capsys, tmp_path, words):
    file = tmp_path / "figure.svg"
    with contextlib.suppress(SystemExit):
        main(["solve", *words.split(), "--figure", str(file)])
    assert file.read_bytes().startswith(b"<?xml")
