"""The pages of the documentation, and the code in them."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
PAGES += [*sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "docs" / "reference").glob("*.md"))]


def blocks(language: str, *pages: Path) -> list[str]:
    """The blocks of code in a language."""
    return [code for page in pages for code in re.findall(rf"```{language}\n(.*?)```", page.read_text(), flags=re.DOTALL)]
