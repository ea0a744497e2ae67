"""Checks of what users hand to the surrogate models."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, get_args

from torch import Tensor


def check_positive(**numbers: float) -> None:
    """Check that numbers are finite and positive."""
    for name, number in numbers.items():
        if not (math.isfinite(number) and number > 0):
            raise ValueError(f"{name} must be finite and positive, got {number}. Pass a number above 0.")


def check_choice(name: str, word: str, literal: Any) -> None:
    """Check that a word is one of those of a Literal type."""
    *others, last = map(repr, get_args(literal))
    if word not in get_args(literal):
        raise ValueError(f"{name} must be {', '.join(others)} or {last}, got {word!r}. Pass one of these.")


def balanced(num_classes: int, samples: int) -> tuple[int, ...]:
    """Give the ``counts`` of balanced classes: the same number of samples for each of K classes.

    Returns:
        The number of samples, K times.

    Example:
        >>> balanced(3, 5)
        (5, 5, 5)
    """
    return (samples,) * num_classes


def check_counts(counts: Sequence[int]) -> None:
    """Check the numbers of samples of the classes."""
    if len(counts) < 2 or any(count != int(count) or count < 1 for count in counts):
        raise ValueError(
            f"counts must be positive integers, one for each of two or more classes, got {tuple(counts)}. "
            "Leave out classes without samples."
        )


def check_balanced(counts: Sequence[int], what: str, remedy: str = "Take the same number for every class.") -> None:
    """Check that all classes have the same number of samples."""
    if len(set(counts)) > 1:
        raise ValueError(f"{what} needs balanced classes, got counts {tuple(counts)}. {remedy}")


def check_finite(what: str, features: Tensor) -> None:
    """Check samples."""
    wrong = (~features.isfinite().all(dim=1)).nonzero()
    if len(wrong):
        raise ValueError(f"{what} needs finite features, got nan or inf in row {int(wrong[0])}. Clean the data.")
