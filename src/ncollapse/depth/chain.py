"""The chain of transport costs through the layers, from the kinetic energy down to the distance of the means."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from ncollapse.default_device import on_the_cpu
from ncollapse.depth.path import PathStatistics
from ncollapse.depth.transport import gelbrich_squared, wasserstein2_squared
from ncollapse.records.depth import ExcessEnergy

_MOST_SAMPLES = 2000


@dataclass(frozen=True)
class TransportChain:
    r"""Six numbers, each at least the next.

    :math:`\mathcal{E} \ge \mathcal{E}_{\min} \ge c_{id} \ge W_2^2 \ge \mathrm{Gelbrich} \ge \lVert m_L - m_0 \rVert^2`. In turn
    they are equal iff (1) the root-mean-square speed is constant; (2) every path is straight and all samples have the same time
    course; (3) the network's pairing is optimal; (4) the best pairing is an affine map with a positive semidefinite matrix;
    (5) both layers have the same covariance.

    Attributes:
        energy: 𝓔, kinetic energy with equal time steps.
        energy_min: 𝓔_min, with the best time steps.
        identity_cost: :math:`c_{id}`, cost of the network's own pairing of first and last features.
        wasserstein2: :math:`W_2^2`, cost of the best pairing.
        gelbrich: Gelbrich's bound, from means and covariances.
        mean_distance: Squared distance of the means of first and last layer, the common drift.
    """

    energy: float
    energy_min: float
    identity_cost: float
    wasserstein2: float
    gelbrich: float
    mean_distance: float

    @property
    def score(self) -> float:
        """Optimal transport score, W₂² over the identity cost, in [0, 1]; nan if nothing moves."""
        return self.wasserstein2 / self.identity_cost if self.identity_cost > 0 else math.nan

    @property
    def efficiency(self) -> float:
        """Geodesic efficiency of the path, identity cost over energy, in [0, 1]; nan if nothing moves."""
        return self.identity_cost / self.energy if self.energy > 0 else math.nan


@on_the_cpu
def transport_chain(layers: Sequence[Tensor]) -> TransportChain:
    """Return the whole chain for a sample small enough for exact transport, on the features as given.

    A drift that all samples share counts in every number. The ``PathStatistics`` of a measurement leave it out.

    Args:
        layers: Features of the L+1 layers, each of shape (N, d), N up to 2000.

    Raises:
        ValueError: If there are fewer than two layers, their shapes differ, or the samples are none or too many.

    Reference:
        Benamou & Brenier (2000), Numerische Mathematik; progressive feedforward collapse, arXiv 2405.00985, Proposition 1;
        docs/theory.md, 3.8.
    """
    _check_size(layers)
    origin = [torch.zeros(layer.shape[1:], dtype=torch.float64, device=layer.device) for layer in layers]
    path = PathStatistics.from_batch(layers, origin)
    first, last = layers[0].double(), layers[-1].double()
    return TransportChain(
        path.energy,
        path.energy_min,
        path.identity_cost,
        wasserstein2_squared(first, last),
        gelbrich_squared(first, last),
        float((last.mean(dim=0) - first.mean(dim=0)).square().sum()),
    )


def excess_energy(layers: Sequence[Tensor]) -> ExcessEnergy:
    r"""Split exactly what the energy of the paths costs above optimal transport, on features centered per layer.

    :math:`\mathcal{E} - W_2^2 = (\mathcal{E} - \mathcal{E}_{\min}) + (\mathcal{E}_{\min} - c_{id}) + (c_{id} - W_2^2)`: uneven
    speed, bends, and a pairing that is not optimal. Let :math:`s_l` be the root-mean-square length of step l, S their sum and
    Δ the chord. Block l has the parts :math:`L (s_l - S/L)^2` of the first and :math:`s_l S - \mathbb{E} \langle \delta_l,
    \Delta \rangle` of the second, each at least 0.

    Args:
        layers: Features of the L+1 layers, each of shape (N, d), N up to 2000.

    Returns:
        The parts, and the exact distances of consecutive layers. All parts are 0 iff the paths are a geodesic at even steps.

    Raises:
        ValueError: If there are fewer than two layers, their shapes differ, or the samples are none or too many.

    Reference:
        Derived here: docs/theory.md, 3.8. The geodesic is that of progressive feedforward collapse, arXiv 2405.00985.
    """
    _check_size(layers)
    path = PathStatistics.from_batch(layers)
    centered = [layer.double() - layer.double().mean(dim=0) for layer in layers]
    lengths = (path.step_energy / path.num_samples).sqrt()
    along = path.along_chord.diff() / path.num_samples
    return ExcessEnergy(
        energy=path.energy,
        # Sums of squares, and differences that are not negative but for rounding.
        speed=tuple((len(lengths) * (lengths - lengths.mean()).square()).tolist()),
        bend=tuple((lengths * lengths.sum() - along).clamp(min=0).tolist()),
        identity_cost=path.identity_cost,
        wasserstein2=wasserstein2_squared(centered[0], centered[-1]),
        step_wasserstein2=tuple(wasserstein2_squared(before, after) for before, after in pairwise(centered)),
    )


def _check_size(layers: Sequence[Tensor]) -> None:
    if layers and not 0 < len(layers[0]) <= _MOST_SAMPLES:
        raise ValueError(
            f"The exact distance needs 1 to {_MOST_SAMPLES} samples, got {len(layers[0])}. "
            "Take a subsample of all layers, for example with stratified_sample."
        )
