"""The unconstrained features model: printed numbers, closed forms against three solvers, bounds, errors."""

import math
from itertools import pairwise

import pytest
import torch

from ncollapse.surrogates import LBFGS, UFM, GradientDescent, NotConverged, Proximal

DECAYS = {"lambda_w": 5e-3, "lambda_h": 2e-3}
MODELS = {
    "mse": {"loss": "mse"},
    "mse free": {"loss": "mse", "bias": "free"},
    "mse regularized": {"loss": "mse", "bias": "regularized", "lambda_b": 0.05},
    "mse regularized strongly": {"loss": "mse", "bias": "regularized", "lambda_b": 0.01},
    "ce": {"loss": "cross_entropy"},
    "ce free": {"loss": "cross_entropy", "bias": "free"},
    "ce regularized": {"loss": "cross_entropy", "bias": "regularized", "lambda_b": 0.1},
}


def model(name="mse", counts=(5,) * 4, dim=5, **changes):
    return UFM(**{"counts": counts, "dim": dim, **DECAYS, **MODELS[name], **changes})


def gram(solution):
    return solution.variables["weight"] @ solution.variables["weight"].T


def centering(num_classes):
    return torch.eye(num_classes, dtype=torch.float64) - 1 / num_classes


def test_printed_numbers():
    assert float(model().collapse_numbers[0]) == pytest.approx(0.0282842712, abs=1e-10)
    assert model().closed_form().value == pytest.approx(0.0278842712475, abs=1e-13)
    assert model("mse free").closed_form().value == pytest.approx(0.75 * 0.0278842712475, abs=1e-13)
    regularized = model("mse regularized").closed_form()
    assert regularized.variables["bias"].tolist() == pytest.approx([0.1414213562] * 4, abs=1e-10)
    assert torch.linalg.eigvalsh(gram(regularized)).tolist() == pytest.approx([0.5742135624] + [1.3742135624] * 3, abs=1e-10)
    cross_entropy = model("ce").closed_form()
    logits = cross_entropy.variables["features"] @ cross_entropy.variables["weight"].T
    assert float(logits[0, 0] - logits[0, 1]) == pytest.approx(4.930302339, abs=1e-9)
    assert float(gram(cross_entropy).trace()) == pytest.approx(20.91750131, abs=1e-8)
    assert cross_entropy.value == pytest.approx(0.126028943439, abs=1e-12)
    number = float(model("ce").collapse_numbers[0])
    probability = float(torch.softmax(logits, dim=1)[0, 0])
    assert probability == pytest.approx(0.978786796564, abs=1e-12)
    assert probability == pytest.approx(1 - 0.75 * number, abs=1e-14)
    imbalanced = model(counts=(12, 8, 5, 1)).closed_form()
    assert gram(imbalanced).diagonal().tolist() == pytest.approx([2.1388902, 1.7368544, 1.3622136, 0.5804555], abs=1e-7)
    assert float((gram(imbalanced) - gram(imbalanced).diagonal().diag()).abs().max()) < 1e-14
    assert imbalanced.value == pytest.approx(0.0296120685321, abs=1e-13)


