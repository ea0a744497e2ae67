"""Templates of the package to self-contained HTML: one frame, style sheet and content security policy for all pages."""

import base64
import hashlib
from importlib.resources import files
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined

__all__ = ["render_page"]


def render_page(template: str, *, script: str | None = None, **context: Any) -> str:
    """Fill a template that extends ``frame.html``."""
    # jinja2 escapes whatever a run directory says; templates mark as safe only our own files, drawings and escaped JSON.
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, loader=FunctionLoader(_package_text)
    )
    code = _package_text(script) if script else ""
    digest = base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()
    return environment.get_template(template).render(css=_package_text("page.css"), script=code, script_hash=digest, **context)


def _package_text(name: str) -> str:
    return files("ncollapse.report").joinpath(name).read_text(encoding="utf-8")
