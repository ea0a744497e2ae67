"""The regularized objective beside its floor: against plain sums, at the floor's own minimizer, never below it, and resumed."""

import json
import math
from dataclasses import replace

import pytest
import torch
from scipy.optimize import minimize

from ncollapse.data import LabeledData, load_samples
from ncollapse.models import build_model
from ncollapse.studies import override, recipe_by_name, run_recipe
from ncollapse.studies.objective import measure_objective
from ncollapse.surrogates.depth_floor import block_cost, depth_floor
from ncollapse.surrogates.gufm import GUFM, layer_norm
from ncollapse.surrogates.solving.arguments import balanced

TINY = [
    "data.per_class=5", "train.epochs=40", "measure.epochs=[0,10,20]", "train.checkpoint_every=10", "model.width=16",
    "model.num_blocks=2", "data.largest_classes=4",
]  # fmt: skip
VARIANTS = {
    "rn1": ("deep_rn1_small", []),
    "rn1, √d": ("deep_rn1_small", ["model.norm_scale=sqrt_d"]),
    "rn1, mse": ("deep_rn1_small", ["train.loss=mse"]),
    "rn1, sgd in batches, all decayed": (
        "deep_rn1_small",
        ["train.optimizer=sgd", "train.learning_rate=0.05", "train.batch_size=7", "train.decay=all"],
    ),
    "rn2, λ/L": ("deep_rn2_small", []),
    "t11": ("deep_t11_small", []),
    "t22, pre-norm, mean, √d": (
        "deep_t11_small",
        ["model.norm=pre", "model.pool=mean", "model.norm_scale=sqrt_d", "model.attention_layers=2", "model.mlp_layers=2"],
    ),
}  # fmt: skip


RELATIVE = [
    "rn1",
    "rn1, mse",
    "rn1, sgd in batches, all decayed",
    "rn2, λ/L",
    "t22, pre-norm, mean, √d",
]


def tiny(name):
    recipe, settings = VARIANTS[name]
    return override(recipe_by_name(recipe), [*TINY, *settings])


def decayed_by_hand(model, name):
    """List what the variants of a name decay."""
    return [p for p in model.parameters() if name == "rn1, sgd in batches, all decayed" or len(p.shape) > 1]


@pytest.mark.parametrize("name", VARIANTS)
def test_every_trained_objective_stays_above_the_floor(name, tmp_path):
    recipe = tiny(name)
    path = run_recipe(recipe, tmp_path / "run")
    entries = json.loads((path / "objective.json").read_text())["epochs"]
    assert [entry["epoch"] for entry in entries] == [0, 10, 20, 40]
    loss = "mse" if recipe.train.loss == "mse" else "cross_entropy"
    scale = 16 if recipe.model.norm_scale == "sqrt_d" else 1
    decay = 0.005 / (2 if recipe.decay_over_blocks else 1)
    floor = GUFM(balanced(4, 5), dim=16, loss=loss, lambda_w=decay / scale, bias="free").minimum
    for entry in entries:
        assert entry["weight_decay"] == decay
        assert entry["floor"] == pytest.approx(floor, rel=1e-12)
        assert entry["excess"] == pytest.approx(entry["objective"] - floor, abs=1e-12)
        assert entry["excess"] > 0
        assert entry["distance"] > 0
    assert entries[-1]["excess"] < entries[0]["excess"]
    assert all(0 < entry["relative_gradient"] <= 1 for entry in entries)


@pytest.mark.parametrize("name", ["rn1", "rn1, mse", "rn1, sgd in batches, all decayed", "rn2, λ/L", "t22, pre-norm, mean, √d"])
def test_objective_is_the_loss_and_the_squared_weights(name):
    recipe = tiny(name)
    data = load_samples(recipe.data)
    model = build_model(recipe.model, data.sample_shape, 4, seed=3)
    with torch.no_grad():
        # Biases start at zero: what is decayed of them would not show.
        for parameter in model.parameters():
            if parameter.ndim < 2:
                parameter.copy_(torch.linspace(-1, 2, parameter.numel()))
    found = measure_objective(model, data, recipe, epoch=7)
    logits = model.double()(data.inputs.double()).tolist()
    total = 0.0
    for row, label in zip(logits, data.labels.tolist(), strict=True):
        if recipe.train.loss == "mse":
            total += sum((z - (k == label)) ** 2 for k, z in enumerate(row)) / 2
        else:
            total += math.log(sum(math.exp(z) for z in row)) - row[label]
    squares = sum(float((p.detach() ** 2).sum()) for p in decayed_by_hand(model, name))
    assert found.loss == pytest.approx(total / len(data.labels), rel=1e-6)
    assert found.penalty == pytest.approx(recipe.training.weight_decay / 2 * squares, rel=1e-6)
    assert found.objective == found.loss + found.penalty


