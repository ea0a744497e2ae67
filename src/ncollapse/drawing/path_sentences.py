"""The path of the features through the layers: straightness, optimal transport and what bounds the energy, in words."""

from ncollapse.drawing.theory_sentences import coincident
from ncollapse.drawing.wording import number
from ncollapse.records.depth import Energy, ExcessEnergy
from ncollapse.records.reading import Run
from ncollapse.records.recipe_settings import setting
from ncollapse.records.theorems import CollapsedOptimality, Numbers


def say_straightness(run: Run) -> str:
    """How straight the paths of the samples are through the layers, and what their detours cost."""
    straight, energy = run.last.straightness, run.last.energy
    mean, median = (straight.mean, straight.median) if straight else (None, None)
    score = straight.line_shape_score_mean if straight else None
    return (
        f"Straightness (chord over path length of the features; 1 is straight): mean {number(mean)}, median {number(median)}. "
        f"Line-shape score (1 is straight): {number(score)}. Energy efficiency (energy of a straight path at constant speed "
        f"over the energy spent; 1 is best): {number(energy.efficiency if energy else None)}."
    )


def say_transport(run: Run) -> list[str]:
    """How optimal the pairings with the last features and with their class means are; from or to one point any is."""
    if coincident(run, "nc1_total"):
        return []
    return [
        *_say_score(run.last.energy),
        *_say_excess(run.last.excess, run.layers),
        *_say_collapsed_optimality(run.last.collapsed_optimality),
    ]


def _say_score(energy: Energy | None) -> list[str]:
    """How optimal the network's pairing of first and last features is; nothing where it was not computed."""
    if energy is None or energy.wasserstein2 is None or not energy.identity_cost_sample:
        return []
    said = (
        f"Optimal transport score on {energy.num_samples_wasserstein:,} samples (squared Wasserstein-2 distance of first and "
        f"last features over the cost of the network's own pairing; 1 is optimal): {number(energy.transport_score)}."
    )
    if energy.random_ratio is not None:
        said += f" A random pairing costs {number(energy.random_ratio)} times the best."
    if energy.pair_violation_rate is not None and energy.num_pairs:
        crossing = round(energy.pair_violation_rate * energy.num_pairs)
        said += f" Of {energy.num_pairs:,} pairs of samples, {crossing:,} would gain by a swap."
    return [said]


def _say_excess(found: ExcessEnergy | None, layers: tuple[str, ...]) -> list[str]:
    """Say where the path breaks off from a geodesic: by uneven steps, by bends or by its pairing, and at which blocks."""
    if found is None or found.speed_share is None or not found.energy or not found.wasserstein2:
        return []
    blocks = layers[1:]
    said = (
        f"The paths spend {number(found.energy / found.wasserstein2)} times the energy of a geodesic with even steps (squared "
        f"Wasserstein-2 distance). The excess has three parts: uneven steps {number(found.speed_share)}"
        f"{_most(found.speed, blocks)}, bends {number(found.bend_share)}{_most(found.bend, blocks)}, and a pairing of first "
        f"and last features that is not optimal {number(found.pairing_share)}."
    )
    if found.detour is not None:
        said += f" The Wasserstein-2 distances between consecutive layers add up to {number(found.detour)} times the distance "
        said += "between first and last layer; 1 means that the layers lie on a geodesic."
    return [said]


def _most(parts: Numbers, blocks: tuple[str, ...]) -> str:
    """Name the block with the largest part, and its share."""
    known = [part or 0.0 for part in parts]
    if len(known) != len(blocks) or len(known) < 2 or not sum(known) > 0:
        return ""
    return f" ({number(max(known) / sum(known))} of it at {blocks[known.index(max(known))]})"


def _say_collapsed_optimality(verdict: CollapsedOptimality | None) -> list[str]:
    """State the exact test for a collapsed end: the map onto the last class means is optimal, or a cycle improves it."""
    if verdict is None or verdict.optimal is None:
        return []
    said = "Suppose that every sample ended exactly at the last layer's mean of its class. "
    if verdict.optimal:
        return [
            f"{said}Then the network's pairing of first and last features is optimal transport, because a linear classifier "
            "with these means as weights makes no error on the first features (ties count as right)."
        ]
    said += "Then the network's pairing of first and last features is not optimal transport. "
    if verdict.cycle:
        classes = " → ".join(str(k) for k in (*verdict.cycle, verdict.cycle[0]))
        said += f"A better one takes a sample of each class in {classes} and sends it to the mean of the next class: the sum "
        said += f"of squared distances falls by {number(verdict.gain)}."
    return [said.rstrip()]


def say_bounds(run: Run) -> list[str]:
    """State how much of what its parameters allow a network's blocks add, and whether weight decay reaches what bounds it."""
    found = run.last.weight_decay
    if found is None or found.tightness is None:
        return []
    said = (
        f"The energy E‖f(h)‖² of all blocks together is {number(found.tightness)} times the bound that their parameters and "
        "inputs set."
    )
    if setting(run, "model.normalization") in {None, "none"}:
        return [said]
    said += " In a block that normalizes, it depends on scale and shift of the last normalization and on the layer behind it."
    if setting(run, "train.decay") == "all":
        return [f"{said} Weight decay acts on all of them."]
    return [
        f"{said} Here weight decay does not act on scale and shift, so it does not limit the energy (train.decay=all would)."
    ]
