"""Estimates for a population whose truth is known: bias of the traces, and how often the intervals cover.

K = 10 classes of normal features in d = 512 dimensions, with class means of three kinds and PFC1 = 123.5: three dimensions, a
simplex ETF, and unequal norms in all dimensions. Counts are equal, or go from 0.4 n to 1.6 n. Class moments are drawn from
their exact distributions (normal means, chi-squared scatter traces, Wishart covariances on a span), which is what collecting
such features would give.

    python benchmarks/sampling.py [--draws 1000] [--counts 5 10 20 50 100 500 2000] [--seed 0]
"""

import argparse
import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.distributions import Chi2, Wishart

from ncollapse.etf import simplex_etf
from ncollapse.metrics import cdnv, equiangularity, equinorm, etf_distance, participation_ratio
from ncollapse.metrics.entry import LayerStatistics
from ncollapse.metrics.noise import spread_share
from ncollapse.metrics.registry import METRICS
from ncollapse.statistics import ClassCenters, ClassDecisions, ClassMoments, ClassParts
from ncollapse.statistics.parts import PARTS

NUM_CLASSES, DIM = 10, 512
PFC1 = 123.5
INTERVALS = ("pfc1", "cdnv", "pfc2", "nc1", "nc2_equinorm", "nc2_equiangularity", "participation_ratio_between")


def three_dimensions(generator: torch.Generator) -> Tensor:
    """Return means that span three dimensions."""
    basis = torch.linalg.qr(torch.randn(DIM, 3, generator=generator, dtype=torch.float64))[0]
    return torch.randn(NUM_CLASSES, 3, generator=generator, dtype=torch.float64) @ basis.T


def unequal_norms(generator: torch.Generator) -> Tensor:
    """Return means in all dimensions, of norms from a half to three halves."""
    scales = torch.linspace(0.5, 1.5, NUM_CLASSES, dtype=torch.float64)
    return scales.unsqueeze(1) * torch.randn(NUM_CLASSES, DIM, generator=generator, dtype=torch.float64)


MEANS: dict[str, Callable[[torch.Generator], Tensor]] = {
    "rank 3": three_dimensions,
    "ETF": lambda _: simplex_etf(NUM_CLASSES, DIM),
    "unequal": unequal_norms,
}


class Sample(NamedTuple):
    """Statistics of one draw."""

    statistics: LayerStatistics
    moments: ClassMoments


def centered(means: Tensor) -> Tensor:
    """Return means around their mean, scaled to the wanted PFC1 of unit variance in all dimensions."""
    means = means - means.mean(dim=0)
    return means * math.sqrt(DIM / PFC1 / float(means.square().sum() / len(means)))


