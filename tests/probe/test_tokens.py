"""Networks over tokens: their read-out, one label a token, the logits of one token, against plain loops over outputs."""

import numpy as np
import pytest
import torch
from torch import nn

import reference
from ncollapse import Tap, measure, next_tokens

K, D, T, VOCABULARY = 3, 6, 5, 11
LENGTHS = (5, 3, 4, 2, 5, 3, 4, 5, 2, 4, 3, 5)
N = len(LENGTHS)


class Mix(nn.Module):
    """A block that lets each token see the mean of the real ones."""

    def __init__(self):
        super().__init__()
        self.norm, self.own, self.others = nn.LayerNorm(D), nn.Linear(D, D), nn.Linear(D, D)

    def forward(self, h, mask):
        mean = (h * mask[:, :, None]).sum(1, keepdim=True) / mask.sum(1)[:, None, None]
        return h + torch.tanh(self.own(self.norm(h)) + self.others(mean))


class Text(nn.Module):
    """A network over tokens that reads one row, the logits of one row, or all logits."""

    def __init__(self, read, outputs=K):
        super().__init__()
        self.read = read
        self.embed, self.blocks = nn.Embedding(VOCABULARY, D), nn.ModuleList(Mix() for _ in range(2))
        self.norm, self.head = nn.LayerNorm(D), nn.Linear(D, outputs)
        generator = torch.Generator().manual_seed(0)
        for parameter in self.parameters():
            nn.init.normal_(parameter, generator=generator)

    def forward(self, input_ids, attention_mask=None):
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        h = self.embed(input_ids)
        for block in self.blocks:
            h = block(h, mask)
        h = self.norm(h)
        if self.read in POOLS:
            return {"loss": torch.zeros(()), "logits": self.head(POOLS[self.read](h, mask)), "hidden": h}
        logits = self.head(h)
        return logits if self.read == "each" else POOLS[self.read.removeprefix("logits of ")](logits, mask)


# As a network would write it, samples at once; the oracle below has one loop over samples and tokens.
POOLS = {
    "cls": lambda h, mask: h[:, 0],
    "last_token": lambda h, mask: h[torch.arange(len(h)), (mask * torch.arange(h.shape[1])).argmax(dim=1)],
    "mean": lambda h, mask: (h * mask[:, :, None]).sum(1) / mask.sum(1, keepdim=True),
}


def texts(side, labels=None, size=5):
    generator = torch.Generator().manual_seed(3)
    mask = torch.tensor([[1] * n + [0] * (T - n) for n in LENGTHS])
    mask = mask.flip(1) if side == "left" else mask
    whole = {"input_ids": torch.randint(1, VOCABULARY, (N, T), generator=generator) * mask, "attention_mask": mask}
    if labels == "sample":
        whole["labels"] = torch.arange(N) % K
    if labels == "token":
        whole["labels"] = torch.where(mask == 1, whole["input_ids"] % K, -100)
    return [{name: value[i : i + size] for name, value in whole.items()} for i in range(0, N, size)]


def outputs(model, batches, names):
    """What plain hooks see, in float64."""
    seen = {name: [] for name in names}
    handles = [
        model.get_submodule(name).register_forward_hook(lambda _, __, out, name=name: seen[name].extend(out.double().numpy()))
        for name in names
    ]
    with torch.no_grad():
        for batch in batches:
            model(batch["input_ids"], batch["attention_mask"])
    for handle in handles:
        handle.remove()
    return {name: np.stack(rows) for name, rows in seen.items()}


def pooled(tokens, mask, pool):
    rows = []
    for sample, real in zip(tokens, mask, strict=True):
        kept = [sample[t] for t in range(T) if real[t]]
        rows.append({"cls": sample[0], "last_token": kept[-1], "mean": sum(kept) / len(kept)}[pool])
    return np.stack(rows)


def check(m, layer, H, y, rel=1e-10):
    K = m.num_classes
    with np.errstate(invalid="ignore"):
        expected = reference.feature_metrics(H, y, K)
    for metric in ("pfc1", "pfc2", "pfc3", "cdnv"):
        assert m.value(metric, layer) == pytest.approx(expected[metric], rel=rel), (layer, metric)
    np.testing.assert_allclose(m.statistics[layer].moments.means, reference.means(H, y, K), rtol=rel, atol=rel)


