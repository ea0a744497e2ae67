"""The convolutional network against its formulas, its declared stages, its initialization, and training to the bit."""

import itertools
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from ncollapse.data import LabeledData
from ncollapse.hooks import Tap
from ncollapse.models import ConvResNet, ConvResNetConfig, FCResNet, FCResNetConfig, build_model
from ncollapse.probe import measure
from ncollapse.train import TrainConfig, train

BLOCKS = ("basic", "post_relu", "pre")


def relu(x: Tensor) -> Tensor:
    return x.clamp(min=0)


def batch_norm(module: nn.BatchNorm2d, x: Tensor) -> Tensor:
    """Training mode, from the definition: each channel's own mean and biased variance over samples and pixels."""
    centered = x - x.mean(dim=(0, 2, 3), keepdim=True)
    scaled = centered / (centered.square().mean(dim=(0, 2, 3), keepdim=True) + module.eps).sqrt()
    return scaled * module.weight[:, None, None] + module.bias[:, None, None]


def convolve(weight: Tensor, x: Tensor, stride: int) -> Tensor:
    """The definition: a sum over the kernel's places, zeros around the image."""
    size = weight.shape[-1]
    padded = torch.zeros(*x.shape[:2], x.shape[2] + size - 1, x.shape[3] + size - 1, dtype=x.dtype)
    edge = (size - 1) // 2
    padded[:, :, edge : edge + x.shape[2], edge : edge + x.shape[3]] = x
    rows, columns = (math.ceil(n / stride) for n in x.shape[2:])
    out = torch.zeros(len(x), len(weight), rows, columns, dtype=x.dtype)
    for i, j in itertools.product(range(size), range(size)):
        seen = padded[:, :, i : i + x.shape[2] : stride, j : j + x.shape[3] : stride]
        out += torch.einsum("oc,ncij->noij", weight[:, :, i, j], seen)
    return out


def block_by_formula(kind: str, block: nn.Module, h: Tensor, stride: int) -> Tensor:
    first, second = (m.weight for m in block.branch if isinstance(m, nn.Conv2d))
    one, two = (m for m in block.branch if isinstance(m, nn.BatchNorm2d))
    skip = h
    if stride == 2:
        skip = batch_norm(block.skip[1], convolve(block.skip[0].weight, h, 2))
    if kind == "pre":
        inner = convolve(first, relu(batch_norm(one, h)), stride)
        return skip + convolve(second, relu(batch_norm(two, inner)), 1)
    branch = batch_norm(two, convolve(second, relu(batch_norm(one, convolve(first, h, stride))), 1))
    return relu(skip + branch) if kind == "post_relu" else skip + branch


def pooled(x: Tensor) -> Tensor:
    return torch.stack([x[:, :, i::2, j::2] for i in (0, 1) for j in (0, 1)]).amax(dim=0)


def samples(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def randomized(model: nn.Module) -> nn.Module:
    """Random values in every parameter, so that no bias or gain hides at 0 or 1."""
    generator = torch.Generator().manual_seed(9)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype))
    return model


def small(**fields: object) -> ConvResNet:
    config = ConvResNetConfig(**{"channels": (3, 5), "blocks": (1, 2), **fields})
    return ConvResNet(config, input_shape=(2, 7, 6), num_classes=3, seed=0)


@pytest.mark.parametrize("block", BLOCKS)
def test_network_equals_its_formulas(block: str) -> None:
    model = randomized(small(block=block).double())
    inputs = samples(4, 2, 7, 6)
    h = relu(batch_norm(model.stages[0][0][1], convolve(model.stages[0][0][0].weight, inputs, 1)))
    h = block_by_formula(block, model.stages[0][1], h, 1)
    h = block_by_formula(block, model.stages[1][0], h, 2)
    for module in model.stages[1][1:]:
        h = block_by_formula(block, module, h, 1)
    assert h.shape == (4, 5, 4, 3)
    expected = h.mean(dim=(2, 3)) @ model.head.weight.T + model.head.bias
    torch.testing.assert_close(model(inputs), expected, rtol=1e-10, atol=1e-10)
    assert model(inputs).equal(model(inputs.flatten(1)))


