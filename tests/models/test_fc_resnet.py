"""The reference network against its formulas, its declared stages, and its initialization."""

import itertools
import math
from collections.abc import Callable

import pydantic
import pytest
import torch
from torch import Tensor, nn

from ncollapse.models import FCResNet, FCResNetConfig

BLOCKS = ("double", "single")
NORMALIZATIONS = ("none", "pre", "mid", "post")


def relu(x: Tensor) -> Tensor:
    return x.clamp(min=0)


def batch_norm(module: nn.BatchNorm1d) -> Callable[[Tensor], Tensor]:
    """Training mode, from the definition: the batch's own mean and biased variance."""

    def normalize(x: Tensor) -> Tensor:
        centered = x - x.mean(dim=0)
        return centered / (centered.square().mean(dim=0) + module.eps).sqrt() * module.weight + module.bias

    return normalize


def affine(module: nn.Linear) -> Callable[[Tensor], Tensor]:
    return lambda x: x @ module.weight.T + module.bias


def block_by_formula(config: FCResNetConfig, block: nn.Module, h: Tensor) -> Tensor:
    """The eight blocks as the issue writes them."""
    linears = [affine(module) for module in block.modules() if isinstance(module, nn.Linear)]
    norms = [batch_norm(module) for module in block.modules() if isinstance(module, nn.BatchNorm1d)]
    if config.block == "double":
        first, last = linears
        formulas = {
            "none": lambda: h + last(relu(first(h))),
            "pre": lambda: h + last(relu(norms[1](first(relu(norms[0](h)))))),
            "mid": lambda: h + last(relu(norms[0](first(h)))),
            "post": lambda: h + norms[0](last(relu(first(h)))),
        }
    else:
        (last,) = linears
        formulas = {
            "none": lambda: h + relu(last(h)),
            "pre": lambda: h + last(relu(norms[0](h))),
            "mid": lambda: h + relu(norms[0](last(h))),
            "post": lambda: h + norms[0](relu(last(h))),
        }
    assert len(norms) == {"none": 0, "pre": len(linears), "mid": 1, "post": 1}[config.normalization]
    return formulas[config.normalization]()


def randomized(model: nn.Module) -> nn.Module:
    """Random values in every parameter, so that no bias or gain hides at 0 or 1."""
    generator = torch.Generator().manual_seed(9)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype))
    return model


