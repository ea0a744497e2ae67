"""The panels of the figure of a solution, for each model."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import singledispatch
from typing import Any

import torch

from ncollapse import surrogates as models
from ncollapse.drawing.surrogates import GramPanel, LinePanel
from ncollapse.surrogates import FlowEnd, Solution
from ncollapse.surrogates.extras import DrawnMUFM, NearlyCollapsed, num_majority, threshold_or_nan
from ncollapse.surrogates.locally_elastic_sde import PathEnd
from ncollapse.surrogates.mufm_curves import along_descent, over_costs, pfc1_over_layers

Panels = list[LinePanel | GramPanel]


@singledispatch
def solution_panels(problem: Any, solution: Any) -> Panels:
    """Make the panels. A model without curves of its own shows inner products of class means and of classifier rows."""
    point = solution.variables
    means = torch.stack([point["features"][solution.labels == label].mean(dim=0) for label in range(len(point["weight"]))])
    rows = {"class means": means, "classifier rows": point["weight"]}
    return [GramPanel(f"Inner products of {name}", (part @ part.T).tolist()) for name, part in rows.items()]


_grams = solution_panels.dispatch(object)


@solution_panels.register
def _(problem: models.LayerPeeled, solution: Solution) -> Panels:
    """Return the cosine between minority classifier rows over the imbalance up to 10^4, as in the paper; 1 is collapse."""
    majority = num_majority(problem)
    if majority == 0:
        panels: Panels = _grams(problem, solution)
        return panels
    ratios, cosines = [10 ** (i / 10) for i in range(41)], []
    for ratio in ratios:
        counts = (ratio,) * majority + (1.0,) * (len(problem.counts) - majority)
        cosines.append(models.minority_cosine(replace(problem, counts=counts).solve(allow_unconverged=True), majority))
    title, threshold = "Cosine between minority classifier rows", threshold_or_nan(problem, majority)
    marks = {} if math.isnan(threshold) else {f"R₀ = {threshold:.4g}": threshold}
    return [LinePanel(title, "imbalance R, majority over minority samples", {"": (ratios, cosines)}, marks=marks, log="x")]


@solution_panels.register
def _(problem: models.MUFM, solution: Solution) -> Panels:
    """Return PFC1 over the layers and the trade-off over the cost of moving, or collapse along gradient descent."""
    problems = problem.all_draws() if isinstance(problem, DrawnMUFM) else [problem]
    if isinstance(solution, FlowEnd):
        return [*along_descent(problems, solution)]
    return [pfc1_over_layers(problem, solution), *over_costs(problems, problem.lambda_h)]


@solution_panels.register
def _(problem: NearlyCollapsed, solution: Solution) -> Panels:
    """Return the ratio of PFC1 as either decay varies by a factor of ten up and down."""
    model, spread = problem.model, problem.model.spread(problem.inputs)
    factors, curves = [10 ** (i / 20 - 1) for i in range(41)], {}
    for name, label in (("lambda_h", "cost of moving λ_H"), ("lambda_w", "decay of the weight λ_W")):
        # Beyond this decay the formula does not hold.
        longest = 3 * model.scale**2 / (len(model.counts) * model.lambda_w) if name == "lambda_w" else 11
        allowed = [factor for factor in factors if factor <= longest]
        changed = [replace(model, **{name: factor * getattr(model, name)}) for factor in allowed]
        curves[label] = allowed, [one.ratio(*spread) for one in changed]
    title = "PFC1 of the features over that of the data"
    return [LinePanel(title, "factor on the decay", curves, marks={"this solution": 1.0}, log="x")]


@solution_panels.register
def _(problem: models.DeepUFM, solution: Solution) -> Panels:
    """Return the largest singular value of the logits as all decays vary: it jumps to zero at the threshold."""
    shares, curves, target = [0.5 + i / 200 for i in range(121)], {}, max(problem.counts) ** 0.5
    for depth in range(1, max(3, problem.num_layers) + 1):
        # All decays alike, in units of those at which the largest singular value of this depth jumps.
        unit = models.collapse_threshold(target, depth) ** (1 / (depth + 1)) / problem.num_samples
        alike = [dict(lambdas_w=(share * unit,) * depth, lambda_h=share * unit) for share in shares]
        values = [float(replace(problem, bias="none", **decays).singular_values.max()) for decays in alike]
        curves[f"M = {depth}"] = shares, [value / target for value in values]
    title = "Singular value of the logits over that of the targets"
    return [LinePanel(title, "decay of every layer, in units of its threshold", curves, marks={"threshold": 1.0})]


@solution_panels.register
def _(problem: models.UnregularizedUFM, solution: FlowEnd) -> Panels:
    """Return the eigenvalues of the classifier with their law, and the loss."""
    kept = problem.num_classes - 1
    found = torch.stack([torch.linalg.svdvals(point["weight"])[:kept].square() for point in solution.path])
    curves = {f"eigenvalue {number + 1}": (solution.times, found[:, number].tolist()) for number in range(kept)}
    # The law holds on the invariant set only. It is shifted so that it meets each eigenvalue at half of the limit.
    theory = {}
    for number in range(kept):
        met = int((found[:, number] - math.sqrt(problem.counts[0]) / 2).abs().argmin())
        begin, shift = float(found[met, number]), solution.times[met]
        law = [models.collapsed_eigenvalue(begin, time - shift, counts=problem.counts) for time in solution.times]
        theory["law on the invariant set" if number == 0 else f"_{number}"] = solution.times, law
    return [
        LinePanel("Eigenvalues of W Wᵀ", "time", curves, theory),
        LinePanel("Loss", "time", {"along the flow": (solution.times, solution.history)}, log="y"),
    ]


@solution_panels.register
def _(problem: models.CentralPath, solution: FlowEnd) -> Panels:
    """Return the signals with their law, and the two parts of the loss."""
    every = sorted({round((len(solution.times) - 1) ** (i / 100)) for i in range(101)})
    times = [solution.times[i] for i in every]
    features = [solution.path[i]["features"] for i in every]
    found = [problem.signals(rows).tolist() for rows in features]
    starts = problem.signals(solution.path[0]["features"]).tolist()
    laws = [[models.signal_after(start, time, counts=problem.counts) for time in times] for start in starts]
    signals = {f"signal {j + 1}": (times, [row[j] for row in found]) for j in range(len(starts))}
    theory = {"exact law" if j == 0 else f"_{j}": (times, law) for j, law in enumerate(laws)}
    within, between = zip(*(problem.losses(rows) for rows in features), strict=True)
    return [
        LinePanel("Singular values ω of the means, whitened", "time", signals, theory, log="x"),
        LinePanel(
            "Parts of the loss on the central path",
            "time",
            {"NC1": (times, within), "NC2 and NC3": (times, between)},
            log="xy",
        ),
    ]


def _descent(solution: Solution, bound: float) -> Panels:
    """Return the objective over the steps; a closed form has none."""
    steps = list(range(len(solution.history)))
    curves, bounds = {"descent": (steps, solution.history)}, {"bound": (steps, [bound] * len(steps))}
    return [LinePanel("Objective", "step", curves, bounds, log="y")] if len(steps) > 1 else []


@solution_panels.register
def _(problem: models.BatchNormNet, solution: Solution) -> Panels:
    """Return the descent with its bound, and the outputs at the minimum as the decay varies."""
    longest = 1.2 * max(problem.counts) ** 0.5
    decays = [longest * i / 60 for i in range(61)]
    outputs = {
        f"{count} samples": (decays, [max(0.0, 1 - decay / count**0.5) for decay in decays])
        for count in sorted(set(problem.counts))
    }
    title = "Output of the true class at the minimum"
    return [
        *_descent(solution, problem.minimum),
        LinePanel(title, "weight decay λ", outputs, marks={"this solution": problem.lambda_w}),
    ]


@solution_panels.register
def _(problem: models.WeightNormalizedNet, solution: Solution) -> Panels:
    """Return the margins at start and solution, and the descent with its bound."""
    ranks, margins = list(range(1, len(problem.labels) + 1)), problem.margins(solution.variables)
    points = {"start": problem.margins(problem.start(0)), "solution": margins}
    curves = {name: (ranks, values.sort().values.tolist()) for name, values in points.items()}
    return [LinePanel("Normalized margins, sorted", "sample", curves), *_descent(solution, problem.minimum)]


@solution_panels.register
def _(problem: models.BoundedOutputs, solution: Solution) -> Panels:
    """Return the loss over the radius: of random outputs, of their averages by class, and of the simplex."""
    radii = [problem.radius * (i + 1) / 10 for i in range(20)]
    # Several samples per class, so that there is something to average; half right, half noise.
    wider = replace(problem, counts=tuple(max(8, count) for count in problem.counts))
    balls = [replace(wider, radius=radius) for radius in radii]
    mixed = [
        ball.retract({"features": ball.start(0)["features"] + ball.closed_form().variables["features"]})["features"]
        for ball in balls
    ]
    averaged = [models.average_by_class(outputs, wider.labels) for outputs in mixed]
    curves = {}
    for name, outputs in (("noisy outputs", mixed), ("averaged by class", averaged)):
        values = [float(ball.objective({"features": rows})) for ball, rows in zip(balls, outputs, strict=True)]
        curves[name] = radii, values
    theory = {"simplex, the least": (radii, [ball.minimum for ball in balls])}
    title = "Cross-entropy of bounded outputs"
    return [LinePanel(title, "radius R", curves, theory, log="y", marks={"this solution": problem.radius})]


@solution_panels.register
def _(problem: models.NormalizedFeatures, solution: Solution) -> Panels:
    """Return the value that descent finds over the dimension. From K-1 on it is the bound."""
    classes = len(problem.counts)
    dims = list(range(2, max(classes, 3) + 1))
    found = [replace(problem, dim=dim, counts=(1,) * classes).solve(seed=0, allow_unconverged=True).value for dim in dims]
    theory = {"bound": (dims, [problem.minimum] * len(dims))}
    title = f"Cross-entropy of {classes} classes on the sphere"
    return [LinePanel(title, "dimension", {"descent": (dims, found)}, theory, marks={"K − 1": classes - 1})]


@solution_panels.register
def _(problem: models.MaxMargin, solution: Solution) -> Panels:
    """Return the normalized margin along the flow."""
    if len(solution.history) == 1:
        panels: Panels = _grams(problem, solution)
        return panels
    steps = [100 * number for number in range(len(solution.history))]
    reached = {"along the flow": (steps, [0.5 / value for value in solution.history])}
    theory = {"largest": (steps, [problem.largest_margin] * len(steps))}
    return [LinePanel("Normalized margin", "step of the flow", reached, theory)]


@solution_panels.register
def _(problem: models.LocallyElasticSDE, solution: PathEnd) -> Panels:
    """Return the loss, and the cosine between class means with that of a simplex."""
    times, classes = solution.path.times.tolist(), problem.num_classes
    unit = torch.nn.functional.normalize(solution.path.means, dim=2)
    cosines = ((unit @ unit.transpose(1, 2)).sum(dim=(1, 2)) - classes) / (classes * (classes - 1))
    simplex = {"simplex": ([times[0], times[-1]], [-1 / (classes - 1)] * 2)}
    return [
        LinePanel("Cross-entropy", "time", {"": (times, solution.path.losses)}),
        LinePanel("Mean cosine between class means", "time", {"simulated": (times, cosines.tolist())}, simplex),
    ]
