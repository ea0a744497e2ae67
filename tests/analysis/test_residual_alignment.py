"""Residual alignment against Jacobians by PyTorch and singular values by NumPy, in closed form, and where it is refused."""

import numpy as np
import pytest
import torch
from small_network import Block, network
from torch import nn

from ncollapse.analysis import residual_alignment
from ncollapse.models import ConvResNetConfig, TransformerConfig, build_model

BLOCKS = ["blocks.0", "blocks.1"]


def test_equals_jacobians_row_by_row():
    model = network(3).double()
    inputs = torch.randn(4, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = residual_alignment(model, inputs, blocks=BLOCKS, num_directions=3)
    shared, tops, steps = np.zeros((4, 2, 2)), np.zeros((4, 2)), []
    for i, sample in enumerate(inputs):
        hidden, frames, jacobians, moves = model.stem(sample).detach(), [], [], []
        for block in model.blocks:
            jacobian = torch.autograd.functional.jacobian(lambda h, b=block: b(h) - h, hidden).numpy()
            jacobians.append(jacobian)
            frames.append(np.linalg.svd(jacobian))
            moves.append((block(hidden) - hidden).detach().numpy())
            hidden = block(hidden).detach()
        for row, jacobian in enumerate(jacobians):
            tops[i, row] = frames[row][1][0]
            for column, (left, _, right) in enumerate(frames):
                terms = [left[:, k] @ jacobian @ right[k] for k in range(3)]
                shared[i, row, column] = np.sum(np.square(terms)) / np.sum(jacobian**2)
        lengths = [np.linalg.norm(move) for move in moves]
        steps.append((*(np.array(lengths) / np.mean(lengths)), np.linalg.norm(sum(moves)) / sum(lengths)))
    assert found.shared.numpy() == pytest.approx(shared.mean(axis=0), rel=1e-9)
    assert found.top_value.numpy() == pytest.approx(tops.mean(axis=0), rel=1e-9)
    assert [*found.step_ratios.tolist(), found.straightness] == pytest.approx(np.mean(steps, axis=0), rel=1e-9)
    assert found.off_diagonal == pytest.approx(shared.mean(axis=0)[[0, 1], [1, 0]].mean(), rel=1e-9)
    # Bright on the diagonal by definition, and not elsewhere.
    assert float(found.top_energy.min()) > 0.5 > found.off_diagonal


class Linear(nn.Module):
    def __init__(self, weight):
        super().__init__()
        self.weight = nn.Parameter(weight)

    def forward(self, h):
        return h + h @ self.weight.T


def test_blocks_of_one_frame_are_aligned_and_of_low_rank():
    """h + cUDU^T h with one U: all four properties in closed form; and a block in another frame, where RA2 fails."""
    rng = torch.Generator().manual_seed(1)
    frame = torch.linalg.qr(torch.randn(7, 7, generator=rng, dtype=torch.float64))[0]
    values = torch.tensor([3.0, 2.0, 1.0, 0, 0, 0, 0], dtype=torch.float64)
    weights = [scale * frame @ torch.diag(values) @ frame.T for scale in (0.1, 0.2)]
    model = nn.Sequential(*map(Linear, weights))
    found = residual_alignment(
        model, torch.randn(3, 7, generator=rng, dtype=torch.float64), blocks=["0", "1"], num_directions=3
    )
    assert found.shared.numpy() == pytest.approx(np.ones((2, 2)), rel=1e-10)
    assert found.top_value.tolist() == pytest.approx([0.3, 0.6], rel=1e-10)
    narrow = residual_alignment(model, torch.ones(1, 7, dtype=torch.float64), blocks=["0", "1"], num_directions=1)
    assert narrow.shared.numpy() == pytest.approx(np.full((2, 2), 9 / 14), rel=1e-10)
    turned = nn.Sequential(model[0], Linear(torch.diag(values)))
    other = residual_alignment(turned, torch.ones(1, 7, dtype=torch.float64), blocks=["0", "1"], num_directions=3)
    assert other.off_diagonal < 0.6


@pytest.mark.parametrize(
    ("config", "shape", "blocks"),
    [
        (ConvResNetConfig(channels=(3,), blocks=(3,), stem_stride=2), (1, 8, 8), ["stages.0.1", "stages.0.2"]),
        (TransformerConfig(width=8, num_blocks=2), (1, 8, 8), ["blocks.0", "blocks.1"]),
    ],
    ids=["convolutions", "tokens"],
)
def test_images_and_tokens(config, shape, blocks):
    model = build_model(config, shape, 4, seed=0)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = residual_alignment(model.train(), torch.randn(2, *shape), blocks=blocks, num_directions=4)
    assert bool(torch.isfinite(found.shared).all())
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    axes = found.plot().axes[0]
    assert [text.get_text() for text in axes.get_yticklabels()] == blocks
    assert axes.images[0].get_array().shape == (2, 2)


class Mixing(nn.Module):
    def forward(self, h):
        return h + h.mean(dim=0)


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        (network(3), {"blocks": []}, r"blocks must be names of modules, got \[\]"),
        (network(3), {"blocks": ["blocks.7"]}, r"Unknown: \['blocks.7'\]\. See find_layers"),
        (network(3), {"blocks": ["stem"]}, r"Block 'stem' must keep the shape \(2, 5\), got \(2, 6\)\. Leave it out"),
        (network(3), {"blocks": BLOCKS, "num_directions": 7}, r"num_directions must be in \[1, 6\], got 7"),
        (nn.Sequential(Mixing()), {"blocks": ["0"]}, r"Block '0' must treat samples one by one"),
        (nn.Sequential(*[Block(5)] * 2), {"blocks": ["0"]}, r"Block '0' must run once, on a tensor of features, got 2 calls"),
    ],
)
def test_refusals(model, options, message):
    inputs = torch.randn(2, 5, generator=torch.Generator().manual_seed(0))
    with pytest.raises(ValueError, match=message):
        residual_alignment(model, inputs, **{"num_directions": 2, **options})


def test_features_that_are_too_large_are_refused():
    with pytest.raises(ValueError, match=r"at most 4096 numbers in a sample's features, got 5000\. Take smaller inputs"):
        residual_alignment(nn.Sequential(nn.Tanh()), torch.ones(1, 5000), blocks=["0"], num_directions=2)
