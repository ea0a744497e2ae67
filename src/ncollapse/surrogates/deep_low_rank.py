"""Low rank against deep neural collapse: a start whose inner layers have fewer dimensions than classes, and ranks of layers."""

from __future__ import annotations

import itertools
import math

import torch
from scipy.optimize import minimize_scalar
from torch import Tensor

from ncollapse.surrogates.deep_ufm import DeepUFM
from ncollapse.surrogates.solving.solution import Variables


def low_rank_start(problem: DeepUFM) -> Variables:
    r"""A point of a deep model with ReLU whose layers have rank r with r(r-1)/2 >= K, all but the last hidden one.

    Classes are pairs of r points, and a feature marks the two points of its class: the incidence vectors T of the triangular
    graph, of which K share r dimensions. The last hidden layer tells the pairs apart: two points in common leave 1, one or none
    leave nothing, because :math:`\mathrm{relu}(T^T T - 1 1^T) = I`. All layers cost the same, at the best common scale.

    Args:
        problem: A model with "relu", at least three layers and classes.

    Returns:
        The point: a start for ``LBFGS``.

    Raises:
        ValueError: If the model is another one.

    Reference:
        After Súkeník, Mondelli & Lampert (2024), NeurIPS, whose solutions of low rank are built on strongly regular graphs.
    """
    K, M, d = problem.num_classes, problem.num_layers, problem.dim
    if problem.activation != "relu" or M < 3 or K < 3:
        raise ValueError(
            "low_rank_start needs activation='relu', three or more layers and classes, got "
            f"{problem.activation!r}, {M} layers, {K} classes. Other models have no such solution that is known."
        )
    num_points = math.ceil((1 + math.sqrt(1 + 8 * K)) / 2)
    points = torch.tensor(list(itertools.combinations(range(num_points), 2))[:K])
    marks = torch.zeros(K, d, dtype=torch.float64).scatter_(1, points, 1.0)
    # Marks sum to two, so that a half of each entry takes the one away.
    apart = torch.zeros(d, d, dtype=torch.float64)
    apart[:K, :num_points] = marks[:, :num_points] - 0.5
    keep, last = (torch.eye(rows, d, dtype=torch.float64) for rows in (d, K))
    keep[num_points:] = 0
    parts = [marks[problem.labels], *[keep] * (M - 2), apart, last]
    decays = [problem.lambda_h, *problem.lambdas_w]
    names = ["first_features", *(f"weight_{number + 1}" for number in range(M))]
    balanced = {
        name: part / (torch.linalg.norm(part) * math.sqrt(decay))
        for name, part, decay in zip(names, parts, decays, strict=True)
    }

    def scaled(scale: float) -> Variables:
        return {name: scale * part for name, part in balanced.items()}

    # Beyond this scale the decay alone costs more than the zero point.
    highest = 1 / math.sqrt(M + 1)
    found = minimize_scalar(lambda scale: float(problem.objective(scaled(scale))), bounds=(0, highest), method="bounded")
    return scaled(float(found.x))


def layer_ranks(layers: list[Tensor], tolerance: float = 1e-3) -> list[int]:
    """Numerical ranks of the features of every layer.

    Args:
        layers: Such as ``DeepUFM.layers`` gives, each of shape (N, d).
        tolerance: A singular value counts from this share of the largest one on.

    Returns:
        One rank a layer; 0 for features that are all zero.
    """
    return [int(torch.linalg.matrix_rank(features, rtol=tolerance)) for features in layers]
