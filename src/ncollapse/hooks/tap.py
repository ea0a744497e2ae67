"""A tap: a module of a network, and how its output becomes one row per sample; and the taps for layers that a user names."""

from __future__ import annotations

import difflib
import inspect
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

Pool = Literal["flatten", "mean", "cls", "last_token"]
# A way to make one row per sample.
Read = Pool | Callable[[Tensor], Tensor]

# What wrappers put in front of the names of a network that is compiled or parallel.
_WRAPPERS = ("module.", "_orig_mod.")
# How many module names an error lists.
_NAMES_SHOWN = 30
# Ends the name of a tap that reads what a module takes instead of what it returns.
INPUT = ".input"


class Placement(NamedTuple):
    """Where the rows of the labels are in a layer's output."""

    axis: int = 0  # the dimension that counts the samples
    first: int = 0  # the first position with a label, if every token has one
    extra: int = 0  # how many positions it has beyond those of the labels
    is_last: bool = False  # whether the positions are the last dimension, as behind a convolution: (N, C, T)
    channels_last: bool = False  # whether the channels of images are the last dimension: (N, H, W, C)

    def arranged(self, output: Tensor) -> Tensor:
        """Return a layer's output with the samples first, then the positions of tokens, or the channels of images."""
        output = output.movedim(self.axis, 0)
        output = output.movedim(-1, 1) if self.channels_last else output
        return output.transpose(1, 2) if self.is_last else output


@dataclass(frozen=True)
class Tap:
    """A module to measure, and how its output becomes one row of features per sample.

    Attributes:
        name: A module's name as in ``model.named_modules()``, or a pattern: "*" stops at a dot, "**" does not. "fc.input" is
            what the module "fc" takes, for example after an activation that is no module.
        pool: "flatten" uses all numbers of a sample. "mean" averages over positions, in float32 or finer: over the tokens
            (N, T, D) that the attention mask marks, or over pixels (N, C, H, W). "cls" reads the first token,
            "last_token" the last one that the attention mask marks. A function maps the output to (N, d).

    Example:
        >>> Tap("layer4", pool="mean")  # measure(net, batches, num_classes=10, layers=[Tap("layer4", pool="mean")])
        Tap(name='layer4', pool='mean')
    """

    name: str
    pool: Read = "flatten"

    @property
    def label(self) -> str:
        """The layer's name in tables."""
        if self.pool == "flatten":
            return self.name
        return f"{self.name}:{self.pool if isinstance(self.pool, str) else getattr(self.pool, '__name__', 'function')}"

    @property
    def skips_padding(self) -> bool:
        """Whether it must be known which tokens are padding."""
        return self.pool in ("mean", "last_token")

    def read(self, output: Tensor, mask: Tensor | None) -> Tensor:
        """Return one row per sample.

        Args:
            output: The module's output, shape (N, ...).
            mask: Which tokens are real, shape (N, T), or None for all.

        Returns:
            Shape (N, d). For "flatten" a view of the output if its memory layout allows.

        Raises:
            ValueError: If the output has no positions to pool, or a function does not return (N, d).
        """
        if callable(self.pool):
            rows = self.pool(output)
            if not isinstance(rows, Tensor) or rows.ndim != 2:
                got = tuple(rows.shape) if isinstance(rows, Tensor) else type(rows).__name__
                raise ValueError(
                    f"The pool of tap {self.label!r} must return a tensor of shape (N, d), got {got}. Change the function."
                )
            return rows
        if self.pool == "flatten":
            return output.flatten(1)
        if self.pool == "mean" and output.ndim == 4:
            return output.mean(dim=(2, 3), dtype=_precision(output))
        if output.ndim != 3:
            raise ValueError(
                f"Tap {self.label!r} needs an output of shape (N, T, D), got {tuple(output.shape)}. Use pool='flatten'."
            )
        return _POOLS[self.pool](output, None if mask is None else self._mask_of(output, mask.to(output.device) != 0))

    def _mask_of(self, output: Tensor, mask: Tensor) -> Tensor:
        """Return which positions are real: further ones, as of virtual tokens, are in front."""
        further = output.shape[1] - mask.shape[1]
        if further < 0 and self.pool != "cls" and not bool(mask.all()):
            raise ValueError(
                f"Tap {self.label!r} needs one position per token ({mask.shape[1]}) to know which are padding, got "
                f"{output.shape[1]}. Pass a function: Tap({self.name!r}, pool=function)."
            )
        return torch.cat([mask.new_ones(len(mask), max(further, 0)), mask], dim=1)[:, : output.shape[1]]


def _mean(output: Tensor, mask: Tensor | None) -> Tensor:
    if mask is None:
        return output.mean(dim=1, dtype=_precision(output))
    # Selected by the mask, not multiplied with it: padding may contain inf or nan.
    return torch.where(mask.unsqueeze(2), output, 0).sum(dim=1, dtype=_precision(output)) / mask.sum(dim=1, keepdim=True)


def _precision(output: Tensor) -> torch.dtype:
    """Return float32 or finer, so that a mean of half-precision features is not rounded to half precision."""
    return torch.promote_types(output.dtype, torch.float32)


def _cls(output: Tensor, mask: Tensor | None) -> Tensor:
    return output[:, 0].clone()  # a view would keep all tokens in memory