@pytest.mark.parametrize("decay", [1e-4, 3e-3, 0.09, 0.11, 1.0])
@pytest.mark.parametrize("num_classes", [2, 5])
def test_closed_forms_are_the_tables_formulas(decay, num_classes):
    K, n = num_classes, 4
    c = K * math.sqrt(n) * decay
    options = {"counts": (n,) * K, "dim": K, "lambda_w": 2 * decay, "lambda_h": decay / 2}
    part = c - c**2 / 2 if c < 1 else 0.5
    assert model(**options).closed_form().value == pytest.approx(part, rel=1e-13)
    assert model("mse free", **options).closed_form().value == pytest.approx((K - 1) / K * part, rel=1e-13)
    s = math.sqrt(n) * max(1 - c, 0)
    frame = s / 2 * torch.eye(K, dtype=torch.float64)
    assert torch.allclose(gram(model(**options).closed_form()), frame, atol=1e-13)
    assert torch.allclose(gram(model("mse free", **options).closed_form()), frame @ centering(K), atol=1e-13)
    for lambda_b in (0.01, 0.3, 20.0):
        solution = model("mse regularized", lambda_b=lambda_b, **options).closed_form()
        z, beta = 0.0, 1 / (K * (1 + lambda_b))
        if c < 1 and lambda_b > c / (1 - c):
            z, beta = math.sqrt(n) * (1 - c - c / lambda_b), c / (K * lambda_b)
        value = ((K - 1) * (math.sqrt(n) - s) ** 2 + (math.sqrt(n) - beta * K * math.sqrt(n) - z) ** 2) / (2 * n * K)
        value += decay * ((K - 1) * s + z) + lambda_b * K * beta**2 / 2
        assert solution.value == pytest.approx(value, rel=1e-13)
    m = math.log(1 + K * (1 - c) / c) if c < 1 else 0.0
    rho = (K - 1) * m / math.sqrt(4 / n)
    cross_entropy = model("ce", **options).closed_form()
    assert cross_entropy.value == pytest.approx(math.log(1 + (K - 1) * math.exp(-m)) + 2 * decay * rho, rel=1e-13)
    assert cross_entropy.certificate.inequality.holds == (c < 1)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("scale", [1.0, 60.0, 3000.0])
def test_closed_forms_are_global_minima(name, scale):
    """Against the bound, which needs no trust in the formula, and two solvers; the largest decay collapses all to zero."""
    problem = model(name, lambda_w=scale * 5e-3)
    solution = problem.closed_form()
    assert solution.gap == pytest.approx(0, abs=1e-14)
    assert solution.status.startswith("Global minimum: closed form")
    for solver in (LBFGS(), Proximal()):
        found = problem.solve(solver, seed=1)
        assert found.certified
        assert found.value == pytest.approx(solution.value, abs=1e-12)
    assert problem.solve(Proximal()).gap <= 1e-12
    if name != "ce free":
        # There a common shift of the bias is open.
        assert torch.allclose(gram(found), gram(solution), atol=1e-5)


def test_gradient_descent_reaches_the_closed_form():
    problem = model("ce", counts=(2,) * 3, dim=3, lambda_w=0.05, lambda_h=0.05)
    solution = problem.solve(GradientDescent(learning_rate=1.0, max_iterations=5000, tolerance=1e-8))
    assert solution.value == pytest.approx(problem.closed_form().value, abs=1e-12)
    assert all(later <= earlier for earlier, later in pairwise(solution.history))


@pytest.mark.parametrize("name", ["gradient descent", "Adam", "L-BFGS"])
def test_twenty_starts_end_in_the_closed_form(name):
    """The landscape is benign: cross-entropy, d = K, from standard normal weight and features."""
    problem = model("ce", counts=(2,) * 3, dim=3, lambda_w=0.05, lambda_h=0.05)
    expected = problem.closed_form().value
    if name == "L-BFGS":
        values = [problem.solve(seed=seed).value for seed in range(20)]
    else:
        # All starts at once, by loops that share nothing with the solvers.
        starts = [problem.start(seed) for seed in range(20)]
        weight, features = (torch.stack([start[key] for start in starts]).requires_grad_() for key in ("weight", "features"))
        kind, rate, fall, steps = (torch.optim.Adam, 0.05, 0.997, 1200) if name == "Adam" else (torch.optim.SGD, 1.0, 1.0, 400)
        optimizer = kind([weight, features], lr=rate)
        schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, fall)
        for _ in range(steps):
            logits = (features @ weight.transpose(1, 2)).transpose(1, 2)
            losses = torch.nn.functional.cross_entropy(logits, problem.labels.expand(20, 6), reduction="none").mean(dim=1)
            totals = losses + 0.025 * (weight.square().sum(dim=(1, 2)) + features.square().sum(dim=(1, 2)))
            optimizer.zero_grad()
            totals.sum().backward()
            optimizer.step()
            schedule.step()
        values = totals.tolist()
    assert values == pytest.approx([expected] * 20, abs=1e-8)


