"""Hooks on the outputs of modules that do not change how the modules compute them."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

from torch import nn
from torch.utils.hooks import RemovableHandle

Hook = Callable[[nn.Module, tuple[Any, ...], Any], None]


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
