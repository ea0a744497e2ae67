"""Models with free features of the review (arXiv 2206.04041, sections 3.1 and 3.2), solved: what collapses, and from where."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor

from ncollapse import surrogates as models
from ncollapse.experiments.experiment import Experiment, Found, Panel, Point, least
from ncollapse.experiments.work import Work
from ncollapse.surrogates import LBFGS, MarginFlow, MaxMargin, Problem, Solution, Solver, UnregularizedUFM, balanced
from ncollapse.surrogates.solving.flows import descend

_COLLAPSE = {"pfc1": "Variability within over between classes", "pfc2": "Distance of class means to a simplex ETF"}
_STRONG = {"snc1": "SNC1", "snc2": "SNC2", "snc3": "SNC3"}
_COUNTS = balanced(4, 5)
# Flows come to collapse slowly: the direction of the cross-entropy as one over the steps, the central path as t^(-1/2).
_COLLAPSED = 0.05


def _at(found: Solution, line: str, x: float | str) -> list[Point]:
    return [Point(title, line, x, found.metrics([metric])[metric]) for metric, title in _COLLAPSE.items()]


def _solved(work: Work) -> Found:
    right, points = True, []
    for loss, bias, name in (("cross_entropy", "none", "cross-entropy"), ("mse", "free", "squared error, free bias")):
        problem = models.UFM(_COUNTS, dim=6, loss=loss, lambda_w=5e-3, lambda_h=5e-3, bias=bias)  # type: ignore[arg-type]
        found = problem.solve(seed=work.seed)
        right &= found.certified and all(value < 1e-4 for value in found.metrics(["pfc1", "pfc2", "nc3"]).values())
        path = descend(problem, problem.start(work.seed), 1.0, 1000)
        for step, variables in list(zip(path.times, path.path, strict=True))[::4]:
            points += _at(replace(path, variables=variables), name, step)
    return Found(right, tuple(points))


def _distant_starts(work: Work) -> Found:
    """Follow the flow without decay from one direction at four distances from the origin."""
    problem, rows = UnregularizedUFM(_COUNTS, dim=6), []
    for size in (1e-3, 1e-2, 1e-1, 1.0):
        start = {name: size * part for name, part in problem.start(work.seed).items()}
        rows.append((size, problem.flow(start, duration=20, num_steps=1200).metrics(list(_STRONG))))
    points = [
        Point(title, "end of the flow", size, errors[metric]) for size, errors in rows for metric, title in _STRONG.items()
    ]
    return Found(
        all(one[metric] < other[metric] for (_, one), (_, other) in pairwise(rows) for metric in _STRONG), tuple(points)
    )


def _random_starts(work: Work) -> Found:
    """Follow the flows of both losses without decay from one standard normal start."""
    squared, entropy = UnregularizedUFM(_COUNTS, dim=6), MaxMargin(_COUNTS, dim=6)
    start = squared.start(work.seed)
    ends = {
        "squared error": squared.flow(start, duration=20, num_steps=1200),
        "cross-entropy": entropy.solve(
            MarginFlow(num_steps=3000), start={name: start[name] for name in ("weight", "features")}, allow_unconverged=True
        ),
    }
    begin, points = squared.solution(start, "start"), []
    for name, end in ends.items():
        points += [*_at(begin, name, "start"), *_at(end, name, "end")]
    values = [[end.metrics([metric])[metric] for metric in _COLLAPSE] for end in ends.values()]
    return Found(least(math.log10(one / other) for one, other in zip(*values, strict=True)), tuple(points))


def _central_path(work: Work) -> Found:
    problem = models.CentralPath(balanced(4, 10), dim=6)
    path = problem.flow(problem.start(work.seed), duration=2e5, num_steps=400)
    starts, points, right = problem.signals(path.path[0]["features"]).tolist(), [], True
    for step in (0, 1, 4, 20, 100, 400):
        found = problem.signals(path.path[step]["features"]).tolist()
        law = [models.signal_after(signal, path.times[step], counts=problem.counts) for signal in starts]
        right &= all(math.isclose(one, other, rel_tol=1e-2) for one, other in zip(found, law, strict=True))
        points += [Point("Signals", f"signal {i + 1}", path.times[step], signal) for i, signal in enumerate(found)]
        points += [
            Point("Signals", "exact law" if i == 0 else f"law {i + 1}", path.times[step], law[i]) for i in range(len(law))
        ]
    return Found(right and found[-1] / found[0] > starts[-1] / starts[0], tuple(points))


def _largest_margin(work: Work) -> Found:
    problem = MaxMargin(_COUNTS, dim=6)
    found = problem.solve(MarginFlow(num_steps=3000), seed=work.seed, allow_unconverged=True)
    shares = [0.5 / value / problem.largest_margin if math.isfinite(value) else None for value in found.history]
    points = [Point("Share of the largest margin", "flow", 100 * index, share) for index, share in enumerate(shares)]
    start = problem.solution(problem.start(work.seed), "start")
    points += [*_at(start, "flow", "start"), *_at(found, "flow", "end")]
    return Found((shares[-1] or 0.0) >= 1 - _COLLAPSED, tuple(points), (shares[0] or 0.0) >= 1 - _COLLAPSED)


def _averaged(work: Work) -> Found:
    """Solve the cross-entropy in a ball, and average random outputs by class."""
    right, points = True, []
    for radius in (1.0, 2.0, 4.0, 8.0):
        problem = models.BoundedOutputs((3, 8, 5), radius=radius)
        start, found = problem.start(work.seed), problem.solve(seed=work.seed)
        mean = {"features": models.average_by_class(start["features"], problem.labels)}
        risks = [float(problem.objective(point)) for point in (start, mean)]
        right &= risks[1] <= risks[0] and found.certified and found.metrics(["pfc2"])["pfc2"] < 1e-4
        values = {"random outputs": risks[0], "averaged by class": risks[1], "descent": found.value, "simplex": problem.minimum}
        points += [Point("Cross-entropy", name, radius, value) for name, value in values.items()]
    return Found(right, tuple(points))


def table_rows(seed: int) -> Iterator[tuple[str, Solution | None, Solution]]:
    """Solve the models of Table 1: what each is called, its start where there is one, and its end."""
    free = UnregularizedUFM(_COUNTS, dim=6)
    small = {name: 1e-3 * part for name, part in free.start(seed).items()}
    yield "Mixon", free.solution(small, "start"), free.flow(small, duration=20, num_steps=1200)
    central = models.CentralPath(balanced(4, 10), dim=6)
    yield "Han", central.solution(central.start(seed), "start"), central.flow(central.start(seed), duration=1e6, num_steps=500)
    solvers: dict[str, Solver] = {"Ji": MarginFlow(num_steps=3000), "Ergen": LBFGS(max_iterations=600)}
    solved: dict[str, Problem] = {
        "E & Wojtowytsch": models.BoundedOutputs((5, 3, 2, 4), radius=4.0),
        "Lu & Steinerberger": models.NormalizedFeatures(_COUNTS, dim=6),
        "Zhu": models.UFM(_COUNTS, dim=6, lambda_w=5e-3, lambda_h=1e-3, bias="regularized", lambda_b=1e-3),
        "Fang": models.LayerPeeled((1,) * 4, energy_w=1.0, energy_h=5.0),
        "Ji": MaxMargin(_COUNTS, dim=6),
    }
    generator = torch.Generator().manual_seed(seed)
    labels, inputs = torch.arange(4).repeat_interleave(5), torch.randn(20, 30, generator=generator, dtype=torch.float64)
    solved["Ergen"] = models.BatchNormNet(inputs, labels, lambda_w=0.1, width=20)
    for name, problem in solved.items():
        yield (
            name,
            problem.solution(problem.start(seed), "start"),
            problem.solve(solvers.get(name), seed=seed, allow_unconverged=True),
        )
    yield "Poggio & Liao", *_outputs_of_two_classes(seed, generator)
    elastic = models.LocallyElasticSDE(3, kind="L", alpha=1.0, beta=-0.5, start_time=1.0)
    first = torch.eye(3, dtype=torch.float64) + 0.3 * torch.randn(3, 3, generator=generator, dtype=torch.float64)
    times = torch.linspace(1, 20, 500, dtype=torch.float64)
    yield "Zhang", None, elastic.solution(elastic.simulate(first, times, counts=balanced(3, 50), noise=0.1, seed=seed))


def _outputs_of_two_classes(seed: int, generator: torch.Generator) -> tuple[Solution, Solution]:
    """Solve the network with normalized weights, whose outputs, not features, are to collapse."""
    labels = torch.arange(2).repeat_interleave(10)
    inputs = 0.3 * torch.randn(20, 5, generator=generator, dtype=torch.float64)
    inputs[:, 0] += 2 * labels - 1
    problem = models.WeightNormalizedNet(inputs, labels, lambda_w=1e-4)

    def outputs(found: Solution) -> Solution:
        rows: Tensor = (problem.margins(found.variables) * (2 * labels - 1)).unsqueeze(1)
        return replace(found, variables={"features": rows})

    start = problem.solution(problem.start(seed), "start")
    return outputs(start), outputs(problem.solve(seed=seed, allow_unconverged=True))


def _table(work: Work) -> Found:
    right, points = True, []
    for name, start, end in table_rows(work.seed):
        right &= all(value < _COLLAPSED for value in end.metrics(list(_COLLAPSE)).values())
        points += [*(_at(start, name, "start") if start else []), *_at(end, name, "end")]
    return Found(right, tuple(points))


_check, _test = partial(Experiment, checks_code=True, seeds=12), partial(Experiment, seeds=12)
_ends = tuple(Panel(title, "") for title in _COLLAPSE.values())

THEORY_EXPERIMENTS = (
    _check(
        "review:sec3.1",
        "Section 3.1 and eq. (7)",
        "Bounded outputs: averaging by class, and the simplex",
        "Averaging outputs by class never raises the risk, and of bounded outputs a simplex ETF has the least cross-entropy.",
        "At four radii and with unequal classes: the averages of random outputs have no larger risk, and projected descent "
        "ends at the closed form, with class means on a simplex ETF to 1e-4.",
        _averaged,
        (Panel("Cross-entropy", "radius R", log_x=True),),
    ),
    _check(
        "review:fig2",
        "Figure 2",
        "The unconstrained features model",
        "With features as free variables, global minimizers of cross-entropy and squared error with decay are collapsed.",
        "Both losses solved from a random start: certified minima with NC1, NC2 and NC3 below 1e-4. The figure shows descent.",
        _solved,
        tuple(Panel(title, "step of gradient descent", log_x=True) for title in _COLLAPSE.values()),
    ),
    _test(
        "review:fig3",
        "Figure 3",
        "Strong collapse and the distance of the start",
        "Under the squared error without decay, the errors of SNC1 to SNC3 grow with the distance of the start from "
        "the origin.",
        "From one direction at distances 0.001, 0.01, 0.1 and 1, in units of a standard normal start, all three errors at the "
        "end of the flow grow at every step.",
        _distant_starts,
        tuple(Panel(title, "size of the start", log_x=True) for title in _STRONG.values()),
    ),
    _test(
        "review:sec3.1.2",
        "Section 3.1.2",
        "Without decay: cross-entropy and squared error from random starts",
        "Without regularization, cross-entropy comes to collapse from random starts; squared error need not.",
        "Decades by which PFC1 and PFC2 at the end of the flow of the squared error are above those of the cross-entropy, from "
        "one standard normal start, whichever is less.",
        _random_starts,
        _ends,
        takes_least=True,
    ),
    _check(
        "review:sec3.1.3-central",
        "Section 3.1.3, the central path",
        "The renormalized flow on the central path",
        "Features on the central path of the squared error follow a flow that leads to neural collapse.",
        "The signals (singular values of the whitened class means) follow the exact law to one percent and become more equal.",
        _central_path,
        (Panel("Signals", "time", log_x=True),),
    ),
    _test(
        "review:sec3.1.3-margin",
        "Section 3.1.3, eq. (10)",
        "Cross-entropy without decay tends to the largest margin",
        "The gradient flow of the cross-entropy tends in direction to a KKT point of the max-margin problem, which is "
        "collapsed.",
        "After 3,000 steps from a random start the normalized margin is at least 95 % of the largest one.",
        _largest_margin,
        (Panel("Share of the largest margin", "step of the flow"), *_ends),
    ),
    _check(
        "review:table1",
        "Table 1",
        "The models compared, each solved",
        "Models with bounded, decayed, normalized or free features and weights, under cross-entropy or squared error, all "
        "explain neural collapse.",
        "Ten models of the table from a random start: PFC1 and PFC2 at the end are below 0.05, of the features, or of the "
        "outputs for Poggio & Liao. The table's first row, Papyan et al., is about networks and no model.",
        _table,
        _ends,
    ),
)
