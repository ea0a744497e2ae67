"""Docstrings for terminals: formulas become plain Unicode."""

import re
import textwrap

_SYMBOLS = {
    "alpha": "α", "beta": "β", "gamma": "γ", "lambda": "λ", "sigma": "σ", "rho": "ρ", "tau": "τ", "omega": "ω", "eta": "η",
    "Gamma": "Γ", "Lambda": "Λ", "Pi": "Π", "Sigma": "Σ", "Phi": "Φ", "ell": "ℓ", "sum": "Σ", "prod": "Π", "int": "∫",
    "langle": "⟨", "rangle": "⟩", "le": "≤", "ge": "≥", "ne": "≠", "pm": "±", "to": "→", "infty": "∞", "cdot": "·",
    "cdots": "⋯", "in": "∈", "propto": "∝", "otimes": "⊗", "quad": " ",
}  # fmt: skip
_RAISED = str.maketrans("0123456789-+Tn", "⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺ᵀⁿ")
_ACCENTS = {"hat": "\u0302", "bar": "\u0304", "tilde": "\u0303", "dot": "\u0307"}
# Rewritten once each, in this order.
_FIRST = (
    (r"\\lVert\s*", "‖"),
    (r"\s*\\rVert", "‖"),
    (r"\\[;,!]", " "),
    (r"\\[td]?frac\s*(\w|\\[a-z]+)\s*(\w)", r"\1/\2"),
    (r"\\(?:mathrm|text|mathcal)\s*\{([^{}]*)\}", r"\1"),
)


def plain_math(latex: str) -> str:
    """Write LaTeX as one line of Unicode."""
    text = " ".join(latex.split())
    for pattern, by in _FIRST:
        text = re.sub(pattern, by, text)
    text = re.sub(r"\\(hat|bar|tilde|dot)\s*\{?(\\[a-z]+|\w)\}?", lambda found: found[2] + _ACCENTS[found[1]], text)
    before = ""
    # From the innermost braces outwards.
    while before != text:
        before = text
        text = re.sub(r"\\[td]?frac\s*\{([^{}]*)\}\s*\{([^{}]*)\}", lambda f: f"{_grouped(f[1])}/{_grouped(f[2])}", text)
        text = re.sub(r"\\sqrt\s*(?:\{([^{}]*)\}|(\w))", lambda f: f"√{_grouped(f[1] or f[2])}", text)
        text = re.sub(r"\^\s*(?:\{([^{}]*)\}|(\\[a-z]+|\w))", lambda f: _raised(f[1] or f[2]), text)
        text = re.sub(r"_\s*\{([^{}]*)\}", lambda f: f"_{_grouped(f[1])}", text)
    text = re.sub(r"\\([A-Za-z]+)", lambda f: _SYMBOLS.get(f[1], f[1]), text)
    return " ".join(re.sub(r"[{}\\]|\^(?=\*)", "", text).split())


def _grouped(text: str) -> str:
    """Put a part of a formula in parentheses, unless it is a single name or number."""
    return text if re.fullmatch(r"\d+|(\\[A-Za-z]+|\w)(_(\\[A-Za-z]+|\w+))?", text) else f"({text})"


def _raised(text: str) -> str:
    raised = text.translate(_RAISED)
    return f"^{_grouped(text)}" if re.search(r"[\w(\\/]", re.sub(r"[⁰¹²³⁴⁵⁶⁷⁸⁹ᵀⁿ]", "", raised)) else raised


def plain_words(text: str) -> str:
    """Write running text on one line: its formulas as Unicode, code without its marks."""
    text = re.sub(r":math:`([^`]*)`", lambda found: plain_math(found[1]), " ".join(text.split()))
    return text.replace("``", "")


def plain_docstring(docstring: str, width: int) -> str:
    """Wrap the paragraphs of a docstring before its first section, formulas on lines of their own."""
    paragraphs = []
    for paragraph in docstring.split("\n\n"):
        if re.match(r"[A-Z]\w+:(\n|$)", paragraph):
            break
        formula, math_mark, displayed = paragraph, ".. math::", paragraph.startswith(".. math::")
        text = plain_math(formula.removeprefix(math_mark)) if displayed else plain_words(paragraph)
        paragraphs.append(textwrap.indent(textwrap.fill(text, width - 4 * displayed), "    " * displayed))
    return "\n\n".join(paragraphs)


def plain_sections(docstring: str) -> dict[str, str]:
    """Find the text about each argument or attribute in a docstring."""
    found: dict[str, str] = {}
    for section in re.findall(r"^(?:Args|Attributes):\n((?: {4}.*\n?|\n)+)", docstring, flags=re.MULTILINE):
        for entry in re.split(r"^ {4}(?=\w)", section, flags=re.MULTILINE)[1:]:
            name, _, text = entry.partition(": ")
            found[name] = plain_words(text)
    return found
