"""Deep unconstrained features: printed values, the jump at the threshold, layer norms, ReLU, low rank."""

import math

import pytest
import torch

from ncollapse.surrogates import LBFGS, UFM, DeepUFM, collapse_threshold, layer_ranks, low_rank_start

PRINTED = [
    (1, 0.5, 0.375),
    (2, 0.5, 0.2763925778),
    (3, 0.5, 0.2621710707),
    (1, 0.9, 0.495),
    (2, 0.9, 0.4607569200),
    (3, 0.9, 0.4548450399),
    (1, 1.1, 0.5),
    (2, 1.1, 0.5),
    (3, 1.1, 0.5),
]


def alike(counts, num_layers, share, dim=None, **options):
    """All decays alike, at a share of those at the threshold of the largest class."""
    unit = collapse_threshold(math.sqrt(max(counts)), num_layers) ** (1 / (num_layers + 1)) / sum(counts)
    return DeepUFM(counts, dim or len(counts), lambdas_w=(share * unit,) * num_layers, lambda_h=share * unit, **options)


@pytest.mark.parametrize(("num_layers", "share", "value"), PRINTED)
def test_printed_values(num_layers, share, value):
    model = alike((4, 4, 4), num_layers, share)
    closed = model.closed_form()
    assert closed.value == pytest.approx(value, abs=1e-10)
    assert closed.value == pytest.approx(model.minimum, abs=1e-14)
    assert closed.certificate.inequality.holds == (share < 1)
    assert closed.certified


@pytest.mark.parametrize("bias", ["none", "free"])
@pytest.mark.parametrize("num_layers", [1, 2, 3])
def test_descent_reaches_the_closed_form_and_never_less(num_layers, bias):
    model = DeepUFM((5, 4, 2), 12, lambdas_w=tuple(0.01 * (i + 1) for i in range(num_layers)), lambda_h=0.004, bias=bias)
    found = [model.solve(seed=seed).value for seed in range(3)]
    assert min(found) == pytest.approx(model.closed_form().value, abs=1e-10)
    assert min(found) >= model.minimum - 1e-12


def test_one_layer_is_the_unconstrained_features_model():
    for bias in ("none", "free"):
        shallow = UFM((5, 3, 1), 3, loss="mse", lambda_w=5e-3, lambda_h=2e-3, bias=bias).closed_form()
        assert DeepUFM((5, 3, 1), 3, lambdas_w=(5e-3,), lambda_h=2e-3, bias=bias).closed_form().value == pytest.approx(
            shallow.value, abs=1e-14
        )


@pytest.mark.parametrize("num_layers", [1, 2, 3, 6])
def test_the_singular_value_jumps_at_the_threshold(num_layers):
    below, above = (alike((4, 4, 4), num_layers, share) for share in (1 - 1e-9, 1 + 1e-9))
    jump = 2 * (num_layers - 1) / num_layers
    # For M = 1 it comes down as 1 - c, for more as a root near a simple zero.
    assert below.best_singular_value(2.0) == pytest.approx(jump, abs=1e-6)
    assert above.best_singular_value(2.0) == 0
    assert below.scalar_objective(2.0, jump) == pytest.approx(below.scalar_objective(2.0, 0), rel=1e-7)


@pytest.mark.parametrize("num_layers", [1, 2, 3, 4])
def test_the_singular_value_is_the_best_on_a_grid(num_layers):
    for share in (0.3, 0.8, 0.99, 1.01, 2.0):
        model = alike((4, 4, 4), num_layers, share)
        best = model.scalar_objective(2.0, model.best_singular_value(2.0))
        assert best <= min(model.scalar_objective(2.0, 2 * i / 5000) for i in range(5001)) + 1e-14


def test_all_layers_cost_the_same_and_classes_collapse_in_each():
    model = DeepUFM((4, 4, 4), 5, lambdas_w=(0.02, 0.005, 0.01), lambda_h=0.003)
    for solution in (model.closed_form(), model.solve(seed=0)):
        point = solution.variables
        costs = [0.003 * float(point["first_features"].square().sum())]
        costs += [decay * float(point[f"weight_{i + 1}"].square().sum()) for i, decay in enumerate(model.lambdas_w)]
        assert costs == pytest.approx([costs[0]] * 4, rel=1e-6)
        for features in model.layers(point):
            assert float(features.reshape(3, 4, 5).std(dim=1).max()) < 1e-6
    assert model.closed_form().metrics(["pfc1"])["pfc1"] == pytest.approx(0, abs=1e-20)


