"""Local elasticity, section 3.2 of the review (arXiv 2206.04041): of small networks over training, and its equations."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor, nn

from ncollapse.analysis.elasticity import Elasticity, local_elasticity
from ncollapse.data import DataConfig, geo_mnist, load_samples
from ncollapse.experiments.experiment import Experiment, Found, Panel, Point, least
from ncollapse.experiments.work import Work
from ncollapse.models import LeNet
from ncollapse.surrogates import LocallyElasticSDE, balanced, estimate_integrals, pairwise_separability
from ncollapse.train import record_class_logits

_STEPS = (0, 10, 30, 100, 300)
_RATE = 1e-3
Loss = Callable[[Tensor, Tensor], Tensor]


def _trained(seed: int, inputs: Tensor, targets: Tensor, outputs: int, loss: Loss) -> Iterator[tuple[int, nn.Module]]:
    """Train two layers by Adam on all samples, and stop by at some steps; in float64, where a small step is not lost."""
    torch_state = torch.get_rng_state()
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(inputs.shape[1], 64), nn.ReLU(), nn.Linear(64, outputs)).double()
    torch.set_rng_state(torch_state)
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    for step in range(_STEPS[-1] + 1):
        if step in _STEPS:
            yield step, copy.deepcopy(model)
        optimizer.zero_grad()
        loss(model(inputs), targets).backward()
        optimizer.step()


def _digits() -> tuple[Tensor, Tensor, Tensor]:
    """Load 20 digits a class, and the places of those whose elasticity is measured: 4 a class."""
    data = load_samples(DataConfig(per_class=20))
    kept = torch.cat([(data.labels == label).nonzero().flatten()[:4] for label in range(data.num_classes)])
    return data.inputs.double(), data.labels, kept


def _relative(work: Work) -> Found:
    inputs, labels, kept = _digits()
    values, points = [], []
    for step, model in _trained(work.seed, inputs, labels, 10, nn.functional.cross_entropy):
        found = local_elasticity(
            model, inputs[kept], labels[kept], loss=nn.functional.cross_entropy, learning_rate=_RATE
        ).aggregate()
        points += [Point(_EFFECT, "own class", step, found.intra), Point(_EFFECT, "other classes", step, found.inter)]
        values.append(math.log10(found.ratio))
    return Found(values[-1], tuple(points), values[0])


def normalized_kernel(found: Elasticity) -> Tensor:
    """Divide the kernel similarity by the roots of its diagonal: 1 for a sample with itself."""
    assert found.kernel is not None
    sizes = found.kernel.diagonal().sqrt()
    return found.kernel / (sizes.unsqueeze(0) * sizes.unsqueeze(1))


def _kernel(work: Work) -> Found:
    inputs, digits, kept = _digits()
    labels = (digits >= 5).long()
    targets = 2.0 * labels.double().unsqueeze(1) - 1
    values, points = [], []
    for step, model in _trained(work.seed, inputs, targets, 1, nn.functional.mse_loss):
        found = local_elasticity(
            model, inputs[kept], labels[kept], loss=nn.functional.mse_loss, learning_rate=_RATE, targets=targets[kept]
        )
        means = found.aggregate(normalized_kernel(found))
        points += [Point(_KERNEL, "own class", step, means.intra), Point(_KERNEL, "other class", step, means.inter)]
        values.append(means.intra - means.inter)
    return Found(values[-1], tuple(points), values[0])


def _separation(work: Work) -> Found:
    """Simulate two classes whose effects fall slower and faster than 1/t."""
    rates = {"γ = 2 t^-1/2": lambda time: 2 * time**-0.5, "γ = 2 t^-3/2": lambda time: 2 * time**-1.5}
    initial, points = torch.tensor([[3.0], [-3.0]]), []
    shares: dict[str, list[float]] = {name: [] for name in rates}
    for name, rate in rates.items():
        equation = LocallyElasticSDE(2, kind="I", alpha=rate, beta=0.0, start_time=1.0)
        for end in (10, 100, 1000, 10_000):
            times = torch.logspace(0, math.log10(end), 401, dtype=torch.float64)
            times[0] = 1.0
            path = equation.simulate(initial, times, counts=balanced(2, 300), noise=1.0, seed=work.seed)
            shares[name].append(pairwise_separability(path))
            points.append(Point(_SEPARATED, name, end, shares[name][-1]))
    slow, fast = shares.values()
    return Found(slow[-1] > 0.99 and fast[0] > fast[-1] and fast[-1] < 0.75, tuple(points))


def _rates(work: Work) -> Found:
    """Estimate the integrals of the effects within and between classes from a network that is trained sample by sample."""
    data = geo_mnist(per_class=30, seed=work.seed)
    path = record_class_logits(LeNet(3, seed=work.seed), data, iterations=1500, learning_rate=0.005, every=10, seed=work.seed)
    found = estimate_integrals(path.means, kind="I")
    parts = {"∫ (α − β)": found.alpha - found.beta, "∫ (α + (K − 1) β)": found.alpha + 2 * found.beta}
    points = [
        Point(_INTEGRALS, name, float(step), float(value))
        for name, values in parts.items()
        for step, value in list(zip(path.iterations, values, strict=True))[::10]
    ]
    return Found(least(float(values[-1]) for values in parts.values()), tuple(points))


_EFFECT, _KERNEL = "Change of other samples over that of the own", "Kernel similarity, normalized"
_SEPARATED, _INTEGRALS = "Share on the right side", "Integrals of the effects"
_test = partial(Experiment, seeds=12)

ELASTICITY_EXPERIMENTS = (
    _test(
        "review:fig5",
        "Figure 5 and section 3.2.1",
        "A step on a sample moves its own class most",
        "A trained network is locally elastic: a step on a sample changes predictions for its own class more than for others.",
        "Decimal logarithm of the mean relative change of samples of the same class over that of others, of two layers after "
        "300 steps on 200 digits; measured on 40.",
        _relative,
        (Panel(_EFFECT, "step of training", log_x=True),),
    ),
    _test(
        "review:fig5-kernel",
        "Figure 5 and section 3.2.1, kernel",
        "Kernel similarity of samples of one class and of two",
        "The kernel by which steps act on predictions is larger within classes than between them.",
        "Mean normalized kernel similarity within classes minus that between them, of two layers with one output after 300 "
        "steps on 200 digits, those below five against the others; measured on 40.",
        _kernel,
        (Panel(_KERNEL, "step of training", log_x=True),),
    ),
    _test(
        "review:sec3.2.2",
        "Section 3.2.2",
        "Locally elastic equations: when classes separate",
        "Classes separate if γ, the effect within classes less that between them, falls slower than 1/t, and not if it falls "
        "faster.",
        "Of 300 samples per class, simulated to time 10,000, over 99 % are on the right side if γ = 2 t^-1/2; if γ = 2 t^-3/2, "
        "fewer are than at time 10, and less than three quarters.",
        _separation,
        (Panel(_SEPARATED, "time", log_x=True),),
        checks_code=True,
    ),
    _test(
        "review:sec3.2.2-rates",
        "Section 3.2.2, effective training",
        "The effects within and between classes of a network on GeoMNIST",
        "In training γ = min(α − β, α + (K − 1) β) is positive: own classes pull more than others.",
        "The smaller of the integrals of α − β and of α + (K − 1) β after 1,500 steps on single samples, estimated from the "
        "class means of the logits of a LeNet on 90 images.",
        _rates,
        (Panel(_INTEGRALS, "step of training"),),
    ),
)
