"""Checkpoints without pickle: one safetensors file, whole or not there, and checked before it touches a model."""

import hashlib
import json
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from ncollapse.records.files import write_whole
from ncollapse.train.epoch_part import EpochPart
from ncollapse.train.weights_file import (
    CheckpointError,
    check_file,
    check_fit,
    in_precision_of,
    named_as,
    read_torch_file,
    shards,
    under_shared_names,
)

_FORMAT = "ncollapse-checkpoint-1"
# Of a run that was stopped inside an epoch: version 0.2 would take its weights for those of a whole epoch, and refuses it.
_INSIDE_EPOCH = "ncollapse-checkpoint-2"
_FORMATS = (_FORMAT, _INSIDE_EPOCH)
_PART, _PARTS = "part.", ("losses", "norms", "correct")
_MODEL = "model."
# What an optimizer holds for a parameter: the prefix in the file, the name in its state.
_STATE = {"momentum.": "momentum_buffer", "adam_first.": "exp_avg", "adam_second.": "exp_avg_sq", "adam_step.": "step"}


def save_checkpoint(
    path: str | Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    epoch: int,
    fingerprint: str,
    part: EpochPart | None = None,
) -> None:
    """Write model, momentum and position of a run into one file, replacing an older one in a single step.

    A run killed at any moment leaves the old checkpoint or the new one, whole.

    Args:
        model: Its parameters and buffers are saved.
        optimizer: Its momentum buffers, or the moments and steps of Adam, are saved under the names of their parameters.
        epoch: The last epoch that was finished; 0 before training.
        fingerprint: Fingerprint of the recipe; loading asks for the same one.
        part: The batches of the next epoch that were trained on, from ``TrainingStopped``.

    Raises:
        OSError: If the folder is missing, full or read-only. The old checkpoint stays as it was, and no temporary file is left.
    """
    write_whole(Path(path), checkpoint_content(model, optimizer, epoch, fingerprint, part))


def checkpoint_content(
    model: nn.Module, optimizer: torch.optim.Optimizer, epoch: int, fingerprint: str, part: EpochPart | None = None
) -> bytes:
    """Return what ``save_checkpoint`` writes: learning rate and order of the samples follow from the epoch."""
    tensors = {_MODEL + name: tensor for name, tensor in model.state_dict().items()}
    for name, parameter in model.named_parameters():
        held = optimizer.state.get(parameter, {})
        tensors |= {prefix + name: held[key] for prefix, key in _STATE.items() if held.get(key) is not None}
    # Cloned, since safetensors refuses tensors that share memory, as tied weights do.
    tensors = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}
    inside = part is not None and len(part) > 0
    if inside:
        tensors |= {_PART + name: getattr(part, name) for name in _PARTS}
    metadata = {"format": _INSIDE_EPOCH if inside else _FORMAT, "epoch": str(epoch), "fingerprint": fingerprint}
    metadata["checksum"] = _checksum(tensors, metadata)
    return _ordered(save(tensors, metadata))


def load_checkpoint(path: str | Path, model: nn.Module, optimizer: torch.optim.Optimizer, fingerprint: str) -> int:
    """Restore model and optimizer as ``save_checkpoint`` found them between two epochs.

    Everything is checked before anything is changed.

    Args:
        model: Built as the saved one was; its device is kept.
        optimizer: Made for this model.
        fingerprint: Fingerprint of the present recipe.

    Returns:
        The last epoch that was finished; resume at the next.

    Raises:
        CheckpointError: If the file is damaged, was written inside an epoch or for another recipe, or does not fit the model.
        FileNotFoundError: If there is no such file.
    """
    path = Path(path)
    tensors, metadata = _read_for(path, fingerprint)
    if metadata["format"] == _INSIDE_EPOCH:
        raise CheckpointError(
            f"{path} must be written between two epochs, got one of a training that was stopped inside epoch "
            f"{int(metadata['epoch']) + 1}. Read it with resume_checkpoint, and pass the part of the epoch to train."
        )
    _restore(path, tensors, model, optimizer)
    return int(metadata["epoch"])


def resume_checkpoint(
    path: str | Path, model: nn.Module, optimizer: torch.optim.Optimizer, fingerprint: str
) -> tuple[int, EpochPart]:
    """Restore as ``load_checkpoint``, also what was saved inside an epoch.

    Args:
        model: Built as the saved one was; its device is kept.
        optimizer: Made for this model.
        fingerprint: Fingerprint of the present recipe.

    Returns:
        The last epoch that was finished, and the batches of the next one that were trained on: ``start_epoch - 1`` and ``part``
        of ``train``.

    Raises:
        CheckpointError: If the file is damaged, was written for another recipe, or does not fit the model.
        FileNotFoundError: If there is no such file.
    """
    path = Path(path)
    tensors, metadata = _read_for(path, fingerprint)
    part = EpochPart.empty()
    if metadata["format"] == _INSIDE_EPOCH:
        part = EpochPart(*(tensors[_PART + name] for name in _PARTS))
    _restore(path, tensors, model, optimizer)
    return int(metadata["epoch"]), part


def check_between_epochs(path: Path) -> None:
    """Check that a whole checkpoint was not written inside an epoch: its weights then belong to no epoch."""
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata() or {}
    if metadata.get("format") == _INSIDE_EPOCH:
        raise CheckpointError(
            f"{path} must be written between two epochs, got one of a run that was stopped inside epoch "
            f"{int(metadata['epoch']) + 1}. Continue the run with --resume."
        )


