"""Numbers of a solution that only one model has."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import singledispatch
from typing import Any

from torch import Tensor

from ncollapse import surrogates as models
from ncollapse.surrogates import MUFM, FlowEnd, LayerPeeled, NearCollapse, Solution
from ncollapse.surrogates.locally_elastic_sde import PathEnd

Numbers = dict[str, float]


@dataclass(frozen=True, eq=False)
class DrawnMUFM(MUFM):
    """The multilayer model on random data, whose figures show several draws."""

    redraw: Callable[[int], tuple[Tensor, Tensor]] = field(kw_only=True)  # draws other data and their labels by a seed
    draws: int = field(kw_only=True)  # data sets in a figure, with the model's own

    @classmethod
    def on(cls, problem: MUFM, redraw: Callable[[int], tuple[Tensor, Tensor]], draws: int) -> DrawnMUFM:
        """Add the way to draw other data to a model."""
        names = ("inputs", "labels", "lambda_w", "lambda_h", "loss", "bias")
        return cls(**{name: getattr(problem, name) for name in names}, redraw=redraw, draws=draws)

    def all_draws(self) -> list[MUFM]:
        """Return the model on every data set, its own first."""
        others = (self.redraw(seed) for seed in range(1, self.draws))
        return [self, *(replace(self, inputs=inputs, labels=labels) for inputs, labels in others)]


@dataclass(frozen=True, eq=False)
class NearlyCollapsed(MUFM):
    """The multilayer model on the data of a near-collapse model, with the closed form of the latter."""

    model: NearCollapse = field(kw_only=True)

    def closed_form(self) -> Solution:
        """Return the minimizer to first order."""
        return self.model.closed_form(self.inputs, self.labels)


@singledispatch
def extra_numbers(problem: Any, solution: Any) -> Numbers:
    """Compute the numbers by name. Most models have some."""
    return {}


@extra_numbers.register
def _(problem: models.UFM, solution: Solution) -> Numbers:
    return {"largest_collapse_number": float(problem.collapse_numbers.max())}


@extra_numbers.register
def _(problem: models.GUFM, solution: Solution) -> Numbers:
    point, numbers = solution.variables, {"scale": problem.scale}
    if problem.has_distance:
        numbers["distance_to_optima"] = problem.distance(point["weight"], point["features"])
    return numbers


def data_metrics(solution: Solution, inputs: Tensor, ids: list[str]) -> Numbers:
    """Compute collapse metrics of the data, for metrics that need no classifier."""
    return replace(solution, variables={**solution.variables, "features": inputs}).metrics(ids)


@extra_numbers.register
def _(problem: MUFM, solution: Solution) -> Numbers:
    data = data_metrics(solution, problem.inputs, ["pfc1", "pfc2", "pfc3"])
    cosine, distance = models.alignment(solution.variables["features"], problem.inputs)
    numbers = {f"data_{metric}": value for metric, value in data.items()}
    numbers |= {"alignment": cosine, "alignment_distance": distance}
    if problem.loss == "mse" and problem.bias == "none":
        threshold = models.growth_threshold(problem, solution.variables)
        numbers |= {"lambda_critical": threshold.inequality.left, "lambda_bound": threshold.bound}
    return numbers


@singledispatch
def extra_sentence(problem: Any, solution: Any) -> str | None:
    """Say what is proven about a solution besides its certificate."""
    return None


@extra_sentence.register
def _(problem: MUFM, solution: Solution) -> str:
    return str(models.collapse_progress(problem, solution.variables))


@extra_numbers.register
def _(problem: NearlyCollapsed, solution: Solution) -> Numbers:
    model, spread = problem.model, problem.model.spread(problem.inputs)
    before = data_metrics(solution, problem.inputs, ["pfc1"])["pfc1"]
    rates = dict(zip(("sensitivity_lambda_h", "sensitivity_lambda_w"), model.sensitivities(*spread), strict=True))
    ratio = solution.metrics(["pfc1"])["pfc1"] / before
    return {"data_pfc1": before, "pfc1_ratio": ratio, "predicted_ratio": model.ratio(*spread), **rates}


def num_majority(problem: LayerPeeled) -> int:
    """Count the majority classes. They come first, and all others have equally many samples; otherwise 0."""
    majority = problem.counts.count(problem.counts[0])
    minority = problem.counts[majority:]
    return majority if len(set(minority)) == 1 and minority[0] < problem.counts[0] else 0


@extra_numbers.register
def _(problem: LayerPeeled, solution: Solution) -> Numbers:
    majority = num_majority(problem)
    numbers = {"ratio": max(problem.counts) / min(problem.counts)}
    if majority > 0:
        numbers["minority_cosine"] = models.minority_cosine(solution, majority)
        numbers["minority_threshold"] = threshold_or_nan(problem, majority)
    return numbers


def threshold_or_nan(problem: LayerPeeled, majority: int) -> float:
    """Find the ratio from which on the minorities collapse; nan if there is none."""
    try:
        return models.minority_threshold(len(problem.counts), majority, energy_w=problem.energy_w, energy_h=problem.energy_h)
    except ValueError:
        return math.nan


@extra_numbers.register
def _(problem: models.DeepUFM, solution: Solution) -> Numbers:
    ranks = models.layer_ranks(problem.layers(solution.variables))
    return {"collapse_value": problem.minimum, **{f"rank_{number}": float(rank) for number, rank in enumerate(ranks)}}


@extra_numbers.register
def _(problem: models.UnregularizedUFM, solution: FlowEnd) -> Numbers:
    return {"conserved_drift": problem.conserved_drift(solution)}


@extra_numbers.register
def _(problem: models.CentralPath, solution: Solution) -> Numbers:
    signals = problem.signals(solution.variables["features"])
    within, means = problem.losses(solution.variables["features"])
    numbers = {"largest_signal": float(signals[0]), "smallest_signal": float(signals[-1])}
    return numbers | {"loss_nc1": within, "loss_nc23": means}


@extra_numbers.register
def _(problem: models.BatchNormNet, solution: Solution) -> Numbers:
    return {"hidden_units_in_use": float((solution.variables["weight"].abs().amax(dim=0) > 1e-4).sum())}


@extra_numbers.register
def _(problem: models.WeightNormalizedNet, solution: Solution) -> Numbers:
    margins = problem.margins(solution.variables)
    numbers = {"rho": float(solution.variables["rho"]), "rho_of_margins": models.best_norm(margins, lambda_w=problem.lambda_w)}
    return numbers | {"margin_variation": models.margin_variation(margins), "smallest_margin": float(margins.min())}


@extra_numbers.register
def _(problem: models.MaxMargin, solution: Solution) -> Numbers:
    return {"normalized_margin": 0.5 / solution.value, "largest_margin": problem.largest_margin}


@extra_numbers.register
def _(problem: models.FixedETF, solution: Solution) -> Numbers:
    return {"scale": problem.scale}


@extra_numbers.register
def _(problem: models.LocallyElasticSDE, solution: PathEnd) -> Numbers:
    path = solution.path
    growth = problem.growth(float(path.times[-1]))
    found = models.estimate_integrals(path.means, kind=problem.kind)
    return {
        **{"integral_alpha": growth.alpha, "integral_beta": growth.beta},
        **{"estimated_alpha": float(found.alpha[-1]), "estimated_beta": float(found.beta[-1])},
        "separability": models.pairwise_separability(path),
    }
