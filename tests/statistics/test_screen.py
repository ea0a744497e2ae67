"""Decisions by float32 products with a bound, and float64 where it leaves them open: none differs from float64 everywhere."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ncollapse.statistics import ClassCenters, ClassMoments, LinearClassifier, nearest, screen
from ncollapse.statistics.nearest import nearest_centers
from ncollapse.statistics.screen import Screen

SEEDS = st.integers(0, 2**32)
EXPONENTS = st.integers(-17, -1)
DTYPES = st.sampled_from([torch.bfloat16, torch.float32, torch.float64])


def normal(generator, *shape):
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def adversarial(seed, num_classes, dim, gap, noise, scale):
    """Class means of which many coincide or lie 10**gap apart, and samples on the boundaries between them."""
    generator = torch.Generator().manual_seed(seed)
    means = normal(generator, num_classes, dim) * 10.0 ** torch.randint(-3, 4, (num_classes, 1), generator=generator)
    twins = torch.randint(0, num_classes, (num_classes // 2, 2), generator=generator)
    means[twins[:, 0]] = means[twins[:, 1]] * (1 + 10.0**gap * normal(generator, len(twins), 1))
    means[1], means[2] = means[0], means[0]
    labels = torch.randint(0, num_classes, (150,), generator=generator)
    others = torch.randint(0, num_classes, (150,), generator=generator)
    share = torch.tensor([0.0, 0.5, 0.5 + 1e-16, 0.5 + 1e-9, 0.5 - 1e-8, 1.0], dtype=torch.float64)[torch.arange(150) % 6]
    samples = means[labels] + share.unsqueeze(1) * (means[others] - means[labels])
    samples += 10.0**noise * normal(generator, 150, 1) * normal(generator, 150, dim)
    return scale * means, scale * samples, labels


@settings(deadline=None)
@given(
    SEEDS, st.integers(33, 70), st.integers(1, 40), EXPONENTS, EXPONENTS, st.sampled_from([1e-36, 1e-20, 1.0, 1e15, 1e36, 1e60])
)
def test_no_nearest_center_differs(seed, num_classes, dim, gap, noise, scale):
    means, samples, labels = adversarial(seed, num_classes, dim, gap, noise, scale)
    centers = ClassCenters.from_moments(ClassMoments.from_batch(means, torch.arange(num_classes), num_classes))
    assert centers.separations is None
    residual = (samples - means[labels]) @ centers.basis
    found, margins = nearest_centers(centers, residual, labels)
    parts = nearest._nearest_of_all(centers, residual, labels)
    # Both compute margins up to rounding: where they differ, the two centers are equally near up to the rounding of float64.
    differs = (found != parts[0]).nonzero().flatten()
    exact, *lengths = nearest._margins(centers, residual[differs], labels[differs])
    rounding = nearest._rounding(*lengths)
    own, other = (exact.gather(1, chosen[differs].unsqueeze(1)) for chosen in (found, parts[0]))
    assert bool(((own - other).abs() <= 3 * rounding.amax(dim=1, keepdim=True)).all())
    same = found == parts[0]
    largest = torch.maximum(residual.square().sum(1), centers.coordinates.square().sum(1).amax())
    assert bool(((margins - parts[1]).abs()[same] <= 1e-12 * largest[same]).all())


def test_the_rounding_of_a_far_center_does_not_tie_two_near_ones():
    gap, share = 1e-5, 0.5 + 5e-5
    far = 10.0 + torch.arange(40, dtype=torch.float64).unsqueeze(1) * torch.ones(3, dtype=torch.float64)
    means = torch.cat([torch.tensor([[0, 0, 0], [0, gap, 0], [0, 0, 1]], dtype=torch.float64), far])
    centers = ClassCenters.from_moments(ClassMoments.from_batch(means, torch.arange(43), 43))
    # Half the way to the third center, and nearer to the second than to the first by 1e-14.
    sample = torch.tensor([[0.0, share * gap, 0.5 - 1e-12]], dtype=torch.float64)
    found, margins = nearest_centers(centers, sample @ centers.basis, torch.tensor([0]))
    assert found.tolist() == [1]
    assert float(margins[0]) == pytest.approx(gap**2 * (1 - 2 * share), rel=1e-4)


@settings(deadline=None)
@given(
    SEEDS, st.integers(33, 70), st.integers(1, 40), EXPONENTS, st.sampled_from([torch.float16, torch.float32, torch.float64])
)
def test_no_choice_of_a_classifier_differs(seed, num_classes, dim, gap, dtype):
    means, samples, _ = adversarial(seed, num_classes, dim, gap, gap, 1.0)
    classifier = LinearClassifier.from_parameters(means, -0.5 * means.square().sum(1))
    features = samples.to(dtype)
    logits = features.double() @ classifier.weight.T + classifier.bias
    chosen = logits.gather(1, classifier.choices(features).long().unsqueeze(1))
    # Never more than the rounding of a float64 product below the largest logit.
    rounding = 1e-15 * dim * (features.double().norm(dim=1, keepdim=True) * means.norm(dim=1) + classifier.bias.abs()).amax(1)
    assert bool((logits.amax(dim=1) - chosen.squeeze(1) <= rounding).all())


def test_what_float32_loses_of_a_small_row_decides_nothing():
    weight = torch.zeros(40, 2, dtype=torch.float64)
    # Beside a row of norm 1, this one is zero in float32; a large sample makes it win all the same.
    weight[0, 0], weight[1, 1] = 1.0, 5e-46
    bias = torch.full((40,), -1.0, dtype=torch.float64)
    bias[1], bias[2] = 0.0, 2e-16
    sample = torch.tensor([[-1.0, 1e30]], dtype=torch.float64)
    found = Screen.of(weight, bias).largest(sample)
    assert int((sample @ weight.T + bias).argmax()) == 1
    assert found.largest.tolist() == [1] or (found.open.tolist() == [0] and bool(found.may_win[0, 1]))


@given(SEEDS, st.integers(1, 600), st.sampled_from([1.0, 1e-30, 1e30]))
def test_the_bound_holds(seed, dim, scale):
    generator = torch.Generator().manual_seed(seed)
    weight, x = normal(generator, 40, dim), scale * normal(generator, 30, dim)
    # Half of the rows nearly cancel with the samples.
    x[::2] = x[::2] * 10.0 ** torch.randint(-6, 7, (15, dim), generator=generator).double()
    found = Screen.of(weight, normal(generator, 40))
    unit = float(weight[0, 0] / found.weight[0, 0].double())
    scores = torch.addmm(found.bias, x.float(), found.weight.T).double()
    exact = x @ weight.T / unit + found.bias.double()
    bound = found.slack.double() + x.norm(dim=1, keepdim=True) * found.norms.double()
    finite = torch.isfinite(scores)
    assert bool(((scores - exact).abs() <= bound)[finite].all())


@pytest.mark.parametrize("dim", [1, 4096, 200_000])
def test_the_bound_is_at_least_the_proven_one(dim):
    weight = normal(torch.Generator().manual_seed(0), 33, dim)
    # One bias is 0.
    bias = torch.linspace(-1, 1, 33, dtype=torch.float64)
    found = Screen.of(weight, bias)
    unit = float(weight[0, 0] / found.weight[0, 0].double())
    # A sum of d products and b, with w, x and b rounded to float32 before.
    proven = (dim + 4) * 2.0**-24 / (1 - (dim + 4) * 2.0**-24)
    assert bool((found.norms.double() >= proven * weight.norm(dim=1) / unit).all())
    assert bool((found.slack.double() >= proven * bias.abs() / unit).all())
    # What may be flushed to zero: a component of each of two factors, for each product.
    assert bool((found.slack.double() >= 2 * dim * torch.finfo(torch.float32).tiny).all())
    # And not much above, or float64 would decide what float32 can: 16 more roundings for good measure, and a part in a hundred.
    most = 1.02 * (dim + 16) * 2.0**-24 / (1 - (dim + 16) * 2.0**-24)
    assert bool((found.norms.double() <= most * weight.norm(dim=1) / unit).all())


def test_most_samples_are_decided_in_float32_and_those_on_a_boundary_are_not():
    generator = torch.Generator().manual_seed(0)
    weight, x = normal(generator, 200, 64), normal(generator, 500, 64).float()
    assert len(Screen.of(weight, torch.zeros(200, dtype=torch.float64)).largest(x).open) < 10
    weight[100:] = weight[:100]
    screened = Screen.of(weight, torch.zeros(200, dtype=torch.float64)).largest(x)
    assert screened.open.tolist() == list(range(500))
    assert bool((screened.may_win.sum(1) >= 2).all())


def test_guesses_and_known_norms_change_no_choice():
    generator = torch.Generator().manual_seed(2)
    means, samples, labels = adversarial(3, 60, 12, -9, -9, 1.0)
    classifier = LinearClassifier.from_parameters(means, -0.5 * means.square().sum(1))
    features = torch.cat([samples, normal(generator, 200, 12)]).float()
    expected, norms = classifier.choices(features), features.double().norm(dim=1)
    for guess in (torch.cat([labels, labels, labels[:50]]), expected.long(), torch.zeros(350, dtype=torch.int64)):
        assert torch.equal(classifier.choices_near(features, guess, norms), expected)
        assert torch.equal(classifier.choices_near(features, guess, None), expected)
    # A guess that is right is proven by one maximum, one that is wrong never is.
    weight, x = normal(generator, 200, 64), normal(generator, 500, 64).float()
    found = Screen.of(weight, torch.zeros(200, dtype=torch.float64))
    for guess in (torch.zeros(500, dtype=torch.int64), (x.double() @ weight.T).argmax(1)):
        screened = found.largest(x, guess)
        decided = torch.ones(500, dtype=torch.bool).index_fill_(0, screened.open, value=False)
        assert torch.equal(screened.largest[decided], (x.double() @ weight.T).argmax(1)[decided])
        assert screened.open.tolist() == found.largest(x).open.tolist()


def test_numbers_outside_of_float32_are_left_to_float64():
    weight, x = normal(torch.Generator().manual_seed(0), 40, 3), torch.full((2, 3), 1e300, dtype=torch.float64)
    screened = Screen.of(weight, torch.zeros(40, dtype=torch.float64)).largest(x)
    assert screened.open.tolist() == [0, 1]
    assert bool(screened.may_win.all())
    weight[3, 1] = torch.nan
    assert Screen.of(weight, torch.zeros(40, dtype=torch.float64)) is None


def test_few_classes_and_products_of_less_precision_are_not_screened():
    weight, bias = torch.eye(40, dtype=torch.float64), torch.zeros(40, dtype=torch.float64)
    assert Screen.of(weight[:32], bias[:32]) is None
    assert Screen.of(weight, bias) is not None
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        assert not screen._has_full_precision(torch.device("cpu"))
        assert Screen.of(weight, bias) is None
    finally:
        torch.set_float32_matmul_precision(before)
    assert Screen.of(weight, bias) is not None


def test_a_device_whose_products_are_not_known_is_not_screened():
    weight = torch.eye(40, dtype=torch.float64, device="meta")
    assert Screen.of(weight, weight[0]) is None


@pytest.mark.skipif(not hasattr(torch.backends.mkldnn, "matmul"), reason="torch 2.9 has a precision for each backend")
def test_the_precision_of_products_on_this_device_counts_and_not_that_on_another():
    weight, bias = torch.eye(40, dtype=torch.float64), torch.zeros(40, dtype=torch.float64)
    for backend, precision, screened in ((torch.backends.mkldnn, "bf16", False), (torch.backends.cuda, "tf32", True)):
        before = backend.matmul.fp32_precision
        try:
            backend.matmul.fp32_precision = precision
            assert (Screen.of(weight, bias) is not None) is screened
        finally:
            backend.matmul.fp32_precision = before


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_autocast_does_not_reach_the_products(dtype):
    generator = torch.Generator().manual_seed(1)
    classifier = LinearClassifier.from_parameters(normal(generator, 64, 32))
    features = normal(generator, 400, 32).to(dtype)
    expected = classifier.choices(features)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(classifier.choices(features), expected)
    assert torch.equal(expected.long(), (features.double() @ classifier.weight.T).argmax(1))
