"""A user's network without its wrappers, its device, and the precision in which it runs."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, TypeVar, cast

import torch
from torch import nn
from torch.nn.parameter import is_lazy

Result = TypeVar("Result")


def network_of(model: nn.Module) -> nn.Module:
    """Return the network inside the wrappers of compiling and data parallelism, so that names are its own and hooks run."""
    if _is_scripted(model):
        raise TypeError(
            f"model must be an eager network, got {type(model).__name__}, which is scripted. Pass the eager module."
        )
    if not isinstance(model, nn.Module):
        if isinstance(model, type):
            raise TypeError(f"model must be a network, got the class {model.__name__}. Make one: {model.__name__}().")
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}. Pass features to measure_features.")
    # The forward of DistributedDataParallel broadcasts the buffers, and waits for processes that have fewer batches.
    wrapped = isinstance(model, nn.parallel.DistributedDataParallel | nn.DataParallel)
    inner = model.module if wrapped else getattr(model, "_orig_mod", None)
    if inner is not None:
        return network_of(cast(nn.Module, inner))
    split = [name for name, parameter in model.named_parameters() if hasattr(parameter, "full_tensor")]
    if split:
        raise TypeError(
            f"The network's parameters must be whole on every process, got {len(split)} that are split (fully_shard or tensor "
            f"parallel), the first {split[0]!r}. Load get_model_state_dict(model, "
            "options=StateDictOptions(full_state_dict=True)) of torch.distributed.checkpoint.state_dict into an unsplit copy "
            "on every process, and measure that."
        )
    return model


def uncompiled(model: nn.Module) -> nn.Module:
    """Return the network inside the wrappers, which has to run as it is, since the hooks of a compiled one do not."""
    inner = network_of(model)
    if (inner is not model and hasattr(model, "_orig_mod")) or inner._compiled_call_impl is not None:
        raise TypeError(
            "watch needs a network that is not compiled, whose hooks run, got a compiled one. "
            "Watch before compiling, or use measure, which runs it uncompiled."
        )
    return inner


def _is_scripted(model: Any) -> bool:
    """Return whether a network runs without its modules, so that hooks see nothing: scripted, traced, or exported."""
    if isinstance(model, torch.jit.ScriptModule) or type(model).__name__ == "ExportedProgram":
        return True
    is_graph = any(base.__name__ == "GraphModule" for base in type(model).__mro__)
    # An exported graph calls one module, which checks the inputs.
    return is_graph and not any(node.op == "call_module" and node.target != "_guards_fn" for node in model.graph.nodes)


def device_of(model: nn.Module) -> torch.device:
    """Return the device of the network's first parameter, where its inputs go."""
    parameters = dict(model.named_parameters())
    empty = [name for name, parameter in parameters.items() if parameter.is_meta]
    if empty:
        raise ValueError(
            f"All parameters must have values, got {len(empty)} on the meta device, the first {empty[0]!r}. Load the weights "
            "first (to_empty, then load_state_dict), all of them if the network is offloaded."
        )
    unknown = [name for name, parameter in parameters.items() if is_lazy(parameter)]
    if unknown:
        raise ValueError(
            f"All parameters must have values, got {len(unknown)} of lazy modules, the first {unknown[0]!r}. Run the network "
            "on one batch first."
        )
    return next((parameter.device for parameter in parameters.values()), torch.device("cpu"))


def in_same_precision(function: Callable[[], Result]) -> Callable[[], Result]:
    """Return a function that runs another one under the autocasting that is active now."""
    kinds = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    states = [(kind, torch.get_autocast_dtype(kind), torch.is_autocast_enabled(kind)) for kind in kinds]

    def run() -> Result:
        with ExitStack() as stack:
            for kind, dtype, enabled in states:
                stack.enter_context(torch.autocast(kind, dtype=dtype, enabled=enabled))
            return function()

    return run
