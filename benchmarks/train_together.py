"""What training seeds together saves: ``train_together`` against ``train`` one after another, interleaved in one process.

Options: [--rounds 5] [--threads 1]
"""

import argparse
import statistics
import time

import torch

from ncollapse.data import DataConfig, LabeledData, gaussian_mixture, load_data
from ncollapse.models import FCResNet, FCResNetConfig, FCResNetStack
from ncollapse.train import TrainConfig, train, train_together

EPOCHS = 2


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
    print(f"{data.num_samples:>9}{data.input_dim:>8}{width:>6}{count:>7}{times}{spread}", flush=True)


def main() -> None:
    """Print one line a width and number of seeds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    digits = load_data(DataConfig(name="digits", per_class=174))
    # As many numbers as in the recipe fc_fashion_mnist_small, which needs files.
    fashion = gaussian_mixture(num_classes=10, dim=784, per_class=500)
    print("FC ResNets of 5 double blocks, batches of 128; seconds an epoch of all networks")
    print(
        f"{'samples':>9}{'inputs':>8}{'width':>6}{'seeds':>7}{'one by one':>14}{'together':>14}{'ratio':>8}{'min':>8}{'max':>8}"
    )
    for data, width, count in (
        *((digits, width, count) for width in (64, 128) for count in (5, 20)),
        (digits, 256, 5),
        (fashion, 128, 5),
    ):
        compare(data, width, count, options.rounds)


if __name__ == "__main__":
    main()
