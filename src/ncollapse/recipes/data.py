"""The part of a recipe that says which samples a run uses."""

import math
from dataclasses import dataclass, replace
from typing import Literal

from ncollapse.recipes.checks import LARGEST_SEED, check_choices, check_most

DataName = Literal[
    "digits",
    "fashion_mnist",
    "mnist",
    "cifar10",
    "cifar100",
    "stl10",
    "gaussian_mixture",
    "geo_mnist",
    "mnist_1d",
    "wordnet",
    "imdb",
    "texts",
    "images",
]
Split = Literal["train", "test"]
_PARITY = tuple(k % 2 for k in range(10))
# Fashion-MNIST in pairs of like classes, so that coarse classes are equally large: T-shirt and shirt, trousers and dress,
# pullover and coat, sandal and bag, sneaker and boot. WordNet by part of speech: noun, verb, adjective, adverb.
COARSE: dict[str, tuple[int, ...]] = {
    "digits": _PARITY,
    "mnist": _PARITY,
    "fashion_mnist": (0, 1, 2, 1, 2, 3, 0, 4, 3, 4),
    "wordnet": (2, 2, 3, *[0] * 26, *[1] * 15, 2),
}
"""The coarse class of every class, of the data sets that have ``labels="coarse"``."""
Scaling = Literal["norm64", "standard", "none"]
"""``standard``: global mean 0 and standard deviation 1, so E|x|^2 is about d. ``norm64``: the same, then multiplied by
sqrt(64/d), so E|x|^2 is about 64 whatever the size of the image. ``none``: pixels in [0, 1]."""


