"""Checks of what users hand to the surrogate models."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor


def check_positive(**numbers: float) -> None:
    """Check that numbers are finite and positive."""
    for name, number in numbers.items():
        if not (math.isfinite(number) and number > 0):
            raise ValueError(f"{name} must be finite and positive, got {number}.")


def balanced(num_classes: int, per_class: int) -> tuple[int, ...]:
    """The counts of balanced classes, for the models that take ``counts``.

    Args:
        per_class: n, samples of each class.

    Returns:
        n, K times.

    Example:
        >>> balanced(3, 5)
        (5, 5, 5)
    """
    return (per_class,) * num_classes


def check_counts(counts: Sequence[int]) -> None:
    """Check the numbers of samples of the classes."""
    if len(counts) < 2 or any(count != int(count) or count < 1 for count in counts):
        raise ValueError(f"counts must be positive integers, one for each of two or more classes, got {tuple(counts)}.")


def check_balanced(counts: Sequence[int], what: str) -> None:
    """Check that all classes have as many samples."""
    if len(set(counts)) > 1:
        raise ValueError(f"{what} needs balanced classes, got counts {tuple(counts)}. Solve it numerically: solve().")


def check_finite(what: str, features: Tensor) -> None:
    """Check samples."""
    wrong = (~features.isfinite().all(dim=1)).nonzero()
    if len(wrong):
        raise ValueError(f"{what} needs finite features, got nan or inf in row {int(wrong[0])}. Clean the data.")
