"""Predicates of a single run: which claims it is about, and whether they hold in it. None where undefined."""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

from ncollapse.claims.evidence import RunTest
from ncollapse.claims.rules import RULES
from ncollapse.records.depth import EPSILON
from ncollapse.records.reading import Run
from ncollapse.records.recipe_settings import setting

RESIDUAL = "residual"
# Relative excess of a cost that is the rounding of a mean over samples.
_ROUNDING = 1e-12


def _is_residual(run: Run) -> bool:
    """Test for a network of the paper: fully connected or convolutional, with skip connections and no others."""
    kind, connections = setting(run, "model.kind"), setting(run, "model.connections")
    return kind in {None, "conv_resnet"} and connections in {None, RESIDUAL}


def _training(run: Run) -> tuple[object, object]:
    """Return loss and share of random labels; a field that a recipe lacks has the value of the paper's setting."""
    return setting(run, "train.loss") or "cross_entropy", setting(run, "data.corrupt") or 0.0


def is_paper_setting(run: Run) -> bool:
    """Test for the setting of the paper's claims: a residual network trained with cross-entropy on the data set's labels."""
    return _is_residual(run) and has_paper_training(run)


def has_squared_error(run: Run) -> bool:
    """Test for a residual network trained with the mean squared error on true labels."""
    return _is_residual(run) and _training(run) == ("mse", 0.0)


def has_random_labels(run: Run) -> bool:
    """Test for a residual network trained with cross-entropy on random labels."""
    return _is_residual(run) and _training(run) == ("cross_entropy", 1.0)


def has_paper_training(run: Run) -> bool:
    """Test for the paper's training, cross-entropy on true labels, of any network."""
    return _training(run) == ("cross_entropy", 0.0)


def has_sgd_with_decay(run: Run) -> bool:
    """Test for the paper's training by SGD with weight decay, coupled or not."""
    by_sgd = setting(run, "train.optimizer") in {None, "sgd", "sgdw"}
    return has_paper_training(run) and by_sgd and (setting(run, "train.weight_decay") or 0) > 0


def has_connections(run: Run, connections: str) -> bool:
    """Test for the paper's training of a fully connected network with other connections."""
    return has_paper_training(run) and setting(run, "model.connections") == connections


def num_blocks(run: Run) -> int | None:
    """Read the number of blocks from the recipe."""
    found = setting(run, "model.num_blocks")
    return found if isinstance(found, int) else None


def falls_over_depth(metric: str) -> RunTest:
    """Make a test whether a metric falls over depth: it rises at no step and ends below its start."""
    return lambda run, epoch=None: falls(run.over_depth(metric, epoch))


def falls_before_effective_depth(metric: str) -> RunTest:
    """Make a test whether a metric falls up to the effective depth, which is that of the last epoch."""
    return lambda run, epoch=None: falls(run.over_depth(metric, epoch)[: effective_steps(run) + 1])


def all_steps(run: Run) -> int:
    """Count the steps from layer to layer."""
    return len(run.depths) - 1


def effective_steps(run: Run) -> int:
    """Count the steps up to the effective depth, to the last layer where it is not reached."""
    errors = run.over_depth("pfc3_error")
    return next((i for i, error in enumerate(errors) if error is not None and error <= EPSILON), len(errors) - 1)


def chance_of_order(metric: str, steps: Callable[[Run], int]) -> Callable[[Run], float | None]:
    """Make a reader of the probability that the same layers, in a random order, pass the test of falling."""

    # One of the n! orders is the falling one, and as many as the ways to change places among equal values.
    def chance(run: Run) -> float | None:
        values = run.over_depth(metric)[: steps(run) + 1]
        # The effective depth is where the error first is small, so that the last one there is the smallest by definition.
        is_last = steps is effective_steps and metric == "pfc3_error" and (values[-1] or 0.0) <= EPSILON
        free = values[:-1] if is_last else values
        equal = math.prod(math.factorial(count) for count in Counter(free).values())
        return equal / math.factorial(len(free)) if len(set(values)) > 1 else 0.0

    return chance


def falls(values: Sequence[float | None]) -> bool | None:
    """Test whether values rise at no step and end below their start; None where one is undefined, or there are too few."""
    known = [value for value in values if value is not None]
    if len(known) < len(values) or len(values) <= RULES.least_steps or not any(known):
        return None
    return all(after <= before for before, after in pairwise(known)) and known[-1] < known[0]


def recorded(place: str) -> Callable[..., Any]:
    """Make a reader of an entry of an epoch's record, such as ``theorem1.holds``; None where it was not computed."""
    part, _, field = place.partition(".")

    def read(run: Run, epoch: int | None = None) -> Any:
        at = run.epochs[-1] if epoch is None else epoch
        record = run.objective.get(at) if part == "objective" else getattr(run.records[at], part)
        return None if record is None else getattr(record, field)

    return read


def nc0_falls(run: Run) -> bool | None:
    """Test whether NC0 of the last layer falls from before training to the end."""
    before, after = (run.value("nc0", run.depths[-1], epoch) for epoch in (0, None))
    return None if before is None or after is None else after < before


def never_falls_on_the_line(run: Run, epoch: int | None = None) -> bool | None:
    """Test whether nearest-center accuracy falls at no step of the straight line."""
    num_falls = recorded("theorem3.num_falls")(run, epoch)
    return None if num_falls is None else num_falls == 0


def optimal_pairing(run: Run, epoch: int | None = None) -> bool | None:
    """Test whether no pairing of the sample's first and last features costs less than the network's own, up to rounding."""
    score = recorded("energy.transport_score")(run, epoch)
    return None if score is None else score >= 1 - _ROUNDING


def nearly_optimal_pairing(run: Run, epoch: int | None = None) -> bool | None:
    """Test whether the network's excess cost over the best pairing is at most transport_gap of a random pairing's excess."""
    own, best, random = (
        recorded(f"energy.{name}")(run, epoch) for name in ("identity_cost_sample", "wasserstein2", "random_cost_sample")
    )
    if own is None or best is None or random is None or not random > best:
        return None
    return own - best <= RULES.transport_gap * (random - best)


def aligned(run: Run, epoch: int | None = None) -> bool | None:
    """Test whether the alignment of first and last class means is at least that of the rules."""
    alignment = recorded("alignment.alignment")(run, epoch)
    return None if alignment is None else alignment >= RULES.alignment


def within_decay_bound(run: Run, epoch: int | None = None) -> bool | None:
    """Test whether every block adds at most what its weights allow; None where blocks normalize."""
    found = run.records[run.epochs[-1] if epoch is None else epoch].weight_decay
    if found is None or not found.is_bound or setting(run, "model.normalization") not in {None, "none"}:
        return None
    chains = [(block.energy, block.by_moment, block.by_weights) for block in found.blocks]
    if any(value is None for chain in chains for value in chain):
        return None
    return all(a <= b * (1 + _ROUNDING) for chain in chains for a, b in pairwise(chain) if a is not None and b is not None)