@pytest.mark.parametrize("counts", [(7, 4, 1), (30, 3, 3, 2)])
@pytest.mark.parametrize("name", MODELS)
def test_imbalanced_solvers_agree(name, counts):
    problem = model(name, counts=counts, lambda_w=0.02, lambda_h=0.01)
    convex, factored = problem.solve(Proximal()), problem.solve()
    assert convex.gap <= 1e-11
    assert factored.certified
    assert factored.value == pytest.approx(convex.value, abs=1e-11)
    balance = {name: factored.variables[name].T @ factored.variables[name] for name in ("weight", "features")}
    assert torch.allclose(0.02 * balance["weight"], 0.01 * balance["features"], atol=1e-7)
    assert factored.metrics(["pfc1"])["pfc1"] < 1e-10
    if name in {"mse", "mse free"}:
        assert problem.closed_form().value == pytest.approx(convex.value, abs=1e-13)


@pytest.mark.parametrize("decay", [1e-12, pytest.param(1e-10, marks=pytest.mark.slow), 1e-8])
@pytest.mark.parametrize("counts", [(5,) * 4, (12, 8, 5, 1)])
@pytest.mark.parametrize("loss", ["mse", "cross_entropy"])
@pytest.mark.parametrize("seeds", [(0,), pytest.param((1, 2, 3, 4), marks=pytest.mark.slow)])
def test_tiny_decays_are_solved_to_the_optimum(seeds, loss, counts, decay):
    """Where the objective is 1e-11, outputs and targets agree to rounding: neither loss nor gap may be their difference."""
    problem = UFM(counts, 4, loss=loss, lambda_w=decay, lambda_h=decay)
    for seed in seeds:
        found = problem.solve(seed=seed)
        assert found.certified
        assert abs(found.gap) < 1e-12 * found.value
    if loss == "mse" or counts == (5,) * 4:
        assert problem.closed_form().value == pytest.approx(found.value, rel=1e-12)
        assert abs(problem.closed_form().gap) < 1e-12 * found.value


def test_twice_the_optimum_of_tiny_decays_is_not_certified():
    """Although it is zero to ten digits."""
    problem = UFM((5,) * 4, 4, loss="mse", lambda_w=1e-12, lambda_h=1e-12)
    optimum = problem.closed_form()
    spread = {"features": optimum.variables["features"] / 2, "weight": optimum.variables["weight"] * 2}
    twice = problem.solution(spread, "by hand")
    assert 1.9 * optimum.value < twice.value < 1e-10
    assert not twice.certified


def test_the_certificate_of_many_classes_does_not_hang_on_rounding():
    """The gap of this start was 1.8e-6 of the objective; others were just below the 1e-6 that certify."""
    problem = UFM((2,) * 50, 50, loss="mse", lambda_w=1e-3, lambda_h=1e-5)
    solution = problem.solve(seed=1)
    assert solution.certified
    assert solution.gap < 1e-10 * solution.value
    assert solution.history[-1] == pytest.approx(solution.value, rel=1e-12)


def test_too_few_dimensions_are_left_unpolished():
    """The proximal step has a higher rank than d: the point stays where descent ended."""
    solution = model(dim=3).solve(seed=2)
    assert float(torch.linalg.matrix_rank(solution.variables["features"])) == 3


def test_a_class_too_small_collapses_to_the_origin():
    """Iff n_k <= N² λ_W λ_H."""
    problem = model(counts=(12, 9, 2, 1), lambda_w=0.06, lambda_h=0.06)
    numbers = problem.collapse_numbers
    assert (numbers >= 1).tolist() == [False, False, True, True] == [n <= (24 * 0.06) ** 2 for n in problem.counts]
    means = problem.solve(Proximal()).variables["features"].split(problem.counts)
    assert [bool(mean.abs().max() < 1e-9) for mean in means] == [False, False, True, True]


