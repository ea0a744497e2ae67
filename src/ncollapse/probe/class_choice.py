"""The choice of classes: all that labels may have, those that occur, or some by index."""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from ncollapse.hooks.batch_io import Unpack, next_tokens
from ncollapse.statistics.selection import ClassSelection

ClassChoice = Literal["all", "present"] | Sequence[int] | Tensor
# More class indices than this are not listed in words.
_LISTED = 8


class ChosenClasses(NamedTuple):
    """The classes to measure, None for all, and in words what was left out."""

    selection: ClassSelection | None = None
    words: str = ""


def default_classes(unpack: Unpack) -> ClassChoice:
    """Return the choice if the user made none: most tokens of a vocabulary never occur."""
    return "present" if unpack is next_tokens else "all"


def check_classes(choice: ClassChoice, num_classes: int) -> tuple[int, ...] | None:
    """Check the user's choice, and return the named classes in ascending order; None for a word."""
    if isinstance(choice, str):
        if choice not in ("all", "present"):
            raise ValueError(f"classes must be 'all', 'present' or class indices, got {choice!r}. Name indices as [0, 3, 7].")
        return None
    try:
        if any(isinstance(item, bool) for item in choice):
            raise TypeError("a mask")
        named = [operator.index(item) for item in choice]
    except TypeError as error:
        raise TypeError(
            f"classes must be 'all', 'present' or integer class indices, got {choice!r}. Name indices as [0, 3, 7]."
        ) from error
    outside = [index for index in named if not 0 <= index < num_classes]
    if outside:
        raise ValueError(f"classes must be in [0, {num_classes}), got {_listed(outside)}. Check num_classes.")
    twice = [index for index, count in Counter(named).items() if count > 1]
    if twice:
        raise ValueError(f"classes must name every class once, got {_listed(twice)} more than once. Name each once.")
    if len(named) < 2:
        raise ValueError(f"classes must name at least two classes, got {named}. One class alone has no geometry.")
    return tuple(sorted(named))


def check_min_per_class(number: int) -> None:
    """Check the least number of samples of a class."""
    if isinstance(number, bool) or not isinstance(number, int) or number < 0:
        raise ValueError(f"min_per_class must be an integer, at least 0, got {number!r}. Pass a number of samples, or 0.")


def chosen_classes(
    choice: ClassChoice, min_per_class: int, counts: Tensor, reference: tuple[int, ...] | None = None
) -> ChosenClasses:
    """Choose classes by their final counts, and by the classes that the reference has."""
    named = check_classes(choice, len(counts))
    if named is None and choice == "all" and min_per_class == 0:
        return ChosenClasses()
    asked, known = _mask(named, len(counts)), _mask(reference, len(counts))
    kept = asked & known & (counts >= min_per_class)
    if named is not None:
        _check_named(asked, counts, known, min_per_class)
    elif choice == "present":
        kept &= counts > 0
    if int(kept.sum()) < 2:
        raise ValueError(
            f"At least two classes must be left to measure, got {int(kept.sum())} of {len(counts)}: {int((counts > 0).sum())} "
            f"have samples, at most {int(counts.max())} of one class. Choose other classes, or a smaller min_per_class."
        )
    if bool(kept.all()):
        return ChosenClasses()
    words = _left_out(kept, [(~asked, "not named"), (~known, "not in the reference"), (counts == 0, "without samples"),
                             (counts < min_per_class, f"with fewer than {min_per_class} samples")], counts)  # fmt: skip
    return ChosenClasses(ClassSelection(kept.nonzero().flatten(), len(counts)), words)


def _mask(classes: tuple[int, ...] | None, num_classes: int) -> Tensor:
    """Return a mask of some classes, or of all."""
    mask = torch.full((num_classes,), classes is None)
    mask[list(classes or ())] = True
    return mask


def _check_named(asked: Tensor, counts: Tensor, known: Tensor, min_per_class: int) -> None:
    """Check that the classes which the user named have samples, and that the reference has them."""
    missing = (asked & ~known).nonzero().flatten().tolist()
    if missing:
        raise ValueError(
            f"reference must have all named classes, but not {_listed(missing)}. Measure the reference with the same classes."
        )
    empty = (asked & (counts == 0)).nonzero().flatten().tolist()
    if empty and min_per_class == 0:
        raise ValueError(
            f"Named classes must have samples, but class {_listed(empty)} has none. Leave it out, or pass min_per_class=1."
        )


def _left_out(kept: Tensor, reasons: Sequence[tuple[Tensor, str]], counts: Tensor) -> str:
    """Say how many classes are measured, how many are not and why, and how many samples those have."""
    parts, rest = [], ~kept
    for holds, reason in reasons:
        here = rest & holds
        rest = rest & ~holds
        if bool(here.any()):
            samples = int(counts[here].sum())
            plural = "" if samples == 1 else "s"
            parts.append(f"{int(here.sum())} {reason}" + (f" ({samples} sample{plural})" if samples else ""))
    indices = kept.nonzero().flatten().tolist()
    listed = f" ({_listed(indices)})" if len(indices) <= _LISTED else ""
    return f"{len(indices)} of {len(kept)} classes{listed}; left out: {', '.join(parts)}"


def _listed(indices: Sequence[int]) -> str:
    more = f" and {len(indices) - _LISTED} more" if len(indices) > _LISTED else ""
    return ", ".join(map(str, indices[:_LISTED])) + more
