"""What measuring costs: ``measure`` on all 11 layers of the paper's FC ResNet over the bare forward pass, side by side.

The network: 10 double blocks of width 1000 without normalization; the data: 10,000 × 784 inputs in 10 classes. Times are
interleaved pairs (bare, kept features, second pass, kept features with paths) in one process; memory is the growth of the
peak resident size in a fresh process each.

    python benchmarks/measure_cost.py [--pairs 5] [--threads 1]
"""

import argparse
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import torch

from ncollapse.models import FCResNet, FCResNetConfig
from ncollapse.probe import measure

NUM_SAMPLES, INPUT_DIM, WIDTH, NUM_BLOCKS, NUM_CLASSES, BATCH = 10_000, 784, 1000, 10, 10, 1000

MODES = ("bare forward", "measure, kept features", "measure, second pass", "measure with path, kept")


def modes() -> dict[str, Callable[[], object]]:
    """The calls to be compared, on one network and one data set."""
    generator = torch.Generator().manual_seed(0)
    config = FCResNetConfig(width=WIDTH, num_blocks=NUM_BLOCKS, normalization="none")
    model = FCResNet(config, INPUT_DIM, NUM_CLASSES, seed=0).eval()
    inputs = torch.randn(NUM_SAMPLES, INPUT_DIM, generator=generator)
    labels = torch.randint(0, NUM_CLASSES, (NUM_SAMPLES,), generator=generator)
    batches = list(zip(inputs.split(BATCH), labels.split(BATCH), strict=True))

    def bare() -> None:
        with torch.no_grad():
            for batch, _ in batches:
                model(batch)

    def measuring(budget: int, path: bool = False) -> Callable[[], object]:
        return lambda: measure(model, batches, num_classes=NUM_CLASSES, memory_budget=budget, path=path)

    return dict(zip(MODES, (bare, measuring(2**30), measuring(0), measuring(2**30, path=True)), strict=True))


def peak_mib() -> float:
    """Peak resident size of this process."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10


def memory(mode: str, threads: int) -> float:
    """Growth of the peak resident size over one call, in a fresh process."""
    command = [sys.executable, __file__, "--memory-of", mode, "--threads", str(threads)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def main() -> None:
    """Print times, ratios and memory."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.memory_of is None:
        # First, while this process is small: a child begins with its parent's peak.
        peaks = {name: memory(name, options.threads) for name in MODES}
    calls = modes()
    if options.memory_of is not None:
        before = peak_mib()
        calls[options.memory_of]()
        print(peak_mib() - before)
        return
    for call in calls.values():
        call()
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(options.pairs):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            times[name].append(time.perf_counter() - start)
    features = NUM_SAMPLES * WIDTH * (NUM_BLOCKS + 1) * 4 / 2**20
    print(f"FC ResNet, {NUM_BLOCKS} blocks of width {WIDTH}; {NUM_SAMPLES} x {INPUT_DIM} float32 inputs, batches of {BATCH},")
    print(
        f"{options.threads} thread(s), {options.pairs} interleaved rounds; the features of all layers take {features:.0f} MiB."
    )
    print(f"{'':<26}{'median s':>10}{'ratio':>8}{'min':>8}{'max':>8}{'peak MiB':>10}")
    for name, seconds in times.items():
        ratios = [mine / bare for mine, bare in zip(seconds, times["bare forward"], strict=True)]
        spread = f"{statistics.median(ratios):>8.3f}{min(ratios):>8.3f}{max(ratios):>8.3f}"
        print(f"{name:<26}{statistics.median(seconds):>10.2f}{spread}{peaks[name]:>10.0f}")


if __name__ == "__main__":
    main()