def _read_for(path: Path, fingerprint: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read the checkpoint of a recipe."""
    tensors, metadata = _read(path)
    if metadata.get("format") not in _FORMATS:
        raise CheckpointError(
            f"{path} must be a checkpoint of format {_FORMAT}, got {metadata.get('format', 'none')}. To start "
            "from these weights alone use load_weights."
        )
    _check_recipe(path, metadata["fingerprint"], fingerprint)
    return tensors, metadata


def _restore(path: Path, tensors: dict[str, Tensor], model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    weights = _under(_MODEL, tensors)
    states = {key: _under(prefix, tensors) for prefix, key in _STATE.items()}
    parameters = dict(model.named_parameters())
    check_fit(path, weights, model.state_dict())
    for key, held in states.items():
        shapes = {name: torch.tensor(0.0) if key == "step" else parameters[name] for name in held if name in parameters}
        check_fit(path, held, shapes)
    model.load_state_dict(weights)
    for parameter in parameters.values():
        optimizer.state.pop(parameter, None)
    for key, held in states.items():
        for name, tensor in held.items():
            optimizer.state[parameters[name]][key] = tensor.to(parameters[name].device)


def load_weights(path: str | Path, model: nn.Module, *, unsafe_pickle: bool = False, fingerprint: str | None = None) -> str:
    """Put saved weights into a model, from a checkpoint or from any safetensors file of a state dict.

    A file of another name than ``*.safetensors`` may also be one that ``torch.save`` wrote: a state dict, or a mapping that
    holds one under "state_dict", "model_state_dict", "model" or "net". No code in it runs: objects beside the weights are not
    built. Prefixes of compiled, parallel and Lightning modules are dropped. A tensor that the model has under several names,
    such as a tied embedding, may be there under one of them. Weights in another floating-point type are converted to the
    model's. The index of a file in parts (``model.safetensors.index.json``) stands for all of its parts.

    Args:
        model: A model of the same shape as the saved one; its device is kept.
        unsafe_pickle: Read with ``torch.load(weights_only=False)``, which runs whatever code the file holds; the whole model
            may then be in it.
        fingerprint: Fingerprint of the recipe that a checkpoint must belong to; None accepts any.

    Returns:
        Where the weights were found, the prefix that was dropped, and the type they were converted from, in words; "" for a
        plain state dict.

    Raises:
        CheckpointError: If the file is of another kind, is damaged, or does not fit the model, which is then left as it was.
        FileNotFoundError: If there is no such file.
    """
    parts = [_weights_in(part, model, unsafe_pickle) for part in shards(Path(path))]
    tensors = {name: tensor for found, _, _ in parts for name, tensor in found.items()}
    _, metadata, note = parts[0]
    is_own = metadata.get("format") in _FORMATS
    if is_own and fingerprint is not None:
        _check_recipe(Path(path), metadata["fingerprint"], fingerprint)
    weights = _under(_MODEL, tensors) if is_own else tensors
    if not note:
        prefix, weights = named_as(Path(path), weights, model.state_dict())
        note = f"prefix {prefix!r} dropped" if prefix else ""
    if not is_own:
        weights, precision = in_precision_of(model.state_dict(), weights)
        weights = under_shared_names(Path(path), weights, model)
        note = ", ".join(filter(None, [note, precision]))
    check_fit(Path(path), weights, model.state_dict())
    model.load_state_dict(weights)
    return note


def _weights_in(path: Path, model: nn.Module, unsafe_pickle: bool) -> tuple[dict[str, Tensor], dict[str, str], str]:
    """Return the weights in one file, its metadata, and where they were found, in words."""
    try:
        return *_read(path), ""
    except _NoSafetensors as error:
        if path.suffix == ".safetensors":
            raise CheckpointError(
                f"{path} must be a safetensors file of a state dict, got another kind of file or a damaged one ({error.how}). "
                "Give weights that torch.save wrote a name ending in .pt."
            ) from error
        weights, note = read_torch_file(path, model.state_dict(), unsafe_pickle)
        return weights, {}, note


def _check_recipe(path: Path, held: str, fingerprint: str) -> None:
    if held != fingerprint:
        raise CheckpointError(
            f"{path} must be a checkpoint of the recipe with fingerprint {fingerprint}, got one of {held}. Resume with the "
            "recipe it was written for, or begin a run in another folder."
        )


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    check_file(path)
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except (
        SafetensorError,
        RuntimeError,
        AttributeError,
    ) as error:  # also of a size that cannot be mapped, a type unknown here
        raise _NoSafetensors(path, str(error)) from error
    if metadata.get("format") in _FORMATS and metadata.pop("checksum", None) != _checksum(tensors, metadata):
        raise _Damaged(path, "its checksum differs from its content")
    return tensors, metadata


class _Damaged(CheckpointError):
    def __init__(self, path: Path, how: str) -> None:
        super().__init__(
            f"{path} must be a whole safetensors file, got a damaged or truncated one ({how}). Delete it and begin "
            "the run again."
        )
        self.how = how


class _NoSafetensors(_Damaged):
    """The file is not safetensors at all: a damaged checkpoint of a run, or a user's file of another kind."""


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _ordered(content: bytes) -> bytes:
    """Sort the metadata of a file, which safetensors writes in any order: equal states then give equal bytes."""
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:start])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    words = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    words += b" " * (-len(words) % 8)
    return len(words).to_bytes(8, "little") + words + content[start:]


def _checksum(tensors: dict[str, Tensor], metadata: dict[str, str]) -> str:
    """SHA-256 over everything in the file: safetensors itself notices a short file, not a changed one."""
    digest = hashlib.sha256(repr(sorted(metadata.items())).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
