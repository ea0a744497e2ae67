"""Every number and word that a model cannot take is refused by its name, whichever model it is."""

import inspect
import math

import pytest
import torch

from ncollapse import surrogates as models
from ncollapse.surrogates import balanced

LABELS = torch.tensor([0, 0, 1, 1])
INPUTS = torch.eye(4, dtype=torch.float64)
COUNTS = {"counts": (2, 2, 2)}
DATA = {"inputs": INPUTS, "labels": LABELS}
GIVEN = {
    models.UFM: COUNTS | {"dim": 3, "lambda_w": 0.1, "lambda_h": 0.1, "bias": "regularized", "lambda_b": 0.1, "loss": "mse"},
    models.DeepUFM: COUNTS | {"dim": 3, "lambdas_w": (0.1, 0.1), "lambda_h": 0.1, "activation": "linear", "bias": "none"},
    models.GUFM: COUNTS | {"dim": 4, "lambda_w": 0.1, "loss": "mse", "bias": "none"},
    models.FixedETF: COUNTS | {"dim": 3, "loss": "cross_entropy", "energy_w": 1.0, "energy_h": 2.0},
    models.NormalizedFeatures: COUNTS | {"dim": 3, "temperature": 2.0},
    models.BoundedOutputs: COUNTS | {"radius": 2.0},
    models.MaxMargin: COUNTS | {"dim": 3},
    models.LayerPeeled: COUNTS | {"dim": 3, "energy_w": 1.0, "energy_h": 2.0},
    models.NearCollapse: COUNTS | {"scale": 1.0, "lambda_w": 0.1, "lambda_h": 0.1},
    models.CentralPath: COUNTS | {"dim": 2},
    models.UnregularizedUFM: COUNTS | {"dim": 3},
    models.MUFM: DATA | {"lambda_w": 0.1, "lambda_h": 0.1, "loss": "mse", "bias": "none"},
    models.BatchNormNet: DATA | {"lambda_w": 0.1},
    models.WeightNormalizedNet: DATA | {"lambda_w": 0.1},
    models.block_cost: {"lambda_w": 0.1, "num_blocks": 2, "num_samples": 3, "biases": False},
    models.depth_floor: {**DATA, "inputs": models.layer_norm(INPUTS), "loss": "mse", "lambda_w": 0.1, "lambda_h": 0.1},
    models.minority_collapse_ratio: {"num_majority": 1, "num_minority": 2, "lambda_w": 0.1, "lambda_h": 0.1, "num_samples": 9},
    models.LayerPeeled.imbalanced: {
        "num_classes": 4, "num_majority": 2, "ratio": 2.0, "energy_w": 1.0, "energy_h": 1.0, "oversampling": 1.0
    },
    models.collapsed_eigenvalue: COUNTS | {"start": 1.0, "time": 1.0},
    models.collapsed_bias: COUNTS | {"start": 1.0, "time": 1.0},
    models.signal_after: COUNTS | {"start": 1.0, "time": 1.0},
    models.seli_geometry: COUNTS,
    models.best_norm: {"margins": torch.ones(3), "lambda_w": 0.1},
    models.gradient_flow: DATA | {"lambda_w": 0.1, "duration": 0.1, "num_steps": 3},
}  # fmt: skip
POSITIVE = {
    "lambda_w", "lambda_h", "lambda_b", "energy_w", "energy_h", "temperature", "radius", "scale", "num_blocks", "num_samples",
    "num_majority", "oversampling", "duration", "num_steps",
}  # fmt: skip
WORDS = {"loss", "bias", "activation"}
BALANCED = (
    models.GUFM, models.NormalizedFeatures, models.NearCollapse, models.CentralPath, models.UnregularizedUFM,
    models.collapsed_eigenvalue, models.collapsed_bias, models.signal_after,
)  # fmt: skip
CASES = [(call, name) for call, given in GIVEN.items() for name in given]


def refuse(call, words, **changes):
    with pytest.raises(ValueError, match=words):
        call(**GIVEN[call] | changes)


