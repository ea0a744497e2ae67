"""The unregularized layer-peeled model: its optimum for any counts, the bound, the flow of the loss without decay."""

import math

import pytest
import torch

from ncollapse.margins import margins
from ncollapse.surrogates import LBFGS, UFM, MarginFlow, MaxMargin, seli_geometry


def normal(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize(("num_classes", "per_class"), [(2, 1), (3, 4), (4, 5), (10, 3)])
def test_balanced_optimum(num_classes, per_class):
    model = MaxMargin((per_class,) * num_classes, num_classes - 1)
    solution = model.closed_form()
    assert solution.value == pytest.approx((num_classes - 1) * math.sqrt(per_class), rel=1e-12)
    assert model.largest_margin == pytest.approx(1 / (2 * (num_classes - 1) * math.sqrt(per_class)), rel=1e-12)
    assert solution.gap == pytest.approx(0, abs=1e-12)
    assert solution.certified
    weight, features = solution.variables["weight"], solution.variables["features"]
    centering = torch.eye(num_classes, dtype=torch.float64) - 1 / num_classes
    assert torch.allclose(weight @ weight.T, math.sqrt(per_class) * centering, atol=1e-12)
    assert torch.allclose(features @ weight.T, centering[model.labels], atol=1e-12)
    assert margins(features @ weight.T, model.labels).tolist() == pytest.approx([1.0] * num_classes * per_class, rel=1e-12)
    cosine, slack = model.kkt(solution.variables)
    assert (cosine, slack) == (pytest.approx(1, abs=1e-12), pytest.approx(0, abs=1e-12))


@pytest.mark.parametrize("counts", [(12, 8, 5, 1), (100, 1, 1), (30, 30, 2, 2, 2)])
def test_unequal_counts_lead_to_seli(counts):
    model = MaxMargin(counts, len(counts) + 1)
    solution = model.closed_form()
    # The bound comes from multipliers: it proves that simplex-encoded labels are the minimum.
    assert solution.gap == pytest.approx(0, abs=1e-12 * solution.value)
    weight = solution.variables["weight"]
    assert torch.allclose(weight @ weight.T, seli_geometry(counts)[0], atol=1e-12)
    # The cross-entropy model with vanishing decay comes near it.
    near = UFM(counts, len(counts) + 1, loss="cross_entropy", lambda_w=1e-7, lambda_h=1e-7).solve(
        LBFGS(tolerance=1e-6), allow_unconverged=True
    )
    assert solution.value < float(model.objective(near.variables)) < 1.3 * solution.value


def test_every_point_is_above_the_bound_and_the_optimum():
    model = MaxMargin((3, 3, 2), 4)
    optimum = model.closed_form()
    for seed in range(30):
        point = {name: part + 0.1 * normal(seed, *part.shape) for name, part in optimum.variables.items()}
        assert model.certificate(point).lower_bound <= model.minimum * (1 + 1e-12)
        assert model.certificate(model.start(seed)).lower_bound <= model.minimum * (1 + 1e-12)
        assert float(model.objective(point)) > model.minimum


def test_the_flow_comes_to_the_margin_and_conserves_the_balance():
    model = MaxMargin((4, 4, 4), 5)
    # Standard normal, features too: with a smaller start the discrete steps are longer against it.
    start = {name: (2 if name == "features" else 1) * part for name, part in model.start(0).items()}
    run = MarginFlow(learning_rate=1.0, num_steps=6000, tolerance=1e-6).run(model, start)
    assert 0.95 * 0.125 < 0.5 / run.history[-1] < 0.125

    def balance(point):
        return point["weight"].T @ point["weight"] - point["features"].T @ point["features"]

    norms = [float(run.variables[name].square().sum()) for name in ("weight", "features")]
    assert torch.linalg.norm(balance(run.variables) - balance(start)) < 1e-5 * sum(norms)
    # Balance in the limit: conserved differences vanish against the norms.
    assert norms[0] == pytest.approx(norms[1], rel=0.05)
    cosine, slack = model.kkt(run.variables)
    assert cosine > 0.99
    assert 0 <= slack < 1e-4


def test_the_flow_collapses_and_says_how_far_it_is():
    model = MaxMargin((4, 4, 4), 5)
    solution = model.solve(seed=1)
    assert solution.value == pytest.approx(4, rel=0.0102)
    assert solution.certificate.lower_bound == pytest.approx(4, abs=1e-6)
    assert 0 < solution.gap < 0.01 * solution.value
    assert solution.status.startswith("Within 0.98 % of the global minimum: gradient flow of the loss without decay, ")
    assert "loss 10^-" in solution.status
    # Scaled to margin one, whatever the scale at which the flow stopped.
    features, weight = solution.variables["features"], solution.variables["weight"]
    assert float(margins(features @ weight.T, model.labels).min()) == pytest.approx(1, rel=1e-12)
    assert solution.metrics(["pfc1"])["pfc1"] < 0.02
    assert solution.history[0] == math.inf
    assert solution.history[-1] == solution.value


@pytest.mark.parametrize(("counts", "dim"), [((1, 1), 1), ((1000, 1), 2)])
def test_the_flow_ends_near_the_minimum_whatever_the_counts(counts, dim):
    """A start whose features outweigh the weight a thousandfold would not separate the single sample in 50,000 steps."""
    model = MaxMargin(counts, dim)
    solution = model.solve(seed=0)
    assert model.minimum < solution.value < 1.0102 * model.minimum
    assert solution.status.startswith("Within ")
    assert not solution.certified


def test_a_point_that_separates_nothing():
    model = MaxMargin((2, 2), 3)
    point = {"weight": torch.zeros(2, 3, dtype=torch.float64), "features": normal(0, 4, 3)}
    solution = model.solution(point, "by hand")
    assert solution.value == math.inf
    assert not solution.certified
    # One sample on the wrong side is enough.
    wrong = model.start(2)
    assert float(margins(wrong["features"] @ wrong["weight"].T, model.labels).min()) < 0
    assert not model.certificate(wrong).inequality.holds


def test_the_flow_is_descent_at_a_rate_of_the_loss_and_the_norm():
    model = MaxMargin((3, 1, 2), 4)
    start = {name: 0.5 * part for name, part in model.start(0).items()}
    run = MarginFlow(learning_rate=0.7, num_steps=130, tolerance=0.0).run(model, start)
    leaves, history = [start[name].clone().requires_grad_() for name in ("weight", "features")], []
    for step in range(131):
        loss = torch.nn.functional.cross_entropy(leaves[1] @ leaves[0].T, model.labels)
        if step in {0, 100, 130}:
            history.append(float(model.objective(dict(zip(start, [leaf.detach() for leaf in leaves], strict=True)))))
        if step < 130:
            rate = 0.7 / float(loss.detach()) / sum(float(leaf.detach().square().sum()) for leaf in leaves)
            slopes = torch.autograd.grad(loss, leaves)
            leaves = [(leaf - rate * slope).detach().requires_grad_() for leaf, slope in zip(leaves, slopes, strict=True)]
    assert torch.allclose(run.variables["weight"], leaves[0], atol=1e-9)
    assert torch.allclose(run.variables["features"], leaves[1], atol=1e-9)
    assert run.history == pytest.approx(history, rel=1e-9)
    assert not run.converged
    digits = f"{math.log10(float(loss.detach())):.0f}"
    assert run.description == f"gradient flow of the loss without decay, 130 steps, loss 10^{digits}"


def test_a_flow_that_begins_at_the_minimum_takes_no_step():
    model = MaxMargin((4, 4, 4), 2)
    point = model.closed_form().variables
    solution = model.solve(start={name: 7 * part for name, part in point.items()})
    # Twelve samples with margins of 49 over two classes: 24 e^-49.
    assert solution.source == "gradient flow of the loss without decay, 0 steps, loss 10^-20"
    assert len(solution.history) == 1
    assert all(torch.allclose(solution.variables[name], part, atol=1e-12) for name, part in point.items())


def test_starts_have_two_norms_of_about_one_size():
    start = MaxMargin((500, 500), 30).start(0)
    assert float(start["weight"].std()) == pytest.approx(1, rel=0.2)
    assert float(start["features"].std()) == pytest.approx(math.sqrt(2 / 1000), rel=0.05)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: MaxMargin((4,), 5), r"counts must be positive integers, one for each of two or more classes, got \(4,\)\."),
        (lambda: MaxMargin((4, 4), 0), r"dim must be finite and positive, got 0\."),
        (lambda: MaxMargin((4, 4, 4), 1).closed_form(), r"logits have rank 2, which needs dim >= 2, got 1\."),
    ],
)
def test_errors_name_the_condition(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def test_solvers_and_problems_that_do_not_fit():
    with pytest.raises(TypeError, match=r"solver must be MarginFlow\(\) for this MaxMargin, got LBFGS\(\)"):
        MaxMargin((2, 2), 3).solve(LBFGS())
    with pytest.raises(TypeError, match=r"for this UFM, got MarginFlow\(\)\. Take one of those"):
        UFM((2, 2), 2, loss="cross_entropy", lambda_w=0.1, lambda_h=0.1).solve(MarginFlow())
