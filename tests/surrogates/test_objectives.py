"""Every model at a drawn point: the objective by its formula in NumPy, the features that are measured, the condition told."""

import math

import numpy as np
import pytest
import torch

from ncollapse.etf import simplex_etf
from ncollapse.surrogates import (
    GUFM,
    MUFM,
    UFM,
    BatchNormNet,
    BoundedOutputs,
    CentralPath,
    DeepUFM,
    FixedETF,
    LayerPeeled,
    MaxMargin,
    NearCollapse,
    NormalizedFeatures,
    UnregularizedUFM,
    WeightNormalizedNet,
    minority_collapse_ratio,
)

COUNTS = (3, 1, 2)
LABELS = np.repeat([0, 1, 2], COUNTS)
TARGETS = np.eye(3)[LABELS]
TWO = np.repeat([0, 1], (4, 2))
DECAYS = {"lambda_w": 0.07, "lambda_h": 0.02}


def normal(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def cross_entropy(logits, labels=LABELS):
    return (np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(len(labels)), labels]).mean()


def squares(logits):
    return ((logits - TARGETS) ** 2).sum() / 12


LOSSES = {"mse": squares, "cross_entropy": cross_entropy}


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def disturbed(problem, seed=0):
    """A drawn point with nothing at zero, as the biases of a start are."""
    start = problem.start(seed)
    return {name: part + 0.3 * normal(n, *part.shape) for n, (name, part) in enumerate(start.items())}


def in_numpy(point):
    return {name: part.numpy() for name, part in point.items()}


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("bias", ["none", "free", "regularized"])
def test_unconstrained_features(loss, bias):
    options = {"lambda_b": 0.5} if bias == "regularized" else {}
    problem = UFM(COUNTS, 4, loss=loss, bias=bias, **DECAYS, **options)
    point = disturbed(problem)
    assert problem.start(0).get("bias", torch.zeros(3)).tolist() == [0, 0, 0]
    p = in_numpy(point)
    b = p.get("bias", np.zeros(3))
    value = (
        LOSSES[loss](p["features"] @ p["weight"].T + b) + 0.035 * (p["weight"] ** 2).sum() + 0.01 * (p["features"] ** 2).sum()
    )
    value += 0.25 * (b**2).sum() * (bias == "regularized")
    assert float(problem.objective(point)) == pytest.approx(value, rel=1e-13)
    if bias != "free":
        gradient = in_numpy(problem.value_and_gradient(point)[1])
        # Γ from the features' gradient: its product with W, and N Γ are outputs less targets.
        found = problem.logit_gradient(point).numpy()
        assert gradient["features"] == pytest.approx(found @ p["weight"] + 0.02 * p["features"], abs=1e-13)
    condition = problem.certificate(point).inequality
    assert condition.text == "‖Γ‖₂ <= √(λ_W λ_H)"
    assert condition.right == pytest.approx(math.sqrt(0.0014))
    if bias != "free":
        assert condition.left == pytest.approx(np.linalg.norm(found, 2), rel=1e-12)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("bias", ["none", "free"])
def test_the_multilayer_model(loss, bias):
    problem = MUFM(normal(5, 6, 4), torch.tensor(LABELS), loss=loss, bias=bias, **DECAYS)
    point = disturbed(problem)
    p, inputs = in_numpy(point), problem.inputs.numpy()
    logits = p["features"] @ p["weight"].T + p.get("bias", 0.0)
    value = LOSSES[loss](logits) + 0.035 * (p["weight"] ** 2).sum() + 0.01 * ((p["features"] - inputs) ** 2).sum()
    assert float(problem.objective(point)) == pytest.approx(value, rel=1e-13)
    assert problem.start(0).get("bias", torch.zeros(3)).tolist() == [0, 0, 0]
    gradient = problem.logit_gradient(point).numpy()
    assert gradient.sum(axis=1) == pytest.approx(np.zeros(6), abs=1e-15) or loss == "mse"
    if bias == "free":
        assert gradient.sum(axis=0) == pytest.approx(np.zeros(3), abs=1e-14)
    condition = problem.certificate(point).inequality
    assert (condition.left, condition.right) == pytest.approx((np.linalg.norm(gradient, 2) ** 2, 0.0014), rel=1e-12)


