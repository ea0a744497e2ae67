"""Settings of the site (`make docs`): Sphinx reads the checkout as it is, so that links work here and on the site alike."""

import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import ncollapse
from ncollapse.version import __version__

sys.path.insert(0, str(Path(__file__).parent))

import site_pages
from sphinx.util import logging

# With `-t check` (`make docs-check`) nothing is executed or drawn: warnings come in a tenth of the time.
CHECK = tags.has("check")  # noqa: F821
site_pages.write(unexecuted=CHECK)

project, author, release = "ncollapse", "The ncollapse founders", __version__
copyright = "MIT license"
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
extensions += ["site_math", "site_links", "site_papers"]
extensions += [] if CHECK else ["sphinx.ext.viewcode"]
root_doc = "docs/index"
include_patterns = ["docs/**", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md", "README.md"]
exclude_patterns = [".*", "runs", "build", "site", "src", "tests", "benchmarks", "examples"]
suppress_warnings = ["myst.xref_missing"]  # links to code lead to files; tests/test_docs.py checks every link

myst_enable_extensions = ["dollarmath", "attrs_inline"]
myst_heading_anchors = 4
# Only the tutorials are notebooks.
nb_execution_mode = "off" if CHECK else "force"
nb_execution_timeout = 600
nb_execution_raise_on_error = True
nb_merge_streams = True

autodoc_default_options = {"members": True, "member-order": "bysource"}
autodoc_typehints = "signature"
python_maximum_signature_line_length = 80
napoleon_google_docstring, napoleon_numpy_docstring, napoleon_use_ivar = True, False, True
add_module_names = False

html_theme = "furo"
html_title = "ncollapse"
html_math_renderer = "mathml"
html_show_sphinx = False
html_copy_source = False
html_extra_path = ["site_root"]
html_static_path, html_css_files = ["site_static"], ["site.css"]


_PUBLIC = {room: import_module(f"ncollapse.{room}") for room in ncollapse._ROOMS}
for _room in _PUBLIC.values():
    # autodoc finds what a module has already imported: rooms import some names at first use.
    vars(_room).update({name: getattr(_room, name) for name in _room.__all__})


def _skip(app: Any, what: str, name: str, value: Any, skip: bool, options: Any) -> bool | None:
    """Leave out the fields of named tuples, which the class has described."""
    return True if type(value).__name__ == "_tuplegetter" else None


def _point_to_examples(app: Any, what: str, name: str, value: Any, options: Any, lines: list[str]) -> None:
    """Add a link to the examples of the page to each entry that has none of its own; drop the text of a constant's type."""
    if what in {"function", "class", "exception"} and lines and not any(">>>" in line for line in lines):
        lines += ["", "`Examples <#examples>`__", ""]
    # A constant has the text of its type, such as that of dict; the reference has its own words.
    if what == "data" and "alias of" not in "".join(lines):
        lines.clear()


def _miss_no_name(app: Any, env: Any) -> None:
    """Warn of each public name without an entry in the reference."""
    described = {entry.rpartition(".")[2] for entry in env.domaindata["py"]["objects"]}
    for room, module in _PUBLIC.items():
        for name in sorted(set(module.__all__) - described):
            logging.getLogger("public names").warning("ncollapse.%s.%s has no entry in the reference", room, name)


_NAVIGATION: dict[tuple[tuple[str, Any], ...], str] = {}


def _same_navigation(app: Any, page: str, template: str, context: dict[str, Any], doctree: Any) -> None:
    """Give all pages the navigation of the first, links included: it is a third of the work, and nobody sees this site."""
    make = context["toctree"]

    def once(**options: Any) -> str:
        key = tuple(sorted(options.items()))
        if key not in _NAVIGATION:
            _NAVIGATION[key] = make(**options)
        return _NAVIGATION[key]

    context["toctree"] = once


def setup(app: Any) -> None:
    """Connect what leaves members out, what points to the examples, and what finds missing entries."""
    if CHECK:
        # Before that of the theme, which asks for the navigation. Nobody searches either.
        app.connect("html-page-context", _same_navigation, priority=400)
        app.connect("builder-inited", lambda app: setattr(app.builder, "search", False))
    app.connect("env-check-consistency", _miss_no_name)
    app.connect("autodoc-skip-member", _skip)
    app.connect("autodoc-process-docstring", _point_to_examples)
