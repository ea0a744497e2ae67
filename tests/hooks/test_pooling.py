"""How tokens become one row per sample, and on what evidence: read-outs, declarations, and masks of other lengths."""

import json
import os
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from hooks.test_designs import normal
from hooks.test_rows import IDS, D, K, Mix, N, T, V, hooked
from hooks.test_tapped_network import seeded
from ncollapse import Tap, collect_features, find_layers, measure
from ncollapse.hooks.pooling import declared_pool

Y = torch.arange(N) % K
MASK = (torch.arange(T) < torch.tensor([T, 4, 3, 5] * 2)[:, None]).long()
TEXTS = {"ids": IDS, "attention_mask": MASK}


class Encoder(nn.Module):
    """An encoder whose pooler reads the first token; it returns its states and what the pooler made."""

    def __init__(self, pooler=True):
        super().__init__()
        self.embed, self.blocks = nn.Embedding(V, D), nn.ModuleList([Mix(False), Mix(False)])
        self.pooler = nn.Linear(D, D) if pooler else None

    def forward(self, ids, attention_mask):
        h = self.embed(ids)
        for block in self.blocks:
            h = block(h)
        return {"last_hidden_state": h} | ({} if self.pooler is None else {"pooler_output": torch.tanh(self.pooler(h[:, 0]))})


class Pooling(nn.Module):
    """As sentence-transformers writes it."""

    def __init__(self, **settings):
        super().__init__()
        for name, value in settings.items():
            setattr(self, name, value)

    def forward(self, features, mask):
        h = features["last_hidden_state"]
        return {"sentence_embedding": (h * mask[:, :, None]).sum(1) / mask.sum(1, keepdim=True), "token_embeddings": h}


class Sentences(nn.Module):
    def __init__(self, **settings):
        super().__init__()
        self.encoder, self.pooling = Encoder(), Pooling(**settings)

    def forward(self, ids, attention_mask):
        return self.pooling(self.encoder(ids, attention_mask), attention_mask)


def pooled(output, pool, first=0):
    """One row per sample by a loop, with the mask moved by ``first`` positions that are all real."""
    rows = []
    for sample, mask in zip(output.double().numpy(), MASK.numpy(), strict=True):
        real = [*range(first), *(first + t for t in range(T) if mask[t])]
        rows.append({"cls": sample[0], "last_token": sample[real[-1]], "mean": sample[real].mean(axis=0)}[pool])
    return np.stack(rows)


def check(model, layers, pool, *last):
    features, _ = collect_features(model, [{**TEXTS, "labels": Y}], num_classes=K)
    assert list(features) == [*(f"{layer}:{pool}" for layer in layers), *last]
    for layer, output in hooked(model, tuple(TEXTS.values()), layers).items():
        np.testing.assert_allclose(features[f"{layer}:{pool}"].double(), pooled(output, pool), rtol=1e-5, atol=1e-6)


BLOCKS = ["blocks.0.input", "blocks.0", "blocks.1"]


