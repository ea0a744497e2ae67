"""The K-gon of a measurement: features in the coordinates of the nearest simplex ETF of their layer, for pictures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ncollapse.measurement.kgon_sample import KgonSample
from ncollapse.measurement.measured_layers import MeasuredLayers
from ncollapse.polygon import MOST_NAMED, class_order, corners_of, named_classes, spread_evenly
from ncollapse.records.samples import MOST_LAYERS, Array, EpochSamples, SampleHeader, Samples
from ncollapse.statistics.centers import ClassCenters

# Class means that are spread less than this in a direction, relative to the largest spread, do not span it: float32 rounds so.
_RANK_TOLERANCE = 1e-6
_LARGEST = float(np.finfo(np.float16).max)


class NearestFrame(NamedTuple):
    """The simplex ETF nearest to the class means of a layer, and the map into its coordinates."""

    # With centered class means M̄ = P S Qᵀ of rank r, the nearest frame has the unit rows E = √(K/(K-1)) P Qᵀ, and the map
    # x ↦ (x - μ)/a Eᵀ (K-1)/K takes a times its k-th row to P Pᵀ e_k. For r = K-1 that is e_k - 1/K, which the corners of a
    # regular K-gon take to corner k. Fewer dimensions hold no such frame: E is the polar factor of rank r, and P Pᵀ e_k are the
    # images of the corners.

    left: Tensor  # P, shape (K, r)
    unit: Tensor  # Q Pᵀ √((K-1)/K), Q in the basis of the centers, shape (r', K)
    scale: float  # a, the length of the frame's rows

    @classmethod
    def of(cls, centers: ClassCenters) -> NearestFrame | None:
        """Return the frame; None if all class means coincide."""
        left, spread, right = torch.linalg.svd(centers.coordinates, full_matrices=False)
        spans = spread > _RANK_TOLERANCE * spread.amax() if len(spread) else spread.bool()
        if not bool(spans.any()):
            return None
        left = left[:, spans]
        ratio = math.sqrt((len(left) - 1) / len(left))
        unit = ratio * right[spans].T @ left.T
        return cls(left, unit, ratio * float(spread[spans].sum()) / left.shape[1])


class _Layer(NamedTuple):
    """One layer of an epoch: the dimensions that its means span, and what is drawn; nan where its class means coincide."""

    spanned: int
    points: Tensor
    means: Tensor
    corners: Tensor
    spokes: Tensor


def add_kgon(earlier: Samples | None, measurement: MeasuredLayers, epoch: int, *, names: Sequence[str] = ()) -> Samples | None:
    """Add the sample of a measurement to those of a run; those of others are dropped, and later ones once it is full."""
    counts = next(iter(measurement.statistics.values())).moments.counts
    present = (counts > 0).nonzero().flatten()
    if len(present) < 2:
        return earlier
    header = _header(measurement, counts, names)
    centers = [_centers(measurement, name, present) for name in header.layers]
    if earlier is not None and not header.fits(earlier.header):
        earlier = None
    if earlier is not None and earlier.is_full:
        return earlier
    if len(present) > MOST_NAMED:
        header = replace(header, order=_many_classes(centers[-1], header.counts) if earlier is None else earlier.header.order)
    # Where a class has no samples, nothing was kept but the means.
    sample = None if header.absent else measurement.sample
    circle = torch.as_tensor(corners_of(header.order)) if header.order else torch.eye(len(present), dtype=torch.float64)
    found = [
        _layer(own, circle, _rows_of(measurement, name, sample), _weight(measurement, name, present))
        for name, own in zip(header.layers, centers, strict=True)
    ]
    drawn = _epoch(found, sample, header)
    return Samples(header, {} if earlier is None else earlier.epochs).with_epoch(epoch, drawn)


def _many_classes(last: ClassCenters, counts: Sequence[int]) -> tuple[int, ...]:
    return tuple(spread_evenly(class_order(last.coordinates.numpy()), named_classes(counts)))


def _header(measurement: MeasuredLayers, counts: Tensor, names: Sequence[str]) -> SampleHeader:
    last = len(measurement.layers) - 1
    stops = min(MOST_LAYERS, last + 1)
    depths = sorted({round(i * last / max(1, stops - 1)) for i in range(stops)})
    layers = tuple(measurement.layers[depth] for depth in depths)
    feeding = [i for i, name in enumerate(layers) if measurement.statistics[name].classifier is not None]
    sizes = dict(zip(measurement.classes, counts.tolist(), strict=True))
    present = [label for label, size in sizes.items() if size]
    absent = tuple(label for label, size in sizes.items() if not size)
    has_paths = measurement.sample is not None and measurement.sample.paths is not None and not absent
    return SampleHeader(
        layers=layers,
        depths=tuple(depths),
        path=measurement.path_layers if has_paths else (),
        classifier=feeding[-1] if feeding else None,
        classes=tuple(present),
        counts=tuple(sizes[label] for label in present),
        names=tuple(names[label] for label in present) if names else (),
        absent=absent,
    )


def _centers(measurement: MeasuredLayers, name: str, present: Tensor) -> ClassCenters:
    statistics = measurement.statistics[name]
    own = statistics.centers
    return own if own is not None else ClassCenters.from_moments(statistics.moments.select(present))


def _rows_of(measurement: MeasuredLayers, name: str, sample: KgonSample | None) -> Tensor | None:
    """Return the sample's coordinates at a layer."""
    if sample is None:
        return None
    sizes = {other: s.centers.basis.shape[1] for other, s in measurement.statistics.items() if s.centers is not None}
    return dict(zip(sizes, sample.coordinates.split(list(sizes.values()), dim=1), strict=True))[name]


