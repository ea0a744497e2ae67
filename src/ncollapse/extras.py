"""Optional dependencies: how to install one that is missing."""

from pathlib import Path

from ncollapse.version import __version__


def install_hint(extra: str | None = None) -> str:
    """Write the command that installs ncollapse, with an extra if one is named."""
    # Nothing is on a package index: the checkout or the wheel must be named.
    wanted = f"[{extra}]" if extra else ""
    if (Path(__file__).parents[2] / "pyproject.toml").is_file():
        return f'pip install -e ".{wanted}" in the checkout of ncollapse'
    return f'pip install "ncollapse-{__version__}-py3-none-any.whl{wanted}"'


def missing_extra(what: str, library: str, extra: str) -> str:
    """Write the error about a library that is not installed."""
    return f"{what} needs {library}, which is not installed. Install it with: {install_hint(extra)}"
