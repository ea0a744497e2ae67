"""Settings in a row on made-up runs: disagreeing, unbalanced, one that dominates, shared seeds, and the tests of their mean."""

import itertools
import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from scipy import stats

from ncollapse.claims.evidence import Draw, Evidence, pooled
from ncollapse.claims.ledger import _rulings
from ncollapse.claims.pooling import Mean, row_over
from ncollapse.claims.quantities import BY_KEY
from ncollapse.claims.rules import RULES, Claim
from ncollapse.report.claims_page import _over_settings, _stands, interval_words

N = RULES.least_draws


def setting(name, values, first, **more):
    lists = {key: value if isinstance(value, list) else [value] * len(values) for key, value in more.items()}
    made = (
        Draw(first + i, value, (f"{name}{i}",), **{key: items[i] for key, items in lists.items()})
        for i, value in enumerate(values)
    )
    return Evidence(name, "share of seeds", tuple(made))


def shares(**counts):
    """Settings of seeds of their own, by name: right seeds and all seeds."""
    return [
        setting(name, [True] * right + [False] * (n - right), 100 * i) for i, (name, (right, n)) in enumerate(counts.items())
    ]


def ruled(evidence, **options):
    (ruling,) = _rulings([Claim("key", "", "", "", lambda runs: evidence, **options)], [])
    return ruling


@pytest.mark.parametrize(
    ("counts", "verdict", "value"),
    [
        ({"a": (12, 12), "b": (10, 12), "c": (9, 12)}, "holds", 31 / 36),
        ({"a": (0, 12), "b": (3, 12)}, "fails", 1 / 8),
        ({"a": (12, 12), "b": (0, 12)}, "depends on the setting", 0.5),
        # A hundred seeds of one setting outvote nobody.
        ({"a": (100, 100), "b": (0, 12), "c": (0, 12)}, "depends on the setting", 1 / 3),
        ({"a": (100, 100), "b": (2, 12), "c": (3, 12)}, "undecided", (1 + 5 / 12) / 3),
        # One that lies on the other side, or on neither, is no agreement.
        ({"a": (12, 12), "b": (12, 12), "c": (5, 12)}, "undecided", 29 / 36),
        ({"a": (12, 12), "b": (6, 12)}, "undecided", 0.75),
        # All are right a little more often than not.
        ({"a": (7, 12), "b": (7, 12), "c": (7, 12)}, "undecided", 7 / 12),
        # Six seeds are a vote, five are none, for or against.
        ({"a": (12, 12), "b": (6, 6)}, "holds", 1.0),
        ({"a": (12, 12), "b": (0, 5)}, "holds", 1.0),
        ({"a": (12, 12), "b": (0, 6)}, "undecided", 0.5),
        ({"a": (5, 5), "b": (5, 5), "c": (5, 5)}, "not testable here", 1.0),
        ({"a": (5, 5), "b": (6, 6)}, "not testable here", 1.0),
    ],
)
def test_every_setting_has_one_vote(counts, verdict, value):
    ruling = ruled(shares(**counts))
    assert ruling.verdict == verdict
    assert ruling.row.estimate.value == pytest.approx(value)


def test_the_settings_that_differ_are_named():
    ruling = ruled(shares(a=(12, 12), b=(0, 12), c=(7, 12)))
    assert [(item.setting, stands) for item, stands in ruling.settings] == [("a", "right"), ("b", "wrong"), ("c", "open")]
    assert ruling.why == "right in (a); wrong in (b); open in (c)"
    # Three settings times the larger of two p-values, of 2 / 2**12 each.
    assert ruling.row.p_value == pytest.approx(3 * 2 / 2**12)
    # Of more settings the number is said, and whether they differ may be unclear.
    many = ruled(shares(a=(12, 12), b=(12, 12), c=(12, 12), d=(2, 12)))
    assert many.verdict == "undecided"
    assert many.why == "settings differ: right in 3 settings; wrong in (d); p = 0.15 after correction for all rows of the paper"
    assert ruled([*shares(a=(12, 12)), *shares(few=(0, 3))]).settings[1][1] == ""
    assert ruled(shares(a=(5, 5), b=(5, 5), c=(5, 5))).why == "no setting has the 6 seeds that a vote needs"


def test_a_setting_that_agrees_only_as_before_training_is_no_part_of_a_disagreement():
    before = [setting("a", [True] * N, 0, before=True), setting("b", [False] * N, 100, before=False)]
    assert ruled(before).verdict == "undecided"
    assert ruled([setting("a", [True] * N, 0, before=False), before[1]]).verdict == "depends on the setting"


