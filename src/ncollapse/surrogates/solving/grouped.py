"""Newton's method for the cross-entropy of logits with bounded nuclear norm: equally frequent classes share unknowns."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

# This file uses NumPy rather than torch: with a handful of unknowns the overhead of each call dominates.

# Relative to the largest, curvatures below this are those of rotations of the factors, which change nothing.
_FLAT = 1e-10
# A step is taken if the loss falls by this share of what its slope promises, rounding aside.
_SUFFICIENT = 1e-4
_ROUNDING = 1e-14
_HALVINGS = 40


class Local(NamedTuple):
    """The objective around a point of ``GroupedProgram``."""

    value: float
    gap: float
    gradient: np.ndarray
    curvature: np.ndarray


class GroupedProgram:
    """Minimize the cross-entropy of logits, weighted by the frequencies of the classes, within a ball of the nuclear norm."""

    # The loss and the norm are convex, and permuting classes of one frequency changes neither. So the mean of a minimum over
    # those permutations is a minimum too, and its logits have few unknowns: one number a_g >= 0 within each group of like
    # classes, and a small matrix B between the groups. Its nuclear norm is the sum of (n_g - 1) a_g, plus that of B.
    # Writing a_g as a square and B as a product P Q turns the ball of the nuclear norm into a sphere in (square roots, P, Q),
    # on which Newton's method runs; logits are a fixed quadratic form of that point, a tensor of about 4 G⁶ numbers for
    # G groups. B has no part along the group sizes: a common shift of a row of logits costs norm and gains nothing.
    # The factored problem has saddles, but a critical point is the global minimum iff the multiplier of the sphere equals
    # the spectral norm of the gradient; their difference is the gap.

    def __init__(self, shares: Sequence[float], radius: float) -> None:
        each = sorted(set(shares))
        sizes = np.array([float(shares.count(share)) for share in each])
        self.radius, self.shares = radius, np.array(each) * sizes
        self.group = [each.index(share) for share in shares]
        self.many = np.flatnonzero(sizes > 1)
        self.peers = sizes[self.many] - 1
        # Columns of the reflection of √n to the first axis, less the first.
        unit = np.sqrt(sizes / sizes.sum())
        unit[0] += 1
        basis = (np.eye(len(sizes)) - np.outer(unit, unit) / unit[0])[:, 1:]
        # Each row of the table of logits: those of the classes of every group but the class itself, which comes last.
        self.multiplicity = np.column_stack([sizes - np.eye(len(sizes)), np.ones_like(sizes)])
        self.logits_of = _logits(sizes, self.many)
        self.tensor = np.tensordot(self.logits_of, _products(basis, self.peers), axes=1)
        self.identity = np.eye(self.tensor.shape[1])
        self.start = self._start(np.sqrt(each), basis)

    def _start(self, levels: np.ndarray, basis: np.ndarray) -> np.ndarray:
        """θ of logits between those of balanced classes, a simplex ETF, and √p_k times those of an ETF, the steepest ones."""
        middle = math.sqrt(levels.mean())
        frame = np.concatenate([(levels[:, None] * basis / middle).ravel(), middle * np.eye(basis.shape[1]).ravel()])
        point = np.concatenate([np.sqrt(2 * self.peers * levels[self.many]), frame])
        return point * math.sqrt(2 * self.radius / float(point @ point))

    def around(self, point: np.ndarray) -> Local:
        """Compute value, gap and derivatives at a point."""
        jacobian = self.tensor @ point
        table = (jacobian @ point / 2).reshape(len(self.shares), -1)
        # The excess of logits over that of the true class. Sums leave out the true class, so that small losses stay precise.
        excess = table - table[:, -1:]
        highest = excess.max(axis=1)
        outputs = self.multiplicity * np.exp(excess - highest[:, None])
        sums, own = outputs[:, :-1].sum(axis=1), outputs[:, -1]
        value = float(self.shares @ (highest + np.log1p(sums + (own - 1))))
        weights = outputs * (self.shares / (sums + own))[:, None]
        errors = weights.copy()
        errors[:, -1] = -weights[:, :-1].sum(axis=1)
        errors = errors.ravel()
        slopes = errors @ self.logits_of
        blocks = slopes[len(self.many) :].reshape(len(sums), -1)
        norm = float(max([np.linalg.svd(blocks, compute_uv=False)[0], *(-slopes[: len(self.many)] / self.peers)]))
        along = point / math.sqrt(2 * self.radius)
        pull = errors @ jacobian
        inner = float(pull @ point)
        means = (weights[:, None] @ jacobian.reshape(*weights.shape, -1))[:, 0]
        curvature = (jacobian.T * weights.ravel()) @ jacobian - (means.T / self.shares) @ means
        curvature += (errors @ self.tensor.reshape(len(errors), -1)).reshape(curvature.shape)
        curvature -= inner / (2 * self.radius) * self.identity
        tangent = self.identity - along[:, None] * along
        gap = inner / 2 + self.radius * norm
        return Local(value, gap, pull - (pull @ along) * along, tangent @ curvature @ tangent)

    def step(self, point: np.ndarray, local: Local) -> tuple[np.ndarray, Local]:
        """Take a step of Newton's method along the sphere, with absolute curvatures, halved until the loss falls."""
        sizes, axes = np.linalg.eigh(local.curvature)
        sizes = np.abs(sizes)
        move = -axes @ ((local.gradient @ axes) / np.maximum(sizes, _FLAT * sizes.max()))
        slope = float(move @ local.gradient)
        for halvings in range(_HALVINGS):
            moved = point + 0.5**halvings * move
            moved *= math.sqrt(2 * self.radius / float(moved @ moved))
            there = self.around(moved)
            if there.value <= local.value + _SUFFICIENT * 0.5**halvings * slope + _ROUNDING:
                break
        return moved, there

    def logits(self, point: np.ndarray) -> np.ndarray:
        """Compute the logits of all classes."""
        table = (self.tensor @ point @ point / 2).reshape(len(self.shares), -1)
        logits = table[self.group][:, self.group]
        np.fill_diagonal(logits, table[self.group, -1])
        return logits


