"""A context manager that runs a network in eval mode and leaves no trace of it."""

from __future__ import annotations

import random
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from ncollapse.hooks.snapshot import Snapshot, differing, fingerprint

# The tests check every measurement.
ALWAYS_CHECKED = False

# The modules of the networks that are run here now, by their ids, with the threads that do it. Were one measured twice at a
# time, each measurement would see the hooks and modes of the other, and restore them at its end.
_at_work: dict[int, threading.Thread] = {}
_lock = threading.Lock()


@contextmanager
def _run_alone(model: nn.Module) -> Iterator[None]:
    modules, own = list(model.modules()), threading.current_thread()
    ids = [id(module) for module in modules]
    with _lock:
        holder = next((_at_work[key] for key in ids if key in _at_work), None)
        if holder is not None:
            who = "this thread" if holder is own else f"another thread ({holder.name})"
            raise ValueError(
                f"A network must be measured once at a time, and {who} is measuring this one or a part of it. Wait for its "
                "end, or measure a copy: copy.deepcopy(model)."
            )
        _at_work.update(dict.fromkeys(ids, own))
    try:
        yield
    finally:
        with _lock:
            for key in ids:
                del _at_work[key]


class Untouched:
    """Run a network in eval mode, eagerly, and restore it and the random states to the bit, also after an error.

    With ``check``, digests of the network and of the random states prove it. Without, the version counters of parameters and
    gradients show at no cost whether they were written to. A change that cannot be undone is an error.
    """

    # Parameters are large, so only those are copied that eval mode may change. A module that overrides ``train`` acts in it:
    # LoRA merges its weights. An embedding with ``max_norm`` writes to its weights in each forward pass.

    def __init__(self, model: nn.Module, *, check: bool = False, batches: Any = None) -> None:
        self.model, self._check, self._batches = model, check or ALWAYS_CHECKED, batches
        self._stack = ExitStack()

    def __enter__(self) -> Untouched:
        self._stack.enter_context(_run_alone(self.model))
        try:
            self._begin()
        except BaseException:
            self._stack.close()
            raise
        return self

    def _begin(self) -> None:
        self._stack.enter_context(random_state_kept(self._batches))
        # If nothing was compiled, the compiler has not been imported, and importing it here would take seconds.
        if "torch._dynamo" in sys.modules:
            self._stack.enter_context(torch.compiler.set_stance("force_eager"))
        self._fingerprint = fingerprint(self.model) if self._check else {}
        self._parameters = [_Parameter.of(name, parameter) for name, parameter in self.model.named_parameters()]
        self._acting = [(module, module.training) for module in self.model.modules() if _acts_in_train(module)]
        inside = {parameter for module, _ in self._acting for parameter in module.parameters()}
        written = {parameter for module in self.model.modules() if _bounds_norms(module) for parameter in module.parameters()}
        self._before = Snapshot(self.model, inside | written)
        try:
            self.model.eval()
            self._written = written | self._before.forget_unchanged(inside - written)
            self.mark()
        except BaseException:
            self._restore()
            raise

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self._restore()
        if error is None:
            self._verify()

    def mark(self) -> None:
        """Save the state that ``rewind`` restores: in eval mode, with the hooks that are there now."""
        self._marked = Snapshot(self.model, self._written)

    def rewind(self) -> None:
        """Restore the marked state, so that a further pass sees the network of the first."""
        self._marked.restore()

    def _restore(self) -> None:
        # A module may change more than what is saved here, so ``train`` runs first: parents before children, since a parent
        # sets its children's modes, each of which then gets its own back.
        with self._stack:
            try:
                for module, training in self._acting:
                    if module.training != training:
                        module.train(training)
            finally:
                self._before.restore()
                for parameter in self._parameters:
                    parameter.restore()
                # Under autocast, weights were cast without gradients. The next training step must not use them.
                torch.clear_autocast_cache()

    def _verify(self) -> None:
        changed = [name for saved in self._parameters if not self._before.holds(saved.tensor) for name in saved.written()]
        if self._check:
            changed += differing(self._fingerprint, fingerprint(self.model))
        if changed:
            names = list(dict.fromkeys(changed))
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            raise ValueError(
                f"The network must stay as it was, but its forward in eval mode changed {', '.join(names[:3])}{more}. "
                "Measure a copy: copy.deepcopy(model)."
            )


class _Parameter(NamedTuple):
    """A parameter's flag and gradient, to be restored, and the versions of its values and its gradient, to be compared."""

    name: str
    tensor: nn.Parameter
    requires_grad: bool
    version: int | None
    grad: Tensor | None
    grad_version: int | None

    @classmethod
    def of(cls, name: str, parameter: nn.Parameter) -> _Parameter:
        """Note a parameter; nothing is copied."""
        grad = parameter.grad
        return cls(name, parameter, parameter.requires_grad, _version(parameter), grad, _version(grad))

    def restore(self) -> None:
        """Restore the flag and the gradient."""
        if self.tensor.requires_grad != self.requires_grad:
            self.tensor.requires_grad_(self.requires_grad)
        if self.tensor.grad is not self.grad:
            self.tensor.grad = self.grad

    def written(self) -> list[str]:
        """Return the names of what was written to."""
        found = [f"parameter {self.name!r}"] if _version(self.tensor) != self.version else []
        return [*found, f"the gradient of {self.name!r}"] if _version(self.grad) != self.grad_version else found


def _version(tensor: Tensor | None) -> int | None:
    """Return how often a tensor was written to; None if unknown."""
    return None if tensor is None or tensor.is_inference() else tensor._version


def _acts_in_train(module: nn.Module) -> bool:
    # A scripted module keeps its mode where no snapshot of Python attributes finds it.
    overrides = type(module).train is not nn.Module.train or "train" in vars(module)
    return overrides or isinstance(module, torch.jit.ScriptModule)


def _bounds_norms(module: nn.Module) -> bool:
    return isinstance(module, nn.Embedding | nn.EmbeddingBag) and module.max_norm is not None


@contextmanager
def random_state_kept(batches: Any = None) -> Iterator[None]:
    """Restore the global random states of PyTorch, NumPy and Python, and those of a loader's own generators."""
    # A shuffling loader draws its seed from PyTorch's state or from its generator. Augmentation in the main process may draw
    # from any of them.
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else []
    numpy_state, python_state = np.random.get_state(), random.getstate()
    states = [(generator, generator.get_state()) for generator in _generators(batches)]
    try:
        with torch.random.fork_rng(devices=list(devices)):
            yield
    finally:
        np.random.set_state(numpy_state)
        random.setstate(python_state)
        for generator, state in states:
            generator.set_state(state)


def _generators(loader: Any) -> list[torch.Generator]:
    """Return the generators of a loader and of its samplers."""
    found: dict[int, torch.Generator] = {}
    parts = [loader]
    for part in parts:
        generator = getattr(part, "generator", None)
        if isinstance(generator, torch.Generator):
            found[id(generator)] = generator
        inner = (getattr(part, name, None) for name in ("sampler", "batch_sampler"))
        parts += [other for other in inner if other is not None and all(other is not known for known in parts)]
    return list(found.values())
