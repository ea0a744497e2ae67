"""Collapse of next words: labels against a loop, the causal network, and what a seed finds on a small set."""

import torch

from ncollapse.experiments import Work, language
from ncollapse.experiments.language import CausalTransformer, next_words, words_collapse


def test_the_label_of_a_position_is_the_word_after_it() -> None:
    ids = torch.tensor([[5, 1, 7, 9, 0], [3, 4, 0, 0, 0]])
    expected = [
        [ids[i, t + 1].item() if t < 4 and ids[i, t] > 0 and ids[i, t + 1] > 1 else -100 for t in range(5)] for i in range(2)
    ]
    assert next_words(ids).tolist() == expected == [[-100, 7, 9, -100, -100], [4, -100, -100, -100, -100]]


def test_no_position_sees_words_after_it() -> None:
    torch.manual_seed(0)
    model = CausalTransformer().eval()
    ids = torch.randint(2, 500, (2, 12))
    changed = ids.clone()
    changed[:, 7:] = 3
    first, second = model(ids), model(changed)
    torch.testing.assert_close(first[:, :7], second[:, :7])
    assert (first[:, 7:] - second[:, 7:]).abs().amax(dim=2).min() > 1e-3


def test_a_seed_trains_and_compares_the_last_layer_with_the_first(monkeypatch) -> None:
    generator = torch.Generator().manual_seed(0)
    # The word after is told by the word before: next words can be learned.
    starts = torch.randint(2, 8, (200, 1), generator=generator)
    ids = (starts + torch.arange(12)) % 6 + 2
    monkeypatch.setattr(language, "load_samples", lambda config: type("Samples", (), {"inputs": ids}))
    monkeypatch.setattr(language, "_PASSES", 5)
    before = torch.get_rng_state()
    found = words_collapse(Work(0, False, None, lambda words: None))
    assert torch.equal(torch.get_rng_state(), before)
    assert found.value > found.before
    assert [(point.line, point.x) for point in found.points] == [(when, x) for when in language._WHEN for x in range(5)]
