"""Batch normalization shared between processes, here threads: PyTorch's of the whole batch, forward and backward."""

import copy
import threading
from dataclasses import replace

import pytest
import torch
from torch import nn

from ncollapse.data import gaussian_mixture
from ncollapse.train import TrainConfig, train
from ncollapse.train.loop import _clip
from ncollapse.train.parallel import SharedBatchNorm, Team, share_batch_norm


class Threads(Team):
    """One of several threads that stand for processes."""

    def __init__(self, rank, parts, barrier):
        super().__init__()
        self.group, self._rank, self.size, self.parts, self.barrier = "threads", rank, len(parts), parts, barrier

    def sum(self, own):
        self.parts[self._rank] = own.clone()
        self.barrier.wait()
        own.copy_(sum(self.parts))
        self.barrier.wait()
        return own


class Silent(Team):
    """A process that must not exchange anything."""

    group = "one of several"

    def __init__(self):
        self.size, self._rank = 2, 0

    def sum(self, own):
        raise AssertionError("an exchange")


def together(size, act):
    """Let each of several threads act with its team; what they return, in order."""
    found, parts, barrier = [None] * size, [None] * size, threading.Barrier(size, timeout=20)

    def run(rank):
        try:
            found[rank] = act(Threads(rank, parts, barrier))
        except BaseException as error:
            barrier.abort()
            found[rank] = error

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    errors = [each for each in found if isinstance(each, Exception) and not isinstance(each, threading.BrokenBarrierError)]
    if errors:
        raise errors[0]
    return found


def shared(norm, team):
    model = nn.Sequential(copy.deepcopy(norm))
    share_batch_norm(model, team)
    return model[0]


def norm_of(kind):
    norm = kind(4, eps=0.1, momentum=0.3).double()
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([0.5, -1.0, 2.0, 0.0]))
        norm.bias.copy_(torch.tensor([1.0, 0.0, -3.0, 2.0]))
    return norm


@pytest.mark.parametrize(
    ("kind", "shape", "sizes"),
    [
        (nn.BatchNorm1d, (10, 4), (3, 7)),
        (nn.BatchNorm1d, (10, 4), (0, 9, 1)),
        (nn.BatchNorm1d, (2, 4), (1, 0, 1)),
        (nn.BatchNorm1d, (6, 4, 5), (5, 1)),
        (nn.BatchNorm2d, (7, 4, 3, 2), (2, 5, 0)),
        (nn.BatchNorm3d, (5, 4, 2, 1, 3), (4, 1)),
    ],
)
def test_it_is_that_of_the_whole_batch(kind, shape, sizes):
    generator = torch.Generator().manual_seed(0)
    # Means of the shares differ.
    offsets = torch.repeat_interleave(10.0 * torch.arange(len(sizes)), torch.tensor(sizes)).view(-1, *[1] * (len(shape) - 1))
    batches = [
        (torch.randn(shape, generator=generator).double() + offsets, torch.randn(shape, generator=generator).double())
        for _ in range(2)
    ]
    whole = norm_of(kind)
    before = copy.deepcopy(whole)

    def act(team):
        norm, outputs = shared(before, team), []
        for inputs, slopes in batches:
            own = inputs.split(sizes)[team._rank].clone().requires_grad_()
            output = norm(own)
            # A copy: of one sample, the gradient of the bias is a view of it, to which the second step adds.
            output.backward(slopes.split(sizes)[team._rank].clone())
            outputs += [output.detach(), own.grad]
        return outputs, norm

    found = together(len(sizes), act)
    expected = []
    for inputs, slopes in batches:
        own = inputs.clone().requires_grad_()
        output = whole(own)
        output.backward(slopes)
        expected += [output.detach(), own.grad]
    for parts, tensor in zip(zip(*(outputs for outputs, _ in found), strict=True), expected, strict=True):
        assert torch.allclose(torch.cat(parts), tensor, rtol=1e-11, atol=1e-11)
    for name, parameter in whole.named_parameters():
        total = sum(norm.get_parameter(name).grad for _, norm in found)
        assert torch.allclose(total, parameter.grad, rtol=1e-11, atol=1e-11), name
    for _, norm in found:
        for name, buffer in whole.named_buffers():
            assert torch.allclose(norm.get_buffer(name), buffer, rtol=1e-12, atol=1e-12), name
            assert not norm.get_buffer(name).requires_grad


def test_products_in_bfloat16_are_normalized_in_float32():
    inputs = (torch.randn(600, 4, generator=torch.Generator().manual_seed(0)) + 3).bfloat16()
    whole = norm_of(nn.BatchNorm1d).float()
    before = copy.deepcopy(whole)

    def act(team):
        norm = shared(before, team)
        return norm(team.share(inputs)), norm

    expected = whole(inputs.float()).bfloat16()
    for rank, (output, norm) in enumerate(together(2, act)):
        assert output.dtype == torch.bfloat16
        assert torch.allclose(output, expected[rank::2], rtol=1e-2, atol=1e-3)
        assert torch.allclose(norm.running_mean, whole.running_mean, rtol=1e-5)
        assert torch.allclose(norm.running_var, whole.running_var, rtol=1e-5)


