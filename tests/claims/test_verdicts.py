"""The rules on made-up draws: true, false, borderline, too few, shared seeds, base rates, and the correction for many rows."""

import math

import numpy as np
import pytest
from scipy import stats

from ncollapse.claims.evidence import Draw, Evidence
from ncollapse.claims.ledger import _rulings
from ncollapse.claims.rules import RULES, Claim
from ncollapse.claims.verdicts import holm, row_of

N = RULES.least_draws
UNBOUNDED = (-math.inf, math.inf)


def draws(values, first=0, **more):
    lists = {key: value if isinstance(value, list) else [value] * len(values) for key, value in more.items()}
    return tuple(
        Draw(first + i, value, (f"run{first + i}",), **{key: items[i] for key, items in lists.items()})
        for i, value in enumerate(values)
    )


def ruled(*evidence, **options):
    (ruling,) = _rulings([Claim("key", "", "", "", lambda runs: list(evidence), **options)], [])
    return ruling


def setting(name, values, **more):
    return Evidence(name, "share of seeds", draws(values, **more))


def share(right, n=N, **more):
    return setting("one", [True] * right + [False] * (n - right), **more)


@pytest.mark.parametrize(
    ("right", "n", "verdict"),
    [(12, 12, "holds"), (11, 12, "holds"), (10, 12, "holds"), (9, 12, "undecided"), (6, 12, "undecided"), (3, 12, "undecided"),
     (2, 12, "fails"), (0, 12, "fails"), (11, 11, "not testable here"), (0, 5, "not testable here"),
     (0, 0, "not testable here")],
)  # fmt: skip
def test_a_share_is_tested_against_one_half(right, n, verdict):
    ruling = ruled(share(right, n))
    assert ruling.verdict == verdict
    assert ruling.row.estimate.n == n
    if n:
        # Twice the smaller tail, which for one half is the exact test.
        tail = sum(math.comb(n, k) for k in range(max(right, n - right), n + 1)) / 2**n
        assert ruling.row.p_value == pytest.approx(min(1.0, 2 * tail))


@pytest.mark.parametrize(("shift", "verdict"), [(2.0, "holds"), (0.1, "undecided"), (-2.0, "fails")])
def test_a_mean_is_tested_against_zero(shift, verdict):
    values = [shift + math.sin(i) for i in range(N)]
    ruling = ruled(setting("one", values))
    reference = stats.ttest_1samp(values, 0)
    assert ruling.verdict == verdict
    assert ruling.row.p_value == pytest.approx(reference.pvalue)
    interval = reference.confidence_interval(0.95)
    assert ruling.row.estimate[:3] == pytest.approx((np.mean(values), interval.low, interval.high))


def test_equal_numbers_are_tested_by_their_sign():
    assert ruled(setting("one", [0.5] * N)).row.p_value == pytest.approx(2 / 2**N)
    assert [ruled(setting("one", [value] * N)).verdict for value in (0.5, -0.5, 0.0)] == ["holds", "fails", "undecided"]


def test_what_is_right_before_training_too_is_no_finding():
    assert ruled(share(N, before=True)).verdict == "undecided"
    ruling = ruled(share(N, before=[True] * 4 + [False] * 8))
    assert (ruling.verdict, ruling.row.bases[0].value) == ("holds", pytest.approx(1 / 3))
    # Eight pairs differ, all in one way.
    assert ruling.row.p_value == pytest.approx(2 / 2**8)
    assert ruled(share(N, before=[True] * 9 + [False] * 3)).why == "no better than before training"
    # Numbers: by the mean of the differences.
    values = [1.0 + 0.1 * math.sin(i) for i in range(N)]
    assert ruled(setting("one", values, before=[0.2 * math.cos(i) for i in range(N)])).verdict == "holds"
    assert ruled(setting("one", values, before=[1.0 + 0.3 * math.cos(i) for i in range(N)])).verdict == "undecided"
    assert ruled(setting("one", values, before=2.0)).verdict == "undecided"
    # What fails does so without its base rate.
    assert ruled(share(0, before=True)).verdict == "fails"


