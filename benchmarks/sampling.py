"""Estimates for a population whose truth is known: bias of the traces, and how often the intervals cover.

K = 10 classes of normal features in d = 512 dimensions. Class means are of four kinds: three dimensions, a simplex ETF, and
unequal norms in all dimensions, each with PFC1 = 123.5, and no classes at all (all means coincide). Counts are equal, or go
from 0.4 n to 1.6 n. The moments of classes and of their parts are drawn from their exact laws instead of collected from
features: normal means, chi-squared scatter traces, a Wishart covariance on the span of the means. All estimates are the
library's own.
Each cell has its own seed.

    python benchmarks/sampling.py [--draws 1000] [--counts 5 10 20 50 100 500 2000] [--kinds "rank 3" ETF unequal noise]
        [--seed 0] [--traces]
"""

import argparse
import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.distributions import Chi2

from ncollapse.etf import simplex_etf
from ncollapse.metrics import cdnv, equiangularity, equinorm, etf_distance, participation_ratio
from ncollapse.metrics.layer_statistics import LayerStatistics
from ncollapse.metrics.registry import METRICS
from ncollapse.statistics import ClassCenters, ClassDecisions, ClassMoments, ClassParts
from ncollapse.statistics.parts import PARTS

NUM_CLASSES, DIM = 10, 512
PFC1 = 123.5
TRACES = ("within", "between", "norm")
INTERVALS = ("pfc1", "cdnv", "pfc2", "nc1", "nc2_equinorm", "nc2_equiangularity", "participation_ratio_between")
HEADINGS = (
    "means | counts | n | tr Σ_B / its error | bias of tr Σ_W / tr Σ_B / ‖G‖² in standard errors | PFC1 | CDNV | "
    "CDNV bounded | PFC2 | NC1 | norms | cosines | participation ratio | flagged"
)
FLAGGED = ("pfc1", "pfc2", "cdnv", "nc1")


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
    "noise": lambda _: torch.zeros(NUM_CLASSES, DIM, dtype=torch.float64),
}


def centered(means: Tensor) -> Tensor:
    """Return means around their mean, scaled to the wanted PFC1 of unit variance in all dimensions, unless they coincide."""
    means = means - means.mean(dim=0)
    size = float(means.square().sum() / len(means))
    return means * math.sqrt(DIM / PFC1 / size) if size else means


def draw(means: Tensor, counts: Tensor, generator: torch.Generator) -> LayerStatistics:
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
    # The directions of the means do not depend on the scatter.
    spans = [covariance(room, int(n) - 1, generator) / n for n in counts]
    empty = ClassDecisions.empty(centers)
    within = ClassDecisions(**{**vars(empty), "within_class": torch.stack(spans).mean(dim=0), "counts": counts.double()})
    return LayerStatistics(moments, centers, within, within, class_parts=ClassParts(parts))


def covariance(room: int, freedom: int, generator: torch.Generator) -> Tensor:
    """Draw a Wishart matrix of unit covariance."""
    if freedom < room:
        rows = torch.randn(freedom, room, generator=generator, dtype=torch.float64)
        return rows.T @ rows
    # Bartlett's factor.
    factor = torch.randn(room, room, generator=generator, dtype=torch.float64).tril(-1)
    factor += Chi2(torch.arange(freedom, freedom - room, -1, dtype=torch.float64)).sample().sqrt().diag()
    return factor @ factor.T


