"""Paths through a stage of an ordinary ResNet equal a measurement of that stage's layers alone."""

import pytest
import torch
from torch import nn

from ncollapse.cli import main
from ncollapse.probe import CollapseMetrics, collect_features, measure, measure_features, watch

K = 3


class Block(nn.Module):
    """A residual block with BatchNorm; another width or stride has a projection as its shortcut."""

    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs)
        self.conv2, self.bn2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm2d(outputs)
        self.relu, self.shortcut = nn.ReLU(inplace=True), None
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x):
        out = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        return self.relu(out + (x if self.shortcut is None else self.shortcut(x)))


class ResNet(nn.Module):
    """A stem and stages, each but the first of half the resolution and twice the width."""

    def __init__(self, *blocks):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 3, 3, padding=1, bias=False), nn.BatchNorm2d(3), nn.ReLU())
        width = 3
        for stage, count in enumerate(blocks, start=1):
            outputs = 3 * 2 ** (stage - 1)
            strides = [1 if stage == 1 else 2] + [1] * (count - 1)
            made = [Block(width if i == 0 else outputs, outputs, stride) for i, stride in enumerate(strides)]
            setattr(self, f"layer{stage}", nn.Sequential(*made))
            width = outputs
        self.num_stages, self.avgpool, self.fc = len(blocks), nn.AdaptiveAvgPool2d(1), nn.Linear(width, K)

    def forward(self, x):
        x = self.stem(x)
        for stage in range(1, self.num_stages + 1):
            x = getattr(self, f"layer{stage}")(x)
        return self.fc(torch.flatten(self.avgpool(x), 1))


def made(*blocks):
    torch.manual_seed(0)
    model = ResNet(*blocks)
    with torch.no_grad():  # running means of its own, as after training
        model(torch.randn(32, 1, 8, 8))
    return model.eval()


GENERATOR = torch.Generator().manual_seed(1)
Y = torch.arange(K).repeat(10)
X = torch.randn(len(Y), 1, 8, 8, generator=GENERATOR) + Y.view(-1, 1, 1, 1)
BATCHES = [(X[i : i + 12], Y[i : i + 12]) for i in range(0, len(Y), 12)]

STAGES = {
    "longest": (True, ("layer2.0", "layer2.1", "layer2.2", "layer2.3")),
    "with the stem": (["stem", "layer1"], ("stem.2", "layer1.0")),
    "last": ("layer3", ("layer3.0", "layer3.1")),
}


@pytest.mark.parametrize(("path", "layers"), STAGES.values(), ids=STAGES)
def test_a_path_through_a_stage_equals_measuring_its_layers_alone(path, layers):
    model = made(1, 4, 2)
    m = measure(model, BATCHES, num_classes=K, path=path)
    assert (len(m.layers), m.path_layers) == (9, layers)
    dim = m.statistics[layers[0]].moments.dim
    assert m.chosen.endswith(f"path through {len(layers)} of 9 layers, {layers[0]} to {layers[-1]} (dimension {dim})")
    alone = measure(model, BATCHES, num_classes=K, layers=list(layers), path=True)
    features, labels = collect_features(model, BATCHES, num_classes=K, layers=list(layers))
    plain = measure_features({name: features[name] for name in layers}, labels, num_classes=K, path=True)
    for found in (alone, plain):
        assert found.path_layers == layers
        for name in ("pfc1", "pfc2", "pfc3", "cdnv"):
            assert [m.value(name, layer) for layer in layers] == pytest.approx([found.value(name, x) for x in layers], rel=1e-9)
        assert m.path.position() == pytest.approx(found.path.position(), rel=1e-9)
        assert m.path.straightness.tolist() == pytest.approx(found.path.straightness.tolist(), rel=1e-9)
        assert m.geodesic.pfc1().tolist() == pytest.approx(found.geodesic.pfc1().tolist(), rel=1e-9)
        assert m.line.pfc3().tolist() == found.line.pfc3().tolist()


@pytest.mark.parametrize("budget", [None, 0])
def test_one_pass_two_passes_and_watch_follow_the_same_stage(budget):
    model = made(2, 2)
    expected = measure(model, BATCHES, num_classes=K, layers=["layer1.0", "layer1.1"], path=True)
    found = [measure(model, BATCHES, num_classes=K, path="layer1", memory_budget=budget)]
    if budget is None:
        with watch(model, num_classes=K, mode="eval", path="layer1") as watched:
            for inputs, labels in BATCHES:
                model(inputs)
                watched.update(labels)
        streamed = CollapseMetrics(num_classes=K, path="layer1")
        features, labels = collect_features(model, BATCHES, num_classes=K)
        streamed.update(features, labels)
        found += [watched.compute(), streamed.compute()]
    for m in found:
        assert m.path_layers == expected.path_layers
        assert m.path.position() == pytest.approx(expected.path.position(), rel=1e-9)
        assert m.geodesic.pfc2().tolist() == pytest.approx(expected.geodesic.pfc2().tolist(), rel=1e-9)


def test_a_stage_that_is_none_is_refused_at_the_first_batch():
    with pytest.raises(ValueError, match=r"path must name measured layers or modules around them, got 'layer7'"):
        measure(made(1, 2), BATCHES[:1], num_classes=K, path="layer7")


def test_the_command_line_names_a_stage(capsys, monkeypatch):
    monkeypatch.syspath_prepend(__file__.rpartition("/")[0])
    words = "measure test_paths:network --data test_paths:batches --num-classes 3"
    main([*words.split(), "--path", "layer1"])
    printed = capsys.readouterr().out
    assert "path through 2 of 6 layers, layer1.0 to layer1.1 (dimension 192)" in printed
    assert "PathStatistics(30 samples through 2 layers" in printed
    main([*words.split(), "--path"])
    assert "path through 3 of 6 layers, stem.2 to layer1.1 (dimension 192)" in capsys.readouterr().out


def network():
    return made(2, 2)


def batches():
    return BATCHES
