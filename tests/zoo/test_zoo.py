"""Public networks are measured without a word on them, each layer checked against features that a hook of the test's own saw.

Opt-in: ``make test-zoo`` installs the libraries into an environment of its own.
"""

import runpy
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch

import ncollapse as nc
import reference
from zoo.networks import NETWORKS, declare_operators, installed

ROOT = Path(__file__).parents[2]
PAGE = runpy.run_path(str(ROOT / "docs" / "write_networks.py"))
# What the libraries warn of at import is theirs.
pytestmark = pytest.mark.filterwarnings("ignore")


def built(network):
    if not installed(network.library):
        pytest.skip(f"{network.library} is not installed: make test-zoo")
    declare_operators()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = network.build()
        # Of untrained networks some end in zeros: there every mean would be the same.
        for parameter in model.parameters():
            if not parameter.any():
                torch.nn.init.normal_(parameter, std=0.02)
    return model.train()


def split(network, batch):
    if network.next_tokens:
        ids, mask = batch["input_ids"].numpy(), batch["attention_mask"].numpy()
        labels = np.full(ids.shape, -100)
        for i in range(len(ids)):
            for t in range(ids.shape[1] - 1):
                if mask[i, t] and mask[i, t + 1]:
                    labels[i, t] = ids[i, t + 1]
        return batch, labels
    if isinstance(batch, Mapping):
        return {name: value for name, value in batch.items() if name != "labels"}, batch["labels"].numpy()
    return batch[0], batch[1].numpy()


def first_tensor(output):
    if isinstance(output, torch.Tensor):
        return output
    values = output.values() if isinstance(output, Mapping) else output
    return next(value for value in values if isinstance(value, torch.Tensor))


def pooled(array, pool, mask):
    """One row a sample, in float64 and one sample after the other."""
    rows = []
    for i, sample in enumerate(array):
        real = [t for t in range(len(sample)) if mask is None or len(mask[i]) != len(sample) or mask[i][t]]
        rows.append({"": sample.ravel, "cls": lambda: sample[0], "last_token": lambda: sample[real[-1]],
                     "mean": lambda: sum(sample[t] for t in real) / len(real)}[pool]())  # fmt: skip
    return np.stack(rows)


def captured(model, network, layers):
    """Rows of features by layer and labels, with plain hooks that clone."""
    modules, seen, rows, labels = dict(model.named_modules()), {}, {layer: [] for layer in layers}, []

    def output_hook(layer):
        return lambda _, __, output: seen.update({layer: first_tensor(output).detach().double().numpy().copy()})

    def input_hook(layer):
        return lambda _, args: seen.update({layer: args[0].detach().double().numpy().copy()})

    for layer in layers:
        name = layer.partition(":")[0]
        if name in modules:
            modules[name].register_forward_hook(output_hook(layer))
        else:
            modules[name.removesuffix(".input")].register_forward_pre_hook(input_hook(layer))
    model.eval()
    for batch in network.batches():
        inputs, y = split(network, batch)
        with torch.no_grad():
            model(**inputs) if isinstance(inputs, Mapping) else model(inputs)
        mask = inputs["attention_mask"].numpy() if isinstance(inputs, Mapping) and "attention_mask" in inputs else None
        for layer in layers:
            values = seen[layer]
            if y.ndim == 2:
                rows[layer].append(values.reshape(-1, values.shape[-1])[y.ravel() != -100])
            else:
                rows[layer].append(pooled(values, layer.partition(":")[2], mask))
        labels.append(y.ravel()[y.ravel() != -100])
    return {layer: np.concatenate(parts) for layer, parts in rows.items()}, np.concatenate(labels)


@pytest.mark.parametrize("network", NETWORKS, ids=lambda network: f"{network.library}-{network.name}")
def test_every_layer_has_the_statistics_of_its_features(network):
    model = built(network)
    unpack = {"unpack": nc.next_tokens} if network.next_tokens else {}
    measured = nc.measure(model, network.batches(), num_classes=network.num_classes, layers="auto", **unpack)
    assert model.training
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert PAGE["row"](network, model) in (ROOT / "docs" / "networks.md").read_text(), "run `make docs-networks`"
    features, y = captured(model, network, measured.layers)
    present = [k for k in range(network.num_classes) if (y == k).any()]
    for layer, H in features.items():
        moments = measured.statistics[layer].moments
        assert np.array_equal(moments.counts.numpy(), reference.counts(y, network.num_classes)), layer
        means = np.stack([H[y == k].mean(axis=0) for k in present])
        spread = np.array([((H[y == k] - mean) ** 2).sum() for k, mean in zip(present, means, strict=True)])
        # A mean over tokens is taken in the network's own precision.
        tolerance = 1e-5 if layer.endswith(":mean") else 1e-10
        np.testing.assert_allclose(moments.means[present], means, tolerance, tolerance * np.abs(means).max(), err_msg=layer)
        np.testing.assert_allclose(moments.scatter_traces[present], spread, tolerance, tolerance * (H**2).sum(), err_msg=layer)
        if len(present) == network.num_classes:
            counts = reference.counts(y, network.num_classes)
            within = np.mean(spread / counts)
            between = np.mean(((means - means.mean(axis=0)) ** 2).sum(axis=1))
            if between > 1e-9 * (H**2).sum(axis=1).mean():
                assert measured.value("pfc1", layer=layer) == pytest.approx(within / between, rel=1e4 * tolerance), layer