def test_a_theorem_counts_every_draw():
    assert ruled(shares(a=(12, 12), b=(1, 2)), checks_code=True).verdict == "check failed"


def test_two_comparisons_of_one_setting_are_two_votes():
    pair = [Evidence("demo", f"residual minus {name}", setting("demo", [0.1] * N, 0).draws) for name in ("plain", "dense")]
    assert [vote.setting for vote in row_over(pair).votes] == ["demo: residual minus plain", "demo: residual minus dense"]


def test_numbers_have_the_error_of_seeds_within_settings():
    rng = np.random.default_rng(0)
    first, second = rng.normal(1.0, 0.5, 12), rng.normal(3.0, 1.0, 20)
    row = row_over([setting("a", list(first), 0), setting("b", list(second), 100)])
    error = math.sqrt(first.var(ddof=1) / 12 + second.var(ddof=1) / 20) / 2
    mean, half = (first.mean() + second.mean()) / 2, stats.t.ppf(0.975, 11) * error
    assert row.estimate == pytest.approx((mean, mean - half, mean + half, 32))
    assert row.p_value == pytest.approx(2 * stats.t.sf(mean / error, 11))
    # Over settings: the t interval of two votes.
    votes = stats.ttest_1samp([first.mean(), second.mean()], 0).confidence_interval(0.95)
    assert row.over_settings == pytest.approx((votes.low, votes.high))


def test_seeds_that_settings_share_are_no_more_seeds():
    """The same numbers in two settings are no more certain than in one; opposite deviations cancel."""
    values = [1 + math.sin(i) for i in range(N)]
    twice = Mean([dict(enumerate(values))] * 2)
    assert twice.error == pytest.approx(np.std(values, ddof=1) / math.sqrt(N))
    assert Mean([dict(enumerate(values)), dict(enumerate(2 - np.array(values)))]).error == 0
    apart = Mean([dict(enumerate(values)), dict(enumerate(values, 100))])
    assert apart.error == pytest.approx(twice.error / math.sqrt(2))
    # Shares: as twelve, not as twenty-four.
    truths = {i: i > 0 for i in range(N)}
    assert Mean([truths] * 2).error == pytest.approx(math.sqrt(1 / 4 / N))
    assert Mean([truths, {i + 100: value for i, value in truths.items()}]).error == pytest.approx(math.sqrt(1 / 4 / 2 / N))
    assert [draw.seed for draw in pooled([setting("a", [1.0, 3.0], 0), setting("b", [2.0, 5.0, 7.0], 0)])] == [0, 1, 2]