@pytest.mark.parametrize("name", RELATIVE)
def test_relative_gradient_is_that_of_the_whole_objective(name):
    """Against one backward pass of the objective in float64; the batches of the measurement do not divide the samples."""
    recipe = override(tiny(name), ["measure.batch_size=7"])
    data = load_samples(recipe.data)
    model = build_model(recipe.model, data.sample_shape, 4, seed=3)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim < 2:
                parameter.copy_(torch.linspace(-1, 2, parameter.numel()))
    before = {key: value.clone() for key, value in model.state_dict().items()}
    found = measure_objective(model, data, recipe, epoch=7).relative_gradient
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    model = model.double()
    logits = model(data.inputs.double())
    if recipe.train.loss == "mse":
        loss = (logits - torch.nn.functional.one_hot(data.labels, 4)).square().sum() / 2 / len(data.labels)
    else:
        loss = -logits.log_softmax(dim=1)[range(len(logits)), data.labels].mean()
    penalty = recipe.training.weight_decay / 2 * sum((p**2).sum() for p in decayed_by_hand(model, name))
    norms = []
    for part in (loss + penalty, loss, penalty):
        grads = torch.autograd.grad(part, list(model.parameters()), retain_graph=True, allow_unused=True)
        norms.append(math.sqrt(sum(float((g**2).sum()) for g in grads if g is not None)))
    assert found == pytest.approx(norms[0] / (norms[1] + norms[2]), rel=1e-5)
    assert 0.01 < found < 1


def test_relative_gradient_vanishes_at_a_minimum():
    """Without blocks and stem the objective is that of logistic regression, which scipy minimizes."""
    settings = [item for item in TINY if not item.startswith(("model.width", "model.num_blocks"))]
    recipe = override(recipe_by_name("deep_rn1_plain"), [*settings, "model.num_blocks=0"])
    data = load_samples(recipe.data)
    model = build_model(recipe.model, data.sample_shape, 4, seed=3)
    inputs = layer_norm(data.inputs.flatten(1).double())
    shapes = [model.head.weight.shape, model.head.bias.shape]

    def objective(values):
        theta = torch.tensor(values, requires_grad=True)
        weight, bias = theta[:-4].view(shapes[0]), theta[-4:]
        value = torch.nn.functional.cross_entropy(inputs @ weight.T + bias, data.labels) + 0.0025 * weight.square().sum()
        return value.item(), torch.autograd.grad(value, theta)[0].numpy()

    best = minimize(objective, torch.zeros(4 * 65, dtype=torch.float64).numpy(), jac=True, tol=1e-12).x
    assert measure_objective(model, data, recipe, epoch=7).relative_gradient > 0.1
    with torch.no_grad():
        model.head.weight.copy_(torch.tensor(best[:-4]).view(shapes[0]))
        model.head.bias.copy_(torch.tensor(best[-4:]))
    assert measure_objective(model, data, recipe, epoch=7).relative_gradient < 1e-5


@pytest.mark.parametrize("scale", ["unit", "sqrt_d"])
@pytest.mark.parametrize("loss", ["cross_entropy", "mse"])
def test_at_the_floors_minimizer_excess_and_distance_vanish(scale, loss):
    """A network of no blocks whose embedding maps one-hot classes to the optimal features; what it costs is the embedding."""
    settings = [f"model.norm_scale={scale}", f"train.loss={loss}", "model.num_blocks=0"]
    recipe = override(recipe_by_name("deep_rn1_small"), [*TINY, *settings])
    radius = 4.0 if scale == "sqrt_d" else 1.0
    optimum = (
        GUFM(
            balanced(4, 3),
            16,
            loss="cross_entropy" if loss == "cross_entropy" else "mse",
            lambda_w=0.005 / radius**2,
            bias="free",
        )
        .closed_form()
        .variables
    )
    labels = torch.arange(4).repeat_interleave(3)
    data = LabeledData(torch.nn.functional.one_hot(labels, 4).float(), labels, 4, "one-hot")
    model = build_model(recipe.model, (4,), 4, seed=0)
    with torch.no_grad():
        # Tiny: normalization undoes the scale, and the penalty of the embedding goes with it.
        model.stem[0].weight.copy_(1e-4 * layer_norm(optimum["features"])[::3].T)
        model.head.weight.copy_(optimum["weight"] / radius)
        model.head.bias.copy_(optimum["bias"])
    found = measure_objective(model, data, recipe, epoch=7)
    assert found.excess == pytest.approx(0, abs=1e-7)
    assert found.distance == pytest.approx(0, abs=1e-5)
    with torch.no_grad():
        model.head.weight *= 1.1
    assert measure_objective(model, data, recipe, epoch=7).excess > 1e-5


