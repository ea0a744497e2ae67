"""A user's network without its wrappers, and a context manager that runs it in eval mode and leaves no trace of it."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import TracebackType
from typing import Any, NamedTuple, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from ncollapse.hooks.snapshot import Snapshot, differing, fingerprint, random_state_kept

Result = TypeVar("Result")

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
    """Run a network in eval mode, eagerly, and restore it and the random states to the bit, also after an error."""

    # With `check`, digests of the network and of the random states prove it. Without, the version counters of parameters and
    # gradients show at no cost whether they were written to. A change that cannot be undone is an error.

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
            self._to_eval()
            self._written = written | self._before.forget_unchanged(inside - written)
            self.mark()
        except BaseException:
            self._restore()
            raise

    def _to_eval(self) -> None:
        try:
            self.model.eval()
        except NotImplementedError as error:
            raise ValueError(
                f"All modules must take eval mode, but one raised NotImplementedError: {error} Exported modules do; pass the "
                "eager module."
            ) from error
        # Inside of another module, too, DistributedDataParallel would wait for other processes to broadcast its buffers.
        for module in self.model.modules():
            if isinstance(module, nn.parallel.DistributedDataParallel):
                module.broadcast_buffers = False

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self._restore()
        changed = self._changed()
        if changed and error is None:
            raise ValueError(changed)
        if changed and error is not None:
            error.add_note(changed)

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

    def _changed(self) -> str:
        """Return what was changed and could not be restored, in words, "" for nothing."""
        changed = [name for saved in self._parameters if not self._before.holds(saved.tensor) for name in saved.written()]
        if self._check:
            changed += differing(self._fingerprint, fingerprint(self.model))
        names = list(dict.fromkeys(changed))
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        words = (
            f"The network must stay as it was, but its forward in eval mode changed {', '.join(names[:3])}{more}. "
            "Measure a copy: copy.deepcopy(model)."
        )
        return words if names else ""


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
    inner = _wrapped(model)
    if inner is not None:
        return network_of(inner)
    split = [name for name, parameter in model.named_parameters() if hasattr(parameter, "full_tensor")]
    # The older FSDP keeps a part of all parameters in one, and frees the others' memory between passes.
    older = [name for name, part in model.named_modules() if _is_called(part, "FullyShardedDataParallel")]
    split += [f"{name}.*".lstrip(".") for name in older]
    if split:
        raise TypeError(
            f"The network's parameters must be whole on every process, got {len(split)} that are split (FSDP, fully_shard or "
            f"tensor parallel), the first {split[0]!r}. Load get_model_state_dict(model, "
            "options=StateDictOptions(full_state_dict=True)) of torch.distributed.checkpoint.state_dict into an unsplit copy "
            "on every process, and measure that."
        )
    return model


def _wrapped(model: nn.Module) -> nn.Module | None:
    """Return the network inside of a wrapper that only calls it; None for one that does more, such as a user's own."""
    # The forward of DistributedDataParallel broadcasts the buffers, and waits for processes that have fewer batches.
    if isinstance(model, nn.parallel.DistributedDataParallel):
        return cast(nn.Module, model.module)
    if isinstance(model, nn.DataParallel) and type(model).forward is nn.DataParallel.forward:
        return cast(nn.Module, model.module)
    return cast(nn.Module, model._orig_mod) if _is_called(model, "OptimizedModule") else None


def _is_called(model: Any, name: str) -> bool:
    """Return whether an object is of a class of PyTorch's, by its name, so that this need not be imported."""
    return any(kind.__name__ == name and kind.__module__.startswith("torch.") for kind in type(model).__mro__)


def uncompiled(model: nn.Module) -> nn.Module:
    """Return the network inside the wrappers, which has to run as it is, since the hooks of a compiled one do not."""
    inner = network_of(model)
    if _is_called(model, "OptimizedModule") or inner._compiled_call_impl is not None:
        raise TypeError(
            "watch needs a network that is not compiled, whose hooks run, got a compiled one. "
            "Watch before compiling, or use measure, which runs it uncompiled."
        )
    return inner


def _is_scripted(model: Any) -> bool:
    """Return whether a network runs without its modules, so that hooks see nothing: scripted, traced, or exported."""
    if isinstance(model, torch.jit.ScriptModule) or type(model).__name__ == "ExportedProgram":
        return True
    is_graph = _is_called(model, "GraphModule")
    # An exported graph calls one module, which checks the inputs.
    return is_graph and not any(node.op == "call_module" and node.target != "_guards_fn" for node in model.graph.nodes)


def device_of(model: nn.Module) -> torch.device:
    """Return the device of the network's first parameter, where its inputs go."""
    parameters = dict(model.named_parameters())
    empty = [name for name, tensor in (*parameters.items(), *model.named_buffers()) if tensor.is_meta]
    if empty:
        raise ValueError(
            f"All parameters and buffers must have values, got {len(empty)} on the meta device, the first {empty[0]!r}. Load "
            "the weights first (to_empty, then load_state_dict), all of them if the network is offloaded."
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
