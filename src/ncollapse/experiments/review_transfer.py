"""The review's experiments on class distances and on transfer (arXiv 2206.04041, Sections 4.1.1 and 4.1.2), small."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from ncollapse.analysis import few_shot_accuracy
from ncollapse.data.batches import Batches
from ncollapse.data.catalog import load_samples
from ncollapse.data.labeled import LabeledData
from ncollapse.experiments.experiment import Experiment, Found, Panel, Point
from ncollapse.experiments.review_testing import SOURCES, at_end, of_sources, on_fashion, small_run
from ncollapse.experiments.work import Work, recipe_of
from ncollapse.models import build_model
from ncollapse.probe import collect_features
from ncollapse.records.reading import Run

# Classes of Fashion-MNIST that networks with up to six source classes have not seen.
_UNSEEN = 6
# Tops, shoes, and others: the super-class of each class of Fashion-MNIST.
COARSE = (0, 2, 0, 2, 0, 1, 0, 1, 2, 1)
_SHOTS = 5
_TEST = ("data.split=test", "data.per_class=500")
# The largest files of WordNet: 14 of nouns, 3 of verbs, 2 of adjectives, and that of adverbs.
_GLOSSES = (
    "data.name=wordnet",
    "data.largest_classes=20",
    "data.per_class=40",
    "data.vocabulary=2000",
    "data.length=8",
    "model.num_blocks=3",
    "train.epochs=60",
    "measure.epochs=0",
    "measure.transport_samples=0",
)
_TEST_GLOSSES = ("data.split=test", "data.per_class=100")


def variance_bound(sample: Sequence[Tensor], population: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Return V of the sample, V of the population, and the right side of Equation 16, for all pairs of classes i < j."""
    # A = (|μ_i - μ_i'| + |μ_j - μ_j'|) / |μ_i - μ_j| and B = (|v_i - v_i'| + |v_j - v_j'|) / (2 |μ_i' - μ_j'|²) with means and
    # variances of the population and, primed, of the sample: what Galanti et al. bound with high probability, here as it is.
    (means, variances), (drawn, drawn_variances) = _moments(population), _moments(sample)
    pairs = torch.combinations(torch.arange(len(means))).T

    def sums(of_class: Tensor) -> Tensor:
        return of_class[pairs[0]] + of_class[pairs[1]]

    distances, drawn_distances = (torch.linalg.vector_norm(m[pairs[0]] - m[pairs[1]], dim=1) for m in (means, drawn))
    a = sums(torch.linalg.vector_norm(means - drawn, dim=1)) / distances
    b = sums((variances - drawn_variances).abs()) / (2 * drawn_distances.square())
    found, wanted = sums(drawn_variances) / (2 * drawn_distances.square()), sums(variances) / (2 * distances.square())
    return found, wanted, (found + b) * (1 + a).square()


