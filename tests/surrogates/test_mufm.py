"""The multilayer model: the golden table, the reduction, bounds, laws, the flow."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch

from ncollapse.statistics import ClassScatter
from ncollapse.surrogates import (
    LBFGS,
    MUFM,
    UFM,
    Certificate,
    EliminatedFeatures,
    GradientDescent,
    NotConverged,
    Problem,
    Proximal,
    alignment,
    collapse_progress,
    critical_point,
    gradient_flow,
    growth_threshold,
    merged_decay,
    mufm,
    shrinkage,
    straight_layers,
)
from ncollapse.surrogates.reduced_mufm import best_bound
from ncollapse.surrogates.solving.problem import SolverResult

LABELS = torch.arange(3).repeat_interleave(4)
INPUTS = torch.tensor(
    [[math.sin(1 + i + 2 * j + 0.5 * i * j) + 0.8 * (j == i // 4) for j in range(5)] for i in range(12)], dtype=torch.float64
)

# λ_W, λ_H, best J, ‖Γ‖²/(λ_W λ_H), padded J, PFC1, PFC2, alignment, ‖W‖²
GOLDEN = [
    (0.5, 0.01, 0.240989446367, 0.9914870, 0.240989446367, 0.5702408684, 0.1580126446, 0.8746981268, 0.3603895880),
    (0.2, 0.001, 0.062828910768, 0.9765173, 0.062828910768, 0.2132276367, 0.0724839574, 0.7189483499, 0.3165093457),
    (0.3, 0.1, 0.327846533695, 0.5893947, 0.327846533695, 2.1113479682, 0.3695810166, 0.9948419904, 0.3405717891),
    (0.2, 0.01, 0.171024377953, 1.3120, 0.168670454208, 0.6248912020, 0.1721570568, 0.8628864237, 0.6248676038),
    (0.1, 0.1, 0.284302396359, 1.5985, 0.277871868428, 2.0092381158, 0.3533513286, 0.9920768259, 0.5632264999),
    (0.05, 0.01, 0.109338944349, 2.4637, 0.093242284279, 0.80330606, 0.23143817, 0.85611989, 1.16897490),
    (0.05, 0.001, 0.031723534235, 1.1804, 0.031464057739, 0.36667710, 0.10475538, 0.74739329, 0.60061940),
    (0.01, 0.1, 0.254538339613, 15.10, 0.126592425075, 1.95339660, 0.35069297, 0.98954023, 0.78603110),
]


def golden_model(lambda_w=0.5, lambda_h=0.01, **options):
    return MUFM(INPUTS, LABELS, lambda_w=lambda_w, lambda_h=lambda_h, **options)


def normal(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("row", GOLDEN, ids=lambda row: f"{row[0]}-{row[1]}")
def test_golden_table(row):
    lambda_w, lambda_h, best, ratio, padded, pfc1, pfc2, cosine, squared_weight = row
    problem = golden_model(lambda_w, lambda_h)
    solution = problem.solve()
    branch = solution.certificate.inequality
    assert solution.value == pytest.approx(best, abs=1e-11)
    assert branch.left / branch.right == pytest.approx(ratio, abs=1e-4 if ratio < 15 else 5e-3)
    assert problem.padded_bound == pytest.approx(padded, abs=1e-8)
    assert solution.metrics(["pfc1", "pfc2"]) == pytest.approx({"pfc1": pfc1, "pfc2": pfc2}, abs=1e-7)
    assert alignment(solution.variables["features"], INPUTS)[0] == pytest.approx(cosine, abs=1e-7)
    assert float(solution.variables["weight"].square().sum()) == pytest.approx(squared_weight, abs=1e-7)
    assert solution.certified == (ratio <= 1)
    if ratio <= 1:
        assert solution.gap == pytest.approx(0, abs=1e-12)
    else:
        assert solution.gap == pytest.approx(best - padded, abs=1e-8)
        assert solution.status.startswith("Critical point, not certified")


@pytest.mark.parametrize("bias", ["none", "free"])
def test_the_bound_from_sums_is_that_from_samples(bias):
    problem = golden_model(0.2, 0.01, bias=bias)
    for scale in (0.1, 1.0):
        weight = scale * normal(2, 3, 5)
        expected = problem.dual(problem.best_features(weight))
        assert problem.reduced.dual(weight) == pytest.approx(expected, rel=1e-12)
        wide = problem.padded()
        wider = torch.cat([weight, scale * normal(3, 3, 3)], dim=1)
        assert problem.reduced.padded().dual(wider) == pytest.approx(wide.dual(wide.best_features(wider)), rel=1e-12)


def test_no_better_point_in_twenty_starts():
    for row in GOLDEN[3:5]:
        found = golden_model(*row[:2]).solve(EliminatedFeatures(starts=20), seed=9)
        assert "best of 20 starts" in found.status
        assert found.value == pytest.approx(row[2], abs=1e-11)


@pytest.mark.parametrize("bias", ["none", "free"])
def test_the_reduced_objective_is_the_least_of_given_weights(bias):
    problem = golden_model(bias=bias)
    weight = normal(0, 3, 5)
    value, gradient = problem.reduced.value_and_gradient({"weight": weight})
    point = problem.best_features(weight)
    assert value == pytest.approx(float(problem.objective(point)), rel=1e-13)
    _, joint = problem.value_and_gradient(point)
    assert joint["features"].abs().max() < 1e-14
    # The envelope theorem: the reduced gradient is the partial one at the best features.
    assert torch.allclose(gradient["weight"], joint["weight"], atol=1e-13)
    if bias == "free":
        assert joint["bias"].abs().max() < 1e-14
    step = 1e-5 * normal(1, 3, 5)
    ends = [problem.reduced.value_and_gradient({"weight": weight + sign * step})[0] for sign in (1, -1)]
    assert (ends[0] - ends[1]) / 2 == pytest.approx(float((gradient["weight"] * step).sum()), rel=1e-6)


@pytest.mark.parametrize("bias", ["none", "free"])
@pytest.mark.parametrize("loss", ["mse", "cross_entropy"])
def test_joint_descent_agrees_and_is_certified(loss, bias):
    problem = golden_model(0.2, 0.001, loss=loss, bias=bias)
    joint = problem.solve(LBFGS(), seed=4)
    assert joint.certified
    assert joint.gap == pytest.approx(0, abs=1e-11)
    assert joint.value == pytest.approx(problem.solve(seed=1).value, abs=1e-12)
    wide = problem.padded().solve()
    assert wide.value == pytest.approx(joint.value, abs=1e-11)
    assert torch.linalg.norm(wide.variables["weight"][:, 5:]) < 1e-4


@pytest.mark.parametrize("loss", ["mse", "cross_entropy"])
def test_the_padded_model_is_always_certified(loss):
    wide = golden_model(0.01, 0.1, loss=loss).padded()
    solution = wide.solve()
    branch = solution.certificate.inequality
    assert branch.left == pytest.approx(branch.right, rel=1e-4)
    assert wide.dual(solution.variables)[1] == pytest.approx(solution.value, abs=1e-7)
    assert torch.linalg.norm(solution.variables["weight"][:, 5:]) > 0.1


@pytest.mark.parametrize("loss", ["mse", "cross_entropy"])
def test_padded_descent_from_any_start_is_global(loss):
    """With K dimensions to spare no second-order critical point but the global ones is left."""
    wide = golden_model(0.05, 0.01, loss=loss).padded()
    values = [wide.solve(LBFGS(tolerance=1e-6), seed=seed).value for seed in range(4)]
    assert values == pytest.approx([wide.solve(seed=9).value] * 4, abs=1e-9)


def test_the_way_down_from_an_uncertified_minimum():
    """Zero in the dimensions of the padding, the solution is critical and a strict saddle there."""
    problem = golden_model(0.05, 0.01)
    wide, found = problem.padded(), problem.solve()
    saddle = {name: torch.cat([v, v.new_zeros(len(v), 3)], dim=1) for name, v in found.variables.items()}
    point = critical_point(wide, saddle)
    assert point.gradient_norm < 1e-8
    assert point.imbalance < 1e-8
    assert not point.inequality.holds
    moved = {name: saddle[name] + 1e-3 * point.direction[name] for name in saddle}
    change = float(wide.objective(moved) - wide.objective(saddle))
    assert change == pytest.approx(1e-6 * point.curvature, rel=1e-3)
    assert wide.solve(start=moved).value == pytest.approx(0.093242284279, abs=1e-8)
    certified = golden_model().solve().variables
    assert critical_point(golden_model(), certified).direction is None


@pytest.mark.parametrize("row", GOLDEN[::3], ids=lambda row: f"{row[0]}-{row[1]}")
def test_the_best_weight_predicts_by_a_symmetric_matrix(row):
    """W = Yᵀ H (HᵀH + N λ_W I)⁻¹ at a minimizer, and W M is symmetric with eigenvalues in [0, 1)."""
    variables = golden_model(*row[:2]).solve().variables
    features, targets = variables["features"], torch.nn.functional.one_hot(LABELS).double()
    system = features.T @ features + 12 * row[0] * torch.eye(5, dtype=torch.float64)
    assert torch.allclose(variables["weight"], torch.linalg.solve(system, targets.T @ features, left=False), atol=1e-7)
    predicted = variables["weight"] @ torch.stack([features[LABELS == k].mean(dim=0) for k in range(3)]).T
    assert torch.allclose(predicted, predicted.T, atol=1e-7)
    sizes = torch.linalg.eigvalsh(predicted)
    assert -1e-7 < sizes[0] < sizes[-1] < 1


def test_cross_entropy_does_not_collapse_either():
    """x = h + Wᵀ∇ℓ(Wh)/λ_H, a strongly monotone map of h: distinct samples of a class stay distinct."""
    problem = golden_model(0.2, 0.001, loss="cross_entropy")
    variables = problem.solve(LBFGS(tolerance=1e-8)).variables
    weight, features = variables["weight"], variables["features"]
    moved = features + problem.logit_gradient(variables) @ weight / 0.001
    assert torch.allclose(moved, INPUTS, atol=1e-5)
    scatter = ClassScatter.from_batch(features, LABELS, 3)
    assert torch.linalg.matrix_rank(scatter.within_covariance()) == 5


def gaussian_classes(noise=0.3):
    """Means uniform on the unit sphere: K = 4, d = 20, 50 samples a class."""
    labels = torch.arange(4).repeat_interleave(50)
    return torch.nn.functional.normalize(normal(0, 4, 20), dim=1)[labels] + noise * normal(1, 200, 20), labels


def test_the_papers_tradeoff_on_gaussian_classes():
    """Certified where moving is cheap or dear, not between; all measures go from collapsed to those of the data."""
    inputs, labels = gaussian_classes()
    data = ClassScatter.from_batch(inputs, labels, 4)
    rows, certified = [], []
    for lambda_h in (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0):
        problem = MUFM(inputs, labels, lambda_w=5e-3, lambda_h=lambda_h)
        solution = problem.solve()
        found = solution.metrics(["pfc1", "pfc2"])
        rows.append((found["pfc1"], found["pfc2"], *alignment(solution.variables["features"], inputs)))
        certified.append(solution.certified)
    assert certified == [True, True, True, False, False, True, True]
    for column, sign in ((0, 1), (1, 1), (2, 1), (3, -1)):
        assert all(sign * (b[column] - a[column]) > 0 for a, b in pairwise(rows))
    assert all(distance == pytest.approx(math.sqrt(2 - 2 * cosine), rel=1e-6) for *_, cosine, distance in rows)
    assert rows[-1][0] == pytest.approx(float(data.moments.within_trace() / data.moments.between_trace()), rel=0.01)
    assert rows[-1][2] == pytest.approx(1, abs=1e-4)
    unconstrained = UFM((50,) * 4, 20, loss="mse", lambda_w=5e-3, lambda_h=1e-3).closed_form().metrics(["pfc1", "pfc2"])
    assert unconstrained == pytest.approx({"pfc1": 0, "pfc2": 0}, abs=1e-6)
    assert rows[3][0] > 0.5


def test_where_the_certificate_holds():
    inputs, labels = gaussian_classes()
    for lambda_h in (1e-6, 1e-4, 1e-3, 1e-1):
        assert MUFM(inputs, labels, lambda_w=0.05, lambda_h=lambda_h).solve().certified
    assert not MUFM(inputs, labels, lambda_w=1e-4, lambda_h=1e-5).solve().certified


def test_the_papers_gradient_descent_is_far_from_done():
    """Learning rate 0.1 from a standard normal start: 2,000 steps leave the objective above twice the minimum."""
    inputs, labels = gaussian_classes()
    problem = MUFM(inputs, labels, lambda_w=5e-3, lambda_h=1e-3)
    with pytest.raises(NotConverged, match=r"^Not converged: gradient descent, 20 steps of 0\.1"):
        problem.solve(GradientDescent(learning_rate=0.1, max_iterations=20))
    slow = problem.solve(GradientDescent(learning_rate=0.1, max_iterations=2000), allow_unconverged=True)
    assert all(b <= a for a, b in pairwise(slow.history))
    assert slow.value > 2 * problem.solve().value > 2 * slow.certificate.lower_bound


@pytest.mark.parametrize("loss", ["mse", "cross_entropy"])
def test_the_bound_holds_at_any_point(loss):
    problem = golden_model(0.2, 0.01, loss=loss, bias="free")
    least = problem.solve(LBFGS(), seed=1).value
    for seed in range(5):
        point = {name: (seed + 1) / 5 * value for name, value in problem.start(seed).items()}
        assert problem.dual(point)[1] < least


def test_gradient_descent_comes_near():
    problem = golden_model(0.3, 0.1)
    found = problem.solve(GradientDescent(learning_rate=1.0, max_iterations=2000, tolerance=1e-7))
    assert found.value == pytest.approx(0.327846533695, abs=1e-11)
    assert found.certified


def test_stopping_early_is_an_exception_unless_allowed():
    hasty = EliminatedFeatures(starts=1, descent=LBFGS(max_iterations=2))
    with pytest.raises(NotConverged, match=r"^Not converged: features eliminated, best of 1 starts, L-BFGS, 2 iterations"):
        golden_model().solve(hasty)
    stopped = golden_model().solve(hasty, allow_unconverged=True)
    assert stopped.status.startswith("Not converged: ")
    assert stopped.value > 0.240989446367 > stopped.certificate.lower_bound


def test_without_data_it_is_the_unconstrained_model():
    problem = MUFM(torch.zeros(20, 5), torch.arange(4).repeat(5), lambda_w=5e-3, lambda_h=2e-3, loss="mse")
    expected = UFM((5,) * 4, 5, loss="mse", lambda_w=5e-3, lambda_h=2e-3).solve(Proximal())
    assert problem.solve(LBFGS()).value == pytest.approx(expected.value, abs=1e-12)


def test_it_is_the_unconstrained_model_with_a_reward_for_alignment():
    """Eq. (16), at any point."""
    problem, free = golden_model(0.2, 0.03), UFM((4,) * 3, 5, loss="mse", lambda_w=0.2, lambda_h=0.03)
    point = problem.start(3)
    reward = 0.03 * float((point["features"] * INPUTS).sum())
    expected = float(free.objective(point)) - reward + 0.015 * float(INPUTS.square().sum())
    assert float(problem.objective(point)) == pytest.approx(expected, rel=1e-13)


def test_dear_moves_leave_ridge_regression_on_the_data():
    problem = golden_model(0.2, 1e6)
    found = problem.solve().variables
    assert torch.allclose(found["features"], INPUTS, atol=1e-6)
    targets = torch.nn.functional.one_hot(LABELS).double()
    ridge = torch.linalg.solve(INPUTS.T @ INPUTS + 2.4 * torch.eye(5, dtype=torch.float64), INPUTS.T @ targets).T
    assert torch.allclose(found["weight"], ridge, atol=1e-6)


class Noted:
    """A descent that notes where it begins, and stays there."""

    def __init__(self):
        self.starts = []

    def minimize(self, slope_at, start):
        self.starts.append(start["weight"])
        return SolverResult(start, (slope_at(start)[0],), True, "noted")


@pytest.mark.parametrize("bias", ["none", "free"])
def test_descent_begins_at_ridge_regression_and_best_features_in_turn(bias, monkeypatch):
    """On the samples themselves, where the solver has their sums alone."""
    problem = MUFM(INPUTS, LABELS, lambda_w=0.01, lambda_h=0.1, bias=bias)
    targets, features = torch.nn.functional.one_hot(LABELS).double(), INPUTS
    values = []
    for rounds in range(4):
        inputs, aims = (one - one.mean(dim=0) if bias == "free" else one for one in (features, targets))
        weight = torch.linalg.solve(inputs.T @ inputs + 0.12 * torch.eye(5, dtype=torch.float64), inputs.T @ aims).T
        noted = Noted()
        monkeypatch.setattr(mufm, "_ROUNDS", rounds)
        EliminatedFeatures(starts=1, descent=noted).run(problem, problem.start(3))
        assert torch.allclose(noted.starts[0], weight, atol=1e-12)
        point = problem.best_features(weight)
        features = point["features"]
        values.append(float(problem.objective(point)))
    assert values == sorted(values, reverse=True)
    assert len(set(values)) == 4


def test_a_round_that_rounding_spoils_is_not_the_start(monkeypatch):
    noted, problem = Noted(), golden_model(0.01, 0.1)
    for spoiled in (math.nan, 1e9):
        monkeypatch.setattr(type(problem.reduced), "alternated", lambda self, weight, by=spoiled: weight * by)
        EliminatedFeatures(starts=1, descent=noted).run(problem, problem.start(3))
        assert torch.equal(noted.starts[-1], problem.reduced.ridge())


def test_later_descents_begin_at_the_start_then_at_random():
    problem, noted = golden_model(0.01, 0.1), Noted()
    start = problem.start(3)
    run = EliminatedFeatures(starts=5, descent=noted).run(problem, start)
    assert torch.equal(noted.starts[1], start["weight"])
    generator = torch.Generator().manual_seed(0)
    for weight in noted.starts[2:]:
        assert torch.equal(weight, torch.randn(3, 5, generator=generator, dtype=torch.float64))
    values = [float(problem.objective(problem.best_features(weight))) for weight in noted.starts]
    assert run.history == pytest.approx((min(values),), rel=1e-12)
    assert torch.equal(run.variables["weight"], noted.starts[values.index(min(values))])
    assert run.description == "features eliminated, best of 5 starts, noted"
    # A point that is certified ends the search.
    assert "best of 1 starts" in golden_model().solve().status


def test_the_best_multiple_of_a_gradient():
    """Among multiples up to the edge of the admitted ones and a little inside, for a quadratic conjugate."""
    sizes, pulls = torch.tensor([0.01, 0.3, 0.9]).double(), torch.tensor([0.3, 0.2, 0.0]).double()

    def bound(t, weak):
        room = 0.5 - t**2 * sizes / 0.4
        return -3 * (t - weak) ** 2 - 0.5 * float((t**2 * pulls / room).sum()) if float(room.min()) > 0 else -math.inf

    edge = (0.2 / float(sizes[-1])) ** 0.5
    for weak in (0.1, 0.44, 2.0):
        squared, found = best_bound(sizes, pulls, lambda t, weak=weak: 3 * (t - weak) ** 2, 0.5, 0.4)
        assert squared == float(sizes[-1])
        expected = max(bound(t, weak) for t in (edge, *(edge * (1 - 10.0**-j) for j in range(1, 15))))
        assert found == pytest.approx(expected, rel=1e-9)
    # A gradient within is taken as it is, if that is best.
    assert best_bound(sizes / 9, pulls, lambda t: 9 * abs(t - 1), 0.5, 0.4)[1] == pytest.approx(
        -0.5 * float((pulls / (0.5 - sizes / 3.6)).sum()), rel=1e-12
    )


@pytest.mark.parametrize("bias", ["none", "free"])
def test_conditions_of_first_order_at_any_point(bias):
    problem = golden_model(0.2, 0.03, bias=bias)
    point = problem.start(1)
    found, gradient = critical_point(problem, point), problem.value_and_gradient(point)[1]
    assert found.gradient_norm == pytest.approx(math.sqrt(sum(float(part.square().sum()) for part in gradient.values())))
    weight, features = point["weight"], point["features"]
    imbalance = 0.2 * weight.T @ weight - 0.03 * (features - INPUTS).T @ features
    assert found.imbalance == pytest.approx(float(torch.linalg.norm(imbalance)), rel=1e-12)
    size = float(torch.linalg.matrix_norm(problem.logit_gradient(point), ord=2))
    assert (found.inequality.left, found.inequality.right) == pytest.approx((size, math.sqrt(0.006)), rel=1e-12)
    # Weight, features and data leave no direction, so none is told.
    assert (found.curvature, found.direction) == (0, None)
    data_left = MUFM(torch.cat([INPUTS, INPUTS[:, :1]], dim=1), LABELS, lambda_w=0.2, lambda_h=0.03)
    wide = {name: torch.cat([part, part[:, :1]], dim=1) for name, part in golden_model().start(1).items()}
    down = critical_point(data_left, wide)
    assert down.curvature == pytest.approx(math.sqrt(0.006) - down.inequality.left)
    assert down.curvature < 0
    normal = torch.tensor([1.0, 0, 0, 0, 0, -1]).double() / math.sqrt(2)
    assert all(torch.allclose(part @ normal, part @ normal * 0, atol=1e-12) for part in wide.values())
    sizes = [torch.linalg.norm(part @ normal) for part in down.direction.values()]
    assert [float(size) for size in sizes] == pytest.approx([(0.03 / 0.2) ** 0.25, (0.2 / 0.03) ** 0.25], rel=1e-9)


def test_the_threshold_of_growth_at_any_point():
    problem = golden_model(0.2, 0.03)
    point = problem.start(1)
    weight = point["weight"].numpy()
    means = point["features"].reshape(3, 4, 5).mean(dim=1).numpy().T
    predicted, centering = weight @ means, np.eye(3) - 1 / 3
    rest = (np.eye(3) - predicted) @ centering
    critical = np.linalg.norm(weight.T @ rest) ** 2 / (24 * np.trace(centering @ predicted @ rest))
    found = growth_threshold(problem, point).inequality
    assert (found.text, found.left, found.right) == ("λ_crit <= λ_H", pytest.approx(critical, rel=1e-10), 0.03)


def test_alignment_is_of_vectors():
    first, second = torch.tensor([[3.0, 0.0], [0.0, 4.0]]), torch.tensor([[0.0, 0.0], [0.0, 2.0]])
    assert alignment(first, second) == pytest.approx((0.8, math.sqrt(0.4)), rel=1e-6)
    assert all(math.isnan(value) for value in alignment(first, 0 * second))


class Layered(Problem):
    """All layers free: eq. (12)."""

    def __init__(self, decays):
        self.decays, self.single = decays, golden_model(0.2, merged_decay(decays))

    labels = LABELS
    num_classes = 3
    solvers = (LBFGS,)

    def draw(self, standard_normal):
        names = [*(f"layer {n}" for n in range(len(self.decays) - 1)), "features"]
        return {"weight": standard_normal(3, 5), **{name: standard_normal(12, 5) for name in names}}

    def complete(self, variables):
        return variables

    def objective(self, variables):
        layers = [INPUTS, *(value for name, value in variables.items() if name != "weight")]
        moves = sum(decay / 2 * (b - a).square().sum() for decay, a, b in zip(self.decays, layers, layers[1:], strict=False))
        loss = (layers[-1] @ variables["weight"].T - torch.nn.functional.one_hot(LABELS)).square().sum() / 24
        return loss + 0.1 * variables["weight"].square().sum() + moves

    def certificate(self, variables):
        return Certificate(-math.inf)


@pytest.mark.parametrize("decays", [(0.003, 0.003, 0.003), (0.002, 0.01, 0.005)])
def test_layers_lie_on_the_straight_line(decays):
    layered = Layered(decays).solve(seed=3)
    single = golden_model(0.2, merged_decay(decays)).solve()
    assert layered.value == pytest.approx(single.value, abs=1e-10)
    between = straight_layers(INPUTS, layered.variables["features"], decays)
    for n, layer in enumerate(between[:-1]):
        assert torch.allclose(layered.variables[f"layer {n}"], layer, atol=1e-4)
    ends = single.variables["features"]
    moves = [INPUTS, *straight_layers(INPUTS, ends, decays)]
    cost = sum(decay * float((b - a).square().sum()) for decay, a, b in zip(decays, moves, moves[1:], strict=False))
    assert cost == pytest.approx(merged_decay(decays) * float((ends - INPUTS).square().sum()), rel=1e-12)
    assert torch.equal(moves[-1], ends)


def test_equal_layers_divide_the_decay():
    assert merged_decay([0.6] * 4) == pytest.approx(0.15, rel=1e-15)


@pytest.mark.parametrize("row", GOLDEN[::3], ids=lambda row: f"{row[0]}-{row[1]}")
def test_deviations_shrink_by_one_map(row):
    solution = golden_model(*row[:2]).solve()
    map_ = shrinkage(golden_model(*row[:2]), solution.variables["weight"])
    before, after = (ClassScatter.from_batch(x, LABELS, 3) for x in (INPUTS, solution.variables["features"]))
    deviations = [
        x - moments.moments.means[LABELS] for x, moments in ((INPUTS, before), (solution.variables["features"], after))
    ]
    assert torch.allclose(deviations[1], deviations[0] @ map_, atol=1e-14)
    assert torch.allclose(after.within_covariance(), map_ @ before.within_covariance() @ map_, atol=1e-14)
    sizes = torch.linalg.eigvalsh(map_)
    assert 0 < sizes[0] < sizes[-1] <= 1 + 1e-14


def test_progress_of_collapse_on_random_problems():
    """The between-class spread grows iff λ_H >= λ_crit <= 1/(2NKλ_W); half of λ_H bounds it at certified minimizers."""
    generator, certified = torch.Generator().manual_seed(5), 0
    for seed in range(20):
        K, d, n = (int(torch.randint(low, high, (1,), generator=generator)) for low, high in ((2, 6), (1, 8), (2, 7)))
        lambda_w, lambda_h = (10.0 ** (-power * float(torch.rand(1, generator=generator))) for power in (2, 5))
        problem = MUFM(normal(seed, K * n, d), torch.arange(K).repeat(n), lambda_w=lambda_w, lambda_h=lambda_h)
        solution = problem.solve(EliminatedFeatures(starts=1), allow_unconverged=True)
        if torch.linalg.norm(solution.variables["weight"]) < 1e-4:
            continue
        found, threshold = (law(problem, solution.variables) for law in (collapse_progress, growth_threshold))
        assert found.within[1] <= found.within[0]
        assert threshold.inequality.left <= threshold.bound
        growth = found.between[1] / found.between[0] - 1
        if abs(growth) > 1e-6:
            assert (growth > 0) == threshold.inequality.holds
        if solution.certified:
            certified += 1
            assert threshold.inequality.left <= 0.5001 * lambda_h
            assert found.pfc1[1] <= found.pfc1[0] * (1 + 1e-9)
    assert 5 <= certified < 20


def test_moments_of_progress():
    solution = golden_model().solve()
    found = collapse_progress(golden_model(), solution.variables)
    assert found.pfc1 == pytest.approx((2.9754165865, 0.5702408684), abs=1e-8)
    threshold = growth_threshold(golden_model(), solution.variables)
    assert threshold.bound == pytest.approx(1 / (2 * 12 * 3 * 0.5), rel=1e-14)


def full_flow(lambda_w, duration, num_steps):
    """The flow of all samples, with the best weight at every stage."""
    targets = torch.nn.functional.one_hot(LABELS).double()

    def slope(h):
        w = torch.linalg.solve(h.T @ h + 12 * lambda_w * torch.eye(5, dtype=torch.float64), targets.T @ h, left=False)
        return -(h @ w.T - targets) @ w / 12

    h, step = INPUTS, duration / num_steps
    for _ in range(num_steps):
        a = slope(h)
        b = slope(h + step / 2 * a)
        c = slope(h + step / 2 * b)
        h = h + step / 6 * (a + 2 * b + 2 * c + slope(h + step * c))
    return h


def test_the_reduced_flow_is_the_full_one():
    path = gradient_flow(INPUTS, LABELS, lambda_w=0.05, duration=300.0, num_steps=600)
    expected = ClassScatter.from_batch(full_flow(0.05, 300.0, 600), LABELS, 3)
    assert torch.allclose(path.means[-1], expected.moments.means, atol=1e-13)
    within = ClassScatter.from_batch(INPUTS, LABELS, 3).within_covariance()
    assert torch.allclose(path.maps[-1] @ within @ path.maps[-1].T, expected.within_covariance(), atol=1e-13)
    assert float(path.pfc1[0]) == pytest.approx(2.9754165865, abs=1e-9)
    assert torch.allclose(path.times, 0.5 * torch.arange(601, dtype=torch.float64))
    assert torch.equal(path.maps[0], torch.eye(5, dtype=torch.float64))
    ends = [moments.moments for moments in (ClassScatter.from_batch(INPUTS, LABELS, 3), expected)]
    assert path.within_traces[[0, -1]].tolist() == pytest.approx([float(end.within_trace()) for end in ends], rel=1e-12)
    assert path.between_traces[[0, -1]].tolist() == pytest.approx([float(end.between_trace()) for end in ends], rel=1e-12)
    assert bool((path.pfc1.diff() < 0).all())
    assert bool((path.within_traces.diff() < 0).all())
    assert bool((path.between_traces.diff() > 0).all())


def test_the_longest_step_of_the_flow_is_told():
    """Half of N over the squared norm of the best weight."""
    targets = torch.nn.functional.one_hot(LABELS).double()
    ridge = torch.linalg.solve(INPUTS.T @ INPUTS + 1.2 * torch.eye(5, dtype=torch.float64), INPUTS.T @ targets)
    longest = 6 / float(ridge.square().sum())
    with pytest.raises(ValueError, match=rf"of at most 0\.5 N / ‖W‖² = {longest:.3g}, got {1.01 * longest:.3g}\. Take more"):
        gradient_flow(INPUTS, LABELS, lambda_w=0.1, duration=1.01 * longest, num_steps=1)
    assert len(gradient_flow(INPUTS, LABELS, lambda_w=0.1, duration=0.5 * longest, num_steps=1).times) == 2


def test_the_flow_begins_where_minimizers_do():
    """H* = X + Ḣ(0)/λ_H + o(1/λ_H): the error falls with the square."""
    path = gradient_flow(INPUTS, LABELS, lambda_w=0.5, duration=1e-5, num_steps=1)
    speed = (path.means[1] - path.means[0]) / 1e-5
    errors = []
    for lambda_h in (10.0, 100.0):
        features = golden_model(0.5, lambda_h).solve().variables["features"]
        means = torch.stack([features[LABELS == k].mean(dim=0) for k in range(3)])
        errors.append(float(torch.linalg.norm(means - path.means[0] - speed / lambda_h)))
    assert errors[0] / errors[1] == pytest.approx(100, rel=0.05)


def test_the_tradeoff_over_the_decay():
    """Alignment and PFC1 go from the unconstrained model's to the data's as moving becomes dear."""
    rows = []
    for lambda_h in (1e-6, 1e-4, 1e-2, 1.0):
        solution = golden_model(0.2, lambda_h).solve(allow_unconverged=True)
        rows.append((solution.metrics(["pfc1"])["pfc1"], alignment(solution.variables["features"], INPUTS)[0]))
    assert all(a[0] < b[0] and a[1] < b[1] for a, b in pairwise(rows))
    assert rows[0][0] < 0.01
    assert rows[-1] == pytest.approx((2.9754165865, 1), abs=0.2)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: golden_model(lambda_w=-1), r"lambda_w must be finite and positive, got -1\."),
        (lambda: golden_model(lambda_h=0.0), r"lambda_h must be finite and positive, got 0\.0\."),
        (lambda: golden_model(loss="hinge"), r"loss must be 'mse' or 'cross_entropy', got 'hinge'\."),
        (lambda: golden_model(bias="regularized"), r"bias must be 'none' or 'free', got 'regularized'\."),
        (lambda: MUFM(INPUTS[0], LABELS, lambda_w=1, lambda_h=1), r"inputs must have shape \(N, d\), got \(5,\)\."),
        (lambda: MUFM(INPUTS.where(INPUTS < 1, math.nan), LABELS, lambda_w=1, lambda_h=1), r"got nan or inf in row \d\. Clean"),
        (lambda: MUFM(INPUTS, LABELS * 2, lambda_w=1, lambda_h=1), r"each with a sample, got counts \(4, 0, 4, 0, 4\)\."),
        (
            lambda: shrinkage(golden_model(loss="cross_entropy"), INPUTS[:3]),
            r"The shrinkage law needs loss='mse', got loss='cross_entropy'\.",
        ),
        (lambda: gradient_flow(INPUTS[:9], LABELS[:9], lambda_w=1, duration=1), r"The reduced flow needs balanced classes"),
        (lambda: gradient_flow(INPUTS, LABELS, lambda_w=0.1, duration=1e3, num_steps=2), r"needs steps of at most .* got 500"),
        (
            lambda: gradient_flow(INPUTS * math.inf, LABELS, lambda_w=1, duration=1),
            r"gradient_flow needs finite features, got nan or inf in row 0\.",
        ),
        (lambda: gradient_flow(INPUTS, LABELS, lambda_w=-1, duration=1), r"lambda_w must be finite and positive, got -1\."),
        (lambda: merged_decay([]), r"needs the decay of at least one gap between layers, got none\."),
        (lambda: merged_decay([1.0, -1.0]), r"decay must be finite and positive, got -1\.0\."),
    ],
)  # fmt: skip
def test_errors_name_the_condition(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def test_the_reduced_solver_names_what_it_solves():
    with pytest.raises(
        TypeError, match=r"solver must be LBFGS\(\) or GradientDescent\(\) for this MUFM, got EliminatedFeatures\(\)"
    ):
        golden_model(loss="cross_entropy").solve(EliminatedFeatures())
    with pytest.raises(TypeError, match=r"for this MUFM, got Proximal\(\)\. Take one of those"):
        golden_model().solve(Proximal())
