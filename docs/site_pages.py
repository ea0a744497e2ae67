"""Pages that are made when the site is built: the command's help, every message, the gallery of examples."""

import argparse
import ast
import contextlib
import io
import re
import runpy
import shlex
import unittest.mock
from pathlib import Path

from ncollapse.cli.main import _parser, main

DOCS = Path(__file__).parent
ROOT = DOCS.parent
SOURCE = ROOT / "src" / "ncollapse"
# Figures that a command makes.
_COMMANDS = {
    "demo_kgon.gif": "$ make demo\n$ ncollapse animate runs/demo --frames 16 --out docs/figures/demo_kgon.gif",
    "demo_pfc_over_depth.png": "$ make demo\n$ cp runs/demo/figures/pfc_over_depth.png docs/figures/demo_pfc_over_depth.png",
}
# Examples of surrogate models, and the command that draws the same model.
_DRAWN = {
    "central_path": "central_path",
    "deep_features": "deep_ufm",
    "features_on_a_sphere": "gufm",
    "fixed_classifier": "fixed_etf",
    "largest_margin": "max_margin",
    "leaving_the_data": "mufm",
    "locally_elastic": "locally_elastic_sde",
    "minority_collapse": "layer_peeled counts=5x10,5x1 energy_w=1 energy_h=5",
    "near_collapse": "near_collapse",
    "normalized_networks": "batch_norm_net",
    "spheres_and_balls": "bounded_outputs",
    "strong_collapse": "unregularized_ufm",
    "unconstrained_features": "ufm",
}
# Examples whose pages or numbers look like a figure of the docs.
_SHOWN = {"line_and_baseline": "demo_pfc_over_depth.png", "own_training": "results_compare_depth.png"}
# Examples that draw a picture of their own where they are given a file, and their other arguments.
_DRAWING: dict[str, list[str]] = {"amplified_gradients": [], "residual_alignment": ["200"], "tight_frames": []}
_WITHOUT = {"imagenet_head": "It prints tables and has no picture. It needs two packages that this site is built without."}
_ERRORS = {"ValueError", "TypeError", "ImportError"}


def command_page() -> str:
    """Write the help of every subcommand."""
    (action,) = (item for item in _parser()._actions if isinstance(item, argparse._SubParsersAction))
    words = {choice.dest: choice.help for choice in action._choices_actions}
    lines = ["# The command line\n", "Every subcommand with its options, as `ncollapse NAME --help` prints it.\n"]
    for name, parser in action.choices.items():
        parser.formatter_class = lambda prog: argparse.RawDescriptionHelpFormatter(prog, width=100)
        summary = words.get(name) or ""
        lines.append(f"## ncollapse {name}\n\n{summary[:1].upper()}{summary[1:]}.\n\n```text\n{parser.format_help()}```\n")
    return "\n".join(lines)


def _words(node: ast.expr) -> str:
    """Write a message with … for what is filled in; empty if it is no text."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(part.value if isinstance(part, ast.Constant) else "…" for part in node.values)
    return ""


def messages() -> dict[str, list[tuple[str, str]]]:
    """Collect the messages of all errors by room: pairs of the error's name and the text."""
    found: dict[str, list[tuple[str, str]]] = {}
    for path in sorted(SOURCE.rglob("*.py")):
        room = path.relative_to(SOURCE).parts[0].removesuffix(".py")
        for node in ast.walk(ast.parse(path.read_text())):
            call = node.exc if isinstance(node, ast.Raise) else None
            if isinstance(call, ast.Call) and call.args and (isinstance(call.func, ast.Name)):
                text = _words(call.args[0]).strip()
                if re.search(r"\w \w", text) and (call.func.id in _ERRORS or call.func.id.endswith("Error")):
                    found.setdefault(room, []).append((call.func.id, text))
    return found


def messages_page() -> str:
    """Write every message, by room."""
    lines = [
        "# Every message\n",
        "What the library raises, by room. … marks what depends on your call. Search this page for a few words of yours.\n",
    ]
    for room, pairs in messages().items():
        lines.append(f"## {room}\n")
        lines += [f"- {text}".replace("*", "\\*").replace("<", "&lt;").replace("_", "\\_") for _, text in sorted(set(pairs))]
        lines.append("")
    return "\n".join(lines)


