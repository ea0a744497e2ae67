"""A user's network without its wrappers, its device, and context managers that run it and leave it unchanged."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import cast

import torch
from torch import nn


def network_of(model: nn.Module) -> nn.Module:
    """Return the network inside the wrappers of compiling and data parallelism, so that names are its own and hooks run."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}. Pass features to measure_features.")
    # The forward of DistributedDataParallel broadcasts the buffers, and waits for processes that have fewer batches.
    wrapped = isinstance(model, nn.parallel.DistributedDataParallel | nn.DataParallel)
    inner = model.module if wrapped else getattr(model, "_orig_mod", None)
    return model if inner is None else network_of(cast(nn.Module, inner))


def device_of(model: nn.Module) -> torch.device:
    """Return the device of the network's first parameter, where its inputs go."""
    parameters = dict(model.named_parameters())
    empty = [name for name, parameter in parameters.items() if parameter.is_meta]
    if empty:
        raise ValueError(
            f"All parameters must have values, got {len(empty)} on the meta device, the first {empty[0]!r}. Load the weights "
            "first (to_empty, then load_state_dict), all of them if the network is offloaded."
        )
    return next((parameter.device for parameter in parameters.values()), torch.device("cpu"))


@contextmanager
def in_eval_mode(model: nn.Module) -> Iterator[None]:
    """Run a network in eval mode, and eagerly where it is compiled, so that hooks run; each module's mode is restored."""
    modes = [(module, module.training) for module in model.modules()]
    # If nothing was compiled, the compiler has not been imported, and importing it here would take seconds.
    eager = torch.compiler.set_stance("force_eager") if "torch._dynamo" in sys.modules else nullcontext()
    try:
        with eager:
            model.eval()
            yield
    finally:
        for module, training in modes:
            module.training = training


@contextmanager
def buffers_kept(model: nn.Module) -> Iterator[None]:
    """Restore a network's buffers, whatever its forward does to them."""
    before = [(module, name, buffer) for module in model.modules() for name, buffer in module._buffers.items()]
    values = [None if buffer is None else buffer.clone() for _, _, buffer in before]
    try:
        yield
    finally:
        with torch.no_grad():
            for (module, name, buffer), value in zip(before, values, strict=True):
                if buffer is not None and value is not None and not torch.equal(buffer, value):
                    buffer.copy_(value)
                module._buffers[name] = buffer