def _weight(measurement: MeasuredLayers, name: str, present: Tensor) -> Tensor | None:
    classifier = measurement.statistics[name].classifier
    return None if classifier is None else classifier.weight[present]


def _layer(centers: ClassCenters, circle: Tensor, rows: Tensor | None, weight: Tensor | None) -> _Layer:
    """Map one layer into the plane, or into the frame where ``circle`` is the identity."""
    frame = NearestFrame.of(centers)
    rows = centers.coordinates[:0] if rows is None else rows
    if frame is None:
        undefined = torch.full_like(circle, math.nan)
        return _Layer(0, undefined[:1].expand(len(rows), -1), undefined, undefined, undefined)
    onto = frame.unit @ circle
    spokes = torch.full_like(circle, math.nan)
    if weight is not None:
        # Such that the rows of an ETF, whatever its scale, end at its corners.
        centered = weight - weight.mean(dim=0)
        spokes = centered @ centers.basis @ onto * math.sqrt(len(weight)) / torch.linalg.norm(centered)
    return _Layer(
        spanned=frame.left.shape[1],
        points=rows @ onto / frame.scale,
        means=centers.coordinates @ onto / frame.scale,
        corners=frame.left @ (frame.left.T @ circle),
        spokes=spokes,
    )


def _epoch(layers: Sequence[_Layer], sample: KgonSample | None, header: SampleHeader) -> EpochSamples:
    zeros = torch.zeros(0, dtype=torch.int64)
    n = len(zeros if sample is None else sample.labels)
    paths = sample.paths if sample is not None and header.path else None
    spokes = torch.zeros(0, len(header.classes), header.width)
    return EpochSamples(
        labels=(zeros if sample is None else sample.labels).numpy(),
        indices=(zeros if sample is None else sample.indices).numpy(),
        ranks=np.array([layer.spanned for layer in layers], dtype=np.int64),
        points=_short(torch.stack([layer.points for layer in layers])),
        means=_short(torch.stack([layer.means for layer in layers])),
        corners=_short(torch.stack([layer.corners for layer in layers])),
        spokes=_short(spokes if header.classifier is None else layers[header.classifier].spokes[None]),
        paths=_short(torch.zeros(n, 0, 2) if paths is None else paths),
    )


def _short(values: Tensor) -> Array:
    """Half precision is a thousandth of the radius, less than a dot; what is beyond its range is far outside of any picture."""
    return values.double().clamp(-_LARGEST, _LARGEST).numpy().astype(np.float16)