@dataclass(frozen=True)
class DataConfig:
    """Which samples a run uses.

    Attributes:
        name: ``digits`` ships with scikit-learn, ``fashion_mnist``, ``mnist``, ``cifar10``, ``cifar100`` and ``stl10`` are
            files, ``gaussian_mixture`` is drawn: 4 classes in 20 dimensions; ``geo_mnist`` is drawn too: three shapes in
            32×32 images; ``mnist_1d`` is 4,000 signals of length 40 in 10 classes. ``wordnet`` and ``imdb`` are texts.
            ``texts`` are your own, in ``train.csv``, ``.tsv`` or ``.jsonl`` below ``root`` (and ``test.*``), with ``text`` and
            ``label``. ``images`` are your own, PNG, JPEG or BMP of one size in ``train/CLASS/`` and ``test/CLASS/`` below
            ``root``.
        split: ``train`` or ``test``. scikit-learn ships one part of the digits: what ``per_class`` leaves over is their test
            part.
        per_class: Samples per class: the first of each class, or for the mixture how many to draw. None takes all
            (of the mixture 100, of geo_mnist 480).
        corrupt: Probability in [0, 1] that a label is replaced by a class drawn uniformly (maybe the same), in
            whichever split is loaded.
        scaling: How pixels are scaled. ``norm64`` is right for width 64 to 256 at learning rates of 0.05 to 0.1, ``standard``
            is the papers' standardization. Data that is drawn keeps its own units.
        root: The folder that is searched first and downloaded to. ``ncollapse doctor`` lists the other places.
        download: Whether to fetch image files that are in no known place.
        seed: The seed of the mixture and of the corruption, 0 or more.
        largest_classes: How many classes to keep, those with the most training samples, 2 or more; None keeps all.
        vocabulary: For texts: how many words have ids of their own, the most frequent ones of the training part, 1 or more.
        length: For texts: how many words of each are kept, 1 or more.
        imbalance: R, 1 or more: the largest class has R times as many training samples as the smallest one. The first samples
            of each class are kept. A test split keeps its sizes.
        labels: ``fine`` are the classes of the data set, ``coarse`` groups of them, for transfer between the two: odd and even
            digits, five pairs of like classes of Fashion-MNIST, WordNet's parts of speech. All other fields mean the fine
            classes, so that both choices have the same samples; only ``corrupt`` draws coarse labels.
        minority: With an imbalance: so many of the last classes have 1/R of the samples of the others (a step). None makes a
            long tail: each class is smaller than the one before by the same factor (Cui et al. 2019, CVPR).
        downscale: Images become the means over squares of so many pixels a side, which must divide theirs. Their squared norm
            is then less than 64 with ``norm64``: what the means keep.

    Raises:
        ValueError: If a field is out of its range.
    """

    name: DataName = "digits"
    split: Split = "train"
    per_class: int | None = None
    corrupt: float = 0.0
    scaling: Scaling = "norm64"
    root: str | None = None
    download: bool = False
    seed: int = 0
    largest_classes: int | None = None
    vocabulary: int = 10_000
    length: int = 256
    imbalance: float = 1.0
    minority: int | None = None
    labels: Literal["fine", "coarse"] = "fine"
    downscale: int = 1

    def __post_init__(self) -> None:
        check_choices("data", self)
        self._check_counts()
        if not 0 <= self.corrupt <= 1:
            raise ValueError(f"data.corrupt must be in [0, 1], got {self.corrupt}. Pass a fraction, not a percentage.")
        if self.name == "digits" and self.split == "test" and self.per_class is None:
            raise ValueError(
                "The test part of the digits is what data.per_class leaves over of each class, got none. Set data.per_class to "
                "173 or less, or use another data set."
            )
        if self.labels == "coarse" and self.name not in COARSE:
            raise ValueError(f"data.labels=coarse needs one of {', '.join(COARSE)}, got {self.name}. Use data.labels=fine.")
        if not 1 <= self.imbalance < math.inf:
            raise ValueError(f"data.imbalance must be 1 or more and finite, got {self.imbalance}. 1 leaves the classes equal.")

    @property
    def test_part(self) -> "DataConfig":
        """The test split that belongs to this training data: whole, without corrupted labels."""
        kept = self.per_class if self.name == "digits" else None
        return replace(self, split="test", per_class=kept, corrupt=0.0, imbalance=1.0)

    def class_counts(self, largest: int, num_classes: int) -> tuple[int, ...]:
        """Return the sizes of the classes, the first of which has ``largest`` samples.

        Raises:
            ValueError: If ``minority`` are not fewer than all classes, or a class has no sample.

        Example:
            >>> DataConfig(imbalance=10, minority=2).class_counts(50, 4)
            (50, 50, 5, 5)
        """
        if self.minority is not None and not 1 <= self.minority < num_classes:
            raise ValueError(f"data.minority must be between 1 and {num_classes - 1}, got {self.minority}. Pass fewer classes.")
        if self.minority is None:
            powers = [k / max(1, num_classes - 1) for k in range(num_classes)]
        else:
            powers = [float(k >= num_classes - self.minority) for k in range(num_classes)]
        # 1e-9: a tenth of 50 must be 5, not the 4 that binary fractions may make of it.
        counts = tuple(math.floor(largest / self.imbalance**power + 1e-9) for power in powers)
        if counts[-1] < 1:
            raise ValueError(
                f"data.imbalance must leave every class a sample, got {self.imbalance:g} with {largest} samples of the largest "
                "class. Lower it, or raise data.per_class."
            )
        return counts

    def _check_counts(self) -> None:
        if self.per_class is not None and self.per_class < 1:
            raise ValueError(f"data.per_class must be 1 or more, got {self.per_class}. Leave it out to take all.")
        if self.seed < 0:
            raise ValueError(f"data.seed must be 0 or more, got {self.seed}. Pass a non-negative integer.")
        check_most("data.seed", self.seed, LARGEST_SEED)
        # Drawn images of a million a class take 12 GiB.
        for field, most in (("per_class", 1_000_000), ("vocabulary", 10_000_000), ("length", 1_000_000)):
            check_most(f"data.{field}", getattr(self, field) or 0, most)
        for field, least in (("largest_classes", 2), ("vocabulary", 1), ("length", 1), ("minority", 1), ("downscale", 1)):
            value = getattr(self, field)
            if value is not None and value < least:
                raise ValueError(f"data.{field} must be {least} or more, got {value}. Leave it out for its default.")
