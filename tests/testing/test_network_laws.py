"""The battery of networks: sound networks pass, and a network or a library that breaks a law is told so."""

import pytest
import torch
from torch import nn

from ncollapse import Tap
from ncollapse.hooks.tap import Tap as HookTap
from ncollapse.metrics import decision, variability
from ncollapse.testing import check_network

K = 4
X = torch.randn(60, 6, generator=torch.Generator().manual_seed(0))
Y = torch.arange(60) % K
BATCHES = [(X[:25], Y[:25]), (X[25:], Y[25:])]
CALLS = [0]


class Net(nn.Module):
    """A body and a head; ``then`` is what the forward does with the logits, ``before`` with the inputs."""

    def __init__(self, then=lambda z, x: z, before=lambda x: x, width=K):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.body = nn.Sequential(nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 9), nn.BatchNorm1d(9), nn.Tanh())
            self.drop, self.head = nn.Dropout(0.3), nn.Linear(9, width)
        self.then, self.before, self.shift = then, before, nn.Parameter(torch.zeros(6))

    def forward(self, x):
        return self.then(self.head(self.drop(self.body(self.before(x) + self.shift))), x)


class Tokens(nn.Module):
    """Embedded tokens, blocks, a masked mean, a head."""

    def __init__(self):
        super().__init__()
        self.embed, self.head = nn.Embedding(11, 8), nn.Linear(8, K)
        self.blocks = nn.Sequential(nn.Linear(8, 8), nn.GELU(), nn.Linear(8, 8), nn.GELU())

    def forward(self, ids, attention_mask=None):
        h = self.blocks(self.embed(ids))
        if attention_mask is None:
            return self.head(h)
        return self.head((h * attention_mask[..., None]).sum(1) / attention_mask.sum(1, keepdim=True))


IDS = torch.randint(0, 11, (60, 5), generator=torch.Generator().manual_seed(1))
MASK = (torch.arange(5) < torch.randint(1, 6, (60, 1), generator=torch.Generator().manual_seed(2))).long()
TEXTS = [({"ids": IDS[rows], "attention_mask": MASK[rows]}, Y[rows]) for rows in (slice(0, 25), slice(25, 60))]
LABELS = torch.where(torch.arange(5) < 4, IDS % K, -100)
SOUND = {
    "plain": (Net(), BATCHES, K),
    "softmax": (Net(lambda z, x: z.softmax(1)), BATCHES, K),
    "one logit": (Net(width=1), [(x, y % 2) for x, y in BATCHES], 2),
    "one probability": (Net(lambda z, x: z.sigmoid().squeeze(1), width=1), [(x, y % 2) for x, y in BATCHES], 2),
    "pooled tokens": (Tokens(), TEXTS, K),
    "a label for every token": (Tokens(), [(IDS[:30], LABELS[:30]), (IDS[30:], LABELS[30:])], K),
}


@pytest.mark.parametrize("name", SOUND)
def test_sound_networks_pass(name):
    model, batches, num_classes = SOUND[name]
    report = check_network(model, batches, num_classes=num_classes)
    assert report.holds, report
    open_laws = {law.name for law in report.laws if law.holds is None}
    assert open_laws == ({"order of samples"} if "every token" in name else set()), report
    assert model.training


def test_a_classifier_that_is_unproven_is_no_failure():
    report = check_network(Net(lambda z, x: z.tanh()), BATCHES, num_classes=K)
    assert report["classifier"].holds is None
    assert report["classifier"].words.startswith("unproven: no classifier found, since ")
    assert report.holds
    assert report["accuracy"].holds


def test_a_classifier_that_later_samples_disprove_is_unproven():
    report = check_network(Net(lambda z, x: z * (1 + (x[:, :1] > X[:2, :1].max() + 0.1))), BATCHES, num_classes=K)
    assert report["classifier"].holds is None
    assert report["classifier"].words.startswith("unproven: the logits of further samples are others than those of head")


def test_options_reach_the_measurement():
    texts = [({"x": {"ids": ids["ids"]}, "y": labels}) for ids, labels in TEXTS]
    report = check_network(
        Tokens(), texts, num_classes=K, layers=[Tap("blocks.1", "mean"), Tap("blocks.3", lambda h: h[:, 1])],
        unpack=lambda batch: (batch["x"], batch["y"]), call=lambda model, x: model(x["ids"], torch.ones_like(x["ids"])),
    )  # fmt: skip
    assert report.holds, report
    assert "blocks.3:<lambda> not compared (read by a function)" in report["features"].words