def _logits(sizes: np.ndarray, many: np.ndarray) -> np.ndarray:
    """Return the linear map from the numbers a and B to the table of logits, shape (G (G+1), number of a + G²)."""
    G, ends = len(sizes), len(many)
    table = np.zeros((G, G + 1, ends + G * G))
    rows = np.arange(G)
    blocks = table[:, :, ends:].reshape(G, G + 1, G, G)
    blocks[rows[:, None], rows, rows[:, None], rows] = 1 / np.sqrt(np.outer(sizes, sizes))
    blocks[rows, G, rows, rows] = 1 / sizes
    table[many, many, range(ends)] = -1 / sizes[many]
    table[many, G, range(ends)] = 1 - 1 / sizes[many]
    return table.reshape(G * (G + 1), -1)


def _products(basis: np.ndarray, peers: np.ndarray) -> np.ndarray:
    """Return the symmetric matrices whose halved forms in θ are a and B, shape (number of a + G², m, m)."""
    (G, rank), ends = basis.shape, len(peers)
    left, right = ends + np.arange(G * rank), ends + G * rank + np.arange(rank * rank)
    forms = np.zeros((ends + G * G, ends + (G + rank) * rank, ends + (G + rank) * rank))
    forms[range(ends), range(ends), range(ends)] = 1 / peers
    # B_gh is the sum over r and j of P_gr Q_rj C_hj.
    cross = np.einsum("ab,hj,rs->ahbrsj", np.eye(G), basis, np.eye(rank)).reshape(G * G, G * rank, rank * rank)
    forms[ends:, left[:, None], right] = cross
    forms[ends:, right[:, None], left] = cross.transpose(0, 2, 1)
    return forms