def samples(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.mark.parametrize(("block", "normalization"), [*itertools.product(BLOCKS, NORMALIZATIONS)])
@pytest.mark.parametrize("stem", ["linear", "linear_bn"])
def test_network_equals_its_formulas(block: str, normalization: str, stem: str) -> None:
    config = FCResNetConfig(width=5, num_blocks=2, block=block, normalization=normalization, stem=stem)
    model = randomized(FCResNet(config, input_dim=6, num_classes=3, seed=0).double())
    inputs = samples(7, 6)
    if stem == "linear":
        hidden = affine(model.stem)(inputs)
    else:
        hidden = batch_norm(model.stem[1])(affine(model.stem[0])(inputs))
    for module in model.blocks:
        hidden = block_by_formula(config, module, hidden)
    torch.testing.assert_close(model(inputs), affine(model.head)(hidden), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("stem", ["linear", "linear_bn"])
@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_declared_stages_are_modules_and_chain(normalization: str, stem: str) -> None:
    config = FCResNetConfig(width=4, num_blocks=3, normalization=normalization, stem=stem)
    model = FCResNet(config, input_dim=6, num_classes=3, seed=0).eval()
    assert model.collapse_stages == ("stem", "blocks.0", "blocks.1", "blocks.2")
    assert model.collapse_classifier == "head"
    outputs, entered = {}, {}

    def keep(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            entered[name], outputs[name] = inputs[0], (output, output.clone())

        return hook

    for name in (*model.collapse_stages, "head"):
        model.get_submodule(name).register_forward_hook(keep(name))
    model(samples(5, 6).float())
    for before, after in itertools.pairwise((*model.collapse_stages, "head")):
        assert entered[after] is outputs[before][0]
    # Nothing later in the network writes into a stage's output.
    assert all(output.equal(copy) for output, copy in outputs.values())
    assert all(output.shape == (5, 4) for name, (output, _) in outputs.items() if name != "head")


def test_inputs_are_flattened() -> None:
    model = FCResNet(FCResNetConfig(width=4, num_blocks=1), input_dim=6, num_classes=3, seed=0).eval()
    images = samples(5, 1, 2, 3).float()
    assert model(images).equal(model(images.reshape(5, 6)))


def test_wrong_input_size_says_both() -> None:
    model = FCResNet(FCResNetConfig(width=4, num_blocks=1), input_dim=6, num_classes=3, seed=0)
    with pytest.raises(ValueError, match=r"needs inputs of 6 numbers per sample, got shape \(5, 2, 2\). .*input_dim=4"):
        model(torch.zeros(5, 2, 2))


def test_no_blocks_is_stem_and_head() -> None:
    model = FCResNet(FCResNetConfig(width=4, num_blocks=0), input_dim=6, num_classes=3, seed=0)
    assert model.collapse_stages == ("stem",)
    assert model(torch.zeros(2, 6)).shape == (2, 3)


def test_number_of_parameters_of_the_papers_shape() -> None:
    config = FCResNetConfig(width=30, num_blocks=10, normalization="none")
    model = FCResNet(config, input_dim=784, num_classes=10, seed=0)
    expected = 784 * 30 + 30 + 20 * (30 * 30 + 30) + 30 * 10 + 10
    assert sum(parameter.numel() for parameter in model.parameters()) == expected


def weights_and_biases(model: nn.Module) -> tuple[list[Tensor], list[Tensor]]:
    linears = [module for module in model.modules() if isinstance(module, nn.Linear)]
    return [module.weight for module in linears], [module.bias for module in linears]


def test_initialization_is_pytorchs_default_with_zero_biases() -> None:
    model = FCResNet(FCResNetConfig(width=100, num_blocks=2), input_dim=50, num_classes=10, seed=0)
    weights, biases = weights_and_biases(model)
    assert all((bias == 0).all() for bias in biases)
    for weight in weights:
        bound = 1 / math.sqrt(weight.shape[1])
        assert 0.97 * bound < weight.abs().max() <= bound
        # Uniform on +-bound: deviation bound / sqrt(3); 1,000 numbers or more put it within 5 percent.
        assert weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.05)


def test_random_biases_on_request() -> None:
    model = FCResNet(FCResNetConfig(width=100, zero_bias=False), input_dim=50, num_classes=10, seed=0)
    weights, biases = weights_and_biases(model)
    for weight, bias in zip(weights, biases, strict=True):
        assert 0 < bias.abs().max() <= 1 / math.sqrt(weight.shape[1])


@pytest.mark.parametrize("block", BLOCKS)
def test_branch_scale_multiplies_the_last_linear_of_each_branch_only(block: str) -> None:
    plain, scaled = (
        dict(FCResNet(FCResNetConfig(width=8, num_blocks=2, block=block, branch_scale=s), 3, 2, seed=0).named_parameters())
        for s in (1.0, 0.3)
    )
    last = {f"blocks.{index}.branch.{max(linear_positions(block))}.weight" for index in range(2)}
    for name, parameter in plain.items():
        factor = 0.3 if name in last else 1.0
        torch.testing.assert_close(scaled[name], factor * parameter)


def linear_positions(block: str) -> list[int]:
    branch = FCResNet(FCResNetConfig(width=8, num_blocks=1, block=block), 3, 2, seed=0).blocks[0].branch
    return [position for position, module in enumerate(branch) if isinstance(module, nn.Linear)]


@pytest.mark.parametrize(("block", "normalization"), [*itertools.product(BLOCKS, NORMALIZATIONS)])
def test_zero_branch_scale_starts_at_the_identity(block: str, normalization: str) -> None:
    config = FCResNetConfig(width=8, num_blocks=3, block=block, normalization=normalization, branch_scale=0.0)
    model = FCResNet(config, input_dim=3, num_classes=2, seed=0)
    hidden = samples(5, 8).float()
    assert model.blocks(hidden).equal(hidden)


def test_seed_decides_the_weights_and_the_global_generator_is_left_alone() -> None:
    state = torch.random.get_rng_state()
    first, again, other = (FCResNet(FCResNetConfig(), 64, 10, seed=seed) for seed in (1, 1, 2))
    assert torch.random.get_rng_state().equal(state)
    assert all(a.equal(b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    assert not first.head.weight.equal(other.head.weight)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"block": "triple"}, r"model.block must be one of double, single, got 'triple'. Pick one"),
        ({"normalization": "layer"}, r"model.normalization must be one of none, pre, mid, post, got 'layer'"),
        ({"stem": "conv"}, r"model.stem must be one of linear, linear_bn, got 'conv'"),
        ({"connections": "skip"}, r"model.connections must be one of residual, plain, dense, got 'skip'. Pick one"),
        ({"width": 0}, r"model.width must be 1 or more, got 0. Pass a larger integer"),
        ({"num_blocks": -1}, r"model.num_blocks must be 0 or more, got -1"),
        ({"branch_scale": -1.0}, r"model.branch_scale must be 0 or more and finite, got -1.0. Use 1"),
        ({"branch_scale": math.nan}, r"model.branch_scale must be 0 or more and finite, got nan"),
    ],
)
def test_config_out_of_range(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FCResNetConfig(**fields)


def test_sizes_out_of_range() -> None:
    with pytest.raises(ValueError, match=r"needs input_dim and num_classes of 1 or more, got 0 and 10. Take them"):
        FCResNet(FCResNetConfig(), input_dim=0, num_classes=10, seed=0)


def test_config_through_pydantic() -> None:
    adapter = pydantic.TypeAdapter(FCResNetConfig)
    assert adapter.validate_python({"width": "128", "zero_bias": "false"}) == FCResNetConfig(128, zero_bias=False)
    with pytest.raises(pydantic.ValidationError, match=r"model.width must be 1 or more"):
        adapter.validate_python({"width": 0})


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("normalization", NORMALIZATIONS)
@pytest.mark.parametrize("connections", ["plain", "dense"])
def test_other_connections_equal_their_formulas(connections: str, block: str, normalization: str) -> None:
    config = FCResNetConfig(width=6, num_blocks=3, block=block, normalization=normalization, connections=connections)
    model = randomized(FCResNet(config, input_dim=5, num_classes=4, seed=3)).double().train()
    inputs = samples(9, 5)
    layers = [affine(model.stem)(inputs)]
    for module in model.blocks:
        taken = torch.cat(layers, dim=1) if connections == "dense" else layers[-1]
        layers.append(branch_by_formula(config, module, taken))
    torch.testing.assert_close(model(inputs), affine(model.head)(layers[-1]), rtol=1e-9, atol=1e-9)


def branch_by_formula(config: FCResNetConfig, block: nn.Module, taken: Tensor) -> Tensor:
    """What a block makes of its input, step by step."""
    linears = [affine(module) for module in block.modules() if isinstance(module, nn.Linear)]
    norms = iter([batch_norm(module) for module in block.modules() if isinstance(module, nn.BatchNorm1d)])
    value, final = taken, len(linears) - 1
    for index, linear in enumerate(linears):
        if config.normalization == "pre":
            value = linear(relu(next(norms)(value)))
            continue
        value = linear(value)
        if config.normalization == "mid" and index == 0:
            value = next(norms)(value)
        if config.block == "single" or index < final:
            value = relu(value)
        if config.normalization == "post" and index == final:
            value = next(norms)(value)
    return value


def test_connections_change_no_weight_of_the_first_block_and_stages_keep_one_width() -> None:
    models = {
        name: FCResNet(FCResNetConfig(width=6, num_blocks=2, connections=name), input_dim=5, num_classes=4, seed=0)
        for name in ("residual", "plain", "dense")
    }
    first = models["residual"].blocks[0].branch[2].weight
    assert all(torch.equal(first, model.blocks[0].branch[2].weight) for model in models.values())
    assert models["dense"].blocks[1].branch[2].weight.shape == (6, 12)
    assert {model.collapse_stages for model in models.values()} == {("stem", "blocks.0", "blocks.1")}
