"""The numbers that the figure of a solution draws, each against the model or a formula, for every model with curves."""

import math
from dataclasses import replace

import pytest
import torch

from ncollapse import surrogates as models
from ncollapse.surrogates import GroupedNewton, LayerPeeled, MaxMargin, NearCollapse, NormalizedFeatures, balanced
from ncollapse.surrogates.curves import solution_panels
from ncollapse.surrogates.extras import NearlyCollapsed
from ncollapse.surrogates.max_margin import MarginFlow
from ncollapse.surrogates.solving.problem import SolverResult


def normal(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def labels_of(counts):
    return torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))


def test_inner_products_of_means_and_rows():
    problem = models.UFM((3, 1, 2), 3, lambda_w=0.02, lambda_h=0.03)
    solution = problem.solution(problem.start(2), "start")
    means, rows = solution_panels(problem, solution)
    features, weight = solution.variables["features"], solution.variables["weight"]
    centers = [features[:3].mean(dim=0), features[3], features[4:].mean(dim=0)]
    assert [means.title, rows.title] == ["Inner products of class means", "Inner products of classifier rows"]
    for i in range(3):
        assert means.gram[i] == pytest.approx([float(centers[i] @ center) for center in centers])
        assert rows.gram[i] == pytest.approx([float(weight[i] @ row) for row in weight])


def test_minority_cosines_over_the_imbalance():
    problem = LayerPeeled((2.0, 2.0, 1.0, 1.0), energy_w=1.0, energy_h=2.0)
    (panel,) = solution_panels(problem, problem.solve())
    ratios, cosines = panel.curves[""]
    assert ratios == pytest.approx([10 ** (i / 10) for i in range(41)])
    # Of an ETF at balance, rising, one where the minorities have collapsed.
    assert cosines[0] == pytest.approx(-1 / 3, abs=1e-6)
    assert cosines == sorted(cosines)
    assert [cosine > 1 - 1e-6 for cosine in cosines] == [ratio > 7.618 for ratio in ratios]
    middle = LayerPeeled.imbalanced(4, 2, ratios[5], energy_w=1.0, energy_h=2.0).solve()
    assert cosines[5] == pytest.approx(models.minority_cosine(middle, 2), abs=1e-6)
    assert panel.marks == {"R₀ = 7.618": pytest.approx(7.618, abs=5e-4)}
    assert panel.log == "x"


def test_minority_cosines_without_a_threshold_or_minorities():
    wide = LayerPeeled((2.0, 1.0, 1.0), energy_w=1.0, energy_h=60.0)
    assert solution_panels(wide, wide.solve())[0].marks == {}
    alike = LayerPeeled((1.0,) * 3, energy_w=1.0, energy_h=2.0)
    assert len(solution_panels(alike, alike.solve())) == 2


@pytest.mark.parametrize(("lambda_w", "longest"), [(0.05, 10.0), (0.9, 3 * 1.3**2 / (4 * 0.9))])
def test_the_ratio_near_collapse_over_both_decays(lambda_w, longest):
    model = NearCollapse(balanced(4, 5), scale=1.3, lambda_w=lambda_w, lambda_h=0.02)
    problem = NearlyCollapsed(*model.inputs(6, 0.1, 0), lambda_w=lambda_w, lambda_h=0.02, model=model)
    (panel,) = solution_panels(problem, None)
    inside, outside = model.spread(problem.inputs)
    factors = [10 ** (i / 20 - 1) for i in range(41)]
    for name, label in (("lambda_h", "cost of moving λ_H"), ("lambda_w", "decay of the weight λ_W")):
        x, y = panel.curves[label]
        kept = factors if name == "lambda_h" else [factor for factor in factors if factor <= longest]
        assert x == pytest.approx(kept)
        changed = [replace(model, **{name: factor * getattr(model, name)}) for factor in kept]
        assert y == pytest.approx([one.ratio(inside, outside) for one in changed])
    assert (panel.marks, panel.log) == ({"this solution": 1.0}, "x")


