"""Conventions: the class weights that papers and published codes use for their covariances."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

ClassWeights = Literal["class", "sample"]
Convention = Literal["class", "sample", "papyan", "zhu", "he_su"]


@dataclass(frozen=True)
class ConventionParts:
    """The class weights of a convention's three parts (docs/theory.md, 1.2)."""

    within: ClassWeights
    between: ClassWeights
    center: ClassWeights


CONVENTIONS: dict[Convention, ConventionParts] = {
    "class": ConventionParts("class", "class", "class"),
    "sample": ConventionParts("sample", "sample", "sample"),
    "papyan": ConventionParts("sample", "class", "class"),
    "zhu": ConventionParts("sample", "class", "sample"),
    "he_su": ConventionParts("sample", "sample", "sample"),
}


def convention_parts(convention: Convention) -> ConventionParts:
    """Look a convention up by name."""
    if convention not in CONVENTIONS:
        raise ValueError(
            f"convention must be one of {', '.join(get_args(Convention))}, got {convention!r}. See docs/theory.md, 1.2."
        )
    return CONVENTIONS[convention]
