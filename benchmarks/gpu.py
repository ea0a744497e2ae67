"""Correctness and cost on a GPU, in one JSON: limits, ours, ratios, goals, device, torch and commit.

    python benchmarks/gpu.py [--checks NAME ...] [--out FILE]      # under 8 minutes on one GPU
    python benchmarks/gpu.py --device cpu --small                  # the same checks on small shapes, half a minute of CPU time

It was not run on a GPU yet: the goals are set, the figures are missing. PyTorch's profiler counts how often the host waits for
the device. On a CPU, where it never does, the operations that would wait are counted instead. Data that are not at hand are
drawn.
"""

import argparse
import json
import math
import statistics
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from bench import commit
from feature_rows import data as class_features
from network_rows import fc
from torch import Tensor, nn

from ncollapse.data import DataNotFoundError, LabeledData, load_samples
from ncollapse.measurement.measurement import Measurement
from ncollapse.models import build_model
from ncollapse.probe import measure, measure_features
from ncollapse.recipes import RECIPES, ConvResNetConfig, FCResNetConfig
from ncollapse.train import train

NUM_CLASSES = 10
# Values of the CPU below this size are compared by differences of this unit.
_SMALLEST = 1e-3
# What waits for the device: calls of CUDA, and on a CPU the operations that make them.
_WAITS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize")
_WOULD_WAIT = ("aten::_local_scalar_dense", "aten::nonzero")


class Setting(NamedTuple):
    """Where the checks run, and whether on small shapes."""

    device: torch.device
    small: bool

    def pick(self, full: Any, small: Any) -> Any:
        """Choose a size."""
        return small if self.small else full

    def wait(self) -> None:
        """Wait until the device has done its work."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()


class BasicBlock(nn.Module):
    """Two 3×3 convolutions with batch normalization, and a skip, as in ResNet-18."""

    def __init__(self, before: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(before, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width)
        shorten = nn.Sequential(nn.Conv2d(before, width, 1, stride, bias=False), nn.BatchNorm2d(width))
        self.downsample = nn.Identity() if stride == 1 and before == width else shorten

    def forward(self, x: Tensor) -> Tensor:
        """Run the block."""
        inner = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        return torch.relu(inner + self.downsample(x))


def resnet18() -> nn.Module:
    """Make ResNet-18 from torchvision, or here if that is not installed."""
    try:
        from torchvision.models import resnet18 as published
    except ImportError:
        stem = [nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
        widths = ((64, 64, 1), (64, 128, 2), (128, 256, 2), (256, 512, 2))
        blocks = [block for w in widths for block in (BasicBlock(*w), BasicBlock(w[1], w[1], 1))]
        return nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, NUM_CLASSES))
    return published(num_classes=NUM_CLASSES)


def found(title: str, limit: float, ours: float, ratio: float, goal: str, **more: Any) -> dict[str, Any]:
    """Return a line of the JSON; a goal is "<= 1.15", ">= 3" or empty."""
    sign, _, bound = goal.partition(" ")
    reached = {"<=": lambda: ratio <= float(bound), ">=": lambda: ratio >= float(bound), "": lambda: None}[sign]()
    return {"title": title, "limit": limit, "ours": ours, "ratio": ratio, "goal": goal, "reached": reached, **more}


def seconds(setting: Setting, calls: dict[str, Callable[[], object]], rounds: int = 5) -> dict[str, float]:
    """Return the median wall time of each call, in interleaved rounds after one that is not counted."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for index in range(rounds + 1):
        for name, call in calls.items():
            setting.wait()
            start = time.perf_counter()
            call()
            setting.wait()
            if index:
                times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def _differences(there: Measurement, here: Measurement) -> Iterator[tuple[float, str]]:
    for row, own in zip(there.rows, here.rows, strict=True):
        equal = row.value == own.value or (math.isnan(row.value) and math.isnan(own.value))
        apart = 0.0 if equal else abs(row.value - own.value) / max(abs(own.value), _SMALLEST)
        name = f"{own.metric} at {own.layer}"
        # A value on one side alone, or other flags, are as wrong as can be.
        yield (math.inf if math.isnan(apart) or row.flags != own.flags else apart), name


