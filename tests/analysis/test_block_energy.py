"""Energy bounds of whole networks: the blocks' own outputs, the path's energy, and blocks that normalize."""

import pytest
import torch
from torch import nn

from ncollapse.analysis import weight_decay_bounds
from ncollapse.depth import PathStatistics
from ncollapse.models.fc_resnet import FCResNet, FCResNetConfig
from ncollapse.probe import collect_features

X = torch.randn(50, 6, generator=torch.Generator().manual_seed(0))
Y = torch.arange(50) % 3
BATCHES = [(X[:20], Y[:20]), (X[20:], Y[20:])]


def network(seed=0, **config):
    settings = {"width": 8, "num_blocks": 3, "normalization": "none", "zero_bias": False, **config}
    return FCResNet(FCResNetConfig(**settings), 6, 3, seed)


@pytest.mark.parametrize("block", ["single", "double"])
def test_the_sum_is_the_energy_of_the_raw_paths(block):
    model = network(block=block)
    found = weight_decay_bounds(model, BATCHES)
    layers = list(collect_features(model, BATCHES, num_classes=3)[0].values())
    raw = PathStatistics.from_batch(layers, [torch.zeros(8, dtype=torch.float64)] * 4)
    assert [bound.block for bound in found.blocks] == ["blocks.0", "blocks.1", "blocks.2"]
    # Differences of float32 features lose digits that the blocks' own outputs keep.
    assert found.energy == pytest.approx(raw.energy / 3, rel=1e-5)
    assert [bound.energy for bound in found.blocks] == pytest.approx((raw.step_energy / 50).tolist(), rel=1e-5)
    assert found.energy >= PathStatistics.from_batch(layers).energy / 3


@pytest.mark.parametrize("block", ["single", "double"])
def test_the_bounds_hold_on_random_networks(block):
    for seed in range(10):
        model = network(seed, block=block, zero_bias=seed % 2 == 0, branch_scale=[0.1, 1.0, 10.0][seed % 3])
        found = weight_decay_bounds(model, BATCHES)
        assert found.is_bound
        for bound in found.blocks:
            assert 0 < bound.energy <= bound.by_moment * (1 + 1e-6) <= bound.by_weights * (1 + 2e-6)
        squared = sum(float(p.detach().double().square().sum()) for p in model.blocks.parameters())
        assert found.squared_weights == pytest.approx(squared, rel=1e-12)
        if block == "single":
            largest = max(bound.largest_eigenvalue for bound in found.blocks)
            assert found.energy <= found.by_moment <= largest * squared


def test_the_layers_of_a_block_are_taken_in_their_order():
    model = network(block="double")
    with torch.no_grad():
        h = model.stem(X).double()
        inner, _, outer = (layer.double() for layer in model.blocks[0].branch)
        hidden = torch.nn.functional.pad(inner(h), (0, 1), value=1.0)
        V = torch.cat([outer.weight, outer.bias[:, None]], dim=1)
        expected = float(torch.linalg.svdvals(V)[0] ** 2 * hidden.square().sum(dim=1).mean())
    found = weight_decay_bounds(network(block="double"), BATCHES)
    assert found.blocks[0].by_moment == pytest.approx(expected, rel=1e-5)


def run_in(model):
    """Let the running statistics come near those of the data."""
    for _ in range(30):
        model.train()(X)
    return model.eval()


