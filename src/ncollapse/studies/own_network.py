"""Measuring a network of the user's, named as ``module:function``, on one of our data sets."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from torch import nn

from ncollapse.data.batches import Batches
from ncollapse.data.catalog import DataConfig, load_data
from ncollapse.probe.measure import measure
from ncollapse.probe.measurement import Measurement
from ncollapse.train.checkpoint import load_weights


def measure_own(
    spec: str,
    data: DataConfig,
    *,
    checkpoint: Path | None = None,
    layers: str | Sequence[str] = "auto",
    batch_size: int = 1000,
    memory_budget: int | None = None,
) -> Measurement:
    """Measure a network that a function of the user's makes.

    Args:
        spec: "module:function", the function without arguments; modules of the current folder are found.
        data: Samples; the test split is decided by the training set's class means.
        checkpoint: Safetensors weights; None takes those that the function gave the network.
        layers: As in ``measure``.
        batch_size: Samples in a forward pass.
        memory_budget: As in ``measure``.

    Returns:
        The measurement.

    Raises:
        ValueError: If the function is not there, it or its network raises, or the data does not fit.
        TypeError: If the function returns something else.
        OSError: If a file is missing.
    """
    model = _build(spec)
    if checkpoint is not None:
        load_weights(checkpoint, model)

    def measured(config: DataConfig, reference: Measurement | None = None) -> Measurement:
        samples = load_data(config)
        with _own_errors(f"measuring {spec}"):
            return measure(
                model,
                Batches(samples, batch_size),
                num_classes=samples.num_classes,
                layers=layers,
                split=config.split,
                reference=reference,
                memory_budget=memory_budget,
            )

    return measured(data, None if data.split == "train" else measured(replace(data, split="train")))


def _build(spec: str) -> nn.Module:
    """Import the module, the current folder being on the path as with ``python -m``, and call the function."""
    module_name, colon, function_name = spec.partition(":")
    if not colon:
        raise ValueError(f"MODEL must be a run directory or module:function, got {spec!r}")
    sys.path.insert(0, str(Path.cwd()))
    try:
        with _own_errors(f"importing {module_name}"):
            module = importlib.import_module(module_name)
    finally:
        sys.path.pop(0)
    if not hasattr(module, function_name):
        raise ValueError(f"Module {module_name!r} has no {function_name!r}")
    with _own_errors(f"calling {spec}"):
        model = getattr(module, function_name)()
    if not isinstance(model, nn.Module):
        raise TypeError(f"{spec} must return a torch.nn.Module, got {type(model).__name__}")
    return model


@contextmanager
def _own_errors(doing: str) -> Iterator[None]:
    """Whatever the user's code raises is the user's error; what is an error of theirs already keeps its words."""
    try:
        yield
    except (ValueError, TypeError, OSError, ImportError):
        raise
    except Exception as error:
        raise ValueError(f"{doing} raised {type(error).__name__}: {error}") from error