def test_stem_with_stride_and_pooling() -> None:
    model = randomized(small(stem_stride=2, stem_pool=True, blocks=(0, 0)).double())
    inputs = samples(4, 2, 7, 6)
    stem = model.stages[0]
    expected = pooled(relu(batch_norm(stem[0][1], convolve(stem[0][0].weight, inputs, 2)))[:, :, :, :2])
    torch.testing.assert_close(stem(inputs), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("block", BLOCKS)
def test_declared_stages_are_the_last_stage_and_chain(block: str) -> None:
    model = small(block=block).eval()
    assert model.collapse_stages == ("stages.1.0", "stages.1.1", "stages.1.2")
    outputs, entered = {}, {}

    def keep(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            entered[name], outputs[name] = inputs[0], (output, output.clone())

        return hook

    for name in model.collapse_stages:
        model.get_submodule(name).register_forward_hook(keep(name))
    model(samples(5, 84).float())
    for before, after in itertools.pairwise(model.collapse_stages):
        assert entered[after] is outputs[before][0]
    # Nothing later in the network writes into a stage's output.
    assert all(output.equal(copy) and output.shape == (5, 5, 4, 3) for output, copy in outputs.values())


def test_one_stage_starts_at_its_stem() -> None:
    assert small(channels=(4,), blocks=(2,)).collapse_stages == ("stages.0.0", "stages.0.1", "stages.0.2")


def test_measured_flat_along_the_path_and_pooled_before_the_classifier() -> None:
    model, inputs, labels = small(), samples(30, 84).float(), torch.arange(30) % 3
    m = measure(model, [(inputs, labels)], num_classes=3, path=True)
    assert m.layers == (*model.collapse_stages, "head.input")
    assert m.path_layers == model.collapse_stages
    assert m.path.position("index") == [0, 0.5, 1]
    assert [row.layer for row in m.rows if row.metric == "nc3"] == ["head.input"]
    assert m.geodesic.pfc1([0.0, 1.0]).tolist() == pytest.approx([m.value("pfc1", 0), m.value("pfc1", 2)], rel=1e-9)
    pooled_last = measure(model, [(inputs, labels)], num_classes=3, layers=[Tap("stages.1.2", "mean")])
    assert m.value("pfc1", "head.input") == pytest.approx(pooled_last.value("pfc1", 0), rel=1e-5)
    assert [layer.moments.dim for layer in m.statistics.values()] == [60, 60, 60, 5]


def test_number_of_parameters_of_a_papers_shape() -> None:
    config = ConvResNetConfig(channels=(64, 128), blocks=(5, 4))
    model = ConvResNet(config, input_shape=(1, 28, 28), num_classes=10, seed=0)
    stem, first = 9 * 64 + 2 * 64, 2 * (9 * 64 * 64 + 2 * 64)
    transition = 9 * 64 * 128 + 9 * 128 * 128 + 64 * 128 + 3 * 2 * 128
    last = 2 * (9 * 128 * 128 + 2 * 128)
    assert sum(p.numel() for p in model.parameters()) == stem + 5 * first + transition + 4 * last + 128 * 10 + 10


def test_initialization_is_that_of_he() -> None:
    model = ConvResNet(ConvResNetConfig(channels=(32, 64), blocks=(1, 1)), (3, 8, 8), 10, seed=0)
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            fan_out = module.out_channels * module.kernel_size[0] ** 2
            assert module.weight.std().item() == pytest.approx(math.sqrt(2 / fan_out), rel=0.06)
            assert module.bias is None
        if isinstance(module, nn.BatchNorm2d):
            assert module.weight.eq(1).all()
    assert model.head.bias.eq(0).all()
    assert 0.97 / 8 < model.head.weight.abs().max() <= 1 / 8


@pytest.mark.parametrize("block", BLOCKS)
def test_branch_scale(block: str) -> None:
    whole, tenth = (dict(small(block=block, branch_scale=scale).named_parameters()) for scale in (1.0, 0.1))
    last = 5 if block == "pre" else 4
    for name, parameter in whole.items():
        factor = 0.1 if f"branch.{last}.weight" in name else 1.0
        torch.testing.assert_close(tenth[name], factor * parameter)
    hidden = samples(4, 5, 4, 3).float()
    still = small(block=block, branch_scale=0.0).stages[1][1](hidden)
    assert still.equal(relu(hidden) if block == "post_relu" else hidden)


def test_seed_decides_the_weights_and_the_global_generator_is_left_alone() -> None:
    state = torch.random.get_rng_state()
    first, again, other = (ConvResNet(ConvResNetConfig(), (1, 8, 8), 10, seed=seed) for seed in (1, 1, 2))
    assert torch.random.get_rng_state().equal(state)
    assert all(a.equal(b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    assert not first.head.weight.equal(other.head.weight)


def test_training_is_the_same_to_the_bit() -> None:
    data = LabeledData(samples(40, 84).float(), torch.arange(40) % 3, 3, "noise")
    models = [small(), small()]
    losses = [[r.loss for r in train(m, data, TrainConfig(epochs=3, batch_size=8), seed=0)] for m in models]
    assert losses[0] == losses[1]
    assert losses[0][-1] < losses[0][0]
    assert all(a.equal(b) for a, b in zip(models[0].parameters(), models[1].parameters(), strict=True))


def test_build_takes_the_shape_of_a_sample() -> None:
    conv = build_model(ConvResNetConfig(), (1, 8, 8), 10, seed=0)
    fc = build_model(FCResNetConfig(), (1, 8, 8), 10, seed=0)
    assert isinstance(conv, ConvResNet)
    assert conv.input_shape == (1, 8, 8)
    assert isinstance(fc, FCResNet)
    assert fc.input_dim == 64


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"block": "double"}, r"model.block must be one of basic, post_relu, pre, got 'double'. Pick one"),
        ({"channels": (4,)}, r"model.channels and model.blocks must have one number for every stage, got \[4\] and \[1, 4\]"),
        ({"channels": (), "blocks": ()}, r"one number for every stage, got \[\] and \[\]"),
        ({"channels": (4, 0)}, r"model.channels must be 1 or more, got 0. Pass a larger integer"),
        ({"blocks": (1, -1)}, r"model.blocks must be 0 or more, got -1"),
        ({"stem_stride": 0}, r"model.stem_stride must be 1 or more, got 0"),
        ({"branch_scale": math.nan}, r"model.branch_scale must be 0 or more and finite, got nan. Use 1"),
    ],
)
def test_config_out_of_range(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ConvResNetConfig(**fields)


def test_what_is_no_image_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"needs images of \(channels, rows, columns\) .* of shape \(20,\) and 4 .* an FCResNet"
    ):
        build_model(ConvResNetConfig(), (20,), 4, seed=0)
    with pytest.raises(ValueError, match=r"needs samples of 84 numbers, images of \(2, 7, 6\), got shape \(5, 80\)\. Build it"):
        small()(torch.zeros(5, 80))
