"""Inline code of the documentation: ``python inline_code.py PAGE...`` prints each piece in backticks that names nothing."""

import argparse
import ast
import contextlib
import importlib
import importlib.util
import inspect
import io
import re
import shlex
import sys
import tomllib
from collections import defaultdict
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any

import torch

import ncollapse

IMPORTED = set(dir(ncollapse))  # before anything else is imported: what `import ncollapse` gives

from ncollapse.cli.main import _parser  # noqa: E402
from ncollapse.cli.solve import read_request  # noqa: E402
from ncollapse.experiments import EXPERIMENTS  # noqa: E402
from ncollapse.studies import RECIPES, override  # noqa: E402

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "ncollapse"
# Words of other libraries, of the user's own code, and names of files that others publish.
FOREIGN = {
    *(
        "$NCOLLAPSE_DATA",
        ".jsonl",
        ".tsv",
        "train.csv",
        "FOLDER/train/CLASS/*.png",
        "FOLDER/test/CLASS/",
        "text",
        "label",
        "aclImdb",
        "wordnet-base",
        "dataset-fashion-mnist",
    ),
    *("site/", "get_classifier()", "global_pool", 'make bench ROWS="NAME NAME"'),
    *("torchvision:NAME", "timm:NAME", "transformers:FOLDER", "save_pretrained", "module."),
    *(
        "DataLoader(batches, batch_size=None)",
        "DistributedSampler",
        "EarlyStopping",
        "MetricCollection",
        "ModelCheckpoint",
        "Trainer",
        "report=trainer.log",
        "report_to",
        "training_step",
        "match=",
    ),
    *("runs/mine-2", "epoch_12.pt", "ckpt/last.ckpt", "step_500.pt", "checkpoint-500"),
    *("layers/layers.html", "auroc.NAME.SCORE", "fpr95.NAME.SCORE", "few_shot.NAME", "few_shot_bound.NAME"),
    *("pytorch_lightning", "x", "x.input", "head.input", "(measurement, epoch=, step=)", "nc/<layer>/<metric>"),
    *('both["pfc1"]', *(f'm.depth_results.prediction_error["projection"].{name}["pfc1"]' for name in ("line", "baseline"))),
    *(".venv", ".venv-zoo", ".venv-docs", ".venv-integrations", ".venv-minimum", "__all__", 'm["pfc1"]', "core", "all"),
}


COMMANDS = next(action.choices for action in _parser()._actions if isinstance(action, argparse._SubParsersAction))


def snippets(page: Path) -> list[str]:
    """What stands in backticks outside of blocks; not layers and rows of benchmarks in the tables of written pages."""
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    if page.name in {"networks.md", "records.md"}:
        text = re.sub(r"^\|.*$", "", text, flags=re.MULTILINE)
    return re.findall(r"`([^`]+)`", text)


@cache
def parsers() -> list[argparse.ArgumentParser]:
    """The command's parser and all below it."""
    found = [_parser()]
    for parser in found:
        for action in parser._actions:
            found += action.choices.values() if isinstance(action, argparse._SubParsersAction) else ()
    return found


@cache
def public() -> dict[str, list[Any]]:
    """The names that the package and its rooms hand on, with the members of classes: `Tap`, `Tap.close`, `close`."""
    found = defaultdict(list)
    rooms = sorted(path.parent.name for path in SOURCE.glob("*/__init__.py"))
    for module in (ncollapse, *(importlib.import_module(f"ncollapse.{room}") for room in rooms)):
        found[module.__name__.removeprefix("ncollapse.")].append(module)
        for name in module.__all__:
            value = getattr(module, name)
            found[name].append(value)
            bases = value.__mro__ if isinstance(value, type) else ()
            for member in {name for base in bases for name in (*vars(base), *vars(base).get("__annotations__", ()))}:
                found[member].append(getattr(value, member, None))
                found[f"{name}.{member}"].append(getattr(value, member, None))
    return found


@cache
def callbacks() -> set[str]:
    """Names in the source of the integrations, which need extras to be imported."""
    trees = [ast.parse(path.read_text()) for path in (SOURCE / "integrations").glob("*.py")]
    nodes = [node for tree in trees for node in ast.walk(tree)]
    return {getattr(node, "name", None) or getattr(node, "arg", None) or getattr(node, "attr", None) for node in nodes}


@cache
def parameters(name: str) -> set[str]:
    """The arguments of what has this name."""
    found = set()
    for value in public()[name]:
        with contextlib.suppress(TypeError, ValueError):
            found |= {*inspect.signature(value).parameters}
    return found


@cache
def words() -> set[str]:
    """Ids, recipes, extras, options and choices of commands, and the arguments of everything public, as `path=`."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    found = {*ncollapse.METRICS, *ncollapse.FLAGS, *RECIPES, *extras}
    for parser in parsers():
        for action in parser._actions:
            found |= {*action.option_strings, *map(str, action.choices or ())}
    return found | {f"{word}=" for name in public() for word in parameters(name)} | {f"{word}=" for word in callbacks()}


@cache
def recipes() -> list[Any]:
    """All recipes, made."""
    return [make() for make in RECIPES.values()]


@cache
def source() -> str:
    """All of the library's code."""
    return "".join(path.read_text() for path in SOURCE.rglob("*.py"))


@cache
def classes() -> set[str]:
    """The names of all classes of the library."""
    return set(re.findall(r"^class (\w+)", source(), flags=re.MULTILINE))


