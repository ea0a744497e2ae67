"""The config, the steps of the learning rate, weight-decay time, and the measuring epochs."""

import math
from itertools import pairwise

import pydantic
import pytest

from ncollapse.train import TrainConfig, lr_at, measuring_epochs, weight_decay_time

# From the notebook of Papyan, Han and Donoho.
EPOCHS_OF_350 = (*range(1, 12), 12, 13, 14, 16, 17, 19, 20, 22, 24, 27, 29, 32, 35, 38, 42, 45, 50, 54, 59, 65, 71, 77)
EPOCHS_OF_350 += (85, 92, 101, 110, 121, 132, 144, 158, 172, 188, 206, 225, 245, 268, 293, 320, 350)


def test_learning_rate_of_the_papers_run() -> None:
    config = TrainConfig(epochs=350, learning_rate=0.1)
    assert [lr_at(config, epoch) for epoch in (1, 116, 117, 233, 234, 350)] == pytest.approx(
        [0.1, 0.1, 0.01, 0.01, 0.001, 0.001], rel=1e-12
    )


def test_milestones_are_whole_thirds() -> None:
    for epochs in range(3, 400):
        config = TrainConfig(epochs=epochs)
        rates = [lr_at(config, epoch) for epoch in range(1, epochs + 1)]
        assert rates.count(0.1) == epochs // 3
        assert rates.count(rates[-1]) == epochs - 2 * epochs // 3


@pytest.mark.parametrize("epochs", [1, 2])
def test_short_runs_begin_at_the_full_rate(epochs: int) -> None:
    assert lr_at(TrainConfig(epochs=epochs), 1) == 0.1


def test_other_milestones_and_gamma() -> None:
    config = TrainConfig(epochs=10, learning_rate=1.0, milestones=(0.5,), gamma=0.5)
    assert [lr_at(config, epoch) for epoch in (5, 6)] == [1.0, 0.5]
    assert lr_at(TrainConfig(epochs=10, milestones=()), 10) == 0.1
    # 0.29 * 100 is 28.999999999999996 in binary.
    assert lr_at(TrainConfig(epochs=100, milestones=(0.29,)), 29) == 0.1


def test_cosine_falls_from_the_full_rate_to_gamma_times_it() -> None:
    config = TrainConfig(epochs=5, learning_rate=2.0, gamma=0.1, schedule="cosine")
    shares = [0.1 + 0.9 * (1 + math.cos(math.pi * i / 4)) / 2 for i in range(5)]
    assert [lr_at(config, epoch) for epoch in range(1, 6)] == pytest.approx([2 * share for share in shares], rel=1e-12)
    assert (lr_at(config, 1), lr_at(config, 5)) == pytest.approx((2.0, 0.2), rel=1e-12)
    assert lr_at(TrainConfig(epochs=1, schedule="cosine"), 1) == 0.1


def test_weight_decay_time_equals_its_sum_and_the_recipes() -> None:
    config = TrainConfig(epochs=7, learning_rate=0.3, momentum=0.5, weight_decay=0.02)
    total = sum(lr_at(config, epoch) / (1 - 0.5) * 0.02 for epoch in range(1, 8) for _ in range(11))
    assert weight_decay_time(config, 11) == pytest.approx(total, rel=1e-12)
    gone = sum(lr_at(config, epoch) / (1 - 0.5) * 0.02 for epoch in range(1, 4) for _ in range(11))
    assert weight_decay_time(config, 11, 3) == pytest.approx(gone, rel=1e-12)
    assert weight_decay_time(config, 11, 0) == 0
    assert math.isnan(weight_decay_time(TrainConfig(optimizer="adam"), 11))
    assert math.isnan(weight_decay_time(TrainConfig(optimizer="adamw"), 11))
    # Decoupled decay does not pass through the momentum.
    assert weight_decay_time(TrainConfig(optimizer="sgdw"), 11) == pytest.approx(weight_decay_time(TrainConfig(), 11) / 10)
    # Published defaults: digits 7.8, 5,000 Fashion images 11.1.
    assert weight_decay_time(TrainConfig(), math.ceil(1740 / 128)) == pytest.approx(7.8, abs=0.05)
    assert weight_decay_time(TrainConfig(learning_rate=0.05), math.ceil(5000 / 128)) == pytest.approx(11.1, abs=0.3)


