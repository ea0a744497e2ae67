"""Which modules are tapped, and what the hooks hand out, against hooks that clone what they see."""

import pytest
import torch
from torch import nn

from ncollapse.models import FCResNet, FCResNetConfig
from ncollapse.probe.taps import Taps, plan_taps


def seeded(model, seed=0):
    """Weights from an own generator: PyTorch's global one stays as it was."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.5 * torch.randn(parameter.shape, generator=generator))
    return model


def inputs(num_samples=6, dim=3, seed=9):
    return torch.randn(num_samples, dim, generator=torch.Generator().manual_seed(seed))


def seen(model, x, names):
    """The outputs at the moment they were made, in order of execution."""
    found = {}
    handles = [
        model.get_submodule(name).register_forward_hook(
            lambda _, __, output, name=name: found.update({name: output.detach().clone().flatten(1)})
        )
        for name in names
    ]
    with torch.no_grad():
        model.eval()(x)
    for handle in handles:
        handle.remove()
    return found


def tapped(model, x, layers="auto", classifier=None, num_classes=2):
    taps = Taps(model, plan_taps(model, layers, classifier, num_classes))
    with taps:
        return taps.forward(x), taps.classifier_layer


def mlp():
    return seeded(nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 2)))


class Branches(nn.Module):
    """Runs in another order than defined, reshapes functionally, and leaves one module out."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(6, 2)
        self.second = nn.Linear(4, 6)
        self.unused = nn.Linear(3, 3)
        self.first = nn.Linear(3, 4)

    def forward(self, x):
        h = torch.relu(self.first(x)).reshape(-1, 2, 2).transpose(1, 2).flatten(1)
        return self.head(torch.tanh(self.second(h)))


class InPlaceAfterTap(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.head = nn.Linear(3, 4), nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x):
        h = self.a(x)
        torch.relu_(h)
        h = self.b(h)
        h[:, 0] = 0.0
        return self.head(h)


def test_declared_stages_are_taken_and_the_last_feeds_the_head():
    model = FCResNet(FCResNetConfig(width=4, num_blocks=2), 3, 2, seed=0)
    plan = plan_taps(model, "auto", None, 2)
    assert (plan.layers, plan.classifier, plan.required) == (("stem", "blocks.0", "blocks.1"), "head", True)
    assert plan.explanation == "3 stages that FCResNet declares"
    features, feeding = tapped(model, inputs())
    assert feeding == "blocks.1"
    expected = seen(model, inputs(), plan.layers)
    assert list(features) == list(plan.layers)
    assert all(torch.equal(features[name], expected[name]) for name in expected)


def test_top_level_modules_are_found_with_containers_opened_once():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem = nn.Linear(3, 4)
            self.body = nn.Sequential(nn.Sequential(nn.Linear(4, 4), nn.ReLU()), nn.Linear(4, 4))
            self.head = nn.Linear(4, 2)

        def forward(self, x):
            return self.head(self.body(self.stem(x)))

    plan = plan_taps(Net(), "auto", None, 2)
    assert plan.layers == ("stem", "body.0", "body.1")
    assert (plan.classifier, plan.required) == ("head", False)
    assert plan.explanation == "top-level modules of Net; name others with layers=[...]"


def test_a_bare_sequential_is_opened_by_its_children():
    assert plan_taps(mlp(), "auto", None, 2).layers == ("0", "1", "2", "3")
    with_an_empty_container = nn.Sequential(nn.Linear(3, 2), nn.Sequential(), nn.Linear(2, 2))
    assert plan_taps(with_an_empty_container, "auto", None, 2).layers == ("0", "1")


def test_names_and_globs_in_order_of_execution_without_repetition():
    model = FCResNet(FCResNetConfig(width=4, num_blocks=3), 3, 2, seed=0)
    plan = plan_taps(model, ["blocks.?", "stem", "blocks.1"], None, 2)
    assert plan.layers == ("blocks.0", "blocks.1", "blocks.2", "stem")
    assert plan.explanation == "4 layers by name: blocks.?, stem, blocks.1"
    assert list(tapped(model, inputs(), ["blocks.?", "stem"])[0]) == ["stem", "blocks.0", "blocks.1", "blocks.2"]
    assert plan_taps(model, "blocks.*.branch.0", None, 2).layers == tuple(f"blocks.{i}.branch.0" for i in range(3))


def test_a_plain_name_is_not_read_as_a_glob():
    model = nn.Sequential()
    for name in ("a[0]", "a0", "head"):
        model.add_module(name, nn.Linear(2, 2))
    assert plan_taps(model, ["a[0]"], None, 2).layers == ("a[0]",)
    assert plan_taps(model, ["a[01]"], None, 2).layers == ("a0",)


def test_a_name_that_does_not_exist_lists_near_ones_and_those_there_are():
    model = FCResNet(FCResNetConfig(width=4, num_blocks=2), 3, 2, seed=0)
    with pytest.raises(
        ValueError, match=r"No module named or matching 'block\.0'\. Near: .*blocks\.0.* available here: stem, "
    ):
        plan_taps(model, ["stem", "block.0"], None, 2)
    with pytest.raises(ValueError, match=r"matching 'zzz\*'\. Layers available here: stem, blocks, "):
        plan_taps(model, "zzz*", None, 2)