def draw(means: Tensor, counts: Tensor, generator: torch.Generator) -> Sample:
    """Draw the statistics of samples around class means."""
    sizes = torch.stack([(counts + PARTS - 1 - part) // PARTS for part in range(PARTS)], dim=1)
    noise = torch.randn(*sizes.shape, DIM, generator=generator, dtype=torch.float64)
    part_means = (means.unsqueeze(1) + noise / sizes.clamp(min=1).sqrt().unsqueeze(2)) * (sizes > 0).unsqueeze(2)
    freedom = (DIM * (sizes - 1)).clamp(min=0).double()
    traces = Chi2(freedom.clamp(min=1)).sample() * (freedom > 0)
    parts = ClassMoments(sizes.flatten(), part_means.flatten(0, 1), traces.flatten())
    moments = ClassMoments.empty(len(counts), DIM)
    for part in range(PARTS):
        moments = moments.merge(parts.select(torch.arange(part, len(parts.counts), PARTS)))
    centers = ClassCenters.from_moments(moments)
    room = centers.basis.shape[1]
    # Chosen directions do not depend on the scatter. With fewer degrees of freedom than directions sum outer products.
    spans = [covariance(room, int(n) - 1, generator) / n for n in counts]
    empty = ClassDecisions.empty(centers)
    within = ClassDecisions(**{**vars(empty), "within_class": torch.stack(spans).mean(dim=0), "counts": counts.double()})
    return Sample(LayerStatistics(moments, centers, within, within, class_parts=ClassParts(parts)), moments)


def covariance(room: int, freedom: int, generator: torch.Generator) -> Tensor:
    """Draw a Wishart matrix of unit covariance."""
    if freedom < 50:
        rows = torch.randn(freedom, room, generator=generator, dtype=torch.float64)
        return rows.T @ rows
    return Wishart(torch.tensor(float(freedom)), torch.eye(room)).sample().double()


def truth(means: Tensor) -> dict[str, float]:
    """Return the values of the population."""
    eigenvalues = torch.linalg.svdvals(means).square() / NUM_CLASSES
    eigenvalues = eigenvalues[eigenvalues > 1e-9 * eigenvalues[0]]
    exact = ClassMoments(torch.ones(NUM_CLASSES, dtype=torch.int64), means, torch.full((NUM_CLASSES,), float(DIM)).double())
    return {
        "within": DIM,
        "between": float(eigenvalues.sum()),
        "norm": float((NUM_CLASSES * eigenvalues).square().sum()),
        "pfc1": PFC1,
        "cdnv": float(cdnv(exact)),
        "pfc2": float(etf_distance(means)),
        "nc1": float((1 / eigenvalues).sum()) / NUM_CLASSES,
        "nc2_equinorm": float(equinorm(means)),
        "nc2_equiangularity": float(equiangularity(means)),
        "participation_ratio_between": float(participation_ratio(eigenvalues)),
    }


class Cell(NamedTuple):
    """Results of one population and one number of samples."""

    distances: dict[str, float]
    strength: float
    coverage: dict[str, tuple[float, float]]
    flagged: float


def cell(means: Tensor, counts: Tensor, draws: int, seed: int) -> Cell:
    """Draw often, and compare with the truth."""
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    known = truth(means)
    found: dict[str, list[float]] = {name: [] for name in ("within", "between", "norm", *INTERVALS)}
    covered: dict[str, list[float]] = {name: [] for name in INTERVALS}
    flagged = 0
    for _ in range(draws):
        sample = draw(means, counts, generator)
        population = sample.statistics.population
        found["within"].append(float(population.within(population.variances)))
        found["between"].append(float(population.between(population.gram)))
        if population.has_parts:
            found["norm"].append(float(population.squared_norm(population.centering)[0]))
        flagged += float(spread_share(sample.moments)) > 0.5
        for name in INTERVALS:
            value = METRICS[f"{name}.population"].evaluate(sample.statistics, set())
            if not math.isnan(value.value) and value.standard_error is not None:
                covered[name].append(float(abs(value.value - known[name]) <= 1.96 * value.standard_error + 1e-9))
    distances, strength = {}, math.nan
    for name in ("within", "between", "norm"):
        values = torch.tensor(found[name], dtype=torch.float64)
        if len(values) > 1:
            distances[name] = float((values.mean() - known[name]) / (values.std() / math.sqrt(len(values))))
        if name == "between":
            strength = known["between"] / float(values.std())
    coverage = {name: (sum(hits) / len(hits) if hits else math.nan, len(hits) / draws) for name, hits in covered.items()}
    return Cell(distances, strength, coverage, flagged / draws)


def row(kind: str, layout: str, n: int, result: Cell) -> str:
    """Return one line of the table."""
    bias = " / ".join(f"{result.distances.get(name, math.nan):.1f}" for name in ("within", "between", "norm"))
    cells = [f"{share:.3f}" + ("" if defined == 1 else f" ({defined:.2f})") for share, defined in result.coverage.values()]
    return "| " + " | ".join([kind, layout, str(n), f"{result.strength:.1f}", bias, *cells, f"{result.flagged:.2f}"]) + " |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=1000)
    parser.add_argument("--counts", type=int, nargs="+", default=[5, 10, 20, 50, 100, 500, 2000])
    parser.add_argument("--kinds", nargs="+", default=list(MEANS), choices=list(MEANS))
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print("| means | counts | n | tr Σ_B / its error | bias of tr Σ_W / tr Σ_B / ‖G‖² in standard errors | ", end="")
    print(" | ".join(INTERVALS), "| flagged |")
    print("|---" * (6 + len(INTERVALS)) + "|")
    for kind in options.kinds:
        means = centered(MEANS[kind](torch.Generator().manual_seed(options.seed)))
        for layout, spread in (("equal", 0.0), ("unequal", 0.6)):
            for n in options.counts:
                counts = (n * torch.linspace(1 - spread, 1 + spread, NUM_CLASSES)).round().long().clamp(min=2)
                print(row(kind, layout, n, cell(means, counts, options.draws, options.seed)), flush=True)


if __name__ == "__main__":
    main()
