"""The transformers against a plain float64 loop over tokens, exact masks, patches, read-outs and declared stages."""

import math

import pytest
import torch
from torch import Tensor

from ncollapse.models import Transformer, TransformerConfig, build_model
from ncollapse.models.tokens import masked_mean
from ncollapse.probe import collect_features

VARIANTS = [(a, m, norm, pool) for a in (1, 2) for m in (1, 2) for norm in ("post", "pre") for pool in ("cls", "mean")]
IDS = torch.tensor([[3, 1, 4, 1, 5], [2, 6, 0, 0, 0], [5, 3, 5, 0, 0]])
VOCABULARY = 7


def randomized(model: Transformer) -> Transformer:
    generator = torch.Generator().manual_seed(9)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype))
    return model


def text_model(**fields: object) -> Transformer:
    config = TransformerConfig(**{"width": 6, "num_blocks": 2, **fields})
    return randomized(Transformer(config, (5,), 3, seed=0, vocabulary=VOCABULARY).double())


def sphere(x: Tensor, scale: str) -> Tensor:
    centered = x - x.sum() / len(x)
    return centered / (centered * centered).sum().sqrt() * (1.0 if scale == "unit" else math.sqrt(len(x)))


def attention(model: Transformer, block: torch.nn.Module, tokens: list[Tensor]) -> list[Tensor]:
    """The columns of V X softmax(X' Q X / sqrt d), one after the other."""
    query, value, found = block.attention.query.weight, block.attention.value.weight, []
    for looking in tokens:
        scores = [float(seen @ query @ looking) / math.sqrt(len(looking)) for seen in tokens]
        shares = [math.exp(score - max(scores)) for score in scores]
        mixed = sum(share / sum(shares) * (value @ seen) for share, seen in zip(shares, tokens, strict=True))
        found.append(block.attention.output.weight @ mixed if model.config.attention_layers == 2 else mixed)
    return found


def mlp(model: Transformer, block: torch.nn.Module, x: Tensor) -> Tensor:
    hidden = (block.mlp[0].weight @ x + block.mlp[0].bias).clamp(min=0)
    return block.mlp[2].weight @ hidden + block.mlp[2].bias if model.config.mlp_layers == 2 else hidden


def by_formula(model: Transformer, tokens: list[Tensor]) -> Tensor:
    """Logits of one sample from its real tokens alone."""
    config = model.config
    if config.norm == "post":
        tokens = [sphere(x, config.norm_scale) for x in tokens]
    for block in model.blocks:
        if config.norm == "post":
            added = attention(model, block, tokens)
            tokens = [sphere(x + a, config.norm_scale) for x, a in zip(tokens, added, strict=True)]
            tokens = [sphere(x + mlp(model, block, x), config.norm_scale) for x in tokens]
        else:
            added = attention(model, block, [sphere(x, config.norm_scale) for x in tokens])
            tokens = [x + a for x, a in zip(tokens, added, strict=True)]
            tokens = [x + mlp(model, block, sphere(x, config.norm_scale)) for x in tokens]
    row = tokens[0] if config.pool == "cls" else sum(tokens) / len(tokens)
    if config.norm == "pre" or config.pool == "mean":
        row = sphere(row, config.norm_scale)
    return model.head.weight @ row + model.head.bias


@pytest.mark.parametrize(("attention_layers", "mlp_layers", "norm", "pool"), VARIANTS)
@pytest.mark.parametrize("scale", ["unit", "sqrt_d"])
def test_network_equals_its_formula(attention_layers: int, mlp_layers: int, norm: str, pool: str, scale: str) -> None:
    fields = {"attention_layers": attention_layers, "mlp_layers": mlp_layers, "norm": norm, "pool": pool, "norm_scale": scale}
    model = text_model(**fields)
    embedding = model.embedding
    with torch.no_grad():
        for logits, ids in zip(model(IDS), IDS.tolist(), strict=True):
            real = [embedding.table.weight[token] + embedding.positions[i] for i, token in enumerate(ids) if token]
            assert torch.allclose(logits, by_formula(model, [embedding.class_token, *real]), rtol=0, atol=1e-11)


