"""A small residual network and data for it."""

import torch


class Block(torch.nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.inner = torch.nn.Linear(dim, dim)

    def forward(self, x):
        return x + 0.7 * torch.tanh(self.inner(x))


class Residual(torch.nn.Module):
    collapse_stages = ("stem", "blocks.0", "blocks.1")

    def __init__(self, num_classes):
        super().__init__()
        self.stem = torch.nn.Linear(5, 6)
        self.blocks = torch.nn.Sequential(Block(6), Block(6))
        self.head = torch.nn.Linear(6, num_classes)

    def forward(self, x):
        return self.head(self.blocks(self.stem(x)))


def drawn(seed, num_classes, count):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % num_classes
    centers = 1.3 * torch.randn(num_classes, 5, generator=torch.Generator().manual_seed(9))
    return centers[labels] + torch.randn(count, 5, generator=generator), labels


def network(num_classes, seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Residual(num_classes)


def batches_of(pair):
    return list(zip(pair[0].split(16), pair[1].split(16), strict=True))
