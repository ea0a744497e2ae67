"""Where the straight line starts or ends without class information: what its theorems ask for then holds of itself."""

from ncollapse.records.reading import Run

__all__ = ["coincident", "say_vacuous"]


def coincident(run: Run, metric: str) -> list[str]:
    """The ends of the line at which a metric is undefined though not at every layer."""
    # A class without samples leaves all layers undefined; at an end alone, the class means coincide for ``pfc1``, and all
    # features for ``nc1_total``, as those of a class token before the first block.
    values = run.over_depth(metric)
    if not any(value is not None for value in values):
        return []
    return [name for name, value in (("starts", values[0]), ("ends", values[-1])) if value is None]


def say_vacuous(run: Run) -> list[str]:
    """What there is to say of the theorems about the line where all class means of an end coincide."""
    layers, points = {"starts": run.layers[0], "ends": run.layers[-1]}, coincident(run, "nc1_total")
    return [_say(layers[end], end, end in points) for end in coincident(run, "pfc1")]


def _say(layer: str, end: str, is_point: bool) -> str:
    what, whose = ("features", "samples, any pairing of which is optimal transport") if is_point else ("class means", "classes")
    return (
        f"At {layer}, where the straight line {end}, all {what} coincide: there is no class information, the line {end} at one "
        f"point for all {whose}, and what the theorems about the line ask for is met by any network or undefined: it says "
        "nothing about learning."
    )
