"""Conventions: how papers and published codes weigh classes of unequal size, and other differences of their metrics."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

ClassWeights = Literal["class", "sample"]
Convention = Literal["class", "sample", "papyan", "papyan_notebook", "zhu", "he_su"]


@dataclass(frozen=True)
class ConventionParts:
    """The parts of a convention (docs/theory.md, 1.2)."""

    within: ClassWeights  # class weights of Σ_W
    between: ClassWeights  # class weights of Σ_B
    center: ClassWeights  # class weights of the global mean, around which Σ_B, NC2, NC3 and GNC2 take the class means
    ddof: int = 0  # what a standard deviation over classes subtracts from their number
    nc1_per_class: bool = True  # whether NC1 is divided by the number of classes


CONVENTIONS: dict[Convention, ConventionParts] = {
    "class": ConventionParts("class", "class", "class"),
    "sample": ConventionParts("sample", "sample", "sample"),
    "papyan": ConventionParts("sample", "class", "class"),
    "papyan_notebook": ConventionParts("sample", "class", "class", ddof=1, nc1_per_class=False),
    "zhu": ConventionParts("sample", "class", "sample"),
    "he_su": ConventionParts("sample", "sample", "sample"),
}


def convention_parts(convention: Convention) -> ConventionParts:
    """Look a convention up by name."""
    if convention not in CONVENTIONS:
        raise ValueError(
            f"convention must be one of {', '.join(get_args(Convention))}, got {convention!r}. "
            "If classes have equal counts, take 'class'."
        )
    return CONVENTIONS[convention]