@pytest.mark.parametrize(("counts", "dim", "num_layers"), [((4, 4, 4), 3, 1), ((9, 4, 1), 2, 4)])
def test_singular_values_jump_at_the_threshold_of_the_largest_class(counts, dim, num_layers):
    problem = models.DeepUFM(counts, dim, lambdas_w=(0.01,) * num_layers, lambda_h=0.02, bias="free")
    (panel,) = solution_panels(problem, None)
    assert list(panel.curves) == [f"M = {depth}" for depth in range(1, max(3, num_layers) + 1)]
    assert panel.marks == {"threshold": 1.0}
    for depth, (x, y) in enumerate(panel.curves.values(), start=1):
        assert x == pytest.approx([0.5 + i / 200 for i in range(121)])
        edge = ((depth - 1) ** (depth - 1) / depth ** (2 * depth)) ** (1 / (depth + 1))
        for share, value in zip(x, y, strict=True):
            if share > 1:
                assert value == 0
            elif share < 1:
                assert value >= (depth - 1) / depth
                assert (1 - value) * value ** ((depth - 1) / (depth + 1)) == pytest.approx(share * edge, rel=1e-9)


def test_eigenvalues_of_the_flow_and_their_law():
    problem = models.UnregularizedUFM(balanced(3, 4), 4)
    start = {name: 1e-2 * part for name, part in problem.start(0).items()}
    end = problem.flow(start, duration=6.0, num_steps=200)
    eigenvalues, loss = solution_panels(problem, end)
    assert loss.curves == {"along the flow": (end.times, end.history)}
    assert loss.log == "y"
    assert list(eigenvalues.curves) == ["eigenvalue 1", "eigenvalue 2"]
    assert list(eigenvalues.theory) == ["law on the invariant set", "_1"]
    found = torch.stack([torch.linalg.eigvalsh(point["weight"] @ point["weight"].T) for point in end.path])
    for number, (name, law) in enumerate(zip(eigenvalues.curves, eigenvalues.theory.values(), strict=True)):
        times, values = eigenvalues.curves[name]
        assert times == law[0] == end.times
        assert values == pytest.approx(found[:, 2 - number].tolist(), abs=1e-12)
        # The law goes through the point that is nearest to half of the limit √n = 2, and is the logistic curve.
        met = min(range(201), key=lambda i, values=values: abs(values[i] - 1))
        odds = [math.log(value / (2 - value)) for value in law[1]]
        assert law[1][met] == pytest.approx(values[met], rel=1e-12)
        assert odds[150] - odds[50] == pytest.approx(4 * (end.times[150] - end.times[50]), rel=1e-9)


def test_the_law_is_the_eigenvalue_on_the_invariant_set():
    problem = models.UnregularizedUFM(balanced(3, 4), 4)
    panel = solution_panels(problem, problem.flow(problem.collapsed_start(0.1), duration=1.0, num_steps=200))[0]
    for (_, found), (_, law) in zip(panel.curves.values(), panel.theory.values(), strict=True):
        assert found == pytest.approx(law, abs=1e-7)


def test_signals_on_the_central_path_and_their_law():
    problem = models.CentralPath(balanced(3, 6), 4)
    end = problem.flow(problem.start(0), duration=2000.0, num_steps=150)
    signals, parts = solution_panels(problem, end)
    kept = sorted({round(150 ** (i / 100)) for i in range(101)})
    assert list(signals.curves) == ["signal 1", "signal 2"]
    assert list(signals.theory) == ["exact law", "_1"]
    for (times, found), (at, law) in zip(signals.curves.values(), signals.theory.values(), strict=True):
        assert times == at == [end.times[i] for i in kept]
        assert found == pytest.approx(law, rel=1e-5)
        assert found[-1] > 1.5 * found[0]
    # They are the two parts of the loss.
    (times, within), (at, means) = parts.curves["NC1"], parts.curves["NC2 and NC3"]
    assert times == at == [end.times[i] for i in kept]
    assert [a + b for a, b in zip(within, means, strict=True)] == pytest.approx([end.history[i] for i in kept], rel=1e-9)
    first = problem.losses(end.path[kept[0]]["features"])
    assert (within[0], means[0]) == pytest.approx(first, rel=1e-12)
    assert (signals.log, parts.log) == ("x", "xy")


