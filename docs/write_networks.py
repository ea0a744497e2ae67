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

HEADER = """# Networks whose layers are found automatically

`measure(model, batches, num_classes=K)` finds the layers of these networks automatically. The table lists the layers that it
measures. `make docs-networks` makes it from the opt-in tests (`make test-zoo`). The networks are untrained, as their
libraries build them.

- which: the layers. `*` is a number, and the count in brackets is the number of layers. `x.input` is the input of the module
  `x`, if no module returns it.
- tokens: how tokens become one row per sample, as in the network itself. "cls" is the first token, "last_token" the last one
  that the attention mask marks, "mean" the average over those that it marks. "mean" is also used if the network's own way is
  unknown, and before a class token is added. "mean_from_1" leaves out the first token. "each" means one label per token, "–" no
  tokens.
- deviation: the largest relative deviation over all layers. It compares class means, within-class and between-class variances
  with a float64 computation on features from separate hooks. Means over tokens are computed in the network's float32;
  everything else is exact to the rounding of float64.
- proof: the module whose W h + b gives the logits that the network returns, or why there is none. The tests check it again with
  features and logits from separate hooks.

[How layers are found](discovery.md) explains the search. `nc.find_layers(model, inputs)` shows the layers of your network. If
you want others, name them: `layers=["layer*.*", "avgpool"]`.

| library | network | layers | which | tokens | feeds the classifier | proof | deviation |
|---|---|---|---|---|---|---|---|
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
    notes = [note for note in measurement.chosen.split("; ") if note.startswith(("classifier ", "no classifier"))]
    return (
        network.library,
        f"`{network.name}`",
        str(len(measurement.layers)),
        patterns(measurement.layers),
        ", ".join(pools) or "–",
        f"`{feeding[0]}`" if feeding else "–",
        "; ".join(notes),
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
