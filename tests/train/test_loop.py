"""The loop against plain gradient descent written out, and the demo's recipe on the real digits."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from ncollapse.data import DataConfig, LabeledData, gaussian_mixture, load_samples, shuffled_batches
from ncollapse.models import FCResNet, FCResNetConfig
from ncollapse.train import EpochRecord, TrainConfig, TrainingDiverged, lr_at, make_optimizer, train
from ncollapse.train.losses import LOSSES

DATA = gaussian_mixture(num_classes=3, dim=4, per_class=7, seed=1)


def small_model(seed: int = 0, **fields: object) -> FCResNet:
    return FCResNet(FCResNetConfig(width=6, num_blocks=2, **fields), DATA.input_dim, DATA.num_classes, seed)


def parameters_of(model: nn.Module) -> list[Tensor]:
    return [value.detach().clone() for value in model.state_dict().values()]


def train_by_hand(model: nn.Module, data: LabeledData, config: TrainConfig, seed: int) -> list[EpochRecord]:
    """SGD from its definition: gradient, clipping, decay, momentum, step; one number at a time where it can be."""
    parameters = list(model.parameters())
    velocity = [torch.zeros_like(parameter) for parameter in parameters]
    records = []
    for epoch in range(1, config.epochs + 1):
        loss_sum, num_correct, norms = 0.0, 0, []
        balanced = config.balance == "sampling"
        for inputs, labels in shuffled_batches(data, config.batch_size, seed, epoch, balanced=balanced):
            logits = model(inputs)
            terms = torch.cat([LOSSES[config.loss](z[None], y[None])[None] for z, y in zip(logits, labels, strict=True)])
            if config.balance == "weights":
                terms = terms * data.num_samples / (data.num_classes * data.labels.bincount()[labels])
            loss = terms.mean()
            gradients = torch.autograd.grad(loss, parameters)
            norm = math.sqrt(sum(gradient.square().sum().item() for gradient in gradients))
            shrink = min(1.0, (config.clip_norm or math.inf) / norm)
            loss_sum += loss.item() * len(labels)
            num_correct += int((logits.argmax(1) == labels).sum())
            norms.append(norm)
            with torch.no_grad():
                for parameter, gradient, speed in zip(parameters, gradients, velocity, strict=True):
                    decays = config.decay == "all" or parameter.ndim >= 2
                    speed.mul_(config.momentum).add_(shrink * gradient + decays * config.weight_decay * parameter)
                    parameter.sub_(lr_at(config, epoch) * speed)
        total = data.num_samples
        mean_norm = sum(norms) / len(norms)
        records.append(EpochRecord(epoch, loss_sum / total, num_correct / total, lr_at(config, epoch), mean_norm))
    return records


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"decay": "all", "weight_decay": 0.05},
        {"clip_norm": None},
        {"clip_norm": 0.1},
        {"loss": "mse", "learning_rate": 0.02},
        {"momentum": 0.0},
        {"weight_decay": 0.0},
        {"balance": "weights"},
        {"balance": "sampling"},
    ],
    ids=str,
)
def test_loop_equals_gradient_descent_written_out(fields: dict[str, object]) -> None:
    config = replace(TrainConfig(epochs=4, batch_size=6, learning_rate=0.05), **fields)
    double = LabeledData(DATA.inputs.double(), DATA.labels, DATA.num_classes, DATA.name)
    double = double.first_of_each([*double.labels.bincount().tolist()[:-1], 2])
    ours, by_hand = small_model().double(), small_model().double()
    records = list(train(ours, double, config, seed=3))
    expected = train_by_hand(by_hand, double, config, seed=3)
    # The clipping of PyTorch divides by norm + 1e-6.
    for ours_now, hand_now in zip(parameters_of(ours), parameters_of(by_hand), strict=True):
        torch.testing.assert_close(ours_now, hand_now, rtol=1e-4, atol=1e-5)
    for record, other in zip(records, expected, strict=True):
        assert (record.epoch, record.accuracy, record.learning_rate) == (
            other.epoch,
            other.accuracy,
            other.learning_rate,
        )
        assert (record.loss, record.grad_norm) == pytest.approx((other.loss, other.grad_norm), rel=1e-4)


def test_only_matrices_decay_by_default() -> None:
    model = small_model(stem="linear_bn")
    decayed, kept = make_optimizer(model, TrainConfig()).param_groups
    assert (decayed["weight_decay"], kept["weight_decay"]) == (1e-2, 0.0)
    assert all(parameter.ndim == 2 for parameter in decayed["params"])
    assert all(parameter.ndim == 1 for parameter in kept["params"])
    assert len(decayed["params"]) + len(kept["params"]) == len(list(model.parameters()))
    (everything,) = make_optimizer(model, TrainConfig(decay="all")).param_groups
    assert len(everything["params"]) == len(list(model.parameters()))


def test_frozen_parameters_stay() -> None:
    model = small_model()
    model.stem.weight.requires_grad_(False)
    before = model.stem.weight.clone()
    list(train(model, DATA, TrainConfig(epochs=1, batch_size=8), seed=0))
    assert model.stem.weight.equal(before)


def test_nothing_happens_before_the_first_record_and_one_epoch_a_record() -> None:
    model, config = small_model(), TrainConfig(epochs=3, batch_size=8)
    before = parameters_of(model)
    epochs = train(model, DATA, config, seed=0)
    assert all(a.equal(b) for a, b in zip(parameters_of(model), before, strict=True))
    assert next(epochs).epoch == 1
    once = small_model()
    # A run of the same length, cut after an epoch: the schedule depends on the length.
    next(train(once, DATA, config, seed=0))
    assert all(a.equal(b) for a, b in zip(parameters_of(model), parameters_of(once), strict=True))


def test_switching_to_eval_between_records_changes_nothing() -> None:
    config = TrainConfig(epochs=4, batch_size=8)
    measured, left_alone = small_model(), small_model()
    for _ in train(measured, DATA, config, seed=0):
        measured.eval()(DATA.inputs)
    list(train(left_alone, DATA, config, seed=0))
    assert all(a.equal(b) for a, b in zip(parameters_of(measured), parameters_of(left_alone), strict=True))


def test_seed_decides_the_order() -> None:
    config = TrainConfig(epochs=1, batch_size=8)
    losses = [next(train(small_model(), DATA, config, seed=seed)).loss for seed in (0, 0, 1)]
    assert losses[0] == losses[1] != losses[2]


def test_training_leaves_the_global_generator_alone() -> None:
    state = torch.random.get_rng_state()
    list(train(small_model(), DATA, TrainConfig(epochs=1, batch_size=8), seed=0))
    assert torch.random.get_rng_state().equal(state)


@pytest.mark.parametrize("clip_norm", [None, 1.0])
def test_divergence_names_epoch_batch_and_what_to_try(clip_norm: float | None) -> None:
    # Batch 2 of every epoch is the first that sees what an absurd step has made of the model.
    config = TrainConfig(epochs=3, batch_size=8, learning_rate=1e38, clip_norm=clip_norm, milestones=())
    message = r"got loss \S+ and gradient norm \S+ in epoch 1, batch 2 of 3, at learning rate 1e\+38. Lower learning_rate"
    with pytest.raises(TrainingDiverged, match=message):
        list(train(small_model(normalization="none"), DATA, config, seed=0))


def test_not_finite_gradient_in_the_last_batch_is_noticed() -> None:
    class SquareRootOfZero(nn.Linear):
        def forward(self, inputs: Tensor) -> Tensor:
            return super().forward(inputs) + (0 * self.weight.sum()).sqrt()

    model = SquareRootOfZero(DATA.input_dim, DATA.num_classes)
    with pytest.raises(TrainingDiverged, match=r"gradient norm nan in epoch 1, batch 1 of 1"):
        next(train(model, DATA, TrainConfig(epochs=1, batch_size=64), seed=0))


def test_overflowing_loss_with_finite_gradients_is_noticed() -> None:
    class Far(nn.Linear):
        def forward(self, inputs: Tensor) -> Tensor:
            return 1e-20 * super().forward(inputs) + 3e19

    config = TrainConfig(epochs=1, batch_size=64, loss="mse")
    with pytest.raises(TrainingDiverged, match=r"got loss inf and gradient norm [0-9.]+ in epoch 1, batch 1 of 1"):
        next(train(Far(DATA.input_dim, DATA.num_classes), DATA, config, seed=0))


def test_empty_data() -> None:
    with pytest.raises(ValueError, match=r"training needs samples, got none in 'gaussian_mixture'. Load some"):
        train(small_model(), DATA.subset([]), TrainConfig(), seed=0)


@pytest.mark.parametrize(("num_samples", "batch_size"), [(21, 10), (21, 1), (1, 8)])
def test_batch_of_one_for_batch_normalization(num_samples: int, batch_size: int) -> None:
    data, config = DATA.subset(range(num_samples)), TrainConfig(batch_size=batch_size)
    with pytest.raises(ValueError, match=rf"{num_samples} samples in batches of {batch_size}. Ch"):
        train(small_model(), data, config, seed=0)
    train(small_model(normalization="none"), data, config, seed=0)


def normalizing(kernel: int, norm: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Unflatten(1, (1, 2, 2)), nn.Conv2d(1, 2, kernel), norm, nn.Flatten(), nn.LazyLinear(3))


@pytest.mark.parametrize(
    ("kernel", "norm", "fits"),
    [
        (2, nn.BatchNorm2d(2), False),
        (1, nn.BatchNorm2d(2), True),
        (2, nn.SyncBatchNorm(2), False),
        (2, nn.GroupNorm(1, 2), True),
    ],
    ids=["one pixel", "four pixels", "sync", "group"],
)
def test_batch_of_one_for_normalization_of_images(kernel: int, norm: nn.Module, fits: bool) -> None:
    """What counts is whether a channel holds two values or more: told before the first step, or trained on."""
    model = normalizing(kernel, norm)
    model.eval()(DATA.inputs)  # the lazy layer takes its shape
    config = TrainConfig(epochs=1, batch_size=10)
    before, state = parameters_of(model), torch.random.get_rng_state()
    if fits:
        epochs = train(model, DATA, config, seed=0)
    else:
        with pytest.raises(ValueError, match=r"21 samples in batches of 10. Change batch_size"):
            train(model, DATA, config, seed=0)
    assert all(a.equal(b) for a, b in zip(parameters_of(model), before, strict=True))
    assert torch.random.get_rng_state().equal(state)
    if fits:
        assert next(epochs).epoch == 1


@pytest.mark.parametrize("start_epoch", [0, 5])
def test_start_epoch_out_of_range(start_epoch: int) -> None:
    with pytest.raises(ValueError, match=rf"must be in \[1, 4\] for a run of 3 epochs, got {start_epoch}. Pass 1 to beg"):
        train(small_model(), DATA, TrainConfig(epochs=3), seed=0, start_epoch=start_epoch)


def test_finished_run_has_no_epochs_left() -> None:
    assert list(train(small_model(), DATA, TrainConfig(epochs=3), seed=0, start_epoch=4)) == []


def test_model_of_another_number_of_classes() -> None:
    model = FCResNet(FCResNetConfig(width=6, num_blocks=1), DATA.input_dim, 2, seed=0)
    with pytest.raises(ValueError, match=r"logits of shape \(21, 3\) for 'gaussian_mixture', got \(21, 2\). Build it with"):
        next(train(model, DATA, TrainConfig(), seed=0))


@pytest.mark.parametrize("normalization", ["pre", "none"])
def test_bfloat16_learns_what_float32_learns(normalization: str) -> None:
    """Products of 8 bits: loss and accuracy of a float32 training, though not its digits; weights and gradients in float32."""
    data = gaussian_mixture(num_classes=3, dim=8, per_class=40, seed=2)
    found = {}
    for precision in ("float32", "bfloat16"):
        config = TrainConfig(epochs=10, batch_size=20, learning_rate=0.05, precision=precision)
        model = FCResNet(FCResNetConfig(width=16, num_blocks=2, normalization=normalization), 8, 3, seed=0)
        optimizer = make_optimizer(model, config)
        found[precision] = list(train(model, data, config, seed=0, optimizer=optimizer))
        assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
        assert {state["momentum_buffer"].dtype for state in optimizer.state.values()} == {torch.float32}
    for ours, expected in zip(found["bfloat16"], found["float32"], strict=True):
        assert ours.loss == pytest.approx(expected.loss, rel=0.05, abs=5e-3)
        assert ours.accuracy == pytest.approx(expected.accuracy, abs=0.03)
    assert found["bfloat16"][0].loss != pytest.approx(found["float32"][0].loss, rel=1e-5)


def test_demo_recipe_learns_every_digit() -> None:
    data = load_samples(DataConfig(per_class=174))
    # The demo's recipe with a third of its epochs.
    config = TrainConfig(epochs=50)
    model = FCResNet(FCResNetConfig(), data.input_dim, data.num_classes, seed=0)
    records = list(train(model, data, config, seed=0))
    with torch.no_grad():
        predicted = model.eval()(data.inputs).argmax(1)
    assert (predicted == data.labels).all()
    # Far below log 10 = 2.3, and still falling past the last mistake.
    assert records[-1].loss < 0.05


def test_adam_descends_on_loss_and_decay_together() -> None:
    """Two steps by hand: the decay is in the gradient whose moments are taken, and biases are not decayed."""
    data = gaussian_mixture(num_classes=2, dim=3, per_class=4)
    config = TrainConfig(
        epochs=2, batch_size=8, learning_rate=0.1, weight_decay=0.3, clip_norm=None, optimizer="adam", milestones=()
    )
    model = nn.Linear(3, 2)
    weight, bias = (parameter.detach().clone().double().requires_grad_() for parameter in (model.weight, model.bias))
    list(train(model, data, config, seed=0))
    moments = [[torch.zeros_like(weight), torch.zeros_like(weight)], [torch.zeros_like(bias), torch.zeros_like(bias)]]
    for step in (1, 2):
        loss = nn.functional.cross_entropy(data.inputs.double() @ weight.T + bias, data.labels)
        gradients = torch.autograd.grad(loss + 0.15 * weight.square().sum(), (weight, bias))
        with torch.no_grad():
            for parameter, gradient, held in zip((weight, bias), gradients, moments, strict=True):
                held[0] = 0.9 * held[0] + 0.1 * gradient
                held[1] = 0.999 * held[1] + 0.001 * gradient.square()
                parameter -= 0.1 * held[0] / (1 - 0.9**step) / ((held[1] / (1 - 0.999**step)).sqrt() + 1e-8)
    assert torch.allclose(model.weight.double(), weight, rtol=1e-5, atol=1e-6)
    assert torch.allclose(model.bias.double(), bias, rtol=1e-5, atol=1e-6)


def test_decoupled_decay_multiplies_the_weights_and_stays_out_of_the_momentum() -> None:
    """Two steps by hand; biases are not decayed."""
    data = gaussian_mixture(num_classes=2, dim=3, per_class=4)
    config = TrainConfig(
        epochs=2, batch_size=8, learning_rate=0.5, weight_decay=0.3, clip_norm=None, optimizer="sgdw", milestones=()
    )
    model = nn.Linear(3, 2)
    weight, bias = (parameter.detach().clone().double().requires_grad_() for parameter in (model.weight, model.bias))
    list(train(model, data, config, seed=0))
    velocity = [torch.zeros_like(weight), torch.zeros_like(bias)]
    for _ in range(2):
        loss = nn.functional.cross_entropy(data.inputs.double() @ weight.T + bias, data.labels)
        gradients = torch.autograd.grad(loss, (weight, bias))
        velocity = [0.9 * held + gradient for held, gradient in zip(velocity, gradients, strict=True)]
        with torch.no_grad():
            weight.mul_(1 - 0.5 * 0.3).sub_(0.5 * velocity[0])
            bias.sub_(0.5 * velocity[1])
    assert torch.allclose(model.weight.double(), weight, rtol=1e-5, atol=1e-6)
    assert torch.allclose(model.bias.double(), bias, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("optimizer", "kind"), [("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW)])
def test_adam_with_decay_in_the_gradient_and_without(optimizer: str, kind: type) -> None:
    made = make_optimizer(nn.Linear(3, 2), TrainConfig(optimizer=optimizer, weight_decay=0.3, momentum=0.8))
    assert type(made) is kind
    assert [(group["weight_decay"], group["betas"]) for group in made.param_groups] == [
        (0.3, (0.8, 0.999)),
        (0.0, (0.8, 0.999)),
    ]