def test_a_free_bias_gives_a_simplex():
    solution = alike((4, 4, 4), 3, 0.5, bias="free").closed_form()
    assert solution.metrics(["pfc2"])["pfc2"] == pytest.approx(0, abs=1e-7)
    assert torch.allclose(solution.variables["bias"], torch.full((3,), 1 / 3, dtype=torch.float64))


@pytest.mark.parametrize(("counts", "num_layers"), [((3, 3), 3), ((2, 2, 2), 2)])
def test_relu_has_the_value_of_linear_layers(counts, num_layers):
    """Proven for two balanced classes; for three and two layers six starts of six agree."""
    model = alike(counts, num_layers, 0.5, dim=20, activation="relu")
    closed = model.closed_form()
    assert all(bool((features >= 0).all()) for features in model.layers(closed.variables)[1:])
    found = [model.solve(LBFGS(max_iterations=1000), seed=seed, allow_unconverged=True).value for seed in range(6)]
    assert min(found) == pytest.approx(closed.value, abs=1e-6)
    assert min(found) >= closed.value - 1e-12
    assert closed.certified == (len(counts) == 2)


@pytest.mark.parametrize(("num_classes", "num_layers", "beaten"), [(6, 3, False), (6, 4, True), (6, 5, True), (10, 4, True)])
def test_low_rank_against_deep_neural_collapse(num_classes, num_layers, beaten):
    model = alike((1,) * num_classes, num_layers, 0.5, activation="relu")
    start = low_rank_start(model)
    found = model.solve(LBFGS(max_iterations=200), start=start, allow_unconverged=True)
    collapse = model.closed_form()
    assert (found.value < 0.95 * collapse.value) == beaten
    assert (found.value > collapse.value) == (not beaten)
    rank = {6: 4, 10: 5}[num_classes]
    assert layer_ranks(model.layers(found.variables)) == [rank] * (num_layers - 1) + [num_classes]
    assert layer_ranks(model.layers(collapse.variables)) == [num_classes] * num_layers
    assert collapse.status == "Critical point: deep neural collapse in closed form; no lower bound is known."


@pytest.mark.parametrize("num_classes", [3, 5, 6, 7])
def test_the_low_rank_start_tells_all_classes_apart(num_classes):
    model = DeepUFM((2,) * num_classes, 9, lambdas_w=(1e-3, 2e-3, 3e-3), lambda_h=4e-3, activation="relu")
    point = low_rank_start(model)
    outputs = model.layers(point)[-1] @ point["weight_3"].T
    size = float(outputs.max())
    wanted = size * torch.eye(num_classes, dtype=torch.float64)[model.labels]
    assert size > 0.5
    assert torch.allclose(outputs, wanted, atol=1e-12)
    costs = [4e-3 * float(point["first_features"].square().sum())]
    costs += [decay * float(point[f"weight_{i + 1}"].square().sum()) for i, decay in enumerate(model.lambdas_w)]
    assert costs == pytest.approx([costs[0]] * 4, rel=1e-12)


@pytest.mark.parametrize("num_classes", [3, 4, 7])
def test_the_scale_of_the_low_rank_start_is_the_best(num_classes):
    model = DeepUFM((2,) * num_classes, 8, lambdas_w=(1e-3, 2e-3, 3e-3, 1e-3), lambda_h=4e-3, activation="relu")
    point = low_rank_start(model)
    value = float(model.objective(point))
    assert value < 0.5
    for factor in (0.5, 0.999, 1.001, 1.5):
        assert float(model.objective({name: factor * part for name, part in point.items()})) > value
    # The least number of points whose pairs are as many as the classes.
    ranks = layer_ranks(model.layers(point))
    assert ranks == [{3: 3, 4: 4, 7: 5}[num_classes]] * 3 + [num_classes]


