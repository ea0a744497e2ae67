"""Conventions: which class weights the covariances of a paper or a code use."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

ClassWeights = Literal["class", "sample"]
Convention = Literal["class", "sample", "papyan", "zhu", "he_su"]


@dataclass(frozen=True)
class ConventionParts:
    """Which class weights a convention gives to each of its three parts (docs/theory.md, 1.2).

    Attributes:
        within: Weights of the class covariances in the within-class covariance.
        between: Weights of the outer products of the class means in the between-class covariance.
        center: Weights of the global mean that the between-class covariance is taken around.
    """

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
    """Look a convention up by name.

    Args:
        convention: "class" (every class weighs 1/K; the default everywhere), "sample" (class k weighs n_k/N), or a mixture
            found in published code: "papyan" (within by sample, between by class), "zhu" (the same, but centered at the sample
            mean), "he_su" (all by sample). All agree on balanced data.

    Returns:
        The weights of the three parts.

    Raises:
        ValueError: If the name is unknown.
    """
    if convention not in CONVENTIONS:
        raise ValueError(f"convention must be one of {', '.join(get_args(Convention))}, got {convention!r}.")
    return CONVENTIONS[convention]
