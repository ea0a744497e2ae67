"""Paths of samples through the layers: relative positions, straightness, and the energy chain, on centered features."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Literal, get_args

import torch
from torch import Tensor

from ncollapse.statistics.batch import Workspace

Position = Literal["index", "arclength", "ratio", "distance", "projection"]

# Steps shorter than this share of the path have no direction.
_STILL = 1e-12


@dataclass(frozen=True, eq=False)
class PathStatistics:
    r"""Sums over the samples' paths :math:`h_i^0, \dots, h_i^L` through layers of one dimension; merges exactly.

    Collapse is invariant to translation, but path length is not. So every layer is first centered at its own mean; otherwise a
    common drift of all samples would count as a bend. All quantities follow from the inner products of each sample's steps.

    Attributes:
        num_samples: N, 0-d.
        step_energy: :math:`\sum_i \lVert \delta_{i,l} \rVert^2` for the L steps, shape (L,).
        from_start: :math:`\sum_i \lVert h_i^l - h_i^0 \rVert^2`, shape (L+1,).
        to_end: :math:`\sum_i \lVert h_i^L - h_i^l \rVert^2`, shape (L+1,).
        along_chord: :math:`\sum_i \langle h_i^l - h_i^0, h_i^L - h_i^0 \rangle`, shape (L+1,).
        straightness: Displacement over path length of every sample, shape (N,); in [0, 1].
        line_shape: Line-shape score of every sample, shape (N,); at least 1.
        turning_angle: Mean angle between successive steps of every sample, radians, shape (N,).
        turn_angles: Sum over samples of the angle between the steps before and after each interior layer, shape (L-1,).
        turn_counts: Samples that move both before and after it, int64, shape (L-1,).
        spread: :math:`\sum_i \sum_l \lVert h_i^l - \bar h_i \rVert^2` around each path's own mean, 0-d.
    """

    num_samples: Tensor
    step_energy: Tensor
    from_start: Tensor
    to_end: Tensor
    along_chord: Tensor
    straightness: Tensor
    line_shape: Tensor
    turning_angle: Tensor
    turn_angles: Tensor
    turn_counts: Tensor
    spread: Tensor

    def __repr__(self) -> str:
        return (
            f"PathStatistics({int(self.num_samples)} samples through {len(self.from_start)} layers: "
            f"straightness {float(self.straightness.mean()):.4g}, efficiency {self.efficiency:.4g}, "
            f"chord deviation {self.chord_deviation:.4g}, r² {self.r_squared:.4g}, speed cov {self.speed_cov:.4g})"
        )

    @classmethod
    def from_batch(
        cls, layers: Sequence[Tensor], means: Sequence[Tensor] | None = None, workspace: Workspace | None = None
    ) -> PathStatistics:
        """Return the sums over one batch of paths.

        Args:
            layers: Features of the L+1 layers, each of shape (N, d).
            means: The layers' final means over all samples, each (d,); None centers at the means of this batch.
            workspace: Memory to use again for many batches; None allocates some.

        Raises:
            ValueError: If there are fewer than two layers or their shapes differ.
        """
        shapes = sorted({tuple(layer.shape) for layer in layers})
        if len(layers) < 2 or len(shapes) != 1:
            raise ValueError(
                f"A path needs at least two layers of one shape (N, d), got {len(layers)} of shapes {shapes}. "
                "Choose layers of one stage."
            )
        means = [layer.double().mean(dim=0) for layer in layers] if means is None else means
        drifts = torch.stack(list(means)).diff(dim=0)
        workspace = Workspace() if workspace is None else workspace
        blocks = [_block(layers, drifts, rows, workspace) for rows in _path_blocks(layers[0], len(layers) - 1)]
        return _merge_all(blocks)

    def merge(self, other: PathStatistics) -> PathStatistics:
        """Merge the statistics of two sets of samples; those of ``other`` come last."""
        return _merge_all([self, other])

    def position(self, kind: Position = "projection") -> list[float]:
        r"""Return the relative position t_l of every layer between the first (0) and the last (1); nan if the ends coincide.

        "index": l/L; "arclength": share of :math:`\sum_j \lVert H_{j+1} - H_j \rVert_F` before l; "ratio":
        :math:`\lVert H_l - H_0\rVert / (\lVert H_l - H_0\rVert + \lVert H_L - H_l\rVert)`; "distance":
        :math:`\lVert H_l - H_0\rVert / \lVert H_L - H_0\rVert`; "projection" (default): the least-squares
        :math:`t_l = \langle H_l - H_0, H_L - H_0\rangle / \lVert H_L - H_0\rVert^2`, which may leave [0, 1].

        Raises:
            ValueError: If the kind is unknown.

        Reference:
            Progressive feedforward collapse, arXiv 2405.00985, whose own choice is not known; docs/theory.md, 3.5.
        """
        last = len(self.from_start) - 1
        chord = self.from_start[-1]
        lengths = self.step_energy.sqrt()
        start, end = self.from_start.sqrt(), self.to_end.sqrt()
        arclength = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)]) / lengths.sum()
        positions = {
            "index": torch.arange(last + 1, dtype=torch.float64, device=chord.device) / last,
            "arclength": arclength,
            "ratio": start / (start + end),
            "distance": torch.where(chord > 0, start / chord.sqrt(), math.nan),
            "projection": self.along_chord / chord,
        }
        if kind not in positions:
            raise ValueError(f"position must be one of {', '.join(get_args(Position))}, got {kind!r}. Pick one of these.")
        return [float(t) for t in positions[kind]]

    @property
    def identity_cost(self) -> float:
        r"""Cost of the learned map, :math:`c_{id} = \frac{1}{N} \sum_i \lVert h_i^L - h_i^0 \rVert^2`."""
        return float(self.from_start[-1] / self.num_samples)

    @property
    def energy(self) -> float:
        r"""Kinetic energy with equal time steps, :math:`L \sum_l \frac{1}{N} \sum_i \lVert \delta_{i,l} \rVert^2`."""
        return float(len(self.step_energy) * self.step_energy.sum() / self.num_samples)

    def energy_at(self, times: Sequence[float]) -> float:
        r"""Return the kinetic energy if the layers are at the given times, one per layer, increasing.

        :math:`\sum_l \frac{1}{N} \sum_i \lVert \delta_{i,l} \rVert^2 / (\tau_{l+1} - \tau_l)`: ``energy`` at even times from 0
        to 1, and least, ``energy_min``, at those of arclength.

        Raises:
            ValueError: If there is not one time per layer or they do not increase.
        """
        steps = torch.as_tensor([after - before for before, after in pairwise(times)], dtype=torch.float64)
        if len(steps) != len(self.step_energy) or not bool((steps > 0).all()):
            raise ValueError(
                f"times must be {len(self.from_start)} increasing numbers, one per layer, got {list(times)}. "
                "Positions of the kinds index and arclength increase wherever the features move."
            )
        return float((self.step_energy / steps).sum() / self.num_samples)

    @property
    def energy_min(self) -> float:
        r"""Energy with the best time steps, :math:`(\sum_l (\frac{1}{N} \sum_i \lVert \delta_{i,l} \rVert^2)^{1/2})^2`."""
        return float((self.step_energy / self.num_samples).sqrt().sum() ** 2)

    @property
    def efficiency(self) -> float:
        r"""Geodesic efficiency :math:`c_{id} / \mathcal{E}` in [0, 1], 1 for straight paths of constant speed."""
        return self.identity_cost / self.energy if self.energy > 0 else math.nan

    @property
    def speed_cov(self) -> float:
        """Coefficient of variation over layers of the root-mean-square step length; 0 at constant speed."""
        speeds = self.step_energy.sqrt()
        return float(torch.std(speeds, correction=0) / speeds.mean())

    @property
    def turning_by_layer(self) -> list[float]:
        """Mean angle between the steps before and after each interior layer, radians; nan where no sample turns."""
        return [float(angle) for angle in self.turn_angles / self.turn_counts]

    @property
    def chord_deviation(self) -> float:
        r"""Largest root-mean-square distance of a layer from its projection on the chord, over the chord.

        :math:`\max_l \sqrt{\sum_i \lVert h_i^l - h_i(t_l)\rVert^2 / \sum_i \lVert h_i^L - h_i^0\rVert^2}`, t_l the projection.
        """
        return float((self._off_chord().amax() / self.from_start[-1]).sqrt())

    @property
    def r_squared(self) -> float:
        """Share of the paths' spread over layers that the chord with the common projections explains; 1 on a line."""
        return float(1 - self._off_chord().sum() / self.spread)

    def _off_chord(self) -> Tensor:
        chord = self.from_start[-1]
        return (self.from_start - self.along_chord.square() / chord).clamp(min=0)