def test_batch_normalization_outputs_over_the_decay():
    problem = models.BatchNormNet(normal(0, 7, 9), labels_of((4, 1, 2)), lambda_w=0.4)
    descent, outputs = solution_panels(problem, solution := problem.solve(allow_unconverged=True))
    steps = list(range(len(solution.history)))
    assert descent.curves == {"descent": (steps, solution.history)}
    assert descent.theory == {"bound": (steps, [problem.minimum] * len(steps))}
    assert descent.log == "y"
    assert list(outputs.curves) == ["1 samples", "2 samples", "4 samples"]
    assert outputs.marks == {"this solution": 0.4}
    for count, (x, y) in zip((1, 2, 4), outputs.curves.values(), strict=True):
        assert x == pytest.approx([2.4 * i / 60 for i in range(61)])
        first = problem.labels.tolist().index({1: 1, 2: 2, 4: 0}[count])
        for i in (5, 20, 40, 55):
            point = replace(problem, lambda_w=x[i]).closed_form().variables
            assert y[i] == pytest.approx(float((point["features"] @ point["weight"].T)[first].max()), abs=1e-9)
    assert len(solution_panels(problem, problem.closed_form())) == 1


def test_sorted_margins_of_weight_normalization():
    problem = models.WeightNormalizedNet(normal(1, 6, 3), labels_of((4, 2)), lambda_w=0.1, width=3)
    solution = problem.solve(allow_unconverged=True)
    margins, descent = solution_panels(problem, solution)
    for name, point in (("start", problem.start(0)), ("solution", solution.variables)):
        ranks, values = margins.curves[name]
        assert ranks == [1, 2, 3, 4, 5, 6]
        assert values == sorted(problem.margins(point).tolist())
    assert descent.theory["bound"][1][0] == problem.minimum


def test_bounded_outputs_over_the_radius():
    problem = models.BoundedOutputs((3, 10), radius=2.0)
    (panel,) = solution_panels(problem, None)
    radii = [0.2 * (i + 1) for i in range(20)]
    noisy, averaged = panel.curves["noisy outputs"], panel.curves["averaged by class"]
    simplex = panel.theory["simplex, the least"]
    assert panel.marks == {"this solution": 2.0}
    for x, _ in (noisy, averaged, simplex):
        assert x == pytest.approx(radii)
    assert simplex[1] == pytest.approx([math.log1p(math.exp(-math.sqrt(2) * radius)) for radius in radii])
    assert all(low < mean < high for low, mean, high in zip(simplex[1], averaged[1], noisy[1], strict=True))
    # Noise of norm up to R on outputs of norm R, brought back to the ball; classes of fewer than eight samples get eight.
    ball = models.BoundedOutputs((8, 10), radius=radii[4])
    outputs = ball.start(0)["features"] + ball.closed_form().variables["features"]
    sizes = torch.linalg.norm(outputs, dim=1, keepdim=True)
    outputs = torch.where(sizes > ball.radius, ball.radius * outputs / sizes, outputs)
    means = torch.stack([outputs[:8].mean(dim=0), outputs[8:].mean(dim=0)])
    for rows, curve in ((outputs, noisy), (means[ball.labels], averaged)):
        expected = torch.nn.functional.cross_entropy(rows, ball.labels)
        assert curve[1][4] == pytest.approx(float(expected), rel=1e-12)


