"""Linguistic collapse: the classes of next words in a small language model, over its layers."""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, pad

from ncollapse.data.catalog import load_samples
from ncollapse.experiments.experiment import Experiment, Found, Panel, Point
from ncollapse.experiments.work import Work
from ncollapse.probe import measure
from ncollapse.recipes.data import DataConfig

_GLOSSES = DataConfig(name="wordnet", per_class=200, largest_classes=10, vocabulary=500, length=12)
# Ids below are padding and words without an id of their own: nothing is predicted there.
_FIRST_WORD, _NO_WORD = 2, -100
_NUM_IDS = _FIRST_WORD + _GLOSSES.vocabulary
_TOKEN_WIDTH, _DEPTH = 64, 4
_PASSES, _BATCH = 20, 64
# A class has so many tokens at least.
_LEAST_TOKENS = 50
_WHEN = ("before training", "after training")


class CausalTransformer(nn.Module):
    """A small language model: pre-norm layers, each of which looks at words before, and a linear map to the next word."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(_NUM_IDS, _TOKEN_WIDTH), nn.Parameter(torch.zeros(_GLOSSES.length, _TOKEN_WIDTH))
        sizes = (_TOKEN_WIDTH, 4, 2 * _TOKEN_WIDTH, 0.0)
        layers = [nn.TransformerEncoderLayer(*sizes, batch_first=True, norm_first=True) for _ in range(_DEPTH)]
        self.blocks = nn.ModuleList(layers)
        self.norm, self.head = nn.LayerNorm(_TOKEN_WIDTH), nn.Linear(_TOKEN_WIDTH, _NUM_IDS, bias=False)

    def forward(self, ids: Tensor) -> Tensor:
        """Return logits of the next word at every position."""
        hidden, mask = self.words(ids) + self.places, nn.Transformer.generate_square_subsequent_mask(_GLOSSES.length)
        for block in self.blocks:
            hidden = block(hidden, src_mask=mask, is_causal=True)
        return cast(Tensor, self.head(self.norm(hidden)))


def next_words(ids: Tensor) -> Tensor:
    """Return for each position the word after it, where there is one with an id of its own."""
    after = pad(ids[:, 1:], (0, 1))
    return torch.where((after >= _FIRST_WORD) & (ids > 0), after, _NO_WORD)


def _trained(work: Work, model: CausalTransformer, ids: Tensor) -> None:
    optimizer, draws = torch.optim.Adam(model.parameters(), lr=2e-3), torch.Generator().manual_seed(work.seed)
    for number in range(1, _PASSES + 1):
        for batch in torch.randperm(len(ids), generator=draws).split(_BATCH):
            work.go_on()
            optimizer.zero_grad()
            cross_entropy(model(ids[batch]).flatten(0, 1), next_words(ids[batch]).flatten(), ignore_index=_NO_WORD).backward()
            optimizer.step()
        work.say(f"pass {number} of {_PASSES}")


def _of_layers(model: CausalTransformer, ids: Tensor) -> list[float]:
    """Return PFC1 of the classes of next words, of every layer."""
    batches = [(part, next_words(part)) for part in ids.split(256)]
    found = measure(
        model,
        batches,
        num_classes=_NUM_IDS,
        layers=["blocks.*", "norm"],
        classes="present",
        min_per_class=_LEAST_TOKENS,
        metrics=["pfc1"],
    )
    return [found.value("pfc1", layer) for layer in found.layers]


def words_collapse(work: Work) -> Found:
    """Compare the last layer of a language model with its first, after training and before."""
    ids = load_samples(_GLOSSES).inputs
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(work.seed)
        model = CausalTransformer()
    pair = [_of_layers(model, ids)]
    _trained(work, model, ids)
    pair.append(_of_layers(model, ids))
    points = [Point(_WORDS.title, words, i, y) for words, found in zip(_WHEN, pair, strict=True) for i, y in enumerate(found)]
    before, after = (math.log10(found[0] / found[-1]) for found in pair)
    return Found(after, tuple(points), before)


_WORDS = Panel("PFC1 of next words", "layer")
LANGUAGE_EXPERIMENTS = (
    Experiment(
        "language:depth",
        "Section 4, NC1",
        "Next words collapse in a language model",
        "Trained language models show within-class variability collapse: tokens that the same word follows come together.",
        "Decades by which PFC1 of the last layer is below that of the first, on the training set. The comparison of layers is "
        f"ours. A causal transformer of {_DEPTH} layers and width {_TOKEN_WIDTH}, {_PASSES} passes over {_GLOSSES.per_class} "
        f"glosses of each of the {_GLOSSES.largest_classes} largest files of WordNet, {_GLOSSES.length} words of each; "
        f"classes are those of the {_GLOSSES.vocabulary} most frequent words that follow {_LEAST_TOKENS} tokens or more.",
        words_collapse,
        (_WORDS,),
        needs=("wordnet",),
    ),
)
