"""Collapse in training, sections 3.1.4, 3.1.5 and 5 of the review (arXiv 2206.04041): normalization, data, graph networks."""

from __future__ import annotations

import math

import torch
from scipy import stats
from torch import Tensor, nn

from ncollapse.experiments.experiment import Experiment, Found, Panel, Point
from ncollapse.experiments.review_testing import at_end
from ncollapse.experiments.work import Work
from ncollapse.probe import measure_features
from ncollapse.records.reading import Run

_NORMALIZED = {"with batch normalization": "mid", "without normalization": "none"}
# Five tokens an image, as the 8×8 digits have in patches of 4×4, and eight words a gloss.
_DATA = {
    "digits": ("data.name=digits",),
    "MNIST": ("data.name=mnist", "model.patch=14"),
    "Fashion-MNIST": ("data.name=fashion_mnist", "model.patch=14"),
    "glosses": ("data.name=wordnet", "data.largest_classes=10", "data.vocabulary=2000", "data.length=8"),
}
_SMALL = ("data.per_class=40", "train.epochs=60", "measure.epochs=0,3,10,30", "measure.transport_samples=0")


def _over_epochs(run: Run, panel: Panel, line: str) -> list[Point]:
    return [Point(panel.title, line, epoch, at_end(run, "pfc1", "train", epoch)) for epoch in run.epochs]


def _normalized_falls(work: Work) -> tuple[tuple[float, float], tuple[Point, ...]]:
    """Return by how many decades PFC1 falls with batch normalization and without, and what is drawn."""
    falls, points = [], []
    for name, kind in _NORMALIZED.items():
        run = work.run("demo", "measure.epochs=0,3,10,30,100", f"model.normalization={kind}")
        falls.append(math.log10(at_end(run, "pfc1", "train", 0) / at_end(run, "pfc1")))
        points += _over_epochs(run, _BY_NORMALIZATION, name)
    return (falls[0], falls[1]), tuple(points)


def _normalization_helps(work: Work) -> Found:
    (with_it, without), points = _normalized_falls(work)
    return Found(with_it - without, points)


def _collapses_without(work: Work) -> Found:
    (_, without), points = _normalized_falls(work)
    return Found(without - 1, points)


def _complexity(work: Work) -> Found:
    errors, collapses, points = [], [], []
    for name, settings in _DATA.items():
        run = work.run("vit_digits", *settings, *_SMALL, "measure.test=true", "model.num_blocks=3")
        errors.append(1 - at_end(run, "accuracy", "test"))
        collapses.append(at_end(run, "pfc1"))
        points += [*_over_epochs(run, _BY_DATA, name), Point(_BY_ERROR.title, name, errors[-1], collapses[-1])]
    return Found(float(stats.kendalltau(errors, collapses).statistic), tuple(points))


