"""Write docs/networks.md from the networks of the opt-in tests: ``make docs-networks``."""

import re
import sys
import warnings
from pathlib import Path

import ncollapse as nc

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from zoo.networks import NETWORKS, Network, built, measured  # noqa: E402
from zoo.oracle import deviation, run  # noqa: E402

HEADER = """# Networks

What `measure(model, batches, num_classes=K)` takes by itself, with no word on the network. Made by `make docs-networks` from
the opt-in tests (`make test-zoo`); the networks are as their libraries build them, untrained.

- which: the layers; `*` stands for numbers, the count in brackets for how many layers that are. `x.input` is what the module
  `x` takes, where no module returns it.
- tokens: how they are read out, as the network does it: "cls" the first, "last_token" the last that the attention mask marks,
  "mean" over those that it marks (also where the network's own way cannot be seen, and before a class token has joined), "each"
  where every token has a label, "–" where there are none.
- deviation: the worst of all layers, against class means, within-class and between-class variances in float64 of features that
  hooks of the test's own saw, relative to these. Means over tokens are taken in the network's float32, all else is exact to the
  rounding of float64. That the features which feed the classifier give the network's logits is checked too.

[How layers are found](discovery.md) explains the search; `nc.find_layers(model, inputs)` shows what it takes of yours. Where it
is not what you want, name layers: `layers=["layer*.*", "avgpool"]`.

| library | network | layers | which | tokens | feeds the classifier | deviation |
|---|---|---|---|---|---|---|
"""


def patterns(layers: tuple[str, ...]) -> str:
    """Names with ``*`` for numbers, and how many each stands for."""
    groups: dict[str, list[str]] = {}
    for layer in layers:
        name = layer.partition(":")[0]
        groups.setdefault(re.sub(r"\d+", "*", name), []).append(name)
    return ", ".join(f"`{pattern}` ({len(group)})" if len(group) > 1 else f"`{group[0]}`" for pattern, group in groups.items())


def cells(network: Network, measurement: nc.Measurement) -> tuple[str, ...]:
    """One line of the table, without the deviation, whose digits are those of one machine."""
    labels = network.batches()[0]
    each = network.next_tokens or (isinstance(labels, dict) and labels["labels"].ndim == 2)
    pools = ["each"] if each else dict.fromkeys(layer.partition(":")[2] for layer in measurement.layers if ":" in layer)
    feeding = [layer for layer, statistics in measurement.statistics.items() if statistics.classifier is not None]
    return (
        network.library,
        f"`{network.name}`",
        str(len(measurement.layers)),
        patterns(measurement.layers),
        ", ".join(pools) or "–",
        f"`{feeding[0]}`" if feeding else "none found",
    )


def line(network: Network) -> str:
    """One line of the table."""
    model = built(network)
    measurement = measured(network, model)
    seen = run(model, network, measurement.layers)
    statistics = measurement.statistics
    worst = max(deviation(statistics[layer].moments, features, seen.labels) for layer, features in seen.features.items())
    return f"| {' | '.join((*cells(network, measurement), f'{worst:.0e}'))} |\n"


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    Path(__file__).with_name("networks.md").write_text(HEADER + "".join(line(network) for network in NETWORKS))