@pytest.mark.parametrize("pool", ["cls", "mean"])
@pytest.mark.parametrize("norm", ["post", "pre"])
def test_padding_is_masked_exactly(norm: str, pool: str) -> None:
    model = text_model(norm=norm, pool=pool)
    before = model(IDS)
    with torch.no_grad():
        model.embedding.table.weight[0] = 1e3
    assert model(IDS).equal(before)
    # The positions behind the last real token have no part in it either.
    with torch.no_grad():
        model.embedding.positions[3:, 0] += 1
    assert model(IDS)[1:].equal(before[1:])
    assert not torch.allclose(model(IDS)[0], before[0])
    tokens = torch.tensor([[[1.0, 2.0], [3.0, 4.0], [math.nan, math.nan]]])
    assert masked_mean(tokens, torch.tensor([[True, True, False]])).tolist() == [[2.0, 3.0]]


def test_patches_are_squares_of_the_image_row_by_row() -> None:
    model = Transformer(TransformerConfig(width=6, num_blocks=1, patch=2), (3, 4, 6), 3, seed=0).double()
    image = torch.arange(72.0, dtype=torch.float64).reshape(3, 4, 6)
    with torch.no_grad():
        tokens, real = model.embedding(image.reshape(1, -1))
        assert real is None
        assert tokens.shape == (1, 1 + 6, 6)
        assert tokens[0, 0].equal(model.embedding.class_token)
        for index, (row, column) in enumerate((row, column) for row in (0, 2) for column in (0, 2, 4)):
            patch = image[:, row : row + 2, column : column + 2].flatten()
            expected = model.embedding.project(patch) + model.embedding.positions[index]
            assert torch.allclose(tokens[0, 1 + index], expected, rtol=0, atol=1e-12)
        assert model(image.unsqueeze(0)).equal(model(image.reshape(1, -1)))


@pytest.mark.parametrize("norm", ["post", "pre"])
def test_without_an_embedding_a_token_is_the_image_outside_of_whose_patch_all_is_zero(norm: str) -> None:
    config = TransformerConfig(width=24, num_blocks=1, patch=2, norm=norm, pool="mean", embedding="none")
    model = randomized(Transformer(config, (1, 4, 6), 3, seed=0).double())
    assert [name for name, _ in model.named_parameters()] == [
        *(f"blocks.0.{part}" for part in ("attention.query.weight", "attention.value.weight", "mlp.0.weight", "mlp.0.bias")),
        "head.weight",
        "head.bias",
    ]
    images = torch.arange(48.0, dtype=torch.float64).reshape(2, 1, 4, 6).cos()
    with torch.no_grad():
        for logits, image in zip(model(images), images, strict=True):
            tokens = []
            for row, column in ((row, column) for row in (0, 2) for column in (0, 2, 4)):
                alone = torch.zeros_like(image)
                alone[:, row : row + 2, column : column + 2] = image[:, row : row + 2, column : column + 2]
                tokens.append(alone.flatten())
            assert torch.allclose(logits, by_formula(model, tokens), rtol=0, atol=1e-11)


def test_rounding_smooths_the_multilayer_part() -> None:
    model = text_model(rounding=0.25)
    block = model.blocks[0]
    means = (torch.linspace(-1, 1, 41).unsqueeze(1) + torch.linspace(-0.25, 0.25, 20_001)).relu().mean(dim=1)
    assert torch.allclose(block.mlp[1](torch.linspace(-1, 1, 41)), means, rtol=0, atol=1e-4)
    assert isinstance(text_model().blocks[0].mlp[1], torch.nn.ReLU)


