"""Which runs a claim is about: by what they were trained on and how their layers are connected."""

from ncollapse.report.reading import Run

__all__ = [
    "RESIDUAL",
    "has_any_connections",
    "has_other_connections",
    "has_random_labels",
    "has_squared_error",
    "is_papers",
    "setting",
]

RESIDUAL = "residual"


def setting(run: Run, field: str) -> object:
    """A setting of a run's recipe.

    Args:
        run: The run.
        field: Its dotted name.

    Returns:
        Its value; None where the recipe has no such field, as in runs of earlier versions.
    """
    group, _, leaf = field.rpartition(".")
    entries = run.recipe_entries.get(group)
    return entries.get(leaf) if isinstance(entries, dict) else None


def _kind(run: Run) -> tuple[object, object, object]:
    """Loss, share of labels drawn anew, and architecture; a field that a recipe lacks has the value of the paper's setting."""
    return (
        setting(run, "train.loss") or "cross_entropy",
        setting(run, "data.corrupt") or 0.0,
        _architecture(run),
    )


def _architecture(run: Run) -> object:
    """How layers are connected, in the paper's kinds of networks; the kind of any other."""
    kind = setting(run, "model.kind")
    return setting(run, "model.connections") or RESIDUAL if kind in {None, "conv_resnet"} else kind


def is_papers(run: Run) -> bool:
    """A residual network with cross-entropy and the labels of the data set: what the claims of the paper are about."""
    return _kind(run) == ("cross_entropy", 0.0, RESIDUAL)


def has_squared_error(run: Run) -> bool:
    """The same with the mean squared error."""
    return _kind(run) == ("mse", 0.0, RESIDUAL)


def has_random_labels(run: Run) -> bool:
    """The same with every label drawn anew."""
    return _kind(run) == ("cross_entropy", 1.0, RESIDUAL)


def has_any_connections(run: Run) -> bool:
    """The paper's setting, with layers connected in any way."""
    return _kind(run)[:2] == ("cross_entropy", 0.0)


def has_other_connections(run: Run) -> bool:
    """The paper's setting, with layers connected in another way."""
    return has_any_connections(run) and not is_papers(run)
