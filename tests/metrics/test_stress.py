"""Cases on which published codes fail: far-off means, tiny deviations, wide spectra, empty classes, half precision.

Features are float32 (or bfloat16) and streamed in batches; the oracle sees the same values cast to float64. Every metric must
agree within 1e-5 relative or be nan with a flag; here all of them agree far better.
"""

import math

import pytest
import torch

import reference
from cases import PLAIN, layer_statistics
from ncollapse.metrics import FLAGS, METRICS, evaluate_metrics
from ncollapse.statistics import LinearClassifier

RTOL = 1e-5


def normal(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def gaussian_classes(num_samples, num_classes, dim, *, offset=0.0, noise=1.0, scales=None, imbalance=False, seed=0):
    means = normal(seed, num_classes, dim)
    if scales is not None:
        means = means * scales[:, None] / means.norm(dim=1, keepdim=True)
    share = torch.linspace(1, 3, num_classes) if imbalance else torch.ones(num_classes)
    counts = (share / share.sum() * num_samples).long()
    labels = torch.repeat_interleave(torch.arange(num_classes), counts)
    labels = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))]
    return offset + means[labels] + noise * normal(seed + 1, len(labels), dim), labels, means


# name: (samples, classes, dimensions, batch size, dtype, further options of gaussian_classes)
STRESS = {
    "ordinary": (4000, 10, 128, 256, torch.float32, {}),
    "within_std_1e-3": (4000, 10, 32, 256, torch.float32, {"noise": 1e-3}),
    "far_mean": (4000, 10, 32, 256, torch.float32, {"offset": 1e3, "noise": 1e-3}),
    "far_mean_many_samples": (60000, 10, 64, 4096, torch.float32, {"offset": 1e3, "noise": 1e-3}),
    "far_mean_imbalanced": (3000, 5, 16, 128, torch.float32, {"offset": 1e3, "noise": 1e-3, "imbalance": True}),
    "mild_offset": (3000, 10, 32, 128, torch.float32, {"offset": 30.0, "noise": 1e-2}),
    "norms_spread_over_1e4": (1500, 10, 512, 256, torch.float32, {"scales": torch.logspace(0, 4, 10), "noise": 0.1}),
    "more_classes_than_dimensions": (2000, 20, 8, 128, torch.float32, {}),
    "more_classes_than_dimensions_imbalanced": (2000, 20, 8, 128, torch.float32, {"imbalance": True}),
    "deep_collapse_float64": (3000, 10, 32, 256, torch.float64, {"noise": 1e-6}),
    "deep_collapse_float32": (3000, 10, 32, 256, torch.float32, {"noise": 1e-6}),
    "deep_collapse_far_mean_float64": (3000, 10, 32, 256, torch.float64, {"offset": 1e3, "noise": 1e-6}),
    "bfloat16": (4000, 10, 64, 256, torch.bfloat16, {}),
    "bfloat16_far": (2000, 4, 16, 256, torch.bfloat16, {"offset": 30.0}),
    "batch_of_one": (300, 5, 8, 1, torch.float32, {"imbalance": True, "offset": 100.0, "noise": 0.1}),
    "large_features": (500, 4, 16, 64, torch.float32, {"scales": torch.full((4,), 1e18), "noise": 1e18}),
    "small_features": (500, 4, 16, 64, torch.float32, {"scales": torch.full((4,), 1e-18), "noise": 1e-18}),
    "weak_signal": (3000, 10, 32, 256, torch.float32, {"noise": 30.0}),
}  # fmt: skip


@pytest.mark.parametrize("name", STRESS)
def test_every_metric_is_right_or_nan_with_a_flag(name):
    num_samples, num_classes, dim, batch_size, dtype, options = STRESS[name]
    exact, labels, means = gaussian_classes(num_samples, num_classes, dim, **options)
    features = exact.to(dtype)
    weight, bias = means / means.norm() + 0.05 * normal(7, num_classes, dim), normal(8, num_classes)
    statistics = layer_statistics(features, labels, num_classes, LinearClassifier(weight, bias), batch_size=batch_size)
    expected = reference.metrics(reference.rows_of(features), labels.numpy(), num_classes, weight.numpy(), bias.numpy())
    values = evaluate_metrics(statistics, PLAIN)
    assert {value.metric for value in values} == set(expected)
    for metric, value, _, flags in values:
        if math.isnan(value):
            assert flags == (UNDEFINED.get(metric, "imbalanced"),), metric
            assert math.isnan(expected[metric])
        else:
            # Shares of samples are counts, so they are equal or wrong by at least one sample.
            rtol = 1e-14 if METRICS[metric].bounds == (0.0, 1.0) and metric in SHARES else RTOL
            assert value == pytest.approx(expected[metric], rel=rtol, abs=0), metric


