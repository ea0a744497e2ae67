"""Equality of values that hold tensors: by identity, since tensors compare element by element and have no one truth."""

import dataclasses
import importlib
import pkgutil
import typing
from collections.abc import Callable

import pytest
import torch

import ncollapse
from ncollapse.statistics import ClassMoments

# What needs libraries that may be missing holds no such value.
OPTIONAL = {
    "ncollapse.__main__",
    "ncollapse.integrations.lightning",
    "ncollapse.integrations.torchmetrics",
    "ncollapse.integrations.transformers",
}


def dataclasses_of_the_package():
    for found in pkgutil.walk_packages(ncollapse.__path__, "ncollapse."):
        if found.name not in OPTIONAL:
            for value in vars(importlib.import_module(found.name)).values():
                if isinstance(value, type) and dataclasses.is_dataclass(value) and value.__module__ == found.name:
                    yield value


def holds_tensor(kind, above=()):
    """Whether values of a type hold a tensor, themselves or in what they hold; a type may hold values of its own kind."""
    if isinstance(kind, type) and issubclass(kind, torch.Tensor):
        return True
    inner, within = typing.get_args(kind), (*above, kind)
    if dataclasses.is_dataclass(kind):
        unknown = {"ProcessGroup": object}
        hints = typing.get_type_hints(kind, localns=unknown)
        inner = [hints[item.name] for item in dataclasses.fields(kind)]
    elif hasattr(kind, "_fields"):
        inner = typing.get_type_hints(kind).values()
    return typing.get_origin(kind) is not Callable and any(holds_tensor(item, within) for item in inner if item not in above)


HOLDING = [kind for kind in dataclasses_of_the_package() if holds_tensor(kind)]


def test_the_walk_finds_them():
    assert len(HOLDING) > 20
    assert ClassMoments in HOLDING


@pytest.mark.parametrize("kind", HOLDING, ids=lambda kind: f"{kind.__module__}.{kind.__name__}")
def test_values_with_tensors_are_equal_only_to_themselves(kind):
    assert kind.__eq__ is object.__eq__
    assert kind.__hash__ is object.__hash__


def test_a_comparison_raises_nothing():
    one, other = (ClassMoments.from_batch(torch.eye(2), torch.tensor([0, 1]), 2) for _ in range(2))
    assert one != other
    assert one == one
    assert len({one, other}) == 2
