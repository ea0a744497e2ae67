"""Weights in files as people write them: the state dict in what ``torch.save`` wrote, under the names of a model."""

from __future__ import annotations

import json
import pickle
import re
import zipfile
from collections.abc import Iterable, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ncollapse.records.bounded import UnfitFileError, open_regular, read_at_most

# Where training scripts put the state dict.
_STATE_KEYS = ("state_dict", "model_state_dict", "model", "net", "network", "weights", "params", "module", "checkpoint")
# Bytes of an index; that of a network with a hundred thousand tensors has fewer.
_MOST_INDEX = 1 << 25
# What data parallelism, compiling and sharding put into names.
_WRAPPERS = ("module", "_orig_mod", "_fsdp_wrapped_module")


class CheckpointError(ValueError):
    """A checkpoint is damaged, or belongs to another recipe or model."""


class _Unread:
    """Stands for an object of another class beside the weights: nothing of it is built, and no code of the file runs."""

    def __new__(cls, *args: Any, **kwargs: Any) -> _Unread:
        return object.__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass

    def __setitem__(self, key: Any, value: Any) -> None:
        pass


def check_file(path: Path) -> None:
    """Check a file of weights before a library reads it: a pipe would block, and an archive may hold more than its size."""
    try:
        with open_regular(path) as file:
            size = file.seek(0, 2)
            # safetensors and older files of torch.save begin otherwise.
            file.seek(0)
            if file.read(4) != b"PK\3\4":
                return
            with zipfile.ZipFile(file) as archive:
                entries = archive.infolist()
    except UnfitFileError as error:
        raise CheckpointError(f"{path}: {error}. Name the file of the weights itself.") from error
    except (zipfile.BadZipFile, ValueError, OSError, NotImplementedError, EOFError):
        # PyTorch has a better word for a damaged archive.
        return
    # torch.save compresses nothing, so that each byte in memory is one of the file. torch.load would inflate whatever is there.
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries) or sum(entry.file_size for entry in entries) > size:
        raise CheckpointError(
            f"{path} must be an archive as torch.save writes it, without compression, got one that unpacks to "
            f"{sum(entry.file_size for entry in entries)} bytes from {size}. Save model.state_dict() again with torch.save."
        )


def read_torch_file(path: Path, names: Mapping[str, Tensor], unsafe_pickle: bool) -> tuple[dict[str, Tensor], str]:
    """Return the weights in a file of ``torch.save`` by the names of a model, and where they were found, in words."""
    try:
        content = _loaded(path, unsafe_pickle)
    except pickle.UnpicklingError as error:
        raise CheckpointError(_refused(path, _plain(error))) from error
    except Exception as error:  # damaged bytes can make a reader raise anything
        raise CheckpointError(
            f"{path} must be a file of a state dict, by safetensors or torch.save, got neither or a damaged one "
            f"({_plain(error)}). Save model.state_dict() again."
        ) from error
    if isinstance(content, _Unread):
        raise CheckpointError(_refused(path, "the file holds one object"))
    try:
        key, found = _state_dict(path, content.state_dict() if isinstance(content, nn.Module) else content)
    except RecursionError as error:
        raise CheckpointError(
            f"{path} must hold a state dict of tensors, got mappings without an end. Save it again."
        ) from error
    prefix, weights = named_as(path, found, names)
    beside = ", ".join(_further_weights(content, key, len(found)))
    where = f"weights under {key!r}" + (f", not those under {beside}" if beside else "")
    notes = [where if key else "", f"prefix {prefix!r} dropped" if prefix else ""]
    return weights, ", ".join(filter(None, notes))


def _loaded(path: Path, unsafe_pickle: bool) -> Any:
    if unsafe_pickle:
        return torch.load(path, map_location="cpu", weights_only=False)
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        unknown = _unknown_classes(path)
        if not unknown:
            raise error
    # Each class that is not of PyTorch gets a stand-in of its own name.
    with torch.serialization.safe_globals([(type("Unread", (_Unread,), {}), name) for name in unknown]):
        return torch.load(path, map_location="cpu", weights_only=True)


def _unknown_classes(path: Path) -> list[str]:
    try:
        return torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except ValueError:  # not an archive of torch.save
        return []


def _refused(path: Path, how: str) -> str:
    return (
        f"{path} must hold weights alone, got other Python objects or a damaged file ({how}). Save model.state_dict(), or, if "
        "you trust who wrote it, read it with --unsafe-pickle (unsafe_pickle=True), which runs the code in it."
    )


def _plain(error: Exception) -> str:
    """Return the first line of an error without codes for terminals."""
    return re.sub(r"\x1b\[[0-9;]*m", "", str(error)).strip().partition("\n")[0] or type(error).__name__


