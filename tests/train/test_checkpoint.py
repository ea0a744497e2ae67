"""Checkpoints: resuming to the bit, damage noticed anywhere, and what a failing disk leaves behind."""

import errno
import os
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import nn

from ncollapse.data import gaussian_mixture
from ncollapse.models import FCResNet, FCResNetConfig
from ncollapse.train import (
    CheckpointError,
    TrainConfig,
    load_checkpoint,
    load_weights,
    make_optimizer,
    save_checkpoint,
    train,
)

DATA = gaussian_mixture(num_classes=3, dim=4, per_class=7, seed=1)
CONFIG = TrainConfig(epochs=6, batch_size=8)
ADAM = TrainConfig(epochs=6, batch_size=8, learning_rate=0.01, optimizer="adam", schedule="cosine")


def small_model(seed: int = 0, width: int = 6) -> FCResNet:
    return FCResNet(FCResNetConfig(width=width, num_blocks=2), DATA.input_dim, DATA.num_classes, seed)


def same_state(first: nn.Module, second: nn.Module) -> bool:
    pairs = zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    return all(a.equal(b) for a, b in pairs)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A checkpoint after two epochs of training."""
    model = small_model()
    optimizer = make_optimizer(model, CONFIG)
    epochs = train(model, DATA, CONFIG, seed=5, optimizer=optimizer)
    next(epochs), next(epochs)
    path = tmp_path / "checkpoint.safetensors"
    save_checkpoint(path, model, optimizer, 2, "abc")
    return path


LBFGS = replace(CONFIG, optimizer="lbfgs", batch_size=1000, clip_norm=None, learning_rate=1.0)
OPTIMIZERS = [CONFIG, ADAM, replace(CONFIG, optimizer="sgdw"), replace(ADAM, optimizer="adamw"), LBFGS]


@pytest.mark.parametrize("stop", [1, 2, 5, 6])
@pytest.mark.parametrize(
    "config",
    [CONFIG, ADAM, replace(CONFIG, optimizer="sgdw"), replace(ADAM, optimizer="adamw"), LBFGS],
    ids=lambda c: c.optimizer,
)
def test_resumed_run_equals_uninterrupted_run_to_the_bit(tmp_path: Path, stop: int, config: TrainConfig) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        whole = small_model()
        records = list(train(whole, DATA, config, seed=5))
        path = tmp_path / "c.safetensors"
        first = small_model()
        optimizer = make_optimizer(first, config)
        for record in train(first, DATA, config, seed=5, optimizer=optimizer):
            if record.epoch == stop:
                save_checkpoint(path, first, optimizer, record.epoch, "abc")
                break
        resumed = small_model(seed=99)
        optimizer = make_optimizer(resumed, config)
        epoch = load_checkpoint(path, resumed, optimizer, "abc")
        assert epoch == stop
        rest = list(train(resumed, DATA, config, seed=5, optimizer=optimizer, start_epoch=epoch + 1))
    finally:
        torch.set_num_threads(threads)
    assert rest == records[stop:]
    assert same_state(resumed, whole)


def test_loading_drops_momentum_that_the_optimizer_had(saved: Path, tmp_path: Path) -> None:
    untrained = small_model()
    save_checkpoint(tmp_path / "start", untrained, make_optimizer(untrained, CONFIG), 0, "abc")
    model = small_model(seed=3)
    optimizer = make_optimizer(model, CONFIG)
    next(train(model, DATA, CONFIG, seed=5, optimizer=optimizer))
    assert load_checkpoint(tmp_path / "start", model, optimizer, "abc") == 0
    assert same_state(model, untrained)
    assert not any(optimizer.state.get(parameter) for parameter in model.parameters())


def test_no_temporary_file_stays_and_old_checkpoints_are_replaced(saved: Path) -> None:
    other = small_model(seed=7)
    save_checkpoint(saved, other, make_optimizer(other, CONFIG), 3, "abc")
    assert [path.name for path in saved.parent.iterdir()] == [saved.name]
    loaded = small_model()
    assert load_checkpoint(saved, loaded, make_optimizer(loaded, CONFIG), "abc") == 3
    assert same_state(loaded, other)


def expect_refusal(path: Path, message: str, fingerprint: str = "abc", width: int = 6) -> None:
    """Loading fails with the message, and neither model nor optimizer has changed."""
    model, untouched = small_model(seed=8, width=width), small_model(seed=8, width=width)
    optimizer = make_optimizer(model, CONFIG)
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(path, model, optimizer, fingerprint)
    assert same_state(model, untouched)
    assert not any(optimizer.state.get(parameter) for parameter in model.parameters())


@pytest.mark.parametrize("size", [0, 4, 100, -1])
def test_truncated_file(saved: Path, size: int) -> None:
    saved.write_bytes(saved.read_bytes()[:size])
    expect_refusal(saved, r"must be a whole safetensors file, got a damaged .* Delete it and begin the run again")


def test_any_changed_byte_is_noticed(tmp_path: Path) -> None:
    model = nn.Linear(2, 2)
    optimizer = make_optimizer(model, CONFIG)
    saved = tmp_path / "small"
    save_checkpoint(saved, model, optimizer, 0, "abc")
    content = saved.read_bytes()
    for position in range(len(content)):
        saved.write_bytes(content[:position] + bytes([content[position] ^ 0x01]) + content[position + 1 :])
        with pytest.raises(CheckpointError):
            load_checkpoint(saved, model, optimizer, "abc")


def test_equal_states_give_equal_bytes(saved: Path) -> None:
    content = saved.read_bytes()
    for _ in range(8):
        model = small_model()
        optimizer = make_optimizer(model, CONFIG)
        load_checkpoint(saved, model, optimizer, "abc")
        save_checkpoint(saved, model, optimizer, 2, "abc")
        assert saved.read_bytes() == content


def wrapped(prefix: str) -> dict[str, torch.Tensor]:
    return {prefix + name: value for name, value in small_model(seed=5).state_dict().items()}


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod."])
@pytest.mark.parametrize("key", [None, "state_dict", "model_state_dict", "model"])
def test_weights_of_torch_save_are_read(tmp_path: Path, prefix: str, key: str | None) -> None:
    content = wrapped(prefix) if key is None else {"epoch": 3, key: wrapped(prefix)}
    torch.save(content, tmp_path / "weights.pt")
    model = small_model()
    load_weights(tmp_path / "weights.pt", model)
    expected = small_model(seed=5).state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in model.state_dict().items())


def test_pickled_code_runs_only_when_asked_for(tmp_path: Path) -> None:
    torch.save(small_model(seed=5), tmp_path / "model.pt")
    model = small_model()
    with pytest.raises(CheckpointError, match=r"must hold weights alone, .* if you trust who wrote it, .*--unsafe-pickle"):
        load_weights(tmp_path / "model.pt", model)
    assert all(torch.equal(value, small_model().state_dict()[name]) for name, value in model.state_dict().items())
    load_weights(tmp_path / "model.pt", model, unsafe_pickle=True)
    assert all(torch.equal(value, small_model(seed=5).state_dict()[name]) for name, value in model.state_dict().items())


def test_files_of_other_kinds_are_refused(tmp_path: Path) -> None:
    torch.save(small_model().state_dict(), tmp_path / "weights.safetensors")
    with pytest.raises(CheckpointError, match=r"got another kind of file .* Give weights that torch.save wrote a name"):
        load_weights(tmp_path / "weights.safetensors", small_model())
    torch.save({"optimizer": 3, "epoch": 4}, tmp_path / "weights.pt")
    with pytest.raises(CheckpointError, match="must hold a state dict of tensors, got optimizer, epoch"):
        load_weights(tmp_path / "weights.pt", small_model())
    content = (tmp_path / "weights.safetensors").read_bytes()
    (tmp_path / "half.pt").write_bytes(content[: len(content) // 2])
    with pytest.raises(CheckpointError, match="got neither or a damaged one"):
        load_weights(tmp_path / "half.pt", small_model())


def test_changed_weights_are_damage(saved: Path) -> None:
    content = bytearray(saved.read_bytes())
    content[-1] ^= 0x01
    saved.write_bytes(content)
    expect_refusal(saved, r"its checksum differs from its content")
    with pytest.raises(CheckpointError, match=r"its checksum differs from its content"):
        load_weights(saved, small_model())


def test_other_recipe(saved: Path) -> None:
    expect_refusal(saved, r"recipe with fingerprint xyz, got one of abc. Resume with", "xyz")


def test_other_shapes(saved: Path) -> None:
    expect_refusal(saved, r"which has '\S+' as \(8,\) torch.float32, got \(6,\) .* Build the model", width=8)


def test_other_layers(saved: Path) -> None:
    model = FCResNet(FCResNetConfig(width=6, num_blocks=3), DATA.input_dim, DATA.num_classes, seed=0)
    with pytest.raises(CheckpointError, match=r"which has 'blocks.2\S+' as .*, got nothing"):
        load_checkpoint(saved, model, make_optimizer(model, CONFIG), "abc")
    shorter = FCResNet(FCResNetConfig(width=6, num_blocks=1), DATA.input_dim, DATA.num_classes, seed=0)
    with pytest.raises(CheckpointError, match=r"which has 'blocks.1\S+' as nothing, got"):
        load_weights(saved, shorter)


def test_plain_weights_are_no_checkpoint(saved: Path) -> None:
    safetensors.torch.save_file(small_model().state_dict(), saved)
    expect_refusal(saved, r"must be a checkpoint of format ncollapse-checkpoint-1, got none. .* load_weights")


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere"):
        load_weights(tmp_path / "nowhere", small_model())


def test_load_weights_takes_checkpoints_and_plain_state_dicts(saved: Path, tmp_path: Path) -> None:
    from_checkpoint, from_plain = small_model(seed=1), small_model(seed=2)
    load_weights(saved, from_checkpoint)
    plain = tmp_path / "weights.safetensors"
    safetensors.torch.save_file(from_checkpoint.state_dict(), plain)
    load_weights(plain, from_plain)
    assert same_state(from_checkpoint, from_plain)
    assert not same_state(from_plain, small_model(seed=2))


def test_tied_weights_are_saved(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[1].weight = model[0].weight
    save_checkpoint(tmp_path / "tied", model, make_optimizer(model, CONFIG), 0, "abc")
    load_weights(tmp_path / "tied", model)


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_full_disk_keeps_the_old_checkpoint_and_names_the_file(saved: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    before = saved.read_bytes()

    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, step, full)
    model = small_model()
    message = r"\d+ bytes were to be written, the system refuses \(No space left on device\). Free some"
    with pytest.raises(OSError, match=message) as caught:
        save_checkpoint(saved, model, make_optimizer(model, CONFIG), 3, "abc")
    assert caught.value.errno == errno.ENOSPC
    assert caught.value.filename == str(saved)
    assert saved.read_bytes() == before
    assert [path.name for path in saved.parent.iterdir()] == [saved.name]


def test_folder_that_cannot_be_written_to(tmp_path: Path) -> None:
    model = small_model()
    with pytest.raises(FileNotFoundError, match=r"the system refuses .*missing/c.safetensors"):
        save_checkpoint(tmp_path / "missing" / "c.safetensors", model, make_optimizer(model, CONFIG), 0, "abc")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(NotADirectoryError, match=r"choose a folder that can be written to.*file/c.safetensors"):
        save_checkpoint(tmp_path / "file" / "c.safetensors", model, make_optimizer(model, CONFIG), 0, "abc")


@pytest.mark.parametrize(("code", "kind"), [(errno.EROFS, OSError), (errno.EACCES, PermissionError)])
def test_read_only_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, kind: type[OSError]) -> None:
    """As a read-only file system and a locked folder refuse; a real locked folder would not stop root."""

    def refuse(path: Path, *_arguments: object) -> None:
        raise OSError(code, os.strerror(code), str(path))

    monkeypatch.setattr(os, "open", refuse)
    model = small_model()
    with pytest.raises(kind, match=r"the system refuses .*locked/c.safetensors") as caught:
        save_checkpoint(tmp_path / "locked" / "c.safetensors", model, make_optimizer(model, CONFIG), 0, "abc")
    assert caught.value.errno == code


def test_interrupted_write_cleans_up(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    model = small_model()
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(saved, model, make_optimizer(model, CONFIG), 3, "abc")
    assert [path.name for path in saved.parent.iterdir()] == [saved.name]