def correctness(setting: Setting) -> Iterator[dict[str, Any]]:
    """Compare all default metrics with those of the CPU: of features, and of a float64 network."""
    for num_samples, dim, num_classes in setting.pick(((20_000, 512, 10), (20_000, 512, 1000)), ((200, 8, 5), (200, 8, 40))):
        features, labels, head = class_features(num_samples, dim, num_classes)
        here = measure_features(features, labels, num_classes=num_classes, classifier=head)
        moved = tuple(part.to(setting.device) for part in head)
        there = measure_features(
            features.to(setting.device), labels.to(setting.device), num_classes=num_classes, classifier=moved
        )
        worst, name = max(_differences(there, here))
        title = f"largest relative difference from the CPU, {num_samples:,} × {dim} float32 features, {num_classes} classes"
        yield found(title, 0.0, worst, worst, "<= 1e-9", metric=name)
    model = fc(setting.pick(256, 16), 5, 64).double().eval()
    inputs, labels = torch.randn(2_000, 64, dtype=torch.float64), torch.arange(2_000) % NUM_CLASSES
    here = measure(model, [(inputs, labels)], num_classes=NUM_CLASSES, path=True)
    there = measure(model.to(setting.device), [(inputs, labels)], num_classes=NUM_CLASSES, path=True)
    worst, name = max(_differences(there, here))
    yield found("largest relative difference from the CPU, a float64 network", 0.0, worst, worst, "<= 1e-7", metric=name)


def _over_forward(
    setting: Setting, title: str, model: nn.Module, batches: list[tuple[Tensor, Tensor]], goal: str
) -> dict[str, Any]:
    def bare() -> None:
        with torch.no_grad():
            for inputs, _ in batches:
                model(inputs)

    measured: list[Measurement] = []

    def ours() -> None:
        measured[:] = [measure(model, batches, num_classes=NUM_CLASSES)]

    times = seconds(setting, {"bare": bare, "ours": ours})
    layers, passes = len(dict.fromkeys(row.layer for row in measured[0].rows)), measured[0].passes
    ratio = times["ours"] / times["bare"]
    return found(
        f"measure over the bare forward pass, {title}", times["bare"], times["ours"], ratio, goal, layers=layers, passes=passes
    )


def cost(setting: Setting) -> Iterator[dict[str, Any]]:
    """Measure the cost: ResNet-18 in bfloat16 and channels-last, the paper's FC network, and many classes."""
    batch, side, count = setting.pick((512, 224, 8), (20, 32, 2))
    kind = torch.bfloat16 if setting.device.type == "cuda" else torch.float32
    model = resnet18().to(setting.device, kind).to(memory_format=torch.channels_last).eval()
    images = torch.randn(batch, 3, side, side).to(setting.device, kind).contiguous(memory_format=torch.channels_last)
    labels = torch.arange(batch, device=setting.device) % NUM_CLASSES
    name = f"ResNet-18, batch {batch}, {side}×{side}, channels-last {str(kind).removeprefix('torch.')}"
    yield _over_forward(setting, name, model, [(images, labels)] * count, "<= 1.15")
    width, num_samples = setting.pick((1000, 60_000), (32, 1000))
    inputs = torch.randn(num_samples, 784, device=setting.device)
    labels = torch.arange(num_samples, device=setting.device) % NUM_CLASSES
    batches = list(zip(inputs.split(1000), labels.split(1000), strict=True))
    model = fc(width, 10, 784).to(setting.device).eval()
    yield _over_forward(setting, f"FC ResNet of 10 blocks of {width:,}, N = {num_samples:,}", model, batches, "")
    yield _many_classes(setting)


def _many_classes(setting: Setting) -> dict[str, Any]:
    num_samples, dim, num_classes = setting.pick((50_000, 512, 1000), (400, 16, 40))
    features, labels, head = (
        tuple(x.to(setting.device) for x in part) if isinstance(part, tuple) else part.to(setting.device)
        for part in class_features(num_samples, dim, num_classes)
    )
    calls = {
        "limit": lambda: features @ head[0].T,
        "ours": lambda: measure_features(features, labels, num_classes=num_classes, classifier=head),
    }
    times = seconds(setting, calls)
    title = f"all default metrics over one float32 product, {num_samples:,} × {dim} features, {num_classes:,} classes"
    return found(title, times["limit"], times["ours"], times["ours"] / times["limit"], "")


def _waits(setting: Setting, num_blocks: int, num_batches: int) -> tuple[int, Counter[str]]:
    """Count what waits for the device during a measurement, and from where."""
    model = fc(setting.pick(1000, 300), num_blocks, 64).to(setting.device).eval()
    inputs = torch.randn(200, 64, device=setting.device)
    batches = [(inputs, torch.arange(200, device=setting.device) % NUM_CLASSES)] * num_batches
    cuda = setting.device.type == "cuda"
    activities = [torch.profiler.ProfilerActivity.CUDA] if cuda else []
    measure(model, batches, num_classes=NUM_CLASSES)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU, *activities]) as profile:
        measure(model, batches, num_classes=NUM_CLASSES)
    places: Counter[str] = Counter()
    if cuda:
        torch.cuda.set_sync_debug_mode("warn")
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            measure(model, batches, num_classes=NUM_CLASSES)
        torch.cuda.set_sync_debug_mode("default")
        places.update(f"{Path(item.filename).name}:{item.lineno}" for item in said if "synchroniz" in str(item.message))
    names = _WAITS if cuda else _WOULD_WAIT
    return sum(event.count for event in profile.key_averages() if event.key in names), places


