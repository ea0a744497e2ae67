"""Settings of the site (`make docs`): Sphinx reads the checkout as it is, so that links work here and on the site alike."""

import sys
from pathlib import Path
from typing import Any

from ncollapse.version import __version__

sys.path.insert(0, str(Path(__file__).parent))

import site_pages

site_pages.write()

project, author, release = "ncollapse", "The ncollapse founders", __version__
copyright = "MIT license"
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
extensions += ["site_math", "site_links"]
root_doc = "docs/index"
include_patterns = ["docs/**", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md", "README.md"]
exclude_patterns = [".*", "runs", "build", "site", "src", "tests", "benchmarks", "examples"]
suppress_warnings = ["myst.xref_missing"]  # links to code lead to files; tests/test_docs.py checks every link

myst_enable_extensions = ["dollarmath", "attrs_inline"]
myst_heading_anchors = 4
# Only the tutorials are notebooks.
nb_execution_mode = "force"
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


def _skip(app: Any, what: str, name: str, value: Any, skip: bool, options: Any) -> bool | None:
    """Leave out the fields of named tuples, which the class has described."""
    return True if type(value).__name__ == "_tuplegetter" else None


def _point_to_examples(app: Any, what: str, name: str, value: Any, options: Any, lines: list[str]) -> None:
    """Add a link to the examples of the page to each entry that has none of its own."""
    if what in {"function", "class", "exception"} and lines and not any(">>>" in line for line in lines):
        lines += ["", "`Examples <#examples>`__", ""]


def setup(app: Any) -> None:
    """Connect what leaves members out, and what points to the examples."""
    app.connect("autodoc-skip-member", _skip)
    app.connect("autodoc-process-docstring", _point_to_examples)
