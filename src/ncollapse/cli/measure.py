"""The command ``ncollapse measure``: a run directory's network, or one of the user's, in one process or many."""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ncollapse.cli.options import class_word, count, find_own_modules, folder

if TYPE_CHECKING:
    from ncollapse.measurement import Measurement
    from ncollapse.targets import Target

_OF_A_NETWORK = """
data test_data num_classes input_shape checkpoint unsafe_pickle batch_size checkpoints unit counts_from_zero layers classifier
ignore_index device out
""".split()


def add_measure(commands: Any) -> None:
    """Add the command to a parser."""
    words = "measure a run directory's network, or your own; in many processes with torchrun -m ncollapse measure"
    measure = commands.add_parser("measure", help=words)
    add_target(measure)
    _add_checkpoints(measure)
    _add_what_is_measured(measure)
    measure.add_argument("--out", type=folder, metavar="DIR", help="also write a run directory; results over depth need --path")
    measure.add_argument("--json", action="store_true", help="print the tidy rows as JSON")
    measure.set_defaults(call=run_command)


def add_target(measure: argparse.ArgumentParser) -> None:
    """Add the options that name a network, its weights and data."""
    _add_data(measure)
    measure.add_argument(
        "network",
        metavar="MODEL",
        help="a run directory; module:function that returns a network; torchvision:NAME or timm:NAME (weights drawn with seed "
        "0); transformers:FOLDER (config.json and model.safetensors, as save_pretrained writes them; nothing is downloaded); "
        "for measure also a folder of features, as collect_features(to=FOLDER) writes it",
    )
    measure.add_argument(
        "--checkpoint",
        type=Path,
        metavar="FILE",
        help="weights for your own network, written by safetensors or torch.save: a state dict, also under state_dict, "
        "model_state_dict, model or net; prefixes such as module. or model. are dropped",
    )
    measure.add_argument("--unsafe-pickle", action="store_true", help="let the checkpoint run code, if you trust its writer")


def _add_data(measure: argparse.ArgumentParser) -> None:
    measure.add_argument(
        "--data",
        metavar="NAME",
        help="such as digits (see `ncollapse doctor`), or module:function that returns batches; needed for your own",
    )
    measure.add_argument(
        "--test-data",
        metavar="NAME",
        help="the test split, named in the same way. It is measured with decisions by the class means of --data",
    )
    measure.add_argument(
        "--num-classes", type=count(1), metavar="K", help="the number of classes in the batches of a module:function"
    )
    measure.add_argument(
        "--input-shape",
        type=count(1),
        nargs="+",
        metavar="D",
        help="shape of a sample for your own network, such as 1 28 28; 3 28 28 copies the one channel",
    )
    measure.add_argument(
        "--split",
        choices=("train", "test"),
        default="train",
        help="which split of a data set or run (default: %(default)s); decisions on test use the training set's class means",
    )
    measure.add_argument(
        "--batch-size",
        type=count(1),
        metavar="N",
        help="samples per batch (default: that of the recipe; 1000 for your own network)",
    )


def _add_checkpoints(measure: argparse.ArgumentParser) -> None:
    """Add the options about many checkpoints."""
    measure.add_argument(
        "--checkpoints",
        metavar="PATTERN",
        help="checkpoints of a training, such as 'ckpt/*.pt', measured one after the other into --out: files, checkpoints of "
        "Lightning, or folders of transformers (checkpoint-500); what an earlier call has measured is skipped",
    )
    measure.add_argument(
        "--unit",
        choices=("epoch", "step"),
        help="what the numbers in the names of --checkpoints count (default: epochs if all names have one)",
    )
    measure.add_argument(
        "--counts-from-zero",
        action="store_true",
        default=None,
        help="epoch 0 in the names of --checkpoints was saved after one epoch of training (default: only Lightning's epoch=0)",
    )


