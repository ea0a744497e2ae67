"""Formulas as MathML, made when the site is built: browsers draw it without scripts, fonts or a network.

In sentences the pages write μ_k and e^{−τ}, which can be read in a checkout too; on the site these are sub- and superscripts.
"""

import re
from collections.abc import Iterator
from typing import Any

from docutils import nodes
from latex2mathml.converter import convert
from sphinx import addnodes
from sphinx.application import Sphinx

# A sign or a short word, then a script or two: {anything}, a number, one or two letters, or one of some words. In s_jc_i the
# letter before the next script is a sign of its own.
_ONE = (
    r"\{[^{}]+\}|\d+|[A-Za-z](?=[A-Za-z][_^\u0300-\u036f])|(?:[A-Za-z]{1,2}\d?|max|min|crit|rel|ker|same|out|slope|OOD)(?![A-Za-z0-9_])"
    r"|[A-Za-z](?=[^\W\d_a-zA-Z])|[ŷα-ωΑ-Ω±*+−⊥]"
)
_SCRIPT = re.compile(
    r"(?P<sign>(?<![A-Za-z_])(?:min|max|mean|std|err|log|logsumexp)|[^\W\d_][\u0300-\u036f]*|[∂‖)|′ᵀ]|\d(?=\^))"
    rf"(?P<first>[_^](?:{_ONE}))(?P<second>[_^](?:{_ONE}))?"
)
_NO_PROSE = (nodes.literal, nodes.literal_block, nodes.math, nodes.math_block, nodes.raw, nodes.title, addnodes.desc_signature)


def _inline(self: Any, node: nodes.Element) -> None:
    self.body.append(convert(node.astext()))
    raise nodes.SkipNode


def _block(self: Any, node: nodes.Element) -> None:
    self.body.append(self.starttag(node, "div", CLASS="math"))
    self.body.append(convert(node.astext(), display="block") + "</div>\n")
    raise nodes.SkipNode


def scripts(text: str) -> Iterator[nodes.Node]:
    """Split a sentence into text, subscripts and superscripts."""
    done = 0
    for match in _SCRIPT.finditer(text):
        # A word with an underscore is a name, not a product of signs such as QG_0.
        before = text[max(match.start() - 2, done) : match.start()]
        letters = len(re.sub(r"[^A-Za-z]", "", match["first"]))
        is_name = re.search(r"[A-Za-z_]{2}$" if letters < 2 else r"[A-Za-z_]$", before)
        is_word = len(match["sign"]) > 2 and re.match(r"[A-Za-z]", text[match.end() :])
        if match["sign"][0].isascii() and (is_name or is_word):
            continue
        yield nodes.Text(text[done : match.end("sign")])
        for script in filter(None, (match["first"], match["second"])):
            kind = nodes.subscript if script[0] == "_" else nodes.superscript
            yield kind(script, script[1:].strip("{}"))
        done = match.end()
    yield nodes.Text(text[done:])


def _set_scripts(app: Sphinx, doctree: nodes.document) -> None:
    # Docstrings have formulas proper, and names of attributes.
    if app.env.docname.startswith(("docs/reference/", "docs/made/")):
        return
    for text in list(doctree.findall(nodes.Text)):
        parent = text.parent
        if _SCRIPT.search(text) and not any(isinstance(node, _NO_PROSE) for node in _above(text)):
            parent.replace(text, list(scripts(str(text))))


def _above(node: nodes.Node) -> Iterator[nodes.Node]:
    while node.parent is not None:
        node = node.parent
        yield node


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the renderer that `conf.py` names."""
    app.add_html_math_renderer("mathml", (_inline, None), (_block, None))
    app.connect("doctree-read", _set_scripts)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
