"""Labels and inputs as people give them: arrays, lists, rows of one-hot vectors, names; converted, or refused with a hint."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ncollapse import measure, measure_features

K = 4
Y = torch.arange(30) % K
X = torch.randn(30, 6, generator=torch.Generator().manual_seed(0)) + Y[:, None]
BATCHES = [(X[:13], Y[:13]), (X[13:], Y[13:])]
NET = nn.Sequential(nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, K))


CONVERSIONS = {
    "array": lambda y: y.numpy(),
    "array of uint16": lambda y: y.numpy().astype("uint16"),
    "list": lambda y: y.tolist(),
    "tuple": lambda y: tuple(y.tolist()),
    "list of tensors": list,
    "list of NumPy numbers": lambda y: list(y.numpy()),
}
ROWS = {
    "integers": lambda y: F.one_hot(y, K),
    "booleans": lambda y: F.one_hot(y, K).bool(),
    "several classes": lambda y: F.one_hot(y, K) | F.one_hot(y.flip(0), K),
}


@pytest.mark.parametrize("name", CONVERSIONS)
def test_arrays_and_lists_of_labels(name):
    convert = CONVERSIONS[name]
    expected = [row.value for row in measure(NET, BATCHES, num_classes=K).rows]
    found = measure(NET, [(x.double().numpy(), convert(y)) for x, y in BATCHES], num_classes=K)
    assert [row.value for row in found.rows] == pytest.approx(expected, nan_ok=True, rel=1e-5)
    given = [measure_features(X, labels, num_classes=K).rows for labels in (Y, convert(Y))]
    assert [row.value for row in given[1]] == pytest.approx([row.value for row in given[0]], nan_ok=True, rel=1e-12)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (lambda y: [str(int(k)) for k in y], "integer class indices, got list of str in batch 0. Number the classes from 0"),
        (lambda y: (y, y.flip(0), 0.3), "got tuple of Tensor in batch 0. Choose one set of labels"),
        (lambda y: [y, y], "got list of Tensor in batch 0. Choose one set of labels"),
        (lambda y: y.numpy().astype(float), "got ndarray in batch 0"),
        (lambda y: None, "got NoneType in batch 0"),
        (lambda y: {"class": y}, "got dict in batch 0"),
    ],
)
def test_labels_that_are_no_indices(labels, message):
    with pytest.raises(TypeError, match=message):
        measure(NET, [(x, labels(y)) for x, y in BATCHES], num_classes=K)


@pytest.mark.parametrize("name", ROWS)
def test_one_hot_rows_are_named_first(name):
    with pytest.raises(ValueError, match=r"rows \(\d+, \d+\) of zeros and ones. Convert one-hot rows"):
        measure(NET, [(x, ROWS[name](y)) for x, y in BATCHES], num_classes=K)