LAYERS = ("embed", "blocks.0", "blocks.1", "norm")


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("read", ["cls", "last_token", "mean"])
def test_tokens_are_read_out_as_the_network_does_it(read, side):
    model, batches = Text(read), texts(side, "sample")
    if (read, side) == ("cls", "left"):
        batches = [batch | {"attention_mask": torch.ones_like(batch["attention_mask"])} for batch in batches]
    m = measure(model, batches, num_classes=K)
    assert m.layers == (f"embed:{read}", f"blocks.0:{read}", f"blocks.1:{read}", "head.input")
    mask = torch.cat([batch["attention_mask"] for batch in batches]).numpy()
    y = torch.cat([batch["labels"] for batch in batches]).numpy()
    seen = outputs(model, batches, LAYERS)
    for layer in m.layers[:-1]:
        check(m, layer, pooled(seen[layer.partition(":")[0]], mask, read), y, rel=1e-4 if read == "mean" else 1e-9)
    check(m, "head.input", pooled(seen["norm"], mask, read), y, rel=1e-4 if read == "mean" else 1e-9)


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("read", ["last_token", "cls"])
def test_a_head_over_tokens_is_measured_at_the_token_whose_logits_are_returned(read, side):
    model, batches = Text(f"logits of {read}"), texts(side, "sample")
    m = measure(model, batches, num_classes=K)
    assert m.layers[-1] == f"norm:{read}"
    assert f"logits read at {read}" in m.chosen
    mask = torch.cat([batch["attention_mask"] for batch in batches]).numpy()
    y = torch.cat([batch["labels"] for batch in batches]).numpy()
    H = pooled(outputs(model, batches, LAYERS)["norm"], mask, read)
    check(m, m.layers[-1], H, y)
    W, b = reference.rows_of(model.head.weight), model.head.bias.detach().double().numpy()
    expected = reference.classifier_metrics(H, y, K, W, b)
    for metric in ("nc3", "nc4", "accuracy"):
        assert m.value(metric) == pytest.approx(expected[metric], rel=1e-9), metric
    # The network's own decisions, as it returns them.
    with torch.no_grad():
        decided = torch.cat([model(batch["input_ids"], batch["attention_mask"]) for batch in batches]).argmax(1)
    assert m.value("accuracy") == pytest.approx(float((decided.numpy() == y).mean()))


def test_a_mean_of_logits_is_recognized_although_bfloat16_rounds_it():
    m = measure(Text("logits of mean").bfloat16(), texts("right", "sample"), num_classes=K)
    assert m.layers[-1] == "norm:mean"
    assert "logits read at mean" in m.chosen


@pytest.mark.parametrize("budget", [None, 0])
def test_every_token_with_a_label_is_a_sample(budget):
    model, batches = Text("each"), texts("right", "token")
    m = measure(model, batches, num_classes=K, memory_budget=budget)
    assert (m.layers, m.passes) == (LAYERS, 1 if budget is None else 2)
    y = torch.cat([batch["labels"] for batch in batches]).numpy()
    assert m.num_samples == sum(LENGTHS) == int((y != -100).sum())
    for layer, tokens in outputs(model, batches, LAYERS).items():
        rows = np.stack([tokens[i, t] for i in range(N) for t in range(T) if y[i, t] != -100])
        check(m, layer, rows, np.array([label for label in y.ravel() if label != -100]), rel=1e-9)


