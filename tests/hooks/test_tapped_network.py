"""Which modules are tapped, and what the hooks hand out, against hooks that clone what they see."""

import pytest
import torch
from torch import nn

from ncollapse.hooks.discovery import Discovery
from ncollapse.hooks.tapped_network import TappedNetwork
from ncollapse.models import FCResNet, FCResNetConfig


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


def labels_of(x):
    return torch.zeros(len(x), dtype=torch.int64)


def taps_of(model, layers="auto", classifier=None, num_classes=2):
    return TappedNetwork(model, Discovery(model, layers, classifier, num_classes).plan)


def planned(model, x, layers="auto", classifier=None, num_classes=2):
    with torch.no_grad():
        return Discovery(model.eval(), layers, classifier, num_classes).plan(x[:2], 2, False)


def labels_in(plan):
    return tuple(tap.label for tap in plan.taps)


def tapped(model, x, layers="auto", classifier=None, num_classes=2):
    taps = taps_of(model, layers, classifier, num_classes)
    with taps:
        return taps.forward(x, labels_of(x)).features, taps.plan.feeding


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
    plan = planned(model, inputs())
    assert (labels_in(plan), plan.classifier, plan.feeding) == (("stem", "blocks.0", "blocks.1"), "head", "blocks.1")
    assert plan.explanation == "stages that FCResNet declares; classifier head gives the logits"
    features, feeding = tapped(model, inputs())
    assert feeding == "blocks.1"
    expected = seen(model, inputs(), labels_in(plan))
    assert list(features) == list(labels_in(plan))
    assert all(torch.equal(features[name], expected[name]) for name in expected)


def test_of_a_plain_network_the_last_module_before_each_further_layer_is_found():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem = nn.Linear(3, 4)
            self.body = nn.Sequential(nn.Sequential(nn.Linear(4, 4), nn.ReLU()), nn.Linear(4, 4))
            self.head = nn.Linear(4, 2)

        def forward(self, x):
            return self.head(self.body(self.stem(x)))

    plan = planned(Net(), inputs())
    assert labels_in(plan) == ("stem", "body.0.1", "body.1")
    assert (plan.classifier, plan.feeding, plan.explanation) == (
        "head",
        "body.1",
        "inputs of the layers with weights; classifier head gives the logits",
    )
    assert labels_in(planned(mlp(), inputs())) == ("1", "3")
    with_an_empty_container = nn.Sequential(nn.Linear(3, 2), nn.Sequential(), nn.Linear(2, 2))
    assert labels_in(planned(with_an_empty_container, inputs())) == ("0",)


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.branch = nn.Sequential(nn.Linear(width, width), nn.ReLU(inplace=True), nn.Linear(width, width))

    def forward(self, x):
        return torch.relu_(x + self.branch(x))


