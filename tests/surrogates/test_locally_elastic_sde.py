"""Locally elastic equations: eigenvalues, exact means, the separation threshold, estimators, collapse of the L-model."""

import math

import pytest
import torch

from ncollapse.surrogates import LocallyElasticSDE, SDEPath, estimate_integrals, pairwise_separability, smooth_rate, tail_index


def normal(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def simulated(times=(0.0, 1.0), counts=(1, 1), noise=0.1):
    sde = LocallyElasticSDE(2, kind="I", alpha=1.0, beta=0.0)
    return sde.simulate(torch.zeros(2, 2), torch.as_tensor(times), counts=counts, noise=noise)


def eigenvalues(matrix):
    return torch.linalg.eigvals(matrix).real.sort(descending=True).values.tolist()


def test_eigenvalues():
    """K = 4, α = .7, β = -.2; K times the eigenvalues."""
    found = [4 * value for value in eigenvalues(LocallyElasticSDE(4, kind="L", alpha=0.7, beta=-0.2).drift(0.0))]
    assert found == pytest.approx([0.9] + [0.7 - 0.2 / 3] * 3 + [0] * 12, abs=1e-7)
    found = [3 * value for value in eigenvalues(LocallyElasticSDE(3, kind="I", alpha=0.7, beta=-0.2).drift(0.0, dim=2))]
    assert found == pytest.approx([0.9] * 4 + [0.7 - 2 * 0.2] * 2, abs=1e-12)
    found = [4 * value for value in eigenvalues(LocallyElasticSDE(4, kind="I", alpha=0.7, beta=-0.2).drift(0.0))]
    assert found == pytest.approx([0.9] * 12 + [0.1] * 4, abs=1e-12)
    sde = LocallyElasticSDE(4, kind="L", alpha=0.7, beta=-0.2)
    simplex = (torch.eye(4, dtype=torch.float64) - 0.25).flatten()
    assert torch.allclose(sde.drift(0.0) @ simplex, 0.9 / 4 * simplex, atol=1e-15)


@pytest.mark.parametrize("model", ["I", "L"])
def test_exact_means_are_the_matrix_exponential(model):
    sde = LocallyElasticSDE(4, kind=model, alpha=0.7, beta=-0.2)
    initial = normal(0, 4, 4)
    expected = torch.matrix_exp(3.0 * sde.drift(0.0)) @ initial.flatten()
    assert torch.allclose(sde.class_means(initial, 3.0).flatten(), expected, rtol=1e-10, atol=1e-10)
    assert torch.equal(sde.class_means(initial, 0.0), initial)


@pytest.mark.parametrize("model", ["I", "L"])
def test_means_under_rates_that_change(model):
    """Against a product of exponentials over short steps, at their middles: of second order."""
    sde = LocallyElasticSDE(3, kind=model, alpha=lambda t: 2 * t**-0.5, beta=lambda t: -math.exp(-t), start_time=1.0)
    initial = normal(1, 3, 3)
    errors = []
    for steps in (50, 100):
        flat, step = initial.flatten(), 4.0 / steps
        for number in range(steps):
            flat = torch.matrix_exp(step * sde.drift(1 + (number + 0.5) * step)) @ flat
        errors.append(float((sde.class_means(initial, 5.0).flatten() - flat).abs().max()))
    assert errors[0] < 1e-3
    assert errors[1] == pytest.approx(errors[0] / 4, rel=0.05)


def test_the_simulator_without_noise_converges_to_the_exact_means():
    sde, initial = LocallyElasticSDE(3, kind="L", alpha=0.7, beta=-0.2), normal(2, 3, 3)
    errors = []
    for steps in (200, 400):
        path = sde.simulate(initial, torch.linspace(0, 4, steps + 1, dtype=torch.float64), counts=(2,) * 3, noise=0.0)
        errors.append(float((path.means[-1] - sde.class_means(initial, 4.0)).abs().max()))
        assert torch.allclose(path.samples, path.means[-1].unsqueeze(1).expand(-1, 2, -1))
    assert errors[0] < 0.02
    assert errors[1] == pytest.approx(errors[0] / 2, rel=0.05)


# α(t) with β = 0 for two classes, so that γ = α, and the printed separability at T = 50, 500, 5000.
SEPARABILITY = [
    (lambda t: 2 * t**-0.5, (1.0, 1.0, 1.0)),
    (lambda t: 4 / t, (1.0, 1.0, 1.0)),
    (lambda t: 0.5 / t, (0.88, 0.76, 0.68)),
    (lambda t: 2 * t**-1.5, (0.97, 0.78, 0.63)),
]


@pytest.mark.parametrize(("alpha", "printed"), SEPARABILITY)
def test_classes_separate_if_the_rate_falls_slower_than_the_threshold(alpha, printed):
    """Two classes six standard deviations apart at t = 1; the formula, and the printed simulation up to its unknown start."""
    sde = LocallyElasticSDE(2, kind="I", alpha=alpha, beta=0.0, start_time=1.0)
    initial = torch.tensor([[3.0], [-3.0]], dtype=torch.float64)
    for end, expected in zip((50.0, 500.0, 5000.0), printed, strict=True):
        times = torch.logspace(0, math.log10(end), 401, dtype=torch.float64)
        times[0] = 1.0
        path = sde.simulate(initial, times, counts=(4000, 4000), noise=1.0, seed=1)
        means = sde.class_means(initial, end)
        distance = float(torch.linalg.norm(means[0] - means[1]))
        exact = float(torch.special.ndtr(torch.tensor(distance / (2 * math.sqrt(end - 1)), dtype=torch.float64)))
        # Three standard deviations of 8,000 draws, and the error of the steps.
        assert pairwise_separability(path) == pytest.approx(exact, abs=0.017 + 0.005)
        assert exact == pytest.approx(expected, abs=0.05)
    assert sde.separation_rate(4.0) == alpha(4.0)


@pytest.mark.parametrize("model", ["I", "L"])
def test_estimators_recover_the_rates(model):
    sde, initial = LocallyElasticSDE(3, kind=model, alpha=0.86, beta=-0.4), normal(3, 3, 3) + 1
    times = torch.linspace(0, 10, 201, dtype=torch.float64)
    exact = torch.stack([sde.class_means(initial, float(t)) for t in times])
    found = estimate_integrals(exact, kind=model)
    assert torch.allclose(found.alpha, 0.86 * times, atol=1e-7)
    assert torch.allclose(found.beta, -0.4 * times, atol=1e-7)
    assert torch.allclose(smooth_rate(found.alpha, 0.05), torch.tensor(0.86).double(), atol=1e-6)
    # From simulated class means: with noise of the means and the error of the steps.
    fine = torch.linspace(0, 10, 5001, dtype=torch.float64)
    found = estimate_integrals(sde.simulate(initial, fine, counts=(1,) * 3, noise=0.0).means, kind=model)
    assert float(found.alpha[-1]) == pytest.approx(8.6, rel=0.05)
    assert float(found.beta[-1]) == pytest.approx(-4, rel=0.05)
    assert abs(float(found.alpha[-1]) - 8.6) < 0.01


def test_tail_index():
    times = torch.arange(1, 5001, dtype=torch.float64)
    assert tail_index(times**0.5, times) == pytest.approx(0.5, abs=1e-14)
    # α = t^-1/2 has A = 2 √t: off by log 2 / log t.
    assert tail_index(2 * times**0.5, times) == pytest.approx(0.5 - math.log(2) / math.log(5000), abs=2e-3)


@pytest.mark.parametrize("num_classes", [3, 5])
def test_the_l_model_collapses_to_a_simplex(num_classes):
    """With β < 0: an error of order e^(-|∫β|/(K-1)), here ten powers of e."""
    sde = LocallyElasticSDE(num_classes, kind="L", alpha=0.8, beta=-0.5)
    initial = torch.eye(num_classes, dtype=torch.float64) + 0.3 * normal(4, num_classes, num_classes)
    errors = []
    for total in (6 * (num_classes - 1), 10 * (num_classes - 1)):
        means = torch.nn.functional.normalize(sde.class_means(initial, total / 0.5), dim=1)
        errors.append(float(((means @ means.T)[~torch.eye(num_classes, dtype=torch.bool)] + 1 / (num_classes - 1)).abs().max()))
    assert errors[1] < 1e-3
    assert math.log(errors[0] / errors[1]) == pytest.approx(4, rel=0.1)


def test_the_end_of_a_path_as_a_solution():
    sde = LocallyElasticSDE(3, kind="L", alpha=0.8, beta=-0.4)
    path = sde.simulate(torch.eye(3) * 2, torch.linspace(0, 12, 121, dtype=torch.float64), counts=(30,) * 3, noise=0.1, seed=5)
    solution = sde.solution(path)
    labels = torch.arange(3).repeat_interleave(30)
    assert solution.value == pytest.approx(
        float(torch.nn.functional.cross_entropy(path.samples.flatten(0, 1), labels)), rel=1e-12
    )
    assert solution.certificate.lower_bound == 0
    assert solution.history[0] > solution.history[-1] == solution.value
    assert solution.status.startswith("Simulated: L-model up to t = 12, 120 steps; the loss is ")
    assert 0 < solution.metrics(["pfc1"])["pfc1"] < 0.1


@pytest.mark.parametrize(("model", "dim"), [("I", 2), ("L", 3)])
def test_the_simulation_is_the_euler_maruyama_method(model, dim):
    sde = LocallyElasticSDE(3, kind=model, alpha=lambda t: 0.5 * t, beta=lambda t: -0.2 / t, start_time=1.0)
    initial, times = normal(6, 3, dim), torch.tensor([1.0, 1.5, 1.7, 2.7], dtype=torch.float64)
    path = sde.simulate(initial, times, counts=(4,) * 3, noise=0.7)
    generator = torch.Generator().manual_seed(0)
    means, samples, losses = initial, initial.unsqueeze(1).expand(3, 4, dim), []
    for step in range(4):
        if model == "L":
            labels = torch.arange(3).repeat_interleave(4)
            losses.append(float(torch.nn.functional.cross_entropy(samples.flatten(0, 1), labels)))
        assert torch.allclose(path.means[step], means, atol=1e-13)
        if step < 3:
            length = float(times[step + 1] - times[step])
            move = length * (sde.drift(float(times[step]), dim) @ means.flatten()).reshape(3, dim)
            noise = torch.randn(3, 4, dim, generator=generator, dtype=torch.float64)
            means, samples = means + move, samples + move.unsqueeze(1) + 0.7 * math.sqrt(length) * noise
    assert torch.allclose(path.samples, samples, atol=1e-13)
    assert path.losses == (pytest.approx(losses, rel=1e-12) if model == "L" else ())
    assert torch.equal(path.times, times)


def test_separability_counts_samples_nearer_to_their_own_mean():
    means, samples = normal(7, 1, 4, 2) + 5, normal(8, 4, 30, 2) + 5
    path = SDEPath(torch.tensor([0.0]), torch.cat([0 * means, means]), samples, ())
    nearer = []
    for own in range(4):
        for other in range(4):
            if other != own:
                gaps = [torch.linalg.norm(samples[own] - means[0, k], dim=1) for k in (own, other)]
                nearer.append(float((gaps[0] < gaps[1]).double().mean()))
    assert pairwise_separability(path) == pytest.approx(sum(nearer) / 12, rel=1e-12)
    # Half way is not nearer, from either side.
    ends = torch.tensor([[[0.0], [2.0]]])
    assert pairwise_separability(SDEPath(torch.tensor([0.0]), ends, torch.ones(2, 3, 1), ())) == 0


@pytest.mark.parametrize(
    ("num_classes", "kind", "rate", "text"),
    [
        (3, "L", 0.8 + 0.4 / 2, "K/2 < t max(α - β, α + β/(K-1)) at the end"),
        (3, "I", 0.4, "K/2 < t (α - β) at the end"),
        (2, "L", 0.4, "K/2 < t (α - β) at the end"),
    ],
)
def test_the_condition_of_separation_is_told(num_classes, kind, rate, text):
    sde = LocallyElasticSDE(num_classes, kind=kind, alpha=0.8, beta=0.4, start_time=1.0)
    start, counts = torch.eye(num_classes, dtype=torch.float64), (2,) * num_classes
    solution = sde.solution(sde.simulate(start, torch.tensor([1.0, 3.0]), counts=counts, noise=0.0))
    condition = solution.certificate.inequality
    assert (condition.text, condition.left, condition.right) == (text, num_classes / 2, pytest.approx(3 * rate))
    assert f"the loss is {solution.value:.3g} above its infimum" in solution.status
    assert solution.source == f"{kind}-model up to t = 3, 1 steps"
    assert solution.labels.tolist() == [k for k in range(num_classes) for _ in range(2)]


def test_integrals_of_rates_that_change():
    sde = LocallyElasticSDE(3, kind="L", alpha=lambda t: 2 * t, beta=lambda t: -1 / t, start_time=1.0)
    grown = sde.growth(2.0)
    assert (grown.alpha, grown.beta) == pytest.approx((3, -math.log(2)), rel=1e-11)
    # ∫ β e^((A + B/2)/3) / 3 by the trapezoidal rule.
    t = torch.linspace(1, 2, 20_001, dtype=torch.float64)
    inside = -1 / t * torch.exp((t**2 - 1 - t.log() / 2) / 3) / 3
    assert grown.cross == pytest.approx(float(torch.trapezoid(inside, t)), rel=1e-8)
    assert sde.growth(1.0) == sde.growth(0.5) == (0, 0, 0)


def test_estimates_average_over_coordinates():
    """The I-model in two dimensions, three classes: rates that do not vanish, from exact means."""
    sde = LocallyElasticSDE(3, kind="I", alpha=0.4, beta=-0.1)
    times = torch.linspace(0, 3, 7, dtype=torch.float64)
    found = estimate_integrals(torch.stack([sde.class_means(normal(3, 3, 2), float(t)) for t in times]), kind="I")
    assert torch.allclose(found.alpha, 0.4 * times, atol=1e-10)
    assert torch.allclose(found.beta, -0.1 * times, atol=1e-10)


def test_a_rate_is_the_slope_of_a_local_parabola():
    times = 0.2 * torch.arange(30, dtype=torch.float64)
    assert torch.allclose(smooth_rate(times**2, 0.2, window=5), 2 * times, atol=1e-10)
    # Over the whole window one parabola is fitted: not so good for a cubic.
    rough = smooth_rate(times[:29] ** 3, 0.2, window=29)
    design = torch.stack([torch.ones(29), times[:29], times[:29] ** 2], dim=1).double()
    _, slope, bend = torch.linalg.lstsq(design, times[:29] ** 3).solution
    assert torch.allclose(rough, slope + 2 * bend * times[:29], atol=1e-9)
    assert torch.allclose(smooth_rate(times[:5] ** 3, 0.2, window=5, order=3), 3 * times[:5] ** 2, atol=1e-9)
    for window, order in ((4, 2), (31, 2), (3, 3)):
        with pytest.raises(ValueError, match=rf"an odd window above {order} and up to 30 entries, got {window}\."):
            smooth_rate(times, window=window, order=order)


def test_the_tail_index_is_of_the_last_entries():
    times = torch.arange(2, 2002, dtype=torch.float64)
    integral = times**0.7
    integral[:1000] = 5.0
    assert tail_index(-integral, times) == pytest.approx(0.3, abs=1e-12)
    assert tail_index(integral, times, last=1001) != pytest.approx(0.3, abs=1e-6)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (
            lambda: LocallyElasticSDE(1, kind="I", alpha=1.0, beta=0.0),
            r"two or more classes and kind 'I' or 'L', got 1, 'I'\.",
        ),
        (lambda: LocallyElasticSDE(3, kind="M", alpha=1.0, beta=0.0), r"got 3, 'M'\."),
        (
            lambda: LocallyElasticSDE(3, kind="L", alpha=1.0, beta=0.0).class_means(torch.zeros(3, 2), 1.0),
            r"of shape \(3, 3\), got \(3, 2\)\.",
        ),
        (
            lambda: LocallyElasticSDE(2, kind="I", alpha=1.0, beta=0.0).simulate(
                torch.zeros(2, 2), torch.tensor([1.0, 2.0]), counts=(1, 1), noise=0.1
            ),
            r"rising times from 0\.0 on",
        ),
        (lambda: simulated(torch.tensor([0.0, 1.0, 1.0])), r"rising times from 0\.0 on"),
        (lambda: simulated(torch.tensor([0.0])), r"rising times from 0\.0 on"),
        (lambda: simulated(noise=-0.1), r"needs noise of 0 or more .* got -0\.1"),
        (lambda: simulated(noise=math.nan), r"needs noise of 0 or more .* got nan"),
        (lambda: simulated(counts=(0, 0)), r"counts must be positive integers"),
        (lambda: simulated(counts=(2, 1)), r"simulate needs balanced classes"),
        (
            lambda: LocallyElasticSDE(3, kind="I", alpha=1.0, beta=0.0).class_means(torch.zeros(2, 3), 1.0),
            r"of shape \(3, p\), got \(2, 3\)\.",
        ),
        (lambda: estimate_integrals(torch.zeros(5, 3), kind="I"), r"means of shape \(T, K, p\), p = K for 'L', got \(5, 3\)"),
        (lambda: estimate_integrals(torch.zeros(5, 3, 3), kind="M"), r"got \(5, 3, 3\), 'M'\."),
        (
            lambda: LocallyElasticSDE(2, kind="I", alpha=1.0, beta=0.0).simulate(
                torch.zeros(2, 2), torch.tensor([0.0, 2.0]), counts=(1, 1, 1), noise=0.1
            ),
            r"counts must hold 2 numbers, one for each class, got \(1, 1, 1\)\.",
        ),
        (
            lambda: LocallyElasticSDE(2, kind="I", alpha=1.0, beta=0.0).solution(
                LocallyElasticSDE(2, kind="I", alpha=1.0, beta=0.0).simulate(
                    torch.zeros(2, 3), torch.tensor([0.0, 2.0]), counts=(1, 1), noise=0.1
                )
            ),
            r"p = K = 2, got p = 3\.",
        ),
        (lambda: estimate_integrals(torch.zeros(5, 3, 2), kind="L"), r"p = K for 'L', got \(5, 3, 2\), 'L'\."),
        (lambda: smooth_rate(torch.zeros(50)), r"an odd window above 2 and up to 50 entries, got 151\."),
    ],
)
def test_errors_name_the_condition(call, words):
    with pytest.raises(ValueError, match=words):
        call()
