"""Rows of features in memory: sizes, numbers of classes, threads, and streams of small batches."""

from collections.abc import Callable
from functools import partial

import torch
from rivals import as_published, by_numpy, by_torch, float32_products
from timing import Calls, Ratio, Row
from torch import Tensor

from ncollapse.probe import CollapseMetrics, measure_features

Data = tuple[Tensor, Tensor, tuple[Tensor, Tensor]]


def data(num_samples: int, dim: int, num_classes: int) -> Data:
    """Features around class means, every class with samples, and a classifier."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(num_samples) % num_classes
    means = torch.randn(num_classes, dim, generator=generator)
    features = torch.randn(num_samples, dim, generator=generator)
    for rows in torch.arange(num_samples).split(4096):
        features[rows] += means[labels[rows]]
    return features, labels, (means, torch.zeros(num_classes))


def ours(given: Data) -> Callable[[], object]:
    """All default metrics."""
    features, labels, head = given
    return lambda: measure_features(features, labels, num_classes=len(head[0]), classifier=head)


def in_memory(num_samples: int, dim: int, num_classes: int, *, published: bool = True) -> Calls:
    """All default metrics beside the rivals and the limit."""
    features, labels, head = given = data(num_samples, dim, num_classes)
    arrays = features.numpy(), labels.numpy()
    measure_features(features[:200, :8], labels[:200] % 4, num_classes=4)
    calls = {
        "limit: float32 products": lambda: float32_products(features, head[0]),
        "NumPy by hand": lambda: by_numpy(*arrays, num_classes),
        "torch by hand": lambda: by_torch(features, labels, num_classes),
        "as published": lambda: as_published(features, labels, num_classes),
        "ours": ours(given),
    }
    return calls if published else {name: call for name, call in calls.items() if name != "as published"}


def stream(batch: int) -> Calls:
    """Features in small batches through ``CollapseMetrics``, and the same in memory."""
    features, labels, head = given = data(20_000, 512, 10)
    batches = list(zip(features.split(batch), labels.split(batch), strict=True))

    def streamed() -> None:
        metrics = CollapseMetrics(num_classes=10)
        for x, y in batches:
            metrics.update(x, y)
        metrics.compute(classifier=head)

    return {"in memory": ours(given), "ours": streamed}


def vocabulary() -> Calls:
    """Measure a million tokens of a vocabulary of 50,000, alone: whole tables of class pairs would take 20 GB."""
    given = data(1_000_000, 512, 50_000)
    return {"ours": ours(given)}


def _row(num_samples: int, dim: int, num_classes: int, wanted: float | None = None, rival: str = "as published", **more) -> Row:
    title = f"{num_samples:,} × {dim:,} features, {num_classes:,} classes"
    calls = partial(in_memory, num_samples, dim, num_classes, published=rival == "as published")
    return Row(title, calls, {rival: Ratio("ours", rival, wanted)}, ("ours", rival), **more)


def _stream(batch: int, wanted: float | None = None) -> Row:
    ratios = {"in memory": Ratio("ours", "in memory", wanted)}
    return Row(f"20,000 × 512 features in batches of {batch}, 10 classes", partial(stream, batch), ratios)


ROWS = {
    "features_k1000": _row(10_000, 512, 1000, 0.25),
    "features_k3000": _row(10_000, 512, 3000, 0.25),
    "features_k100": _row(50_000, 512, 100, 0.20),
    "features_k10": _row(60_000, 512, 10, 0.11),
    "features_wide": _row(20_000, 8192, 10, rival="torch by hand"),
    "features_k100_2_threads": _row(50_000, 512, 100, threads=2),
    "classes_30": _row(10_000, 512, 30),
    "classes_300": _row(10_000, 512, 300),
    "classes_10000": _row(20_000, 512, 10_000, rival="torch by hand", rounds=3, slow=True),
    "vocabulary": Row("1,000,000 × 512 features, 50,000 classes", vocabulary, {}, ("ours",), rounds=1, slow=True),
    "stream_128": _stream(128, 1.2),
    "stream_32": _stream(32),
}
