"""Networks trained together equal those trained alone, seed by seed, and one that diverges takes no other with it."""

import dataclasses

import pytest
import torch

from ncollapse.data import gaussian_mixture
from ncollapse.models import FCResNet, FCResNetConfig, FCResNetStack
from ncollapse.train import EpochRecord, TrainConfig, TrainingDiverged, make_optimizer, train, train_together

DATA = gaussian_mixture(num_classes=3, dim=6, per_class=15, seed=1)
DATA64 = dataclasses.replace(DATA, inputs=DATA.inputs.double())
CONFIG = TrainConfig(epochs=4, batch_size=12, learning_rate=0.2, weight_decay=1e-2)


def networks(count=3, dtype=torch.float64, **changed):
    config = FCResNetConfig(width=8, num_blocks=2, **changed)
    return [FCResNet(config, input_dim=6, num_classes=3, seed=seed).to(dtype) for seed in range(count)]


VARIANTS = {
    "normalized": ({}, [CONFIG] * 3),
    "plain": ({"normalization": "none"}, [CONFIG] * 3),
    "batch_norm_stem": ({"stem": "linear_bn", "normalization": "post"}, [CONFIG] * 3),
    **{
        f"{block}_{normalization}": ({"block": block, "normalization": normalization, "zero_bias": False}, [CONFIG] * 3)
        for block, normalization in [("double", "mid"), *(("single", where) for where in ("none", "pre", "mid", "post"))]
    },
    "unclipped": ({}, [dataclasses.replace(CONFIG, clip_norm=None)] * 3),
    "hard_clipping": ({}, [dataclasses.replace(CONFIG, clip_norm=clip) for clip in (1e-2, 0.1, None)]),
    "mse": ({}, [dataclasses.replace(CONFIG, loss="mse", learning_rate=0.05)] * 3),
    "decays": ({}, [dataclasses.replace(CONFIG, weight_decay=decay) for decay in (0.0, 1e-2, 0.1)]),
    "all_decayed": ({}, [dataclasses.replace(CONFIG, decay=decay) for decay in ("all", "weights", "all")]),
    "rates": (
        {},
        [
            dataclasses.replace(CONFIG, learning_rate=0.01, momentum=0.0),
            dataclasses.replace(CONFIG, milestones=(), gamma=1.0),
            dataclasses.replace(CONFIG, milestones=(0.25,), gamma=0.5),
        ],
    ),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_each_network_equals_the_one_trained_alone(name):
    changed, configs = VARIANTS[name]
    seeds = [5, 6, 7]
    together = networks(**changed)
    tables = list(train_together(FCResNetStack(together), DATA64, configs, seeds=seeds))
    for index, alone in enumerate(networks(**changed)):
        records = list(train(alone, DATA64, configs[index], seed=seeds[index]))
        for record, table in zip(records, tables, strict=True):
            assert dataclasses.astuple(table[index]) == pytest.approx(dataclasses.astuple(record), rel=1e-9)
        state = together[index].state_dict()
        for key, value in alone.state_dict().items():
            assert torch.allclose(state[key].double(), value.double(), rtol=1e-9, atol=1e-12), key


def test_a_network_may_be_measured_and_saved_between_epochs_and_taken_up_again():
    whole, halves = networks(), networks()
    optimizers = [make_optimizer(model, CONFIG) for model in halves]
    for _ in train_together(FCResNetStack(whole), DATA64, [CONFIG] * 3, seeds=[0, 1, 2]):
        pass
    epochs = train_together(FCResNetStack(halves), DATA64, [CONFIG] * 3, seeds=[0, 1, 2], optimizers=optimizers)
    next(epochs)
    next(epochs)
    saved = [
        ({key: value.clone() for key, value in model.state_dict().items()}, optimizer.state_dict())
        for model, optimizer in zip(halves, optimizers, strict=True)
    ]
    # One goes on alone, the others together: the state is the same that train itself would have left.
    resumed = networks()
    optimizers = [make_optimizer(model, CONFIG) for model in resumed]
    for model, optimizer, (weights, state) in zip(resumed, optimizers, saved, strict=True):
        model.load_state_dict(weights)
        optimizer.load_state_dict(state)
    list(train(resumed[0], DATA64, CONFIG, seed=0, optimizer=optimizers[0], start_epoch=3))
    rest = FCResNetStack(resumed[1:])
    list(train_together(rest, DATA64, [CONFIG] * 2, seeds=[1, 2], optimizers=optimizers[1:], start_epoch=3))
    for model, expected in zip(resumed, whole, strict=True):
        for key, value in expected.state_dict().items():
            assert torch.allclose(model.state_dict()[key].double(), value.double(), rtol=1e-9, atol=1e-12), key


def test_networks_in_evaluation_mode_between_epochs_train_on():
    models, others = networks(), networks()
    for _ in train_together(FCResNetStack(models), DATA64, [CONFIG] * 3, seeds=[0, 1, 2]):
        for model in models:
            model.eval()
    list(train_together(FCResNetStack(others), DATA64, [CONFIG] * 3, seeds=[0, 1, 2]))
    assert all(
        torch.equal(a, b)
        for m, n in zip(models, others, strict=True)
        for a, b in zip(m.parameters(), n.parameters(), strict=True)
    )


def test_one_that_diverges_takes_no_other_with_it():
    configs = [CONFIG, dataclasses.replace(CONFIG, learning_rate=1e30, clip_norm=None), CONFIG]
    models = networks(normalization="none", dtype=torch.float32)
    tables = list(train_together(FCResNetStack(models), DATA, configs, seeds=[0, 1, 2]))
    assert isinstance(tables[-1][1], TrainingDiverged)
    assert "in epoch" in str(tables[-1][1])
    alone = networks(normalization="none", dtype=torch.float32)[2]
    last = list(train(alone, DATA, CONFIG, seed=2))[-1]
    assert isinstance(tables[-1][2], EpochRecord)
    assert tables[-1][2].loss == pytest.approx(last.loss, rel=1e-3)


def test_networks_that_do_not_fit_together():
    models = networks()
    other = FCResNet(FCResNetConfig(width=9, num_blocks=2), input_dim=6, num_classes=3, seed=0).double()
    with pytest.raises(ValueError, match=r"the same layers, shapes, type and device; network 1 has others than network 0"):
        FCResNetStack([models[0], other])
    with pytest.raises(ValueError, match=r"kind residual FCResNet with a linear head, at least one, got Linear\. Train"):
        FCResNetStack([models[0], torch.nn.Linear(6, 3)])
    dense = FCResNet(FCResNetConfig(width=9, num_blocks=2, connections="dense"), input_dim=6, num_classes=3, seed=0)
    with pytest.raises(ValueError, match="got dense FCResNet"):
        FCResNetStack([dense])
    with pytest.raises(ValueError, match="at least one, got none"):
        FCResNetStack([])
    stack = FCResNetStack(models[:2])
    longer = dataclasses.replace(CONFIG, epochs=5)
    with pytest.raises(ValueError, match=r"need one train\.epochs, got 4, 5\. Group them by it"):
        train_together(stack, DATA64, [CONFIG, longer], seeds=[0, 1])
    with pytest.raises(ValueError, match=r"got 2 networks, 3 configs and 2 seeds\. Pass as many of each"):
        train_together(stack, DATA64, [CONFIG] * 3, seeds=[0, 1])
    for needed, other in (
        ("optimizer=sgd, got adam", {"optimizer": "adam"}),
        ("precision=float32, got bfloat16", {"precision": "bfloat16"}),
        ("deterministic=False, got True", {"deterministic": True}),
        ("compiled=False, got True", {"compiled": True}),
    ):
        with pytest.raises(ValueError, match=rf"need train\.{needed}\. Train one after another"):
            train_together(stack, DATA64, [dataclasses.replace(CONFIG, **other)] * 2, seeds=[0, 1])
    models[0].head.bias.requires_grad_(False)
    models[1].head.bias.requires_grad_(False)
    with pytest.raises(ValueError, match="need trainable parameters of one type"):
        FCResNetStack(models[:2])


def test_data_that_does_not_fit_the_networks():
    stack = FCResNetStack(networks())
    wide = gaussian_mixture(num_classes=3, dim=7, per_class=15)
    with pytest.raises(ValueError, match="needs inputs of 6 numbers a sample"):
        next(train_together(stack, wide, [CONFIG] * 3, seeds=[0, 1, 2]))
    more = gaussian_mixture(num_classes=4, dim=6, per_class=15)
    more = dataclasses.replace(more, inputs=more.inputs.double())
    with pytest.raises(ValueError, match=r"must give logits of shape \(12, 4\) for 'gaussian_mixture', got \(12, 3\)"):
        next(train_together(stack, more, [CONFIG] * 3, seeds=[0, 1, 2]))
