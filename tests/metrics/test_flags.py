"""Flags in corners: constants, values out of reach, classes of one sample, broken classifiers, and the range of float64."""

import math

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from cases import PLAIN, layer_statistics
from ncollapse.etf import simplex_etf
from ncollapse.metrics import METRICS, evaluate_metrics
from ncollapse.metrics.entry import evaluate_layers
from ncollapse.probe import measure, measure_features
from ncollapse.statistics import ClassCenters, ClassDecisions, ClassMoments, LinearClassifier


def normal(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def evaluated(features, labels, num_classes, weight=None):
    classifier = None if weight is None else LinearClassifier.from_parameters(weight)
    statistics = layer_statistics(features, labels, num_classes, classifier)
    return {v.metric: v for v in evaluate_metrics(statistics, PLAIN)}


def flagged(values, flag):
    return {id for id, value in values.items() if flag in value.flags}


def test_what_is_constant_for_two_classes_is_flagged_and_nothing_else():
    # The oracle: the values that three random data sets share to the last digits.
    draws = [evaluated(normal(seed, 12, 5), torch.arange(12) % 2, 2, normal(seed + 9, 2, 5)) for seed in range(3)]
    constant = {
        id for id in draws[0]
        if len({round(draw[id].value, 9) for draw in draws}) == 1 and not math.isnan(draws[0][id].value)
    } - {"snc3", "rank_total"}  # fmt: skip
    assert flagged(draws[0], "two_classes") == constant
    assert {"log_equinorm", "hyperspherical_energy", "gnc2", "pfc2", "nc2_equiangularity_weights"} <= constant


@pytest.mark.parametrize(
    "rows",
    [
        torch.ones(6, 2),
        torch.tensor([[3.0, -1.0]]).repeat(5, 1),
        torch.arange(1.0, 8.0)[:, None] * torch.tensor([1.0, 2.0, -2.0]),
    ],
    ids=["ones", "equal", "of one direction"],
)
def test_equal_rows_of_a_classifier_reach_zero_in_any_dimension(rows):
    num_classes, dim = rows.shape
    values = evaluated(normal(0, 42, dim), torch.arange(42) % num_classes, num_classes, rows)
    assert values["nc2_equiangularity_weights"].value == pytest.approx(0, abs=1e-12)
    assert values["nc2_equiangularity_weights"].flags == ()


@pytest.mark.parametrize(("num_classes", "dim"), [(4, 2), (5, 3), (8, 6), (3, 1)])
def test_a_frame_without_room_is_flagged_where_zero_is_out_of_reach(num_classes, dim):
    # The oracle: gradient descent from three starts at once, on classifier rows that are class means at once.
    least = torch.full((2,), math.inf)
    rows = torch.stack([normal(seed, num_classes, dim) for seed in range(3)]).requires_grad_()
    optimizer = torch.optim.Adam([rows], lr=0.02)
    i, j = torch.triu_indices(num_classes, num_classes, 1)
    for _ in range(400):
        centered = rows - rows.mean(1, keepdim=True)
        units = centered / centered.norm(dim=2, keepdim=True)
        logs = ((units[:, i] - units[:, j]).square().sum(2) + 1e-12).log() / 2
        snc1 = (rows @ rows.mT - math.sqrt(5) * (torch.eye(num_classes).double() - 1 / num_classes)).norm(dim=(1, 2))
        least = torch.minimum(least, torch.stack([logs.std(dim=1).min(), snc1.min()]).detach())
        optimizer.zero_grad()
        (logs.var(dim=1) + snc1).sum().backward()
        optimizer.step()
    assert float(least.min()) > 0.05
    labels = torch.arange(5 * num_classes) % num_classes
    values = evaluated(normal(7, len(labels), dim), labels, num_classes, normal(8, num_classes, dim))
    assert {"gnc2", "snc1", "hyperspherical_energy", "pfc2"} <= flagged(values, "low_dimension")
    values = evaluated(normal(7, len(labels), num_classes), labels, num_classes, normal(8, num_classes, num_classes))
    assert not flagged(values, "low_dimension")


@pytest.mark.parametrize(("means", "reachable"), [((-1, 0, 1), False), ((-1, -1, 1, 1), True), ((-2, -1, 0, 1, 2), False)])
def test_an_odd_number_of_means_on_a_line_cannot_be_equally_far_from_their_center(means, reachable):
    labels = torch.arange(len(means)).repeat(4)
    values = evaluated(torch.tensor(means).double()[labels, None] + 0.1 * normal(0, len(labels), 1), labels, len(means))
    assert ("odd_on_line" in values["nc2_equinorm"].flags) is not reachable
    assert ("odd_on_line" in values["log_equinorm"].flags) is not reachable
    assert "odd_on_line" not in values["pfc1"].flags


@pytest.mark.parametrize("singles", [1, 2, 4])
def test_classes_of_one_sample_are_flagged_where_their_variability_counts(singles):
    labels = torch.cat([torch.arange(4), torch.arange(singles, 4).repeat(5)])
    values = evaluated(normal(0, len(labels), 6), labels, 4, normal(1, 4, 6))
    within = {"pfc1", "nc1", "nc1_total", "cdnv", "separation"} | ({"snc2"} if singles == 4 else set())
    assert flagged(values, "single_samples") == within
    assert {"pfc3", "pfc3_error", "nc4"} <= flagged(values, "single_centers")


def test_a_split_with_one_sample_in_a_class_is_not_its_own_center_if_the_training_means_decide():
    train = measure_features(normal(0, 40, 5), torch.arange(40) % 4, num_classes=4)
    labels = torch.tensor([0, 0, 1, 1, 2, 2, 3])
    test = measure_features(normal(1, 7, 5), labels, num_classes=4, split="test", reference=train)
    own = measure_features(normal(1, 7, 5), labels, num_classes=4, split="test")
    flags = [{row.metric: row.flags for row in m.rows} for m in (test, own)]
    assert flags[0]["pfc3"] == ()
    assert "single_samples" in flags[0]["pfc1"]
    assert {"own_means", "single_centers"} <= set(flags[1]["pfc3"])


def test_coinciding_training_means_are_flagged_and_coinciding_own_means_are_not():
    labels = torch.arange(12) % 3
    same, apart = normal(0, 4, 5).repeat_interleave(3, dim=0), normal(1, 12, 5)
    for train, other, expected in ((same, apart, ("same_centers",)), (apart, same, ())):
        reference = measure_features(train, labels, num_classes=3)
        test = measure_features(other, labels, num_classes=3, split="test", reference=reference)
        assert next(row.flags for row in test.rows if row.metric == "pfc3") == expected


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("part", ["weight", "bias"])
def test_a_classifier_that_is_not_finite_is_flagged_and_gives_no_number(part, value):
    weight, bias = normal(1, 3, 4), normal(2, 3)
    {"weight": weight, "bias": bias}[part].view(-1)[1] = value
    statistics = layer_statistics(normal(0, 12, 4), torch.arange(12) % 3, 3, LinearClassifier(weight, bias))
    beside = layer_statistics(normal(3, 12, 4), torch.arange(12) % 3, 3)
    for value in [*evaluate_metrics(statistics, PLAIN), *evaluate_layers([beside, statistics], PLAIN)[1]]:
        needs = bool(METRICS[value.metric].needs & {"classifier", "logits"})
        assert needs == ("classifier_not_finite" in value.flags), value
        assert not needs or math.isnan(value.value)


@pytest.mark.parametrize("constant", [0.0, 0.1, -1234.567])
def test_ranks_of_the_total_covariance_are_undefined_if_nothing_varies(constant):
    values = evaluated(torch.full((30, 4), constant, dtype=torch.float64), torch.arange(30) % 3, 3)
    for name in ("rank", "stable_rank", "participation_ratio", "entropy_rank"):
        assert math.isnan(values[f"{name}_total"].value)
        assert values[f"{name}_total"].flags == ("no_variance",)
    once = evaluated(torch.arange(30.0).double()[:, None] * torch.ones(4).double() + constant, torch.arange(30) % 3, 3)
    assert once["rank_total"].value == 1


@pytest.mark.parametrize("exponent", [-140, -100, -80, 80, 100, 140])
def test_every_metric_without_a_scale_is_the_same_far_from_one(exponent):
    features, labels, weight = normal(0, 40, 6), torch.arange(40) % 4, normal(1, 4, 6)
    expected, values = evaluated(features, labels, 4, weight), evaluated(features * 10.0**exponent, labels, 4, weight)
    for id in values:
        if "scale" in METRICS[id].invariant:
            assert values[id].flags == expected[id].flags, id
            assert values[id].value == pytest.approx(expected[id].value, rel=1e-11), id


@pytest.mark.parametrize("exponent", [-150, -160, -300])
def test_squares_that_lost_their_digits_are_no_spread(exponent):
    values = evaluated(normal(0, 40, 6) * 10.0**exponent, torch.arange(40) % 4, 4)
    assert values["pfc1"].flags == values["pfc2"].flags == ("no_between",)
    assert math.isnan(values["pfc1"].value)
    assert values["nc1_total"].flags == ("no_variance",)


def test_a_classifier_far_from_one_keeps_its_angles():
    for factor in (1e-170, 1e170):
        values = evaluated(normal(0, 40, 6), torch.arange(40) % 4, 4, factor * simplex_etf(4, 6))
        assert values["nc2_etf_weights"].value == pytest.approx(0, abs=1e-14)


@pytest.mark.parametrize("offset", [0.0, 3.0, 500.0])
@pytest.mark.parametrize("seed", range(4))
def test_duplicated_classes_are_decided_by_the_smaller_index_in_every_type(offset, seed):
    half = offset + normal(seed, 60, 8).float()
    labels = torch.arange(60) % 4
    order = torch.randperm(120, generator=torch.Generator().manual_seed(seed))
    # Classes 4-7 hold the samples of classes 0-3 in another order, so that their means differ by rounding.
    features, twice = torch.cat([half, half])[order], torch.cat([labels, labels + 4])[order]
    centers = [ClassCenters.from_moments(ClassMoments.from_batch(h, twice, 8)) for h in (features, features.double())]
    counts = [
        ClassDecisions.from_batch(h, twice, c).ncc_correct
        for c in centers
        for h in (features, features.double())
    ]  # fmt: skip
    alone = ClassMoments.from_batch(half, labels, 4)
    exact = torch.cdist(half.double(), alone.means, compute_mode="donot_use_mm_for_euclid_dist").argmin(1)
    expected = torch.bincount(labels[exact == labels], minlength=4).tolist() + [0] * 4
    assert [count.tolist() for count in counts] == [expected] * 4


class AsOnCuda(TorchDispatchMode):
    """Raises an error where deterministic mode on CUDA does, by the list of `torch.use_deterministic_algorithms`."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        broken = name in {"histc", "kthvalue", "nll_loss2d", "resize_", "put_"} or str(func) == "aten.median.dim"
        broken |= name == "cumsum" and args[0].is_floating_point()
        broken |= name == "bincount" and any(isinstance(part, torch.Tensor) for part in (*args[1:], *(kwargs or {}).values()))
        if broken:
            raise RuntimeError(f"{name} does not have a deterministic implementation")
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("budget", [None, 0])
def test_operations_without_a_deterministic_kernel_on_cuda_are_not_used(budget):
    net = nn.Sequential(*(nn.Sequential(nn.Linear(6, 6), nn.Tanh()) for _ in range(3)), nn.Linear(6, 4))
    batches = [(normal(seed, 20, 6).float(), torch.arange(20) % 4) for seed in range(2)]
    expected = measure(net, batches, num_classes=4, path=True, memory_budget=budget)
    with AsOnCuda():
        found = measure(net, batches, num_classes=4, path=True, memory_budget=budget)
    assert [repr(row) for row in found.rows] == [repr(row) for row in expected.rows]


def test_deterministic_mode_changes_nothing():
    features, labels, weight = normal(0, 40, 6), torch.arange(40) % 4, normal(1, 4, 6)
    expected = evaluated(features, labels, 4, weight)
    torch.use_deterministic_algorithms(True)
    try:
        assert str(evaluated(features, labels, 4, weight)) == str(expected)
    finally:
        torch.use_deterministic_algorithms(False)
