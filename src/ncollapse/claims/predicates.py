"""Predicates of a single run: which claims it is about, and whether they hold in it. None where undefined."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

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


def has_other_network(run: Run) -> bool:
    """Test for the paper's training of a network that is not the paper's."""
    return has_paper_training(run) and not _is_residual(run)


def falls_over_depth(metric: str) -> Callable[[Run], bool | None]:
    """Make a test whether a metric falls over depth at the last epoch: it rises at no step and ends below its start."""
    return lambda run: _falls(run.over_depth(metric))


def falls_before_effective_depth(metric: str) -> Callable[[Run], bool | None]:
    """Make a test whether a metric falls up to the effective depth."""

    def test(run: Run) -> bool | None:
        errors = run.over_depth("pfc3_error")
        depth = next((i for i, error in enumerate(errors) if error is not None and error <= EPSILON), len(errors) - 1)
        return _falls(run.over_depth(metric)[: depth + 1])

    return test


def _falls(values: list[float | None]) -> bool | None:
    known = [value for value in values if value is not None]
    if len(known) < len(values) or len(values) < 2 or not any(known):
        return None
    return all(after <= before for before, after in pairwise(known)) and known[-1] < known[0]


def last_entry(place: str) -> Callable[[Run], Any]:
    """Make a reader of an entry of the last record, such as ``theorem1.holds``; None where it was not computed."""
    part, _, field = place.partition(".")

    def read(run: Run) -> Any:
        record = run.last_objective if part == "objective" else getattr(run.last, part)
        return None if record is None else getattr(record, field)

    return read


def optimal_pairing(run: Run) -> bool | None:
    """Test whether no pairing of the sample's first and last features costs less than the network's own, up to rounding."""
    score = last_entry("energy.transport_score")(run)
    return None if score is None else score >= 1 - _ROUNDING


def nearly_optimal_pairing(run: Run) -> bool | None:
    """Test whether the network's excess cost over the best pairing is at most transport_gap of a random pairing's excess."""
    energy = run.last.energy
    if energy is None or energy.wasserstein2 is None:
        return None
    own, random = energy.identity_cost_sample, energy.random_cost_sample
    if own is None or random is None or not random > energy.wasserstein2:
        return None
    return own - energy.wasserstein2 <= RULES.transport_gap * (random - energy.wasserstein2)


def aligned(run: Run) -> bool | None:
    """Test whether the alignment of first and last class means is at least that of the rules."""
    alignment = last_entry("alignment.alignment")(run)
    return None if alignment is None else alignment >= RULES.alignment


def within_decay_bound(run: Run) -> bool | None:
    """Test whether every block adds at most what its weights allow; None where they bound nothing."""
    found = run.last.weight_decay
    if found is None or not found.is_bound:
        return None
    chains = [(block.energy, block.by_moment, block.by_weights) for block in found.blocks]
    if any(value is None for chain in chains for value in chain):
        return None
    return all(a <= b * (1 + _ROUNDING) for chain in chains for a, b in pairwise(chain) if a is not None and b is not None)
