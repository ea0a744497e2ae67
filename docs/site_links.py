"""Public names, metric ids, flags and pages in backticks become links to where they are described."""

import re
from typing import Any

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.util.nodes import make_refnode

from ncollapse import FLAGS, METRICS

# Words that mean something else as often; they are links only where they are called or dotted, and in the reference.
_PLAIN = {
    "alignment",
    "balanced",
    "changes",
    "compare",
    "describe",
    "digits",
    "margins",
    "measure",
    "override",
    "train",
    "watch",
}
_CALL = re.compile(r"(?P<prefix>(?:nc|ncollapse(?:\.[a-z_]+)?)\.)?(?P<name>[A-Za-z]\w*(?:\.\w+)?)(?P<call>\(.*\))?$", re.DOTALL)
_ENTRY = re.compile(r"reference/(\w+)\.html#ncollapse\.\w+\.")


def _targets(app: Sphinx) -> dict[str, tuple[str, str]]:
    """Find page and anchor of each public name; those of the room that defines a name come first."""
    found: dict[str, tuple[str, str]] = {}
    for full, entry in app.env.domaindata["py"]["objects"].items():
        if entry.objtype != "module" and entry.docname.startswith("docs/reference/"):
            parts = full.split(".")
            is_member = len(parts) > 2 and parts[-2][:1].isupper()
            found.setdefault(".".join(parts[-2:]) if is_member else parts[-1], (entry.docname, entry.node_id))
    return found


def _place(name: str, found: re.Match[str], page: str, targets: dict[str, tuple[str, str]]) -> tuple[str, str] | None:
    """Choose where a name leads: ids and flags first, but functions in the reference and where they are called."""
    as_code = found["prefix"] or found["call"] or page.startswith("docs/reference/")
    if not as_code and name in METRICS:
        return "docs/metrics", name.replace(".", "")
    if not as_code and name in FLAGS:
        return "docs/refusals", name
    return targets.get(name) if as_code or name not in _PLAIN else None


def _in_entry(node: nodes.Node) -> bool:
    """Whether a node belongs to the entry of a name, where links to the same page would lead nowhere far."""
    while node is not None and not isinstance(node, addnodes.desc):
        node = node.parent
    return node is not None


def link_names(app: Sphinx, doctree: nodes.document, page: str) -> None:
    """Wrap each literal that names something public in a link."""
    targets = _targets(app)
    for literal in list(doctree.findall(nodes.literal)):
        text = literal.astext()
        document = text.removesuffix(".md")
        if document != text and document in app.env.all_docs and not isinstance(literal.parent, nodes.reference | nodes.title):
            literal.replace_self(make_refnode(app.builder, page, document, "", literal.deepcopy()))
            continue
        found = _CALL.match(text)
        if isinstance(literal.parent, nodes.reference | nodes.title) or (not found and text not in METRICS):
            continue
        place = _place(found["name"], found, page, targets) if found else None
        place = ("docs/metrics", text.replace(".", "")) if text in METRICS and "." in text else place
        if place is not None and place[0] in app.env.all_docs and (place[0] != page or not _in_entry(literal)):
            literal.replace_self(make_refnode(app.builder, page, *place, literal.deepcopy()))


def mend_source_links(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: nodes.document | None) -> None:
    """Lead from a name's source to its entry: Sphinx takes one room for all names of a file, which two rooms may export."""
    if page.startswith("_modules/") and "body" in context:
        context["body"] = _ENTRY.sub(r"reference/\1.html#ncollapse.\1.", context["body"])


def setup(app: Sphinx) -> dict[str, Any]:
    """Connect to the end of reading, and to the pages of source code."""
    app.connect("doctree-resolved", link_names)
    app.connect("html-page-context", mend_source_links)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
