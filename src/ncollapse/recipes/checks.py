"""Checks that the parts of a recipe share, with one wording each."""

from dataclasses import fields
from typing import Any, Literal, get_args, get_origin

from ncollapse.near_words import near_words

LARGEST_SEED = (1 << 63) - 1


def check_choices(part: str, config: Any) -> None:
    """Check that every field whose type is a Literal is one of its words."""
    for item in fields(config):
        value, choices = getattr(config, item.name), get_args(item.type)
        if get_origin(item.type) is Literal and value not in choices:
            advice = near_words(str(value), choices) or "Pick one of them."
            raise ValueError(f"{part}.{item.name} must be one of {', '.join(choices)}, got {value!r}. {advice.rstrip()}")


def check_least(field: str, value: float, least: int) -> None:
    """Check that a number is not too small."""
    if value < least:
        raise ValueError(f"{field} must be {least} or more, got {value}. Pass a larger integer.")


def check_most(field: str, value: float, most: int) -> None:
    """Check that a number is not too large for any computer that this runs on: a recipe may come from anybody."""
    if value > most:
        raise ValueError(f"{field} must be at most {most}, got {value:.4g}. Pass a smaller number.")
