"""A watched training loop: features of its own passes against cloning hooks, the training as without, misuse refused."""

import contextlib
import copy
import random

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import reference
from ncollapse.hooks import Tap
from ncollapse.metrics import METRICS
from ncollapse.probe import measure_features, watch

K = 3
NAMES = ["0", "3"]


def data(num_samples=24, dim=5, seed=4):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(num_samples) % K
    return torch.randn(num_samples, dim, generator=generator) + labels.unsqueeze(1), labels


X, Y = data()


def network(seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        dropout = nn.Dropout(0.3, inplace=True)
        return nn.Sequential(
            nn.Linear(5, 6), nn.BatchNorm1d(6), nn.ReLU(inplace=True), nn.Linear(6, 6), dropout, nn.Linear(6, K)
        )


def train(net, epochs=2, watched=None, after=lambda: None, autocast=False):
    """Plain SGD; returns what plain hooks saw of the layers, cloned."""
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    seen = {name: [] for name in NAMES}
    handles = [
        net.get_submodule(name).register_forward_hook(
            lambda _, __, output, name=name: seen[name].append(output.detach().clone()) if net.training else None
        )
        for name in NAMES
    ]
    torch.manual_seed(7)
    for _ in range(epochs):
        net.train()
        for i in range(0, len(Y), 8):
            with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                loss = nn.functional.cross_entropy(net(X[i : i + 8]), Y[i : i + 8])
            if watched is not None:
                watched.update(Y[i : i + 8])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        after()
    for handle in handles:
        handle.remove()
    return {name: torch.cat(parts) for name, parts in seen.items()}


def state(net):
    return [tensor.clone() for tensor in (*net.parameters(), *net.buffers())]


def hooks(net):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in net.modules())


# These metrics take the logits of the loop's own passes, with dropout and with the weights of that step.
BY_LOGITS = {metric.id for metric in METRICS.values() if "logits" in metric.needs}


def values(m, *names):
    return [row.value for row in m.rows if row.layer in names and row.metric not in BY_LOGITS]


def test_the_features_are_those_of_the_loops_own_passes():
    net = network()
    with watch(net, num_classes=K, layers=NAMES) as watched:
        seen = train(net, watched=watched)
    head = (net[5].weight, net[5].bias)
    found = watched.compute()
    assert found.layers == ("0", "3")
    assert found.num_samples == 48
    expected = measure_features(seen, Y.repeat(2), num_classes=K, classifier=head)
    assert values(found, *NAMES) == pytest.approx(values(expected, *NAMES), rel=1e-10, nan_ok=True)


def test_accuracy_and_nc4_are_those_of_the_loops_own_logits():
    net, logits = network(), []
    net.register_forward_hook(lambda _, __, output: logits.append(output.detach().clone()))
    with watch(net, num_classes=K, layers=NAMES) as watched:
        seen = train(net, watched=watched)
    decided, labels = torch.cat(logits)[-48:].argmax(dim=1), Y.repeat(2)  # the first calls look for layers
    found = watched.compute()
    H = seen["3"].double().numpy()
    nearest = torch.from_numpy(reference.nearest(H, reference.means(H, labels.numpy(), K)))
    assert found.value("accuracy") == (decided == labels).double().mean()
    assert found.value("nc4") == (decided == nearest).double().mean()
    assert found.value("nc4_mismatch") == (decided != nearest).double().mean()
    assert {row.layer for row in found.rows if row.metric in BY_LOGITS} == {"3"}


@pytest.mark.parametrize("autocast", [False, True])
def test_the_classifier_is_read_as_it_is_at_compute_also_under_autocast(autocast):
    net = network()
    with watch(net, num_classes=K) as watched:
        train(net, watched=watched, autocast=autocast)
    (*_, last) = watched.compute().statistics.values()
    assert torch.equal(last.classifier.weight, net[5].weight.detach().double())


@pytest.mark.parametrize("autocast", [False, True])
def test_training_is_the_same_to_the_bit(autocast):
    plain, looked_at = network(), network()
    train(plain, autocast=autocast)
    python, numpy = random.getstate(), np.random.get_state()[1].copy()
    with watch(looked_at, num_classes=K) as watched:
        train(looked_at, watched=watched, autocast=autocast)
        watched.compute()
    assert all(torch.equal(a, b) for a, b in zip(state(plain), state(looked_at), strict=True))
    assert random.getstate() == python
    assert np.array_equal(np.random.get_state()[1], numpy)
    assert any(not torch.equal(a, b) for a, b in zip(state(network()), state(plain), strict=True))


