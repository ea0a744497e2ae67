"""Public networks are measured without a word on them, each layer checked against features that a hook of the test's own saw.

Opt-in: ``make test-zoo`` installs the libraries into an environment of its own.
"""

import re
import runpy
from pathlib import Path

import numpy as np
import pytest
import torch

import ncollapse as nc
from zoo.networks import NETWORKS, built, installed, measured
from zoo.oracle import deviation, run, split

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "networks.md").read_text()
cells = runpy.run_path(str(ROOT / "docs" / "write_networks.py"))["cells"]


@pytest.mark.parametrize("network", NETWORKS, ids=lambda network: f"{network.library}-{network.name}")
@pytest.mark.filterwarnings("ignore")  # what the libraries warn of at import is theirs
def test_every_layer_has_the_statistics_of_its_features(network):
    if not installed(network.library):
        pytest.skip(f"{network.library} is not installed: make test-zoo")
    model = built(network)
    m = measured(network, model)
    assert all(module.training for module in model.modules())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert f"| {' | '.join(cells(network, m))} |" in PAGE, "run `make docs-networks`"

    inputs, _ = split(network, network.batches()[0])
    with_classes = nc.find_layers(model, inputs, num_classes=network.num_classes)
    assert (with_classes.names, with_classes.why) == (m.layers, m.chosen)
    found = nc.find_layers(model, inputs)
    assert found.classifier == with_classes.classifier
    # With K, the module that looks like an unproven classifier is known, and its input is a layer.
    assert found.classifier is None or found.names == m.layers

    seen = run(model, network, m.layers)
    assert tuple(seen.features) == m.layers, "the order of execution"
    for layer, features in seen.features.items():
        # A mean over tokens is taken in the network's float32.
        bound = 1e-5 if ":mean" in layer else 1e-12
        assert deviation(m.statistics[layer].moments, features, seen.labels) < bound, layer
    feeding = [layer for layer in m.layers if m.statistics[layer].classifier is not None]
    if feeding:
        head = m.statistics[feeding[0]].classifier
        logits = seen.features[feeding[0]] @ head.weight.numpy().T + (0 if head.bias is None else head.bias.numpy())
        np.testing.assert_allclose(logits, seen.logits, rtol=0, atol=1e-5 * np.abs(logits).max())


@pytest.mark.parametrize(
    ("name", "path", "layers"),
    [
        ("resnet18", True, ("maxpool", "layer1.0", "layer1.1")),
        ("resnet18", "layer3", ("layer3.0", "layer3.1")),
        ("resnet50", True, tuple(f"layer3.{block}" for block in range(6))),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_a_path_runs_through_one_stage_of_a_resnet(name, path, layers):
    if not installed("torchvision"):
        pytest.skip("torchvision is not installed: make test-zoo")
    network = next(network for network in NETWORKS if network.name == name)
    model = built(network)
    options = {"num_classes": network.num_classes}
    m = nc.measure(model, network.batches(), path=path, **options)
    assert m.path_layers == layers
    assert f"path through {len(layers)} of {len(m.layers)} layers, {layers[0]} to {layers[-1]}" in m.chosen
    seen = run(model, network, m.layers)
    plain = nc.measure_features(
        {layer: torch.from_numpy(seen.features[layer]) for layer in layers}, torch.from_numpy(seen.labels), path=True, **options
    )
    assert m.path.position() == pytest.approx(plain.path.position(), rel=1e-9)
    assert m.path.straightness.tolist() == pytest.approx(plain.path.straightness.tolist(), rel=1e-9)
    assert m.geodesic.pfc1().tolist() == pytest.approx(plain.geodesic.pfc1().tolist(), rel=1e-9)
    assert m.line.pfc3().tolist() == plain.line.pfc3().tolist()


def test_the_code_of_the_readme_runs(capsys):
    pytest.importorskip("torchvision")
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)
    exec(code, {})
    assert "100 samples of 10 classes" in capsys.readouterr().out
