"""Formulas of docstrings as plain Unicode."""

import pytest

from ncollapse.cli.plain_math import plain_docstring, plain_math, plain_sections, plain_words


@pytest.mark.parametrize(
    ("latex", "plain"),
    [
        (r"\frac{\lambda_W}{2} \lVert W \rVert^2", "λ_W/2 ‖W‖²"),
        (r"\frac{1}{2N} \lVert Z - Y \rVert^2", "1/(2N) ‖Z - Y‖²"),
        (r"\min_{W, H}\; \tfrac12 (w_{y_i} - w_j)^T h_i \ge 1", "min_(W, H) 1/2 (w_y_i - w_j)ᵀ h_i ≥ 1"),
        (r"\log(1 + (K-1) e^{-R \sqrt{K/(K-1)}})", "log(1 + (K-1) e^(-R √(K/(K-1))))"),
        (r"\frac\beta2 \sum_j \gamma_j^2", "β/2 Σ_j γ_j²"),
        (r"\lVert \Gamma \rVert_2^2 \le \sqrt{n}^{-1}", "‖Γ‖_2² ≤ √n⁻¹"),
        (r"\bar f(x_i) \quad \text{for all } i", "f\u0304(x_i) for all i"),
        (r"e^{-|\int \beta| / (K-1)}", "e^(-|∫ β| / (K-1))"),
    ],
)
def test_formulas(latex, plain):
    assert plain_math(latex) == plain


def test_running_text():
    assert plain_words("Times of order :math:`N\nK`, as ``flow`` has.") == "Times of order N K, as flow has."


def test_a_docstring_ends_at_its_first_section():
    text = "A model.\n\n.. math:: \\min x^2\n    + y\n\nWith :math:`y \\ge 0`, which is long.\n\nAttributes:\n    x: Any."
    assert plain_docstring(text, 20) == "A model.\n\n    min x² + y\n\nWith y ≥ 0, which is\nlong."


def test_sections():
    text = "A model.\n\nAttributes:\n    x: A number\n        :math:`\\lambda`.\n    y: Another.\n\nRaises:\n    OSError: No."
    assert plain_sections(text) == {"x": "A number λ.", "y": "Another."}
    assert plain_sections("Nothing.") == {}
