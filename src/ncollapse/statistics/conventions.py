"""Conventions: how papers and published codes weigh classes of unequal size, and other differences of their metrics."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

ClassWeights = Literal["class", "sample"]
Convention = Literal["class", "sample", "papyan", "papyan_notebook", "zhu", "he_su"]


@dataclass(frozen=True)
class ConventionParts:
    """The parts of a convention (docs/theory.md, 1.2).

    Attributes:
        within: Class weights of Σ_W.
        between: Class weights of Σ_B.
        center: Class weights of the global mean, around which Σ_B, NC2, NC3 and GNC2 take the class means.
        ddof: What a standard deviation over classes subtracts from their number.
        nc1_per_class: Whether NC1 is divided by the number of classes.
    """

    within: ClassWeights
    between: ClassWeights
    center: ClassWeights
    ddof: int = 0
    nc1_per_class: bool = True


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
