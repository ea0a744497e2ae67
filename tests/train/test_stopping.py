"""Training that is asked to stop: after the batch at hand, and taken up at that batch with the same bits."""

import math
from collections.abc import Iterator
from pathlib import Path

import pytest
import safetensors
import torch
from torch import nn

from ncollapse.data import gaussian_mixture
from ncollapse.models import FCResNet, FCResNetConfig
from ncollapse.train import (
    CheckpointError,
    EpochPart,
    TrainConfig,
    TrainingDiverged,
    TrainingStopped,
    load_checkpoint,
    load_weights,
    make_optimizer,
    resume_checkpoint,
    save_checkpoint,
    train,
)

# Three batches an epoch, of 8, 8 and 5 samples.
DATA = gaussian_mixture(num_classes=3, dim=4, per_class=7, seed=1)
SGD = TrainConfig(epochs=3, batch_size=8)
ADAM = TrainConfig(epochs=3, batch_size=8, learning_rate=0.01, optimizer="adam", schedule="cosine")


def small_model(seed: int = 0) -> FCResNet:
    return FCResNet(FCResNetConfig(width=6, num_blocks=1, stem="linear_bn"), DATA.input_dim, DATA.num_classes, seed)


class AskedAfter:
    """Stands for a signal: from the n-th time on it says that training must stop."""

    def __init__(self, number: int) -> None:
        self.number, self.asked = number, 0

    def __call__(self) -> bool:
        self.asked += 1
        return self.asked >= self.number


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def same_state(first: nn.Module, second: nn.Module) -> bool:
    return all(a.equal(b) for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True))


# Asked before each epoch and after each batch: twelve places in three epochs.
@pytest.mark.parametrize("number", range(1, 13))
@pytest.mark.parametrize("config", [SGD, ADAM], ids=["sgd", "adam"])
def test_stopped_at_any_batch_and_resumed_equals_uninterrupted(number: int, config: TrainConfig, tmp_path: Path) -> None:
    whole, path = small_model(), tmp_path / "c.safetensors"
    expected = list(train(whole, DATA, config, seed=5))
    first = small_model()
    optimizer, records = make_optimizer(first, config), []
    with pytest.raises(TrainingStopped) as caught:
        records.extend(train(first, DATA, config, seed=5, optimizer=optimizer, should_stop=AskedAfter(number)))
    epoch, batches = divmod(number - 1, 4)
    stopped = caught.value
    assert (stopped.epoch, len(stopped.part), stopped.num_batches) == (epoch + 1, batches, 3)
    assert str(stopped) == f"stopped in epoch {epoch + 1}, after batch {batches} of 3"
    save_checkpoint(path, first, optimizer, stopped.epoch - 1, "abc", stopped.part)
    resumed = small_model(seed=99)
    optimizer = make_optimizer(resumed, config)
    epoch, part = resume_checkpoint(path, resumed, optimizer, "abc")
    rest = list(train(resumed, DATA, config, seed=5, optimizer=optimizer, start_epoch=epoch + 1, part=part))
    assert rest == expected[epoch:]
    assert same_state(resumed, whole)


def stopped_inside(path: Path) -> FCResNet:
    model = small_model()
    optimizer = make_optimizer(model, SGD)
    with pytest.raises(TrainingStopped) as caught:
        next(train(model, DATA, SGD, seed=5, optimizer=optimizer, should_stop=AskedAfter(3)))
    save_checkpoint(path, model, optimizer, 0, "abc", caught.value.part)
    return model


def test_weights_from_inside_an_epoch_are_not_taken_for_those_of_an_epoch(tmp_path: Path) -> None:
    path, model = tmp_path / "c.safetensors", small_model(seed=3)
    inside, untouched = stopped_inside(path), small_model(seed=3)
    message = r"c\.safetensors must be written between two epochs, got one .* stopped inside epoch 1\. Read it with resume_"
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(path, model, make_optimizer(model, SGD), "abc")
    assert same_state(model, untouched)
    # Version 0.2 compares the format, and refuses.
    with safetensors.safe_open(path, "pt") as file:
        assert file.metadata()["format"] == "ncollapse-checkpoint-2"
    load_weights(path, model)
    assert same_state(model, inside)


def test_damage_inside_the_part_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "c.safetensors"
    stopped_inside(path)
    content = bytearray(path.read_bytes())
    with safetensors.safe_open(path, "pt") as file:
        loss = file.get_tensor("part.losses").numpy().tobytes()
    content[content.index(loss)] ^= 1
    path.write_bytes(content)
    model = small_model()
    with pytest.raises(CheckpointError, match="its checksum differs"):
        resume_checkpoint(path, model, make_optimizer(model, SGD), "abc")


def test_between_epochs_the_file_is_that_of_before(tmp_path: Path) -> None:
    model = small_model()
    optimizer = make_optimizer(model, SGD)
    save_checkpoint(tmp_path / "a", model, optimizer, 2, "abc")
    save_checkpoint(tmp_path / "b", model, optimizer, 2, "abc", EpochPart.empty())
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert len(resume_checkpoint(tmp_path / "a", model, optimizer, "abc")[1]) == 0


def test_a_part_that_diverged_is_not_saved() -> None:
    model = FCResNet(FCResNetConfig(width=6, num_blocks=1, normalization="none"), DATA.input_dim, DATA.num_classes, 0)
    config = TrainConfig(epochs=1, batch_size=8, learning_rate=1e38, clip_norm=None)
    with pytest.raises(TrainingDiverged, match="in epoch 1, batch 2 of 2"):
        next(train(model, DATA, config, seed=0, should_stop=AskedAfter(3)))


def test_the_record_of_an_epoch_is_that_of_all_its_batches() -> None:
    part = EpochPart(torch.tensor([1.0, 2.0, 4.0]).double(), torch.tensor([1.0, 2.0, 3.0]).double(), torch.tensor([8, 4, 0]))
    (record,) = train(small_model(), DATA, TrainConfig(epochs=1, batch_size=8), seed=0, part=part)
    assert math.isclose(record.loss, (8 * 1 + 8 * 2 + 5 * 4) / 21)
    assert (record.accuracy, record.grad_norm) == (12 / 21, 2.0)
