"""L-RN1 and L-RN2 against a plain float64 loop, their sphere, their declared stages, and their initialization."""

import math

import pytest
import torch
from torch import Tensor

from ncollapse.models import LayerNormResNet, LayerNormResNetConfig, Transformer, TransformerConfig, build_model
from ncollapse.models.sphere_norm import SphereNorm
from ncollapse.probe import collect_features
from ncollapse.surrogates.gufm import layer_norm


def samples(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def randomized(model: LayerNormResNet) -> LayerNormResNet:
    """Random values in every parameter, so that no bias hides at 0."""
    generator = torch.Generator().manual_seed(9)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype))
    return model


def normalized(vector: list[float], scale: str) -> list[float]:
    mean = sum(vector) / len(vector)
    centered = [value - mean for value in vector]
    norm = math.sqrt(sum(value * value for value in centered))
    return [value / norm * (1.0 if scale == "unit" else math.sqrt(len(vector))) for value in centered]


def linear(layer: torch.nn.Linear, vector: list[float]) -> list[float]:
    rows = zip(layer.weight.tolist(), layer.bias.tolist(), strict=True)
    return [sum(w * x for w, x in zip(row, vector, strict=True)) + bias for row, bias in rows]


def by_formula(model: LayerNormResNet, sample: list[float]) -> list[float]:
    """One sample, number by number."""
    scale = model.config.norm_scale
    hidden = normalized(linear(model.stem[0], sample), scale)
    for block in model.blocks:
        added = [max(value, 0.0) for value in linear(block.branch[0], hidden)]
        if model.config.linear_layers == 2:
            added = linear(block.branch[2], added)
        hidden = normalized([h + a for h, a in zip(hidden, added, strict=True)], scale)
    return linear(model.head, hidden)


@pytest.mark.parametrize("linear_layers", [1, 2])
@pytest.mark.parametrize("scale", ["unit", "sqrt_d"])
def test_network_equals_its_formula(linear_layers: int, scale: str) -> None:
    config = LayerNormResNetConfig(width=5, num_blocks=2, linear_layers=linear_layers, norm_scale=scale)
    model = randomized(LayerNormResNet(config, input_dim=6, num_classes=3, seed=0).double())
    inputs = samples(7, 6)
    expected = torch.tensor([by_formula(model, row) for row in inputs.tolist()], dtype=torch.float64)
    assert torch.allclose(model(inputs), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("scale", "norm"), [("unit", 1.0), ("sqrt_d", 8.0)])
def test_every_stage_lies_on_the_sphere(scale: str, norm: float) -> None:
    config = LayerNormResNetConfig(width=64, num_blocks=3, norm_scale=scale)
    model = LayerNormResNet(config, input_dim=6, num_classes=3, seed=0)
    assert model.collapse_stages == ("stem", "blocks.0", "blocks.1", "blocks.2")
    assert config.feature_norm_squared == norm**2
    features, _ = collect_features(model, [(samples(7, 6).float(), torch.arange(7) % 3)], num_classes=3)
    assert list(features) == list(model.collapse_stages)
    for layer in features.values():
        assert torch.allclose(layer.norm(dim=1), torch.full((7,), norm), rtol=1e-5)
        assert torch.allclose(layer.sum(dim=1), torch.zeros(7), atol=1e-4 * norm)


def test_normalization_is_that_of_the_surrogate_at_any_scale_and_guards_constants() -> None:
    raw = samples(7, 5)
    for factor in (1e-4, 1.0, 1e8):
        assert torch.allclose(SphereNorm("unit")(factor * raw), layer_norm(factor * raw), rtol=0, atol=1e-12)
    assert SphereNorm("unit")(torch.ones(2, 5)).equal(torch.zeros(2, 5))