def test_a_long_list_of_names_is_cut():
    model = nn.Sequential(*(nn.Linear(2, 2) for _ in range(40)))
    with pytest.raises(ValueError, match=r"available here: 0, 1, .*, 29 and 10 more \(model\.named_modules\(\)\)\."):
        plan_taps(model, ["nothing"], None, 2)


def test_no_layer_at_all_is_refused():
    with pytest.raises(ValueError, match=r"layers must name at least one module, got none\. Layers available here: 0, 1"):
        plan_taps(mlp(), [], None, 2)


def test_the_classifier_is_the_last_linear_layer_with_k_outputs():
    assert plan_taps(mlp(), "auto", None, 2).classifier == "4"
    assert plan_taps(mlp(), "auto", None, 4).classifier == "2"
    assert plan_taps(mlp(), "auto", None, 7).classifier is None
    assert plan_taps(mlp(), "auto", "2", 4).classifier == "2"
    assert plan_taps(nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2)), "auto", None, 2).classifier == "1"


@pytest.mark.parametrize(
    ("name", "num_classes", "got"),
    [("heads", 2, "no such module"), ("1", 2, r"ReLU\(\)"), ("0", 2, r"Linear\(in_features=3, out_features=5")],
)
def test_a_wrong_classifier_is_refused(name, num_classes, got):
    with pytest.raises(ValueError, match=f"classifier '{name}' must be an nn.Linear with {num_classes} outputs, got {got}"):
        plan_taps(mlp(), "auto", name, num_classes)


def test_order_of_execution_and_modules_that_do_not_run():
    model = seeded(Branches())
    features, feeding = tapped(model, inputs())
    expected = seen(model, inputs(), ["second", "first"])
    assert list(features) == ["first", "second", "head.input"]
    assert feeding == "head.input"
    assert all(torch.equal(features[name], expected[name]) for name in expected)
    assert torch.equal(features["head.input"], torch.tanh(expected["second"]))


def test_a_named_layer_that_does_not_run_is_an_error():
    with pytest.raises(ValueError, match=r"Layers unused did not run in the forward pass\. Name layers that do\."):
        tapped(seeded(Branches()), inputs(), ["first", "unused"])


def test_values_survive_what_is_done_in_place_after_the_tap():
    model, x = seeded(InPlaceAfterTap()), inputs()
    expected = seen(model, x, ["a", "b"])
    taps = Taps(model, plan_taps(model, ["a", "b"], None, 2))
    with taps:
        # The first batch is copied whole, the second only where it must be.
        batches = [taps.forward(x), taps.forward(x)]
    for features in batches:
        assert list(features) == ["a", "b", "head.input"]
        assert all(torch.equal(features[name], expected[name]) for name in expected)
        assert bool((features["head.input"][:, 0] == 0).all())
    assert bool((expected["a"] < 0).any())


def test_an_in_place_activation_module_does_not_change_the_layer_before():
    model = seeded(nn.Sequential(nn.Linear(3, 4), nn.ReLU(inplace=True), nn.Linear(4, 2)))
    features, feeding = tapped(model, inputs())
    expected = seen(model, inputs(), ["0", "1"])
    assert (list(features), feeding) == (["0", "1"], "1")
    assert all(torch.equal(features[name], expected[name]) for name in expected)


def test_the_forward_pass_runs_once_where_nothing_happens_in_place():
    model, calls = mlp(), []
    model[0].register_forward_hook(lambda *_: calls.append(1))
    tapped(model, inputs())
    assert len(calls) == 1


def test_a_network_that_normalizes_its_input_in_place_is_not_run_on_it_twice():
    class Net(InPlaceAfterTap):
        def forward(self, x):
            return super().forward(x.sub_(1.0))

    model = seeded(Net())
    expected = seen(model, inputs(), ["a"])
    assert torch.equal(tapped(model, inputs(), ["a"])[0]["a"], expected["a"])


def test_the_classifiers_input_survives_what_is_done_in_place_behind_it():
    class Net(InPlaceAfterTap):
        def forward(self, x):
            h = torch.relu(self.a(x))
            logits = self.head(h)
            h.zero_()
            return logits

    model = seeded(Net())
    taps = Taps(model, plan_taps(model, ["a"], None, 2))
    with taps:
        batches = [taps.forward(inputs()), taps.forward(inputs())]
    for features in batches:
        assert torch.equal(features["head.input"], torch.relu(features["a"]))
    assert bool((features["head.input"] > 0).any())


@pytest.mark.parametrize("inplace", [False, True])
def test_equal_values_in_one_batch_do_not_make_a_layer_the_classifiers_input(inplace):
    model = mlp()
    model[3] = nn.ReLU(inplace)
    x = inputs(50)
    pre = seen(model, x, ["2"])["2"]
    positive = x[(pre > 0).all(dim=1)]
    assert 0 < len(positive) < 50
    taps = Taps(model, plan_taps(model, ["2"], None, 2))
    with taps:
        taps.forward(positive)
        features = taps.forward(x)
    assert torch.equal(features[taps.classifier_layer], torch.relu(pre))