def truth(means: Tensor) -> dict[str, float]:
    """Return the values of the population."""
    known = {"within": float(DIM), "between": float(means.square().sum()) / NUM_CLASSES}
    known["norm"] = float((means @ means.T).square().sum())
    if known["between"] == 0:
        return known
    eigenvalues = torch.linalg.svdvals(means).square() / NUM_CLASSES
    eigenvalues = eigenvalues[eigenvalues > 1e-9 * eigenvalues[0]]
    exact = ClassMoments(torch.ones(NUM_CLASSES, dtype=torch.int64), means, torch.full((NUM_CLASSES,), float(DIM)).double())
    return known | {
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
    bounded: float
    flagged: float


def traces(statistics: LayerStatistics) -> list[float]:
    """Estimate tr Σ_W, tr Σ_B and ‖G‖²."""
    population = statistics.population
    norm = float(population.squared_norm(population.centering)[0]) if population.has_parts else math.nan
    return [float(population.within(population.variances)), float(population.between(population.gram)), norm]


def interval(name: str, statistics: LayerStatistics) -> tuple[float, float] | None:
    """Return the ends of an interval, None if the estimate is undefined or has no error."""
    if name == "cdnv":
        low, high = (METRICS[f"cdnv.{end}"].evaluate(statistics, set()).value for end in ("low", "high"))
        return None if math.isnan(low) else (low, high)
    estimate = METRICS[f"{name}.population"].evaluate(statistics, set())
    if math.isnan(estimate.value) or estimate.standard_error is None:
        return None
    reach = 1.96 * estimate.standard_error + 1e-9
    return estimate.value - reach, estimate.value + reach


def cell(means: Tensor, counts: Tensor, draws: int, seed: int, *, only_traces: bool) -> Cell:
    """Draw often, and compare with the truth."""
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    known, found = truth(means), []
    covered: dict[str, list[bool]] = {name: [] for name in INTERVALS}
    bounded, flagged = 0, 0
    for _ in range(draws):
        statistics = draw(means, counts, generator)
        found.append(traces(statistics))
        if only_traces:
            continue
        flagged += all("undersampled" in METRICS[name].evaluate(statistics, set()).flags for name in FLAGGED)
        for name in INTERVALS if "pfc1" in known else ():
            ends = interval(name, statistics)
            if ends is not None:
                covered[name].append(ends[0] <= known[name] <= ends[1])
                bounded += name == "cdnv" and ends[1] < math.inf
    values = torch.tensor(found, dtype=torch.float64)
    errors = values.std(dim=0) / math.sqrt(draws)
    distances = (values.mean(dim=0) - torch.tensor([known[name] for name in TRACES])) / errors
    coverage = {name: (sum(hits) / len(hits) if hits else math.nan, len(hits) / draws) for name, hits in covered.items()}
    strength = known["between"] / float(values[:, 1].std())
    return Cell(dict(zip(TRACES, distances.tolist(), strict=True)), strength, coverage, bounded / draws, flagged / draws)


def row(kind: str, layout: str, n: int, result: Cell) -> str:
    """Return one line of the table."""
    bias = " / ".join("–" if math.isnan(z) else f"{z:.1f}" for z in result.distances.values())
    cells = [
        "–" if math.isnan(share) else f"{share:.3f}" + ("" if defined == 1 else f" ({defined:.3f})")
        for share, defined in result.coverage.values()
    ]
    cells.insert(2, f"{result.bounded:.3f}" if cells[1] != "–" else "–")
    return "| " + " | ".join([kind, layout, str(n), f"{result.strength:.1f}", bias, *cells, f"{result.flagged:.3f}"]) + " |"


def joint(results: list[tuple[int, Cell]]) -> str:
    """Judge all cells together: the largest bias among so many, and the smallest coverage where there is signal."""
    biases = [abs(z) for _, result in results for z in result.distances.values() if not math.isnan(z)]
    largest, number = max(biases), len(biases)
    chance = 1 - math.erf(largest / math.sqrt(2)) ** number
    over = sum(z > 2 for z in biases)
    lines = [
        f"Largest bias: {largest:.2f} standard errors, of {number}; chance of one as large or larger: {chance:.2f}. "
        f"Above 2: {over}, expected {0.0455 * number:.1f}."
    ]
    strong = [result.coverage for n, result in results if n >= 20 and result.strength > 4]
    for name in ("pfc1", "cdnv"):
        shares = [coverage[name][0] for coverage in strong if not math.isnan(coverage[name][0])]
        if shares:
            lines.append(f"Least coverage of {name} from n = 20 on where tr Σ_B exceeds 4 of its errors: {min(shares):.3f}.")
    return "\n".join(lines)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=1000)
    parser.add_argument("--counts", type=int, nargs="+", default=[5, 10, 20, 50, 100, 500, 2000])
    parser.add_argument("--kinds", nargs="+", default=list(MEANS), choices=list(MEANS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--traces", action="store_true", help="only the biases, much faster")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print("| " + HEADINGS + " |\n" + "|---" * (HEADINGS.count("|") + 1) + "|")
    results = []
    for kind in options.kinds:
        means = centered(MEANS[kind](torch.Generator().manual_seed(options.seed)))
        for layout, spread in (("equal", 0.0), ("unequal", 0.6)):
            for n in options.counts:
                counts = (n * torch.linspace(1 - spread, 1 + spread, NUM_CLASSES)).round().long().clamp(min=2)
                seed = 1_000_000 * options.seed + 10_000 * list(MEANS).index(kind) + 5_000 * (spread > 0) + n
                results.append((n, cell(means, counts, options.draws, seed, only_traces=options.traces)))
                print(row(kind, layout, n, results[-1][1]), flush=True)
    print("\n" + joint(results))


if __name__ == "__main__":
    main()