def waiting(setting: Setting) -> Iterator[dict[str, Any]]:
    """Count how often the host waits in each layer and batch, from networks of two depths and two numbers of batches."""
    blocks, counts = (4, 8), (2, 6)
    shallow, deep = (tuple(_waits(setting, depth, count) for count in counts) for depth in blocks)
    more_layers, more_batches = blocks[1] - blocks[0], counts[1] - counts[0]
    growth = [second[0] - first[0] for first, second in zip(shallow, deep, strict=True)]
    each = (growth[1] - growth[0]) / (more_layers * more_batches)
    total, places = deep[1]
    often = [f"{place}: {count}" for place, count in places.most_common(8)]
    yield found(
        "how often the host waits for the device, for each layer and batch", 0.0, each, each, "<= 0", whole=total, places=often
    )
    once = growth[0] / more_layers - each * counts[0]
    yield found("how often the host waits, for each layer once in a measurement", 0.0, once, once, "")


def _drawn_or_loaded(name: str, shape: tuple[int, ...], num_samples: int) -> LabeledData:
    try:
        data = load_samples(RECIPES[name]().data)
        return replace(data, inputs=data.inputs[:num_samples], labels=data.labels[:num_samples])
    except DataNotFoundError:
        inputs = torch.randn(num_samples, math.prod(shape), generator=torch.Generator().manual_seed(0))
        image = shape if len(shape) == 3 else None
        return LabeledData(inputs, torch.arange(num_samples) % NUM_CLASSES, NUM_CLASSES, "drawn", image)


def training(setting: Setting) -> Iterator[dict[str, Any]]:
    """Time epochs with ``train.compiled`` beside eager ones; the first epoch, which compiles, is not counted."""
    rows = (
        ("fc_mnist", FCResNetConfig(width=8, num_blocks=1, normalization="none"), setting.pick(60_000, 256), ">= 3"),
        ("conv_fashion_mnist", ConvResNetConfig(channels=(4,), blocks=(1,)), setting.pick(12_800, 256), ">= 1.5"),
    )
    for name, small_model, num_samples, goal in rows:
        data = _drawn_or_loaded(name, (1, 28, 28), num_samples)
        data = replace(data, inputs=data.inputs.to(setting.device), labels=data.labels.to(setting.device))
        times = {}
        for compiled in (False, True):
            config = replace(RECIPES[name]().train, epochs=4, compiled=compiled)
            torch.manual_seed(0)
            model = build_model(setting.pick(RECIPES[name]().model, small_model), (1, 28, 28), NUM_CLASSES, 0).to(
                setting.device
            )
            epochs, spent = train(model, data, config, seed=0), []
            for _ in range(config.epochs):
                setting.wait()
                start = time.perf_counter()
                next(epochs)
                setting.wait()
                spent.append(time.perf_counter() - start)
            times[compiled] = statistics.median(spent[1:])
        title = f"eager over compiled training, seconds of an epoch, {name}, {data.num_samples:,} samples ({data.name})"
        yield found(title, times[False], times[True], times[False] / times[True], goal)


CHECKS = {check.__name__: check for check in (correctness, cost, waiting, training)}


def report(setting: Setting, names: list[str]) -> dict[str, Any]:
    """Run the checks."""
    start = time.perf_counter()
    checks = {name: list(CHECKS[name](setting)) for name in names}
    device = torch.cuda.get_device_name(setting.device) if setting.device.type == "cuda" else "cpu"
    tf32 = {"matmul": torch.backends.cuda.matmul.allow_tf32, "cudnn": torch.backends.cudnn.allow_tf32}
    about = {"device": device, "small": setting.small, "torch": torch.__version__, "commit": commit(), "tf32": tf32}
    return {**about, "seconds": round(time.perf_counter() - start, 1), "checks": checks}


def main() -> None:
    """Run the checks and print one JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--small", action="store_true", help="small shapes, for a CPU")
    parser.add_argument("--checks", nargs="+", metavar="NAME", choices=list(CHECKS), default=list(CHECKS))
    parser.add_argument("--out", type=Path, help="a file for the JSON too")
    options = parser.parse_args()
    text = json.dumps(
        report(Setting(torch.device(options.device), options.small), options.checks), indent=1, ensure_ascii=False
    )
    print(text)
    if options.out:
        options.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
