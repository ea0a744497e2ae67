"""Encoder layers keep PyTorch's fused call while they are measured, and are left as they were."""

import pytest
import torch
from torch import nn

from ncollapse import collect_features, measure

K, WIDTH = 3, 8
X = torch.randn(12, 5, WIDTH, generator=torch.Generator().manual_seed(0))
Y = torch.arange(12) % K
LAYERS = ["encoder.layers.0", "encoder.layers.1"]


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        layer = nn.TransformerEncoderLayer(WIDTH, 2, 16, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(WIDTH, K)

    def forward(self, x):
        return self.head(self.encoder(x).mean(dim=1))


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Encoder().eval()


@pytest.fixture
def fused(monkeypatch):
    """Outputs of all fused calls."""
    outputs, plain = [], torch._transformer_encoder_layer_fwd

    def counted(*args):
        outputs.append(plain(*args))
        return outputs[-1]

    monkeypatch.setattr(torch, "_transformer_encoder_layer_fwd", counted)
    return outputs


def test_the_features_are_those_of_the_fused_call(model, fused):
    features, _ = collect_features(model, [(X, Y)], num_classes=K, layers=LAYERS)
    # The look at two samples has hooks on all modules, so that the fused call comes with the batch.
    assert [tuple(output.shape) for output in fused] == [(12, 5, WIDTH)] * 2
    assert all(torch.equal(features[name], output.flatten(1)) for name, output in zip(LAYERS, fused, strict=True))


def test_layers_are_left_as_they_were_also_by_errors(model):
    own = model.encoder.layers[0].forward
    model.encoder.layers[0].forward = own
    measure(model, [(X, Y)], num_classes=K)
    with pytest.raises(ValueError, match="labels must be in"):
        measure(model, [(X, Y), (X, Y + K)], num_classes=K)
    assert vars(model.encoder.layers[0])["forward"] is own
    assert "forward" not in vars(model.encoder.layers[1])


def test_inside_of_a_layer_and_around_hooks_of_the_user_there_is_no_fused_call(model, fused):
    inside = "encoder.layers.0.linear1"
    features, _ = collect_features(model, [(X, Y)], num_classes=K, layers=[inside, *LAYERS])
    assert len(fused) == 1
    assert features[inside].shape == (12, 5 * 16)
    fused.clear()
    model.encoder.layers[1].register_forward_hook(lambda module, args, output: output + 1)
    changed, _ = collect_features(model, [(X, Y)], num_classes=K, layers=LAYERS)
    assert len(fused) == 1
    assert torch.allclose(changed[LAYERS[1]], features[LAYERS[1]] + 1, atol=1e-5)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_an_encoder_that_nests_its_tokens_is_measured_around_its_layers():
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(WIDTH, 2, 16, batch_first=True)

    class Padded(nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder, self.head = nn.TransformerEncoder(layer, 2), nn.Linear(WIDTH, K)

        def forward(self, x, padding):
            return self.head(self.encoder(x, src_key_padding_mask=padding)[:, 0])

    padding = torch.zeros(12, 5, dtype=torch.bool)
    padding[:6, 3:] = True
    model, batches = Padded().eval(), [({"x": X, "padding": padding}, Y)]
    assert measure(model, batches, num_classes=K).layers[0].startswith("encoder:")
    with pytest.raises(
        TypeError, match=r"'encoder\.layers\.0' must return a dense tensor, got a nested one.*enable_nested_tensor=False"
    ):
        measure(model, batches, num_classes=K, layers=["encoder.layers.0"])