@pytest.mark.parametrize("name", MODELS)
def test_the_bound_holds_at_any_point(name):
    problem = model(name)
    minimum = problem.closed_form().value
    generator = torch.Generator().manual_seed(0)
    for scale in (0.01, 0.3, 1.0):
        point = {name: scale * tensor for name, tensor in problem.start(int(100 * scale)).items()}
        near = {key: value + scale / 10 * torch.randn(value.shape, generator=generator, dtype=torch.float64)
                for key, value in problem.closed_form().variables.items()}  # fmt: skip
        bounds = [problem.certificate(variables).lower_bound for variables in (point, near)]
        # Without bias, the squared loss has the minimum itself for a bound at every point.
        assert all(bound <= minimum * (1 + 1e-14) for bound in bounds)
        assert bounds[1] > -1


def test_stopping_early_is_an_exception_unless_allowed():
    for solver in (LBFGS(max_iterations=2), Proximal(max_iterations=3), GradientDescent(max_iterations=4)):
        with pytest.raises(NotConverged, match=r"^Not converged: .*Likely causes: \(a\) too few steps"):
            model("ce").solve(solver)
        stopped = model("ce").solve(solver, allow_unconverged=True)
        assert stopped.status.startswith("Not converged: ")
        assert stopped.value > model("ce").closed_form().value >= stopped.certificate.lower_bound


def test_metrics_of_the_optimum_are_collapsed():
    found = model("ce").closed_form().metrics(["pfc1", "pfc2", "pfc3", "nc3", "nc4"])
    assert found == pytest.approx({"pfc1": 0, "pfc2": 0, "pfc3": 1, "nc3": 0, "nc4": 1}, abs=1e-7)
    # An orthogonal frame is an ETF once centered, but its classifier is none until it is.
    frame = model("mse").closed_form().metrics(["pfc2", "nc2_etf_weights"])
    assert frame["pfc2"] == pytest.approx(0, abs=1e-7)
    assert frame["nc2_etf_weights"] > 0.1


def test_the_smallest_dimension():
    assert model("ce", dim=3).closed_form().gap == pytest.approx(0, abs=1e-14)
    assert model("mse free", dim=3).closed_form().gap == pytest.approx(0, abs=1e-14)
    # Any d of the K equal singular directions: the rest of the classes is given up, which is proven to be best.
    number = float(model().collapse_numbers[0])
    short = model(dim=3).solve(seed=2)
    assert short.value == pytest.approx(0.75 * (number - number**2 / 2) + 0.125, abs=1e-12)
    assert short.certified
    assert short.status.startswith("Global minimum")


@pytest.mark.parametrize(
    ("name", "changes", "text", "left", "right"),
    [
        ("mse", {"counts": (6, 3, 1), "dim": 3}, "largest c_k < 1", 10 * math.sqrt(1e-5), 1.0),
        ("mse", {"counts": (6, 3, 1), "dim": 2}, "largest c_k < 1", 10 * math.sqrt(1e-5 / 3), 1.0),
        ("mse", {}, "c < 1", 20 * math.sqrt(1e-5 / 5), 1.0),
        ("mse free", {}, "c < 1", 20 * math.sqrt(1e-5 / 5), 1.0),
        ("ce", {"lambda_w": 5.0}, "c < 1", 20 * math.sqrt(1e-2 / 5), 1.0),
        ("mse regularized", {}, "λ_b <= c / (1 - c)", 0.05, 0.0282842712 / 0.9717157288),
        ("mse regularized", {"lambda_w": 14.0}, "c < 1", 20 * math.sqrt(2.8e-2 / 5), 1.0),
        ("mse regularized", {"lambda_w": 50.0}, "c < 1", 20 * math.sqrt(1e-1 / 5), 1.0),
    ],
)
def test_the_condition_that_selects_the_branch(name, changes, text, left, right):
    found = model(name, **changes).closed_form().certificate.inequality
    assert (found.text, found.left, found.right) == (text, pytest.approx(left), pytest.approx(right))


