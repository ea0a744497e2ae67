"""Polytopes of given vectors: which of them form antipodal pairs, and how far each is from the convex hull of the others."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy

Array = np.ndarray[Any, Any]

# The linear program starts with this many partners of each vector, the best ones.
_FEW = 8
# Rounding of the linear program, in costs relative to the largest inner product, and in shares.
_ROUNDING, _FRACTION = 1e-9, 1e-6
_MOST_ROUNDS = 100


def antipodal_pairs(gram: Array) -> Array | None:
    """Return the partners that make the sum of K/2 pairs' inner products least, to 1e-9 of the largest; None if not proven."""
    # A permutation of least cost cannot cost more than pairs, each used in both directions. If its cycles are even, one of
    # the two ways to pair the neighbors in each costs no more than the permutation: these pairs are best.
    scale = np.abs(gram).max()
    cost = gram / scale if scale > 0 else np.zeros_like(gram)
    alone = cost + np.diag(np.full(len(cost), 4.0 * len(cost)))
    cycles = _cycles(scipy.optimize.linear_sum_assignment(alone)[1])
    odd = [cycle for cycle in cycles if len(cycle) % 2]
    if odd:
        return _pairs_of_program(cost, odd)
    partner = np.empty(len(cost), dtype=int)
    for cycle in cycles:
        ways = [np.stack([cycle, np.roll(cycle, -1)], axis=1)[start::2] for start in (0, 1)]
        best = min(ways, key=lambda way: cost[way[:, 0], way[:, 1]].sum())
        partner[best], partner[best[:, ::-1]] = best[:, ::-1], best
    return partner


def _cycles(permutation: Array) -> list[Array]:
    left, found = set(range(len(permutation))), []
    while left:
        cycle = [left.pop()]
        while (following := int(permutation[cycle[-1]])) != cycle[0]:
            left.remove(following)
            cycle.append(following)
        found.append(np.array(cycle))
    return found


def _pairs_of_program(cost: Array, odd: list[Array]) -> Array | None:
    """Solve the linear program of a matching, by Edmonds' inequalities of odd sets, over the pairs that can be in it."""
    # A set of odd size has a member whose partner is outside. Pairs are left out until their reduced cost is negative, so that
    # a solution in whole numbers is best among all pairs.
    count = len(cost)
    first, second = np.triu_indices(count, 1)
    prices = cost[first, second]
    order = np.argsort(cost + np.diag(np.full(count, np.inf)), axis=1)[:, :_FEW]
    near = np.zeros_like(cost, dtype=bool)
    near[np.arange(count)[:, None], order] = True
    near[np.arange(0, count, 2), np.arange(1, count, 2)] = True
    used = (near | near.T)[first, second]
    sets = [np.isin(np.arange(count), members) for members in odd]
    for _ in range(_MOST_ROUNDS):
        shares, reduced = _solve(prices, first, second, used, sets)
        missing = ~used & (reduced < -_ROUNDING)
        used |= missing
        if missing.any():
            continue
        more = [] if _is_whole(shares) else _odd_components(first, second, shares, count)
        more = [members for members in more if not any((members == known).all() for known in sets)]
        if not more:
            return _whole_pairs(prices, first, second, used, sets, shares)
        sets += more
    return None


def _whole_pairs(prices: Array, first: Array, second: Array, used: Array, sets: list[Array], shares: Array) -> Array | None:
    """Return the partners in a solution in whole numbers; None if it costs more than the given shares."""
    # Of solutions that cost the same the program may mix several.
    least = prices @ shares
    if not _is_whole(shares):
        shares, _ = _solve(prices, first, second, used, sets, whole=True)
    if prices @ shares > least + _ROUNDING:
        return None
    chosen = shares > 0.5
    partner = np.empty(2 * int(chosen.sum()), dtype=int)
    partner[first[chosen]], partner[second[chosen]] = second[chosen], first[chosen]
    return partner


def _is_whole(shares: Array) -> bool:
    return bool(np.abs(shares - (shares > 0.5)).max() < _FRACTION)


def _solve(
    prices: Array, first: Array, second: Array, used: Array, sets: list[Array], *, whole: bool = False
) -> tuple[Array, Array]:
    """Return the share of each pair, and its reduced cost, which whole numbers have none of."""
    pairs, count = np.flatnonzero(used), int(second[-1]) + 1
    numbers, ones = np.arange(len(pairs)), np.ones(2 * len(pairs))
    ends = (np.concatenate([first[pairs], second[pairs]]), np.concatenate([numbers, numbers]))
    degrees = scipy.sparse.csr_matrix((ones, ends), shape=(count, len(pairs)))
    crossing = np.stack([members[first] != members[second] for members in sets])
    found = scipy.optimize.linprog(
        prices[pairs], A_eq=degrees, b_eq=np.ones(count), A_ub=scipy.sparse.csr_matrix(-1.0 * crossing[:, pairs]),
        b_ub=-np.ones(len(sets)), integrality=int(whole), options={"mip_rel_gap": 0.0},
    )  # fmt: skip
    shares = np.zeros_like(prices)
    shares[pairs] = found.x
    if whole:
        return shares, np.zeros_like(prices)
    vertex, sides = found.eqlin.marginals, found.ineqlin.marginals
    return shares, prices - vertex[first] - vertex[second] + sides @ crossing


def _odd_components(first: Array, second: Array, shares: Array, count: int) -> list[Array]:
    """Find the connected sets of odd size in the graph of pairs with a share."""
    some = shares > _FRACTION
    graph = scipy.sparse.coo_matrix((np.ones(some.sum()), (first[some], second[some])), shape=(count, count))
    number, labels = scipy.sparse.csgraph.connected_components(graph, directed=False)
    return [labels == label for label in range(number) if (labels == label).sum() % 2]


def hull_distances(vectors: Array) -> Array:
    """Return the distance of each of K vectors, (K, d), from the convex hull of the others."""
    return np.array([_distance_from_zero(vector - np.delete(vectors, k, axis=0)) for k, vector in enumerate(vectors)])


def _distance_from_zero(points: Array) -> float:
    """Return the distance of the origin from the convex hull of points."""
    # Least squares with x >= 0 for (points^T x, sum x) = (0, 1): points^T x over sum x is the point of the hull nearest to 0
    # (Lawson & Hanson 1974, chapter 23).
    system = np.vstack([points.T, np.ones(len(points))])
    target = np.zeros(len(system))
    target[-1] = 1.0
    shares, _ = scipy.optimize.nnls(system, target, maxiter=100 * len(points))
    return float(np.linalg.norm(points.T @ shares) / shares.sum())
