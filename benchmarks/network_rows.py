"""Rows of networks: ``measure`` on every layer, with every default metric, over the bare forward pass."""

from collections.abc import Callable
from functools import partial

import torch
from rivals import three_passes
from timing import Calls, Ratio, Row
from torch import Tensor, nn

from ncollapse.models import FCResNet, FCResNetConfig
from ncollapse.probe import measure

BARE = "bare forward"
NUM_CLASSES = 10


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
    """Three stages of two blocks, widths 32, 64 and 128, on 28×28 images."""

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


def fc(width: int, num_blocks: int, inputs: int) -> nn.Module:
    """Make the fully connected ResNet of the paper."""
    return FCResNet(FCResNetConfig(width=width, num_blocks=num_blocks, normalization="none"), inputs, NUM_CLASSES, seed=0)


def calls(make: Callable[[], nn.Module], shape: tuple[int, ...], batch: int, *, all_ways: bool = False) -> Calls:
    """Return the bare forward pass and the ways to measure."""
    torch.manual_seed(0)
    inputs, labels = torch.randn(shape), torch.arange(shape[0]) % NUM_CLASSES
    model = make().eval()
    batches = list(zip(inputs.split(batch), labels.split(batch), strict=True))

    def bare() -> None:
        with torch.no_grad():
            for x, _ in batches:
                model(x)

    def measuring(budget: int, path: bool = False) -> Callable[[], object]:
        return lambda: measure(model, batches, num_classes=NUM_CLASSES, memory_budget=budget, path=path)

    found: dict[str, Callable[[], object]] = {BARE: bare, "ours": measuring(2**30)}
    if all_ways:
        stages = model.collapse_stages
        found |= {
            "second pass": measuring(0),
            "with path": measuring(2**30, path=True),
            "three passes, as usual": lambda: three_passes(model, stages, batches, NUM_CLASSES),
        }
    return found


def _row(title: str, make: Callable[[], nn.Module], shape: tuple[int, ...], batch: int, wanted: float | None = None) -> Row:
    title = f"{title}, N = {shape[0]:,}, batches of {batch:,}"
    return Row(title, partial(calls, make, shape, batch), {BARE: Ratio("ours", BARE, wanted)})


def _all_ways() -> Row:
    ratios = {
        BARE: Ratio("ours", BARE, 1.12),
        "second pass": Ratio("second pass", BARE, 2.15),
        "with path over without": Ratio("with path", "ours", 1.2),
        "three passes, as usual": Ratio("three passes, as usual", BARE),
    }
    title = "FC ResNet, 11 layers of 1,000, N = 2,000, batches of 1,000"
    make = partial(calls, partial(fc, 1000, 10, 784), (2_000, 784), 1000, all_ways=True)
    return Row(title, make, ratios, ("ours", "second pass", "three passes, as usual"))


def _small_path() -> Row:
    ratios = {"with path over without": Ratio("with path", "ours", 1.2)}
    make = partial(calls, partial(fc, 64, 5, 64), (1_740, 64), 1_740, all_ways=True)
    return Row("FC ResNet, 6 layers of 64, N = 1,740, batches of 1,740", make, ratios)


_FC_1000 = _row("FC ResNet, 11 layers of 1,000", partial(fc, 1000, 10, 784), (2_000, 784), 1000)
_IMAGES = (1_000, 1, 28, 28)
ROWS = {
    "demo_network": _row("FC ResNet, 6 layers of 64", partial(fc, 64, 5, 64), (1_740, 64), 1_740, 2),
    "demo_network_path": _small_path(),
    "fc_128": _row("FC ResNet, 6 layers of 128", partial(fc, 128, 5, 784), (5_000, 784), 1000, 1.5),
    "layers_10": _row("FC ResNet, 10 layers of 64", partial(fc, 64, 9, 64), (2_000, 64), 1000),
    "layers_50": _row("FC ResNet, 50 layers of 64", partial(fc, 64, 49, 64), (2_000, 64), 1000),
    "layers_200": _row("FC ResNet, 200 layers of 64", partial(fc, 64, 199, 64), (2_000, 64), 1000, 3),
    "fc_1000": _all_ways(),
    "fc_1000_2_threads": _FC_1000._replace(threads=2),
    **{f"conv_{batch}": _row("convolutional ResNet", ConvResNet, _IMAGES, batch, 1.10) for batch in (64, 128, 250, 1000)},
    "transformer": _row("transformer of 6 layers", Encoder, (400, 64, 256), 100, 1.10),
    **{
        f"samples_{n}": _row("FC ResNet, 6 layers of 256", partial(fc, 256, 5, 784), (n, 784), 500)
        for n in (1000, 4000, 16_000)
    },
}