def _state_dict(path: Path, content: object, key: str = "") -> tuple[str, dict[str, Tensor]]:
    """Return the state dict and the keys that lead to it; values beside its tensors are left out."""
    if isinstance(content, Mapping):
        for name in _STATE_KEYS:
            if _holds_tensors(content.get(name)):
                return _state_dict(path, content[name], f"{key}.{name}" if key else name)
        tensors = {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
        if tensors and not any(isinstance(value, Mapping) for value in content.values()):
            return key, tensors
    got = ", ".join(map(str, islice(content, 20))) if isinstance(content, Mapping) else type(content).__name__
    got = got or "nothing"
    raise CheckpointError(
        f"{path} must hold a state dict of tensors, got {got}. Looked for it under {', '.join(_STATE_KEYS)}. "
        "Save model.state_dict()."
    )


def _holds_tensors(value: object) -> bool:
    """Return whether a mapping holds tensors at any depth: one of settings may have the name of one of weights."""
    items = value.values() if isinstance(value, Mapping) else ()
    return any(isinstance(item, Tensor) or _holds_tensors(item) for item in items)


def _further_weights(content: Any, key: str, size: int) -> list[str]:
    """Return the keys beside that of the weights with as many tensors, such as their moving average."""
    others = {} if not key else {name: value for name, value in content.items() if name != key.partition(".")[0]}
    found = []
    for name, value in others.items():
        while isinstance(value, Mapping) and (inner := next((part for part in _STATE_KEYS if part in value), "")):
            value = value[inner]
        if isinstance(value, Mapping) and sum(isinstance(part, Tensor) for part in value.values()) >= size:
            found.append(repr(name))
    return found


def shards(path: Path) -> list[Path]:
    """Return the files of weights that are saved in parts, by their index "*.index.json"; else the file itself."""
    if not path.name.endswith(".index.json"):
        return [path]
    try:
        names = sorted(set(json.loads(read_at_most(path, _MOST_INDEX))["weight_map"].values()))
        if not names or any(Path(name).name != name for name in names):
            raise ValueError("its files must be in the same folder")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(
            f"{path} must be an index of weights in several files, with a weight_map, got another one ({_plain(error)}). Name "
            "the file of the weights itself."
        ) from error
    return [path.with_name(name) for name in names]


def in_precision_of(model: Mapping[str, Tensor], found: dict[str, Tensor]) -> tuple[dict[str, Tensor], str]:
    """Convert floating-point weights to the types of a model, as ``load_state_dict`` does, and say which types they had."""
    other = {name: value.dtype for name, value in found.items() if name in model and _differs(value.dtype, model[name].dtype)}
    words = ", ".join(sorted(str(dtype) for dtype in set(other.values())))
    converted = {name: value.to(model[name].dtype) if name in other else value for name, value in found.items()}
    return converted, f"converted from {words}" if words else ""


def _differs(stored: torch.dtype, wanted: torch.dtype) -> bool:
    return stored != wanted and stored.is_floating_point and wanted.is_floating_point


def named_as(path: Path, found: dict[str, Tensor], names: Mapping[str, Tensor]) -> tuple[str, dict[str, Tensor]]:
    """Return weights by the names of a model, and the prefix that was dropped: "model." of Lightning, "module." of wrappers."""
    if found.keys() == names.keys() or not names:
        return "", found
    plain, unwrapped = _unwrapped(names), _unwrapped(found)
    if unwrapped.keys() == plain.keys() and len(unwrapped) == len(found):
        wrappers = sorted({part for name in found for part in name.split(".") if part in _WRAPPERS})
        return ", ".join(f"{part}." for part in wrappers), {plain[name]: found[own] for name, own in unwrapped.items()}
    for wanted, candidates in (({name: name for name in names}, {name: name for name in found}), (plain, unwrapped)):
        first = next(iter(wanted))
        prefixes = [name.removesuffix(first) for name in candidates if f".{name}".endswith(f".{first}")]
        whole = [prefix for prefix in prefixes if all(prefix + name in candidates for name in wanted)]
        if len(whole) > 1:
            raise CheckpointError(
                f"{path} must hold one set of weights for the model, got several, under the prefixes "
                f"{', '.join(prefix or repr(prefix) for prefix in whole)}. Save the state dict of one of them."
            )
        if whole and whole[0]:
            return whole[0], {own: found[candidates[whole[0] + name]] for name, own in wanted.items()}
    return "", found


def _unwrapped(names: Iterable[str]) -> dict[str, str]:
    """Return names by what they are without wrappers."""
    return {".".join(part for part in name.split(".") if part not in _WRAPPERS): name for name in names}


def under_shared_names(path: Path, found: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Return weights under every name of what a model shares, such as a tied embedding: a file may hold one of the names."""
    names_of: dict[int, list[str]] = {}
    for name, tensor in (
        *model.named_parameters(remove_duplicate=False),
        *model.named_buffers(remove_duplicate=False),
    ):
        names_of.setdefault(id(tensor), []).append(name)
    saved, completed = model.state_dict().keys(), dict(found)
    for shared in names_of.values():
        names = [name for name in shared if name in saved]
        held = [found[name] for name in names if name in found]
        if any(value.dtype != held[0].dtype or not torch.equal(value, held[0]) for value in held[1:]):
            raise CheckpointError(
                f"{path} must hold the same values under {', '.join(names)}, which are one tensor of the model, got others. "
                "Build the model without sharing them."
            )
        completed |= dict.fromkeys(names, held[0]) if held else {}
    return completed


def check_fit(path: Path, saved: dict[str, Tensor], present: dict[str, Tensor]) -> None:
    """Compare names, shapes and types, so that loading can't stop half-way."""
    needed, came = ({name: _form(tensor) for name, tensor in side.items()} for side in (present, saved))
    differing = [name for name in sorted(needed.keys() | came.keys()) if needed.get(name) != came.get(name)]
    if differing:
        name = differing[0]
        more = f", and {len(differing) - 1} more differ" if len(differing) > 1 else ""
        raise CheckpointError(
            f"{path} must fit the model, which has '{name}' as {needed.get(name, 'nothing')}, got "
            f"{came.get(name, 'nothing')}{more}. "
            "Build the model with the config that the file was saved with."
        )


def _form(tensor: Tensor) -> str:
    layout = "" if tensor.layout == torch.strided else f" {tensor.layout}"
    return f"{tuple(tensor.shape)} {tensor.dtype}{layout}"
