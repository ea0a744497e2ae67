"""``samples.safetensors``: the few samples of a run that pictures show, at every measured epoch. Plain numbers, no torch.

Features lie in the coordinates of the nearest simplex ETF of their layer, one number for each class k, the corners of the K-gon
(docs/theory.md, 1.6): at collapse the mean of class k is 1 - 1/K there and -1/K elsewhere. A picture places every point at the
sum of the polygon's corners times its numbers, so the order of the classes around the polygon is left to the reader. Of more
than 20 classes a number for each would be too much: their order is fixed by the first measured epoch, and the file holds the
two coordinates of the picture.
"""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Self

import msgspec
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from ncollapse.records.json_files import NOT_OURS, Read, fail, read_bytes

FORMAT = 1
# So many layers are kept, at equal distances: what fits on a page side by side.
MOST_LAYERS = 12
_KEY = "ncollapse.samples"
# The file is written anew with every save, and what a reader would refuse must not be written: once it holds so much, later
# epochs are left out.
FULL_BYTES, FULL_EPOCHS = 1 << 26, 5000
# Of a thousand epochs it has a megabyte; as Python's objects, up to 30 times as much.
_MOST_HEADER = 1 << 23
# As it is written: no other digits, signs or zeros, so that no two names mean one epoch.
_EPOCH = re.compile(r"0|[1-9][0-9]{0,17}")
_COORDINATES = ("points", "means", "corners", "spokes", "paths")
# The bits of an infinite float16 without its sign; those of nan are more.
_INFINITE = 0x7C00
Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class SampleHeader:
    """What all epochs have in common."""

    layers: tuple[str, ...]  # names of the kept layers, in order of depth
    depths: tuple[int, ...]  # their depths among all measured layers
    path: tuple[str, ...]  # names of the layers of the samples' paths; none if they were not followed
    classifier: int | None  # place in `layers` of the one that feeds the classifier; None if it is not known
    classes: tuple[int, ...]  # the classes with samples, as labels number them
    counts: tuple[int, ...]  # their numbers of samples
    names: tuple[str, ...] = ()  # their names, where known
    # The classes by their place on the circle, if the file holds coordinates of the picture; else none.
    order: tuple[int, ...] = ()
    absent: tuple[int, ...] = ()  # measured classes without samples, which are left out

    @property
    def width(self) -> int:
        """The numbers that the file holds for each point."""
        return 2 if self.order else len(self.classes)

    def fits(self, other: Self) -> bool:
        """Whether two epochs can be shown one after the other; the numbers of samples may differ, as of a loader that draws."""
        return replace(self, counts=(), names=(), order=()) == replace(other, counts=(), names=(), order=())


@dataclass(frozen=True, eq=False)
class EpochSamples:
    """One measured epoch; nan in layers without a picture."""

    labels: Array  # place of each sample's class in `classes`, (n,), int64
    indices: Array  # place of each sample in the order of the loader, (n,), int64
    ranks: Array  # dimensions that the class means of each layer span, (L,), int64; 0 if they coincide
    points: Array  # the samples, (L, n, width), float16
    means: Array  # the class means, (L, K, width), float16
    # The corners of the nearest frame, or their images where fewer than K-1 dimensions are spanned; like `means`.
    corners: Array
    spokes: Array  # the classifier's rows, (1, K, width), float16; (0, K, width) if it is not known
    paths: Array  # the samples' paths in their own planes, (n, layers of the path, 2), float16


@dataclass(frozen=True, eq=False)
class Samples:
    """The whole file."""

    header: SampleHeader
    epochs: dict[int, EpochSamples] = field(default_factory=dict)

    @property
    def is_full(self) -> bool:
        """Whether no more epochs are to be added."""
        size = sum(getattr(found, part.name).nbytes for found in self.epochs.values() for part in fields(EpochSamples))
        return size >= FULL_BYTES or len(self.epochs) >= FULL_EPOCHS

    def with_epoch(self, epoch: int, added: EpochSamples) -> Self:
        """Return these samples with one more epoch, or with one replaced."""
        return replace(self, epochs=dict(sorted({**self.epochs, epoch: added}.items())))

    def of_epochs(self, is_kept: Callable[[int], bool]) -> Self | None:
        """Return the samples of some epochs; None if there are none."""
        kept = {epoch: found for epoch, found in self.epochs.items() if is_kept(epoch)}
        return replace(self, epochs=kept) if kept else None


def samples_content(samples: Samples) -> bytes:
    """Write the content of the file."""
    tensors = {
        f"{epoch}.{item.name}": np.ascontiguousarray(getattr(found, item.name))
        for epoch, found in samples.epochs.items()
        for item in fields(EpochSamples)
    }
    # One entry: the format keeps several in no fixed order.
    return save(tensors, {_KEY: json.dumps({"format": FORMAT, **asdict(samples.header)})})