def test_initialization_depends_on_the_seed_alone_and_branches_start_at_one_over_root_depth() -> None:
    def weights(seed: int) -> list[Tensor]:
        return list(LayerNormResNet(config, input_dim=6, num_classes=3, seed=seed).parameters())

    config = LayerNormResNetConfig(width=400, num_blocks=4, linear_layers=2)
    state = torch.get_rng_state()
    first, again, other = weights(0), weights(0), weights(1)
    assert torch.get_rng_state().equal(state)
    assert all(a.equal(b) for a, b in zip(first, again, strict=True))
    assert not first[0].equal(other[0])
    model = LayerNormResNet(config, 6, 3, 0)
    inner, outer = (model.blocks[1].branch[i].weight.detach() for i in (0, 2))
    assert float(inner.abs().max()) == pytest.approx(1 / 20, rel=1e-3)
    assert float(outer.abs().max()) == pytest.approx(1 / 40, rel=1e-3)
    assert not any(parameter.any() for parameter in model.parameters() if parameter.ndim == 1)
    at_start = LayerNormResNet(LayerNormResNetConfig(num_blocks=2, branch_scale=0), 6, 3, 0)
    inputs = samples(3, 6).float()
    assert torch.allclose(at_start.blocks(at_start.stem(inputs)), at_start.stem(inputs), atol=1e-6)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"width": 1}, "width must be 2 or more"),
        ({"num_blocks": -1}, "num_blocks must be 0 or more"),
        ({"linear_layers": 3}, "linear_layers must be 1 or 2, got 3"),
        ({"norm_scale": "two"}, "norm_scale must be one of unit, sqrt_d, got 'two'"),
        ({"branch_scale": math.inf}, "branch_scale must be 0 or more and finite"),
    ],
)
def test_wrong_configs(fields: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        LayerNormResNetConfig(**fields)


def test_wrong_data() -> None:
    with pytest.raises(ValueError, match="input_dim and num_classes of 1 or more, got 0 and 3"):
        LayerNormResNet(LayerNormResNetConfig(), 0, 3, 0)
    model = build_model(LayerNormResNetConfig(num_blocks=0), (1, 2, 3), 4, seed=0)
    assert model(torch.ones(2, 1, 2, 3)).shape == (2, 4)
    with pytest.raises(ValueError, match=r"needs inputs of 6 numbers per sample, got shape \(2, 5\)"):
        model(torch.ones(2, 5))
    with pytest.raises(ValueError, match="texts need a network that takes token ids"):
        build_model(LayerNormResNetConfig(), (12,), 4, seed=0, vocabulary=30)


@pytest.mark.parametrize("linear_layers", [1, 2])
def test_a_rounded_relu_equals_the_relu_away_from_its_kink(linear_layers: int) -> None:
    width = 0.25
    configs = (LayerNormResNetConfig(width=5, num_blocks=1, linear_layers=linear_layers, rounding=w) for w in (width, 0.0))
    rounded, plain = (randomized(LayerNormResNet(config, input_dim=6, num_classes=3, seed=0)) for config in configs)
    activation = rounded.blocks[0].branch[1]
    z = torch.linspace(-1, 1, 201, dtype=torch.float64, requires_grad=True)
    # The mean of ReLU over an interval of twice the width.
    steps = torch.linspace(-width, width, 20_001, dtype=torch.float64)
    means = (z.detach().unsqueeze(1) + steps).relu().mean(dim=1)
    assert torch.allclose(activation(z), means, rtol=0, atol=1e-4)
    assert torch.equal(activation(z)[z.abs() > width], z.relu()[z.abs() > width])
    (slope,) = torch.autograd.grad(activation(z).sum(), z)
    assert torch.allclose(slope, ((z + width) / (2 * width)).clamp(0, 1), rtol=0, atol=1e-12)
    assert isinstance(plain.blocks[0].branch[1], torch.nn.ReLU)
    assert rounded.state_dict().keys() == plain.state_dict().keys()
    with pytest.raises(ValueError, match=r"model\.rounding must be 0 or more and finite, got nan"):
        LayerNormResNetConfig(rounding=math.nan)


@pytest.mark.parametrize(("scale", "radius"), [("unit", 1.0), ("sqrt_d", math.sqrt(5))])
def test_a_rounded_normalization_is_smooth_at_zero_and_ends_inside_of_the_sphere(scale: str, radius: float) -> None:
    width, raw = 0.25, samples(7, 5)
    norm = SphereNorm(scale, rounding=width)
    centered = raw - raw.mean(dim=1, keepdim=True)
    expected = radius * centered / (centered.square().sum(dim=1, keepdim=True) + (radius * width) ** 2).sqrt()
    assert torch.allclose(norm(raw), expected, rtol=0, atol=1e-12)
    # Its Jacobian at 0 is that of the sum over the width: 1/w times the projection off the mean.
    at_zero = torch.autograd.functional.jacobian(norm, torch.zeros(5, dtype=torch.float64))
    assert torch.allclose(at_zero, (torch.eye(5) - 1 / 5).double() / width, atol=1e-12)
    assert torch.allclose(SphereNorm(scale, rounding=1e-9)(raw), SphereNorm(scale)(raw), rtol=0, atol=1e-12)


def test_every_normalization_of_a_network_is_rounded() -> None:
    for model in (
        LayerNormResNet(LayerNormResNetConfig(width=4, num_blocks=2, norm_rounding=0.1), 4, 2, 0),
        Transformer(TransformerConfig(width=4, num_blocks=2, norm_rounding=0.1, pool="mean"), (1, 4, 4), 2, 0),
    ):
        assert {part.rounding for part in model.modules() if isinstance(part, SphereNorm)} == {0.1}
    with pytest.raises(ValueError, match=r"model.norm_rounding must be 0 or more and finite, got -1"):
        TransformerConfig(norm_rounding=-1)