def _add_what_is_measured(measure: argparse.ArgumentParser) -> None:
    """Add the options that are arguments of ``ncollapse.measure`` too."""
    measure.add_argument("--layers", nargs="+", metavar="NAME", help="module names or patterns (default: found automatically)")
    measure.add_argument("--classifier", metavar="NAME", help="the last linear layer (default: found)")
    measure.add_argument(
        "--classes",
        nargs="+",
        type=class_word,
        default=["all"],
        metavar="K",
        help="all, present (those with samples), or indices",
    )
    measure.add_argument(
        "--ignore-index",
        type=int,
        metavar="N",
        help="leave out samples, tokens or pixels with this label (default: -100, of tokens)",
    )
    measure.add_argument("--min-per-class", type=count(0), default=0, metavar="N", help="leave out classes with fewer samples")
    measure.add_argument(
        "--metrics", nargs="+", metavar="ID", help="such as pfc1 nc3, core, or all (default: all that need no d×d matrix)"
    )
    measure.add_argument(
        "--convention",
        choices=("class", "sample", "papyan", "papyan_notebook", "zhu", "he_su"),
        help="class weights of covariances and of the global mean (default: class, or that of the run)",
    )
    measure.add_argument(
        "--path",
        nargs="*",
        metavar="NAME",
        help="also follow each sample through the longest run of layers of one dimension, or through the named layers, such as "
        "those of a stage, and print its path",
    )
    measure.add_argument(
        "--memory-budget", metavar="SIZE", help="for kept features, in bytes or such as 2GiB; beyond it, a second pass"
    )
    measure.add_argument("--device", metavar="NAME", help="default: auto, a GPU if any; one per process under torchrun")


def run_command(options: argparse.Namespace) -> None:
    """Run the command."""
    from ncollapse.records import file_names
    from ncollapse.records.run_directory import RunDirectory
    from ncollapse.targets import Target, measure_splits, write_measurement
    from ncollapse.targets.networks import is_function
    from ncollapse.torchrun import torchrun_processes

    target = Target(**{item.name: getattr(options, item.name) for item in dataclasses.fields(Target)})
    names = ("classifier", "min_per_class", "ignore_index", "metrics", "convention", "path", "memory_budget")
    asked = {name: getattr(options, name) for name in names}
    asked["path"] = False if options.path is None else options.path or True
    asked["classes"] = options.classes[0] if len(options.classes) == 1 else options.classes
    if (Path(options.network) / file_names.FEATURES).exists():
        _measure_store(options, asked)
        return
    if any(is_function(name) for name in (target.network, target.data, target.test_data) if name):
        find_own_modules()
    with torchrun_processes() as (processes, device):
        where = options.device or device
        if options.checkpoints is not None:
            _measure_checkpoints(options, target, where, asked, processes.size)
            return
        if options.out is not None:
            RunDirectory(options.out).check_empty()
        found = measure_splits(target, layers=options.layers or "auto", device=where, group=processes.group, **asked)
    if not processes.is_first:
        return
    if options.out is not None:
        write_measurement(found, target, options.out, device=where)
    _print_measurement(found[-1], target.weights_note, as_json=options.json)
    if options.out is not None and not options.json:
        print(f"Run directory: {options.out}")


def _measure_store(options: argparse.Namespace, asked: dict[str, Any]) -> None:
    from ncollapse.probe import measure_store

    # What a folder of features has already, or cannot have.
    given = [name for name in _OF_A_NETWORK if getattr(options, name) not in (None, False)]
    if given or options.split != "train":
        other = given[0].replace("_", "-") if given else "split"
        raise ValueError(
            f"{options.network} is a folder of features, which has its labels and classifier; got --{other}. Leave it out."
        )
    taken = {name: asked[name] for name in ("classes", "min_per_class", "metrics", "path", "memory_budget")}
    found = measure_store(options.network, convention=options.convention or "class", **taken)
    _print_measurement(found, "", as_json=options.json)


def _measure_checkpoints(
    options: argparse.Namespace, target: Target, device: str, asked: dict[str, Any], num_processes: int
) -> None:
    from ncollapse.cli.progress import progress
    from ncollapse.targets import measure_target_checkpoints

    if options.out is None:
        raise ValueError("--checkpoints writes a run directory and needs --out DIR, got none. Add --out DIR.")
    if options.json or num_processes > 1:
        other = "--json" if options.json else f"{num_processes} processes"
        raise ValueError(f"--checkpoints measures into --out, in one process, got {other}. Leave it out.")
    if not asked["path"]:
        del asked["path"]
    with progress("Checkpoints", unit="checkpoint") as show:
        out = measure_target_checkpoints(
            target,
            options.checkpoints,
            options.out,
            unit=options.unit,
            counts_from_zero=options.counts_from_zero,
            device=device,
            progress=show,
            layers=options.layers or "auto",
            **asked,
        )
    print(f"Run directory: {out}")


def _print_measurement(measurement: Measurement, note: str, *, as_json: bool) -> None:
    from ncollapse.records.rows import known_columns

    if note:
        print(note, file=sys.stderr if as_json else sys.stdout)
    if as_json:
        columns = known_columns(measurement.rows)
        cells = ({name: getattr(row, name) for name in columns} for row in measurement.rows)
        # JSON has no nan.
        print(json.dumps([row | {"value": None if math.isnan(row["value"]) else row["value"]} for row in cells]))
        return
    print(measurement)
    if measurement.paths is not None:
        print(measurement.path)
