"""How the cost grows: over samples N on a small network, and over classes K on features in memory (d = 512).

    python benchmarks/scaling.py [--classes 10 100 1000 10000 50000]

Over N: the time of ``measure``, what the straight line through the first and the last gives, and its ratio to the bare pass.
Over K: streaming the moments, deciding 1,000 samples by the nearest class center (preparing the means included), and the
metrics that need all pairs of classes.
"""

import argparse
import resource
import statistics
import time
from collections.abc import Callable
from functools import partial

import torch

from ncollapse.metrics import geometry, variability
from ncollapse.models import FCResNet, FCResNetConfig
from ncollapse.probe import measure
from ncollapse.statistics import ClassCenters, ClassDecisions, ClassMoments

PAIRWISE_LIMIT = 10_000
ROUNDS = 7


def seconds(call: Callable[[], object]) -> float:
    """Time of a call."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def over_samples() -> None:
    """Print the cost for 1,000 to 60,000 samples, and how far it is from the straight line through the first and the last."""
    model = FCResNet(FCResNetConfig(width=256, num_blocks=5), 784, 10, seed=0).eval()
    generator = torch.Generator().manual_seed(0)
    inputs, labels = torch.randn(60_000, 784, generator=generator), torch.randint(0, 10, (60_000,), generator=generator)
    sizes = (1_000, 4_000, 15_000, 30_000, 60_000)
    batches = {n: list(zip(inputs[:n].split(500), labels[:n].split(500), strict=True)) for n in sizes}

    def bare(num_samples: int) -> None:
        with torch.no_grad():
            for batch, _ in batches[num_samples]:
                model(batch)

    def measured(num_samples: int) -> None:
        measure(model, batches[num_samples], num_classes=10, memory_budget=2**30)

    times: dict[int, list[tuple[float, float]]] = {n: [] for n in sizes}
    for _ in range(ROUNDS):
        for n in sizes:
            times[n].append((seconds(partial(measured, n)), seconds(partial(bare, n))))
    taken = {n: statistics.median(own for own, _ in pairs) for n, pairs in times.items()}
    slope = (taken[sizes[-1]] - taken[sizes[0]]) / (sizes[-1] - sizes[0])
    print(f"{'N':>8}{'measure s':>12}{'line s':>10}{'off':>8}{'ratio':>8}")
    for num_samples, pairs in times.items():
        line = taken[sizes[0]] + slope * (num_samples - sizes[0])
        ratio = statistics.median(own / other for own, other in pairs)
        off = taken[num_samples] / line - 1
        print(f"{num_samples:>8}{taken[num_samples]:>12.3f}{line:>10.3f}{off:>8.1%}{ratio:>8.3f}", flush=True)


def over_classes(classes: list[int]) -> None:
    """Print the cost for many classes at d = 512, two samples a class at least."""
    print(f"{'K':>8}{'N':>9}{'moments s':>12}{'1k decided s':>13}{'pairs s':>9}{'peak MiB':>10}")
    for num_classes in classes:
        num_samples = max(10_000, 2 * num_classes)
        generator = torch.Generator().manual_seed(0)
        features = torch.randn(num_samples, 512, generator=generator)
        labels = torch.arange(num_samples) % num_classes
        start = time.perf_counter()
        moments = ClassMoments.from_batch(features, labels, num_classes)
        streamed = time.perf_counter()
        centers = ClassCenters.from_moments(moments)
        ClassDecisions.from_batch(features[:1000], labels[:1000], centers)
        decided = time.perf_counter()
        pairs = float("nan")
        if num_classes <= PAIRWISE_LIMIT:
            begin = time.perf_counter()
            means = moments.centered_means()
            _ = geometry.etf_distance(means), geometry.equiangularity(means), variability.cdnv(moments)
            pairs = time.perf_counter() - begin
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
        print(
            f"{num_classes:>8}{num_samples:>9}{streamed - start:>12.2f}{decided - streamed:>13.2f}{pairs:>9.2f}{peak:>10.0f}",
            flush=True,
        )


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--classes", nargs="+", type=int, default=[10, 100, 1_000, 10_000, 50_000])
    options = parser.parse_args()
    torch.set_num_threads(1)
    over_samples()
    over_classes(options.classes)


if __name__ == "__main__":
    main()
