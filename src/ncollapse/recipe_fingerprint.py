"""The fingerprint of a recipe: equal for recipes whose runs have equal numbers."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

# Entries of a recipe on which no number depends.
NO_SETTINGS = {"name", "title", "description", "changed", "train.keep"}
# Fields that are younger than some recipes, which mean these. At these values they are left out of the fingerprint, so that
# older runs can still be resumed.
YOUNGER: dict[str, Any] = {
    "model.connections": "residual",
    "model.head": "linear",
    "model.embedding": "linear",
    "model.block_biases": True,
    "model.rounding": 0.0,
    "model.norm_rounding": 0.0,
    "decay_over_blocks": False,
    "train.optimizer": "sgd",
    "train.iterations": 20,
    "train.schedule": "steps",
    "train.precision": "float32",
    "train.deterministic": False,
    "train.compiled": False,
    "train.balance": "none",
    "data.largest_classes": None,
    "data.vocabulary": 10_000,
    "data.length": 256,
    "data.imbalance": 1.0,
    "data.minority": None,
    "data.labels": "fine",
    "data.downscale": 1,
    "measure.test": False,
}


def recipe_fingerprint(entries: Mapping[str, Any]) -> str:
    """Return a digest of the entries of ``recipe.json`` that numbers depend on: 16 hexadecimal digits."""
    content = {key: dict(value) if isinstance(value, Mapping) else value for key, value in entries.items()}
    for name in (*NO_SETTINGS, *YOUNGER):
        group, _, leaf = name.rpartition(".")
        held = content.get(group) if group else content
        if isinstance(held, dict) and leaf in held and (name in NO_SETTINGS or held[leaf] == YOUNGER[name]):
            del held[leaf]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