@pytest.mark.parametrize("sizes", [(6, 6), (6, 12), (12, 12), (6, 7, 8), (12, 24)])
def test_the_test_of_shares_is_never_surer_than_the_exact_one(sizes):
    """Fair coins: the exact chance that the mean of the shares lies as far from one half, by adding up all outcomes."""
    outcomes = list(itertools.product(*(range(n + 1) for n in sizes)))
    chances = np.array([math.prod(stats.binom.pmf(k, n, 0.5) for k, n in zip(ks, sizes, strict=True)) for ks in outcomes])
    distances = np.array([abs(np.mean([k / n for k, n in zip(ks, sizes, strict=True)]) - 0.5) for ks in outcomes])
    for ks, distance in list(zip(outcomes, distances, strict=True))[:: max(1, len(outcomes) // 40)]:
        exact = chances[distances >= distance - 1e-12].sum()
        found = Mean([{100 * i + j: j < k for j in range(n)} for i, (k, n) in enumerate(zip(ks, sizes, strict=True))]).p_value
        if exact <= RULES.level:
            assert found >= exact * 0.9


def test_false_verdicts_stay_below_the_level():
    """Seven settings of twelve seeds: none has an effect, or three have one and three its opposite."""
    rng = np.random.default_rng(1)
    for shifts in (np.zeros(7), np.array([1.0, 1.0, 1.0, 0.0, -1.0, -1.0, -1.0])):
        verdicts = []
        for _ in range(100):
            values = rng.normal(size=(7, N)) + shifts[:, None]
            verdicts.append(ruled([setting(str(i), list(own), 100 * i) for i, own in enumerate(values)]).verdict)
        wrong = [verdict for verdict in verdicts if verdict in {"holds", "fails"} or (verdict[0] == "d" and not shifts.any())]
        assert len(wrong) <= 100 * RULES.level


def test_the_interval_over_settings_is_in_percent_and_within_what_is_possible():
    assert _over_settings(row_over(shares(a=(12, 12), b=(9, 12)))) == "[0, 100]"
    assert _over_settings(row_over(shares(a=(12, 12)))) == ""


def test_seeds_that_were_right_before_training_too_say_nothing_against_it():
    """Of twelve seeds of each setting six differ from before training: the test is that of these six."""
    before = [True] * 6 + [False] * 6
    row = row_over([setting("a", [True] * N, 0, before=before), setting("b", [True] * N, 100, before=before)])
    (base,) = row.bases
    assert base.value == 0.5
    assert base.p_value == Mean([{seed: True for seed in range(first, first + 6)} for first in (0, 100)]).p_value


def test_a_setting_that_is_right_before_training_too_leaves_a_row_undecided():
    found = [setting("a", [True] * N, 0, before=False), setting("b", [True] * N, 100, before=True)]
    ruling = ruled(found)
    assert (ruling.verdict, ruling.why) == ("undecided", "no better than before training")
    assert _stands(ruling) == "1 right, 1 open"
    assert ruled([found[0], setting("b", [True] * N, 100, before=[False, True] * (N // 2))]).verdict == "holds"
    numbers = [setting("a", [2.0, 2.1] * 6, 0, before=1.0), setting("b", [2.0, 2.1] * 6, 100, before=3.0)]
    assert ruled(numbers).why == "no better than before training"


def test_settings_of_different_constants_are_not_said_to_be_equal():
    """Without spread in either setting the mean of 1 and 2 has no interval, and is the number of no seed."""
    row = row_over([setting("a", [1.0] * N, 0), setting("b", [2.0] * N, 100)])
    assert interval_words(row.estimate, row.is_share) == "1.5 (no spread)"


def test_settings_that_say_nothing_are_not_counted():
    ruling = ruled([*shares(a=(12, 12), few=(0, 3)), Evidence("silent", "share of seeds", ())])
    assert _stands(ruling) == "1 right, 1 without a vote"


def test_numbers_of_groups_of_classes_know_their_direction_and_split():
    signs = {metric: (BY_KEY[f"{metric}.few"].sign, BY_KEY[f"{metric}.few"].signed) for metric in ("pfc1", "pfc3", "cosine")}
    assert signs == {"pfc1": (-1, False), "pfc3": (1, False), "cosine": (-1, True)}
    run = SimpleNamespace(depths=(0, 3), value=lambda *place: place)
    assert BY_KEY["accuracy.few"].read(run) == ("accuracy.few", 3, None, "train")
    assert BY_KEY["accuracy.few, test data"].read(run) == ("accuracy.few", 3, None, "test")


def test_the_test_of_shares_corrects_by_half_a_step():
    shares_of = [{i: True for i in range(12)}, {i + 100: i < 9 for i in range(12)}]
    error = math.sqrt(24) / 24 / 2
    assert Mean(shares_of).p_value == pytest.approx(2 * stats.norm.sf((0.875 - 0.5 - 1 / 48) / error))


def test_base_rates_of_several_settings_need_all_of_them_and_a_gain():
    assert row_over(shares(a=(12, 12), b=(12, 12))).estimate.high == 1.0
    known = setting("a", [True] * N, 0, before=False)
    # A setting that lacks it does not count.
    ruling = ruled([known, setting("b", [True] * N, 100)])
    assert [(base.name, base.value) for base in ruling.row.bases] == [("before training", 0.0)]
    assert (ruling.row.estimate.n, ruling.verdict, ruling.why) == (N, "holds", f"{N} seeds have no base rate and do not count")
    assert [(item.setting, len(item.draws), item.without_base) for item in ruling.evidence] == [("a", N, 0), ("b", 0, N)]
    # Nor does a row whose every seed lacks it.
    alone = ruled([replace(setting("b", [True] * N, 100), needs_base=True)])
    assert (alone.verdict, alone.why) == (
        "not testable here",
        f"0 seeds, 12 needed; {N} seeds have no base rate and do not count",
    )
    assert ruled([setting("b", [True] * N, 100)]).verdict == "holds"
    lost = [setting(name, [True] * 6 + [False] * 6, 100 * i, before=True) for i, name in enumerate("ab")]
    assert row_over(lost).bases[0].p_value == 1.0
