"""Record two trainings of one's own network, with and without weight decay, and compare them on one page.

Fashion-MNIST if its files are found (``ncollapse doctor`` says so), else the handwritten digits of scikit-learn.
"""

import tempfile
from pathlib import Path

import torch
from torch import nn

import ncollapse as nc
from ncollapse.records import read_run
from ncollapse.report import write_report

EPOCHS, SAMPLES = 4, 2000


class OwnNetwork(nn.Module):
    """A residual network with batch normalization, as one writes it oneself."""

    def __init__(self, dim: int, width: int = 64) -> None:
        super().__init__()
        self.stem = nn.Linear(dim, width)
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(width, width), nn.BatchNorm1d(width), nn.ReLU()) for _ in range(4))
        self.head = nn.Linear(width, 10)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return the logits."""
        hidden = self.stem(inputs).relu()
        for block in self.blocks:
            hidden = hidden + block(hidden)
        return self.head(hidden)


def samples() -> tuple[str, list[tuple[torch.Tensor, torch.Tensor]]]:
    """Return the name of the data, and the first samples in batches."""
    try:
        name, data = "fashion_mnist", list(nc.load_data("fashion_mnist", batch_size=100))
    except (OSError, ValueError):
        name, data = "digits", list(nc.load_data("digits", batch_size=100))
    return name, data[: SAMPLES // 100]


def train(out: Path, batches: list[tuple[torch.Tensor, torch.Tensor]], weight_decay: float) -> Path:
    """Train with a recorder."""
    torch.manual_seed(0)
    net = OwnNetwork(batches[0][0].shape[1])
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9, weight_decay=weight_decay)
    with nc.Recorder(out, net, num_classes=10, epochs=EPOCHS, optimizer=optimizer, recipe={"seed": 0}) as recorder:
        recorder.epoch(0, batches)
        for epoch in range(1, EPOCHS + 1):
            for inputs, labels in batches:
                optimizer.zero_grad()
                loss = nn.functional.cross_entropy(net(inputs), labels)
                loss.backward()
                optimizer.step()
            recorder.epoch(epoch, batches, loss=loss.item())
        return recorder.path


def main() -> None:
    """Train twice, and write the page of both."""
    name, batches = samples()
    with tempfile.TemporaryDirectory() as folder:
        runs = [train(Path(folder) / f"decay{decay:g}", batches, decay) for decay in (0.0, 5e-3)]
        print(f"{sum(len(labels) for _, labels in batches)} samples of {name}; page: {write_report(runs).name}")
        for run in map(read_run, runs):
            tau, last = run.status.weight_decay_time, len(run.measured_layers) - 1
            print(f"{run.path.name}: τ = {tau:.3g}, PFC1 of the last layer {run.value('pfc1', last):.3g}")


if __name__ == "__main__":
    main()
