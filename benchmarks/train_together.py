"""What training seeds together saves: ``train_together`` against ``train`` one after another, interleaved in one process.

Options: [--rounds 5] [--threads 1]
"""

import argparse
import statistics
import time

import torch

from ncollapse.data import DataConfig, LabeledData, load_data
from ncollapse.models import FCResNet, FCResNetConfig, FCResNetStack
from ncollapse.train import TrainConfig, train, train_together

EPOCHS = 3


def networks(data: LabeledData, width: int, count: int) -> list[FCResNet]:
    """One network a seed."""
    config = FCResNetConfig(width=width)
    return [FCResNet(config, data.input_dim, data.num_classes, seed) for seed in range(count)]


def compare(data: LabeledData, width: int, count: int, rounds: int) -> None:
    """Print the medians of both, and their ratio."""
    config = TrainConfig(epochs=EPOCHS)
    alone, together = [], []
    for index in range(rounds + 1):
        models, stacked = networks(data, width, count), networks(data, width, count)
        start = time.perf_counter()
        for seed, model in enumerate(models):
            list(train(model, data, config, seed=seed))
        middle = time.perf_counter()
        list(train_together(FCResNetStack(stacked), data, [config] * count, seeds=range(count)))
        if index > 0:  # the first round warms up
            alone.append(middle - start)
            together.append(time.perf_counter() - middle)
    ratios = [a / b for a, b in zip(alone, together, strict=True)]
    times = f"{statistics.median(alone) / EPOCHS:>14.3f}{statistics.median(together) / EPOCHS:>14.3f}"
    spread = f"{statistics.median(ratios):>8.2f}{min(ratios):>8.2f}{max(ratios):>8.2f}"
    print(f"{width:>6}{count:>7}{times}{spread}", flush=True)


def main() -> None:
    """Print one line a width and number of seeds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    data = load_data(DataConfig(name="digits", per_class=174))
    print(f"FC ResNets of 5 double blocks on {data.num_samples} digits, batches of 128; seconds an epoch of all networks")
    print(f"{'width':>6}{'seeds':>7}{'one by one':>14}{'together':>14}{'ratio':>8}{'min':>8}{'max':>8}")
    for width, count in ((64, 5), (64, 20), (128, 5), (256, 5)):
        compare(data, width, count, options.rounds)


if __name__ == "__main__":
    main()