UNDEFINED = {"pfc2_orthoplex": "no_orthoplex", "pfc2_seli": "low_dimension", "softmax_code": "no_softmax_code"}
SHARES = {"pfc3", "pfc3_error", "nc4", "nc4_mismatch", "accuracy"}


def test_the_offset_of_the_far_mean_changes_nothing_but_the_rounding_of_float32():
    # Known by construction: pfc1 = noise² · d / tr Σ_B, blurred by float32 rounding of 1e3 (6e-5/√12 in std).
    features, labels, means = gaussian_classes(60000, 10, 64, offset=1e3, noise=1e-3)
    statistics = layer_statistics(features.float(), labels, 10, batch_size=4096, scatter=False)
    spread = float((means - means.mean(dim=0)).square().sum()) / 10
    (value,) = evaluate_metrics(statistics, [METRICS["pfc1"]])
    assert value.value == pytest.approx(64 * 1e-6 / spread, rel=1e-2)


@pytest.mark.parametrize("step", [2.0**-10, 2.0**-27])
def test_a_spread_far_below_the_offset_is_still_measured(step):
    # Exact in float64: class means at 1024 and 1024 + 4 steps, every sample one step beside its mean.
    features = 1024 + step * torch.tensor([[-1.0], [1.0], [3.0], [5.0]], dtype=torch.float64)
    values = evaluated(features, torch.tensor([0, 0, 1, 1]), 2)
    expected = {"pfc1": 1 / 4, "nc1": 1 / 8, "nc1_total": 1 / 5, "cdnv": 1 / 16, "separation": 1 / 4, "rank_between": 1}
    assert {id: values[id].value for id in expected} == pytest.approx(expected, rel=1e-14)


# --- Degenerate data: nan and the flag that says why ---


def evaluated(features, labels, num_classes, weight=None, bias=None):
    classifier = None if weight is None else LinearClassifier.from_parameters(weight, bias)
    statistics = layer_statistics(features, labels, num_classes, classifier)
    return {v.metric: v for v in evaluate_metrics(statistics, PLAIN)}


def test_an_empty_class_makes_every_metric_nan_with_the_flag():
    features, labels, means = gaussian_classes(500, 5, 8)
    kept = labels != 3
    values = evaluated(features[kept].float(), labels[kept], 5, means)
    assert set(values) == {metric.id for metric in PLAIN}
    for name, value in values.items():
        if name.endswith("_weights") or name in {"accuracy", "nc0"}:
            assert math.isfinite(value.value), "the classifier or the logits alone"
        else:
            assert math.isnan(value.value), value
            assert value.flags == ("empty_class",)


def test_one_class_alone_makes_every_metric_nan_with_the_flag():
    values = evaluated(normal(0, 10, 4), torch.zeros(10, dtype=torch.int64), 1, torch.ones(1, 4))
    assert set(values) == {metric.id for metric in PLAIN}
    assert all(math.isnan(value.value) and value.flags == ("one_class",) for value in values.values())


# A constant that no sum of float64 holds exactly, so that equal means come out unequal by rounding.
@pytest.mark.parametrize("constant", [0.0, 0.1, 1234.567])
def test_identical_features_have_no_spread(constant):
    features = torch.full((35, 6), constant, dtype=torch.float64)
    values = evaluated(features, torch.arange(35) % 3, 3, normal(0, 3, 6))
    relative = [
        id for id, metric in METRICS.items() if id in values and "no_between" in metric.undefined_when | {metric.nan_flag}
    ]
    assert values["nc1_total"].flags == ("no_variance",)
    assert {"pfc1", "nc1", "cdnv", "separation", "pfc2", "nc2_equinorm", "nc3"} <= set(relative)
    for id in relative:
        if METRICS[id].needs & {"moments", "centers", "classifier"} and id not in ("pfc3", "pfc3_error"):
            assert math.isnan(values[id].value) or "no_between" not in METRICS[id].undefined_when, id
    for id in ("pfc1", "nc1", "cdnv", "separation", "pfc2", "nc2_equinorm", "nc2_max_angle", "nc3", "nc3_etf"):
        assert math.isnan(values[id].value), id
        assert values[id].flags == ("no_between",), id


