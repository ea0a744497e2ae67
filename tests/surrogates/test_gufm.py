"""Features on the sphere: printed optima, descent, distance to the optima, a bound for real networks, great circles."""

import math

import pytest
import torch

from ncollapse.surrogates import GUFM, LBFGS, NotConverged, balanced, great_circle_blocks, layer_norm

PRINTED = [
    (4, 0.005, 3.0916069111, 0.1430641596),
    (4, 0.05, 1.6549593567, 0.5592323946),
    (10, 0.005, 3.4898554257, 0.4753171891),
    (10, 0.0025, 4.0479751536, 0.3003238680),
    (2, 0.005, 2.2402359035, 0.0363576697),
]


def normal(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize(("num_classes", "decay", "scale", "minimum"), PRINTED)
def test_printed_optima_are_reached_by_descent(num_classes, decay, scale, minimum):
    model = GUFM(balanced(num_classes, 2), num_classes + 1, loss="cross_entropy", lambda_w=decay)
    assert model.scale == pytest.approx(scale, abs=1e-9)
    assert model.minimum == pytest.approx(minimum, abs=1e-10)
    for solution in (model.closed_form(), model.solve(seed=2)):
        assert solution.value == pytest.approx(model.minimum, abs=1e-12)
        assert solution.certified
        assert model.distance(solution.variables["weight"], solution.variables["features"]) < 1e-5


@pytest.mark.parametrize("bias", ["none", "free"])
@pytest.mark.parametrize("loss", ["cross_entropy", "mse"])
@pytest.mark.parametrize(("num_classes", "decay"), [(2, 0.3), (3, 0.01), (5, 1.0)])
def test_descent_reaches_the_formula_and_never_less(loss, bias, num_classes, decay):
    model = GUFM(balanced(num_classes, 2), num_classes + 2, loss=loss, lambda_w=decay, bias=bias)
    closed = model.closed_form()
    assert closed.value == pytest.approx(model.minimum, abs=1e-14)
    level = 1 / num_classes if (loss, bias) == ("mse", "free") else 0.0
    assert closed.variables.get("bias", torch.zeros(num_classes)).tolist() == [level] * num_classes
    assert model.solve(seed=1).value == pytest.approx(model.minimum, abs=1e-12)
    for seed in range(10):
        assert float(model.objective(model.start(seed))) > model.minimum
    features = closed.variables["features"]
    assert torch.allclose(features.sum(dim=1), torch.zeros(2 * num_classes, dtype=torch.float64), atol=1e-14)
    assert torch.allclose(features.square().sum(dim=1), torch.ones(2 * num_classes, dtype=torch.float64), atol=1e-14)


def test_formulas_of_the_squared_error():
    assert GUFM(balanced(4, 1), 6, loss="mse", lambda_w=0.05).minimum == pytest.approx(0.025 * 4 / 1.2, rel=1e-15)
    assert GUFM(balanced(4, 1), 6, loss="mse", lambda_w=0.05, bias="free").minimum == pytest.approx(
        0.025 * 3 / (4 / 3 + 0.2), rel=1e-15
    )
    assert GUFM(balanced(4, 1), 6, loss="mse", lambda_w=0.05, bias="free").scale == pytest.approx(3 / (4 * 1.15), rel=1e-15)


def test_the_smallest_dimension_of_an_etf():
    assert GUFM(balanced(4, 1), 4, loss="cross_entropy", lambda_w=0.01).closed_form().certified
    crowded = GUFM(balanced(4, 1), 3, loss="cross_entropy", lambda_w=0.01)
    solution = crowded.solve()
    assert not solution.certified
    assert not solution.certificate.inequality.holds


@pytest.mark.parametrize(("loss", "bias"), [("cross_entropy", "none"), ("mse", "none"), ("mse", "free")])
def test_distance_is_that_to_the_nearest_isometry(loss, bias):
    model = GUFM(balanced(3, 2), 7, loss=loss, lambda_w=0.02, bias=bias)
    optimum = model.closed_form().variables
    plane = torch.eye(7, dtype=torch.float64) - 1 / 7
    turn = torch.matrix_exp(plane @ (normal(0, 7, 7) - normal(0, 7, 7).T) @ plane)
    turned = [optimum[name] @ turn for name in ("weight", "features")]
    assert model.distance(*turned) < 1e-14
    # The formula with the nuclear norm, on a point at some distance.
    weight, features = (part + 0.3 * normal(n, *part.shape) for n, part in enumerate(turned))
    ideal, scaled = model.frame[model.labels], model.scale * model.frame
    overlap = plane @ (features.T @ ideal + weight.T @ scaled)
    size = float(scaled.square().sum() + ideal.square().sum())
    squared = float(weight.square().sum() + features.square().sum() - 2 * torch.linalg.svdvals(overlap).sum()) + size
    assert model.distance(weight, features) == pytest.approx(math.sqrt(squared / size), rel=1e-12)
    for seed in range(20):
        skew = normal(seed, 7, 7)
        other = torch.matrix_exp(0.2 * plane @ (skew - skew.T) @ plane)
        near = (features - optimum["features"] @ turn @ other).square().sum()
        near = near + (weight - optimum["weight"] @ turn @ other).square().sum()
        assert float(near) >= squared * (1 - 1e-12)


def test_no_normalized_network_is_below():
    """Two residual blocks with a final normalization, all weights decayed, trained for a while."""
    labels, inputs, decay = torch.arange(4).repeat(10), normal(3, 40, 12), 5e-3
    inputs = inputs + 2 * normal(4, 4, 12)[labels]
    weights = [(normal(5 + n, rows, 12) / 4).requires_grad_() for n, rows in enumerate((12, 12, 4))]
    optimizer = torch.optim.Adam(weights, lr=0.01)
    model = GUFM(balanced(4, 10), 12, loss="cross_entropy", lambda_w=decay)
    for _ in range(300):
        features = layer_norm(inputs)
        for weight in weights[:2]:
            features = layer_norm(features + torch.relu(features @ weight.T))
        logits = features @ weights[2].T
        value = torch.nn.functional.cross_entropy(logits, labels) + decay / 2 * sum(w.square().sum() for w in weights)
        assert float(value.detach()) >= model.minimum
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
    assert float(value.detach()) < 1.5 * model.minimum
    assert model.distance(weights[2].detach(), features.detach(), labels) < 0.5


def test_stopping_early_is_an_exception_unless_allowed():
    model = GUFM(balanced(4, 2), 6, loss="cross_entropy", lambda_w=0.01)
    with pytest.raises(NotConverged, match=r"^Not converged: L-BFGS, 2 iterations"):
        model.solve(LBFGS(max_iterations=2))
    assert model.solve(LBFGS(max_iterations=2), allow_unconverged=True).value > model.minimum


def test_depth_makes_turning_cheap():
    start, end = layer_norm(normal(0, 2, 16))
    costs = []
    for num_blocks in (4, 8, 16, 32, 64):
        feature, blocks = start[None], great_circle_blocks(start, end, num_blocks)
        for block in blocks:
            feature = layer_norm(feature + torch.relu(feature @ block.T))
        assert torch.allclose(feature[0], end, atol=1e-14)
        costs.append(num_blocks * sum(float(block.square().sum()) for block in blocks))
    assert max(costs) < 1.1 * min(costs)


def test_blocks_of_the_great_circle_are_the_shortest():
    """Among all stretches of the aim, for narrow angles and for nearly opposite vectors; also of a single block."""
    for seed in range(12):
        start, other = layer_norm(normal(seed, 2, 6))
        side = torch.nn.functional.normalize(other - float(start @ other) * start, dim=0)
        angle = 0.01 + 3.1 * seed / 11
        end = math.cos(angle) * start + math.sin(angle) * side
        (block,) = great_circle_blocks(start, end, 1)
        assert torch.allclose(layer_norm((start + torch.relu(block @ start))[None])[0], end, atol=1e-12)
        moves = torch.linspace(0, 3, 3001, dtype=torch.float64)[:, None] * end - start
        sizes = (moves - moves.min(dim=1, keepdim=True).values).square().sum(dim=1)
        assert float(block.square().sum()) <= float(sizes.min()) * (1 + 1e-5)


def test_no_way_needs_no_block():
    # Its product with itself rounds to more than one.
    vector = layer_norm(normal(7, 1, 5))[0]
    assert float(vector @ vector) > 1
    assert all(float(block.abs().max()) < 1e-7 for block in great_circle_blocks(vector, vector, 2))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (
            lambda: GUFM(balanced(4, 1), 6, loss="cross_entropy", lambda_w=-0.1),
            r"lambda_w must be finite and positive, got -0\.1\.",
        ),
        (
            lambda: GUFM(balanced(4, 1), 6, loss="cross_entropy", lambda_w=math.nan),
            r"lambda_w must be finite and positive, got nan\.",
        ),
        (
            lambda: GUFM(balanced(4, 2), 6, loss="cross_entropy", lambda_w=0.1).distance(
                normal(0, 4, 6), math.nan * normal(1, 8, 6)
            ),
            r"distance needs finite features, got nan or inf in row 0\.",
        ),
        (
            lambda: GUFM(balanced(4, 2), 6, loss="cross_entropy", lambda_w=0.1).distance(normal(0, 4, 5), normal(1, 8, 6)),
            r"distance needs weights \(4, 6\) for features \(8, 6\), got \(4, 5\)\.",
        ),
        (
            lambda: GUFM(balanced(4, 2), 6, loss="cross_entropy", lambda_w=0.1).distance(normal(0, 4, 6), normal(1, 7, 6)),
            r"distance needs as many labels as features, got 8 labels of the model and 7 features\. Pass labels\.",
        ),
        (
            lambda: GUFM(balanced(4, 2), 6, loss="cross_entropy", lambda_w=0.1).distance(
                normal(0, 4, 6), normal(1, 5, 6), torch.tensor([0, 0, 1, 2, 3])
            ),
            r"distance needs balanced classes, got counts \(2, 1, 1, 1\)\. Drop samples",
        ),
        (
            lambda: GUFM((2, 3), 6, lambda_w=0.1),
            r"GUFM needs balanced classes, got counts \(2, 3\)\. Take the same number for every class\.",
        ),
        (lambda: GUFM(balanced(4, 1), 6, loss="hinge", lambda_w=0.1), r"loss must be 'mse' or 'cross_entropy', got 'hinge'\."),
        (
            lambda: GUFM(balanced(1, 1), 6, loss="cross_entropy", lambda_w=0.1),
            r"counts must be positive integers, one for each of two or more classes, got \(1,\)\.",
        ),
        (lambda: GUFM(balanced(4, 0), 6, loss="cross_entropy", lambda_w=0.1), r"counts must be positive integers"),
        (
            lambda: GUFM(balanced(4, 1), 1, loss="cross_entropy", lambda_w=0.1),
            r"dim must be at least 2, got 1: centering leaves dim - 1 dimensions\.",
        ),
        (
            lambda: GUFM(balanced(4, 1), 6, loss="cross_entropy", lambda_w=0.1, bias="regularized"),
            r"bias must be 'none' or 'free', got 'regularized'\.",
        ),
        (
            lambda: GUFM(balanced(4, 1), 3, loss="cross_entropy", lambda_w=0.1).closed_form(),
            r"a frame of rank 3, needs dim >= 4, got 3\.",
        ),
        (
            lambda: GUFM(balanced(5, 1), 4, loss="mse", lambda_w=0.1, bias="free").closed_form(),
            r"a frame of rank 4, needs dim >= 5, got 4\.",
        ),
        (
            lambda: great_circle_blocks(torch.ones(4), torch.ones(4), 2),
            r"two vectors of norm one and mean zero that are not opp",
        ),
        (
            lambda: great_circle_blocks(*layer_norm(normal(0, 1, 5)) * torch.tensor([[1.0], [-1.0]]), 2),
            r"that are not opposite",
        ),
        (lambda: great_circle_blocks(*layer_norm(normal(0, 2, 5)), 0), r"num_blocks must be at least 1, got 0\."),
    ],
)
def test_errors_name_the_condition(call, words):
    with pytest.raises(ValueError, match=words):
        call()
