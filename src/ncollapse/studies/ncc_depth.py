"""Minimal NCC depth: how many blocks a network needs to separate a training set by nearest class centers.

After Galanti, György & Hutter (2022), "On the implicit bias towards minimal depth of deep neural networks".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from ncollapse.data.batches import Batches
from ncollapse.data.labeled import LabeledData
from ncollapse.data.seeding import Stream, stream_generator
from ncollapse.measurement.measurement import Measurement
from ncollapse.models.fc_resnet import FCResNet
from ncollapse.probe.measure import measure
from ncollapse.recipes import FCResNetConfig, TrainConfig
from ncollapse.records.depth import EPSILON, EffectiveDepth
from ncollapse.train.loop import train


@dataclass(frozen=True)
class MinimalDepth:
    """The smallest depth at which some trained network separates its training set by nearest centers.

    Attributes:
        depth: Number of blocks; None if no network of the grid reaches ε.
        errors: Nearest-center error of the last layer by number of blocks, the smallest over the seeds.
        epsilon: ε.
    """

    depth: int | None
    errors: dict[int, float]
    epsilon: float


@dataclass(frozen=True)
class DepthComparison:
    """Effective depths of trained networks against the depths that partly random labels need; a diagnostic, not a bound.

    Attributes:
        trained: ε-effective depth of the deepest network trained on the first half, one per draw.
        minimal: Minimal depth for both halves, the second one's labels corrupted, one per draw.
        corruption: p.
    """

    trained: tuple[EffectiveDepth, ...]
    minimal: tuple[MinimalDepth, ...]
    corruption: float

    @property
    def frequency(self) -> float:
        """Share of draws in which the trained network is at least as deep as the corrupted labels need.

        A small share is what the generalization bound asks for. A minimal depth beyond the grid counts as larger; an
        effective depth that was not reached counts as the last layer.
        """
        pairs = zip(self.trained, self.minimal, strict=True)
        return sum(m.depth is not None and t.depth >= m.depth for t, m in pairs) / len(self.trained)


def minimal_ncc_depth(
    data: LabeledData,
    depths: Sequence[int],
    *,
    model: FCResNetConfig,
    training: TrainConfig,
    epsilon: float = EPSILON,
    seeds: Sequence[int] = (0,),
) -> MinimalDepth:
    r"""Return the smallest depth of a grid at which some trained network has a nearest-center error of at most ε.

    :math:`d_{min}^\epsilon(S) = \min \{L : \mathrm{err}_L(f_{L, seed}) \le \epsilon \text{ for some seed}\}`, the error being
    that of the last block's features on the training set. An upper estimate: training may miss networks that exist.

    Args:
        data: The training set.
        depths: Numbers of blocks to try.
        model: The network; its number of blocks is replaced.
        training: How each is trained.
        epsilon: ε >= 0.
        seeds: Seeds of initial weights and sample order; the best one counts.

    Raises:
        ValueError: If the grid is empty, ε negative, or training fails.
    """
    if not depths or not seeds or epsilon < 0:
        raise ValueError(
            f"minimal_ncc_depth needs depths, seeds and epsilon >= 0, got {len(depths)} depths, {len(seeds)} seeds and "
            f"epsilon={epsilon}. Pass depths=[1, 2, 3]."
        )
    errors = {
        depth: min(_trained(data, depth, model, training, seed).value("pfc3_error") for seed in seeds)
        for depth in sorted(set(depths))
    }
    found = [depth for depth, error in errors.items() if error <= epsilon]
    return MinimalDepth(found[0] if found else None, errors, epsilon)


def compare_ncc_depths(
    data: LabeledData,
    depths: Sequence[int],
    *,
    model: FCResNetConfig,
    training: TrainConfig,
    corruption: float,
    epsilon: float = EPSILON,
    draws: int = 5,
    seeds: Sequence[int] = (0,),
) -> DepthComparison:
    r"""Return effective depths of networks trained on clean labels beside the minimal depths for partly random ones.

    In every draw the data is split at random into halves S_1 and S_2, and each label of S_2 is replaced with probability p by a
    class drawn uniformly. The deepest network of the grid is trained on S_1 and gives :math:`d_\epsilon(S_1)`; the whole grid
    trained on :math:`S_1 \cup \tilde S_2` gives :math:`d_{min}^\epsilon`. Trains draws · (1 + depths · seeds) networks.

    Args:
        data: All samples, every class in both halves of every draw.
        corruption: p in [0, 1].
        draws: Random splits and corruptions.

    Raises:
        ValueError: If there is no draw, or as ``minimal_ncc_depth``, which explains the other arguments.
    """
    if draws < 1:
        raise ValueError(f"compare_ncc_depths needs at least one draw, got {draws}. Pass draws=5.")
    trained, minimal = [], []
    for draw in range(draws):
        mixed = _half_corrupted(data, corruption, draw)
        minimal.append(minimal_ncc_depth(mixed, depths, model=model, training=training, epsilon=epsilon, seeds=seeds))
        clean = mixed.subset(range(data.num_samples // 2))
        trained.append(_trained(clean, max(depths), model, training, draw).effective_depth(epsilon))
    return DepthComparison(tuple(trained), tuple(minimal), corruption)


def _half_corrupted(data: LabeledData, corruption: float, seed: int) -> LabeledData:
    """Shuffle the samples, and corrupt the labels of the second half."""
    order = torch.randperm(data.num_samples, generator=stream_generator(seed, Stream.SUBSET))
    half = data.num_samples // 2
    second = data.subset(order[half:]).corrupt_labels(corruption, seed)
    mixed = data.subset(order)
    return replace(mixed, labels=torch.cat([mixed.labels[:half], second.labels]))


def _trained(data: LabeledData, depth: int, model: FCResNetConfig, training: TrainConfig, seed: int) -> Measurement:
    """Train a network and return its nearest-center errors on its own training set."""
    network = FCResNet(replace(model, num_blocks=depth), data.input_dim, data.num_classes, seed).to(data.inputs.device)
    for _ in train(network, data, training, seed=seed):
        pass
    batches = Batches(data, training.batch_size)
    return measure(network, batches, num_classes=data.num_classes, metrics=["pfc3_error"])