def test_where_there_is_no_floor():
    recipe = tiny("rn1")
    data = load_samples(recipe.data)
    model = build_model(recipe.model, data.sample_shape, 4, seed=0)
    assert measure_objective(model, data.subset(range(19)), recipe, epoch=7) is None
    plain = recipe_by_name("demo")
    assert measure_objective(build_model(plain.model, (1, 8, 8), 4, seed=0), data, plain, epoch=7) is None
    for decoupled in ("sgdw", "adamw"):
        other = replace(recipe, train=replace(recipe.train, optimizer=decoupled))
        assert measure_objective(model, data, other, epoch=7) is None
    undecayed = measure_objective(model, data, replace(recipe, train=replace(recipe.train, weight_decay=0.0)), epoch=7)
    assert undecayed.floor == 0
    assert undecayed.excess == undecayed.loss
    assert undecayed.distance is undecayed.relative_gradient is None
    narrow = override(recipe, ["model.width=3"])
    found = measure_objective(build_model(narrow.model, data.sample_shape, 4, seed=0), data, narrow, epoch=7)
    assert found.excess > 0
    assert found.distance is None


def test_a_killed_run_resumes_with_the_same_objective(tmp_path):
    recipe = tiny("t11")

    def stop(record, epochs):
        if record.epoch == 25:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_recipe(recipe, tmp_path / "killed", on_epoch=stop)
    run_recipe(recipe, tmp_path / "killed", resume=True)
    run_recipe(recipe, tmp_path / "whole")
    for name in ("objective.json", "measurements.csv", "history.csv"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_the_floor_that_knows_the_depth(tmp_path):
    """At the last epoch, above the floor without depth and below the objective, from the normalized pixels themselves."""
    settings = [item for item in TINY if not item.startswith("model.width")]
    recipe = override(recipe_by_name("deep_rn1_plain"), [*settings, "train.epochs=20"])
    entries = json.loads((run_recipe(recipe, tmp_path / "run") / "objective.json").read_text())["epochs"]
    assert [entry["depth_floor"] for entry in entries[:-1]] == [None] * (len(entries) - 1)
    last, data = entries[-1], load_samples(recipe.data)
    cost = block_cost(0.005, 2, 20, biases=False)
    expected = depth_floor(layer_norm(data.inputs.flatten(1)), data.labels, loss="cross_entropy", lambda_w=0.005, lambda_h=cost)
    assert last["depth_floor"] == pytest.approx(expected, rel=1e-4)
    assert last["floor"] < last["depth_floor"] < last["objective"]
    assert last["unmet"] == []


@pytest.mark.parametrize(
    ("name", "settings", "unmet"),
    [
        ("deep_rn1_small", [], ["no biases in the blocks, or decayed ones"]),
        ("deep_rn1_small", ["model.linear_layers=2", "train.decay=all"], ["blocks of one linear layer"]),
        ("deep_rn1_small", ["train.decay=all", "model.norm_scale=sqrt_d"], ["no trained stem"]),
        ("deep_rn1_small", ["model.block_biases=false"], ["no trained stem"]),
        ("deep_rn1_small", ["model.block_biases=false", "model.rounding=0.01"], ["a ReLU that is not rounded"]),
        (
            "deep_rn1_small",
            ["model.block_biases=false", "model.norm_rounding=0.1"],
            ["a normalization that is not rounded"],
        ),
    ],
)
def test_hypotheses_of_the_floor_that_knows_the_depth(name, settings, unmet):
    recipe = override(recipe_by_name(name), [*TINY, *settings])
    data = load_samples(recipe.data)
    found = measure_objective(build_model(recipe.model, data.sample_shape, 4, seed=3), data, recipe, recipe.train.epochs)
    assert list(found.unmet) == unmet
    assert (found.depth_floor is not None) == (unmet == ["no trained stem"])
    if found.depth_floor is not None:
        assert found.floor <= found.depth_floor < found.objective
