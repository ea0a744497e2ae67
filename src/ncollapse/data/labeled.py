"""Labeled samples held as two tensors, and the parts and changes of them that studies take."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ncollapse.data.seeding import Stream, stream_generator


@dataclass(frozen=True, eq=False)
class LabeledData:
    """N samples of d numbers, each with a class in [0, num_classes).

    Attributes:
        inputs: (N, d), floating point (float32 from every loader here), all finite, or token ids, int64. N = 0 is allowed, so
            that a shard may be empty.
        labels: (N,), int64.
        num_classes: Number of classes K, 1 or more; classes without samples are allowed.
        name: What the samples are, for titles and error messages.
        image_shape: Channels, rows and columns that the d numbers of a sample are; None for what is no image.
        vocabulary: Number of token ids, 0 being padding; None for what is no text.

    Raises:
        ValueError: If shapes, types or devices do not fit together, an input is not finite, or a label lies
            outside [0, num_classes).
    """

    inputs: Tensor
    labels: Tensor
    num_classes: int
    name: str
    image_shape: tuple[int, int, int] | None = None
    vocabulary: int | None = None

    def __post_init__(self) -> None:
        self._check_form()
        self._check_values()

    def _check_form(self) -> None:
        inputs, labels = self.inputs, self.labels
        if self.vocabulary is not None:
            if inputs.ndim != 2 or inputs.dtype != torch.int64:
                raise ValueError(
                    f"token ids of '{self.name}' must be int64 of shape (N, T), got {inputs.dtype} of shape "
                    f"{tuple(inputs.shape)}. Pass ids.long(), or leave vocabulary out for what is no text."
                )
        elif inputs.ndim != 2 or not inputs.is_floating_point():
            raise ValueError(
                f"inputs of '{self.name}' must be floating point of shape (N, d), got {inputs.dtype} of shape "
                f"{tuple(inputs.shape)}. Flatten every sample: inputs.flatten(1).float()."
            )
        if labels.shape != inputs.shape[:1] or labels.dtype != torch.int64:
            raise ValueError(
                f"labels of '{self.name}' must be int64 of shape ({inputs.shape[0]},), one for each input, got "
                f"{labels.dtype} of shape {tuple(labels.shape)}. Pass class indices: labels.long()."
            )
        if labels.device != inputs.device:
            raise ValueError(
                f"inputs and labels of '{self.name}' must lie on one device, got {inputs.device} and "
                f"{labels.device}. Move both first, or build on the CPU and call .to(device)."
            )
        if self.image_shape is not None and math.prod(self.image_shape) != inputs.shape[1]:
            raise ValueError(
                f"images of shape {self.image_shape} need {math.prod(self.image_shape)} numbers per sample, '{self.name}' has "
                f"{inputs.shape[1]}. Pass (channels, rows, columns), or leave image_shape out."
            )
        if self.num_classes < 1:
            raise ValueError(
                f"num_classes of '{self.name}' must be 1 or more, got {self.num_classes}. Pass the number of classes."
            )

    def _check_values(self) -> None:
        # A sum is finite only if every term is: one cheap pass, and the slow search only when something is wrong
        # (or when a sum of finite numbers overflows, which the search then acquits).
        if not torch.isfinite(self.inputs.sum()):
            bad = ~torch.isfinite(self.inputs).all(dim=1)
            if bad.any():
                row = int(bad.nonzero()[0])
                raise ValueError(
                    f"inputs of '{self.name}' must be finite, got nan or inf in sample {row} "
                    f"({int(bad.sum())} such samples). Remove or repair them first."
                )
        if self.vocabulary is not None and ((self.inputs < 0) | (self.inputs >= self.vocabulary)).any():
            raise ValueError(
                f"token ids of '{self.name}' must be in [0, {self.vocabulary}), got {int(self.inputs.min())} to "
                f"{int(self.inputs.max())}. Raise vocabulary to the largest id + 1."
            )
        outside = (self.labels < 0) | (self.labels >= self.num_classes)
        if outside.any():
            position = int(outside.nonzero()[0])
            raise ValueError(
                f"labels of '{self.name}' must be in [0, {self.num_classes}), got {int(self.labels[position])} at "
                f"position {position}. Raise num_classes, or shift labels that start at 1."
            )

    @property
    def num_samples(self) -> int:
        """Number of samples N."""
        return self.inputs.shape[0]

    @property
    def input_dim(self) -> int:
        """Numbers in a sample, d."""
        return self.inputs.shape[1]

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """Shape of a sample as a network may want it: (channels, rows, columns) of an image, else (d,)."""
        return self.image_shape or (self.input_dim,)

    def subset(self, indices: Tensor | Sequence[int]) -> "LabeledData":
        """Return a copy of the samples at the given positions in [0, N), in that order, or of those that a mask selects."""
        chosen = indices if isinstance(indices, Tensor) else torch.tensor(list(indices), dtype=torch.int64)
        chosen = chosen.to(self.inputs.device)
        return replace(self, inputs=self.inputs[chosen], labels=self.labels[chosen])

    def per_class(self, n: int, generator_seed: int | None = None) -> "LabeledData":
        """Return n samples of every class, in their present order.

        Args:
            generator_seed: None takes the first n of each class; a seed takes n at random, without repetition.

        Raises:
            ValueError: If n is below 1, or a class has fewer than n samples.
        """
        counts = torch.bincount(self.labels, minlength=self.num_classes)
        scarcest = int(counts.argmin())
        if not 1 <= n <= int(counts[scarcest]):
            raise ValueError(
                f"per_class of '{self.name}' must be between 1 and {int(counts[scarcest])}, the size of its smallest "
                f"class ({scarcest}), got {n}. Ask for fewer, or leave it out to keep all samples."
            )
        order = torch.arange(self.num_samples)
        if generator_seed is not None:
            order = torch.randperm(self.num_samples, generator=stream_generator(generator_seed, Stream.SUBSET))
        order = order.to(self.labels.device)
        by_class = order[torch.argsort(self.labels[order], stable=True)]
        starts = counts.cumsum(0) - counts
        picked = by_class[(starts[:, None] + torch.arange(n, device=starts.device)).flatten()]
        return self.subset(picked.sort().values)

    def first_of_each(self, counts: Sequence[int]) -> "LabeledData":
        """Return the first ``counts[k]`` samples of every class k, in their present order.

        Raises:
            ValueError: If there is not a number for every class, or a class has fewer samples.
        """
        present = torch.bincount(self.labels, minlength=self.num_classes).tolist()
        if len(counts) != self.num_classes or any(n > there for n, there in zip(counts, present, strict=True)):
            raise ValueError(
                f"the counts of the {self.num_classes} classes of '{self.name}' must be at most {present}, got {list(counts)}. "
                "Ask for fewer."
            )
        return self.subset(self._places() < torch.tensor(counts, device=self.labels.device)[self.labels])

    def after_the_first(self, n: int) -> "LabeledData":
        """Return what ``per_class(n)`` leaves over, in its present order."""
        return self.subset(self._places() >= n)

    def _places(self) -> Tensor:
        """Return the place of every sample among those of its class, from 0."""
        order = torch.argsort(self.labels, stable=True)
        counts = torch.bincount(self.labels, minlength=self.num_classes)
        places = torch.empty_like(order)
        places[order] = torch.arange(len(order), device=order.device) - (counts.cumsum(0) - counts)[self.labels[order]]
        return places

    def largest_classes(self, n: int, counted: "LabeledData | None" = None) -> "LabeledData":
        """Return the samples of the n classes with the most samples, of equal ones the first; these become classes 0 to n - 1.

        Samples and classes keep their order.

        Args:
            counted: Where samples are counted: the training half, for a test half to keep its classes; None counts here.

        Raises:
            ValueError: If there are fewer classes.
        """
        if not 1 <= n <= self.num_classes:
            raise ValueError(
                f"largest_classes of '{self.name}' must be between 1 and {self.num_classes}, got {n}. Ask for fewer."
            )
        kept = (counted or self).classes_by_size()[:n].sort().values
        taken = torch.isin(self.labels, kept)
        return replace(self, inputs=self.inputs[taken], labels=torch.searchsorted(kept, self.labels[taken]), num_classes=n)

    def classes_by_size(self) -> Tensor:
        """Return the classes, those with the most samples first, of equal ones those of smaller index; shape (K,)."""
        return torch.bincount(self.labels, minlength=self.num_classes).argsort(descending=True, stable=True)

    def merge_classes(self, groups: Sequence[int]) -> "LabeledData":
        """Return the same samples with the group of their class as label; groups are numbered in order, without gaps.

        Args:
            groups: The group of each class, K integers.

        Raises:
            ValueError: If there is not one for every class.
        """
        if len(groups) != self.num_classes:
            raise ValueError(f"groups must be one for each of the {self.num_classes} classes, got {len(groups)}. Pass all.")
        numbers, index = torch.unique(torch.tensor(groups, device=self.labels.device), return_inverse=True)
        return replace(self, labels=index[self.labels], num_classes=len(numbers))

    def downscaled(self, side: int, gain: float = 1) -> "LabeledData":
        """Return images whose pixels are the means over squares of so many pixels a side, times a gain.

        Raises:
            ValueError: If these are no images, or the side does not divide theirs.
        """
        if self.image_shape is None or self.image_shape[1] % side or self.image_shape[2] % side:
            raise ValueError(
                f"data.downscale must divide the rows and columns of images, got {side} and samples of shape "
                f"{self.sample_shape} of '{self.name}'. Choose another number, or 1."
            )
        channels, rows, columns = self.image_shape
        means = torch.nn.functional.avg_pool2d(self.inputs.reshape(-1, channels, rows, columns), side) * gain
        return replace(self, inputs=means.flatten(1), image_shape=(channels, rows // side, columns // side))

    def shard(self, index: int, count: int) -> "LabeledData":
        """Return every ``count``-th sample, beginning at ``index``: an exact partition over processes.

        Every sample is in exactly one shard and none is repeated to even out the sizes, which differ by at most one.
        Striding keeps the mix of classes alike in all shards when the samples come sorted by class.

        Raises:
            ValueError: If the index is not in [0, count).
        """
        if not 0 <= index < count:
            raise ValueError(
                f"shard needs an index in [0, {count}), got {index}. Pass the process's rank and the number of "
                "processes, 1 or more."
            )
        return replace(self, inputs=self.inputs[index::count], labels=self.labels[index::count])

    def corrupt_labels(self, probability: float, seed: int) -> "LabeledData":
        """Return the same inputs with each label replaced, with a probability, by a class drawn uniformly from all K classes.

        The drawn class may be the true one, so a fraction ``probability * (1 - 1/K)`` of the labels changes on
        average, and ``probability=1`` makes labels and inputs independent. With one seed, the labels replaced at a
        smaller probability are among those replaced at a larger one.

        Raises:
            ValueError: If the probability is not in [0, 1].
        """
        if not 0 <= probability <= 1:
            raise ValueError(
                f"corrupt_labels needs a probability in [0, 1], got {probability}. Pass a fraction, not a percentage."
            )
        generator = stream_generator(seed, Stream.CORRUPTION)
        replaced = torch.rand(self.num_samples, generator=generator, dtype=torch.float64) < probability
        drawn = torch.randint(self.num_classes, (self.num_samples,), generator=generator)
        device = self.labels.device
        return replace(self, labels=torch.where(replaced.to(device), drawn.to(device), self.labels))

    def to(self, device: torch.device | str) -> "LabeledData":
        """Return the data on a device; it shares memory with this one if it lies there already."""
        return replace(self, inputs=self.inputs.to(device), labels=self.labels.to(device))