def _moments(classes: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    means = torch.stack([rows.double().mean(dim=0) for rows in classes])
    squares = [(rows.double() - mean).square().sum(dim=1).mean() for rows, mean in zip(classes, means, strict=True)]
    return means, torch.stack(squares)


def _by_class(features: Tensor, labels: Tensor) -> list[Tensor]:
    return [features[labels == k] for k in range(int(labels.max()) + 1)]


def population_bound(work: Work) -> Found:
    """Compare variances of the population, the test set, with those of samples of it and of the training set, and the bound."""
    run = small_run(work)
    model = work.network(run)
    layer = run.layers[-1]
    found = [_features(model, work.samples(run, *part)) for part in ((), _TEST)]
    population = _by_class(found[1][0][layer], found[1][1])
    generator = torch.Generator().manual_seed(work.seed)
    orders = [torch.randperm(len(rows), generator=generator) for rows in population]
    samples = {f"{n} new": [rows[order[:n]] for rows, order in zip(population, orders, strict=True)] for n in (10, 100)}
    samples["100 of training"] = _by_class(found[0][0][layer], found[0][1])
    points, right = [], True
    for x, sample in samples.items():
        of_sample, of_population, bound = variance_bound(sample, population)
        right = right and bool((of_population <= bound).all())
        for line, values in (("sample", of_sample), ("population", of_population), ("bound", bound)):
            points.append(Point(_EQ16.title, line, x, float(values.mean())))
    return Found(right, tuple(points))


def _features(model: nn.Module, data: LabeledData) -> tuple[dict[str, Tensor], Tensor]:
    return collect_features(model, Batches(data, 1000), num_classes=data.num_classes)


def new_classes(work: Work) -> Found:
    """Decide between unseen classes by the nearest center of a few samples, for several numbers of source classes."""
    data = work.samples(small_run(work), *_TEST)
    new = data.subset(data.labels >= _UNSEEN)
    found = {}
    for count in SOURCES[:-1]:
        run = of_sources(work, count)
        found[count] = by_depth(work.network(run), new, work.seed)[-1]
    points = [Point(_SHOT.title, "new classes", count, accuracy) for count, accuracy in found.items()]
    return Found(found[SOURCES[-2]] - found[SOURCES[0]], tuple(points))


def new_classes_by_depth(work: Work) -> Found:
    """Compare first and last layer by how well the center of a few samples decides between unseen classes."""
    data = work.samples(small_run(work), *_TEST)
    run = of_sources(work, SOURCES[-2])
    return _first_and_last(work.network(run), untrained(run), data.subset(data.labels >= _UNSEEN), work.seed, -1)


def losses(work: Work) -> Found:
    """Train with three losses, and compare how well the last layers tell unseen classes apart, and how collapsed they are."""
    data = work.samples(small_run(work), *_TEST)
    new, found, points = data.subset(data.labels >= _UNSEEN), {}, []
    for name, settings in _LOSSES.items():
        run = small_run(work, f"data.largest_classes={_UNSEEN}", *settings)
        found[name] = by_depth(work.network(run), new, work.seed)[-1]
        points += [
            Point(_BY_LOSS.title, "new classes", name, found[name]),
            Point(_KEPT.title, "PFC1", name, at_end(run, "pfc1")),
        ]
    return Found(found["MCR²"] - max(found["cross-entropy"], found["squared error"]), tuple(points))


def splitting(work: Work) -> Found:
    """Train on coarse classes, and compare first and last layer by how well they tell the classes apart."""
    run = small_run(work, "data.labels=coarse")
    return _first_and_last(work.network(run), untrained(run), work.samples(run, *_TEST, "data.labels=fine"), work.seed, -1)


def splitting_glosses(work: Work) -> Found:
    """Train on parts of speech, and compare first and last layer by how well they tell WordNet's files apart."""
    run = _on_glosses(work, "data.labels=coarse")
    files = work.samples(run, *_TEST_GLOSSES, "data.labels=fine")
    return _first_and_last(work.network(run), untrained(run), files, work.seed, -1)


def merging_glosses(work: Work) -> Found:
    """Train on WordNet's files, and compare first and last layer by how well they tell parts of speech apart."""
    run = _on_glosses(work)
    parts = work.samples(run, *_TEST_GLOSSES, "data.labels=coarse")
    return _first_and_last(work.network(run), untrained(run), parts, work.seed, 1)


def _on_glosses(work: Work, *settings: str) -> Run:
    return work.run("vit_digits", *_GLOSSES, *settings)


def merging(work: Work) -> Found:
    """Train on classes, and compare first and last layer by how well they tell super-classes apart."""
    run = small_run(work)
    return _first_and_last(work.network(run), untrained(run), with_labels(work.samples(run, *_TEST), COARSE), work.seed, 1)


def untrained(run: Run) -> nn.Module:
    """Return the network of a run before its training."""
    recipe = recipe_of(run)
    data = load_samples(recipe.data)
    return build_model(recipe.model, data.sample_shape, data.num_classes, recipe.seed, data.vocabulary)


def with_labels(data: LabeledData, labels: Sequence[int]) -> LabeledData:
    """Return the samples with the classes that a list maps theirs to."""
    return replace(data, labels=torch.tensor(labels)[data.labels], num_classes=max(labels) + 1)


def _first_and_last(model: nn.Module, before: nn.Module, data: LabeledData, seed: int, sign: int) -> Found:
    found = {"after training": by_depth(model, data, seed), "before training": by_depth(before, data, seed)}
    points = [Point(_SHOT_DEPTH.title, line, depth, y) for line, ys in found.items() for depth, y in enumerate(ys)]
    after, earlier = (sign * (ys[-1] - ys[0]) for ys in found.values())
    return Found(after, tuple(points), earlier)


def by_depth(model: nn.Module, data: LabeledData, seed: int) -> list[float]:
    """Return the accuracy of the nearest center of five samples per class at every layer."""
    features, labels = collect_features(model.eval(), Batches(data, 1000), num_classes=data.num_classes)
    return [
        few_shot_accuracy(layer, labels, shots=_SHOTS, ways=data.num_classes, episodes=100, seed=seed).accuracy
        for layer in features.values()
    ]


# Each with a learning rate of its own. The rate reduction wants batches of many samples of each class.
_LOSSES = {
    "cross-entropy": (),
    "squared error": ("train.loss=mse", "train.learning_rate=0.02"),
    "MCR²": ("train.loss=mcr2", "train.learning_rate=0.02", "train.batch_size=300"),
}
_BY_LOSS, _KEPT = (
    Panel(f"Accuracy of {_SHOTS}-shot nearest centers, last layer", "loss"),
    Panel("PFC1 of the last layer", "loss"),
)
_EQ16 = Panel("Class-distance normalized variance, mean over pairs", "samples of each class")
_SHOT = Panel(f"Accuracy of {_SHOTS}-shot nearest centers", "source classes")
_SHOT_DEPTH = Panel(f"Accuracy of {_SHOTS}-shot nearest centers", "layer")
_GROUPS = "tops, shoes and others"
_DRAWN = f"nearest centers of {_SHOTS} test samples of each, over 100 episodes"

TRANSFER_EXPERIMENTS = (
    on_fashion(
        "review:eq16",
        "Equation 16",
        "The variance of a population is bounded by that of a sample",
        "The class-distance normalized variance of a population is at most (V + B)(1 + A)², V being that of a sample.",
        "It is, for all pairs of classes, with A and B from the true deviations of means and variances. The test set is the "
        "population; samples are drawn from it, or are the training set.",
        population_bound,
        (_EQ16,),
        checks_code=True,
    ),
    on_fashion(
        "review:few-shot",
        "Section 4.1.2",
        "More source classes transfer better to new ones",
        "Collapsed features transfer well to few-shot learning of new classes if there were many source classes.",
        f"Accuracy at the last layer on the four classes that were not trained on ({_DRAWN}): with {SOURCES[-2]} source "
        f"classes minus that with {SOURCES[0]}.",
        new_classes,
        (_SHOT,),
    ),
    on_fashion(
        "review:few-shot-depth",
        "Section 4.1.2",
        "Collapsed features transfer worse to new classes",
        "The rigid structure of collapsed features transfers relatively badly to other tasks.",
        f"Accuracy on the four classes that were not trained on ({_DRAWN}): at the first layer minus that at the last one, "
        "which is the most collapsed.",
        new_classes_by_depth,
        (_SHOT_DEPTH,),
    ),
    on_fashion(
        "review:losses",
        "Section 4.1.2",
        "The coding rate reduction keeps more for other tasks",
        "Losses that keep the variability within classes, such as MCR², transfer better than those that collapse it.",
        f"Accuracy at the last layer on the four classes that were not trained on ({_DRAWN}): trained on six classes with MCR² "
        "minus the better one of cross-entropy and squared error.",
        losses,
        (_BY_LOSS, _KEPT),
    ),
    on_fashion(
        "review:split-pairs",
        "Section 4.1.2",
        "Collapse hurts splitting",
        "A network that has collapsed super-classes can hardly tell the classes within them apart.",
        f"A network is trained on five pairs of like classes. Accuracy on the ten classes ({_DRAWN}): at the first layer minus "
        "that at the last one, which is the most collapsed.",
        splitting,
        (_SHOT_DEPTH,),
    ),
    on_fashion(
        "review:merge",
        "Section 4.1.2",
        "Collapse helps merging",
        "A network that has collapsed classes can easily merge them into super-classes.",
        f"A network is trained on ten classes. Accuracy on {_GROUPS} ({_DRAWN}): at the last layer, which is the most "
        "collapsed, minus that at the first one.",
        merging,
        (_SHOT_DEPTH,),
    ),
    Experiment(
        "review:split-glosses",
        "Section 4.1.2",
        "Collapse hurts splitting: glosses of WordNet",
        "A network that has collapsed super-classes can hardly tell the classes within them apart.",
        f"A transformer is trained on the parts of speech of glosses. Accuracy on 20 of WordNet's files ({_DRAWN}): at the "
        "first layer minus that at the last one, which is the most collapsed.",
        splitting_glosses,
        (_SHOT_DEPTH,),
        needs=("wordnet",),
    ),
    Experiment(
        "review:merge-glosses",
        "Section 4.1.2",
        "Collapse helps merging: glosses of WordNet",
        "A network that has collapsed classes can easily merge them into super-classes.",
        f"A transformer is trained on 20 of WordNet's files. Accuracy on four parts of speech ({_DRAWN}): at the last layer, "
        "which is the most collapsed, minus that at the first one.",
        merging_glosses,
        (_SHOT_DEPTH,),
        needs=("wordnet",),
    ),
)