@pytest.mark.parametrize(
    ("norm", "pool", "stages"),
    [
        ("post", "cls", ("reads.0", "reads.1", "reads.2")),
        ("post", "mean", ("reads.0", "reads.1", "reads.2", "norm")),
        ("pre", "cls", ("reads.0", "reads.1", "reads.2", "norm")),
    ],
)
def test_every_block_is_measured_and_the_last_stage_feeds_the_head(norm: str, pool: str, stages: tuple[str, ...]) -> None:
    model = text_model(norm=norm, pool=pool)
    assert model.collapse_stages == stages
    features, _ = collect_features(model, [(IDS, torch.arange(3))], num_classes=3)
    assert list(features) == list(stages)
    with torch.no_grad():
        assert torch.allclose(model.head(features[stages[-1]].double()), model(IDS), rtol=0, atol=1e-12)
    assert torch.allclose(features[stages[-1]].norm(dim=1), torch.ones(3, dtype=torch.float64))
    assert TransformerConfig(width=6, norm_scale="sqrt_d").feature_norm_squared == 6


def test_initialization_depends_on_the_seed_alone() -> None:
    state = torch.get_rng_state()
    first, again, other = (build_model(TransformerConfig(num_blocks=2), (1, 8, 8), 10, seed) for seed in (0, 0, 1))
    assert torch.get_rng_state().equal(state)
    assert all(a.equal(b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    assert not first.head.weight.equal(other.head.weight)
    block = first.blocks[0]
    assert float(block.attention.query.weight.detach().abs().max()) == pytest.approx(1 / 8, rel=1e-2)
    for layer in (block.attention.value, block.mlp[0]):
        assert float(layer.weight.detach().abs().max()) == pytest.approx(1 / 16, rel=1e-2)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"norm": "mid"}, "norm must be one of post, pre, got 'mid'"),
        ({"pool": "max"}, "pool must be one of cls, mean"),
        ({"norm_scale": "two"}, "norm_scale must be one of unit, sqrt_d"),
        ({"width": 1}, "width must be 2 or more, got 1"),
        ({"num_blocks": -1}, "num_blocks must be 0 or more, got -1"),
        ({"attention_layers": 3}, "attention_layers must be 1 or 2, got 3"),
        ({"mlp_layers": 0}, "mlp_layers must be 1 or 2, got 0"),
        ({"patch": 0}, "patch must be 1 or more, got 0"),
        ({"branch_scale": -1.0}, "branch_scale must be 0 or more"),
        ({"rounding": -0.1}, r"model\.rounding must be 0 or more and finite, got -0\.1"),
        ({"embedding": "none"}, r"no class token to read out, got model\.pool=cls"),
        ({"embedding": "table", "pool": "mean"}, "embedding must be one of linear, none, got 'table'"),
    ],
)
def test_wrong_configs(fields: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        TransformerConfig(**fields)


def test_wrong_data() -> None:
    with pytest.raises(ValueError, match=r"must divide .* patches of 4 and samples of shape \(1, 6"):
        Transformer(TransformerConfig(), (1, 6, 8), 3, seed=0)
    with pytest.raises(ValueError, match=r"take image data, or another network for plain vectors"):
        Transformer(TransformerConfig(), (20,), 3, seed=0)
    plain = TransformerConfig(embedding="none", pool="mean")
    with pytest.raises(ValueError, match=r"width must be the number of pixels, 192, got 64"):
        Transformer(plain, (3, 8, 8), 3, seed=0)
    with pytest.raises(ValueError, match="must divide"):
        Transformer(plain, (64,), 3, seed=0)
    with pytest.raises(ValueError, match="needs images, got texts"):
        Transformer(plain, (5,), 3, seed=0, vocabulary=VOCABULARY)
    with pytest.raises(ValueError, match="num_classes of 1 or more, got 0"):
        Transformer(TransformerConfig(), (1, 8, 8), 0, seed=0)
    with pytest.raises(ValueError, match=r"needs samples of shape \(5,\), got \(4,\)"):
        text_model()(IDS[:, :4])