@pytest.mark.parametrize(("activation", "bias"), [("linear", "none"), ("linear", "free"), ("relu", "none")])
def test_deep_unconstrained_features(activation, bias):
    problem = DeepUFM(COUNTS, 4, lambdas_w=(0.1, 0.2, 0.3), lambda_h=0.05, activation=activation, bias=bias)
    point = disturbed(problem)
    p = in_numpy(point)
    layer, value = p["first_features"], 0.025 * (p["first_features"] ** 2).sum()
    for number, decay in ((1, 0.1), (2, 0.2)):
        layer = layer @ p[f"weight_{number}"].T
        layer = np.maximum(layer, 0) if activation == "relu" else layer
        value += decay / 2 * (p[f"weight_{number}"] ** 2).sum()
    value += squares(layer @ p["weight_3"].T + p.get("bias", 0.0)) + 0.15 * (p["weight_3"] ** 2).sum()
    assert float(problem.objective(point)) == pytest.approx(value, rel=1e-13)
    complete = problem.complete(point)
    assert complete["features"].numpy() == pytest.approx(layer, rel=1e-13)
    assert torch.equal(complete["weight"], point["weight_3"])
    condition = problem.certificate(point).inequality
    # Of the smallest singular value of the targets, √n_k, and of centered ones if the bias is free.
    roots = np.sqrt(COUNTS)
    targets = np.diag(roots) if bias == "none" else roots[:, None] * (np.eye(3) - np.array(COUNTS) / 6)
    smallest = np.linalg.svd(targets)[1][2 if bias == "none" else 1]
    assert condition.left == pytest.approx(6**4 * 0.05 * 0.1 * 0.2 * 0.3, rel=1e-12)
    assert condition.right == pytest.approx(smallest**6 * 4 / 3**6, rel=1e-12)


def test_starts_of_a_deep_model_have_entries_of_one_size():
    start = DeepUFM((50, 50), 36, lambdas_w=(0.1, 0.2), lambda_h=0.05).start(0)
    for name in ("first_features", "weight_1", "weight_2"):
        assert float(start[name].std()) == pytest.approx(0.25, rel=0.2)
        assert float(start[name].mean()) == pytest.approx(0, abs=0.05)
    assert [tuple(part.shape) for part in start.values()] == [(100, 36), (36, 36), (2, 36)]


@pytest.mark.parametrize(
    ("counts", "activation", "depth", "proven"),
    [
        ((2, 3, 1), "linear", 3, True),
        ((2, 3, 1), "relu", 1, True),
        ((3, 3), "relu", 3, True),
        ((3, 2), "relu", 2, False),
        ((2, 2, 2), "relu", 2, False),
    ],
)
def test_where_the_minimum_of_a_deep_model_is_proven(counts, activation, depth, proven):
    problem = DeepUFM(counts, 3, lambdas_w=(0.1,) * depth, lambda_h=0.05, activation=activation)
    bound = problem.certificate(problem.start(0)).lower_bound
    assert bound == (problem.minimum if proven else -math.inf)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("bias", ["none", "free"])
def test_features_on_a_sphere(loss, bias):
    problem = GUFM((2, 2, 2), 5, loss=loss, bias=bias, lambda_w=0.07)
    point = disturbed(problem)
    p, labels = in_numpy(point), np.repeat([0, 1, 2], 2)
    features = unit(p["raw"] - p["raw"].mean(axis=1, keepdims=True))
    logits = features @ p["weight"].T + p.get("bias", 0.0)
    loss_value = cross_entropy(logits, labels) if loss == "cross_entropy" else ((logits - np.eye(3)[labels]) ** 2).sum() / 12
    assert float(problem.objective(point)) == pytest.approx(loss_value + 0.035 * (p["weight"] ** 2).sum(), rel=1e-13)
    complete = problem.complete(point)
    assert complete["features"].numpy() == pytest.approx(features, abs=1e-14)
    assert set(complete) == {"weight", "features"} | ({"bias"} if bias == "free" else set())
    assert problem.certificate(point).inequality is None


@pytest.mark.parametrize("loss", ["dot_regression", "cross_entropy"])
def test_a_fixed_frame(loss):
    problem = FixedETF(COUNTS, 4, loss=loss, energy_w=2.0, energy_h=3.0)
    point = problem.start(0)
    frame = math.sqrt(2) * simplex_etf(3, 4).numpy()
    features = math.sqrt(3) * unit(point["raw"].numpy())
    logits, scale = features @ frame.T, math.sqrt(6)
    right = logits[np.arange(6), LABELS]
    value = cross_entropy(logits) if loss == "cross_entropy" else ((right - scale) ** 2).mean() / (2 * scale)
    assert float(problem.objective(point)) == pytest.approx(value, rel=1e-13)
    complete = problem.complete(point)
    assert complete["features"].numpy() == pytest.approx(features, rel=1e-13)
    assert complete["weight"].numpy() == pytest.approx(frame, abs=1e-14)


