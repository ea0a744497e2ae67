"""What a measurement streams, what it is to collect, and what it has collected."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from ncollapse.depth.class_arcs import ClassArcs
from ncollapse.depth.geodesic import LineDecisions
from ncollapse.depth.path import PathStatistics
from ncollapse.statistics.batch import check_labels
from ncollapse.statistics.centers import ClassCenters
from ncollapse.statistics.decisions import ClassDecisions
from ncollapse.statistics.moments import ClassMoments
from ncollapse.statistics.paired import PairedMoments
from ncollapse.statistics.scatter import ClassScatter


class LayerBatch(NamedTuple):
    """Features of all layers for one batch.

    Attributes:
        features: Flat features (N, d) by layer name, in order of depth.
        labels: Class indices, shape (N,).
        own_input: The layer that is nothing but what the classifier takes, if there is one.
    """

    features: dict[str, Tensor]
    labels: Tensor
    own_input: str | None = None


@dataclass(frozen=True)
class CollectOptions:
    """What to collect.

    Attributes:
        num_classes: K.
        memory_budget: Bytes that kept features may take.
        centers: Whether decisions around the final class means are wanted.
        scatter: Whether full d×d scatter matrices are wanted.
        path: Whether the paths from the first layer to the last are wanted.
        where: Words that place an error, such as " at epoch 3".
        one_pass: Whether what needs the final class means is left out, instead of an error, where the features were not kept
            and there is no second pass.
    """

    num_classes: int
    memory_budget: int
    centers: bool = True
    scatter: bool = False
    path: bool = False
    where: str = ""
    one_pass: bool = False


@dataclass
class Collected:
    """What one measurement has collected.

    Attributes:
        moments: Class moments by layer.
        scatters: Scatter matrices by layer, when asked for.
        centers: Prepared class means by layer; a layer with an empty class or coinciding means has none.
        within: Sums around each layer's own class means.
        decisions: Decisions by the training set's class means; the same objects as ``within`` on the training set.
        by_reference: Moments of the training set at the layers that it decided.
        paired: Joint moments of the first and last layer, when paths are wanted.
        path: Path statistics, when wanted.
        line: Decisions on the straight line, when wanted.
        arcs: Arcs of the graph on classes, for optimality of the map onto the last class means, when paths are wanted.
        passes: Forward passes over the data: 1 with kept features, 2 without.
        kept_bytes: Size of the kept features, those of all processes together; 0 after a second pass.
    """

    moments: dict[str, ClassMoments] = field(default_factory=dict)
    scatters: dict[str, ClassScatter] = field(default_factory=dict)
    centers: dict[str, ClassCenters] = field(default_factory=dict)
    within: dict[str, ClassDecisions] = field(default_factory=dict)
    decisions: dict[str, ClassDecisions] = field(default_factory=dict)
    by_reference: dict[str, ClassMoments] = field(default_factory=dict)
    paired: PairedMoments | None = None
    path: PathStatistics | None = None
    line: LineDecisions | None = None
    arcs: ClassArcs | None = None
    passes: int = 1
    kept_bytes: int = 0


def checked_batch(batch: LayerBatch, options: CollectOptions, index: int) -> LayerBatch:
    """Check the labels once for all layers, and bring them to the features.

    Args:
        batch: Features and labels.
        options: K, and words that place an error.
        index: Of the batch.

    Returns:
        The batch, on the device where its statistics are taken.

    Raises:
        ValueError: If labels are out of range or not as many as rows.
    """
    first = next(iter(batch.features.values()))
    try:
        labels = check_labels(batch.labels, len(batch.labels), options.num_classes)
    except (TypeError, ValueError) as error:
        raise type(error)(f"Batch {index}{options.where}: {error}") from error
    for name, features in batch.features.items():
        if features.shape[0] != len(labels):
            raise ValueError(
                f"Layer {name!r} has {features.shape[0]} rows for {len(labels)} labels in batch {index}{options.where}. "
                "Tap a layer with one row a sample, the sample's dimension first."
            )
    # No float64 on Apple's GPUs: statistics are taken on the CPU there.
    device = torch.device("cpu") if first.device.type == "mps" else first.device
    moved = {name: features.to(device) for name, features in batch.features.items()}
    return batch._replace(features=moved, labels=labels.to(device))


def check_layers(batch: LayerBatch, known: Mapping[str, ClassMoments], when: str) -> None:
    """Check that the layers are those of before.

    Args:
        batch: Features of all layers.
        known: The layers of before.
        when: Words that place an error.

    Raises:
        ValueError: If one is missing or new.
    """
    differing = sorted(batch.features.keys() ^ known.keys())
    if differing:
        name = differing[0]
        words = "ran" if name in batch.features else "did not run"
        raise ValueError(f"Layer {name!r} {words} {when}, unlike before. Name layers that always run.")


def path_layers(dims: Mapping[str, int], own_input: str | None) -> tuple[str, ...]:
    """The layers that paths run through: all, but for a classifier's own input of another dimension, as behind pooling.

    Args:
        dims: Dimension by layer, in order of depth.
        own_input: The layer that is nothing but what the classifier takes, if there is one.

    Returns:
        Their names, in order of depth.
    """
    first = next(iter(dims.values()))
    return tuple(name for name, dim in dims.items() if name != own_input or dim == first)


def along_path(batch: LayerBatch) -> dict[str, Tensor]:
    """Features of the layers that paths run through.

    Args:
        batch: Features of all layers.

    Returns:
        Those of one dimension, in order of depth.

    Raises:
        ValueError: If there are fewer than two, or their dimensions differ.
    """
    dims = {name: features.shape[1] for name, features in batch.features.items()}
    names = path_layers(dims, batch.own_input)
    if len(names) < 2 or len({dims[name] for name in names}) != 1:
        raise ValueError(f"path=True needs at least two layers of one dimension, got {dims}. Choose layers of one stage.")
    return {name: batch.features[name] for name in names}