class Noisy(nn.Module):
    """Draws in eval mode too."""

    def forward(self, x):
        return x + torch.rand_like(x)


def test_the_look_at_the_network_draws_nothing_from_the_training():
    outputs = []
    for watched in (False, True):
        net = nn.Sequential(Noisy(), nn.Linear(5, K))
        with torch.no_grad():
            net[1].weight.fill_(0.1)
            net[1].bias.fill_(0.0)
        torch.manual_seed(3)
        with watch(net, num_classes=K, layers="0") if watched else contextlib.nullcontext():
            outputs.append(net(X))
    assert torch.equal(*outputs)


def test_a_buffer_of_labels_may_be_used_again():
    net, labels = network().eval(), torch.empty(12, dtype=torch.int64)
    with watch(net, num_classes=K, mode="eval") as watched:
        for part in (slice(0, 12), slice(12, 24)):
            net(X[part])
            watched.update(labels.copy_(Y.flip(0)[part]))
        labels.zero_()
    (*_, last) = watched.compute().statistics.values()
    assert last.within.counts.tolist() == [8.0, 8.0, 8.0]


def test_calls_in_the_other_mode_are_left_alone():
    net = network()

    def validate():
        net.eval()
        net(X)

    with watch(net, num_classes=K, layers=NAMES) as watched:
        seen = train(net, watched=watched, after=validate)
    expected = measure_features(seen, Y.repeat(2), num_classes=K, classifier=(net[5].weight, net[5].bias))
    assert values(watched.compute(), *NAMES) == pytest.approx(values(expected, *NAMES), rel=1e-10, nan_ok=True)
    with watch(net.eval(), num_classes=K, layers=NAMES, mode="eval") as watched:
        net(X)
        watched.update(Y)
    assert watched.compute().num_samples == 24


def test_both_modes_at_once():
    net = network()
    with watch(net, num_classes=K) as training, watch(net, num_classes=K, split="test", mode="eval") as testing:
        for _ in range(2):
            net.train()(X)
            training.update(Y)
            net.eval()(X[:9])
            testing.update(Y[:9])
    assert (training.compute().num_samples, testing.compute().num_samples) == (48, 18)


def test_a_reset_begins_anew_and_a_second_block_goes_on():
    net = network().eval()
    with watch(net, num_classes=K, mode="eval") as watched:
        net(X)
        watched.update(Y)
        once = watched.compute()
        watched.reset()
        net(X[:12])
        watched.update(Y[:12])
    with watched:
        net(X[12:])
        watched.update(Y[12:])
    assert watched.compute().num_samples == 24
    assert values(watched.compute(), *once.layers) == pytest.approx(values(once, *once.layers), rel=1e-6, nan_ok=True)


@pytest.mark.parametrize("fail", [False, True])
def test_hooks_are_gone_afterwards(fail):
    net = network()
    before = hooks(net)
    try:
        with watch(net, num_classes=K) as watched:
            net(X)
            watched.update(Y)
            assert hooks(net) > before
            if fail:
                raise KeyError
    except KeyError:
        pass
    assert hooks(net) == before
    net(X)
    with pytest.raises(
        ValueError, match=r"got none since the last update\. Call model\(inputs\) in train mode inside the with"
    ):
        watched.update(Y)


def test_labels_must_belong_to_one_call():
    net = network()
    with watch(net, num_classes=K) as watched:
        with pytest.raises(ValueError, match="got none since the last update"):
            watched.update(Y)
        net(X)
        watched.update(Y)
        with pytest.raises(ValueError, match="got none since the last update"):
            watched.update(Y)
        net(X)
        net(X)
        with pytest.raises(ValueError, match=r"got 2 since the last update, and cannot know.*Call update after each"):
            watched.update(Y)
        net.eval()(X)
        with pytest.raises(ValueError, match=r"got none since the last update \(1 in another mode than 'train' ran\)"):
            watched.update(Y)
        net.train()(X)
        with pytest.raises(ValueError, match="24 rows for 8 labels"):
            watched.update(Y[:8])
    assert hooks(net) == 0


