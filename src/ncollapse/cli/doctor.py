"""What is installed and found here, for ``ncollapse doctor`` and bug reports."""

from __future__ import annotations

import importlib
import platform
from importlib import metadata
from typing import get_args

import torch

from ncollapse.data.catalog import DataConfig, DataName, load_data
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


def examine() -> dict[str, str]:
    """Look at the installation."""
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


def _data(name: DataName) -> str:
    try:
        data = load_data(DataConfig(name=name))
    except (ValueError, OSError, ImportError) as error:
        return f"not found: {' '.join(str(error).split())}"
    return f"{data.num_samples} samples, {data.num_classes} classes"
