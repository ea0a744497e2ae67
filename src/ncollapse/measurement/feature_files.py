"""The feature store: a folder with the features of all samples in shards, and ``features.json``, which is written last."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from ncollapse.records import file_names
from ncollapse.records.bounded import UnfitFileError, read_at_most
from ncollapse.records.errors import ReportError, RunDirectoryError
from ncollapse.records.files import leftovers, remove_leftovers, write_whole
from ncollapse.records.json_files import decode, fail, read_bytes
from ncollapse.records.manifest import Mark, is_sealed, mark_of, sealed
from ncollapse.version import __version__

FORMAT = 1
# A shard is written when all its layers have so many bytes. A reader holds two shards and reads a third.
SHARD_BYTES = 2**25
# Of one file, far above what is written: a shard is read as a whole.
_MOST_BYTES = 2**32
# Bytes of a file besides its numbers.
_MOST_HEADER = 2**16
_DTYPES = {"F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32, "F64": torch.float64}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}
_CLASSIFIER = "classifier.safetensors"
_OURS = re.compile(r"(labels|layer-[0-9]+)-[0-9]+\.safetensors|classifier\.safetensors")
_COLLECT = "Collect the features again, into an empty folder."
Numbers = dict[str, Tensor]


@dataclass(frozen=True)
class StoredLayer:
    """A layer: its name, its number of features, their type in the words of safetensors, and its shards."""

    name: str
    dim: int
    dtype: str
    shards: tuple[Mark, ...]


@dataclass(frozen=True)
class StoredClassifier:
    """The classifier, and the layer that feeds it."""

    layer: str
    file: Mark


@dataclass(frozen=True)
class StoreManifest:
    """The whole file ``features.json``."""

    format: int  # of the store
    num_classes: int  # K
    rows: tuple[int, ...]  # samples of each shard
    labels: tuple[Mark, ...]  # the shards of the labels
    layers: tuple[StoredLayer, ...]  # in order of depth
    digest: str  # SHA-256 of the rest of this file
    choices: bool = False  # whether the shards of the labels also hold the classes that the network chose
    classifier: StoredClassifier | None = None  # None if it is not known
    version: str = ""  # of the library that wrote it, where it was this one


def label_file(shard: int) -> str:
    """Return the name of a shard of labels."""
    return f"labels-{shard:05}.safetensors"


def layer_file(layer: int, shard: int) -> str:
    """Return the name of a layer's shard."""
    return f"layer-{layer:03}-{shard:05}.safetensors"


def check_free(folder: Path) -> None:
    """Check that a folder is empty, or holds a store that was never finished, and remove that."""
    if (folder / file_names.FEATURES).exists():
        raise RunDirectoryError(f"{folder} must be free for a feature store, it holds one. Choose another folder or delete it.")
    found = {path for path in folder.iterdir() if path.name != file_names.LOCK} - {*leftovers(folder)}
    others = sorted(path.name for path in found if not _OURS.fullmatch(path.name))
    if others:
        raise RunDirectoryError(f"{folder} must be empty for a feature store, it holds {others[0]!r}. Choose another folder.")
    remove_leftovers(folder)
    for path in found:
        path.unlink()