class Stages(nn.Module):
    """Blocks in two containers with a wider transition between them, a stem, and what comes behind."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Linear(3, 4), nn.ReLU())
        self.first = nn.Sequential(Block(4), Block(4))
        self.second = nn.Sequential(Block(4), nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6)), Block(6), nn.ReLU())
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(6, 2)
        self.softmax = nn.LogSoftmax(dim=1)

    def forward(self, x):
        return self.softmax(self.head(self.drop(self.second(self.first(self.stem(x))))))


def test_repeated_blocks_are_found_with_their_input_and_what_lies_between_them():
    model = seeded(Stages())
    plan = planned(model, inputs())
    assert labels_in(plan) == ("stem.1", "first.0", "first.1", "second.0", "second.1", "second.2", "second.3")
    assert (plan.classifier, plan.feeding) == ("head", "second.3")
    assert (
        plan.explanation
        == "blocks Block and their input stem.1 and the classifier's input second.3; classifier head gives the logits"
    )
    expected = seen(model, inputs(), labels_in(plan))
    features, _ = tapped(model, inputs())
    assert list(features) == list(expected)
    assert all(torch.equal(features[name], expected[name]) for name in expected)


def test_what_runs_behind_the_classifier_is_no_layer_and_its_input_comes_before_its_output():
    model = seeded(Stages())
    assert tuple(tapped(model, inputs(), ["first.0", "head", "softmax"])[0]) == ("first.0", "head.input", "head", "softmax")
    every = labels_in(planned(model, inputs(), "all"))
    assert {"stem.0", "first.0.branch.1"} <= set(every)
    assert not {"head", "softmax"} & set(every)


def test_names_and_globs_in_order_of_execution_without_repetition():
    model = FCResNet(FCResNetConfig(width=4, num_blocks=3), 3, 2, seed=0)
    plan = planned(model, inputs(), ["blocks.?", "stem", "blocks.1"])
    assert labels_in(plan) == ("blocks.0", "blocks.1", "blocks.2", "stem")
    assert plan.explanation == "by name: blocks.?, stem, blocks.1; classifier head gives the logits"
    assert list(tapped(model, inputs(), ["blocks.?", "stem"])[0]) == ["stem", "blocks.0", "blocks.1", "blocks.2"]
    assert labels_in(planned(model, inputs(), "blocks.*.branch.0")) == tuple(f"blocks.{i}.branch.0" for i in range(3))


def test_a_star_stops_at_a_dot_and_two_do_not():
    model = seeded(Stages())
    assert labels_in(planned(model, inputs(), "first.*")) == ("first.0", "first.1")
    assert labels_in(planned(model, inputs(), "first.**")) == tuple(
        name for name, _ in model.named_modules() if name.startswith("first.")
    )
    assert labels_in(planned(model, inputs(), "**.branch.1")) == tuple(
        f"{name}.branch.1" for name in ("first.0", "first.1", "second.0", "second.2")
    )


def test_a_plain_name_is_not_read_as_a_glob():
    model = nn.Sequential()
    for name in ("a[0]", "a0", "head"):
        model.add_module(name, nn.Linear(2, 2))
    assert labels_in(planned(model, inputs(dim=2), ["a[0]"])) == ("a[0]",)
    assert labels_in(planned(model, inputs(dim=2), ["a[01]"])) == ("a0",)


def test_a_name_that_does_not_exist_lists_near_ones_and_those_there_are():
    model = FCResNet(FCResNetConfig(width=4, num_blocks=2), 3, 2, seed=0)
    with pytest.raises(
        ValueError, match=r"layers must name or match modules, got 'block\.0'\. Near: .*blocks\.0.* available here: stem, "
    ):
        Discovery(model, ["stem", "block.0"], None, 2)
    with pytest.raises(ValueError, match=r"got 'zzz\*'\. Layers available here: stem, blocks, "):
        Discovery(model, "zzz*", None, 2)


def test_a_long_list_of_names_is_cut():
    model = nn.Sequential(*(nn.Linear(2, 2) for _ in range(40)))
    with pytest.raises(ValueError, match=r"available here: 0, 1, .*, 29 and 10 more \(model\.named_modules\(\)\)\."):
        Discovery(model, ["nothing"], None, 2)


def test_no_layer_at_all_is_refused():
    with pytest.raises(ValueError, match=r"layers must name at least one module, got none\. Layers available here: 0, 1"):
        Discovery(mlp(), [], None, 2)


def test_the_classifier_is_the_module_that_gives_the_returned_logits():
    def found(model, classifier, num_classes):
        return planned(model, inputs(), "auto", classifier, num_classes).classifier

    assert found(mlp(), None, 2) == "4"
    assert found(mlp(), None, 4) is found(mlp(), None, 7) is None
    assert found(mlp(), "4", 2) == "4"
    assert found(nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2)), None, 2) == "1"
    unused = mlp()
    unused.auxiliary = nn.Linear(4, 2)
    unused.forward = lambda x: nn.Sequential(*list(unused.children())[:5])(x)
    assert found(unused, None, 2) == "4"
    with pytest.raises(ValueError, match="Classifier 'auxiliary' must run in the forward pass, but it did not"):
        found(unused, "auxiliary", 2)


class Wrapped(nn.Module):
    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x):
        return self.network(x)


class Clipped(nn.Module):
    """Its logits are no linear map of any layer's input."""

    def __init__(self):
        super().__init__()
        self.layers = mlp()

    def forward(self, x):
        return torch.relu(self.layers(x))


def test_a_wrapped_network_without_a_classifier_keeps_its_layers():
    assert labels_in(planned(Clipped(), inputs())) == ("layers.1", "layers.3")
    plan = planned(Wrapped(Clipped()), inputs())
    assert labels_in(plan) == ("network.layers.1", "network.layers.3")
    assert "the returned logits are other numbers than the outputs of network.layers.4" in plan.explanation
    assert plan.read_classifier is None


@pytest.mark.parametrize(
    ("name", "num_classes", "got"),
    [
        ("2", 4, r"the network returns no logits of 4 classes but \(N, 2\)"),
        ("1", 2, "1 is no linear map of one row of features"),
        ("0", 2, "the returned logits are other numbers than the outputs of 0"),
    ],
)
def test_a_wrong_classifier_is_refused(name, num_classes, got):
    with pytest.raises(ValueError, match=rf"Classifier '{name}' must give the network's logits as W h \+ b, but {got}\. Name"):
        planned(mlp(), inputs(), "auto", name, num_classes)
    with pytest.raises(ValueError, match="classifier 'heads' must be a module of the network, got no such module"):
        Discovery(mlp(), "auto", "heads", num_classes)


def test_order_of_execution_and_modules_that_do_not_run():
    model = seeded(Branches())
    features, feeding = tapped(model, inputs())
    expected = seen(model, inputs(), ["second", "first"])
    assert list(features) == ["second.input", "head.input"]
    assert feeding == "head.input"
    first = torch.relu(expected["first"]).reshape(-1, 2, 2).transpose(1, 2).flatten(1)
    assert torch.equal(features["second.input"], first)
    assert torch.equal(features["head.input"], torch.tanh(expected["second"]))


def test_a_named_layer_that_does_not_run_is_an_error():
    with pytest.raises(ValueError, match=r"Layers must run in the forward pass, but unused did not\. Name layers that do\."):
        tapped(seeded(Branches()), inputs(), ["first", "unused"])


