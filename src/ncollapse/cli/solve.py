"""The ``ncollapse solve`` command: it reads the fields of a surrogate model and shows the solution as text, JSON or figure."""

from __future__ import annotations

import argparse
import inspect
import json
import math
import shutil
import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ncollapse.cli.fields import fields_of, is_option, new_form, read_fields, written
from ncollapse.cli.options import file
from ncollapse.cli.surrogate_models import MODELS, Part, SolvableModel
from ncollapse.near_words import near_words

if TYPE_CHECKING:
    from ncollapse.surrogates import Solution

# torch takes seconds to import: what needs it is imported when a model is named, so that --help answers at once.

_DESCRIPTION = """\
Solve a surrogate model of the theory, with a proof of how close the solution is to the global minimum.
`ncollapse solve MODEL` solves a default problem, `ncollapse solve MODEL --help` shows its objective and its fields.
counts=5,5,5,5 and counts=4x5 both mean four classes of five samples; counts=2x50,3x5 means two classes of 50 and three of 5."""
_SUFFIXES = (".svg", ".png", ".pdf")
# Commands of version 0.1 that have another name.
_RENAMED = {
    **{"mixon_flow": "unregularized_ufm", "le_sde": "locally_elastic_sde"},
    **{"batch_norm": "batch_norm_net", "weight_normalized": "weight_normalized_net"},
}
# Solvers of models that have another name.
_OLD_SOLVERS = {("near_collapse", "reduced"): "eliminated", ("normalized_features", "riemannian"): "projected"}


def add_solve(commands: Any) -> None:
    """Add ``solve`` to the command line."""
    models = "\n".join(f"  {name:<22} {model.text}" for name, model in MODELS.items())
    parser = commands.add_parser(
        "solve",
        usage="ncollapse solve [MODEL [FIELD=VALUE ...]] [--solver NAME] [--seed SEED] [--figure FILE] [--all] [--json] [-h]",
        help="solve a surrogate model of the theory, with a certificate",
        description=_DESCRIPTION,
        epilog=f"models:\n{models}\n\nexample: ncollapse solve ufm counts=4x5 lambda_w=5e-3 --figure ufm.svg",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        add_help=False,
        allow_abbrev=False,
    )
    # What comes after an option is left over by argparse: main hands it on as `rest`.
    parser.add_argument("words", nargs="*", metavar="MODEL", help="a model and its fields to change, such as lambda_w=5e-3")
    parser.add_argument("--solver", metavar="NAME", help="a solver of the model; MODEL --help lists them")
    parser.add_argument("--seed", type=int, default=0, help="seed of the start and of random data (default: %(default)s)")
    parser.add_argument("--figure", type=_figure_file, metavar="FILE", help="also draw the solution, as .svg, .png or .pdf")
    parser.add_argument("--all", action="store_true", help="print all metrics of the solution, not only the core ones")
    parser.add_argument("--json", action="store_true", help="print everything as a JSON object")
    parser.add_argument("-h", "--help", action="store_true", help="show this help, or that of MODEL")
    parser.set_defaults(call=lambda options: _solve(options, parser), rest=[])


def _figure_file(text: str) -> Path:
    path = file(text)
    if path.suffix not in _SUFFIXES:
        raise argparse.ArgumentTypeError(f"must end in {', '.join(_SUFFIXES)}, got {text!r}")
    return path


