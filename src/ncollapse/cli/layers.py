"""The command ``ncollapse layers``: what each layer of a network is good for, as one page and one table."""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
from pathlib import Path
from typing import Any

from ncollapse.cli.measure import add_target
from ncollapse.cli.options import count, find_own_modules, folder


def add_layers(commands: Any) -> None:
    """Add the command to a parser."""
    words = "say which layers are redundant, which classes have merged, where to detect strangers and where to transfer from"
    layers = commands.add_parser("layers", help=words, description=f"{words.capitalize()}: one page and one table.")
    add_target(layers)
    layers.add_argument("--layers", nargs="+", metavar="NAME", help="module names or patterns (default: found automatically)")
    layers.add_argument("--classifier", metavar="NAME", help="the last linear layer (default: found)")
    layers.add_argument(
        "--class-names", metavar="FILE", type=Path, help="a text file with one class name per line, in the order of the labels"
    )
    layers.add_argument(
        "--strangers",
        nargs="+",
        default=[],
        metavar="NAME=DATA",
        help="data that the network does not know: a data set, or module:function whose batches may be inputs alone",
    )
    layers.add_argument(
        "--new-labels",
        nargs="+",
        default=[],
        metavar="NAME=DATA",
        help="tasks to transfer to: a data set, module:function, or coarser classes such as 0,0,1,1",
    )
    layers.add_argument("--max-samples", type=count(2), metavar="N", help="use the first samples of every data set")
    layers.add_argument("--device", metavar="NAME", help="default: auto, a GPU if any")
    layers.add_argument(
        "--out", type=folder, default=Path("layers"), metavar="DIR", help="the folder to write (default: %(default)s)"
    )
    layers.add_argument("--json", action="store_true", help="print the rows and the verdicts as JSON")
    layers.set_defaults(call=run_layers)


def run_layers(options: argparse.Namespace) -> None:
    """Run the command."""
    from ncollapse.records.file_names import LAYERS_PAGE
    from ncollapse.report import write_layers_page
    from ncollapse.targets import Target, diagnose_target
    from ncollapse.targets.networks import is_function

    target = Target(**{item.name: getattr(options, item.name) for item in dataclasses.fields(Target)})
    strangers, new_labels = _named(options.strangers, "--strangers"), _named(options.new_labels, "--new-labels")
    names = (target.network, target.data, target.test_data, *strangers.values(), *new_labels.values())
    if any(is_function(name) for name in names if name):
        find_own_modules()
    found = diagnose_target(
        target,
        strangers=strangers,
        new_labels=new_labels,
        device=options.device or "auto",
        layers=options.layers or "auto",
        classifier=options.classifier,
        class_names=None if options.class_names is None else options.class_names.read_text().splitlines(),
        max_samples=options.max_samples,
    )
    out = found.save(options.out)
    page = write_layers_page(found.record, out / LAYERS_PAGE, title=f"What each layer of {target.network} is good for")
    if options.json:
        rows = [row._asdict() | {"value": None if math.isnan(row.value) else row.value} for row in found.rows]
        print(json.dumps({"rows": rows, "verdicts": found.verdicts()}))
        return
    print(found)
    print(f"Page: {page}")


def _named(words: list[str], option: str) -> dict[str, str]:
    """Read NAME=DATA, or DATA alone, which names itself."""
    found: dict[str, str] = {}
    for word in words:
        name, equals, data = word.partition("=")
        if name in found or not name or (equals and not data):
            raise ValueError(
                f"{option} needs NAME=DATA, each name once, got {word!r}. Type for example {option} noise=my_module:noise."
            )
        found[name] = data if equals else word
    return found