def test_normalized_features():
    problem = NormalizedFeatures((2, 2, 2), 4, temperature=2.5)
    point = problem.start(0)
    p = in_numpy(point)
    for name in ("weight", "features"):
        assert p[name] == pytest.approx(unit(p[name]), rel=1e-14)
    logits = 2.5 * p["features"] @ p["weight"].T
    assert float(problem.objective(point)) == pytest.approx(cross_entropy(logits, np.repeat([0, 1, 2], 2)), rel=1e-13)
    tight = NormalizedFeatures((1,) * 6, 4)
    certificate = tight.certificate(tight.start(0))
    assert (certificate.weak, certificate.inequality.left, certificate.inequality.right) == ("d < K - 1", 5, 4)
    assert NormalizedFeatures((1,) * 5, 4).certificate({}).inequality is None


def test_outputs_in_a_ball():
    problem = BoundedOutputs(COUNTS, radius=1.3)
    outputs = normal(0, 6, 3) * torch.tensor([[0.1], [3.0], [1.0], [5.0], [0.5], [2.0]])
    rows = problem.retract({"features": outputs})["features"].numpy()
    sizes = np.linalg.norm(outputs.numpy(), axis=1, keepdims=True)
    assert rows == pytest.approx(outputs.numpy() * np.where(sizes > 1.3, 1.3 / sizes, 1), rel=1e-13)
    assert float(problem.objective({"features": outputs})) == pytest.approx(cross_entropy(outputs.numpy()), rel=1e-13)
    assert np.linalg.norm(problem.start(0)["features"].numpy(), axis=1).max() <= 1.3 * (1 + 1e-14)


def test_the_layer_peeled_model():
    problem = LayerPeeled((6, 2, 2), 4, energy_w=1.0, energy_h=2.0)
    point = problem.start(0)
    p = in_numpy(point)
    logits = p["features"] @ p["weight"].T
    losses = np.log(np.exp(logits).sum(axis=1)) - np.diag(logits)
    shares = np.array([0.6, 0.2, 0.2])
    assert float(problem.objective(point)) == pytest.approx(shares @ losses, rel=1e-13)
    outputs = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    size = np.linalg.norm(shares[:, None] * (outputs - np.eye(3)), 2)
    certificate = problem.certificate(point)
    assert (certificate.inequality.left, certificate.inequality.right) == pytest.approx((0.2, size), rel=1e-12)
    assert certificate.weak == ""
    narrow = LayerPeeled((6, 2, 2), 1, energy_w=1.0, energy_h=2.0)
    assert narrow.certificate(narrow.start(0)).weak == "d < K"
    assert (
        LayerPeeled((6, 2, 2), 2, energy_w=1.0, energy_h=2.0)
        .certificate(LayerPeeled((6, 2, 2), 2, energy_w=1, energy_h=2).start(0))
        .weak
        == ""
    )
    assert problem.shares == pytest.approx((0.6, 0.2, 0.2), rel=1e-15)


def test_strong_collapse_has_loss_zero_at_its_start():
    problem = UnregularizedUFM((2, 2, 2), 4)
    point = disturbed(problem)
    p = in_numpy(point)
    errors = p["features"] @ p["weight"].T + p["bias"] - np.eye(3)[np.repeat([0, 1, 2], 2)]
    assert float(problem.objective(point)) == pytest.approx((errors**2).sum() / 2, rel=1e-13)
    inside = problem.collapsed_start(0.7, 0.2)
    weight = inside["weight"].numpy()
    assert np.linalg.eigvalsh(weight @ weight.T) == pytest.approx([0, 0.7, 0.7], abs=1e-14)
    assert weight.sum(axis=0) == pytest.approx(np.zeros(4), abs=1e-15)
    assert inside["features"].numpy() == pytest.approx((weight / math.sqrt(2))[np.repeat([0, 1, 2], 2)], abs=1e-15)
    assert inside["bias"].tolist() == [0.2] * 3
    assert problem.collapsed_start(0.7)["bias"].tolist() == [0.0] * 3