def test_coinciding_means_with_spread_within():
    # Both classes have mean (0.1, 0.3) up to rounding.
    steps = normal(0, 7, 2)
    features = torch.tensor([0.1, 0.3]) + torch.cat([steps, -steps, 3 * steps, -3 * steps])
    values = evaluated(features.double(), torch.arange(2).repeat_interleave(14), 2)
    for id in ("pfc1", "nc1", "cdnv", "separation", "pfc2"):
        assert math.isnan(values[id].value), id
        assert values[id].flags == ("no_between",)
    assert values["nc1_total"].value == pytest.approx(1, rel=1e-15)


def test_two_coinciding_means_of_three_leave_cdnv_undefined():
    features = torch.tensor([[0.0, 1.0], [0.0, 3.0], [1.0, 2.0], [-1.0, 2.0], [5.0, 5.0], [5.0, 6.0]])
    values = evaluated(features, torch.arange(3).repeat_interleave(2), 3)
    assert math.isnan(values["cdnv"].value)
    assert values["cdnv"].flags == ("coincident_means",)
    assert values["pfc1"].flags == ()
    assert values["nc1"].flags == ("rank_deficient",)
    assert not math.isnan(values["pfc1"].value)


def test_a_mean_at_the_center_has_no_angle():
    features = torch.tensor([[-1.0, 0.0], [0.0, 0.0], [1.0, 0.0]]).repeat(2, 1)
    values = evaluated(features, torch.arange(3).repeat(2), 3)
    for id in ("nc2_equiangularity", "nc2_max_angle"):
        assert math.isnan(values[id].value)
        assert values[id].flags == ("mean_at_center",)
    # std/mean of (1, 0, 1).
    assert values["nc2_equinorm"].value == pytest.approx(math.sqrt(2 / 9) / (2 / 3), rel=1e-14)


def test_a_zero_row_of_the_classifier_has_no_direction():
    features, labels, means = gaussian_classes(60, 3, 4)
    weight = means.clone()
    weight[1] = 0
    values = evaluated(features, labels, 3, weight)
    for id in ("nc2_equiangularity_weights", "nc2_max_angle_weights"):
        assert math.isnan(values[id].value)
        assert values[id].flags == ("zero_classifier",)
    assert values["nc3_cosine"].flags == ("zero_vector",)
    assert math.isnan(values["nc3_cosine"].value)
    assert not math.isnan(values["nc3"].value)


def test_a_zero_classifier():
    features, labels, _ = gaussian_classes(60, 3, 4)
    values = evaluated(features, labels, 3, torch.zeros(3, 4))
    for id in ("nc2_equinorm_weights", "nc2_etf_weights", "nc3", "nc3_etf"):
        assert math.isnan(values[id].value), id
        assert values[id].flags == ("zero_classifier",), id
    assert values["accuracy"].value == pytest.approx(1 / 3, rel=1e-14)


def test_a_zero_feature_has_no_cosine():
    features, labels, means = gaussian_classes(60, 3, 4)
    features[5] = 0
    values = evaluated(features, labels, 3, means)
    assert math.isnan(values["nc3_cosine"].value)
    assert values["nc3_cosine"].flags == ("zero_vector",)
    assert not math.isnan(values["nc3"].value)


def test_few_dimensions_are_flagged_and_never_wrong():
    features, labels, means = gaussian_classes(200, 20, 8)
    values = evaluated(features, labels, 20, means)
    flagged = {id for id, value in values.items() if "low_dimension" in value.flags}
    angles = {"nc2_equiangularity", "nc2_max_angle"}
    uniform = {"gnc2", "hyperspherical_energy"}
    assert flagged == {"pfc2", "pfc2_seli", "nc2_etf_weights", "nc3_etf", "nc2_max_angle_weights", *angles, *uniform, "snc1"}
    assert values["rank_between"].value == 8


def test_every_flag_that_comes_out_is_explained():
    features, labels, means = gaussian_classes(60, 3, 4)
    for kept in (labels >= 0, labels != 1, labels == 0):
        for value in evaluated(features[kept], labels[kept], 3, means).values():
            assert set(value.flags) <= set(FLAGS)
