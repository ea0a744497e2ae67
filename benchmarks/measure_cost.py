"""What measuring costs: ``measure`` on every layer, with every default metric, over the bare forward pass, side by side.

Networks: the paper's FC ResNet (10 double blocks of width 1000, 11 layers); a small convolutional ResNet on 28×28 images, all
stages flattened; a transformer encoder of 6 layers. Beside them the usual way of today on the FC ResNet: three passes over the
data, for means, for d×d covariances, and for decisions, in float32. Times are interleaved rounds in one process; memory is the
growth of the peak resident size in a fresh process each.

    python benchmarks/measure_cost.py [--networks fc conv transformer] [--rounds 5] [--threads 1]
"""

import argparse
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ncollapse.models import FCResNet, FCResNetConfig
from ncollapse.probe import measure

NUM_CLASSES = 10


class Case(NamedTuple):
    """A network, its batches, and the size of its tapped features."""

    title: str
    model: nn.Module
    batches: list[tuple[Tensor, Tensor]]


class Block(nn.Module):
    """Two 3×3 convolutions around which the input is added."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, width, 3, padding=1)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Run the network."""
        return torch.relu(x + self.branch(x))


class ConvResNet(nn.Module):
    """Three stages of two blocks, widths 32, 64 and 128."""

    collapse_stages = ("stages.0", "stages.1", "stages.2", "pool")

    def __init__(self) -> None:
        super().__init__()
        widths = (32, 64, 128)
        self.stages = nn.ModuleList(
            nn.Sequential(nn.Conv2d(before, width, 3, stride, 1), Block(width), Block(width))
            for before, width, stride in zip((1, *widths), widths, (1, 2, 2), strict=False)
        )
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(widths[-1], NUM_CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """Run the network."""
        for stage in self.stages:
            x = stage(x)
        return self.head(self.pool(x).flatten(1))


class Encoder(nn.Module):
    """Six encoder layers of width 256 over 64 tokens, read out by their mean."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(256, 8, 1024, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 6, enable_nested_tensor=False)
        self.head = nn.Linear(256, NUM_CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """Run the network."""
        return self.head(self.encoder(x).mean(dim=1))


def case(name: str) -> Case:
    """One network with its data."""
    torch.manual_seed(0)
    models: dict[str, Callable[[], nn.Module]] = {
        "fc": lambda: FCResNet(FCResNetConfig(width=1000, num_blocks=10, normalization="none"), 784, NUM_CLASSES, seed=0),
        "conv": ConvResNet,
        "transformer": Encoder,
    }
    shape, batch = {"fc": ((10_000, 784), 1000), "conv": ((1_000, 1, 28, 28), 250), "transformer": ((400, 64, 256), 100)}[name]
    inputs, labels = torch.randn(shape), torch.randint(0, NUM_CLASSES, shape[:1])
    batches = list(zip(inputs.split(batch), labels.split(batch), strict=True))
    return Case(f"{name}: inputs {tuple(shape)}, batches of {batch}", models[name]().eval(), batches)


def modes(name: str) -> dict[str, Callable[[], object]]:
    """Make the calls to be compared."""
    _, model, batches = case(name)

    def bare() -> None:
        with torch.no_grad():
            for batch, _ in batches:
                model(batch)

    def measuring(budget: int, path: bool = False) -> Callable[[], object]:
        return lambda: measure(model, batches, num_classes=NUM_CLASSES, memory_budget=budget, path=path)

    found = {"bare forward": bare, "kept features": measuring(2**30), "second pass": measuring(0)}
    if name == "fc":
        found["kept, with path"] = measuring(2**30, path=True)
        found["three passes, as usual"] = lambda: three_passes(model, batches)
    return found


def three_passes(model: nn.Module, batches: list[tuple[Tensor, Tensor]]) -> None:
    """Means, then d×d covariances, then decisions, of all stages in float32, as published codes do."""
    seen: dict[str, Tensor] = {}
    handles = [
        model.get_submodule(name).register_forward_hook(lambda _, __, out, name=name: seen.update({name: out.flatten(1)}))
        for name in model.collapse_stages  # type: ignore[union-attr]
    ]

    def one_pass(add: Callable[[str, Tensor, Tensor], object]) -> None:
        with torch.no_grad():
            for inputs, labels in batches:
                model(inputs)
                for name, features in seen.items():
                    add(name, features, labels)

    sums: dict[str, Tensor] = {}
    one_pass(lambda name, h, y: sums.setdefault(name, torch.zeros(NUM_CLASSES, h.shape[1])).index_add_(0, y, h))
    counts = torch.bincount(torch.cat([labels for _, labels in batches]), minlength=NUM_CLASSES)
    means = {name: total / counts[:, None] for name, total in sums.items()}
    within = {name: torch.zeros(m.shape[1], m.shape[1]) for name, m in means.items()}

    def add_covariance(name: str, features: Tensor, labels: Tensor) -> None:
        residual = features - means[name][labels]
        within[name].addmm_(residual.T, residual)

    one_pass(add_covariance)
    one_pass(lambda name, h, y: (torch.cdist(h, means[name]).argmin(1) == y).sum())
    for name, m in means.items():
        centered = m - m.mean(0)
        torch.trace(within[name] @ torch.linalg.pinv(centered.T @ centered))
    for handle in handles:
        handle.remove()


def peak_mib() -> float:
    """Peak resident size of this process."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10


def memory(name: str, mode: str, threads: int) -> float:
    """Growth of the peak resident size over one call, in a fresh process."""
    command = [sys.executable, __file__, "--memory-of", name, mode, "--threads", str(threads)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def timed(calls: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each call in interleaved rounds, in turn forwards and backwards, after one that is not counted."""
    for call in calls.values():
        call()
    times: dict[str, list[float]] = {mode: [] for mode in calls}
    for index in range(rounds):
        for mode in list(calls)[:: 1 if index % 2 else -1]:
            start = time.perf_counter()
            calls[mode]()
            times[mode].append(time.perf_counter() - start)
    return times


def row(mode: str, seconds: list[float], bare: list[float], peak: float) -> str:
    """One line of the table."""
    ratios = [mine / other for mine, other in zip(seconds, bare, strict=True)]
    spread = f"{statistics.median(ratios):>8.3f}{min(ratios):>8.3f}{max(ratios):>8.3f}"
    return f"{mode:<26}{statistics.median(seconds):>10.2f}{spread}{peak:>10.0f}"


def compare(name: str, peaks: dict[str, float], rounds: int) -> None:
    """Time the modes of one network in interleaved rounds and print the table."""
    times = timed(modes(name), rounds)
    title, model, batches = case(name)
    kept = measure(model, batches, num_classes=NUM_CLASSES).kept_bytes / 2**20
    print(f"{title}; {rounds} interleaved rounds; the features of all layers take {kept:.0f} MiB")
    print(f"{'':<26}{'median s':>10}{'ratio':>8}{'min':>8}{'max':>8}{'peak MiB':>10}")
    for mode, seconds in times.items():
        print(row(mode, seconds, times["bare forward"], peaks[mode]), flush=True)


def main() -> None:
    """Print times, ratios and memory."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", default=["fc", "conv", "transformer"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--memory-of", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.memory_of is not None:
        call = modes(options.memory_of[0])[options.memory_of[1]]
        before = peak_mib()
        call()
        print(peak_mib() - before)
        return
    # First, while this process is small: a child begins with its parent's peak.
    names = {name: list(modes(name)) for name in options.networks}
    peaks = {name: {mode: memory(name, mode, options.threads) for mode in found} for name, found in names.items()}
    for name in options.networks:
        compare(name, peaks[name], options.rounds)


if __name__ == "__main__":
    main()
