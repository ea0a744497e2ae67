"""Papers become links to arXiv wherever they are named: by an identifier, or by authors and a year."""

import re
from collections.abc import Iterator

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx

# First author and year, of the papers whose identifiers we know.
_KNOWN = {
    ("Dang", "2023"): "2301.00437",
    ("E", "2022"): "2012.05420",
    ("Fang", "2021"): "2101.12699",
    ("Gai", "2021"): "2102.09235",
    ("Galanti", "2022"): "2112.15121",
    ("Han", "2022"): "2106.02073",
    ("He", "2023"): "2210.17020",
    ("Hui", "2022"): "2202.08384",
    ("Ji", "2022"): "2110.02796",
    ("Kothapalli", "2023"): "2307.01951",
    ("Liu", "2023"): "2303.06484",
    ("Lu", "2022"): "2012.08465",
    ("Mixon", "2020"): "2011.11619",
    ("Papyan", "2020"): "2008.08186",
    ("Súkeník", "2024"): "2405.14468",
    ("Tirer", "2022"): "2202.08087",
    ("Wu", "2024"): "2405.17767",
    ("Yaras", "2022"): "2209.09211",
    ("Zarka", "2021"): "2012.10424",
    ("Zhao", "2026"): "2602.16642",
    ("Zhou", "2022"): "2203.01238",
    ("Zhu", "2021"): "2105.02375",
}
_PAPER = re.compile(
    r"arXiv[ :](?P<id>\d{4}\.\d{4,5})"
    r"|(?P<first>[^\W\d_a-z][\w-]*)(?:, [^\W\d_a-z][\w-]*)*(?: & [^\W\d_a-z][\w-]*| et al\.) \((?P<year>\d{4})\)"
)
_NO_TEXT = (nodes.reference, nodes.literal, nodes.literal_block, nodes.math, nodes.raw, nodes.title, addnodes.desc_signature)


def linked(text: str) -> Iterator[nodes.Node]:
    """Split a text into text and links to papers."""
    done = 0
    for match in _PAPER.finditer(text):
        paper = match["id"] or _KNOWN.get((match["first"], match["year"]))
        if paper:
            yield nodes.Text(text[done : match.start()])
            yield nodes.reference("", match[0], refuri=f"https://arxiv.org/abs/{paper}", internal=False)
            done = match.end()
    yield nodes.Text(text[done:])


def _link_papers(app: Sphinx, doctree: nodes.document, page: str) -> None:
    for text in list(doctree.findall(nodes.Text)):
        above, inside = text.parent, False
        while above is not None:
            above, inside = above.parent, inside or isinstance(above, _NO_TEXT)
        if not inside and _PAPER.search(text):
            text.parent.replace(text, list(linked(str(text))))


def setup(app: Sphinx) -> dict[str, bool]:
    """Connect to the end of reading."""
    app.connect("doctree-resolved", _link_papers)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
