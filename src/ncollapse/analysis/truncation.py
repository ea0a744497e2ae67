"""``truncate``: a network that ends at one of its layers, with a head there; its accuracy, size and time are measured."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Iterable
from copy import deepcopy
from typing import Any, get_args

import torch
from torch import Tensor, nn

from ncollapse.analysis.cut_network import HeadName, Truncated, Truncation, drop_unreached
from ncollapse.analysis.kept_layers import KeptLayers
from ncollapse.analysis.linear_probe import least_squares_probe
from ncollapse.analysis.network_features import FeatureReader, NetworkFeatures
from ncollapse.default_device import on_the_cpu
from ncollapse.hooks.batch_io import Call, Unpack, run_network, unpack_batch
from ncollapse.hooks.tap import INPUT, Tap
from ncollapse.hooks.untouched import device_of
from ncollapse.probe.layer_batch import NetworkBatch
from ncollapse.statistics.batch import check_labels
from ncollapse.statistics.centers import largest_logit
from ncollapse.statistics.cross_moments import CrossMoments


@on_the_cpu
def truncate(
    model: nn.Module,
    layer: str | Tap,
    batches: Iterable[Any],
    *,
    num_classes: int,
    head: HeadName = "linear",
    test: Iterable[Any] | None = None,
    ridge: float = 1e-3,
    unpack: Unpack = unpack_batch,
    call: Call | None = None,
    max_dim: int = 1024,
    repeats: int = 9,
) -> Truncated:
    """Cut a network at a layer and put a head there: the nearest class center, or a least-squares linear classifier.

    The result is a module that is called as the network is and returns K logits. It runs a copy of the network, and ends its
    forward by an exception in a hook at the layer: what comes before is computed exactly as before, for any control flow, and
    nothing after it is computed. Modules that are not reached are removed from the copy where its outputs stay the same to the
    bit, so that they take no memory. It can be trained on; it cannot be exported or compiled as one graph.

    Args:
        model: A classifier; it is left as it was.
        layer: A layer as ``diagnose`` names it, the name of a module, or a ``Tap``.
        batches: The training set that the head is fitted to, one label per sample; iterated over more than once.
        num_classes: Number of classes, K.
        head: "linear" or "ncc".
        test: Held-out data.
        ridge: Penalty of the linear head, in units of the mean variance of a feature.
        unpack: As in ``measure``.
        call: As in ``measure``.
        max_dim: As in ``diagnose``: a convolutional layer of more features is averaged over its positions.
        repeats: Forward passes that are timed, of each network in turn.

    Returns:
        The cut network, in eval mode; ``truncation`` is what was measured.

    Raises:
        ValueError: If there is no such layer or head, there is no data, or labels are out of range.

    Example:
        >>> net = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> data = [(torch.tensor([[2.0, 0.0], [3.0, 1.0], [0.0, 2.0], [1.0, 3.0]]), torch.tensor([0, 0, 1, 1]))]
        >>> cut = truncate(net, "1", data, num_classes=2, head="ncc")
        >>> cut(data[0][0]).shape
        torch.Size([4, 2])
    """
    if head not in get_args(HeadName):
        raise ValueError(f"head must be one of {', '.join(get_args(HeadName))}, got {head!r}. Pick one of these.")
    choice = layer if isinstance(layer, Tap) or _is_place(model, layer) else "auto"
    label = layer.label if isinstance(layer, Tap) else layer
    reader = FeatureReader(model, num_classes, choice, unpack=unpack, call=call, most=max_dim)
    # Before the reader's hooks are there, which a copy would keep.
    body, whole_network = (deepcopy(reader.model).eval() for _ in range(2))
    with reader:
        given = [data for data in (batches, test) if data is not None]
        splits = [reader.read(data, KeptLayers(0, [label])) for data in given]
        train = splits[0]
        check_labels(train.labels, len(train.labels), num_classes)
        tap = _tap(reader, label)
        origin, linear = _head(train.layers[label], train.labels, num_classes, head, ridge)
        cut = Truncated(body, tap, reader.plan, origin, linear).to(device_of(reader.model)).eval()
        found = [_accuracy(cut, reader.batches(data)) for data in given]
        drop_unreached(cut, lambda: (batch.inputs for data in given for batch in reader.batches(data)))
        first = next(iter(reader.batches(batches))).inputs
        seconds, network_seconds = _seconds(cut, whole_network, first, repeats)
    whole = [_network_accuracy(split) for split in splits]
    counts = _count(cut), _count(reader.model)
    cut.truncation = Truncation(
        label, head, found[0], _second(found), whole[0], _second(whole), *counts, seconds, network_seconds
    )
    return cut


def _tap(reader: FeatureReader, label: str) -> Tap:
    if reader.per_token:
        raise ValueError(
            "truncate needs one label per sample, shape (N,), got labels of tokens, (N, T). The cut network returns one row "
            "per sample."
        )
    found = next((tap for tap in reader.plan.all_taps if tap.label == label), None)
    if found is None:
        known = ", ".join(tap.label for tap in reader.plan.all_taps)
        raise ValueError(f"layer must be one of {known}, got {label!r}. Pass a layer, or a module's name.")
    return found


def _second(values: list[float]) -> float:
    return values[1] if len(values) > 1 else math.nan


def _is_place(model: nn.Module, name: str) -> bool:
    """Return whether a name is that of a module, or of its input, and not of a layer that is pooled."""
    names = dict(model.named_modules(remove_duplicate=False))
    return name in names or name.removesuffix(INPUT) in names


def _head(features: Tensor, labels: Tensor, num_classes: int, kind: HeadName, ridge: float) -> tuple[Tensor, nn.Linear]:
    """Return the origin of the features, and a linear layer of what is left: centered, they keep their digits in float32."""
    moments = CrossMoments.from_labels(features, labels, num_classes)
    if kind == "linear":
        probe = least_squares_probe(moments, ridge=ridge)
        weight, bias = probe.weight, probe.bias + probe.weight @ moments.mean_x
    else:
        # -|h-μ|² up to what all classes have in common. A class without samples is never nearest.
        counts = moments.count * moments.mean_y
        means = moments.xy.T / counts.clamp(min=1).unsqueeze(1)
        weight = 2 * means
        bias = torch.where(counts > 0, -means.square().sum(dim=1), torch.finfo(features.dtype).min)
    linear = nn.Linear(weight.shape[1], num_classes, dtype=features.dtype)
    with torch.no_grad():
        linear.weight.copy_(weight)
        linear.bias.copy_(bias)
    return moments.mean_x.to(features.dtype), linear


def _accuracy(network: nn.Module, batches: Iterable[NetworkBatch]) -> float:
    correct = count = 0
    with torch.no_grad():
        for batch in batches:
            chosen = largest_logit(run_network(network, batch.inputs)).cpu()
            correct += int((chosen == batch.labels.cpu()).sum())
            count += len(batch.labels)
    return correct / count


def _network_accuracy(found: NetworkFeatures) -> float:
    return math.nan if found.logits is None else float((largest_logit(found.logits) == found.labels).double().mean())


def _count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def _seconds(cut: nn.Module, network: nn.Module, inputs: Any, repeats: int) -> tuple[float, float]:
    """Return the median times of one forward pass, of the two networks in turn, so that both see the same machine."""
    networks = cut, network
    times: list[list[float]] = [[], []]
    with torch.no_grad():
        # The first pass allocates memory.
        for _ in range(repeats + 1):
            for place, each in enumerate(networks):
                start = time.perf_counter()
                run_network(each, inputs)
                if torch.cuda.is_available():
                    torch.cuda.synchronize()
                times[place].append(time.perf_counter() - start)
    return statistics.median(times[0][1:]), statistics.median(times[1][1:])
