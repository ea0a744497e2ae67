"""Write docs/networks.md from the networks of the opt-in tests: ``make docs-networks``."""

import re
import sys
import warnings
from pathlib import Path

import torch

import ncollapse as nc
from ncollapse.probe.discover import Discovery
from ncollapse.probe.reading import unpack_batch
from ncollapse.probe.taps import Taps

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from zoo.networks import NETWORKS, Network, declare_operators  # noqa: E402

HEADER = """# Networks

What `measure(model, batches, num_classes=K)` takes by itself, with no word on the network. Made by `make docs-networks` from the
opt-in tests (`make test-zoo`), which check every layer listed here against features that a hook of the test's own saw. The networks
are as their libraries build them, untrained. `*` stands for numbers, the count in brackets for how many layers that are.
`x.input` is what the module `x` takes, where no module returns it. Tokens are read out as the network does it: "cls" the first,
"last_token" the last that the attention mask marks, "mean" over those that it marks (also where the network's own way cannot be
seen), "each" where every token has a label.

`Measurement.chosen` says the same of your network. Where it is not what you want, name layers: `layers=["layer*.*", "avgpool"]`.

| library | network | layers | which | tokens | classifier | fed by |
|---|---|---|---|---|---|---|
"""


def patterns(layers: list[str]) -> str:
    """Names with ``*`` for numbers, and how many each stands for."""
    counts: dict[str, int] = {}
    for layer in layers:
        name = re.sub(r"\d+", "*", layer.partition(":")[0])
        counts[name] = counts.get(name, 0) + 1
    by_name = {re.sub(r"\d+", "*", layer.partition(":")[0]): layer.partition(":")[0] for layer in reversed(layers)}
    return ", ".join(f"`{name}` ({count})" if count > 1 else f"`{by_name[name]}`" for name, count in counts.items())


def row(network: Network, model: torch.nn.Module) -> str:
    """One line of the table."""
    inputs, labels = (nc.next_tokens if network.next_tokens else unpack_batch)(network.batches()[0])
    with Taps(model, Discovery(model, "auto", None, network.num_classes).plan) as taps:
        layers = list(taps.forward(inputs, labels))
    plan = taps.plan
    assert plan is not None
    pools = ["each"] if labels.ndim == 2 else dict.fromkeys(str(tap.pool) for tap in plan.taps if tap.pool != "flatten")
    cells = (
        network.library,
        f"`{network.name}`",
        str(len(layers)),
        patterns(layers),
        ", ".join(pools) or "–",
        f"`{plan.classifier}`" if plan.classifier else "none",
        f"`{plan.feeding}`" if plan.feeding else "–",
    )
    return "| " + " | ".join(cells) + " |\n"


def render() -> str:
    """The page as Markdown."""
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        declare_operators()
        return HEADER + "".join(row(network, network.build()) for network in NETWORKS)


if __name__ == "__main__":
    Path(__file__).with_name("networks.md").write_text(render())