@dataclass(eq=False)
class FeatureWriter:
    """Writes a store batch by batch."""

    folder: Path
    num_classes: int
    rows: list[int] = field(default_factory=list)
    labels: list[Mark] = field(default_factory=list)
    shards: dict[str, list[Mark]] = field(default_factory=dict)
    kinds: dict[str, tuple[int, torch.dtype]] = field(default_factory=dict)
    waiting: list[tuple[Mapping[str, Tensor], Numbers]] = field(default_factory=list)
    size: int = 0
    choices: bool = False

    def add(self, features: Mapping[str, Tensor], labels: Tensor, choices: Tensor | None) -> None:
        """Add the features of one batch, and write a shard if enough came together."""
        kinds = {name: (layer.shape[1], layer.dtype) for name, layer in features.items()}
        self.kinds = self.kinds or kinds
        if kinds != self.kinds:
            raise ValueError(
                f"Layers must have as many features in all batches, of one type, got {self.kinds} first and {kinds} in a later "
                "batch. Feed inputs of one size, or tap a pooled layer."
            )
        if unknown := {dtype for _, dtype in kinds.values()} - {*_NAMES}:
            raise TypeError(f"Features to store must be of {', '.join(map(str, _NAMES))}, got {unknown.pop()}. Convert them.")
        self.waiting.append((features, {"labels": labels} | ({} if choices is None else {"choices": choices.long()})))
        self.size += sum(layer.numel() * layer.element_size() for layer in features.values())
        if self.size >= SHARD_BYTES:
            self._write_shard()

    def finish(self, classifier: tuple[str, Numbers] | None) -> None:
        """Write the rest, the classifier of a layer, and the manifest."""
        self._write_shard()
        stored = None
        if classifier is not None:
            stored = StoredClassifier(classifier[0], self._write(_CLASSIFIER, classifier[1]))
        layers = tuple(
            StoredLayer(name, dim, _NAMES[dtype], tuple(self.shards[name])) for name, (dim, dtype) in self.kinds.items()
        )
        manifest = StoreManifest(
            FORMAT, self.num_classes, tuple(self.rows), tuple(self.labels), layers, "", self.choices, stored, __version__
        )
        write_whole(self.folder / file_names.FEATURES, sealed(manifest))

    def _write_shard(self) -> None:
        if not self.waiting:
            return
        shard, first = len(self.rows), self.waiting[0][1]
        self.choices = "choices" in first
        beside = {name: torch.cat([numbers[name] for _, numbers in self.waiting]) for name in first}
        self.labels.append(self._write(label_file(shard), beside))
        for index, name in enumerate(self.kinds):
            joined = torch.cat([features[name] for features, _ in self.waiting])
            self.shards.setdefault(name, []).append(self._write(layer_file(index, shard), {"features": joined}))
        self.rows.append(len(beside["labels"]))
        self.waiting, self.size = [], 0

    def _write(self, name: str, tensors: Numbers) -> Mark:
        content = save({key: tensor.contiguous() for key, tensor in tensors.items()})
        write_whole(self.folder / name, content)
        return mark_of(content)


