"""Padding that no argument of a known name marks: lengths, masks of other names, and padding in the token ids themselves."""

import pytest
import torch
from torch import nn

import reference
from ncollapse import Tap, find_layers, measure, watch

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
    "padding": (ByPadding, lambda ids, real: (ids, ~real), "padding where is_pad is 1"),
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


PLAIN_IDS = torch.where(IDS < 15, IDS, 1)
ANY_PADDING = 15 + torch.arange(N)[:, None]


class Hidden(Encoder):
    """Ignores tokens of several ids, which no rule for padding fits."""

    def __init__(self, drop=0.0, tokens=False):
        super().__init__("mean")
        self.embed, self.drop, self.tokens = nn.Embedding(15 + N, D), nn.Dropout(drop), tokens

    def forward(self, ids):
        real = ids < 15
        h = self.embed(ids)
        for block in self.blocks:
            h = block(h, src_key_padding_mask=~real)
        pooled = self.drop((h * real.unsqueeze(2)).sum(dim=1) / real.sum(dim=1, keepdim=True))
        return {"logits": self.head(pooled), "tokens": h} if self.tokens else self.head(pooled)


class TokenLogits(Hidden):
    """Classifies every token, and averages the logits of the real ones."""

    def forward(self, ids):
        real = (ids < 15).unsqueeze(2)
        logits = self.head(self.blocks[0](self.embed(ids), src_key_padding_mask=~real[:, :, 0]))
        return (logits * real).sum(dim=1) / real.sum(dim=1)


def padded_from(start):
    """Token ids of which the samples from some number on are padded."""
    return torch.where(REAL | (torch.arange(N) < start)[:, None], PLAIN_IDS, ANY_PADDING)


def in_batches(ids):
    return [(ids[i : i + 10], Y[i : i + 10]) for i in range(0, N, 10)]


def watched(network, ids, train=True):
    with watch(network.train(train), num_classes=K, mode="train" if train else "eval") as watching, torch.no_grad():
        for part, labels in in_batches(ids):
            network(part)
            watching.update(labels)
    return watching.compute()


@pytest.mark.parametrize("start", [2, 10, 25])
@pytest.mark.parametrize(("train", "tokens"), [(True, True), (True, False), (False, True)])
def test_padding_in_a_watched_loop_is_rechecked_in_every_batch(start, train, tokens):
    with pytest.raises(ValueError, match="must be what 'drop' is in every batch as in the first samples"):
        watched(Hidden(tokens=tokens), padded_from(start), train)


def test_padding_before_dropout_shows_in_the_first_batch():
    with pytest.raises(ValueError, match="must be what 'drop' is in every batch as in the first samples"):
        watched(Hidden(0.5), padded_from(2))


@pytest.mark.parametrize("tokens", [True, False])
def test_a_watched_loop_that_drops_out_what_it_reads_goes_on(tokens):
    torch.manual_seed(0)
    network = Hidden(0.5, tokens)
    network.blocks.eval()
    network.train = lambda mode=True: network  # the blocks stay as they are
    m = watched(network, padded_from(N))
    assert m.value("pfc1", "blocks.1:mean") == pytest.approx(
        oracle(network, (padded_from(N),), torch.ones_like(REAL))[1], rel=1e-4
    )


@pytest.mark.parametrize("network", [TokenLogits, Hidden])
def test_numbers_that_are_not_finite_are_no_padding(network):
    network, ids = network(), PLAIN_IDS.clone()
    ids[:10] = torch.where(ids[:10] == 14, 8, ids[:10])
    network.embed.weight.data[14, 0] = torch.nan
    with pytest.raises(ValueError, match="Features must be finite"):
        measure(network, in_batches(ids), num_classes=K)


@pytest.mark.parametrize("start", [2, 10, 22])
def test_padding_of_tokens_that_are_classified_is_rechecked_in_every_batch(start):
    with pytest.raises(ValueError, match=r"'blocks.0.norm2:mean' must be the input of the classifier in every batch"):
        measure(TokenLogits(), in_batches(padded_from(start)), num_classes=K)


class TokenVotes(TokenLogits):
    """Averages the log-probabilities of the tokens, which are their logits up to a number that all classes share."""

    def forward(self, ids):
        return self.head(self.blocks[0](self.embed(ids))).log_softmax(dim=2).mean(dim=1)


@pytest.mark.parametrize("network", [TokenLogits, TokenVotes])
def test_tokens_that_are_classified_without_padding(network):
    network = network().eval()
    m = measure(network, in_batches(PLAIN_IDS), num_classes=K)
    with torch.no_grad():
        rows = network.blocks[0](network.embed(PLAIN_IDS)).double().mean(dim=1)
        right = (network.double()(PLAIN_IDS).argmax(dim=1) == Y).double().mean()
    expected = reference.feature_metrics(rows.numpy(), Y.numpy(), K)["pfc1"]
    assert m.value("pfc1", m.layers[-1]) == pytest.approx(expected, rel=1e-4)
    assert m.value("accuracy") == pytest.approx(float(right))


def test_find_layers_names_the_padding():
    assert "padding behind the lengths" in find_layers(made("lengths", "mean"), (IDS, LENGTHS), num_classes=K).why


class Window(Encoder):
    """Its mask says which tokens see one another."""

    def forward(self, ids, mask):
        h = self.embed(ids)
        for block in self.blocks:
            h = block(h, src_mask=~mask)
        return self.head(h.mean(dim=1))


def test_a_mask_between_tokens_is_none_of_padding():
    window = torch.ones(T, T, dtype=torch.bool).triu(-1).tril(1)
    net = Window("mean").eval()
    with torch.no_grad():
        rows = net.embed(IDS).double().mean(dim=1)
    found = measure(net, [((IDS, window), Y)], num_classes=K, layers=[Tap("embed", "mean")], metrics=["pfc1"])
    expected = reference.feature_metrics(rows.numpy(), Y.numpy(), K)["pfc1"]
    assert found.value("pfc1", "embed:mean") == pytest.approx(expected, rel=1e-5)
