"""What the tests of trainers share: data, a network with batch norm and dropout, what a callback must give."""

import os

import torch
from torch import nn

from ncollapse.probe import measure

K, DIM, N = 3, 5, 43


def data(seed=4):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(N) % K
    return torch.randn(N, DIM, generator=generator) + 0.5 * labels.unsqueeze(1), labels


def network(seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        first = nn.Linear(DIM, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.2)
        return nn.Sequential(*first, nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, K))


def state(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def expected(net, weights, **options):
    """The rows of the network with these weights, over all samples."""
    net.load_state_dict(weights)
    return measure(net, [data()], num_classes=K, **options)


def before_every_write(monkeypatch, act):
    """Call a function before every write to the disk; what it writes itself does not count."""
    acting = [False]

    def before(function):
        def call(*args, **kwargs):
            if not acting[0]:
                acting[0] = True
                act()
                acting[0] = False
            return function(*args, **kwargs)

        return call

    for name in ("replace", "link", "mkdir"):
        monkeypatch.setattr(os, name, before(getattr(os, name)))


class Killed(BaseException):
    """The process ends here."""


def killing(monkeypatch, at):
    """Let the at-th write to the disk kill, before it happens; nothing is written after it."""
    count = [0]

    def before(function):
        def call(*args, **kwargs):
            count[0] += 1
            if 0 < at <= count[0]:
                raise Killed
            return function(*args, **kwargs)

        return call

    for name in ("replace", "link", "mkdir"):
        monkeypatch.setattr(os, name, before(getattr(os, name)))
    return count
