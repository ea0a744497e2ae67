"""The additions of a measurement along the paths of the samples."""

from __future__ import annotations

from dataclasses import dataclass

from ncollapse.depth.class_arcs import ClassArcs
from ncollapse.depth.geodesic import GeodesicCurve, LineDecisions
from ncollapse.depth.path import PathStatistics


@dataclass(frozen=True, eq=False)
class Paths:
    """The additions of ``path=True`` to a measurement; path, line and arcs are None if a stream exceeded its budget."""

    layers: tuple[str, ...]
    geodesic: GeodesicCurve
    path: PathStatistics | None
    line: LineDecisions | None
    arcs: ClassArcs | None

    def __repr__(self) -> str:
        through = (
            f"{len(self.layers)} layers from {self.layers[0]!r} to {self.layers[-1]!r}" if self.layers else "the line alone"
        )
        return f"Paths({through})"