def test_the_next_token_is_the_class_of_each():
    """Of a vocabulary, the tokens that occur are the classes; with classes="all" the others are there, without samples."""
    model, batches = Text("each", outputs=VOCABULARY), texts("left")
    m = measure(model, batches, num_classes=VOCABULARY, unpack=next_tokens)
    everything = measure(model, batches, num_classes=VOCABULARY, unpack=next_tokens, classes="all")
    assert m.num_samples == everything.num_samples == sum(LENGTHS) - N
    ids = torch.cat([batch["input_ids"] for batch in batches]).numpy()
    tokens = outputs(model, batches, LAYERS)
    pairs = [(i, t) for i in range(N) for t in range(T - 1) if t >= T - LENGTHS[i]]
    y = np.array([ids[i, t + 1] for i, t in pairs])
    assert m.classes == tuple(sorted(set(y))) != tuple(range(VOCABULARY))
    assert (m.num_classes, m.num_labels) == (len(set(y)), VOCABULARY)
    for layer in LAYERS:
        H, moments = np.stack([tokens[layer][i, t] for i, t in pairs]), everything.statistics[layer].moments
        assert moments.counts.tolist() == reference.counts(y, VOCABULARY).tolist()
        for k in set(y):
            np.testing.assert_allclose(moments.means[k], H[y == k].mean(axis=0), rtol=1e-10, atol=1e-10)
        check(m, layer, H, np.searchsorted(m.classes, y), rel=1e-9)
        assert np.isnan(everything.value("pfc1", layer))
    assert (m.layers[-1], m.statistics["norm"].classifier.weight.shape) == ("norm", (m.num_classes, D))


def test_labels_of_tokens_need_layers_that_keep_them():
    plain, x = nn.Sequential(nn.Linear(4, D), nn.Linear(D, K)), torch.zeros(N, 4)
    with pytest.raises(ValueError, match=r"rows \(12, 3\) of zeros and ones\. Convert one-hot rows with argmax\(1\)"):
        measure(plain, [(x, torch.eye(K)[torch.arange(N) % K].long())], num_classes=K)
    with pytest.raises(ValueError, match=r"Layer 'norm:mean' must return .*with pool='flatten'"):
        measure(Text("each"), texts("right", "token"), num_classes=K, layers=Tap("norm", "mean"))


def test_two_pools_of_one_module_are_two_layers():
    model, batches = Text("mean"), texts("right", "sample")
    m = measure(model, batches, num_classes=K, layers=[Tap("norm", "cls"), Tap("norm", "last_token")])
    assert m.layers == ("norm:cls", "norm:last_token", "head.input")
    mask = torch.cat([batch["attention_mask"] for batch in batches]).numpy()
    tokens = outputs(model, batches, ["norm"])["norm"]
    for pool in ("cls", "last_token"):
        check(m, f"norm:{pool}", pooled(tokens, mask, pool), torch.cat([batch["labels"] for batch in batches]).numpy())


def test_a_mean_of_bfloat16_tokens_is_that_of_the_upcast_ones():
    model, batches = Text("mean").bfloat16(), texts("right", "sample")
    m = measure(model, batches, num_classes=K)
    assert m.layers[:3] == ("embed:mean", "blocks.0:mean", "blocks.1:mean")
    mask = torch.cat([batch["attention_mask"] for batch in batches]).numpy()
    y = torch.cat([batch["labels"] for batch in batches]).numpy()
    for name, tokens in outputs(model, batches, ["embed", "blocks.0", "blocks.1"]).items():
        check(m, f"{name}:mean", pooled(tokens, mask, "mean"), y, rel=1e-4)


class Tags(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(2)
        self.embed, self.mid, self.head = nn.Embedding(VOCABULARY, D), nn.Linear(D, D), nn.Linear(D, K)

    def forward(self, ids):
        return self.head(torch.tanh(self.mid(self.embed(ids))))


def test_a_later_batch_whose_samples_have_one_token_each():
    with torch.random.fork_rng():
        net = Tags().eval()
    ids = torch.arange(24).view(6, 4) * 5 % VOCABULARY
    labels = torch.where(ids % 4 == 3, -100, ids % K)
    m = measure(net, [(ids, labels), (ids[:, :1], labels[:, :1])], num_classes=K)
    flat, tags = torch.cat([ids.flatten(), ids[:, 0]]), torch.cat([labels.flatten(), labels[:, 0]])
    with torch.no_grad():
        rows = torch.tanh(net.mid(net.embed(flat)))[tags >= 0].double().numpy()
    assert m.num_samples == int((tags >= 0).sum())
    assert m.value("pfc1", "head.input") == pytest.approx(
        reference.feature_metrics(rows, tags[tags >= 0].numpy(), K)["pfc1"], rel=1e-4
    )
