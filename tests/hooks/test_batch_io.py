"""What batches may look like: pairs, mappings, several inputs, a reader of one's own, next-token labels."""

import pytest
import torch
from torch import nn

from ncollapse import measure, next_tokens
from ncollapse.hooks import unpack_batch

K = 3
X = torch.randn(12, 4, generator=torch.Generator().manual_seed(0))
Y = torch.arange(12) % K


class Net(nn.Module):
    """Takes its inputs by keyword or by position, and by default none beside x."""

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        self.body, self.head = nn.Linear(4, 5), nn.Linear(5, K)
        for parameter in self.parameters():
            nn.init.normal_(parameter, generator=generator)

    def forward(self, x, shift=None):
        return self.head(torch.tanh(self.body(x if shift is None else x + shift)))


def rows(batches, **options):
    return [(row.layer, row.metric, row.value) for row in measure(Net(), batches, num_classes=K, **options).rows]


SHIFT = torch.linspace(-1, 1, 48).reshape(12, 4)


@pytest.mark.parametrize(
    "whole",
    [
        {"x": X, "labels": Y},
        {"x": X, "label": Y},
        {"label": Y, "x": X, "shift": None},
        ((X,), Y),
        [[X, None], Y],
        ({"x": X}, Y),
        {"x": X - SHIFT, "shift": SHIFT, "labels": Y},
        ((X - SHIFT, SHIFT), Y),
    ],
)
def test_every_form_of_a_batch_gives_the_table_of_plain_pairs(whole):
    def part(value, index):
        if isinstance(value, torch.Tensor):
            return value[index]
        if isinstance(value, dict):
            return {key: part(item, index) for key, item in value.items()}
        return None if value is None else type(value)(part(item, index) for item in value)

    batches = [part(whole, slice(0, 7)), part(whole, slice(7, 12))]
    expected, got = rows([(X[:7], Y[:7]), (X[7:], Y[7:])]), rows(batches)
    assert [row[:2] for row in got] == [row[:2] for row in expected]
    # x - shift + shift is x to the last digit of float32 only.
    assert [row[2] for row in got] == pytest.approx([row[2] for row in expected], rel=1e-4, abs=1e-6, nan_ok=True)


def test_a_reader_of_ones_own_gets_each_batch_as_it_is():
    batches = [("first", X[:7], Y[:7]), ("second", X[7:], Y[7:])]
    got = []

    def unpack(batch):
        got.append(batch[0])
        return batch[1], batch[2]

    assert repr(rows(batches, unpack=unpack, memory_budget=2**20)) == repr(rows([(X[:7], Y[:7]), (X[7:], Y[7:])]))
    assert got == ["first", "second"]


def test_the_key_of_the_labels_is_taken_out_and_labels_go_first():
    inputs, labels = unpack_batch({"x": X, "labels": Y, "label": Y + 1})
    assert labels is Y
    assert list(inputs) == ["x", "label"]


def test_next_tokens_are_those_after_each_real_one():
    ids = torch.tensor([[5, 6, 7, 8], [9, 10, 0, 0], [0, 0, 11, 12]])
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [0, 0, 1, 1]])
    batch = {"input_ids": ids, "attention_mask": mask, "labels": ids}
    inputs, labels = next_tokens(batch)
    assert labels.tolist() == [[6, 7, 8, -100], [10, -100, -100, -100], [-100, -100, 12, -100]]
    assert list(inputs) == ["input_ids", "attention_mask"]
    assert inputs["input_ids"] is ids
    assert next_tokens({"input_ids": ids})[1][1].tolist() == [10, 0, 0, -100]


@pytest.mark.parametrize(
    ("batch", "got"),
    [({"x": X}, "NoneType"), ((X, Y), "NoneType"), ({"input_ids": Y}, r"\(12,\)"), ({"input_ids": [[1, 2]]}, "list")],
)
def test_next_tokens_needs_token_ids(batch, got):
    with pytest.raises(TypeError, match=rf"next_tokens needs a mapping with input_ids of shape \(N, T\), got {got}\. Tokenize"):
        next_tokens(batch)
