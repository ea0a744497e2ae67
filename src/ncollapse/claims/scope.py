"""Which runs a claim is about: by what they were trained on and how their layers are connected."""

from ncollapse.records.reading import Run

__all__ = [
    "RESIDUAL",
    "has_any_network",
    "has_other_network",
    "has_random_labels",
    "has_squared_error",
    "is_papers",
    "setting",
]

RESIDUAL = "residual"


def setting(run: Run, field: str) -> object:
    """A setting of a run's recipe."""
    group, _, leaf = field.rpartition(".")
    entries = run.recipe_entries.get(group)
    return entries.get(leaf) if isinstance(entries, dict) else None


def _training(run: Run) -> tuple[object, object]:
    """Loss and share of labels drawn anew; a field that a recipe lacks has the value of the paper's setting."""
    return setting(run, "train.loss") or "cross_entropy", setting(run, "data.corrupt") or 0.0


def _is_residual(run: Run) -> bool:
    """Whether the network is one of the paper's: fully connected or convolutional, with skip connections and no others."""
    kind, connections = setting(run, "model.kind"), setting(run, "model.connections")
    return kind in {None, "conv_resnet"} and connections in {None, RESIDUAL}


def is_papers(run: Run) -> bool:
    """A residual network with cross-entropy and the labels of the data set: what the claims of the paper are about."""
    return _is_residual(run) and _training(run) == ("cross_entropy", 0.0)


def has_squared_error(run: Run) -> bool:
    """The same with the mean squared error."""
    return _is_residual(run) and _training(run) == ("mse", 0.0)


def has_random_labels(run: Run) -> bool:
    """The same with every label drawn anew."""
    return _is_residual(run) and _training(run) == ("cross_entropy", 1.0)


def has_any_network(run: Run) -> bool:
    """The paper's training, of any network."""
    return _training(run) == ("cross_entropy", 0.0)


def has_other_network(run: Run) -> bool:
    """The paper's training, of another network than the paper's."""
    return has_any_network(run) and not _is_residual(run)