def test_normalized_features_over_the_dimension():
    problem = NormalizedFeatures(balanced(4, 3), 5, temperature=5.0)
    (panel,) = solution_panels(problem, None)
    dims, values = panel.curves["descent"]
    assert dims == panel.theory["bound"][0] == [2, 3, 4]
    assert panel.theory["bound"][1] == [problem.minimum] * 3
    # On the circle a square, from K - 1 dimensions on the bound.
    assert values[0] == pytest.approx(math.log(1 + 2 * math.exp(-5) + math.exp(-10)), rel=1e-6)
    assert values[1:] == pytest.approx([problem.minimum] * 2, rel=1e-6)
    assert panel.marks == {"K − 1": 3}
    assert "4 classes" in panel.title
    pair = NormalizedFeatures(balanced(2, 1), 2)
    assert solution_panels(pair, None)[0].curves["descent"][0] == [2, 3]


def test_the_margin_along_the_flow():
    problem = MaxMargin((3, 3, 3), 3)
    solution = problem.solve(MarginFlow(num_steps=300), allow_unconverged=True)
    (panel,) = solution_panels(problem, solution)
    steps, values = panel.curves["along the flow"]
    assert steps == [0, 100, 200, 300]
    assert values == pytest.approx([0.5 / value for value in solution.history])
    assert panel.theory["largest"] == (steps, [problem.largest_margin] * 4)
    assert values[-1] < problem.largest_margin == pytest.approx(1 / (4 * math.sqrt(3)))
    assert len(solution_panels(problem, problem.closed_form())) == 2


def test_cosines_of_locally_elastic_means():
    sde = models.LocallyElasticSDE(3, kind="L", alpha=0.8, beta=-0.4, start_time=1.0)
    path = sde.simulate(torch.eye(3) + 0.3 * normal(0, 3, 3), torch.linspace(1, 9, 41), counts=(5,) * 3, noise=0.1, seed=1)
    losses, cosines = solution_panels(sde, sde.solution(path))
    assert losses.curves[""] == (path.times.tolist(), path.losses)
    times, values = cosines.curves["simulated"]
    assert times == path.times.tolist()
    for i in (0, 20, 40):
        pairs = [torch.nn.functional.cosine_similarity(path.means[i, k], path.means[i, j], dim=0)
                 for k in range(3) for j in range(k)]  # fmt: skip
        assert values[i] == pytest.approx(sum(map(float, pairs)) / 3, rel=1e-12)
    assert cosines.theory == {"simplex": ([1.0, 9.0], [-0.5, -0.5])}


def test_a_figure_shows_whatever_a_solver_left(monkeypatch):
    """A descent that is cut short somewhere along a curve does not stop the figure."""
    problems = [
        LayerPeeled((2.0, 2.0, 1.0, 1.0), energy_w=1.0, energy_h=2.0),
        NormalizedFeatures(balanced(4, 1), 3),
        models.MUFM(normal(0, 6, 3), labels_of((3, 3)), lambda_w=0.1, lambda_h=0.1),
    ]
    solutions = [problem.solve() for problem in problems]
    monkeypatch.setattr("ncollapse.surrogates.mufm_curves._COSTS", (1e-3, 1e-1))

    def cut_short(solver, problem, start):
        return SolverResult(problem.start(0), (1.0,), False, "cut short")

    for solver in (GroupedNewton, models.ProjectedGradient, models.EliminatedFeatures, models.LBFGS):
        monkeypatch.setattr(solver, "run", cut_short)
    for problem, solution in zip(problems, solutions, strict=True):
        with pytest.raises(models.NotConverged):
            problem.solve()
        if isinstance(problem, LayerPeeled):
            monkeypatch.setattr("ncollapse.surrogates.curves.threshold_or_nan", lambda problem, majority: math.nan)
        assert all(panel.curves for panel in solution_panels(problem, solution))
