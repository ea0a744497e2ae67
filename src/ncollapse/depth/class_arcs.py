"""A test whether the map onto collapsed classes is optimal transport: a graph on the classes, with a proof either way."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ncollapse.records.theorems import CollapsedOptimality
from ncollapse.statistics.batch import row_blocks
from ncollapse.statistics.paired import PairedMoments

# Relative size below which a sum of arcs is the rounding of its terms.
_ROUNDING = 1e-12
# After so many rounds a cycle is looked for.
_ROUNDS = 32


@dataclass(frozen=True, eq=False)
class ClassArcs:
    r"""Arc lengths of the graph on classes that decides optimality for a collapsed end point; merges by minima.

    The targets are the final class means :math:`y_k`. If one sample of class k is sent to class j instead, half the cost
    changes by at least :math:`g_{kj} = \min_{i \in k} \langle h_i^0 - m, y_k - y_j \rangle`. The mean m of the first layer is
    subtracted to keep digits; it does not change the length of any cycle. O(K²) memory.

    Attributes:
        lengths: :math:`g_{kj}`, shape (K, K), float64; 0 on the diagonal. +inf from and to classes without samples, and before
            a class's first sample.
        scale: Largest :math:`\lVert h_i^0 - m \rVert` times largest centered target, 0-d: the size of the terms.
        shifts: :math:`\langle m, y_k \rangle`, shape (K,), which convert biases to features that are not centered.

    Reference:
        Rockafellar (1966), Pacific Journal of Mathematics: optimal pairings are those without improving cycles; docs/theory.md,
        3.9.
    """

    lengths: Tensor
    scale: Tensor
    shifts: Tensor

    def __repr__(self) -> str:
        finite = self.lengths[torch.isfinite(self.lengths)]
        shortest = float(finite.min()) if len(finite) else torch.inf
        return f"ClassArcs({len(self.lengths)} classes: shortest arc {shortest:.4g})"

    @classmethod
    def from_batch(cls, first: Tensor, labels: Tensor, paired: PairedMoments) -> ClassArcs:
        """Return the minima over the samples of one batch.

        Args:
            first: Features of the first layer.
            labels: Checked labels, shape (N,).
            paired: Final joint moments, whose last class means are the targets.
        """
        present = paired.last.counts > 0
        mean = paired.first.global_mean("sample")
        targets = torch.where(present.unsqueeze(1), paired.last.means - paired.last.global_mean("sample"), 0.0)
        lengths = targets.new_full((len(targets), len(targets)), torch.inf)
        radius = targets.new_zeros(())
        for rows in row_blocks(first):
            centered, own = first[rows] - mean, labels[rows]
            products = centered @ targets.T
            toward = products.gather(1, own.unsqueeze(1)) - products
            index = own.unsqueeze(1).expand_as(toward)
            lengths.scatter_reduce_(0, index, torch.where(present, toward, torch.inf), "amin")
            radius = torch.maximum(radius, centered.square().sum(dim=1).amax())
        scale = (radius * targets.square().sum(dim=1).amax()).sqrt()
        return cls(lengths, scale, torch.where(present, paired.last.means @ mean, torch.nan))

    def merge(self, other: ClassArcs) -> ClassArcs:
        """Merge the arcs over two sets of samples."""
        return ClassArcs(torch.minimum(self.lengths, other.lengths), torch.maximum(self.scale, other.scale), self.shifts)


def collapsed_optimality(arcs: ClassArcs) -> CollapsedOptimality:
    r"""Return whether sending every sample to its own class's target is optimal transport, with a proof, in O(K³).

    It is optimal iff the graph with arc lengths :math:`g_{kj}` has no negative cycle. Then the shortest paths to the classes
    are biases β with :math:`g_{kj} \ge \beta_j - \beta_k`. The test is exact for a collapsed end point. Otherwise the final
    class means replace the features, and the verdict is about the map onto those means.

    Args:
        arcs: Over the whole data set.

    Raises:
        ValueError: If no class has samples.

    Reference:
        Bellman (1958), Quarterly of Applied Mathematics; the reduction to classes is derived: docs/theory.md, 3.9.
    """
    lengths = arcs.lengths.cpu().numpy()
    present = np.isfinite(np.diagonal(lengths))
    if not present.any():
        raise ValueError("The arcs need samples of at least one class, got none. Merge the arcs of all batches first.")
    tolerance = _ROUNDING * float(arcs.scale)
    potentials, cycle = _shortest(lengths, tolerance)
    if cycle is None:
        biases = np.where(present, potentials - arcs.shifts.cpu().numpy(), np.nan)
        return CollapsedOptimality(True, tuple(float(b) for b in biases), None, 0.0, tolerance)
    gain = -2 * float(lengths[list(cycle), [*cycle[1:], cycle[0]]].sum())
    return CollapsedOptimality(False, None, cycle, gain, tolerance)


def _shortest(lengths: np.ndarray, tolerance: float) -> tuple[np.ndarray, tuple[int, ...] | None]:
    """Run Bellman-Ford from a source at distance 0 of every node; return distances and a negative cycle, if any."""
    # A distance is updated only if it falls by more than the tolerance. If no distance falls any more, all arcs satisfy the
    # inequality up to the tolerance. If K rounds do not get there, the predecessors lead into a cycle, and whenever they lead
    # into one, its length is below minus the tolerance.
    size = len(lengths)
    arriving, through = np.ascontiguousarray(lengths.T), np.empty_like(lengths)
    distances, before = np.zeros(size), np.full(size, -1)
    for done in range(1, size + 1):
        np.add(arriving, distances, out=through)
        best = through.argmin(axis=1)
        reached = through[np.arange(size), best]
        shorter = reached < distances - tolerance
        if not shorter.any():
            return distances, None
        distances, before = np.where(shorter, reached, distances), np.where(shorter, best, before)
        # Of many classes a cycle closes long before K rounds.
        if (done % _ROUNDS == 0 or done == size) and (cycle := _cycle(before, int(shorter.argmax()))):
            return distances, cycle
    raise AssertionError("the predecessors lead into a cycle after K rounds")


def _cycle(before: np.ndarray, node: int) -> tuple[int, ...]:
    """Follow the predecessors of a node into a cycle; none if they end at the source."""
    for _ in range(len(before)):
        node = int(before[node])
        if node < 0:
            return ()
    cycle = [node]
    while (node := int(before[node])) != cycle[0]:
        cycle.append(node)
    return tuple(reversed(cycle))