@pytest.mark.parametrize("normalization", ["pre", "mid", "post"])
@pytest.mark.parametrize("block", ["single", "double"])
def test_the_bounds_hold_where_blocks_normalize(block, normalization):
    """Against the last normalization's own outputs, with running statistics that are those of the data or are not."""
    for seed in range(4):
        model = network(seed, block=block, normalization=normalization)
        with torch.no_grad():
            for norm in (layer for layer in model.modules() if isinstance(layer, nn.BatchNorm1d)):
                norm.weight.uniform_(-2, 2)
                norm.bias.uniform_(-1, 1)
        if seed % 2:
            run_in(model)
        found = weight_decay_bounds(model, BATCHES)
        assert found.is_bound
        h = model.stem(X)
        for number, bound in enumerate(found.blocks):
            outputs, layers = [h], list(model.eval().blocks[number].branch)
            for layer in layers:
                outputs.append(layer(outputs[-1]))
            (place, norm) = [(i, layer) for i, layer in enumerate(layers) if isinstance(layer, nn.BatchNorm1d)][-1]
            inner = float(outputs[place + 1].detach().double().square().sum(dim=1).mean())
            squared = float(sum(part.detach().double().square().sum() for part in (norm.weight, norm.bias)))
            behind = [layer for layer in layers[place:] if isinstance(layer, nn.Linear)]
            expected = inner
            if behind:
                V = torch.cat([behind[0].weight, behind[0].bias[:, None]], dim=1).detach().double()
                expected = float(torch.linalg.svdvals(V)[0] ** 2) * (inner + 1)
                squared += float(V.square().sum())
            assert bound.energy == pytest.approx(float(outputs[-1].detach().double().square().sum(dim=1).mean()), rel=1e-5)
            assert bound.by_moment == pytest.approx(expected, rel=1e-5)
            assert bound.squared_weights == pytest.approx(squared, rel=1e-12)
            assert bound.energy <= bound.by_moment * (1 + 1e-6) <= bound.by_weights * (1 + 2e-6)
            assert bound.largest_eigenvalue >= 1 - 1e-12
            h = h + outputs[-1]


def test_weights_before_a_normalization_bound_nothing():
    """A bound by all linear weights, as for other blocks, is broken: they may be as small as one likes."""
    model = run_in(network(block="single", normalization="mid"))
    before = weight_decay_bounds(model, BATCHES)
    linears = [layer for block in model.blocks for layer in block.branch if isinstance(layer, nn.Linear)]
    with torch.no_grad():
        for layer in linears:
            layer.weight.mul_(0.03)
            layer.bias.mul_(0.03)
        for norm in (layer for layer in model.blocks.modules() if isinstance(layer, nn.BatchNorm1d)):
            norm.running_mean.mul_(0.03)
            norm.running_var.mul_(0.03**2)
    after = weight_decay_bounds(model, BATCHES)
    assert after.energy == pytest.approx(before.energy, rel=0.1)
    assert after.energy > sum(float(layer.weight.detach().double().square().sum()) for layer in linears) * 50
    assert after.squared_weights == pytest.approx(before.squared_weights, rel=1e-12)
    assert after.energy <= after.by_moment <= after.by_weights


def test_batches_modes_and_random_state_are_of_no_effect():
    model = network(normalization="pre").train()
    state = torch.get_rng_state()
    one = weight_decay_bounds(model, [(X, Y)])
    other = weight_decay_bounds(model, torch.utils.data.DataLoader(list(zip(X, Y, strict=True)), 7, shuffle=True))
    assert torch.equal(torch.get_rng_state(), state)
    assert model.training
    assert [bound.energy for bound in one.blocks] == pytest.approx([bound.energy for bound in other.blocks], rel=1e-5)
    assert [bound.by_moment for bound in one.blocks] == pytest.approx([b.by_moment for b in other.blocks], rel=1e-5)


def test_a_network_without_blocks_adds_nothing():
    found = weight_decay_bounds(network(num_blocks=0), BATCHES)
    assert (found.blocks, found.energy, found.squared_weights) == ((), 0, 0)


def test_no_data_and_other_networks_are_refused():
    with pytest.raises(ValueError, match=r"There is no data: .*drop_last"):
        weight_decay_bounds(network(), [])
    with pytest.raises(TypeError, match=r"must be an FCResNet, whose blocks are known, got Linear\. For other networks use"):
        weight_decay_bounds(nn.Linear(2, 2), BATCHES)


@pytest.mark.parametrize("connections", ["plain", "dense"])
def test_blocks_that_add_nothing_are_refused(connections):
    with pytest.raises(ValueError, match=f"needs residual connections, got '{connections}'"):
        weight_decay_bounds(network(connections=connections), BATCHES)