@pytest.mark.parametrize(
    ("settings", "pool"),
    [
        ({"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False}, "mean"),
        ({"pooling_mode_mean_tokens": False, "pooling_mode_cls_token": True}, "cls"),
        ({"pooling_mode_lasttoken": True}, "last_token"),
        ({"pooling_mode": "mean"}, "mean"),
        ({"pooling_mode": "lasttoken"}, "last_token"),
    ],
)
def test_a_sentence_encoder_is_read_as_its_folder_declares(settings, pool, tmp_path):
    model = seeded(Encoder())
    model.config = SimpleNamespace(_name_or_path=str(tmp_path))
    layers = ["embed", "blocks.0", "blocks.1"]
    check(model, layers, "cls")
    assert "tokens read at cls, as pooler takes them" in find_layers(model, TEXTS).why
    (tmp_path / "1_Pooling").mkdir()
    (tmp_path / "1_Pooling" / "config.json").write_text(json.dumps({"word_embedding_dimension": D} | settings))
    check(model, layers, pool)
    assert f"tokens read at {pool}, as 1_Pooling/config.json declares" in find_layers(model, TEXTS).why


def test_several_declared_pools_or_unknown_ones_are_no_declaration(tmp_path):
    model = seeded(Encoder())
    model.config = SimpleNamespace(_name_or_path=str(tmp_path))
    (tmp_path / "1_Pooling").mkdir()
    for settings in (
        {"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": True},
        {"pooling_mode_max_tokens": True},
        {"pooling_mode": "max"},
    ):
        (tmp_path / "1_Pooling" / "config.json").write_text(json.dumps(settings))
        check(model, ["embed", "blocks.0", "blocks.1"], "cls")


def test_a_pooling_module_declares_and_what_the_network_returns_is_evidence():
    layers = ["encoder.embed", "encoder.blocks.0", "encoder.blocks.1"]
    declared = seeded(Sentences(pooling_mode_mean_tokens=True))
    check(declared, layers, "mean", "pooling")
    assert "tokens read at mean, as pooling declares" in find_layers(declared, TEXTS).why
    shown = seeded(Sentences())
    check(shown, layers, "mean", "pooling")
    assert "tokens read at mean, as the network returns them" in find_layers(shown, TEXTS).why


def test_without_evidence_tokens_are_averaged_and_that_is_said():
    model = seeded(Encoder(pooler=False))
    check(model, ["embed", "blocks.0", "blocks.1"], "mean")
    assert "tokens averaged, since it is unknown how the network reads them" in find_layers(model, TEXTS).why


class Prompted(nn.Module):
    """Virtual tokens in front of padded texts, which are read at the last real token, on average, or in a way of its own."""

    def __init__(self, read, num_virtual=3):
        super().__init__()
        self.prompt, self.embed = nn.Parameter(normal(num_virtual, D)), nn.Embedding(V, D)
        self.blocks, self.head = nn.ModuleList([Mix(False), Mix(False)]), nn.Linear(D, K)
        self.read, self.num_virtual = read, num_virtual

    def forward(self, ids, attention_mask):
        h = torch.cat([self.prompt.expand(len(ids), -1, -1), self.embed(ids)], dim=1)
        mask = torch.cat([attention_mask.new_ones(len(ids), self.num_virtual), attention_mask], dim=1)
        for block in self.blocks:
            h = block(h)
        last = h[torch.arange(len(h)), (mask * torch.arange(mask.shape[1])).argmax(1)]
        mean = (h * mask[:, :, None]).sum(1) / mask.sum(1, keepdim=True)
        return self.head({"last_token": last, "mean": mean, "own": last + mean}[self.read])


@pytest.mark.parametrize("read", ["last_token", "mean"])
def test_padding_of_layers_with_virtual_tokens_is_left_out(read):
    model = seeded(Prompted(read))
    layers = [f"{layer}:{read}" for layer in BLOCKS]
    features, _ = collect_features(model, [{**TEXTS, "labels": Y}], num_classes=K)
    assert list(features) == [*layers, "head.input"]
    for layer, output in hooked(model, tuple(TEXTS.values()), BLOCKS).items():
        np.testing.assert_allclose(features[f"{layer}:{read}"].double(), pooled(output, read, 3), rtol=1e-5, atol=1e-6)


def test_where_padding_is_unknown_layers_are_left_out_or_refused():
    model = seeded(Prompted("own"))
    found = find_layers(model, TEXTS)
    assert found.names == ("head.input",)
    assert found.left_out["blocks.0:mean"] == f"has {T + 3} positions, the attention mask {T}"
    with pytest.raises(ValueError, match=rf"must be clear, but 'blocks\.0:mean' has {T + 3} positions, the attention mask {T}"):
        measure(model, [{**TEXTS, "labels": Y}], num_classes=K, layers=[Tap("blocks.0", "mean")])
    own = Tap("blocks.0", lambda out: out[:, 0])
    assert measure(model, [{**TEXTS, "labels": Y}], num_classes=K, layers=[own]).layers[0].startswith("blocks.0:")


def test_the_classifiers_own_input_is_read_as_it_is_also_where_it_has_three_dimensions():
    class Joined(nn.Module):
        """Its head takes tokens joined to one row by a module, which returns them with three dimensions."""

        def __init__(self):
            super().__init__()
            self.embed, self.mix, self.keep, self.head = nn.Embedding(V, D), nn.Linear(D, D), nn.Identity(), nn.Linear(D * T, K)

        def forward(self, ids):
            h = self.keep(torch.tanh(self.mix(self.embed(ids))))
            return self.head(h.flatten(1))

    model = seeded(Joined())
    features, _ = collect_features(model, [(IDS, Y)], num_classes=K)
    assert list(features) == ["embed:mean", "keep"], "what feeds the classifier is not averaged"
    assert torch.equal(features["keep"], hooked(model, IDS, ["keep"])["keep"].flatten(1))


@pytest.mark.parametrize(
    "content", [b"[1]", b"[" * 60_000, b'"mean"', b"\xff", b"", b'{"pooling_mode": "mean"}' + b" " * 100_000, None]
)
def test_settings_of_a_folder_that_are_none_declare_nothing(content, tmp_path):
    model = seeded(Encoder())
    model.config = SimpleNamespace(_name_or_path=str(tmp_path))
    (tmp_path / "1_Pooling").mkdir()
    file = tmp_path / "1_Pooling" / "config.json"
    os.mkfifo(file) if content is None else file.write_bytes(content)
    assert declared_pool(model) is None


class WithoutClassToken(nn.Module):
    """Puts tokens in front of a block, and averages what is behind them, or their logits."""

    def __init__(self, in_front, before, logits_first):
        super().__init__()
        self.embed, self.blocks = nn.Embedding(V, D), nn.ModuleList([Mix(False), Mix(False), Mix(False)])
        self.tokens, self.before, self.logits_first = nn.Parameter(torch.randn(1, in_front, D)), before, logits_first
        self.norm, self.head = nn.LayerNorm(D), nn.Linear(D, K)

    def forward(self, ids):
        h, first = self.embed(ids), self.tokens.shape[1]
        for i, block in enumerate(self.blocks):
            h = torch.cat([self.tokens.expand(len(h), -1, -1), h], dim=1) if i == self.before else h
            h = block(h)
        return self.head(h)[:, first:].mean(dim=1) if self.logits_first else self.head(self.norm(h[:, first:].mean(dim=1)))


@pytest.mark.parametrize(("in_front", "before", "logits_first"), [(1, 0, False), (2, 1, False), (5, 2, False), (2, 1, True)])
def test_the_mean_of_the_tokens_behind_a_class_token_is_proven(in_front, before, logits_first):
    model = seeded(WithoutClassToken(in_front, before, logits_first))
    features, _ = collect_features(model, [(IDS, Y)], num_classes=K)
    for i, tokens in enumerate(hooked(model, (IDS,), ["blocks.0", "blocks.1", "blocks.2"]).values()):
        name, first = (f"blocks.{i}:mean_from_{in_front}", in_front) if i >= before else (f"blocks.{i}:mean", 0)
        np.testing.assert_allclose(features[name], tokens.double()[:, first:].mean(dim=1), rtol=1e-5, atol=1e-6)
    assert f"read at mean_from_{in_front}" in find_layers(model, IDS, num_classes=K).why


class SkipsMoreLater(WithoutClassToken):
    """Leaves out one token more if the first id is 0."""

    def forward(self, ids):
        h = self.embed(ids)
        for block in self.blocks:
            h = block(h)
        return self.head(self.norm(h[:, 1 + int(ids[0, 0] == 0) :].mean(dim=1)))


def test_tokens_behind_a_class_token_are_rechecked_in_every_batch():
    ids = torch.where(IDS == 0, 1, IDS)
    other = ids.clone()
    other[0, 0] = 0
    with pytest.raises(ValueError, match=r"'blocks.2:mean_from_1' must be what 'norm.input' is in every batch"):
        measure(SkipsMoreLater(1, 0, False), [(ids, Y), (other, Y)], num_classes=K)