def _last_token(output: Tensor, mask: Tensor | None) -> Tensor:
    last = torch.full(output.shape[:1], output.shape[1] - 1, device=output.device)
    if mask is not None:
        positions = torch.arange(mask.shape[1], device=mask.device)
        last = torch.where(mask, positions, -1).amax(dim=1)
    return output[torch.arange(len(output), device=output.device), last]


_POOLS = {"mean": _mean, "cls": _cls, "last_token": _last_token}


LayerChoice = str | Tap | nn.Module | Sequence[str | Tap | nn.Module]


class Modules(dict[str, nn.Module]):
    """The modules of a network by name, each once, with the further names of shared ones and those that are scripted."""

    def __init__(self, model: nn.Module) -> None:
        named = {name: module for name, module in model.named_modules() if name}
        inside = [name for name, module in named.items() if isinstance(module, torch.jit.ScriptModule)]
        # Hooks do not run inside of scripted modules, and on them they have other arguments.
        self.scripted = [name for name in inside if not any(name.startswith(f"{outer}.") for outer in inside)]
        super().__init__({name: module for name, module in named.items() if name not in inside})
        first = {id(module): name for name, module in self.items()}
        every = model.named_modules(remove_duplicate=False)
        self.names = {name: first[id(module)] for name, module in every if id(module) in first}

    def resolve(self, name: str) -> str | None:
        """Return the first name of a module, or of its input, None if there is no such module."""
        if name in self.names:
            return self.names[name]
        wrapper = next((prefix for prefix in _WRAPPERS if name.startswith(prefix)), None)
        if wrapper is not None:
            return self.resolve(name.removeprefix(wrapper))
        outer = self.names.get(name.removesuffix(INPUT)) if name.endswith(INPUT) else None
        return None if outer is None else outer + INPUT

    def check_eager(self, name: str) -> None:
        """Raise an error if a name is that of a scripted module."""
        outer = next((part for part in self.scripted if name == part or name.startswith(f"{part}.")), None)
        if outer is not None:
            raise ValueError(
                f"Modules must be eager, but {outer!r} is scripted, so that hooks do not run. Pass the eager module."
            )


def declared(module: nn.Module, name: str) -> Any:
    """Return what a module declares under a name; None if nothing, also if it only hands on what a module inside declares."""
    return None if inspect.getattr_static(module, name, None) is None else attribute(module, name)


def attribute(module: Any, name: str) -> Any:
    """Return an attribute, None if there is none: properties and ``__getattr__`` of strangers raise errors of all kinds."""
    try:
        return getattr(module, name, None)
    except Exception:
        return None


def chosen_taps(layers: LayerChoice, modules: Modules) -> tuple[list[str], tuple[Tap, ...]]:
    """Return the chosen layers in words, and their taps."""
    words: list[str] = []
    found: dict[Tap, None] = {}
    for item in _items(layers):
        tap = item if isinstance(item, Tap) else Tap(name_of(item, modules, "layers"))
        modules.check_eager(tap.name)
        # Exact names go first, since a module's name may contain characters that have a meaning in patterns.
        exact = modules.resolve(tap.name)
        names = [exact] if exact is not None else [modules.names[name] for name in _matching(tap.name, modules.names)]
        if not names:
            raise ValueError(f"layers must name or match modules, got {tap.name!r}. {available_names(modules, tap.name)}")
        words.append(tap.label)
        found.update(dict.fromkeys(Tap(name, tap.pool) for name in names))
    if not found:
        raise ValueError(f"layers must name at least one module, got none. {available_names(modules)}")
    return words, tuple(found)


def _items(layers: LayerChoice) -> list[str | Tap | nn.Module]:
    if isinstance(layers, nn.ModuleList):
        return list(layers)  # a container that never runs itself
    return [layers] if isinstance(layers, str | Tap | nn.Module) else list(layers)


def name_of(item: str | nn.Module, modules: Mapping[str, nn.Module], argument: str) -> str:
    """Return a module's name in its network; return names unchanged."""
    if isinstance(item, str):
        return item
    if not isinstance(item, nn.Module):
        raise TypeError(
            f"{argument} must be given by name or module, got {type(item).__name__}. "
            "Pass names as in model.named_modules(), or the modules themselves."
        )
    name = next((name for name, module in modules.items() if module is item), None)
    if name is None:
        wanted = "a module inside" if argument == "classifier" else "modules inside"
        raise ValueError(
            f"{argument} must be {wanted} the network, got a {type(item).__name__} from elsewhere. "
            f"Pass a module of the same network object, or its name. {available_names(modules)}"
        )
    return name


def available_names(modules: Mapping[str, nn.Module], wanted: str = "") -> str:
    """List module names for an error message, similar ones first."""
    near = difflib.get_close_matches(wanted, modules, n=5)
    listed = list(modules)[:_NAMES_SHOWN]
    more = f" and {len(modules) - len(listed)} more (model.named_modules())" if len(modules) > len(listed) else ""
    return (f"Near: {', '.join(near)}. " if near else "") + f"Layers available here: {', '.join(listed)}{more}."


def _matching(pattern: str, names: Iterable[str]) -> list[str]:
    """Return matching names: "*" matches within a part, "**" across dots, "?" one character, "[ab]" one of a and b."""
    translated = "".join(
        {"**": ".*", "*": "[^.]*", "?": "[^.]"}.get(part, part if part.startswith("[") else re.escape(part))
        for part in re.split(r"(\*\*|\*|\?|\[[^\]]+\])", pattern)
    )
    return [name for name in names if re.fullmatch(translated, name)]