def _solve(options: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    words = [*options.words, *options.rest]
    if not words:
        parser.print_help()
        return
    name, *settings = words
    if name not in MODELS and name not in _RENAMED:
        raise ValueError(f"There is no model {name!r}. {near_words(name, MODELS)}List them with: ncollapse solve --help.")
    if options.help and name in MODELS:
        print(_help_of(name, MODELS[name]))
        return
    if name in _RENAMED or (name, options.solver) in _OLD_SOLVERS or any(map(is_option, settings)):
        raise ValueError(_as_typed_now(name, settings, options))
    _solve_model(name, settings, options)


def _as_typed_now(name: str, settings: Sequence[str], options: argparse.Namespace) -> str:
    """Say how to type a command of version 0.1."""
    new, solver = _RENAMED.get(name, name), _OLD_SOLVERS.get((name, options.solver), options.solver)
    said = [f"{old} is {now} since version 0.2. " for old, now in ((name, new), (options.solver, solver)) if old != now]
    kept = [f"--{key} {value}" for key, value in (("solver", solver), ("figure", options.figure)) if value is not None]
    kept += [f"--seed {options.seed}"] * (options.seed != 0)
    kept += [f"--{key}" for key in ("all", "json", "help") if getattr(options, key)]
    model = MODELS[new]
    fields = fields_of([_resolve(part) for part in (*model.parts, *model.solvers.values())], model.defaults)
    return "".join(said) + new_form(new, settings, fields, kept)


def _solve_model(name: str, settings: Sequence[str], options: argparse.Namespace) -> None:
    request = read_request(name, settings, options.solver, options.seed)
    if options.figure is not None:
        # Before the work: a folder that cannot be made is found at once.
        options.figure.parent.mkdir(parents=True, exist_ok=True)
    try:
        problem, solution = _call(request.parts, request.words["fields"], options.seed)
    except ValueError as error:
        raise ValueError(_as_solvers(str(error), MODELS[name])) from error
    _print(request, problem, solution, options)
    if options.figure is not None:
        _draw(request.title, problem, solution, options.figure)
        if not options.json:
            print(f"Figure: {options.figure}")
    # A solver that stopped early is told in the status, and by the exit code.
    if not solution.converged:
        raise SystemExit(1)


def _as_solvers(words: str, model: SolvableModel) -> str:
    """Write solvers of Python in an error, such as LBFGS(), as the option that names them."""
    for option, solver in model.solvers.items():
        words = words.replace(f"with {solver}()", f"with --solver {option}")
    return words


class SolveRequest(NamedTuple):
    """A model with its fields, to be solved in one of its ways."""

    title: str
    words: dict[str, Any]
    parts: Sequence[Callable[..., Any]]


def read_request(name: str, settings: Sequence[str], solver: str | None = None, seed: int = 0) -> SolveRequest:
    """Find and check what was typed."""
    model = MODELS[name]
    default = next(iter(model.solvers))
    solver = solver or default
    if solver not in model.solvers:
        near = near_words(solver, model.solvers)
        raise ValueError(f"{name} has no solver {solver!r}. {near}It has: {', '.join(model.solvers)}.")
    parts = [*map(_resolve, model.parts), _resolve(model.solvers[solver])]
    fields = fields_of(parts, model.defaults)
    values = read_fields(name, fields, settings)
    set_here = {*fields_of(parts[:-1], {}), *(setting.partition("=")[0] for setting in settings)}
    title = [name, *(f"{key}={written(value)}" for key, value in values.items() if key in set_here)]
    if solver != default:
        title.append(f"--solver {solver}")
    if seed != 0:
        title.append(f"--seed {seed}")
    return SolveRequest(" ".join(title), {"model": name, "fields": values, "solver": solver, "seed": seed}, parts)


def _class_of(name: str) -> type:
    """Find the class of a command by its name: UFM for ufm."""
    from ncollapse import surrogates

    (found,) = (word for word in surrogates.__all__ if word.lower() == name.replace("_", ""))
    model: type = getattr(surrogates, found)
    return model


def _resolve(part: Part) -> Callable[..., Any]:
    from ncollapse import surrogates

    resolved: Callable[..., Any] = getattr(surrogates, part) if isinstance(part, str) else part
    return resolved


def _help_of(name: str, model: SolvableModel) -> str:
    """Describe the objective, the fields and the solvers of a model, from its public docstring."""
    from ncollapse.cli.plain_math import plain_docstring

    width = max(60, min(100, shutil.get_terminal_size().columns))
    parts = [*map(_resolve, model.parts)]
    first, *others = model.solvers
    lines = [
        f"ncollapse solve {name} [FIELD=VALUE ...]: {model.text}",
        plain_docstring(inspect.getdoc(_class_of(name)) or "", width),
    ]
    own = fields_of(parts, model.defaults)
    of_solver = fields_of([*parts, _resolve(model.solvers[first])], model.defaults)
    for title, fields in (("Fields", own), (f"Fields of --solver {first}", of_solver)):
        shown = [key for key in fields if fields is own or key not in own]
        starts = {key: f"  {key}={written(fields[key].default)}" for key in shown}
        texts = (
            textwrap.fill(fields[key].text, width, initial_indent=f"{start:<30}  ", subsequent_indent=" " * 32)
            for key, start in starts.items()
        )
        if shown:
            lines.append(f"{title}:\n" + "\n".join(texts))
    lines.append(f"Solvers: {', '.join([f'{first} (default)', *others])}")
    lines.append(f"Examples:\n  ncollapse solve {name}\n  ncollapse solve {name} {model.example}")
    return "\n\n".join(lines)


def _call(parts: Sequence[Callable[..., Any]], values: Mapping[str, Any], seed: int) -> tuple[Any, Solution]:
    """Make the problem, part after part, and solve it."""
    made: tuple[Any, ...] = ()
    for part in parts[:-1]:
        result = part(*made, **_arguments(part, values, seed))
        made = result if type(result) is tuple else (result,)
    (problem,), way = made, parts[-1]
    if isinstance(way, type):
        return problem, problem.solve(way(**_arguments(way, values, seed)), seed=seed, allow_unconverged=True)
    return problem, way(problem, **_arguments(way, values, seed))


def _arguments(part: Callable[..., Any], values: Mapping[str, Any], seed: int) -> dict[str, Any]:
    known = {**values, "seed": seed}
    return {key: known[key] for key in inspect.signature(part).parameters if key in known}


def _print(request: SolveRequest, problem: Any, solution: Solution, options: argparse.Namespace) -> None:
    from ncollapse.metrics import CORE
    from ncollapse.surrogates.extras import extra_numbers, extra_sentence

    inequality, metrics = solution.certificate.inequality, solution.metrics(["all"])
    found = {"value": solution.value, "lower_bound": solution.certificate.lower_bound, "gap": solution.gap}
    found |= extra_numbers(problem, solution)
    sentence = extra_sentence(problem, solution)
    if options.json:
        words = {**request.words, "status": solution.status, "certified": solution.certified}
        words |= {} if sentence is None else {"proof": sentence}
        branch = inequality and _known({key: getattr(inequality, key) for key in ("text", "left", "right", "holds")})
        print(json.dumps({**words, **_known(found), "inequality": branch, "metrics": _known(metrics)}))
        return
    print("\n".join(str(line) for line in (request.title, solution.status, inequality, sentence) if line is not None))
    shown = metrics if options.all else {key: metrics[key] for key in CORE if key in metrics}
    for key, value in {**found, **shown}.items():
        print(f"{key:<28}{value:.12g}")
    if len(shown) < len(metrics):
        print(f"{len(metrics) - len(shown)} more metrics with --all.")


def _known(values: dict[str, Any]) -> dict[str, Any]:
    """JSON has no nan and no infinity."""
    return {name: None if isinstance(v, float) and not math.isfinite(v) else v for name, v in values.items()}


def _draw(title: str, problem: Any, solution: Solution, path: Path) -> None:
    from ncollapse.drawing.figures import render
    from ncollapse.drawing.surrogates import plot_panels
    from ncollapse.records.files import write_whole
    from ncollapse.surrogates.curves import solution_panels

    write_whole(path, render(plot_panels(title, solution_panels(problem, solution)), path.suffix.removeprefix(".")))