def _path_blocks(layer: Tensor, num_steps: int) -> list[slice]:
    """Return slices of rows whose steps, all layers together, stay in the cache."""
    rows = max(1, 2**18 // max(1, layer.shape[1] * num_steps)) if layer.device.type == "cpu" else 4096
    return [slice(start, start + rows) for start in range(0, max(1, len(layer)), rows)]


def _summed(gram: Tensor) -> Tensor:
    """Return the running sums along both steps; not by cumsum, which has no deterministic kernel on CUDA."""
    rows = torch.stack(list(accumulate(gram.unbind(1))), dim=1)
    return torch.stack(list(accumulate(rows.unbind(2))), dim=2)


def _block(layers: Sequence[Tensor], drifts: Tensor, rows: slice, workspace: Workspace) -> PathStatistics:
    first = layers[0][rows]
    hidden = workspace.room("block", first, torch.Size((len(layers), *first.shape)))
    for room, layer in zip(hidden, layers, strict=True):
        room.copy_(layer[rows])
    steps = torch.sub(hidden[1:], hidden[:-1], out=workspace.room("shift", hidden[1:]))
    steps = steps.sub_(drifts.unsqueeze(1)).transpose(0, 1)
    gram = steps @ steps.transpose(1, 2)  # (B, L, L): inner products of a sample's steps
    num_steps = gram.shape[1]
    norms = gram.diagonal(dim1=1, dim2=2).clamp(min=0).sqrt()
    reached = torch.nn.functional.pad(_summed(gram), (1, 0, 1, 0))  # <h^l - h^0, h^m - h^0>
    from_start = reached.diagonal(dim1=1, dim2=2)
    along = reached[:, :, -1]
    chord = from_start[:, -1]
    # The distance to the end is summed from the end. A difference of squares would cancel.
    back = torch.nn.functional.pad(_summed(gram.flip(1, 2)), (1, 0, 1, 0)).diagonal(dim1=1, dim2=2).flip(1)
    length = norms.sum(dim=1)
    moving = norms > _STILL * length.unsqueeze(1)
    units = torch.where(moving, 1 / norms, 0.0)
    cosines = gram * units.unsqueeze(1) * units.unsqueeze(2)
    angles = torch.arccos(cosines.diagonal(offset=1, dim1=1, dim2=2).clamp(-1, 1))
    turning = moving[:, 1:] & moving[:, :-1]
    return PathStatistics(
        num_samples=torch.tensor(len(gram), dtype=torch.int64),
        step_energy=gram.diagonal(dim1=1, dim2=2).sum(dim=0).cpu(),
        from_start=from_start.sum(dim=0).cpu(),
        to_end=back.sum(dim=0).cpu(),
        along_chord=along.sum(dim=0).cpu(),
        straightness=(chord.clamp(min=0).sqrt() / length).cpu(),
        line_shape=(moving.sum(dim=1) / cosines.sum(dim=(1, 2)).clamp(min=0).sqrt()).cpu(),
        turning_angle=((angles * turning).sum(dim=1) / turning.sum(dim=1)).cpu() if num_steps > 1 else chord.cpu() * 0,
        turn_angles=(angles * turning).sum(dim=0).cpu(),
        turn_counts=turning.sum(dim=0).cpu(),
        spread=(from_start.sum() - reached.sum() / (num_steps + 1)).cpu(),
    )


def _merge_all(parts: Sequence[PathStatistics]) -> PathStatistics:
    def add(name: str) -> Tensor:
        return torch.stack([getattr(part, name) for part in parts]).sum(dim=0)

    def join(name: str) -> Tensor:
        return torch.cat([getattr(part, name) for part in parts])

    ends = ("from_start", "to_end", "along_chord")
    sums = {name: add(name) for name in ("num_samples", "step_energy", *ends, "turn_angles", "turn_counts", "spread")}
    return PathStatistics(**sums, **{name: join(name) for name in ("straightness", "line_shape", "turning_angle")})