def test_measuring_epochs_of_the_papers_run() -> None:
    assert measuring_epochs(350) == EPOCHS_OF_350


@pytest.mark.parametrize("epochs", [1, 2, 3, 11, 12, 13, 40, 59, 150, 300, 1000, 3000])
def test_measuring_epochs_are_log_spaced_with_both_ends(epochs: int) -> None:
    chosen = measuring_epochs(epochs)
    assert (chosen[0], chosen[-1]) == (1, epochs)
    assert all(early < late <= max(early + 1, 1.0928 * early + 1) for early, late in pairwise(chosen))
    assert set(range(1, min(epochs, 10) + 1)) <= set(chosen)


def test_measuring_epochs_needs_an_epoch() -> None:
    with pytest.raises(ValueError, match=r"needs 1 epoch or more, got 0. Pass the length"):
        measuring_epochs(0)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"epochs": 0}, r"train.epochs must be an integer of 1 or more, got 0. Pass such a number"),
        ({"epochs": True}, r"train.epochs must be an integer of 1 or more, got True"),
        ({"epochs": 2.5}, r"train.epochs must be an integer of 1 or more, got 2.5"),
        ({"batch_size": 0}, r"train.batch_size must be an integer of 1 or more, got 0"),
        ({"precision": "half"}, r"train.precision must be one of float32, bfloat16, got 'half'. Pick one"),
        ({"deterministic": 1}, r"train.deterministic must be true or false, got 1. Pass one"),
        ({"compiled": "yes"}, r"train.compiled must be true or false, got 'yes'. Pass one"),
        ({"checkpoint_every": 0}, r"train.checkpoint_every must be an integer of 1 or more, got 0"),
        ({"decay": "none"}, r"train.decay must be one of weights, all, got 'none'. Pick one"),
        ({"optimizer": "lion"}, r"train.optimizer must be one of sgd, adam, sgdw, adamw, lbfgs, got 'lion'"),
        ({"schedule": "linear"}, r"train.schedule must be one of steps, cosine, got 'linear'"),
        ({"loss": "hinge"}, r"train.loss must be one of cross_entropy, mse, dot_regression, mcr2, got 'hinge'"),
        ({"learning_rate": 0.0}, r"train.learning_rate must be more than 0 and finite, got 0.0. Try 0.1"),
        ({"learning_rate": math.inf}, r"train.learning_rate must be more than 0 and finite, got inf"),
        ({"momentum": 1.0}, r"train.momentum must be in \[0, 1\), got 1.0. Try 0.9"),
        ({"weight_decay": -1.0}, r"train.weight_decay must be 0 or more and finite, got -1.0. Try 0.01"),
        ({"milestones": (0.5, 0.5)}, r"train.milestones must be rising fractions .* got \(0.5, 0.5\). Try \(1/3, 2/3\)"),
        ({"milestones": (0.0,)}, r"train.milestones must be rising fractions"),
        ({"milestones": (116, 233)}, r"train.milestones must be rising fractions .* got \(116, 233\)"),
        ({"gamma": 0.0}, r"train.gamma must be in \(0, 1\], got 0.0. Try 0.1"),
        ({"clip_norm": 0.0}, r"train.clip_norm must be more than 0, or None, got 0.0. Try 1.0"),
    ],
)
def test_config_out_of_range(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TrainConfig(**fields)


def test_config_through_pydantic() -> None:
    adapter = pydantic.TypeAdapter(TrainConfig)
    assert adapter.validate_python({"epochs": "50"}) == TrainConfig(epochs=50)
    parsed = adapter.validate_python({"milestones": [0.5, "0.75"], "clip_norm": None})
    assert parsed == TrainConfig(milestones=(0.5, 0.75), clip_norm=None)
    assert adapter.validate_json(adapter.dump_json(TrainConfig())) == TrainConfig()
    with pytest.raises(pydantic.ValidationError, match=r"train.epochs must be an integer of 1 or more"):
        adapter.validate_python({"epochs": 0})
