"""The choice of the layers that paths run through: the longest run of layers of one dimension, or layers by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ncollapse.groups import raised_as_itself

# True for the longest run, or names of layers or of modules around them; False follows no paths.
PathChoice = bool | str | Sequence[str]


@raised_as_itself
class NoPathError(ValueError):
    """The layers do not allow a path, since no two in a row have one dimension."""


def check_path(choice: PathChoice) -> None:
    """Check the form of the user's choice."""
    named = [choice] if isinstance(choice, str) else choice
    if not isinstance(named, bool) and not (isinstance(named, Sequence) and all(isinstance(name, str) for name in named)):
        raise TypeError(
            f"path must be True, False, or names of layers, got {choice!r}. Name layers or modules around them, as 'layer3'."
        )
    if not isinstance(named, bool) and not all(named or [""]):
        raise ValueError(f"path must name layers, got {choice!r}. Pass True for the longest run of layers of one dimension.")


def path_layers(dims: Mapping[str, int], choice: PathChoice = True) -> tuple[str, ...]:
    """Return the layers of the paths, in order of depth, given the dimension of every layer in that order."""
    # A path is a sum of differences between layers, so its layers need one dimension. A residual network of several stages has
    # one dimension in each stage, and a pooled layer in front of the classifier has another one.
    names = _longest_run(dims) if isinstance(choice, bool) else _named(dims, choice)
    if len(names) < 2 or len({dims[name] for name in names}) != 1:
        found = dims if isinstance(choice, bool) else {name: dims[name] for name in names}
        in_a_row = " in a row" if isinstance(choice, bool) else ""
        error = NoPathError if isinstance(choice, bool) else ValueError
        raise error(f"A path needs at least two layers of one dimension{in_a_row}, got {dict(found)}. {_advice(dims)}")
    return names


def path_words(dims: Mapping[str, int], layers: Sequence[str]) -> str:
    """Say which layers the paths run through; nothing if they run through all."""
    if not layers or len(layers) == len(dims):
        return ""
    return f"path through {len(layers)} of {len(dims)} layers, {layers[0]} to {layers[-1]} (dimension {dims[layers[0]]})"


def _longest_run(dims: Mapping[str, int]) -> tuple[str, ...]:
    """Return the longest run of layers of one dimension; of several, the deepest, since collapse grows with depth."""
    runs: list[tuple[str, ...]] = []
    for name, dim in dims.items():
        if runs and dims[runs[-1][-1]] == dim:
            runs[-1] += (name,)
        else:
            runs.append((name,))
    return max(reversed(runs), key=len)


def _named(dims: Mapping[str, int], choice: str | Sequence[str]) -> tuple[str, ...]:
    """Return the layers that are named, or that lie inside of named modules."""
    found: set[str] = set()
    for wanted in [choice] if isinstance(choice, str) else choice:
        # A layer's name may end in its pool, as in "layer1.0:mean".
        inside = {name for name in dims if name == wanted or name.startswith((f"{wanted}.", f"{wanted}:"))}
        if not inside:
            raise ValueError(
                f"path must name measured layers or modules around them, got {wanted!r}. Layers measured: {', '.join(dims)}."
            )
        found |= inside
    return tuple(name for name in dims if name in found)


def _advice(dims: Mapping[str, int]) -> str:
    """Name the layers of the most common dimension."""
    alike = max(([name for name in dims if dims[name] == dim] for dim in dims.values()), key=len)
    named = f", such as {', '.join(alike)}" if len(alike) > 1 else ""
    return f"Choose layers of one dimension{named}."
