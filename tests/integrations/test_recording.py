"""When to measure, which network, which logs: checked before a training begins."""

import pytest
import torch
from torch import nn

from ncollapse.groups import Processes
from ncollapse.hooks import next_tokens
from ncollapse.integrations import CSVLog, JSONLLog
from ncollapse.integrations.recording import Measurer, logs_of, network_in


def recorder(every=1, **options):
    return Measurer(every, None, (), {"num_classes": 3, **options})


@pytest.mark.parametrize(("every", "total", "expected"), [
    (1, 4, [1, 2, 3, 4]),
    (3, 8, [3, 6, 8]),
    (3, None, [3, 6, 9]),
    ("log", 20, [*range(1, 16), 17, 18, 20]),
])  # fmt: skip
def test_moments(every, total, expected):
    assert [count for count in range(1, (total or 10) + 1) if recorder(every).is_due(count, total)] == expected


@pytest.mark.parametrize("total", [None, -1])
def test_growing_steps_need_an_end(total):
    with pytest.raises(ValueError, match=r"every='log' needs a training with a known end, got one without.*Pass every=n"):
        recorder("log").is_due(1, total)


@pytest.mark.parametrize("every", [0, True, "often", 1.5])
def test_wrong_moments(every):
    with pytest.raises(ValueError, match=r"every must be 'log' or an integer, at least 1, got "):
        recorder(every)


def test_arguments_of_measure_are_checked_at_once():
    with pytest.raises(
        TypeError, match=r"must be those of measure, got layer, where. Choose from: num_classes, layers, .*path"
    ):
        recorder(layer="auto", where="")
    with pytest.raises(ValueError, match="Near ones: pfc1"):
        recorder(metrics=["pcf1"])
    with pytest.raises(ValueError, match="memory_budget must be"):
        recorder(memory_budget=-1)


def test_layers_and_classifier_may_be_modules():
    model = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 3))
    batches = [(torch.randn(6, 2, generator=torch.Generator().manual_seed(0)), torch.arange(6) % 3)]
    chosen = recorder(layers=[model[0]], classifier=model[2], metrics=["pfc1", "nc3"])
    measured = chosen.record(model, batches, epoch=1, step=3, processes=Processes())
    assert measured.layers == ("0", "2.input")
    assert {row.metric for row in measured.rows} == {"pfc1", "nc3"}


class Tokens(nn.Sequential):
    """A language model of one matrix: the logits of every token."""

    def __init__(self):
        super().__init__(nn.Embedding(9, 4), nn.Linear(4, 4), nn.Linear(4, 9))

    def forward(self, input_ids):
        return super().forward(input_ids)


@pytest.mark.parametrize(("options", "classes"), [
    ({"unpack": next_tokens}, (0, 1, 2)), ({"unpack": next_tokens, "classes": "all"}, tuple(range(9))),
    ({"unpack": next_tokens, "min_per_class": 3}, (0, 2)),
])  # fmt: skip
def test_callbacks_measure_the_tokens_that_occur(options, classes):
    """Of 9 tokens, 0, 1 and 2 follow others: 4, 2 and 4 times."""
    batches = [{"input_ids": torch.tensor([[8, 0, 0, 2, 2, 1], [8, 2, 1, 0, 2, 0]])}]
    measured = recorder(num_classes=9, metrics=["pfc1", "accuracy"], **options).record(
        Tokens(), batches, epoch=1, step=3, processes=Processes()
    )
    assert measured.classes == classes


def test_the_network_inside():
    module = nn.Sequential()
    module.inner = nn.Sequential(nn.Linear(1, 2))
    module.words = "words"
    assert network_in(module, None) is module
    assert network_in(module, "inner.0") is module.inner[0]
    assert network_in(module, lambda m: m.inner) is module.inner
    with pytest.raises(ValueError, match=r"must name an attribute of Sequential, got 'net'. It has: inner\."):
        network_in(module, "net")
    with pytest.raises(TypeError, match=r"must lead to a torch.nn.Module, got str"):
        network_in(module, "words")


def test_logs_by_their_files(tmp_path):
    assert [type(log) for log in logs_of(tmp_path / "a.csv") + logs_of(str(tmp_path / "a.jsonl"))] == [CSVLog, JSONLLog]
    assert logs_of([print, repr]) == (print, repr)
    assert logs_of(print) == (print,)
    with pytest.raises(ValueError, match=r"must be a file that ends in .csv or .jsonl, got '.*a.txt'"):
        logs_of(tmp_path / "a.txt")
    with pytest.raises(TypeError, match="must be a file, a log or several, got int"):
        logs_of([3])
