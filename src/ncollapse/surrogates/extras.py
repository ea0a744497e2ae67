"""Numbers of a solution that belong to one model alone, beside its certificate and its collapse metrics."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import singledispatch
from typing import Any

from torch import Tensor

from ncollapse.surrogates.batch_norm_net import BatchNormNet
from ncollapse.surrogates.central_path import CentralPath
from ncollapse.surrogates.deep_low_rank import layer_ranks
from ncollapse.surrogates.deep_ufm import DeepUFM
from ncollapse.surrogates.fixed_etf import FixedETF
from ncollapse.surrogates.gufm import GUFM
from ncollapse.surrogates.layer_peeled import LayerPeeled
from ncollapse.surrogates.layer_peeled_minority import minority_cosine, minority_threshold
from ncollapse.surrogates.locally_elastic_estimates import estimate_integrals
from ncollapse.surrogates.locally_elastic_sde import LocallyElasticSDE, PathEnd, pairwise_separability
from ncollapse.surrogates.max_margin import MaxMargin
from ncollapse.surrogates.mufm import MUFM
from ncollapse.surrogates.mufm_laws import alignment, collapse_progress
from ncollapse.surrogates.near_collapse import NearCollapse
from ncollapse.surrogates.solving.flows import FlowEnd
from ncollapse.surrogates.solving.problem import Solution, Solver
from ncollapse.surrogates.ufm import UFM
from ncollapse.surrogates.unregularized_ufm import UnregularizedUFM
from ncollapse.surrogates.weight_normalized_net import WeightNormalizedNet, best_norm, margin_variation

Numbers = dict[str, float]


@dataclass(frozen=True, eq=False)
class NearlyCollapsed:
    """The near-collapse model together with its data, to be solved as problems are."""

    model: NearCollapse
    inputs: Tensor
    labels: Tensor

    @property
    def problem(self) -> MUFM:
        """The multilayer model on the data."""
        return self.model.problem(self.inputs, self.labels)

    def solve(self, solver: Solver | None = None, *, seed: int = 0, allow_unconverged: bool = False) -> Solution:
        """Minimize from one start."""
        return self.problem.solve(solver, seed=seed, allow_unconverged=allow_unconverged)

    def closed_form(self) -> Solution:
        """The minimizer to first order."""
        return self.model.closed_form(self.inputs, self.labels)


@singledispatch
def extra_numbers(problem: Any, solution: Any) -> Numbers:
    """Numbers by name; none for a model that has no more to tell."""
    return {}


@extra_numbers.register
def _(problem: UFM, solution: Solution) -> Numbers:
    return {"largest_collapse_number": float(problem.collapse_numbers.max())}


@extra_numbers.register
def _(problem: GUFM, solution: Solution) -> Numbers:
    point = solution.variables
    return {"scale": problem.scale, "distance_to_optima": problem.distance(point["weight"], point["features"])}


def data_metrics(solution: Solution, inputs: Tensor, ids: list[str]) -> Numbers:
    """Collapse metrics of the data that the features start from, of those that need no classifier."""
    return replace(solution, variables={**solution.variables, "features": inputs}).metrics(ids)


@extra_numbers.register
def _(problem: MUFM, solution: Solution) -> Numbers:
    data = data_metrics(solution, problem.inputs, ["pfc1", "pfc2", "pfc3"])
    cosine, distance = alignment(solution.variables["features"], problem.inputs)
    numbers = {f"data_{metric}": value for metric, value in data.items()}
    numbers |= {"alignment": cosine, "alignment_distance": distance}
    if problem.loss == "mse" and problem.bias == "none":
        progress = collapse_progress(problem, solution.variables)
        numbers |= {"lambda_critical": progress.inequality.left, "lambda_bound": progress.bound}
    return numbers


@extra_numbers.register
def _(problem: NearlyCollapsed, solution: Solution) -> Numbers:
    model, spread = problem.model, problem.model.spread(problem.inputs)
    before = data_metrics(solution, problem.inputs, ["pfc1"])["pfc1"]
    rates = dict(zip(("sensitivity_lambda_h", "sensitivity_lambda_w"), model.sensitivities(*spread), strict=True))
    ratio = solution.metrics(["pfc1"])["pfc1"] / before
    return {"data_pfc1": before, "pfc1_ratio": ratio, "predicted_ratio": model.ratio(*spread), **rates}


def num_majority(problem: LayerPeeled) -> int:
    """Classes with the most samples, where they come first and all others have equally many; else 0."""
    majority = problem.counts.count(problem.counts[0])
    minority = problem.counts[majority:]
    return majority if len(set(minority)) == 1 and minority[0] < problem.counts[0] else 0


@extra_numbers.register
def _(problem: LayerPeeled, solution: Solution) -> Numbers:
    majority = num_majority(problem)
    numbers = {"ratio": max(problem.counts) / min(problem.counts)}
    if majority > 0:
        numbers["minority_cosine"] = minority_cosine(solution, majority)
        numbers["minority_threshold"] = threshold_or_nan(problem, majority)
    return numbers


def threshold_or_nan(problem: LayerPeeled, majority: int) -> float:
    """The ratio from which on the minorities collapse; nan where there is none."""
    try:
        return minority_threshold(len(problem.counts), majority, energy_w=problem.energy_w, energy_h=problem.energy_h)
    except ValueError:
        return math.nan


@extra_numbers.register
def _(problem: DeepUFM, solution: Solution) -> Numbers:
    ranks = layer_ranks(problem.layers(solution.variables))
    return {"collapse_value": problem.minimum, **{f"rank_{number}": float(rank) for number, rank in enumerate(ranks)}}


@extra_numbers.register
def _(problem: UnregularizedUFM, solution: FlowEnd) -> Numbers:
    return {"conserved_drift": problem.conserved_drift(solution)}


@extra_numbers.register
def _(problem: CentralPath, solution: Solution) -> Numbers:
    signals = problem.signals(solution.variables["features"])
    within, means = problem.losses(solution.variables["features"])
    numbers = {"largest_signal": float(signals[0]), "smallest_signal": float(signals[-1])}
    return numbers | {"loss_nc1": within, "loss_nc23": means}


@extra_numbers.register
def _(problem: BatchNormNet, solution: Solution) -> Numbers:
    return {"hidden_units_in_use": float((solution.variables["weight"].abs().amax(dim=0) > 1e-4).sum())}


@extra_numbers.register
def _(problem: WeightNormalizedNet, solution: Solution) -> Numbers:
    margins = problem.margins(solution.variables)
    numbers = {"rho": float(solution.variables["rho"]), "rho_of_margins": best_norm(margins, lambda_w=problem.lambda_w)}
    return numbers | {"margin_variation": margin_variation(margins), "smallest_margin": float(margins.min())}


@extra_numbers.register
def _(problem: MaxMargin, solution: Solution) -> Numbers:
    return {"normalized_margin": 0.5 / solution.value, "largest_margin": problem.largest_margin}


@extra_numbers.register
def _(problem: FixedETF, solution: Solution) -> Numbers:
    return {"scale": problem.scale}


@extra_numbers.register
def _(problem: LocallyElasticSDE, solution: PathEnd) -> Numbers:
    path = solution.path
    growth = problem.growth(float(path.times[-1]))
    found = estimate_integrals(path.means, kind=problem.kind)
    return {
        **{"integral_alpha": growth.alpha, "integral_beta": growth.beta},
        **{"estimated_alpha": float(found.alpha[-1]), "estimated_beta": float(found.beta[-1])},
        "separability": pairwise_separability(path),
    }
