"""Newton's method for groups of like classes: its logits, loss, gap and derivatives against all logits in NumPy."""

import math

import numpy as np
import pytest

from ncollapse.surrogates import GroupedNewton, LayerPeeled
from ncollapse.surrogates.solving.grouped import GroupedProgram

SHARES = {
    "one group": (0.25,) * 4,
    "two classes": (0.7, 0.3),
    "two groups": (0.2,) * 4 + (0.05,) * 4,
    "groups of one": (0.1, 0.2, 0.3, 0.4),
    "mixed up": (0.05, 0.3, 0.1, 0.3, 0.05, 0.1, 0.1),
}
RADIUS = 3.7


def on_sphere(program, seed):
    point = np.random.default_rng(seed).normal(size=len(program.start))
    return point * math.sqrt(2 * RADIUS / (point @ point))


def plain_loss(shares, logits):
    return float(np.array(shares) @ (np.log(np.exp(logits).sum(axis=1)) - np.diag(logits)))


@pytest.mark.parametrize("name", SHARES)
def test_the_loss_and_the_gap_are_those_of_all_logits(name):
    """The gap is that of duality in the ball: the product of gradient and logits plus the radius times the spectral norm."""
    shares = SHARES[name]
    program = GroupedProgram(shares, RADIUS)
    for seed in range(3):
        point = on_sphere(program, seed)
        logits, local = program.logits(point), program.around(point)
        assert local.value == pytest.approx(plain_loss(shares, logits), rel=1e-12)
        outputs = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        gradient = np.array(shares)[:, None] * (outputs - np.eye(len(shares)))
        assert local.gap == pytest.approx((gradient * logits).sum() + RADIUS * np.linalg.norm(gradient, 2), rel=1e-10)
        # A point of the sphere has logits within the ball, without a common shift of a row.
        assert np.linalg.svd(logits, compute_uv=False).sum() <= RADIUS * (1 + 1e-12)
        assert logits.sum(axis=1) == pytest.approx(np.zeros(len(shares)), abs=1e-12)
        # Like classes share their logits.
        for i in range(len(shares)):
            for j in range(i):
                if shares[i] == shares[j]:
                    swap = np.arange(len(shares))
                    swap[[i, j]] = j, i
                    assert logits[swap][:, swap] == pytest.approx(logits, abs=1e-13)


@pytest.mark.parametrize("name", SHARES)
def test_derivatives_along_the_sphere(name):
    program = GroupedProgram(SHARES[name], RADIUS)
    for seed in range(3):
        point = on_sphere(program, seed)
        local = program.around(point)
        along = np.random.default_rng(seed + 9).normal(size=len(point))
        along -= (along @ point) / (2 * RADIUS) * point
        along /= np.linalg.norm(along) or 1.0

        def value(t, point=point, along=along):
            turned = (
                math.cos(t / math.sqrt(2 * RADIUS)) * point
                + math.sqrt(2 * RADIUS) * math.sin(t / math.sqrt(2 * RADIUS)) * along
            )
            return program.around(turned).value

        if len(point) == 1:
            continue
        steps = np.array([value(t) for t in (-2e-3, -1e-3, 0.0, 1e-3, 2e-3)])
        slope = steps @ np.array([1, -8, 0, 8, -1]) / 12e-3
        bend = steps @ np.array([-1, 16, -30, 16, -1]) / 12e-6
        assert along @ local.gradient == pytest.approx(slope, rel=1e-7, abs=1e-9)
        assert along @ local.curvature @ along == pytest.approx(bend, rel=1e-5, abs=1e-6)
        assert point @ local.gradient == pytest.approx(0, abs=1e-12)
        assert local.curvature @ point == pytest.approx(0 * point, abs=1e-12)


@pytest.mark.parametrize(
    ("name", "most"), [("one group", 0), ("two classes", 6), ("two groups", 8), ("groups of one", 8), ("mixed up", 9)]
)
@pytest.mark.parametrize("product", [0.01, 1.0, 40.0])
def test_few_steps_are_needed(name, most, product):
    """Balanced classes begin at their minimum."""
    solution = LayerPeeled(SHARES[name], energy_w=product, energy_h=1.0).solve(GroupedNewton())
    assert len(solution.history) - 1 <= most
    unknowns = len(GroupedProgram(SHARES[name], 1.0).start)
    assert solution.source == f"Newton's method, {len(solution.history) - 1} steps in {unknowns} unknowns"
    assert solution.gap <= 1e-12 * solution.value + 1e-15


def test_a_step_never_raises_the_loss():
    program = GroupedProgram(SHARES["mixed up"], 40.0)
    for seed in range(5):
        point = on_sphere(program, seed) * math.sqrt(40.0 / RADIUS)
        local = program.around(point)
        for _ in range(3):
            moved, there = program.step(point, local)
            assert there.value < local.value
            assert moved @ moved == pytest.approx(80.0)
            assert there.value == pytest.approx(plain_loss(SHARES["mixed up"], program.logits(moved)), rel=1e-12)
            point, local = moved, there


def test_a_solver_stops_at_its_limit_and_tolerance():
    problem = LayerPeeled(SHARES["mixed up"], energy_w=2.0, energy_h=1.0)
    short = problem.solve(GroupedNewton(max_iterations=2), allow_unconverged=True)
    assert (len(short.history), short.converged) == (3, False)
    loose = GroupedNewton(tolerance=1e-3).run(problem, {})
    assert loose.converged
    assert len(loose.history) < len(problem.solve(GroupedNewton()).history)
    assert loose.history[-1] - problem.solve().value <= 1e-3 * loose.history[-1]


def test_small_losses_keep_their_digits():
    """Where the logits are large the loss is a small number that the sums of outputs would round away."""
    solution = LayerPeeled((0.6, 0.2, 0.2), energy_w=9.0, energy_h=10.0).solve()
    logits = (solution.variables["features"] @ solution.variables["weight"].T).numpy()
    odds = np.exp(logits - np.diag(logits)[:, None]) * (1 - np.eye(3))
    expected = np.array([0.6, 0.2, 0.2]) @ np.log1p(odds.sum(axis=1))
    assert expected < 1e-5
    assert solution.history[-1] == pytest.approx(expected, rel=1e-9, abs=0)
