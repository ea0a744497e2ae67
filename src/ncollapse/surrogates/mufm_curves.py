"""The panels of the figure of the multilayer model, with mean and range over several data sets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ncollapse.depth import GRID, GeodesicCurve
from ncollapse.drawing.surrogates import Band, Curve, LinePanel
from ncollapse.statistics import PairedMoments
from ncollapse.surrogates import MUFM, UFM, FlowEnd, Solution, alignment
from ncollapse.surrogates.extras import data_metrics
from ncollapse.surrogates.solving.flows import descend

# Metrics of the solution, of the data and of the model without data.
_TRADEOFF = {
    "pfc1": "PFC1, within over between",
    "pfc2": "PFC2, distance to an ETF",
    "pfc3": "PFC3, accuracy of the nearest center",
}
_ALIGNED = ("Cosine of features and data", "Distance of both, scaled to norm one")
_COSTS = tuple(10 ** (i / 4 - 6) for i in range(25))
_WITH, _WITHOUT = "multilayer model", "without data"


def pfc1_over_layers(problem: MUFM, solution: Solution) -> LinePanel:
    """Return PFC1 on the straight line between data and features, where the layers lie."""
    paired = PairedMoments.from_batch(problem.inputs, solution.variables["features"], problem.labels, problem.num_classes)
    values = GeodesicCurve(paired, "sample").pfc1(GRID).tolist()
    return LinePanel("PFC1 over the layers of this solution", "position t, data to features", {"": (GRID, values)})


def over_costs(problems: Sequence[MUFM], mark: float) -> list[LinePanel]:
    """Return the trade-off between data and full collapse as the cost of moving varies: the paper's figure 5."""
    rows: dict[str, list[list[float]]] = {title: [] for title in (*_TRADEOFF.values(), *_ALIGNED)}
    levels: dict[str, dict[str, list[float]]] = {title: {"data": [], _WITHOUT: []} for title in _TRADEOFF.values()}
    for one in problems:
        found = [replace(one, lambda_h=cost).solve(allow_unconverged=True) for cost in _COSTS]
        without = _without_data(one).solve(allow_unconverged=True)
        ids = list(_TRADEOFF)
        along = [point.metrics(ids) for point in found]
        flat = {"data": data_metrics(without, one.inputs, ids), _WITHOUT: without.metrics(ids)}
        for metric, title in _TRADEOFF.items():
            rows[title].append([point[metric] for point in along])
            for name, values in flat.items():
                levels[title][name].append(values[metric])
        aligned = [alignment(point.variables["features"], one.inputs) for point in found]
        for title, column in zip(_ALIGNED, zip(*aligned, strict=True), strict=True):
            rows[title].append(list(column))
    name, panels = _named(_WITH, problems), []
    for title, draws in rows.items():
        curve, band = _mean_and_range(_COSTS, draws)
        theory = {key: _level(_COSTS, level) for key, level in levels.get(title, {}).items()}
        marks, bands = {"this solution": mark}, {name: band}
        panels.append(LinePanel(title, "cost of moving, λ_H", {name: curve}, theory, marks, log="x", bands=bands))
    return panels


def along_descent(problems: Sequence[MUFM], solution: FlowEnd) -> list[LinePanel]:
    """Return PFC1 to PFC3 along gradient descent, with data and without: the paper's figure 4."""
    num_steps, rate = int(solution.times[-1]), float(solution.source.split()[-1])
    rows: dict[str, dict[str, list[list[float]]]] = {metric: {_WITH: [], _WITHOUT: []} for metric in _TRADEOFF}
    for number, one in enumerate(problems):
        free = _without_data(one)
        followed = solution if number == 0 else descend(one, one.start(number), rate, num_steps)
        for name, path in ((_WITH, followed), (_WITHOUT, descend(free, free.start(number), rate, num_steps))):
            points = [replace(path, variables=point).metrics(list(_TRADEOFF)) for point in path.path[1:]]
            for metric in _TRADEOFF:
                rows[metric][name].append([point[metric] for point in points])
    panels, steps = [], solution.times[1:]
    data = [data_metrics(replace(solution, labels=one.labels), one.inputs, list(_TRADEOFF)) for one in problems]
    for metric, title in _TRADEOFF.items():
        parts = {_named(name, problems): _mean_and_range(steps, draws) for name, draws in rows[metric].items()}
        curves, bands = {key: part[0] for key, part in parts.items()}, {key: part[1] for key, part in parts.items()}
        level, log = _level(steps, [values[metric] for values in data]), "x" if metric == "pfc3" else "xy"
        panels.append(LinePanel(title, "step of gradient descent", curves, {"data": level}, log=log, bands=bands))
    return panels


def _without_data(problem: MUFM) -> UFM:
    decay = {"lambda_w": problem.lambda_w, "lambda_h": problem.lambda_h}
    return UFM(problem.counts, problem.inputs.shape[1], loss=problem.loss, bias=problem.bias, **decay)


def _named(name: str, problems: Sequence[MUFM]) -> str:
    return f"{name}, mean and range of {len(problems)} data sets" if len(problems) > 1 else name


def _level(x: Sequence[float], values: Sequence[float]) -> Curve:
    return (x[0], x[-1]), [sum(values) / len(values)] * 2


def _mean_and_range(x: Sequence[float], draws: Sequence[Sequence[float]]) -> tuple[Curve, Band]:
    columns = list(zip(*draws, strict=True))
    mean = [sum(column) / len(column) for column in columns]
    return (x, mean), (x, [min(column) for column in columns], [max(column) for column in columns])