def test_what_layers_in_random_order_do_too_is_no_finding():
    assert ruled(share(N, shuffled=1 / 24)).verdict == "holds"
    assert ruled(share(N, shuffled=0.9)).why == "no better than layers in random order"
    row = ruled(share(11, shuffled=0.5)).row
    assert row.bases[0].p_value == pytest.approx(13 / 2**12)
    assert row_of(share(2, 2, steps=[3, 6]).draws, UNBOUNDED).steps == (3, 6)


def test_draws_without_the_base_rate_of_the_others_do_not_count():
    """Or one of them would be enough to drop the base rate of the row."""
    ruling = ruled(share(N, before=[True] * 11 + [None]))
    assert (ruling.row.estimate.n, ruling.row.bases[0].value) == (11, 1.0)
    assert ruling.why == "11 seeds, 12 needed; 1 seed has no base rate and does not count"
    more = ruled(share(N + 2, N + 2, before=[None, *[False] * N, None]))
    assert (more.verdict, more.row.estimate.n, more.row.bases[0].value) == ("holds", N, 0.0)
    assert more.why == "2 seeds have no base rate and do not count"
    assert [draw.seed for draw in more.evidence[0].draws] == list(range(1, N + 1))
    # The same of layers in random order, and of both at once.
    assert ruled(share(N, shuffled=[0.1] * 4 + [None] * 8)).row.estimate.n == 4
    assert ruled(share(N, shuffled=[None, *[0.1] * 11], before=[False] * 11 + [None])).row.estimate.n == 10
    # A theorem has no base rate that a draw could lack.
    assert ruled(share(N, before=[True] * 11 + [None]), checks_code=True).row.estimate.n == N


def test_a_seed_that_was_run_twice_has_its_base_rate_from_the_runs_that_have_it():
    twice = Evidence("one", "share of seeds", (*draws([True] * N, before=True), *draws([True] * N)))
    assert [draw.before for draw in twice.draws] == [True] * N
    assert ruled(twice).why == "no better than before training"


def test_a_base_rate_has_a_name():
    evidence = Evidence("one", "mean", draws([1.0] * N, before=2.0), base="on the pixels")
    assert ruled(evidence).why == "no better than on the pixels"
    again = Evidence("two", "mean", draws([1.0] * N, first=100, before=2.0), base="on the pixels")
    assert [base.name for base in ruled(evidence, again).row.bases] == ["on the pixels"]


def test_holm_corrects_by_rank():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


def test_the_rows_of_a_paper_are_corrected_together():
    """Ten of twelve have p = 0.039: enough alone, and beside a row of another paper, but not beside another of the same."""

    def claims(*families):
        return [Claim(f"key{i}", "", "", "", lambda runs: [share(10)], family=name) for i, name in enumerate(families)]

    assert {ruling.verdict for ruling in _rulings(claims("one", "two"), [])} == {"holds"}
    assert {ruling.verdict for ruling in _rulings(claims("one", "one"), [])} == {"undecided"}
    # Rows that cannot be decided, and checks of the code, take part in no correction.
    few = Claim("few", "", "", "", lambda runs: [share(5, 5)], family="one")
    check = Claim("check", "", "", "", lambda runs: [share(N)], family="one", checks_code=True)
    found = {ruling.claim.key: (ruling.verdict, ruling.corrected) for ruling in _rulings([*claims("one"), few, check], [])}
    assert found["key0"] == ("holds", pytest.approx(2 * 79 / 2**12))
    assert (found["few"], found["check"]) == (("not testable here", None), ("check passed", None))


def test_a_theorem_checks_the_code():
    assert ruled(share(3, 3), checks_code=True).verdict == "check passed"
    assert ruled(share(N - 1), checks_code=True).verdict == "check failed"
    assert ruled(share(0, 0), checks_code=True).verdict == "not testable here"


def test_the_rules_keep_their_promise_of_false_verdicts():
    """Of fair coins at most one family in twenty has any verdict, of forty rows each."""
    p_values = [row_of(draws([True] * right + [False] * (N - right)), UNBOUNDED).p_value for right in range(N + 1)]
    tosses = np.random.default_rng(0).binomial(N, 0.5, (2000, 40))
    wrong = [min(holm([p_values[right] for right in rows])) <= RULES.level for rows in tosses]
    assert 0 < np.mean(wrong) <= RULES.level