@pytest.mark.parametrize("call", GIVEN, ids=lambda call: call.__name__)
def test_what_is_given_here_is_taken(call):
    call(**GIVEN[call])


@pytest.mark.parametrize(
    ("call", "name"), [case for case in CASES if case[1] in POSITIVE], ids=lambda part: getattr(part, "__name__", part)
)
def test_numbers_that_are_not_positive(call, name):
    words = rf"{name} must be " + (
        "from 1" if name == "num_majority" and "imbalanced" in call.__name__ else "finite and positive"
    )
    for number in (-0.5, 0.0) + (() if name == "num_majority" else (math.nan, math.inf)):
        refuse(call, words, **{name: number})


@pytest.mark.parametrize(
    ("call", "name"), [case for case in CASES if case[1] in WORDS], ids=lambda part: getattr(part, "__name__", part)
)
def test_words_that_are_unknown(call, name):
    refuse(call, rf"{name} must be '\w+'.* got 'other'\.", **{name: "other"})


@pytest.mark.parametrize("call", [call for call, given in GIVEN.items() if "counts" in given], ids=lambda call: call.__name__)
def test_counts_that_are_no_classes(call):
    balances = (models.collapsed_eigenvalue, models.collapsed_bias, models.signal_after)
    for counts in () if call in balances else ((2,), (2, 0, 2), (3, -3, 3)):
        refuse(call, "counts must be positive", counts=counts)
    if call in BALANCED:
        refuse(call, r"needs balanced classes, got counts \(2, 2, 1\)\.", counts=(2, 2, 1))


@pytest.mark.parametrize("call", [models.UFM, models.MaxMargin, models.DeepUFM, models.LayerPeeled, models.CentralPath])
def test_dimensions_that_are_none(call):
    refuse(call, "dim must be finite and positive, got 0", dim=0)


def test_the_decay_of_each_layer_is_looked_at():
    for decays in ((0.1, -0.1), (0.0, 0.1), (0.1, math.nan)):
        refuse(models.DeepUFM, "lambdas_w must be finite and positive", lambdas_w=decays)


@pytest.mark.parametrize("call", [models.MUFM, models.BatchNormNet, models.WeightNormalizedNet])
def test_data_that_do_not_fit(call):
    refuse(
        call,
        "needs finite features, got nan or inf in row 2",
        inputs=INPUTS.where(INPUTS < 2, 1.0).index_fill(0, torch.tensor([2]), math.nan),
    )
    refuse(call, r"inputs must have shape \(N, d\)", inputs=INPUTS.unsqueeze(0))
    refuse(call, "each with a sample, got counts", labels=2 * LABELS)


def test_defaults_are_those_of_the_documentation():
    expected = {
        models.UFM: {"loss": "cross_entropy", "bias": "none", "lambda_b": 0.0},
        models.DeepUFM: {"activation": "linear", "bias": "none"},
        models.GUFM: {"loss": "cross_entropy", "bias": "none"},
        models.FixedETF: {"loss": "dot_regression", "energy_w": 1.0, "energy_h": 1.0},
        models.NormalizedFeatures: {"temperature": 1.0},
        models.MUFM: {"loss": "mse", "bias": "none"},
        models.BatchNormNet: {"width": None},
        models.WeightNormalizedNet: {"width": 20},
        models.LayerPeeled: {"dim": None},
        models.LocallyElasticSDE: {"start_time": 0.0},
        models.LayerPeeled.imbalanced: {"oversampling": 1.0},
        models.layer_ranks: {"tolerance": 1e-3},
        models.smooth_rate: {"spacing": 1.0, "window": 151, "order": 2},
        models.tail_index: {"last": 1000},
        models.minority_collapse_ratio: {"minority_count": None, "num_samples": None},
    }
    for call, defaults in expected.items():
        parameters = inspect.signature(call).parameters
        assert {name: parameters[name].default for name in defaults} == defaults
    assert balanced(2, 3) == (3, 3)