def test_ranks_count_from_a_thousandth_on():
    layer = torch.diag(torch.tensor([2.0, 2.2e-3, 1.8e-3]))
    assert layer_ranks([layer, layer[:2], 0 * layer]) == [2, 2, 0]
    assert layer_ranks([layer], tolerance=8e-4) == [3]
    assert layer_ranks([layer], tolerance=0.1) == [1]


@pytest.mark.parametrize("bias", ["none", "free"])
def test_the_closed_form_of_few_dimensions_keeps_the_largest_classes(bias):
    model = DeepUFM((1, 6, 3), 1, lambdas_w=(0.01, 0.02), lambda_h=0.015, bias=bias)
    closed = model.closed_form()
    assert closed.value == pytest.approx(model.minimum, rel=1e-12)
    condition = closed.certificate.inequality
    roots = torch.tensor([1.0, 6.0, 3.0], dtype=torch.float64).sqrt()
    shares = roots.square() / 10 if bias == "free" else 0 * roots
    target = float(torch.linalg.svdvals(roots.unsqueeze(1) * (torch.eye(3, dtype=torch.float64) - shares))[0])
    assert condition.left == pytest.approx(10**3 * 0.01 * 0.02 * 0.015, rel=1e-12)
    assert condition.right == pytest.approx(collapse_threshold(target, 2), rel=1e-9)
    assert [float(value) > 0 for value in model.singular_values].count(True) == 1
    if bias == "none":
        means = closed.variables["features"]
        assert [bool(means[i].abs().max() > 0) for i in (0, 1, 7)] == [False, True, False]


@pytest.mark.parametrize(("target", "num_layers", "threshold"), [(3.0, 1, 9.0), (2.0, 2, 1.0), (1.5, 3, 1.5**6 * 4 / 729)])
def test_thresholds(target, num_layers, threshold):
    assert collapse_threshold(target, num_layers) == pytest.approx(threshold, rel=1e-14)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (
            lambda: DeepUFM((4, 4), 2, lambdas_w=(), lambda_h=0.1),
            r"lambdas_w must hold the decay of one or more layers, got none\.",
        ),
        (
            lambda: DeepUFM((4, 4), 2, lambdas_w=(0.1, -0.1), lambda_h=0.1),
            r"lambdas_w must be finite and positive, got -0\.1\.",
        ),
        (lambda: DeepUFM((4, 4), 2, lambdas_w=(0.1,), lambda_h=0.0), r"lambda_h must be finite and positive, got 0\.0\."),
        (lambda: DeepUFM((4,), 2, lambdas_w=(0.1,), lambda_h=0.1), r"counts must be positive integers"),
        (
            lambda: DeepUFM((4, 4), 2, lambdas_w=(0.1,), lambda_h=0.1, activation="tanh"),
            r"activation must be 'linear' or 'relu', got 'tanh'\.",
        ),
        (
            lambda: DeepUFM((4, 4), 2, lambdas_w=(0.1,), lambda_h=0.1, bias="regularized"),
            r"bias must be 'none' or 'free', got 'regularized'\.",
        ),
        (
            lambda: DeepUFM((4, 4), 2, lambdas_w=(0.1,), lambda_h=0.1, activation="relu", bias="free"),
            r"bias='free' needs activation='linear'",
        ),
        (lambda: DeepUFM((4, 4), 0, lambdas_w=(0.1,), lambda_h=0.1), r"dim must be finite and positive, got 0\."),
        (
            lambda: DeepUFM((4, 4, 4), 2, lambdas_w=(0.1,), lambda_h=0.1, activation="relu"),
            r"with ReLU needs dim >= 3, the rank of the targets, got 2\.",
        ),
        (lambda: low_rank_start(DeepUFM((4,) * 6, 6, lambdas_w=(0.1,) * 3, lambda_h=0.1)), r"got 'linear', 3 layers, 6"),
        (
            lambda: low_rank_start(DeepUFM((4,) * 2, 6, lambdas_w=(0.1,) * 3, lambda_h=0.1, activation="relu")),
            r"got 'relu', 3 layers, 2 classes",
        ),
        (
            lambda: low_rank_start(DeepUFM((4,) * 6, 6, lambdas_w=(0.1,) * 2, lambda_h=0.1, activation="relu")),
            r"got 'relu', 2 layers",
        ),
    ],
)
def test_errors_name_the_condition(call, words):
    with pytest.raises(ValueError, match=words):
        call()
