"""A user's network: what lies below its wrappers, where it takes its inputs, and how it runs without a trace."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import cast

import torch
from torch import nn


def network_of(model: nn.Module) -> nn.Module:
    """The network as it was written, below what compiling and data parallelism wrap around it: its names, and hooks run."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}. Features go to measure_features.")
    # The forward of DistributedDataParallel hands out the buffers anew, and waits for processes that have fewer batches.
    wrapped = isinstance(model, nn.parallel.DistributedDataParallel | nn.DataParallel)
    inner = model.module if wrapped else getattr(model, "_orig_mod", None)
    return model if inner is None else network_of(cast(nn.Module, inner))


def device_of(model: nn.Module) -> torch.device:
    """Where a network takes its inputs."""
    parameters = dict(model.named_parameters())
    empty = [name for name, parameter in parameters.items() if parameter.is_meta]
    if empty:
        raise ValueError(
            f"All parameters must hold values, got {len(empty)} on the meta device, the first {empty[0]!r}. Load the weights "
            "first (to_empty, then load_state_dict); of an offloaded network load all."
        )
    return next((parameter.device for parameter in parameters.values()), torch.device("cpu"))


@contextmanager
def in_eval_mode(model: nn.Module) -> Iterator[None]:
    """Run a network in eval mode, and eagerly where it is compiled, so that hooks run; each module's mode is restored."""
    modes = [(module, module.training) for module in model.modules()]
    # Where nothing was compiled, the compiler is not there either, and importing it takes seconds.
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
    """Leave a network's buffers as they were, whatever its forward does to them."""
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
