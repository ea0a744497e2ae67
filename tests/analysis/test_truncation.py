"""A cut network against its features with a plain head, what it computes, and what it leaves out."""

import copy
import io

import pytest
import torch
from sklearn.linear_model import Ridge
from sklearn.neighbors import NearestCentroid

import ncollapse as nc
from analysis.small_network import batches_of, drawn, network

TRAIN, TEST = drawn(0, 3, 60), drawn(1, 3, 40)


@pytest.mark.parametrize("head", ["linear", "ncc"])
@pytest.mark.parametrize("layer", ["stem", "blocks.0", "blocks.1", "head.input"])
def test_equals_a_head_on_the_features(layer, head):
    net = network(3)
    before = copy.deepcopy(net.state_dict())
    cut = nc.truncate(net, layer, batches_of(TRAIN), num_classes=3, head=head, test=batches_of(TEST), ridge=0.01)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert net.training
    X, Z = (
        nc.collect_features(net, [pair], num_classes=3, layers=[layer])[0][layer].double().numpy() for pair in (TRAIN, TEST)
    )
    if head == "linear":
        alpha = 0.01 * ((X - X.mean(axis=0)) ** 2).sum() / X.shape[1]
        model = Ridge(alpha).fit(X, torch.eye(3)[TRAIN[1]].numpy())
        assert cut(TEST[0]).detach().numpy() == pytest.approx(model.predict(Z), abs=1e-5)
        decided = model.predict(Z).argmax(axis=1)
    else:
        decided = NearestCentroid().fit(X, TRAIN[1].numpy()).predict(Z)
    assert cut(TEST[0]).argmax(dim=1).tolist() == decided.tolist()
    assert cut.truncation.test_accuracy == pytest.approx((decided == TEST[1].numpy()).mean(), abs=1e-12)
    with torch.no_grad():
        expected = float((net(TEST[0]).argmax(dim=1) == TEST[1]).double().mean())
    assert cut.truncation.network_test_accuracy == pytest.approx(expected, abs=1e-12)


def test_nothing_after_the_layer_runs_or_stays():
    net, ran = network(3), []
    net.blocks[1].register_forward_pre_hook(lambda module, args: ran.append(module))
    cut = nc.truncate(net, "blocks.0", batches_of(TRAIN), num_classes=3)
    ran.clear()
    cut(TEST[0])
    assert ran == []
    own = sum(p.numel() for p in net.parameters())
    assert cut.truncation.network_parameters == own
    assert cut.truncation.parameters == sum(p.numel() for p in (*net.stem.parameters(), *net.blocks[0].parameters())) + 21
    assert cut.truncation.seconds > 0
    assert "cut at blocks.0, linear head: train accuracy" in str(cut.truncation)
    assert "test" not in str(cut.truncation)


def test_the_result_has_one_hook_and_a_loader_may_shuffle():
    net = network(3)
    data = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*TRAIN), batch_size=20, shuffle=True)
    cut = nc.truncate(net, "blocks.0", data, num_classes=3)
    assert sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in cut.modules()) == 1
    assert cut.body.blocks[0].forward.__func__ is type(cut.body.blocks[0]).forward
    assert not isinstance(cut.body.blocks[1], type(net.blocks[1]))
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in net.modules())


def test_is_saved_copied_and_trained_on():
    cut = nc.truncate(network(3), "blocks.0", batches_of(TRAIN), num_classes=3)
    other = nc.truncate(network(3, seed=1), "blocks.0", batches_of(TRAIN), num_classes=3)
    file = io.BytesIO()
    torch.save(cut.state_dict(), file)
    file.seek(0)
    other.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(other(TEST[0]), cut(TEST[0]))
    assert torch.equal(copy.deepcopy(cut)(TEST[0]), cut(TEST[0]))
    torch.nn.functional.cross_entropy(cut(TRAIN[0]), TRAIN[1]).backward()
    assert all(parameter.grad is not None for parameter in cut.parameters())


class ReadsLater(torch.nn.Module):
    """Uses a weight of a module that is never called, and chooses its way by its input."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.late = torch.nn.Linear(5, 6), torch.nn.Linear(6, 6), torch.nn.Linear(6, 3)
        self.unused = torch.nn.Linear(6, 6)

    def forward(self, x):
        hidden = self.first(x) * self.late.weight.sum()
        return self.late(torch.relu(self.unused(self.second(hidden))))


def test_what_is_read_without_being_called_stays():
    cut = nc.truncate(ReadsLater(), "second", batches_of(TRAIN), num_classes=3, test=batches_of(TEST))
    assert isinstance(cut.body.late, torch.nn.Linear)
    assert not isinstance(cut.body.unused, torch.nn.Linear)
    assert cut(TEST[0]).shape == (40, 3)


@pytest.mark.filterwarnings("ignore")  # the compiler's own
def test_scripted_parts_stay():
    net = torch.nn.Sequential(torch.jit.script(torch.nn.Linear(6, 8)), torch.nn.ReLU(), torch.nn.Linear(8, 3))
    inputs, labels = torch.randn(30, 6, generator=torch.Generator().manual_seed(0)), torch.arange(30) % 3
    cut = nc.truncate(net, "1", [(inputs, labels)], num_classes=3, head="ncc")
    features = net[:2](inputs).detach().numpy()
    assert cut(inputs).argmax(dim=1).tolist() == NearestCentroid().fit(features, labels).predict(features).tolist()


def test_wide_convolutions_and_labels_of_a_diagnosis():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = torch.nn.Sequential(
            *(torch.nn.Conv2d(1, 4, 3, padding=1), torch.nn.ReLU(), torch.nn.Conv2d(4, 4, 3, padding=1), torch.nn.ReLU()),
            *(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(4, 2)),
        )
    images, labels = torch.randn(20, 1, 6, 6, generator=torch.Generator().manual_seed(2)), torch.arange(20) % 2
    found = nc.diagnose(net, [(images, labels)], num_classes=2, max_dim=100, k=1)
    for layer in found.record.layers:
        for kind, metric in (("ncc", "ncc"), ("linear", "probe")):
            cut = nc.truncate(net, layer, [(images, labels)], num_classes=2, head=kind, max_dim=100)
            assert cut.truncation.train_accuracy == pytest.approx(found.value(metric, layer, "train"), abs=1e-12)


def test_refusals():
    with pytest.raises(ValueError, match="head must be one of linear, ncc, got 'knn'"):
        nc.truncate(network(3), "stem", batches_of(TRAIN), num_classes=3, head="knn")
    with pytest.raises(ValueError, match=r"layer must be one of stem, blocks\.0, blocks\.1, got 'blocks.7'"):
        nc.truncate(network(3), "blocks.7", batches_of(TRAIN), num_classes=3)
    with pytest.raises(ValueError, match=r"labels must be in \[0, 2\), got 2"):
        nc.truncate(network(3), "stem", batches_of(TRAIN), num_classes=2)