def test_the_central_path():
    problem = CentralPath((3, 3), 2)
    features = normal(3, 6, 2)
    extended, targets = np.column_stack([features, np.ones(6)]), np.eye(2)[np.repeat([0, 1], 3)]
    best = np.linalg.lstsq(extended, targets, rcond=None)[0]
    assert float(problem.objective({"features": features})) == pytest.approx(((extended @ best - targets) ** 2).sum() / 12)
    complete = problem.complete({"features": features})
    assert np.column_stack([complete["weight"], complete["bias"]]) == pytest.approx(best.T, rel=1e-9)
    narrow = CentralPath((4, 4, 4, 4), 1)
    certificate = narrow.certificate({})
    assert (certificate.lower_bound, certificate.inequality.left, certificate.inequality.right) == (2 / 8, 3, 1)
    assert problem.certificate({}).lower_bound == 0
    assert problem.certificate({}).inequality is None
    with pytest.raises(ValueError, match=r"for dim <= N - K = 4, got 5\."):
        CentralPath((3, 3), 5)
    assert CentralPath((3, 3), 4).dim == 4


def test_batch_normalization():
    problem = BatchNormNet(normal(1, 6, 8), torch.tensor(LABELS), lambda_w=0.3, width=5)
    start = problem.start(0)
    assert (start["gamma"].tolist(), start["alpha"].tolist()) == ([1.0] * 5, [0.0] * 5)
    point = disturbed(problem)
    p = in_numpy(point)
    reached = problem.inputs.numpy() @ p["hidden"].T
    centered = reached - reached.mean(axis=0)
    features = np.maximum(p["gamma"] * centered / np.linalg.norm(centered, axis=0) + p["alpha"] / math.sqrt(6), 0)
    value = ((features @ p["weight"].T - TARGETS) ** 2).sum() / 2
    value += 0.15 * sum((p[name] ** 2).sum() for name in ("gamma", "alpha", "weight"))
    assert float(problem.objective(point)) == pytest.approx(value, rel=1e-13)
    assert problem.complete(point)["features"].numpy() == pytest.approx(features, rel=1e-12)
    condition = problem.certificate(point).inequality
    assert (condition.text, condition.left, condition.right) == ("λ <= min √n_k", 0.3, 1.0)
    assert BatchNormNet(normal(1, 6, 8), torch.tensor(LABELS), lambda_w=0.3).num_units == 3


def test_weight_normalization():
    problem = WeightNormalizedNet(normal(2, 6, 3), torch.tensor(TWO), lambda_w=0.3, width=5)
    assert problem.start(0)["rho"].tolist() == [1.0]
    point = disturbed(problem)
    p, inputs = in_numpy(point), problem.inputs.numpy()
    features = np.maximum(inputs @ p["hidden"].T / np.linalg.norm(p["hidden"]), 0)
    outputs = features @ p["outer"] / np.linalg.norm(p["outer"])
    signs = np.where(TWO == 1, 1, -1)
    assert problem.margins(point).numpy() == pytest.approx(signs * outputs, rel=1e-12)
    value = ((1 - p["rho"] * outputs * signs) ** 2).mean() + 0.3 * float(p["rho"][0]) ** 2
    assert float(problem.objective(point)) == pytest.approx(value, rel=1e-13)
    # The two logits differ by the output of the network.
    complete = problem.complete(point)
    logits = complete["features"] @ complete["weight"].T
    assert (logits[:, 1] - logits[:, 0]).numpy() == pytest.approx(p["rho"] * outputs, rel=1e-12)
    assert logits.sum(dim=1).numpy() == pytest.approx(np.zeros(6), abs=1e-14)
    # The bound and its condition, from the classes' spectral norms.
    c = np.array([math.sqrt(n) / np.linalg.norm(inputs[k == TWO], 2) for k, n in ((0, 4), (1, 2))])
    s, q = c.sum(), (6 * c**2 / np.array([4, 2])).sum()
    assert problem.minimum == pytest.approx(0.3 * s**2 / (1 + 0.3 * q), rel=1e-12)
    condition = problem.certificate(point).inequality
    assert condition.left == pytest.approx(0.3 * s * (c * 6 / np.array([4, 2])).max() / (1 + 0.3 * q), rel=1e-12)
    assert condition.right == 1


