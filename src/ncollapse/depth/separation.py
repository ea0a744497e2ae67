"""The law of data separation: the separation fuzziness falls by one factor from layer to layer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ncollapse.default_device import on_the_cpu


@dataclass(frozen=True)
class SeparationLaw:
    r"""Least-squares line of :math:`\log D_l` over the layer index l, natural logarithm.

    Attributes:
        rho: Factor by which D falls per layer, the exponential of the slope; below 1 where the law holds.
        correlation: Pearson's correlation of log D with l, -1 for an exact geometric sequence; nan for a constant D.
        intercept: :math:`\log D_0` of the line.
        half_life: Layers that halve D, :math:`\ln 2 / (-\ln \rho)`; inf for a constant D, nan where D grows.
    """

    rho: float
    correlation: float
    intercept: float
    half_life: float


@on_the_cpu
def separation_law(values: Sequence[float], *, last_layer: bool = True) -> SeparationLaw:
    r"""Return the fit of the law of data separation, :math:`D_l \approx \rho^l D_0` with 0 < ρ < 1, over layers l = 0..L.

    All numbers are nan if a value that is fitted is not positive and finite (D = 0 at exact collapse has no logarithm).

    Args:
        values: D of every layer in order of depth: the curve of the metric ``separation``.
        last_layer: False leaves the last layer out of the fit, which often collapses beyond the law.

    Raises:
        ValueError: If fewer than two layers are left to fit.

    Reference:
        He & Su (2023), PNAS, "A law of data separation in deep learning".

    Example:
        >>> law = separation_law([8.0, 4.0, 2.0, 1.0])
        >>> round(law.rho, 12), round(law.correlation, 12), round(law.half_life, 12)
        (0.5, -1.0, 1.0)
    """
    fitted = list(values) if last_layer else list(values)[:-1]
    if len(fitted) < 2:
        raise ValueError(f"separation_law needs at least two layers to fit, got {len(fitted)}. Measure more layers.")
    if not all(0 < value < math.inf for value in fitted):
        return SeparationLaw(math.nan, math.nan, math.nan, math.nan)
    logs = torch.tensor(fitted, dtype=torch.float64).log()
    depth = torch.arange(len(fitted), dtype=torch.float64) - (len(fitted) - 1) / 2
    deviations = logs - logs.mean()
    slope = float(depth @ deviations / (depth @ depth))
    constant = len(set(fitted)) == 1
    correlation = math.nan if constant else float(depth @ deviations / (depth.norm() * deviations.norm()))
    half_life = math.inf if constant else math.log(2) / -slope if slope < 0 else math.nan
    intercept = float(logs.mean()) - slope * (len(fitted) - 1) / 2
    return SeparationLaw(math.exp(slope), correlation, intercept, half_life)