class Sum(nn.Module):
    """Two normalized branches, as where a block of a residual network has a shortcut of its own."""

    def __init__(self):
        super().__init__()
        self.first, self.second = norm_of(nn.BatchNorm1d), norm_of(nn.BatchNorm1d)

    def forward(self, x):
        return self.first(x) + self.second(x.square())


def test_gradients_of_one_sample_are_clipped_once():
    inputs, labels = torch.randn(3, 4, generator=torch.Generator().manual_seed(0)).double(), torch.tensor([0, 1, 2])

    def gradients(model, team):
        share_batch_norm(model, team)
        logits, labels_of = model(team.share(inputs)), team.share(labels)
        team.loss(nn.functional.cross_entropy, logits, labels_of, len(inputs)).backward()
        team.sum_gradients(list(model.parameters()), False)
        _clip(list(model.parameters()), 0.01)
        return [parameter.grad for parameter in model.parameters()]

    expected = gradients(Sum(), Team())
    for found in together(2, lambda team: gradients(Sum(), team)):
        for gradient, other in zip(found, expected, strict=True):
            assert torch.allclose(gradient, other, rtol=1e-10, atol=1e-15)


class Routed(nn.Module):
    """Sends samples of which the first number is negative another way, and has a third way that none takes."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.ways = nn.ModuleList(nn.Linear(4, 3).double() for _ in range(3))

    def forward(self, x):
        negative = x[:, 0] < 0
        logits = x.new_zeros(len(x), 3)
        for way, where in zip(self.ways, (negative, ~negative), strict=False):
            if bool(where.any()):
                logits = logits.index_put((where,), way(x[where]))
        return logits


def test_a_parameter_that_some_processes_do_not_reach_has_the_gradient_of_the_others():
    inputs, labels = torch.randn(4, 4, generator=torch.Generator().manual_seed(0)).double(), torch.tensor([0, 1, 2, 0])
    inputs[:, 0] = torch.tensor([-1.0, -2.0, 1.0, 2.0])

    def gradients(team):
        model = Routed()
        loss = team.loss(nn.functional.cross_entropy, model(team.share(inputs)), team.share(labels), len(inputs))
        loss.backward()
        assert team.sum_gradients(list(model.parameters()), team._rank == 1) == (team.size > 1)
        return [parameter.grad for parameter in model.parameters()]

    expected = gradients(Team())
    assert [gradient is None for gradient in expected] == [False] * 4 + [True] * 2
    for found in together(2, gradients):
        assert [gradient is None for gradient in found] == [False] * 4 + [True] * 2
        for gradient, other in zip(found[:4], expected[:4], strict=True):
            assert torch.allclose(gradient, other, rtol=1e-12, atol=1e-15)


def test_a_normalization_with_a_forward_of_its_own_is_refused():
    class Doubled(nn.BatchNorm1d):
        def forward(self, input):
            return 2 * super().forward(input)

    with pytest.raises(ValueError, match=r"as PyTorch's, got Doubled with a forward of its own\. Train in one process\."):
        shared(Doubled(4), Silent())
    assert isinstance(shared(nn.SyncBatchNorm(4), Silent()), SharedBatchNorm)


def test_evaluation_exchanges_nothing():
    norm = norm_of(nn.BatchNorm1d).eval()
    inputs = torch.randn(3, 4).double()
    assert torch.equal(shared(norm, Silent())(inputs), norm(inputs))


def test_a_second_derivative_is_refused():
    def act(team):
        own = torch.arange(8.0).view(2, 4).requires_grad_()
        (slope,) = torch.autograd.grad(shared(nn.BatchNorm1d(4), team)(own).pow(3).sum(), own, create_graph=True)
        slope.sum().backward()

    with pytest.raises(RuntimeError, match="differentiate twice"):
        together(2, act)


def test_mode_hooks_and_names_of_a_normalization_are_kept():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = self.second = nn.BatchNorm1d(4)

    model, seen = nn.Sequential(Twice(), nn.BatchNorm1d(4)), []
    model[1] = model[0].first
    model[0].first.eval().register_forward_hook(lambda *given: seen.append(given))
    names = list(model.state_dict())
    share_batch_norm(model, Silent())
    assert model[0].first is model[0].second is model[1]
    assert isinstance(model[1], SharedBatchNorm)
    assert not model[1].training
    model[1](torch.zeros(3, 4))
    assert len(seen) == 1
    assert list(model.state_dict()) == names


def test_a_later_training_by_others_is_theirs():
    model = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)).double()
    data = gaussian_mixture(num_classes=2, dim=5, per_class=6)
    data = replace(data, inputs=data.inputs.double())
    alone, config = copy.deepcopy(model), TrainConfig(epochs=1, batch_size=4)
    share_batch_norm(model, Silent())
    for each in (model, alone):
        next(train(each, data, config, seed=0))
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), alone.state_dict().values(), strict=True))
    share_batch_norm(model, Silent())
    with pytest.raises(ValueError, match="got a last batch of 1 from 12 samples in batches of 11"):
        train(model, data, TrainConfig(epochs=1, batch_size=11), seed=0)