def _made_by(file: str, page: Path) -> str:
    """Write the command, the script or the code of the page by which a figure is made."""
    if file in _COMMANDS:
        return f"```console\n{_COMMANDS[file]}\n```\n"
    for script in sorted(DOCS.glob("draw_*.py")):
        if Path(file).stem in script.read_text():
            return f"Made by `docs/{script.name}`:\n\n```{{literalinclude}} ../{script.name}\n:language: python\n```\n"
    return re.findall(r"```python\n.*?```\n", page.read_text(), re.DOTALL)[0]


def figures() -> dict[Path, list[tuple[str, str]]]:
    """Collect the figures of README and docs by their page: description and file."""
    pages = {page: re.findall(r"!\[([^]]+)\]\((?:docs/)?figures/([^)]+)\)", page.read_text()) for page in
             (ROOT / "README.md", *sorted(DOCS.glob("*.md")))}  # fmt: skip
    return {page: found for page, found in pages.items() if found}


def gallery_page() -> str:
    """Write every figure and every example: the picture, and the code on demand."""
    lines = ["# Gallery\n", "Every figure of these pages, then every example, with the code that makes it.\n", "## Figures\n"]
    for page, found in figures().items():
        title = page.read_text().split("\n", 1)[0].removeprefix("# ")
        where = f"../../{page.name}" if page.parent == ROOT else f"../{page.name}"
        lines.append(f"### {title if page.parent != ROOT else 'README'}\n\nOn the page [{title}]({where}).\n")
        codes = [_made_by(file, page) for _, file in found]
        for i, (words, file) in enumerate(found):
            lines.append(f"![{words}](../figures/{file})\n")
            # One piece of code may make several figures: it stands below the last.
            if codes[i] not in codes[i + 1 :]:
                lines.append(_folded(codes[i]))
    lines += ["## Examples\n", "Each runs in seconds and is run by the tests: `python examples/NAME.py`.\n"]
    for path in sorted((ROOT / "examples").glob("*.py")):
        text = (ast.get_docstring(ast.parse(path.read_text())) or "").split("\n\n")[0].replace("\n", " ")
        title = path.stem.replace("_", " ").capitalize()
        code = _folded(f"```{{literalinclude}} ../../examples/{path.name}\n:language: python\n```\n")
        lines.append(f"### {title}\n\n{text}\n\n{_picture(path.stem)}\n{code}")
    return "\n".join(lines)


def _folded(code: str) -> str:
    """Fold a piece of code, so that pictures are near each other."""
    return f"<details><summary>Code</summary>\n\n{code}\n</details>\n"


def _picture(example: str) -> str:
    """Write the picture of an example and where it is from, or why it has none."""
    if example in _SHOWN:
        return f"![{example.replace('_', ' ')}](../figures/{_SHOWN[example]})\n"
    if example in _WITHOUT:
        return f"{_WITHOUT[example]}\n"
    command = f"ncollapse solve {_DRAWN.get(example)} --figure {example}.svg"
    if example in _DRAWING:
        command = " ".join(["python", f"examples/{example}.py", *_DRAWING[example], f"{example}.svg"])
    return f"![{example.replace('_', ' ')}]({example}.svg)\n\nDrawn by `{command}`.\n"


def draw(folder: Path, empty: bool) -> None:
    """Draw the pictures of the examples that are not there yet, or leave empty files to be drawn later."""
    files = {example: folder / f"{example}.svg" for example in (*_DRAWN, *_DRAWING)}
    for example, file in files.items():
        if empty:
            file.touch()
        elif not file.exists() or not file.stat().st_size:
            with contextlib.redirect_stdout(io.StringIO()):
                _draw(example, file)


def _draw(example: str, file: Path) -> None:
    """Draw one, with the command or with the example itself."""
    if example in _DRAWN:
        main(["solve", *shlex.split(_DRAWN[example]), "--figure", str(file)])
        return
    with unittest.mock.patch("sys.argv", ["", *_DRAWING[example], str(file)]):
        runpy.run_path(str(ROOT / "examples" / f"{example}.py"))


def write(empty_pictures: bool = False) -> None:
    """Write the pages into docs/made, which git ignores."""
    folder = DOCS / "made"
    folder.mkdir(exist_ok=True)
    draw(folder, empty_pictures)
    for name, text in {"command": command_page(), "messages": messages_page(), "gallery": gallery_page()}.items():
        (folder / f"{name}.md").write_text(text)
