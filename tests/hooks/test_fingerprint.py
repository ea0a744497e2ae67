"""Digests of a network by name: each attribute that changes is named, and counters are not."""

import random

import numpy as np
import pytest
import torch
from torch import nn

from ncollapse.hooks.snapshot import differing, fingerprint

CHANGES = {
    "flag": lambda module: setattr(module, "flag", True),
    "nothing": lambda module: setattr(module, "nothing", False),
    "thing": lambda module: setattr(module, "thing", object()),
    "tensor": lambda module: module.tensor.add_(1),
    "hooks": lambda module: module.hooks.append(print),
    "key": lambda module: module.key.update({True: module.key.pop(False)}),
    "deep": lambda module: module.deep[0]["inner"].add_(1),
    "numbers": lambda module: module.numbers.__setitem__(0, 5.0),
    "dice": lambda module: module.dice.random(),
    "coins": lambda module: module.coins.random(),
    "drawn": lambda module: torch.rand(1, generator=module.drawn),
}


def network():
    module = nn.Linear(2, 2)
    module.flag, module.nothing, module.thing = False, None, object()
    module.tensor, module.hooks, module.key = torch.zeros(2), [print], {False: print}
    module.deep, module.numbers = ({"inner": torch.zeros(1)}, None), np.zeros(3)
    module.dice, module.coins, module.drawn = np.random.default_rng(0), random.Random(0), torch.Generator()
    module.count, module.words = 3, ["one"]
    return nn.Sequential(module)


@pytest.mark.parametrize("name", CHANGES)
def test_what_changes_is_named(name):
    model = network()
    before = fingerprint(model)
    assert differing(before, fingerprint(model)) == []
    CHANGES[name](model[0])
    assert differing(before, fingerprint(model)) == [f"attribute {name!r} of module '0'"]


def test_counters_and_words_are_no_change():
    model = network()
    before = fingerprint(model)
    model[0].count, model[0].words = 4.5, ["two", "three"]
    assert differing(before, fingerprint(model)) == []