class GraphLayer(nn.Module):
    """A node's own features and the mean of its neighbors', each through a linear map, then ReLU."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.own, self.others = nn.Linear(inputs, outputs), nn.Linear(inputs, outputs, bias=False)

    def forward(self, nodes: Tensor, mean_of_neighbors: Tensor) -> Tensor:
        """Take one step."""
        return torch.relu(self.own(nodes) + self.others(mean_of_neighbors @ nodes))


def random_graph(labels: Tensor, inside: int, between: int, generator: torch.Generator) -> Tensor:
    """Draw a graph of a stochastic block model with so many neighbors inside a class and in each other class, on average."""
    size = int((labels == 0).sum())
    chance = torch.where(labels.unsqueeze(1) == labels, inside / (size - 1), between / size)
    upper = (torch.rand(chance.shape, generator=generator) < chance).triu(diagonal=1)
    return (upper | upper.T).double()


def balanced_graph(labels: Tensor, inside: int, between: int) -> Tensor:
    """Link each node to exactly so many of its own class and of each other class: by shifts within and between rings."""
    size = int((labels == 0).sum())
    place = torch.arange(len(labels)) % size
    shift = (place.unsqueeze(1) - place) % size
    same, near = labels.unsqueeze(1) == labels, torch.minimum(shift, size - shift)
    # Both rings see each other over the same shifts, so that links have no direction.
    linked = torch.where(same, (near >= 1) & (near <= inside // 2), near <= between // 2)
    return linked.double()


def _graph_collapse(work: Work, graph: Tensor, labels: Tensor) -> tuple[list[float], list[float]]:
    """Return PFC1 of every layer of a graph network before and after it learns the communities of one graph."""
    width, steps = 16, 1000
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(work.seed)
        layers = nn.ModuleList(GraphLayer(width, width) for _ in range(4)).double()
        head = nn.Linear(width, int(labels.max()) + 1).double()
        nodes = torch.randn(len(labels), width, dtype=torch.float64)
    mean = graph / graph.sum(dim=1, keepdim=True).clamp(min=1)

    def features() -> dict[str, Tensor]:
        found = {"nodes": nodes}
        for index, layer in enumerate(layers):
            found[f"layer {index + 1}"] = layer(list(found.values())[-1], mean)
        return found

    def collapse() -> list[float]:
        with torch.no_grad():
            found = measure_features(features(), labels, num_classes=head.out_features, metrics=["pfc1"])
        return [float(found.value("pfc1", layer)) for layer in found.layers]

    before = collapse()
    optimizer = torch.optim.Adam([*layers.parameters(), *head.parameters()], lr=0.005, weight_decay=5e-4)
    for step in range(steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(head(list(features().values())[-1]), labels).backward()
        optimizer.step()
        if step % 100 == 0:
            work.say(f"graph network: step {step} of {steps}")
    return before, collapse()


def _graphs(work: Work) -> Found:
    labels = torch.arange(4).repeat_interleave(50)
    generator = torch.Generator().manual_seed(work.seed)
    graphs = {"random": random_graph(labels, 12, 3, generator), "balanced": balanced_graph(labels, 12, 3)}
    found = {name: _graph_collapse(work, graph, labels) for name, graph in graphs.items()}
    points = [
        Point(_GRAPHS.title, f"{name}, {when}", depth, y)
        for name, pair in found.items()
        for when, ys in zip(("before training", "after training"), pair, strict=True)
        for depth, y in enumerate(ys)
    ]
    before, after = (math.log10(found["random"][when][-1] / found["balanced"][when][-1]) for when in (0, 1))
    return Found(after, tuple(points), before)


_GRAPHS = Panel("PFC1 of the nodes", "layer")
_BY_NORMALIZATION = Panel("PFC1 of the last layer", "epoch", log_x=True)
_BY_DATA, _BY_ERROR = Panel("PFC1 in training", "epoch", log_x=True), Panel("PFC1 at the end", "test error")

TRAINING_EXPERIMENTS = (
    Experiment(
        "review:fig4",
        "Figure 4",
        "Complex data collapses less",
        "The extent of variability collapse on training data falls with the complexity of the data.",
        "Kendall's τ of PFC1 at the end of training with the test error, which stands for complexity, over digits, MNIST, "
        "Fashion-MNIST and glosses of WordNet: one transformer of three blocks, 400 samples, 60 epochs each.",
        _complexity,
        (_BY_DATA, _BY_ERROR),
        needs=("mnist", "fashion_mnist", "wordnet"),
    ),
    Experiment(
        "review:sec3.1.4-helps",
        "Section 3.1.4",
        "Networks with and without batch normalization",
        "Batch normalization helps collapse.",
        "Decades by which PFC1 of the last layer falls in training with batch normalization, minus those without it. 1,740 "
        "digits, 150 epochs.",
        _normalization_helps,
        (_BY_NORMALIZATION,),
    ),
    Experiment(
        "review:sec3.1.4-without",
        "Section 3.1.4",
        "Networks without normalization collapse to less than a tenth too",
        "Batch normalization does not decide collapse: networks without it collapse too.",
        "Decades by which PFC1 of the last layer falls in training without normalization, minus one: positive if it falls to "
        "less than a tenth. This bound is ours. 1,740 digits, 150 epochs.",
        _collapses_without,
        (_BY_NORMALIZATION,),
    ),
    Experiment(
        "review:graphs",
        "Section 5, other domains, and Kothapalli et al. (2023)",
        "Graph networks collapse as far as the graph lets them",
        "Nodes of a stochastic block model collapse in part; fully only where each node has the same shares of neighbors.",
        "Decades by which PFC1 of the last layer is lower after training on a graph whose nodes all have 12 neighbors of their "
        "own class and 3 of each other one, on rings, than on a random graph with as many on average; 4 classes of 50 nodes, "
        "random features, 4 layers of width 16, 1,000 steps of Adam.",
        _graphs,
        (_GRAPHS,),
        seeds=12,
    ),
)