class FeatureFiles:
    """A finished store, whose files are compared with the manifest when they are read."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.file = folder, folder / file_names.FEATURES
        if not folder.is_dir():
            raise ReportError(
                f"{folder}: needed the folder of a feature store, found {'a file' if folder.exists() else 'nothing'}."
            )
        content = read_bytes(self.file, f"The collection was never finished, or this is no feature store. {_COLLECT}")
        self.manifest = manifest = decode(self.file, content, StoreManifest, _COLLECT)
        if not is_sealed(content, manifest.digest):
            self._refuse(self.file, "was changed after it was written")
        if manifest.format > FORMAT:
            fail(self.file, f"must have format {FORMAT} at most, has {manifest.format}", "Update ncollapse.")
        if wrong := _misfit(manifest):
            self._refuse(self.file, wrong)
        known = {label_file(shard) for shard in range(len(manifest.rows))} | {_CLASSIFIER}
        known |= {layer_file(index, shard) for index in range(len(manifest.layers)) for shard in range(len(manifest.rows))}
        for path in sorted(folder.glob("*.safetensors")):
            if path.name not in known or (path.name == _CLASSIFIER and manifest.classifier is None):
                fail(path, f"is no file of this store ({file_names.FEATURES} does not list it)", "Move it away.")

    def labels(self, shard: int) -> Numbers:
        """Read the labels of a shard, and the classes that the network chose."""
        rows, names = (self.manifest.rows[shard],), ("labels", "choices") if self.manifest.choices else ("labels",)
        wanted = {name: (torch.int64, rows) for name in names}
        return self._read(label_file(shard), self.manifest.labels[shard], wanted)

    def features(self, layer: int, shard: int) -> Tensor:
        """Read a layer's features of a shard."""
        stored = self.manifest.layers[layer]
        wanted = {"features": (_DTYPES[stored.dtype], (self.manifest.rows[shard], stored.dim))}
        return self._read(layer_file(layer, shard), stored.shards[shard], wanted)["features"]

    def classifier(self) -> tuple[str, tuple[Tensor, Tensor | None]] | None:
        """Read the classifier, weight (K, d) and bias (K,) or None, and the layer that feeds it; None if there is none."""
        stored = self.manifest.classifier
        if stored is None:
            return None
        found = self._read(_CLASSIFIER, stored.file, None)
        if "weight" not in found or found.keys() - {"weight", "bias"}:
            self._refuse(self.folder / _CLASSIFIER, f"needed weight and bias, found {', '.join(found)[:80]}")
        return stored.layer, (found["weight"], found.get("bias"))

    def _read(self, name: str, mark: Mark, wanted: Mapping[str, tuple[torch.dtype, tuple[int, ...]]] | None) -> Numbers:
        """Read and check a file of tensors of known types and shapes; None where these are checked elsewhere."""
        file = self.folder / name
        try:
            content = read_at_most(file, min(mark.size, _MOST_BYTES), follow=False)
        except FileNotFoundError:
            self._refuse(file, "is missing")
        except UnfitFileError as error:
            self._refuse(file, str(error))
        if mark_of(content) != mark:
            self._refuse(file, "was changed or cut off after it was written")
        try:
            found = load(content)
        except (SafetensorError, ValueError, KeyError, RuntimeError, AttributeError) as error:
            self._refuse(file, f"is no safetensors file ({type(error).__name__})")
        for key, (dtype, shape) in {} if wanted is None else wanted.items():
            if key not in found or found[key].dtype != dtype or found[key].shape != shape:
                got = f"{found[key].dtype} of {tuple(found[key].shape)}" if key in found else "nothing"
                self._refuse(file, f"needed {key!r} as {dtype} of {shape}, got {got}")
        if wanted is not None and found.keys() - wanted:
            self._refuse(file, f"needed {', '.join(wanted)} alone, got {len(found)} tensors")
        return found

    def _refuse(self, file: Path, what: str) -> NoReturn:
        fail(file, what, _COLLECT)


def _misfit(manifest: StoreManifest) -> str:
    """Say which part of a manifest contradicts the others."""
    names = [layer.name for layer in manifest.layers]
    count, sizes = len(manifest.rows), manifest.rows + tuple(layer.dim for layer in manifest.layers)
    if not names or len({*names}) < len(names):
        return "its layers are none, or not distinct"
    if not count or min(sizes) < 1 or manifest.num_classes < 1:
        return "its numbers of rows, features and classes must be at least 1"
    if any(len(shards) != count for shards in (manifest.labels, *(layer.shards for layer in manifest.layers))):
        return f"needed {count} shards of the labels and of every layer"
    if unknown := sorted({layer.dtype for layer in manifest.layers} - {*_DTYPES}):
        return f"needed a type of {', '.join(_DTYPES)}, found {unknown[0][:20]!r}"
    if manifest.classifier is not None and manifest.classifier.layer not in names:
        return "its classifier belongs to no layer"
    return _misfit_of_sizes(manifest)


def _misfit_of_sizes(manifest: StoreManifest) -> str:
    """Say which file would be too large or too small, before any is read."""
    bytes_of = [(layer.dim * _DTYPES[layer.dtype].itemsize, layer.shards) for layer in manifest.layers]
    for width, shards in ((8 + 8 * manifest.choices, manifest.labels), *bytes_of):
        for rows, mark in zip(manifest.rows, shards, strict=True):
            if not rows * width < mark.size <= min(rows * width + _MOST_HEADER, _MOST_BYTES):
                return f"a shard of {rows} rows of {width} bytes cannot have {mark.size} bytes"
    return ""
