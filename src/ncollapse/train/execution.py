"""Execution of training steps: precision, compiled networks, deterministic operations."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn

from ncollapse.recipes.training import TrainConfig
from ncollapse.train.parallel import Team

Network = Callable[[Tensor], Tensor]

# The workspaces of cuBLAS with which PyTorch takes its products for deterministic.
_WORKSPACES = (":4096:8", ":16:8")


def check_execution(config: TrainConfig, device: torch.device, team: Team) -> None:
    """Check that steps can be computed here as they are wanted."""
    if config.optimizer == "lbfgs" and team.group is not None:
        raise ValueError(
            f"train.optimizer=lbfgs needs one process without a group, got a group of {team.size}. Train in one process."
        )
    if config.loss == "mcr2" and (team.group is not None or config.compiled):
        got = "a compiled network" if config.compiled else f"a group of {team.size}"
        raise ValueError(
            f"train.loss=mcr2 needs one process and train.compiled=false, got {got}: its rates are those of whole batches. "
            "Train so, or take another loss."
        )
    workspace = os.environ.get("CUBLAS_WORKSPACE_CONFIG")
    if config.deterministic and device.type == "cuda" and workspace not in _WORKSPACES:
        raise ValueError(
            "train.deterministic on CUDA needs the environment variable CUBLAS_WORKSPACE_CONFIG to be "
            f"{' or '.join(_WORKSPACES)} when the process starts, got {workspace or 'none'}. Set it, or leave "
            "train.deterministic false."
        )
    if config.compiled and team.group is not None:
        raise ValueError(
            f"train.compiled needs one process without a group, got a group of {team.size}. Train in one process, or leave "
            "train.compiled false."
        )


def logits_of(model: nn.Module, config: TrainConfig, device: torch.device) -> Network:
    """Return the function that maps inputs to logits in training."""
    network: Network = _compiled(model, device) if config.compiled else model
    if config.precision == "float32":
        return network

    def mixed(inputs: Tensor) -> Tensor:
        with torch.autocast(inputs.device.type, torch.bfloat16):
            return network(inputs).float()

    return mixed


def _compiled(model: nn.Module, device: torch.device) -> Network:
    # Fixed shapes: an epoch has one or two sizes of batches, and code for each is what CUDA graphs need.
    return torch.compile(model, dynamic=False, mode="reduce-overhead" if device.type == "cuda" else None)


@contextmanager
def execution(config: TrainConfig) -> Iterator[None]:
    """Compute the steps in the body as a recipe asks."""
    with ExitStack() as stack:
        if config.deterministic:
            stack.enter_context(_deterministic_operations())
        if config.compiled:
            stack.enter_context(_readable_compiler_errors())
        yield


@contextmanager
def _readable_compiler_errors() -> Iterator[None]:
    # Imported by torch.compile, and slow to import where nothing is compiled.
    from torch._dynamo.exc import BackendCompilerFailed
    from torch._inductor.exc import CppCompileError, InvalidCxxCompiler

    try:
        yield
    # The other two by themselves where PyTorch 2.6 compiles a backward pass.
    except (BackendCompilerFailed, InvalidCxxCompiler, CppCompileError) as error:
        raise ValueError(
            "train.compiled needs what torch.compile builds with: a C++ compiler (g++, or the one that the environment "
            f"variable CXX names), on CUDA Triton too. It said: {str(error).splitlines()[0]}. Install it, or leave "
            "train.compiled false."
        ) from error


@contextmanager
def _deterministic_operations() -> Iterator[None]:
    cudnn = torch.backends.cudnn
    mode, before = torch.get_deterministic_debug_mode(), (cudnn.deterministic, cudnn.benchmark)
    try:
        torch.use_deterministic_algorithms(True)
        cudnn.deterministic, cudnn.benchmark = True, False
        yield
    except RuntimeError as error:
        if "does not have a deterministic implementation" not in str(error):
            raise
        raise ValueError(
            "train.deterministic needs operations with a deterministic implementation, got one without: "
            f"{str(error).split(',')[0]}. Replace it, or leave train.deterministic false."
        ) from error
    finally:
        torch.use_deterministic_algorithms(mode > 0, warn_only=mode == 1)
        cudnn.deterministic, cudnn.benchmark = before