def test_values_survive_what_is_done_in_place_after_the_tap():
    model, x = seeded(InPlaceAfterTap()), inputs()
    expected = seen(model, x, ["a", "b"])
    taps = taps_of(model, ["a", "b"])
    with taps:
        batches = [taps.forward(x, labels_of(x)).features for _ in range(2)]
    for features in batches:
        assert list(features) == ["a", "b", "head.input"]
        assert all(torch.equal(features[name], expected[name]) for name in expected)
        assert bool((features["head.input"][:, 0] == 0).all())
    assert bool((expected["a"] < 0).any())


def test_an_in_place_activation_module_does_not_change_the_layer_before():
    model = seeded(nn.Sequential(nn.Linear(3, 4), nn.ReLU(inplace=True), nn.Linear(4, 2)))
    features, feeding = tapped(model, inputs(), ["0", "1"])
    expected = seen(model, inputs(), ["0", "1"])
    assert (list(features), feeding) == (["0", "1"], "1")
    assert all(torch.equal(features[name], expected[name]) for name in expected)


def test_beside_one_look_at_two_samples_the_forward_pass_runs_once():
    model, calls = mlp(), []
    model[0].register_forward_hook(lambda _, args, __: calls.append(len(args[0])))
    taps = taps_of(model)
    with taps:
        taps.forward(inputs(6), labels_of(inputs(6)))
        taps.forward(inputs(5), labels_of(inputs(5)))
    assert calls == [2, 6, 5]


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
    taps = taps_of(model, ["a"])
    with taps:
        batches = [taps.forward(inputs(), labels_of(inputs())).features for _ in range(2)]
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
    taps = taps_of(model, ["2"])
    with taps:
        taps.forward(positive, labels_of(positive))
        features = taps.forward(x, labels_of(x)).features
    assert torch.equal(features[taps.plan.feeding], torch.relu(pre))


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
    assert (list(features), feeding) == (["1", "3", "4"], None)


def test_inference_tensors_are_copied():
    model = seeded(InPlaceAfterTap())
    expected = seen(model, inputs(), ["a", "b"])
    taps = taps_of(model, ["a", "b"])
    with torch.inference_mode(), taps:
        batches = [taps.forward(inputs(), labels_of(inputs())).features for _ in range(2)]
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
    with pytest.raises(ValueError, match="Layers must run once per forward pass, but 'middle' ran 2 times"):
        tapped(wrapped(nn.Linear(3, 3)), inputs(), ["middle"])


@pytest.mark.parametrize(
    ("function", "got"),
    [
        (lambda x: (x.long(), None), "tuple"),
        (lambda x: x.argmax(1, keepdim=True), r"torch\.int64 \(6, 1\)"),
        (lambda x: x.sum(), r"torch\.float32 \(\)"),
        (lambda x: x[:, 0], r"torch\.float32 \(6,\)"),
    ],
)
def test_an_output_that_is_no_feature_is_refused(function, got):
    with pytest.raises(
        TypeError, match=rf"Layer 'middle' must return a floating-point tensor of shape \(N, \.\.\.\), got {got}\."
    ):
        tapped(wrapped(Returns(function)), inputs(), ["middle"])


def test_a_classifier_over_positions_is_refused():
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    words = r"Classifier '1' must give the network's logits .* returns no logits of 2 classes but \(N, 7, 2\)"
    with pytest.raises(ValueError, match=words):
        tapped(model, torch.zeros(5, 7, 3), classifier="1")
    assert tapped(model, torch.zeros(5, 7, 3))[1] is None


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
    taps = taps_of(model, ["a"])
    with taps:
        taps.forward(inputs(3), labels_of(inputs(3)))
        with pytest.raises(ValueError, match=r"'a' must be treated alike .* overwrote it in this batch and not in the first"):
            taps.forward(inputs(4), labels_of(inputs(4)))


@pytest.mark.parametrize("fail", [False, True])
def test_everything_is_put_back_also_after_an_error(fail):
    model = FCResNet(FCResNetConfig(width=4, num_blocks=2), 3, 2, seed=0).train()
    model.blocks[0].eval()
    modes = [module.training for module in model.modules()]
    hooks = [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in model.modules()]
    taps = taps_of(model, "auto")
    if fail:
        with pytest.raises(ValueError, match="needs inputs of 3 numbers"), taps:
            taps.forward(inputs(dim=7), labels_of(inputs(dim=7)))
    else:
        with taps:
            assert not any(module.training for module in model.modules())
            taps.forward(inputs(), labels_of(inputs()))
    assert [module.training for module in model.modules()] == modes
    assert [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in model.modules()] == hooks
    assert torch.is_grad_enabled()


def test_the_network_runs_without_gradients():
    seen_modes = []
    model = mlp()
    model[1].register_forward_hook(lambda *_: seen_modes.append(torch.is_grad_enabled()))
    features, _ = tapped(model, inputs())
    assert seen_modes == [False, False]
    assert not any(f.requires_grad for f in features.values())
