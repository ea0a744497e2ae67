"""The Gaussian mixture against its definition."""

import math

import pytest
import torch

from ncollapse.data import gaussian_mixture


def test_defaults_are_the_small_test_problem() -> None:
    data = gaussian_mixture()
    assert (data.num_samples, data.input_dim, data.num_classes) == (400, 20, 4)
    assert data.labels.bincount().tolist() == [100] * 4
    assert data.inputs.dtype == torch.float32


def test_centers_without_noise() -> None:
    data = gaussian_mixture(3, 200, 4, radius=2.5, noise=0.0, seed=1)
    samples = data.inputs.reshape(3, 4, 200).double()
    assert samples[:, 0].equal(samples[:, 2])
    assert samples[:, 1].equal(samples[:, 3])
    first, second = samples[:, 0], samples[:, 1]
    assert first.norm(dim=1) == pytest.approx(torch.full((3,), 2.5), rel=1e-6)
    # second + 0.9 first is the independent center, of the same norm and nearly orthogonal in 200 dimensions.
    independent = second + 0.9 * first
    assert independent.norm(dim=1) == pytest.approx(torch.full((3,), 2.5), rel=1e-6)
    cosines = torch.nn.functional.normalize(torch.cat((first, independent))) @ torch.nn.functional.normalize(first).T
    assert (cosines - torch.eye(6, 3)).abs().max() < 5 / math.sqrt(200)


def test_one_component_has_one_center() -> None:
    samples = gaussian_mixture(2, 5, 3, components=1, noise=0.0).inputs.reshape(2, 3, 5)
    assert samples.equal(samples[:, :1].expand(2, 3, 5))


def test_noise_is_white_of_the_given_deviation() -> None:
    clean = gaussian_mixture(2, 10, 2000, noise=0.0, seed=3).inputs
    residual = (gaussian_mixture(2, 10, 2000, noise=0.5, seed=3).inputs - clean).double()
    covariance = residual.T @ residual / len(residual)
    # The entries of the covariance of 4,000 samples have standard deviation 0.25 * sqrt(2/4000) = 0.0056.
    assert (covariance - 0.25 * torch.eye(10)).abs().max() < 0.028


def test_noise_does_not_repeat_the_centers() -> None:
    clean = gaussian_mixture(3, 200, 1, components=1, noise=0.0).inputs
    noise = gaussian_mixture(3, 200, 1, components=1, noise=0.5).inputs - clean
    cosines = torch.nn.functional.cosine_similarity(noise[:, None], clean[None], dim=-1)
    assert cosines.abs().max() < 5 / math.sqrt(200)


def test_splits_share_centers_and_not_noise() -> None:
    noisy = [gaussian_mixture(seed=4, split=split).inputs for split in ("train", "test")]
    clean = [gaussian_mixture(seed=4, split=split, noise=0.0).inputs for split in ("train", "test")]
    assert clean[0].equal(clean[1])
    assert not torch.isclose(noisy[0], noisy[1]).any(dim=1).all()


def test_seed_decides_all() -> None:
    assert gaussian_mixture(seed=1).inputs.equal(gaussian_mixture(seed=1).inputs)
    assert not gaussian_mixture(seed=1).inputs.equal(gaussian_mixture(seed=2).inputs)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_classes": 0}, r"needs num_classes of 1 or more, got 0. Pass a positive integer"),
        ({"dim": 0}, r"needs dim of 1 or more, got 0"),
        ({"per_class": -2}, r"needs per_class of 1 or more, got -2"),
        ({"components": 3}, r"needs 1 or 2 components per class, got 3. Pass 1 or 2"),
        ({"radius": 0.0}, r"needs a finite radius above 0 .* got radius 0.0 and noise 0.5. Pass standard deviations"),
        ({"noise": -1.0}, r"got radius 2.5 and noise -1.0"),
        ({"noise": math.inf}, r"got radius 2.5 and noise inf"),
    ],
)
def test_out_of_range(arguments: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        gaussian_mixture(**arguments)