def read_samples(file: Path, read: Read = read_bytes) -> Samples:
    """Read the file, and check that its parts fit together."""
    content = read(file, "Measure again.")
    length = int.from_bytes(content[:8], "little")
    if length > _MOST_HEADER:
        fail(file, f"needed the samples of a run, with a header of at most {_MOST_HEADER} bytes, found {length}", NOT_OURS)
    try:
        metadata = json.loads(content[8 : 8 + length])["__metadata__"]
        entries = json.loads(metadata[_KEY])
        tensors = load(content)
    except (SafetensorError, ValueError, KeyError, TypeError, RecursionError) as error:
        fail(file, f"needed the samples of a run, found another file or a damaged one ({type(error).__name__})")
    if not isinstance(entries, dict) or entries.get("format") != FORMAT:
        fail(file, f"needed format {FORMAT}, found {str(entries)[:20]}", "Update ncollapse.")
    try:
        header = msgspec.convert(entries, SampleHeader)
    except msgspec.ValidationError as error:
        fail(file, str(error))
    _check_header(file, header)
    epochs = _epochs(file, header, tensors)
    if not epochs:
        fail(file, "it holds no epoch")
    return Samples(header, epochs)


def _check_header(file: Path, header: SampleHeader) -> None:
    num_layers, num_classes = len(header.layers), len(header.classes)
    is_whole = (
        1 <= num_layers == len(header.depths)
        and 2 <= num_classes == len(header.counts)
        and len(header.names) in {0, num_classes}
        and (header.classifier is None or 0 <= header.classifier < num_layers)
        and sorted(header.order) in ([], list(range(num_classes)))
        and min(*header.counts, *header.depths) >= 0
        and len({*header.classes}) == num_classes
    )
    if not is_whole:
        fail(file, "its layers, classes and names do not fit together")


def _epochs(file: Path, header: SampleHeader, tensors: Mapping[str, Array]) -> dict[int, EpochSamples]:
    by_epoch: dict[int, dict[str, Array]] = {}
    for name, tensor in tensors.items():
        epoch, _, part = name.partition(".")
        if not _EPOCH.fullmatch(epoch):
            fail(file, f"{name[:40]!r} belongs to no epoch")
        by_epoch.setdefault(int(epoch), {})[part] = tensor
    return {epoch: _epoch(file, epoch, header, parts) for epoch, parts in sorted(by_epoch.items())}


def _epoch(file: Path, epoch: int, header: SampleHeader, parts: Mapping[str, Array]) -> EpochSamples:
    num_layers, num_classes, width = len(header.layers), len(header.classes), header.width
    n = len(parts["labels"]) if "labels" in parts and parts["labels"].ndim == 1 else 0
    num_spokes = 0 if header.classifier is None else 1
    shapes = {
        "labels": (np.int64, (n,)),
        "indices": (np.int64, (n,)),
        "ranks": (np.int64, (num_layers,)),
        "points": (np.float16, (num_layers, n, width)),
        "means": (np.float16, (num_layers, num_classes, width)),
        "corners": (np.float16, (num_layers, num_classes, width)),
        "spokes": (np.float16, (num_spokes, num_classes, width)),
        "paths": (np.float16, (n, len(header.path), 2)),
    }
    for name, (kind, shape) in shapes.items():
        found = parts.get(name)
        if found is None or found.dtype != kind or found.shape != shape:
            got = "nothing" if found is None else f"{found.dtype} of {found.shape}"
            fail(file, f"{epoch}.{name} needs {np.dtype(kind)} of {shape}, got {got}")
    if parts.keys() - shapes or any(np.any((parts[name] < 0) | (parts[name] >= num_classes)) for name in ("labels", "ranks")):
        fail(file, f"epoch {epoch} has other parts, or a class that is none")
    # Where class means coincide there is no picture.
    has_picture = parts["ranks"] > 0
    # By their bits, which takes a quarter of the time of isinf and isnan.
    sizes = {name: parts[name].view(np.uint16) & 0x7FFF for name in _COORDINATES}
    if any(size.max(initial=0) >= _INFINITE for size in sizes.values()):
        is_unknown = any(np.any(sizes[name][has_picture] > _INFINITE) for name in ("points", "means", "corners"))
        if is_unknown or any(np.any(size == _INFINITE) for size in sizes.values()):
            fail(file, f"epoch {epoch} has a coordinate that is infinite or none")
    return EpochSamples(**{name: parts[name] for name in shapes})