def test_centered_targets_of_unequal_counts_have_their_own_condition():
    problem = model("mse free", counts=(6, 3, 1), dim=3)
    roots = torch.tensor([6.0, 3.0, 1.0], dtype=torch.float64).sqrt()
    targets = roots.unsqueeze(1) * (torch.eye(3, dtype=torch.float64) - torch.tensor([0.6, 0.3, 0.1]))
    smallest = float(torch.linalg.svdvals(targets)[1])
    assert problem.closed_form().certificate.inequality.left == pytest.approx(10 * math.sqrt(1e-5) / smallest, rel=1e-6)
    assert problem.closed_form().variables["bias"].tolist() == pytest.approx([0.6, 0.3, 0.1])


@pytest.mark.parametrize(
    ("name", "dim", "weak"),
    [
        ("ce", 3, ""),
        ("ce", 2, "d < K"),
        ("mse", 4, ""),
        ("mse", 3, ""),
        ("mse regularized", 4, ""),
        ("mse regularized", 3, "d < K"),
    ],
)
def test_where_the_bound_is_weak(name, dim, weak):
    problem = model(name, dim=dim)
    found = problem.certificate(problem.start(0))
    assert found.weak == weak
    # With fewer dimensions than targets the squared loss has a minimum of its own, and no condition.
    assert (found.inequality is None) == (name == "mse" and dim == 3)


def test_the_minimum_in_few_dimensions_is_a_bound_at_every_point():
    for name in ("mse", "mse free"):
        problem = model(name, counts=(6, 3, 1, 1), dim=2)
        minimum = problem.closed_form().value
        assert problem.certificate(problem.start(0)).lower_bound == pytest.approx(minimum, rel=1e-12)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: model(lambda_w=-1.0), r"lambda_w must be finite and positive, got -1\.0\."),
        (lambda: model(lambda_h=math.nan), r"lambda_h must be finite and positive, got nan\."),
        (lambda: model(dim=0), r"dim must be finite and positive, got 0\."),
        (lambda: model(lambda_h=math.inf), r"lambda_h must be finite and positive, got inf\."),
        (lambda: model(bias="regularized", lambda_b=-0.1), r"lambda_b must be finite and positive, got -0\.1\."),
        (
            lambda: model(counts=(5, 2.5)),
            r"counts must be positive integers, one for each of two or more classes, got \(5, 2\.5\)",
        ),
        (lambda: model(dim=3).solve(Proximal()), r"have rank 4, which needs dim >= 4, got 3\. Raise dim, or solve"),
        (lambda: model(counts=(5,)), r"counts must be positive integers, one for each of two or more classes, got \(5,\)\."),
        (lambda: model(counts=(5, 0)), r"counts must be positive integers"),
        (lambda: model(loss="hinge"), r"loss must be 'mse' or 'cross_entropy', got 'hinge'\."),
        (lambda: model(bias="some"), r"bias must be 'none', 'free' or 'regularized', got 'some'\."),
        (lambda: model(bias="regularized"), r"lambda_b must be finite and positive, got 0\.0\."),
        (lambda: model(lambda_b=0.1), r"lambda_b=0\.1 needs bias='regularized', got bias='none'\."),
        (
            lambda: model("ce", counts=(5, 4)).closed_form(),
            r"cross-entropy model needs balanced classes, got counts \(5, 4\)\. Solve it numerically: solve\(\)\.",
        ),
        (lambda: model("mse regularized", counts=(5, 4)).closed_form(), r"regularized bias needs balanced classes"),
        (lambda: model("mse regularized", dim=2).closed_form(), r"which needs dim >= \d, got 2\. Raise dim, or solve"),
        (lambda: model("ce", dim=2).closed_form(), r"have rank 3, which needs dim >= 3, got 2\."),
    ],
)
def test_errors_name_the_condition(call, words):
    with pytest.raises(ValueError, match=words):
        call()
