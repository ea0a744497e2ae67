"""Layer normalization without trained parameters: onto the sphere of zero-mean vectors, of radius 1 or √d."""

import math

from torch import Tensor, nn
from torch.nn import functional

from ncollapse.recipes.networks import NormScale, radius_squared

# A guard for constant vectors only: 1e-12 in units of the standard deviation.
_EPS = 1e-24


class SphereNorm(nn.Module):
    r"""Vectors less their mean, scaled to one norm, or rounded off within a distance of 0."""

    # LN(x) = r\, \frac{x - \bar x 1}{\lVert x - \bar x 1 \rVert_2}
    #
    # with r = 1 for unit, r = \sqrt d (layer normalization as PyTorch has it, without gain and bias) for sqrt_d.
    # A constant vector becomes 0. Invariant to scale and to a common shift of the coordinates. It has no gradient at 0, and a
    # large one near 0. With a rounding of w it is r v/\sqrt{\lVert v \rVert^2 + (r w)^2} of v = x - \bar x 1 instead, which is
    # smooth, and inside of the sphere.
    #
    # Reference:
    #     Súkeník, Lampert and Mondelli (2025), arXiv 2505.15239, section 3.

    def __init__(self, scale: NormScale, rounding: float = 0.0) -> None:
        super().__init__()
        self.scale, self.rounding = scale, rounding

    def forward(self, vectors: Tensor) -> Tensor:
        """Normalize along the last axis."""
        dim = vectors.shape[-1]
        # Added to the mean of the squares, which is the squared norm over d.
        rounded = self.rounding**2 * radius_squared(self.scale, dim) / dim
        normalized = functional.layer_norm(vectors, (dim,), eps=max(_EPS, rounded))
        return normalized if self.scale == "sqrt_d" else normalized / math.sqrt(dim)
