"""Features captured from a module, whether a later operation overwrites them, and hooks that do not change how it computes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import copy
from functools import wraps
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence
from torch.utils.hooks import RemovableHandle

Hook = Callable[[nn.Module, tuple[Any, ...], Any], None]

# The source that means all of the network's inputs. Each weight is a source of its own, a higher bit.
INPUTS = 1


class Captured(NamedTuple):
    """A captured tensor, its version at that time, its rows, copied where needed, and, in a trace, what it depends on."""

    tensor: Tensor
    version: int | None
    values: Tensor
    sources: int = 0

    @classmethod
    def of(cls, tensor: Tensor, rows: Tensor, copied: bool, sources: int = 0) -> Captured:
        """Capture a module's output."""
        # Tensors made in inference mode have no version counter, so they are always copied.
        version = None if tensor.is_inference() else tensor._version
        return cls(tensor, version, rows.clone() if copied or version is None else rows, sources)

    @property
    def depends_on_weights(self) -> bool:
        """Whether it depends on more than the inputs."""
        return self.sources > INPUTS

    @property
    def overwritten(self) -> bool:
        """Whether an operation has overwritten the output since."""
        return self.version is not None and self.tensor._version != self.version

    def is_same(self, other: Captured) -> bool:
        """Return whether both are the same tensor, or views of it, with no in-place operation between the captures."""
        same_memory = self.tensor.data_ptr() == other.tensor.data_ptr() and self.tensor.numel() == other.tensor.numel()
        return same_memory and self.version == other.version and torch.equal(self.values.flatten(), other.values.flatten())


def feature_of(output: Any, label: str) -> Tensor:
    """Return the first feature tensor in a module's output."""
    found = first_feature(output)
    if found is not None:
        return found
    if isinstance(output, Tensor) and output.is_nested:
        raise TypeError(
            f"Layer {label!r} must return a dense tensor, got a nested one, whose rows differ in length. Build the "
            "nn.TransformerEncoder with enable_nested_tensor=False, or tap the encoder itself."
        )
    got = f"{output.dtype} {tuple(output.shape)}" if isinstance(output, Tensor) else type(output).__name__
    raise TypeError(
        f"Layer {label!r} must return a floating-point tensor of shape (N, ...), got {got}. Tap a module inside it."
    )


def first_feature(output: Any) -> Tensor | None:
    """Return the first feature tensor in a module's output, None if there is none."""
    return next((part for part in tensors_of(output) if part.ndim >= 2), None)


def with_feature(output: Any, value: Tensor) -> Any:
    """Return a module's output with another first feature tensor."""
    first = first_feature(output)
    if output is first:
        return value
    if isinstance(output, Mapping):
        changed = copy(output)
        for key in [key for key, part in output.items() if part is first]:
            changed[key] = value  # type: ignore[index]
        return changed
    parts = [value if part is first else part for part in output]
    return type(output)(*parts) if hasattr(output, "_fields") else type(output)(parts)


def tensors_of(output: Any) -> list[Tensor]:
    """Return the dense floating-point tensors in an output, those named "logits" first."""
    parts: Sequence[Any] = [output]
    if isinstance(output, Mapping):
        parts = [output[key] for key in sorted(output, key=lambda key: key != "logits")]
    elif isinstance(output, PackedSequence):
        parts = []  # its rows are time steps, sorted by length
    elif isinstance(output, tuple | list):
        parts = output
    dense = (part for part in parts if isinstance(part, Tensor) and not part.is_nested)
    return [part for part in dense if part.is_floating_point() and part.ndim >= 1]


def hook_output(module: nn.Module, hook: Hook) -> AroundForward | RemovableHandle:
    """Call a hook with every output of a module."""
    return AroundForward(module, hook) if _has_fast_path(module) else module.register_forward_hook(hook)


def _has_fast_path(module: nn.Module) -> bool:
    # PyTorch's encoder layers use one fused call, but only while neither they nor the modules inside them have a hook.
    return (
        isinstance(module, nn.TransformerEncoderLayer)
        and module._compiled_call_impl is None
        and not any(part._forward_hooks or part._forward_pre_hooks for part in module.modules())
    )


class AroundForward:
    """A hook in place of a module's ``forward``."""

    def __init__(self, module: nn.Module, hook: Hook) -> None:
        self._module, self._own = module, vars(module).get("forward")
        plain = module.forward

        @wraps(plain)
        def forward(*args: Any, **kwargs: Any) -> Any:
            output = plain(*args, **kwargs)
            hook(module, args, output)
            return output

        module.forward = forward

    def remove(self) -> None:
        """Restore the module's own ``forward``."""
        if self._own is None:
            del self._module.forward
        else:
            self._module.forward = self._own
