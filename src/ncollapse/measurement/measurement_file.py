"""The file of a measurement: tensors as safetensors, and everything else as JSON in its metadata. Nothing in it is run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NoReturn

import msgspec
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from ncollapse.default_device import on_the_cpu
from ncollapse.measurement.kgon_sample import KgonSample
from ncollapse.measurement.named_tensors import NamedTensors
from ncollapse.measurement.paths import Paths
from ncollapse.metrics.layer_statistics import LayerStatistics
from ncollapse.records.errors import ReportError
from ncollapse.records.files import write_whole
from ncollapse.records.rows import Row
from ncollapse.version import __version__

# Format 1 had no sample.
_FORMAT = 2
# Ten times what a thousand layers need; as Python's objects, up to 30 times as much.
_MOST_TEXT = 1 << 24
_KEY, _DIGEST = "ncollapse.measurement", "sha256"
# JSON tells 3 from 3.0; a file that says neither is refused.
_Line = tuple[int | float | None, int | None, str, int, str, str, float, float | None, tuple[str, ...]]


@dataclass(frozen=True)
class _Header:
    """What the metadata says."""

    format: int
    version: str
    rows: tuple[_Line, ...]
    layers: tuple[str, ...]
    split: str
    num_samples: int
    num_classes: int
    num_labels: int
    classes: tuple[int, ...]
    convention: str
    passes: int
    kept_bytes: int
    chosen: str
    shown: tuple[str, ...]
    has_paths: bool
    transposed: list[str]
    words: dict[str, str | bool | tuple[str, ...]]
    objects: list[str]
    same: dict[str, str]
    has_sample: bool = False


def write_measurement_file(file: Path, values: Mapping[str, Any]) -> None:
    """Write the fields of a measurement, whole or not at all, into a folder made if need be."""
    entries = dict(values)
    statistics, paths, sample = entries.pop("statistics"), entries.pop("paths"), entries.pop("sample")
    parts = {f"layers.{depth}": layer for depth, layer in enumerate(statistics.values())}
    parts |= {name: value for name, value in (("paths", paths), ("sample", sample)) if value is not None}
    named = NamedTensors().add(parts)
    tensors = _apart(named.tensors)
    rest = {name: value for name, value in asdict(_without_tensors(named)).items() if name != "tensors"}
    header = {"format": _FORMAT, "version": __version__, **entries, "has_paths": paths is not None, **rest}
    header["has_sample"] = sample is not None
    text = json.dumps(header)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_whole(file, save(tensors, {_KEY: text, _DIGEST: _digest(text, tensors)}))


@on_the_cpu
def read_measurement_file(file: Path) -> dict[str, Any]:
    """Read the fields of a measurement, and check that they fit together."""
    if not file.is_file():
        raise FileNotFoundError(
            f"{file}: needed the file of a measurement, found {'a folder' if file.exists() else 'nothing'}."
        )
    text, tensors = _read(file)
    header = _header(file, text)
    named = NamedTensors(tensors, header.transposed, header.words, header.objects, header.same)
    kinds: dict[str, Any] = {f"layers.{depth}": LayerStatistics for depth in range(len(header.layers))}
    try:
        kinds |= {"paths": Paths} if header.has_paths else {}
        kinds |= {"sample": KgonSample} if header.has_sample else {}
        parts = named.read(kinds, header.num_classes)
    except (ValueError, RecursionError) as error:
        _refuse(file, str(error))
    paths, sample = parts.pop("paths", None), parts.pop("sample", None)
    _check_agreement(file, header, paths)
    _check_sample(file, header, parts, sample)
    taken = ("layers", "split", "num_samples", "num_classes", "num_labels", "classes", "convention", "passes", "kept_bytes")
    return {
        **{name: getattr(header, name) for name in (*taken, "chosen", "shown")},
        "rows": tuple(Row(*line) for line in header.rows),
        "statistics": dict(zip(header.layers, parts.values(), strict=True)),
        "paths": paths,
        "sample": sample,
    }


def _without_tensors(named: NamedTensors) -> NamedTensors:
    return NamedTensors({}, named.transposed, named.words, named.objects, named.same)


def _apart(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copy tensors that share their memory with an earlier one, which the format does not allow."""
    seen: set[int] = set()
    found = {}
    for name, tensor in tensors.items():
        found[name] = tensor.clone() if tensor.untyped_storage().data_ptr() in seen else tensor
        seen.add(tensor.untyped_storage().data_ptr())
    return found


def _digest(text: str, tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        digest.update(f"{name} {tensors[name].dtype} {tuple(tensors[name].shape)}".encode())
        digest.update(tensors[name].reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _read(file: Path) -> tuple[str, dict[str, Tensor]]:
    try:
        with safe_open(file, framework="pt") as content:
            metadata = content.metadata() or {}
            if _KEY not in metadata:
                raise ReportError(f"{file}: needed the file of a measurement, found other tensors. Write it with m.save(path).")
            tensors = {name: content.get_tensor(name) for name in content.keys()}
    except (
        SafetensorError,
        RuntimeError,
        AttributeError,
    ) as error:  # also of a size that cannot be mapped, a type unknown here
        _refuse(file, f"not a safetensors file, or cut off: {error}")
    if metadata.get(_DIGEST) != _digest(metadata[_KEY], tensors):
        _refuse(file, "its content does not match its checksum")
    return metadata[_KEY], tensors


def _header(file: Path, text: str) -> _Header:
    if len(text) > _MOST_TEXT:
        _refuse(file, f"more than {_MOST_TEXT} characters of metadata")
    try:
        entries = json.loads(text)
        found = entries.get("format") if isinstance(entries, dict) else None
        if isinstance(found, int) and found > _FORMAT:
            raise ReportError(
                f"{file}: needed a measurement of format {_FORMAT} at most, found {found}, written by ncollapse "
                f"{str(entries.get('version'))[:20]}. Update ncollapse."
            )
        return msgspec.convert(entries, _Header)
    except (json.JSONDecodeError, msgspec.ValidationError, RecursionError) as error:
        _refuse(file, str(error))


def _check_agreement(file: Path, header: _Header, paths: Paths | None) -> None:
    """Check that what the metadata says of layers and classes fits together."""
    if len(set(header.layers)) != len(header.layers) or not header.layers:
        _refuse(file, "its layers are none, or not distinct")
    if any(not 0 <= line[3] < len(header.layers) or header.layers[line[3]] != line[4] for line in header.rows):
        _refuse(file, "a row belongs to no layer")
    if len(header.classes) != header.num_classes or not all(0 <= k < header.num_labels for k in header.classes):
        _refuse(file, "its classes do not match their number")
    if paths is not None and not {*paths.layers} <= {*header.layers}:
        _refuse(file, "its paths run through unknown layers")


def _check_sample(file: Path, header: _Header, layers: Mapping[str, LayerStatistics], sample: KgonSample | None) -> None:
    """Check that the sample has coordinates in the basis of every layer, and classes that are measured."""
    if sample is None:
        return
    width = sum(layer.centers.basis.shape[1] for layer in layers.values() if layer.centers is not None)
    if sample.coordinates.shape[1] != width or bool(((sample.labels < 0) | (sample.labels >= header.num_classes)).any()):
        _refuse(file, "its sample does not match its layers and classes")


def _refuse(file: Path, why: str) -> NoReturn:
    raise ReportError(f"{file}: needed the file of a measurement, found a damaged one ({why}). Measure and save it again.")
