"""A diagnosis within a memory budget, of tokens, and of layers without any spread."""

import math

import pytest
import torch

import ncollapse as nc
from analysis.small_network import batches_of, drawn, network
from ncollapse.analysis.kept_layers import KeptLayers


def counted(net):
    """Count the forward passes of a network."""
    seen = []
    net.register_forward_pre_hook(lambda module, args: seen.append(len(args[0])))
    return seen


@pytest.mark.parametrize(("budget", "passes"), [(0, 3), ("9kB", 2)])
def test_any_budget_gives_the_same_diagnosis(budget, passes):
    train, test = batches_of(drawn(0, 3, 60)), batches_of(drawn(1, 3, 40))
    options = {"strangers": {"noise": [torch.randn(25, 5, generator=torch.Generator().manual_seed(5))]},
               "new_labels": {"coarse": [0, 1, 1], "own": [drawn(4, 3, 40)]}, "k": 3}  # fmt: skip
    net = network(3)
    whole = nc.diagnose(net, train, num_classes=3, test=test, memory_budget="1GiB", **options)
    seen = counted(net)
    found = nc.diagnose(net, train, num_classes=3, test=test, memory_budget=budget, **options)
    assert list(map(str, found.rows)) == list(map(str, whole.rows))
    assert found.record.cka == whole.record.cka
    assert found.record.classes == whole.record.classes
    assert seen.count(25) == passes


def test_kept_layers_stay_within_the_budget():
    kept, batch = KeptLayers(1000), {name: torch.zeros(10, 10) for name in "abc"}
    first = [kept.take(batch), kept.take(batch)]
    assert (kept.names, kept.dropped) == (["a"], ["b", "c"])
    assert [list(part) for part in first] == [["a"], ["a"]]
    whole = kept.joined(first)
    assert whole["a"].shape == (20, 10)
    # One layer is always kept, and features that are joined already are dropped too.
    other = KeptLayers(900, ["b", "c"])
    done = other.joined([other.take(batch)])
    other.take(batch)
    assert (list(done), other.dropped) == (["b"], ["c"])


def test_further_passes_need_the_same_samples():
    x, y = drawn(0, 3, 60)
    shuffled = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), batch_size=20, shuffle=True)
    with pytest.raises(ValueError, match=r"every pass must see the same samples .*, but the train set differs"):
        nc.diagnose(network(3), shuffled, num_classes=3, memory_budget=0)
    with pytest.raises(ValueError, match="test can be iterated only once"):
        nc.diagnose(network(3), [(x, y)], num_classes=3, test=iter([(x, y)]))


def test_a_layer_without_spread_has_no_mahalanobis_distance():
    silent = torch.nn.Sequential(network(3).stem, torch.nn.Linear(6, 6), torch.nn.ReLU(), torch.nn.Linear(6, 3))
    with torch.no_grad():
        silent[1].weight.zero_()
        silent[1].bias.fill_(-1)
    found = nc.diagnose(silent, [drawn(0, 3, 60)], num_classes=3, layers=["2"], strangers={"noise": [torch.randn(9, 5)]})
    assert math.isnan(found.value("auroc.noise.mahalanobis", "2"))
    assert found.value("auroc.noise.energy", "2") == 0.5


class Tokens(torch.nn.Module):
    """A transformer with one label per sequence, or one per token."""

    def __init__(self, per_token):
        super().__init__()
        self.embedding = torch.nn.Embedding(20, 8)
        parts = [torch.nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True) for _ in range(3)]
        self.blocks, self.head, self.per_token = torch.nn.ModuleList(parts), torch.nn.Linear(8, 3), per_token

    def forward(self, x, skip=None):
        h = self.embedding(x)
        for index, block in enumerate(self.blocks):
            h = h if index == skip else block(h)
        return self.head(h if self.per_token else h.mean(dim=1))


@pytest.fixture
def tokens():
    return torch.randint(20, (60, 7), generator=torch.Generator().manual_seed(1))


def made(per_token):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Tokens(per_token).eval()


def test_sequences_with_one_label(tokens):
    net, labels = made(per_token=False), tokens[:, 0] % 3
    found = nc.diagnose(net, [(tokens, labels)], num_classes=3, strangers={"other": [tokens.flip(0)]}, k=3)
    features, _ = nc.collect_features(net, [(tokens, labels)], num_classes=3)
    assert found.record.layers == tuple(features)
    for index, layer in ((1, "blocks.1:mean"), (2, "blocks.2:mean")):
        with torch.no_grad():
            expected = float((net(tokens, skip=index).argmax(dim=1) == labels).double().mean())
        assert found.value("left_out", layer) == pytest.approx(expected, abs=1e-12)
    cut = nc.truncate(net, "blocks.1:mean", [(tokens, labels)], num_classes=3)
    assert cut.truncation.train_accuracy == pytest.approx(found.value("probe", "blocks.1:mean"), abs=1e-12)


def test_tokens_with_their_own_labels(tokens):
    net, labels = made(per_token=True), tokens % 3
    labels[:, 5:] = -100
    found = nc.diagnose(net, [(tokens, labels)], num_classes=3, strangers={"other": [(tokens + 0, labels)]}, k=3)
    assert found.record.num_samples == {"train": 300}
    # Against itself, scores are right half of the time.
    assert found.value("auroc.other.energy", "blocks.2") == 0.5
    with torch.no_grad():
        right = (net(tokens).argmax(dim=2) == labels)[labels >= 0].double().mean()
    assert found.record.accuracy["train"] == pytest.approx(float(right), abs=1e-12)
    with pytest.raises(ValueError, match=r"Strangers of a network with a label for each token must have labels too"):
        nc.diagnose(net, [(tokens, labels)], num_classes=3, strangers={"other": [tokens]})
    with pytest.raises(ValueError, match=r"truncate needs one label per sample, shape \(N,\), got labels of tokens"):
        nc.truncate(net, "blocks.1", [(tokens, labels)], num_classes=3)
