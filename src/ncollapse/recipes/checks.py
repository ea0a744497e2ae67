"""Checks that the parts of a recipe share, with one wording each."""

from typing import Any, get_args

from ncollapse.near_words import near_words


def check_choice(field: str, value: object, choices: Any) -> None:
    """Check that a field is one of the words of a Literal."""
    if value not in get_args(choices):
        advice = near_words(str(value), get_args(choices)) or "Pick one of them."
        raise ValueError(f"{field} must be one of {', '.join(get_args(choices))}, got {value!r}. {advice.rstrip()}")


def check_least(field: str, value: float, least: int) -> None:
    """Check that a number is not too small."""
    if value < least:
        raise ValueError(f"{field} must be {least} or more, got {value}. Pass a larger integer.")
