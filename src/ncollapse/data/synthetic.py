"""Samples whose distribution is known exactly."""

import math
from typing import Literal

import torch

from ncollapse.data.labeled import LabeledData
from ncollapse.data.seeding import Stream, stream_generator


def gaussian_mixture(
    num_classes: int = 4,
    dim: int = 20,
    per_class: int = 100,
    *,
    components: Literal[1, 2] = 2,
    radius: float = 2.5,
    noise: float = 0.5,
    seed: int = 0,
    split: Literal["train", "test"] = "train",
) -> LabeledData:
    r"""Return classes that are Gaussian, or equal mixtures of two nearly opposite Gaussians; no linear map separates those.

    .. math:: x = c_{k,j} + \text{noise} \cdot z,\quad z \sim N(0, I),\quad c_{k,1} = r u_k,\quad
        c_{k,2} = r v_k - 0.9\, c_{k,1}

    with independent uniform unit vectors :math:`u_k, v_k`. The defaults are the small test problem of the
    progressive-collapse experiments. The samples come class by class, components taking turns, so classes are exactly
    balanced and components are balanced to one sample.

    Args:
        components: 1 or 2 Gaussians per class.
        radius: Norm of the first centers, more than 0.
        noise: Standard deviation of each coordinate about its center, 0 or more.
        seed: Decides centers and noise.
        split: ``train`` and ``test`` share the centers and differ in the noise.

    Raises:
        ValueError: If an argument is out of its range.
    """
    counts = {"num_classes": num_classes, "dim": dim, "per_class": per_class}
    for name, value in counts.items():
        if value < 1:
            raise ValueError(f"gaussian_mixture needs {name} of 1 or more, got {value}. Pass a positive integer.")
    if components not in {1, 2}:
        raise ValueError(f"gaussian_mixture needs 1 or 2 components per class, got {components}. Pass 1 or 2.")
    if not (0 < radius < math.inf and 0 <= noise < math.inf):
        raise ValueError(
            f"gaussian_mixture needs a finite radius above 0 and a finite noise of 0 or more, got radius {radius} and "
            f"noise {noise}. Pass standard deviations, such as radius 2.5 and noise 0.5."
        )
    directions = torch.randn(2, num_classes, dim, generator=stream_generator(seed, Stream.MIXTURE_CENTERS))
    first, other = radius * torch.nn.functional.normalize(directions, dim=-1)
    centers = torch.stack((first, other - 0.9 * first), dim=1)
    component = torch.arange(per_class) % components
    noise_stream = stream_generator(seed, Stream.MIXTURE_NOISE, index=int(split == "test"))
    offsets = noise * torch.randn(num_classes, per_class, dim, generator=noise_stream)
    inputs = (centers[:, component] + offsets).flatten(0, 1)
    labels = torch.arange(num_classes).repeat_interleave(per_class)
    return LabeledData(inputs, labels, num_classes=num_classes, name="gaussian_mixture")