def is_command(text: str) -> bool:
    """Whether a verb, or words that the parser takes, with a recipe that takes what is set and swept, or a model its fields."""
    if text in COMMANDS:
        return True
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            chosen = parsers()[0].parse_args(shlex.split(text))
    except SystemExit as ended:
        return ended.code == 0  # Help was asked for.
    if chosen.command == "solve":
        name, *settings = chosen.words or ["ufm"]
        return name == "MODEL" or read_request(name, settings, chosen.solver) is not None
    recipe = getattr(chosen, "recipe", None)
    if recipe in RECIPES:
        override(RECIPES[recipe](), getattr(chosen, "set", []))
        return all(is_setting(item) for axis in getattr(chosen, "over", []) for item in axis)
    return recipe is None or recipe.isupper()


def is_setting(text: str) -> bool:
    """Whether a recipe has this field and takes each of these values."""
    field, equals, values = text.partition("=")
    for recipe in recipes():
        value = recipe
        for name in field.split("."):
            value = getattr(value, name, public)
        if value is not public:
            for word in values.split(",") if equals else ():
                override(recipe, [f"{field}={word}"])
            return True
    return False


def is_expression(text: str) -> bool:
    """Whether what is called is public and has such arguments; where all of them are numbers or words, the call is made."""
    try:
        tree = ast.parse(re.sub(r"^with (.*) as \w+:$", r"\1", text), mode="eval")
    except SyntaxError:
        return False
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            name = re.sub(r".*\.", "", ast.unparse(node.func))
            if name not in public() or not {word.arg for word in node.keywords} <= parameters(name):
                return False
    if isinstance(tree.body, ast.Call) and {n.id for n in ast.walk(tree) if isinstance(n, ast.Name)} <= {"nc", "ncollapse"}:
        eval(compile(tree, text, "eval"), {"nc": ncollapse, "ncollapse": ncollapse}) if "..." not in text else None
    return isinstance(tree.body, ast.Call)


def is_dotted(text: str) -> bool:
    """Whether `nc.name` and `ncollapse.room.name` are there once `ncollapse` is imported, or name a module."""
    for name in re.findall(r"\b(?:nc|ncollapse)((?:\.[A-Za-z]\w*)+)", text):
        first, *rest = name[1:].split(".")
        if first not in IMPORTED:
            return False
        if resolve(getattr(ncollapse, first), rest) is None and importlib.util.find_spec(f"ncollapse{name}") is None:
            return False
    return True


def resolve(value: Any, names: list[str]) -> Any:
    """The attribute of an attribute; None if there is none."""
    for name in names:
        value = getattr(value, name, None)
    return value


def is_path(text: str) -> bool:
    """Whether a file of the checkout (`tests/x.py::test_y` too), or one that the library or the Makefile writes."""
    file, _, test = text.partition("::")
    found = [path for path in (ROOT / file, SOURCE / file, SOURCE / "integrations" / file) if path.exists()]
    if test:
        return bool(found) and f"\ndef {test}(" in found[0].read_text()
    ignored = (ROOT / ".gitignore").read_text().splitlines()
    return bool(found) or f'"{file.rstrip("/")}"' in source() or f"{file.rstrip('/')}/" in ignored


def is_word(text: str) -> bool:
    """Whether an id, a recipe, an extra, an option, a command, a public name, any class, or an argument (`path=True`)."""
    name, equals, _ = text.partition("=")
    if name + equals in words() or text in classes():
        return True
    return not equals and any(name in public() or name in callbacks() for name in (text, text.split(".")[-1]))


def is_experiment(text: str) -> bool:
    """Whether an experiment, or a pattern of some, such as `deep:fig1-*`."""
    return ":" in text and any(fnmatchcase(name, text) for name in EXPERIMENTS)


def is_target(text: str) -> bool:
    """Whether the Makefile makes it, of variables that it reads."""
    target, *variables = text.split()
    makefile = (ROOT / "Makefile").read_text()
    if not all(f"$({name})" in makefile for name in (word.partition("=")[0] for word in variables)):
        return False
    return re.search(rf"^([\w.-]+ )*{re.escape(target)}( [\w.-]+)*:", makefile, flags=re.MULTILINE) is not None


def is_python(text: str) -> bool:
    """Whether the extras or files are there that pip or python are called with."""
    named = [word for pair in re.findall(r"\[(\w+)\]|(\S+\.py)", text) for word in pair if word]
    return all(is_word(word) or is_path(word) for word in named)


def is_torch(text: str) -> bool:
    """Whether torch has `torch.name` or `nn.name`."""
    first, *rest = text.split("(")[0].split(".")
    return resolve({"torch": torch, "nn": torch.nn}[first], rest) is not None


PROGRAMS = {
    "make": is_target,
    "ncollapse": is_command,
    "torchrun": lambda text: is_command(text.split("-m ncollapse ")[1]) if "-m ncollapse" in text else text.endswith(".py"),
    "python": is_python,
    "pip": is_python,
    "git": bool,
    "import": lambda text: importlib.util.find_spec(text.split(" as ")[0]) is not None,
}


def exists(text: str) -> bool:
    """Whether a piece of inline code names something, by what it looks like."""
    program, _, rest = text.partition(" ")
    if text in FOREIGN:
        return True
    if rest and program in PROGRAMS:
        return PROGRAMS[program](rest)
    if re.match(r"(torch|nn)\.\w", text):
        return is_torch(text)
    if re.match(r"(with )?(nc|ncollapse)\.\w", text):
        return is_dotted(text) and ("(" not in text or is_expression(text))
    return any(is_it(text) for is_it in (is_word, is_experiment, is_setting, is_expression, is_path, is_command))


def main() -> None:
    """Print what is missing, a line each."""
    for page in map(Path, sys.argv[1:]):
        for text in dict.fromkeys(snippets(page)):
            try:
                reason = None if exists(" ".join(text.split())) else "names nothing"
            except Exception as error:
                reason = f"{type(error).__name__}: {error}"
            if reason:
                print(f"{page.name}: `{text}`: {reason}")


if __name__ == "__main__":
    main()
