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
    "own_training_page.png": "$ ncollapse report runs/decay_0.005  # after the tutorial; then the page in a browser",
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
    pages = {page: re.findall(r"!\[([^]]+)\]\((?:docs/|\.\./)?figures/([^)]+)\)", page.read_text()) for page in
             (ROOT / "README.md", *sorted(DOCS.glob("*.md")), *sorted(DOCS.glob("tutorials/*.md")))}  # fmt: skip
    return {page: found for page, found in pages.items() if found}


def gallery_page() -> str:
    """Write thumbnails of all pictures, then every figure and every example: the picture, and code and output on demand."""
    small, lines = [], ["## Figures\n"]
    for page, found in figures().items():
        title = re.findall(r"^# (.*)", page.read_text(), re.MULTILINE)[0]
        where = f"../../{page.relative_to(ROOT)}"
        heading = {"README.md": "README", "index.md": "The first page"}.get(page.name, title)
        lines.append(f"### {heading}\n\nOn the page [{title}]({where}).\n")
        codes = [_made_by(file, page) for _, file in found]
        for i, (words, file) in enumerate(found):
            lines.append(f"![{words}](../figures/{file})\n")
            small.append(_thumbnail(words, f"../figures/{file}", heading))
            # One piece of code may make several figures: it stands below the last.
            if codes[i] not in codes[i + 1 :]:
                lines.append(_folded("Code", codes[i]))
    lines += ["## Examples\n", "Each runs in seconds and is run by the tests: `python examples/NAME.py`.\n"]
    for path in sorted((ROOT / "examples").glob("*.py")):
        text = (ast.get_docstring(ast.parse(path.read_text())) or "").split("\n\n")[0].replace("\n", " ")
        title = path.stem.replace("_", " ").capitalize()
        if path.stem in {*_DRAWN, *_DRAWING}:
            small.append(_thumbnail(title, f"{path.stem}.svg", title))
        code = _folded("Code", f"```{{literalinclude}} ../../examples/{path.name}\n:language: python\n```\n")
        if path.stem not in _WITHOUT:
            code += "\n" + _folded("Output", f"```{{literalinclude}} {path.stem}.txt\n:language: text\n```\n")
        lines.append(f"### {title}\n\n{text}\n\n{_picture(path.stem)}\n{code}")
    first = "Every figure of these pages and every example, with the code that makes it and what it prints. Click a picture.\n"
    return "\n".join(["# Gallery\n", first, *small, "", *lines])


def _thumbnail(words: str, file: str, heading: str) -> str:
    """Write a small picture that leads to the section of this heading."""
    anchor = re.sub(r"[.,]", "", heading.lower()).replace(" ", "-")
    return f"[![{words}]({file}){{.thumbnail}}](#{anchor})"


def _folded(summary: str, text: str) -> str:
    """Fold a text, so that pictures are near each other."""
    return f"<details><summary>{summary}</summary>\n\n{text}\n</details>\n"


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


def run_examples(folder: Path, empty: bool) -> None:
    """Make the pictures of the examples and keep what they print, unless that is there; or leave empty files to be filled."""
    for example in sorted(path.stem for path in (ROOT / "examples").glob("*.py") if path.stem not in _WITHOUT):
        picture, said = folder / f"{example}.svg", folder / f"{example}.txt"
        files = [said, picture] if example in {*_DRAWN, *_DRAWING} else [said]
        if empty:
            for file in files:
                file.touch()
        elif not all(file.exists() and file.stat().st_size for file in files):
            said.write_text(_run(example, picture))


def _run(example: str, picture: Path) -> str:
    """Run an example, make its picture, and return what it prints."""
    given = [*_DRAWING[example], str(picture)] if example in _DRAWING else []
    with contextlib.redirect_stdout(io.StringIO()) as said, unittest.mock.patch("sys.argv", [example, *given]):
        runpy.run_path(str(ROOT / "examples" / f"{example}.py"), run_name="__main__")
    if example in _DRAWN:
        with contextlib.redirect_stdout(io.StringIO()):
            main(["solve", *shlex.split(_DRAWN[example]), "--figure", str(picture)])
    return said.getvalue()


def write(unexecuted: bool = False) -> None:
    """Write the pages into docs/made, which git ignores."""
    folder = DOCS / "made"
    folder.mkdir(exist_ok=True)
    run_examples(folder, unexecuted)
    for name, text in {"command": command_page(), "messages": messages_page(), "gallery": gallery_page()}.items():
        (folder / f"{name}.md").write_text(text)
