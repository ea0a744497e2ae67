"""Deterministic and compiled steps: settings that hold during training only, and the eager network within rounding."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from ncollapse.data import gaussian_mixture
from ncollapse.models import FCResNet, FCResNetConfig
from ncollapse.train import TrainConfig, train
from ncollapse.train.execution import check_execution
from ncollapse.train.parallel import Team

# 21 samples in batches of 8: the last one has 5.
DATA = gaussian_mixture(num_classes=3, dim=4, per_class=7, seed=1)
CONFIG = TrainConfig(epochs=3, batch_size=8, learning_rate=0.05)
DETERMINISTIC = replace(CONFIG, deterministic=True)


def small_model(seed=0):
    return FCResNet(FCResNetConfig(width=6, num_blocks=1), DATA.input_dim, DATA.num_classes, seed)


def settings():
    cudnn = torch.backends.cudnn
    return torch.get_deterministic_debug_mode(), cudnn.deterministic, cudnn.benchmark


class Observed(nn.Linear):
    """Keeps the settings that hold forward and backward; fails at a call if told to."""

    def __init__(self, fails_at=0):
        super().__init__(DATA.input_dim, DATA.num_classes)
        self.seen, self.fails_at = [], fails_at

    def forward(self, inputs):
        logits = super().forward(inputs)
        self.seen.append(settings())
        logits.register_hook(lambda _gradient: self.seen.append(settings()))
        if len(self.seen) == self.fails_at:
            raise RuntimeError("no deterministic weather")
        return logits


@pytest.fixture(params=[(0, False, True), (1, True, True), (2, False, False)], ids=str)
def former(request):
    """Settings of a caller, whatever they are."""
    before = settings()
    mode, deterministic, benchmark = request.param
    torch.set_deterministic_debug_mode(mode)
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = deterministic, benchmark
    yield request.param
    torch.set_deterministic_debug_mode(before[0])
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = before[1:]


def test_deterministic_settings_hold_in_steps_and_no_longer(former):
    model = Observed()
    for _ in train(model, DATA, DETERMINISTIC, seed=0):
        assert settings() == former
    assert model.seen == [(2, True, False)] * 18


def test_settings_of_before_hold_after_an_error(former):
    model = Observed(fails_at=3)
    with pytest.raises(RuntimeError, match="no deterministic weather"):
        next(train(model, DATA, DETERMINISTIC, seed=0))
    assert settings() == former
    assert model.seen == [(2, True, False)] * 3


def test_other_training_takes_the_settings_that_are_there(former):
    model = Observed()
    next(train(model, DATA, CONFIG, seed=0))
    assert set(model.seen) == {former}


class Scattered(nn.Linear):
    """Puts a number in its place by an operation without a deterministic implementation."""

    def forward(self, inputs):
        return super().forward(inputs).put(torch.tensor([0]), torch.zeros(1))


def test_an_operation_without_deterministic_implementation():
    model = Scattered(DATA.input_dim, DATA.num_classes)
    next(train(model, DATA, CONFIG, seed=0))
    before = settings()
    with pytest.raises(ValueError, match=r"got one without: put_? does not have a deterministic implementation\. Replace it"):
        next(train(model, DATA, DETERMINISTIC, seed=0))
    assert settings() == before


def test_deterministic_training_is_the_same_training():
    eager, deterministic = small_model(), small_model()
    records = list(train(eager, DATA, CONFIG, seed=0))
    assert list(train(deterministic, DATA, DETERMINISTIC, seed=0)) == records
    for name, value in eager.state_dict().items():
        assert deterministic.state_dict()[name].equal(value)


@pytest.mark.parametrize("workspace", [None, ":4096:2"])
def test_cuda_needs_a_fixed_workspace(workspace, monkeypatch):
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    if workspace:
        monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", workspace)
    words = rf"CUBLAS_WORKSPACE_CONFIG to be :4096:8 or :16:8 when the process starts, got {workspace or 'none'}\. Set it"
    with pytest.raises(ValueError, match=words):
        check_execution(DETERMINISTIC, torch.device("cuda"), Team(None))
    check_execution(DETERMINISTIC, torch.device("cpu"), Team(None))
    check_execution(CONFIG, torch.device("cuda"), Team(None))
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    check_execution(DETERMINISTIC, torch.device("cuda"), Team(None))
