"""The command ``ncollapse doctor``: say what is installed and which data is found, for bug reports."""

from __future__ import annotations

import argparse
import importlib
import json
import platform
from importlib import metadata
from typing import Any, get_args

from ncollapse.version import __version__

# Module names; the distribution is named only where it differs. The optional ones with the extra that brings them.
_REQUIRED = ("numpy", "scipy", "sklearn", "safetensors", "pydantic", "matplotlib", "jinja2", "rich")
_DISTRIBUTIONS = {"sklearn": "scikit-learn", "cvxpy": "cvxpy-base"}
_OPTIONAL = {
    "pandas": "pandas",
    "cvxpy": "sdp",
    "lightning": "lightning",
    "ray": "ray",
    "tensorboard": "tensorboard",
    "transformers": "text",
    "wandb": "wandb",
}


def add_doctor(commands: Any) -> None:
    """Add the command to a parser."""
    doctor = commands.add_parser("doctor", help="say what is installed and which data is found")
    doctor.add_argument("--json", action="store_true", help="print an object")
    doctor.set_defaults(call=_doctor)


def _doctor(options: argparse.Namespace) -> None:
    found = _examine()
    if options.json:
        print(json.dumps(found))
        return
    for name, value in found.items():
        print(f"{name:<24} {value}")


def _examine() -> dict[str, str]:
    """Look at the installation."""
    import torch

    from ncollapse.data.catalog import DataName

    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    found = {
        "ncollapse": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "torch": torch.__version__,
        "device": device,
        "threads": str(torch.get_num_threads()),
    }
    for name in _REQUIRED:
        found[name] = _version(name, "pip install ncollapse")
    for name, extra in _OPTIONAL.items():
        found[f"{name} (extra)"] = _version(name, f'pip install "ncollapse[{extra}]"')
    for data in get_args(DataName):
        found[f"data {data}"] = _data(data)
    return found


def _version(name: str, remedy: str) -> str:
    try:
        importlib.import_module(name)
        return metadata.version(_DISTRIBUTIONS.get(name, name))
    except ImportError as error:
        absent = isinstance(error, ModuleNotFoundError) and error.name == name
        return f"not installed ({remedy})" if absent else f"broken: {error}"


def _data(name: Any) -> str:
    from ncollapse.data.catalog import DataConfig, load_data

    try:
        data = load_data(DataConfig(name=name))
    except (ValueError, OSError, ImportError) as error:
        return f"not found: {' '.join(str(error).split())}"
    return f"{data.num_samples} samples, {data.num_classes} classes"
