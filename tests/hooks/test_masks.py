"""Padding that no argument of a known name marks: lengths, masks of other names, and padding in the token ids themselves."""

import pytest
import torch
from torch import nn

import reference
from ncollapse import find_layers, measure, watch

K, N, T, D = 3, 30, 6, 8
GENERATOR = torch.Generator().manual_seed(0)
Y = torch.arange(N) % K
IDS = torch.randint(1, 20, (N, T), generator=GENERATOR)
LENGTHS = torch.randint(2, T + 1, (N,), generator=GENERATOR)
REAL = torch.arange(T) < LENGTHS[:, None]


class Encoder(nn.Module):
    """Reads the mean of the real tokens, or the last of them."""

    def __init__(self, pool, padding=None):
        super().__init__()
        self.embed = nn.Embedding(20, D, padding_idx=padding)
        self.blocks = nn.ModuleList([nn.TransformerEncoderLayer(D, 2, 12, batch_first=True) for _ in range(2)])
        self.pool, self.head = pool, nn.Linear(D, K)

    def read(self, ids, real):
        h = self.embed(ids)
        for block in self.blocks:
            h = block(h, src_key_padding_mask=~real)
        if self.pool == "mean":
            return self.head((h * real.unsqueeze(2)).sum(dim=1) / real.sum(dim=1, keepdim=True))
        return self.head(h[torch.arange(len(h)), real.sum(dim=1) - 1])


class ByLengths(Encoder):
    def forward(self, ids, lengths):
        return self.read(ids, torch.arange(ids.shape[1]) < lengths.unsqueeze(1))


class ById(Encoder):
    def forward(self, ids):
        return self.read(ids, ids != 0)


class ByMarks(Encoder):
    def forward(self, ids, kinds, valid):
        return self.read(ids, valid.bool())


class ByPadding(Encoder):
    def forward(self, ids, is_pad):
        return self.read(ids, ~is_pad)


# The second argument of ByMarks is no mask, but has zeros and ones as well.
KINDS = torch.randint(0, 2, (N, T), generator=GENERATOR)
NETWORKS = {
    "lengths": (ByLengths, lambda ids, real: (ids, real.sum(dim=1)), "padding behind the lengths in argument 2"),
    "ids": (ById, lambda ids, real: (ids * real,), "padding where argument 1 is 0"),
    "declared id": (lambda pool: ById(pool, 0), lambda ids, real: (ids * real,), "padding where argument 1 is 0"),
    "marks": (ByMarks, lambda ids, real: (ids, KINDS, real.long()), "padding where argument 3 is 0"),
    "padding": (ByPadding, lambda ids, real: (ids, ~real), "padding where argument 2 is 1"),
}


def made(name, pool):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        return NETWORKS[name][0](pool).train()


def batches(name, real):
    inputs = NETWORKS[name][1](IDS, real)
    return [(tuple(part[i : i + 10] for part in inputs), Y[i : i + 10]) for i in range(0, N, 10)]


def oracle(network, inputs, real):
    """PFC1 of each block from outputs that plain hooks copy, token by token."""
    kept = []
    for block in network.blocks:
        block.register_forward_hook(lambda _, __, output: kept.append(output.detach().double()))
    with torch.no_grad():
        network.eval()(*inputs)
    found = []
    for tokens in kept:
        real_tokens = [sample[mask] for sample, mask in zip(tokens, real, strict=True)]
        rows = torch.stack([part.mean(dim=0) if network.pool == "mean" else part[-1] for part in real_tokens])
        found.append(reference.feature_metrics(rows.numpy(), Y.numpy(), K)["pfc1"])
    return found


@pytest.mark.parametrize("first_are_padded", [True, False])
@pytest.mark.parametrize("pool", ["mean", "last_token"])
@pytest.mark.parametrize("name", NETWORKS)
def test_padding_is_read_as_the_network_reads_it(name, pool, first_are_padded):
    real = REAL.clone()
    real[:2] = torch.arange(T) < (3 if first_are_padded else T)
    m = measure(made(name, pool), batches(name, real), num_classes=K)
    expected = oracle(made(name, pool), NETWORKS[name][1](IDS, real), real)
    layers = [f"blocks.{i}:{pool}" for i in range(2)]
    assert [m.value("pfc1", layer) for layer in layers] == pytest.approx(expected, rel=1e-4)
    assert NETWORKS[name][2] in m.chosen


def test_a_first_batch_without_padding():
    real = REAL.clone()
    real[:10] = True
    m = measure(made("lengths", "mean"), batches("lengths", real), num_classes=K)
    expected = oracle(made("lengths", "mean"), NETWORKS["lengths"][1](IDS, real), real)
    assert [m.value("pfc1", f"blocks.{i}:mean") for i in range(2)] == pytest.approx(expected, rel=1e-4)


def test_padding_that_no_batch_has_shown_yet_is_an_error():
    real = REAL.clone()
    real[:10] = True
    with pytest.raises(ValueError, match=r"'blocks.1:mean' must be what 'head.input' is in every batch .* attention_mask"):
        measure(made("ids", "mean"), batches("ids", real), num_classes=K)


def test_a_watched_loop_reads_padding_as_measure_does():
    network = made("lengths", "mean").eval()
    with watch(network, num_classes=K, mode="eval") as watched, torch.no_grad():
        for inputs, labels in batches("lengths", REAL):
            network(*inputs)
            watched.update(labels)
    m = measure(network, batches("lengths", REAL), num_classes=K)
    assert [row.value for row in watched.compute().rows] == pytest.approx([row.value for row in m.rows], rel=1e-6, nan_ok=True)


def test_find_layers_names_the_padding():
    assert "padding behind the lengths" in find_layers(made("lengths", "mean"), (IDS, LENGTHS), num_classes=K).why