def test_views_count_as_the_classifiers_input():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.head = nn.Conv1d(1, 2, 2), nn.Linear(4, 2)

        def forward(self, x):
            return self.head(self.conv(x[:, None]).reshape(len(x), -1))

    model = seeded(Net())
    features, feeding = tapped(model, inputs())
    assert (list(features), feeding) == (["conv"], "conv")
    assert features["conv"].shape == (6, 4)
    assert torch.equal(features["conv"], seen(model, inputs(), ["conv"])["conv"])


def test_without_a_classifier_no_layer_feeds_one():
    features, feeding = tapped(mlp(), inputs(), num_classes=7)
    assert (list(features), feeding) == (["0", "1", "2", "3", "4"], None)


def test_inference_tensors_are_copied():
    model = seeded(InPlaceAfterTap())
    expected = seen(model, inputs(), ["a", "b"])
    taps = Taps(model, plan_taps(model, ["a", "b"], None, 2))
    with torch.inference_mode(), taps:
        batches = [taps.forward(inputs()), taps.forward(inputs())]
    for features in batches:
        assert all(torch.equal(features[name], expected[name]) for name in expected)


def wrapped(middle):
    """A network with a module in the middle; a linear one runs twice."""

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.middle, self.head = middle, nn.Linear(3, 2)

        def forward(self, x):
            out = self.middle(x)
            if isinstance(middle, nn.Linear):
                return self.head(self.middle(out))
            return self.head(x + 0 * x)

    return Net()


class Returns(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def test_a_module_that_runs_twice_is_ambiguous():
    with pytest.raises(ValueError, match="Layer 'middle' runs more than once in a forward pass, so its output is ambiguous"):
        tapped(wrapped(nn.Linear(3, 3)), inputs())


@pytest.mark.parametrize(
    ("function", "got"),
    [
        (lambda x: (x, x), "tuple"),
        (lambda x: x.argmax(1, keepdim=True), r"torch\.int64 \(6, 1\)"),
        (lambda x: x.sum(), r"torch\.float32 \(\)"),
        (lambda x: x[:, 0], r"torch\.float32 \(6,\)"),
    ],
)
def test_an_output_that_is_no_feature_is_refused(function, got):
    with pytest.raises(
        TypeError, match=rf"Layer 'middle' must return a floating-point tensor of shape \(N, \.\.\.\), got {got}\."
    ):
        tapped(wrapped(Returns(function)), inputs())


def test_a_classifier_over_positions_is_refused():
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    with pytest.raises(TypeError, match=r"Classifier '1' must take features of shape \(N, d\), got \(5, 7, 4\)\. Name another"):
        tapped(model, torch.zeros(5, 7, 3))


def test_a_classifier_called_by_keyword():
    class Net(InPlaceAfterTap):
        def forward(self, x):
            return self.head(input=torch.relu(self.a(x)))

    features, feeding = tapped(seeded(Net()), inputs(), ["a"])
    assert (list(features), feeding) == (["a", "head.input"], "head.input")
    assert torch.equal(features["head.input"], torch.relu(features["a"]))


def test_a_layer_that_is_overwritten_in_some_batches_only_is_refused():
    class Net(InPlaceAfterTap):
        def forward(self, x):
            h = self.a(x)
            return self.head(torch.relu_(h) if len(x) > 3 else torch.relu(h))

    model = seeded(Net())
    taps = Taps(model, plan_taps(model, ["a"], None, 2))
    with taps:
        taps.forward(inputs(3))
        with pytest.raises(
            ValueError, match=r"Layer 'a' is overwritten in place in some batches only\. Tap a module after the"
        ):
            taps.forward(inputs(4))


@pytest.mark.parametrize("fail", [False, True])
def test_everything_is_put_back_also_after_an_error(fail):
    model = FCResNet(FCResNetConfig(width=4, num_blocks=2), 3, 2, seed=0).train()
    model.blocks[0].eval()
    modes = [module.training for module in model.modules()]
    hooks = [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in model.modules()]
    taps = Taps(model, plan_taps(model, "auto", None, 2))
    if fail:
        with pytest.raises(ValueError, match="needs inputs of 3 numbers"), taps:
            taps.forward(inputs(dim=7))
    else:
        with taps:
            assert not any(module.training for module in model.modules())
            taps.forward(inputs())
    assert [module.training for module in model.modules()] == modes
    assert [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in model.modules()] == hooks
    assert torch.is_grad_enabled()


def test_the_network_runs_without_gradients():
    seen_modes = []
    model = mlp()
    model[1].register_forward_hook(lambda *_: seen_modes.append(torch.is_grad_enabled()))
    features, _ = tapped(model, inputs())
    assert seen_modes == [False]
    assert not any(f.requires_grad for f in features.values())