def centered(x):
    return x - x.mean(dim=0)


def drifting(x):
    CALLS[0] += 1
    return x + 0.1 * CALLS[0]


def grows(net):
    def before(x):
        with torch.no_grad():
            net.shift.add_(1)
        return x

    net.before = before
    return net


NETWORKS = {
    "no trace": grows(Net()),
    "layers": Net(lambda z, x: z.tanh() if len(x) == 2 and x[0, 0] == BATCHES[1][0][0, 0] else z),
    "second pass": Net(before=drifting),
    "order of batches": Net(before=drifting),
    "order of samples": Net(before=centered),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_that_breaks_a_law_is_told(name):
    report = check_network(NETWORKS[name], BATCHES, num_classes=K)
    assert report[name].holds is False, report
    assert not report.holds


def test_rows_of_other_samples_are_seen(monkeypatch):
    read = HookTap.read
    monkeypatch.setattr(HookTap, "read", lambda tap, output, mask: read(tap, output, mask).roll(1, 0))
    report = check_network(Net(), BATCHES, num_classes=K)
    assert {law.name for law in report.laws if law.holds is False} >= {"features", "numbers"}, report


@pytest.mark.parametrize(
    ("module", "function", "law"),
    [(variability, "within_between_ratio", "numbers"), (decision, "ncc_accuracy", "numbers"),
     (decision, "classifier_accuracy", "accuracy")],
)  # fmt: skip
def test_a_wrong_number_is_seen(monkeypatch, module, function, law):
    right = getattr(module, function)
    monkeypatch.setattr(module, function, lambda *args, **options: 0.9 * right(*args, **options))
    report = check_network(Net(), BATCHES, num_classes=K)
    assert [law.name for law in report.laws if law.holds is False] == [law], report


def test_what_cannot_be_measured_is_an_error():
    with pytest.raises(ValueError, match=r"labels must be in \[0, 2\)"):
        check_network(Net(), BATCHES, num_classes=2)


class Prefixed(nn.Module):
    """A token in front that has no label."""

    def __init__(self):
        super().__init__()
        self.embed, self.first, self.blocks = nn.Embedding(11, 8), nn.Parameter(torch.randn(1, 1, 8)), nn.Linear(8, 8)
        self.head = nn.Linear(8, K)

    def forward(self, ids):
        h = torch.cat([self.first.expand(len(ids), -1, -1), self.embed(ids)], dim=1)
        return self.head(self.blocks(h).relu())


MARKED = torch.rand(30, 5, generator=torch.Generator().manual_seed(3)) < 0.7
ROWS = {
    "a slice of the tokens": (Prefixed(), [(IDS[:30], IDS[:30] % K), (IDS[30:], IDS[30:] % K)], slice(1, None)),
    "a mask of tokens": (Tokens(), [(IDS[:30], IDS[:30] % K)], MARKED),
    "a mask of a node for each label": (Net(), [(X[:30], Y[:20])], torch.arange(30) >= 10),
    "a mask of labeled nodes": (Net(), [(X[:30], Y[:30])], torch.arange(30) >= 10),
    "a function of the batch": (Net(), [(x, y) for x, y in BATCHES], lambda batch: batch[0][:, 0] > -0.5),
}


@pytest.mark.parametrize("name", ROWS)
def test_rows_that_have_labels(name):
    network, batches, rows = ROWS[name]
    report = check_network(network, batches, num_classes=K, rows=rows)
    assert report.holds, report
    assert all(report[law].holds for law in ("features", "numbers", "classifier", "accuracy"))
    assert report["order of samples"].holds is None


class FindsPadding(nn.Module):
    """Averages the tokens that are not 0."""

    def __init__(self):
        super().__init__()
        self.embed, self.block, self.head = nn.Embedding(11, 8), nn.Linear(8, 8), nn.Linear(8, K)

    def forward(self, ids):
        h, real = self.block(self.embed(ids)).tanh(), (ids != 0).unsqueeze(2)
        return self.head((h * real).sum(dim=1) / real.sum(dim=1))


def test_padding_that_the_network_finds_itself():
    ids = IDS.clamp_min(1) * MASK
    report = check_network(FindsPadding(), [(ids[:25], Y[:25]), (ids[25:], Y[25:])], num_classes=K)
    assert report.holds, report
    assert report["features"].holds
