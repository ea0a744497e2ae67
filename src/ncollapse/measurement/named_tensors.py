"""Statistics as tensors by name, such as "layers.0.moments.means", and back, with their types and sizes checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from types import NoneType
from typing import Any, get_args, get_type_hints

import torch
from torch import Tensor

from ncollapse.depth.class_arcs import ClassArcs
from ncollapse.depth.geodesic import LineDecisions
from ncollapse.depth.path import PathStatistics
from ncollapse.measurement.kgon_sample import KgonSample
from ncollapse.statistics.centers import ClassCenters, LinearClassifier
from ncollapse.statistics.decisions import ClassDecisions, ClassifierChoices
from ncollapse.statistics.moments import ClassMoments
from ncollapse.statistics.paired import PairedMoments
from ncollapse.statistics.parts import PARTS, ClassParts
from ncollapse.statistics.scatter import ClassScatter

# The sizes of each tensor, "int" first for whole numbers. K and d are those of the layer; other letters belong to one value.
_SIZES: dict[type, dict[str, str]] = {
    ClassMoments: {"counts": "int K", "means": "K d", "scatter_traces": "K"},
    ClassCenters: {"basis": "d r", "coordinates": "K r", "separations": "K K", "first": "int K"},
    ClassDecisions: {
        **dict.fromkeys(("counts", "ncc_correct", "margin_sums", "agree", "cosine_sums", "left_out", "left_out_correct"), "K"),
        **{"within_class": "r r", "within_sample": "r r", "residual_sums": "K r"},
    },
    ClassifierChoices: {"counts": "int K", "correct": "int K"},
    LinearClassifier: {"weight": "K d", "bias": "K"},
    ClassScatter: {"scatters": "K d d"},
    PairedMoments: {"cross_traces": "K"},
    PathStatistics: {
        **{"num_samples": "int", "step_energy": "S", "spread": "", "turn_angles": "A", "turn_counts": "int A"},
        **dict.fromkeys(("from_start", "to_end", "along_chord"), "L"),
        **dict.fromkeys(("straightness", "line_shape", "turning_angle"), "N"),
    },
    LineDecisions: {"times": "T", "correct": "T", "num_samples": "int", "violating_pairs": "", "num_pairs": "int"},
    KgonSample: {"labels": "int n", "indices": "int n", "coordinates": "n R", "paths": "n P 2"},
    ClassArcs: {"lengths": "K K", "scale": "", "shifts": "K"},
}


@dataclass(eq=False)
class NamedTensors:
    """Values taken apart."""

    tensors: dict[str, Tensor] = field(default_factory=dict)  # the tensors by name, contiguous, on the CPU
    # Names of those whose transpose is kept, since their memory is laid out so.
    transposed: list[str] = field(default_factory=list)
    words: dict[str, str | bool | tuple[str, ...]] = field(default_factory=dict)  # texts and truth values by name
    objects: list[str] = field(default_factory=list)  # names of the values that are there; others are None
    # Names of values that are the same object as an earlier one, with its name.
    same: dict[str, str] = field(default_factory=dict)

    def add(self, values: Mapping[str, Any]) -> NamedTensors:
        """Take values apart, and return this object."""
        seen: dict[int, str] = {}
        for name, value in values.items():
            self._add(name, value, seen)
        return self

    def _add(self, name: str, value: Any, seen: dict[int, str]) -> None:
        if isinstance(value, Tensor):
            # A basis is kept column by column. Products with it are to be the same to the bit, so it stays laid out so.
            if not value.is_contiguous() and value.ndim == 2 and value.T.is_contiguous():
                self.transposed.append(name)
                value = value.T
            self.tensors[name] = value.cpu().contiguous()
        elif isinstance(value, str | bool) or type(value) is tuple:
            self.words[name] = value
        elif value is not None:
            if id(value) in seen:
                self.same[name] = seen[id(value)]
                return
            seen[id(value)] = name
            self.objects.append(name)
            for part in _fields_of(type(value)):
                self._add(f"{name}.{part}", getattr(value, part), seen)

    def read(self, kinds: Mapping[str, Any], num_classes: int) -> dict[str, Any]:
        """Put values of these classes together again; a ValueError says what is missing, superfluous or of another size."""
        built: dict[str, Any] = {}
        for name, kind in kinds.items():
            self._read(name, kind, {"K": num_classes}, built)
        unread = (self.tensors.keys() | self.words.keys() | {*self.objects} | self.same.keys()) - built.keys()
        if unread:
            raise ValueError(f"{min(unread)} belongs to nothing")
        return {name: built[name] for name in kinds}

    def _read(self, name: str, kind: Any, sizes: dict[str, int], built: dict[str, Any]) -> Any:
        if NoneType in get_args(kind):
            if not any(name in there for there in (self.tensors, self.words, self.objects, self.same)):
                return None
            (kind,) = (other for other in get_args(kind) if other is not NoneType)
        if name in self.same:
            value = built.get(self.same[name])
        elif kind is Tensor:
            value = self.tensors.get(name)
        elif not _is_compound(kind):
            value = self.words.get(name)
        else:
            value = self._put_together(name, kind, sizes, built) if name in self.objects else None
        wanted = kind if isinstance(kind, type) else tuple if name in self.words and kind == tuple[str, ...] else str
        if not isinstance(value, wanted):
            raise ValueError(f"{name} is missing or of another kind")
        built[name] = value
        return value

    def _put_together(self, name: str, kind: Any, sizes: dict[str, int], built: dict[str, Any]) -> Any:
        own: dict[str, int] = {}
        shared = {"K": sizes["K"] * PARTS, "d": sizes.get("d", -1)} if kind is ClassParts else sizes
        values = {}
        for part, hint in _fields_of(kind).items():
            value = self._read(f"{name}.{part}", hint, shared, built)
            if isinstance(value, Tensor) and f"{name}.{part}" in self.tensors:
                value = value.T if f"{name}.{part}" in self.transposed else value
                _check(f"{name}.{part}", value, _SIZES[kind][part].split(), shared, own)
            values[part] = value
        return kind(**values)


def _check(name: str, tensor: Tensor, sizes: list[str], shared: dict[str, int], own: dict[str, int]) -> None:
    """Check the type and the sizes of a tensor; a letter is bound where it is first met."""
    dtype = torch.int64 if sizes[:1] == ["int"] else torch.float64
    letters = [letter for letter in sizes if letter != "int"]
    fits = tensor.dtype == dtype and tensor.ndim == len(letters)
    if not fits or any(
        (shared if letter in "Kd" else own).setdefault(letter, size) != size
        for letter, size in zip(letters, tensor.shape, strict=True)
    ):
        raise ValueError(f"{name} must be {dtype} of sizes ({', '.join(letters)}), got {tensor.dtype} of {tuple(tensor.shape)}")


def _is_compound(kind: Any) -> bool:
    return is_dataclass(kind) or hasattr(kind, "_fields")


def _fields_of(kind: Any) -> dict[str, Any]:
    """Return the fields of a class by name, with their classes."""
    hints = get_type_hints(kind)
    names = [item.name for item in fields(kind)] if is_dataclass(kind) else kind._fields
    return {name: hints[name] for name in names}