def margins_of(logits, labels=LABELS):
    gaps = logits[np.arange(len(labels)), labels][:, None] - logits
    return gaps + np.where(np.eye(logits.shape[1])[labels] == 1, math.inf, 0)


def test_the_max_margin_problem():
    problem = MaxMargin(COUNTS, 4)
    optimum = problem.closed_form().variables
    point = {name: 2 * part + 0.2 * normal(3, *part.shape) for name, part in optimum.items()}
    p = in_numpy(point)
    logits = p["features"] @ p["weight"].T
    gaps = margins_of(logits)
    smallest = gaps.min()
    assert smallest > 0
    norms = (p["weight"] ** 2).sum() + (p["features"] ** 2).sum()
    assert float(problem.objective(point)) == pytest.approx(norms / (2 * smallest), rel=1e-13)
    scaled = problem.complete(point)
    assert scaled["weight"].numpy() == pytest.approx(p["weight"] / math.sqrt(smallest), rel=1e-13)
    assert margins_of((scaled["features"] @ scaled["weight"].T).numpy()).min() == pytest.approx(1, rel=1e-13)
    short = problem.complete({name: 0.2 * part for name, part in point.items()})
    assert all(torch.allclose(short[name], part, atol=1e-12) for name, part in scaled.items())
    condition = problem.certificate(point).inequality
    assert (condition.left, condition.right) == (0, pytest.approx(smallest, rel=1e-13))
    # First-order conditions with the weights that the cross-entropy gives to the margins.
    leaves = {name: part.clone().requires_grad_() for name, part in point.items()}
    loss = torch.nn.functional.cross_entropy(leaves["features"] @ leaves["weight"].T, torch.tensor(LABELS))
    slopes = torch.autograd.grad(loss, list(leaves.values()))
    product = -sum(float((slope * part).sum()) for slope, part in zip(slopes, point.values(), strict=True))
    cosine = product / math.sqrt(norms * sum(float(slope.square().sum()) for slope in slopes))
    outputs = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True) * (1 - TARGETS)
    excess = np.where(TARGETS == 1, 0, gaps / smallest - 1)
    assert problem.kkt(point) == pytest.approx((cosine, (outputs * excess).sum() / outputs.sum()), rel=1e-9)


def test_bounds_of_the_max_margin_problem_at_the_origin():
    """Equal weights of all margins are the best of balanced classes."""
    problem = MaxMargin((4, 4, 4), 3)
    origin = {name: 0 * part for name, part in problem.start(0).items()}
    assert problem.certificate(origin).lower_bound == pytest.approx(4, rel=1e-12)
    assert float(problem.objective(origin)) == math.inf
    assert all(torch.equal(part, origin[name]) for name, part in problem.complete(origin).items())
    wrong = problem.complete(problem.start(2))
    assert all(torch.equal(part, problem.start(2)[name]) for name, part in wrong.items())


def test_the_least_numbers_that_are_allowed():
    """One less is refused elsewhere."""
    assert FixedETF(COUNTS, 2).closed_form().certified
    assert UnregularizedUFM((2, 2, 2), 2).closed_form().certified
    assert minority_collapse_ratio(1, 2, lambda_w=0.1, lambda_h=0.1, num_samples=20) == (5 - 2) / 1
    with pytest.raises(ValueError, match=r"counts must be positive, one for each"):
        LayerPeeled((1.0, 0.0), energy_w=1.0, energy_h=1.0)
    with pytest.raises(ValueError, match=r"counts must be positive, one for each"):
        LayerPeeled((1.0, math.inf), energy_w=1.0, energy_h=1.0)
    with pytest.raises(ValueError, match=r"dim must be finite and positive"):
        LayerPeeled((1.0, 1.0), 0, energy_w=1.0, energy_h=1.0)
    model = NearCollapse((2, 2, 2), scale=1.0, lambda_w=0.1, lambda_h=0.1)
    assert model.inputs(3, 0.0, 0)[0].tolist() == np.eye(3)[np.repeat([0, 1, 2], 2)].tolist()
    # c = 1: all collapses, whatever the bias.
    edge = UFM((1, 1), 2, loss="mse", lambda_w=0.5, lambda_h=0.5, bias="regularized", lambda_b=0.3)
    assert float(edge.collapse_numbers[0]) == 1
    assert edge.closed_form().certified
    assert float(edge.closed_form().variables["weight"].abs().max()) == 0