def test_a_failed_call_counts_for_nothing():
    net = network()
    with watch(net, num_classes=K) as watched:
        net(X)
        watched.update(Y)
        with pytest.raises(RuntimeError):
            net(X[:, :4])
        net(X)
        watched.update(Y)
    assert watched.compute().num_samples == 48


class Checkpointed(nn.Module):
    def __init__(self, reentrant):
        super().__init__()
        self.body, self.head, self.reentrant = network()[:4], nn.Linear(6, K), reentrant

    def forward(self, x):
        return self.head(checkpoint(self.body, x, use_reentrant=self.reentrant))


@pytest.mark.parametrize("reentrant", [False, True])
def test_what_gradient_checkpointing_runs_again_is_not_seen_twice(reentrant):
    net = Checkpointed(reentrant)
    with watch(net, num_classes=K, layers=["body"]) as watched:
        for _ in range(2):
            net(X.clone().requires_grad_()).sum().backward()
            watched.update(Y)
    assert watched.compute().num_samples == 48


class Masked(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.head = nn.Embedding(9, 6), nn.Linear(6, K)

    def forward(self, input_ids, attention_mask=None, **kwargs):
        hidden, mask = self.embed(input_ids), attention_mask.unsqueeze(2)
        return self.head((hidden * mask).sum(1) / mask.sum(1))


@pytest.mark.parametrize("call", [
    lambda net, ids, mask: net(ids, mask),
    lambda net, ids, mask: net(ids, attention_mask=mask, extra=0),
    lambda net, ids, mask: net(attention_mask=mask, input_ids=ids),
])  # fmt: skip
def test_an_attention_mask_is_respected_however_it_is_given(call):
    net, ids = Masked(), torch.randint(0, 9, (24, 5), generator=torch.Generator().manual_seed(0))
    mask = (torch.arange(5) < torch.arange(24).unsqueeze(1) % 4 + 1).long()
    with watch(net, num_classes=K, layers=Tap("embed", "mean")) as watched:
        call(net, ids, mask)
        watched.update(Y)
    expected = (net.embed(ids) * mask.unsqueeze(2)).sum(1) / mask.sum(1, keepdim=True)
    found = watched.compute()
    assert torch.allclose(found.statistics["embed:mean"].moments.means[0], expected[Y == 0].double().mean(0))


class Positional(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(5, K)

    def forward(self, *args, **kwargs):
        return self.head(args[0] if args else kwargs["x"])


def test_arguments_without_a_name():
    net = Positional()
    with watch(net, num_classes=K) as watched:
        net(X)
        watched.update(Y)
        net(x=X)
        watched.update(Y)
        net(X, scale=1)
        watched.update(Y)
    assert watched.compute().num_samples == 72


def test_wrong_arguments_are_refused_at_once():
    with pytest.raises(ValueError, match="mode must be 'train' or 'eval', got 'test'"):
        watch(network(), num_classes=K, mode="test")
    with pytest.raises(ValueError, match="layers must name or match modules, got 'nowhere'"):
        watch(network(), num_classes=K, layers="nowhere")
    with pytest.raises(ValueError, match="Near ones: pfc1"):
        watch(network(), num_classes=K, metrics=["pcf1"])
    with pytest.raises(ValueError, match="at least one batch since the start"):
        watch(network(), num_classes=K).compute()
    compiled = copy.deepcopy(network())
    compiled._compiled_call_impl = compiled._call_impl
    with pytest.raises(TypeError, match="needs a network that is not compiled"):
        watch(compiled, num_classes=K)
    with pytest.raises(TypeError, match="needs a network that is not compiled"):
        watch(torch.compile(network(), backend="eager"), num_classes=K)


@pytest.mark.parametrize("updates", [0, 1, 2])
def test_a_transformer_whose_tokens_have_labels_is_watched_and_let_go(updates):
    # Until the first update its layers are hooked twice: for a label per token, and for one per sample.
    net = nn.Sequential(nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 8, batch_first=True), 2), nn.Linear(8, K))
    inputs, labels = torch.randn(6, 4, 8), torch.arange(24).view(6, 4) % K
    with watch(net, num_classes=K) as watched:
        net(inputs)
        for _ in range(updates):
            watched.update(labels)
            net(inputs)
    assert [name for name, module in net.named_modules() if "forward" in vars(module)] == []
    if updates:
        assert watched.compute().num_samples == 24 * updates
