"""The command ``ncollapse doctor``: say what is installed and which data is found, for bug reports."""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import platform
from importlib import metadata
from importlib.util import find_spec
from typing import Any, get_args

from ncollapse.extras import install_hint
from ncollapse.version import __version__

# Module names; the distribution is named only where it differs. The optional ones with the extra that brings them.
_REQUIRED = ("torch", "numpy", "scipy", "sklearn", "safetensors", "pydantic", "msgspec", "matplotlib", "jinja2", "rich")
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
    doctor = commands.add_parser("doctor", help="show what is installed, the GPU, and which data sets are found")
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
    """Look at the installation. Nothing heavy is imported: torch alone would take seconds."""
    from ncollapse.data.locations import locate
    from ncollapse.recipes.data import DataName

    found = {
        "ncollapse": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "device": _gpu() or "cpu",
        "cores": str(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()),
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "not set"),
    }
    for name in _REQUIRED:
        found[name] = _version(name, install_hint())
    for name, extra in _OPTIONAL.items():
        found[f"{name} (extra)"] = _version(name, install_hint(extra))
    for data in get_args(DataName):
        found[f"data {data}"] = locate(data).words
    return found


def _version(name: str, remedy: str) -> str:
    try:
        if find_spec(name) is not None:
            return metadata.version(_DISTRIBUTIONS.get(name, name))
    except (ImportError, ValueError, metadata.PackageNotFoundError) as error:
        return f"broken: {error}"
    return f"not installed ({remedy})"


def _gpu() -> str | None:
    """Ask the driver for the name of the first CUDA device; None without one."""
    name = ctypes.create_string_buffer(256)
    device = ctypes.c_int()
    try:
        driver = ctypes.CDLL("nvcuda.dll" if os.name == "nt" else "libcuda.so.1")
        failed = driver.cuInit(0) or driver.cuDeviceGet(ctypes.byref(device), 0) or driver.cuDeviceGetName(name, 256, device)
    except (OSError, AttributeError):
        return None
    return None if failed else name.value.decode(errors="replace")
