"""The command ``ncollapse measure``: a run directory's network, or one of the user's, in one process or many."""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import sys
from pathlib import Path
from typing import Any

from ncollapse.cli.options import count


def add_measure(commands: Any) -> None:
    """Add the command to a parser."""
    words = "measure a run directory's network, or your own; in many processes with torchrun -m ncollapse measure"
    measure = commands.add_parser("measure", help=words, description=words)
    measure.add_argument(
        "model",
        metavar="MODEL",
        help="a run directory; module:function that returns a network; torchvision:NAME or timm:NAME (weights drawn with seed "
        "0); transformers:FOLDER (config.json and model.safetensors, as save_pretrained writes them; nothing is downloaded)",
    )
    measure.add_argument(
        "--data",
        metavar="NAME",
        help="such as digits (see `ncollapse doctor`), or module:function that returns batches; needed for your own",
    )
    measure.add_argument("--num-classes", type=count(1), metavar="K", help="of the batches of a module:function")
    measure.add_argument(
        "--input-shape",
        type=count(1),
        nargs="+",
        metavar="D",
        help="shape of a sample for your own network, such as 1 28 28; 3 28 28 copies the one channel",
    )
    measure.add_argument("--split", choices=("train", "test"), default="train", help="of the data (default: %(default)s)")
    measure.add_argument(
        "--checkpoint",
        type=Path,
        metavar="FILE",
        help="weights for your own network, by safetensors or torch.save: a state dict, also under state_dict, "
        "model_state_dict or model; a prefix module. or _orig_mod. is dropped",
    )
    measure.add_argument("--unsafe-pickle", action="store_true", help="let the checkpoint run code, if you trust its writer")
    measure.add_argument("--device", metavar="NAME", help="default: cpu; under torchrun a GPU for each process if there is one")
    measure.add_argument("--layers", nargs="+", metavar="NAME", help="module names or globs (default: auto)")
    measure.add_argument("--batch-size", type=count(1), metavar="N", help="default: that of the recipe, 1000 for your own")
    measure.add_argument("--memory-budget", type=count(0), metavar="MIB", help="for kept features; beyond it, a second pass")
    measure.add_argument("--json", action="store_true", help="print the tidy rows as JSON")
    measure.set_defaults(call=run_command)


def run_command(options: argparse.Namespace) -> None:
    """Run the command."""
    from ncollapse.groups import torchrun_processes
    from ncollapse.records.rows import known_columns
    from ncollapse.targets import MeasureRequest, measure_by_name

    request = MeasureRequest(**{item.name: getattr(options, item.name) for item in dataclasses.fields(MeasureRequest)})
    # As with python -m: module:function finds the modules of the current folder.
    if "" not in sys.path:
        sys.path.insert(0, "")
    with torchrun_processes() as (processes, device):
        measurement = measure_by_name(request, options.device or device, processes.group)
    if not processes.is_first:
        return
    if request.weights_note:
        print(request.weights_note, file=sys.stderr if options.json else sys.stdout)
    if options.json:
        columns = known_columns(measurement.rows)
        cells = ({name: getattr(row, name) for name in columns} for row in measurement.rows)
        # JSON has no nan.
        print(json.dumps([row | {"value": None if math.isnan(row["value"]) else row["value"]} for row in cells]))
    else:
        print(measurement)
