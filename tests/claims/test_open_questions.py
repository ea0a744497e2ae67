"""Claims that compare settings, and those about other losses, labels and connections: each against numbers made for it."""

import pytest
from scipy import stats

from ncollapse.claims import RULES, rule_on_claims
from ncollapse.claims.estimates import share_estimate

FIRST, LAST = "stem", "blocks.2"
N = RULES.least_draws


@pytest.fixture
def write_seed(make_run, edit):
    """A finished run in the terminal phase; settings by dotted name, entries of its last record replaced."""

    def write(seed, *, name=None, blocks=3, tau=8.0, settings=(), first=None, **last):
        label = name or "-".join([*(f"{k}={v}" for k, v in dict(settings).items()), str(blocks), str(seed)])
        layers = (FIRST, *(f"blocks.{i}" for i in range(blocks)))
        run = make_run(label, layers=layers, epochs=(0, 5), seed=seed, bump=False, flagged=False)

        def change_recipe(recipe):
            recipe["model"]["num_blocks"] = blocks
            for key, value in dict(settings).items():
                group, _, leaf = key.partition(".")
                recipe[group][leaf] = value

        edit(run / "recipe.json", change_recipe)
        edit(run / "status.json", lambda status: status.update(weight_decay_time=tau, first_perfect_epoch=3))

        def change_depth(content):
            for record, entries in zip(content["epochs"], (first or {}, last), strict=True):
                for key, value in entries.items():
                    record[key] = {**record[key], **value} if isinstance(value, dict) and key in record else value

        edit(run / "depth.json", change_depth)
        return run

    return write


def rulings(folders):
    return {ruling.claim.key: ruling for ruling in rule_on_claims(folders).rulings}


def energy(own=100.0, best=100.0, random=200.0, **others):
    costs = {"wasserstein2": best, "identity_cost_sample": own, "random_cost_sample": random}
    return {"energy": costs | others}


def depths(depth):
    reached = depth is not None
    return [{"epsilon": 0.005, "depth": depth if reached else 2, "reached": reached}]


def error(line, null):
    one = {"line": {"pfc1": line, "pfc2": line}, "null": {"pfc1": null, "pfc2": null}}
    return {"prediction_error": {"projection": one, "index": one}}


def test_pairings_are_optimal_exactly_or_nearly_by_what_a_random_one_costs_more(write_seed):
    """An excess of 0.5 of 100 is within a hundredth of what a random pairing costs more; of 3 it is not."""
    own = (100.0, 100.0, 100.5, 100.5, 103.0)
    before = energy(150.0)
    found = rulings([write_seed(seed, first=before, **energy(cost)) for seed, cost in enumerate(own)])
    assert found["transport_exact"].row.estimate == share_estimate(2, 5)
    assert found["transport_near"].row.estimate == share_estimate(4, 5)
    # The same excess where a random pairing costs hardly more than the best.
    vacuous = [write_seed(seed, name=f"v{seed}", first=before, **energy(cost, random=110.0)) for seed, cost in enumerate(own)]
    assert rulings(vacuous)["transport_near"].row.estimate == share_estimate(2, 5)
    # Rounding of a mean is no better pairing.
    rounded = [write_seed(seed, name=f"r{seed}", first=before, **energy(100.0 * (1 + 1e-14))) for seed in range(5)]
    assert rulings(rounded)["transport_exact"].row.estimate == share_estimate(5, 5)


def test_means_are_aligned_from_nine_tenths_on(write_seed):
    values, before = (0.9, 0.95, 1.0, 0.899, 0.91), {"alignment": {"alignment": 0.5}}
    runs = [write_seed(seed, first=before, alignment={"alignment": value}) for seed, value in enumerate(values)]
    assert rulings(runs)["alignment"].row.estimate == share_estimate(4, 5)


def test_what_weight_decay_does_is_ranked_within_seeds(write_seed):
    """Energy falls with decay in all seeds; efficiency does in the last alone, where it should grow; line errors stay."""
    runs = []
    for seed in range(5):
        for rank, decay in enumerate((0.0, 0.01, 0.1)):
            runs.append(
                write_seed(
                    seed,
                    settings={"train.weight_decay": decay},
                    **energy(energy=100.0 - rank, efficiency=0.5 + (rank if seed < 4 else -rank) / 10),
                    straightness={"line_shape_score_mean": 1.5 - rank / 10},
                    **error(0.1 + rank / 100, 0.2),
                )
            )
    found = rulings(runs)
    assert found["decay_energy"].row.estimate[:1] == (1.0,)
    reference = stats.ttest_1samp([1, 1, 1, 1, -1], 0).confidence_interval(0.95)
    assert found["decay_efficiency"].row.estimate == pytest.approx((0.6, max(reference.low, -1), 1, 5))
    assert "0, 0.01, 0.1, sign reversed; mean" in found["decay_energy"].evidence[0].statistic
    assert found["decay_shape"].row.estimate.value == 1.0
    # The error of the line grows, and with it the null's lead.
    keys = [f"decay_{kind}_{metric}" for kind in ("line", "lead") for metric in ("pfc1", "pfc2")]
    assert [found[key].row.estimate.value for key in keys] == [-1, -1, -1, -1]


def test_seeds_are_compared_over_the_values_that_they_were_run_with(write_seed):
    """Other seeds with one more value are no part of the sweep; a seed that lacks some of its values is left out."""

    def sweep(seeds, decays):
        return [
            write_seed(seed, settings={"train.weight_decay": decay}, **energy(energy=100.0 - rank))
            for seed in seeds
            for rank, decay in enumerate(decays)
        ]

    runs = [*sweep((0, 1), (0.01,)), *sweep((2, 3, 4), (0.0, 0.02, 0.1)), *sweep((5,), (0.0, 0.1))]
    ruling = rulings(runs)["decay_energy"]
    assert ruling.row.estimate[0::3] == (1.0, 3)
    (evidence,) = ruling.evidence
    assert ("0, 0.02, 0.1" in evidence.statistic, evidence.silent) == (True, 1)


def test_energy_within_its_bound_counts_only_where_blocks_do_not_normalize(write_seed):
    def bounds(used, is_bound=True):
        return {"weight_decay": {"is_bound": is_bound, "blocks": [
            {"block": "blocks.0", "energy": 1.0, "by_moment": 2.0, "by_weights": 2.0},
            {"block": "blocks.1", "energy": used, "by_moment": 2.0, "by_weights": 3.0}]}}  # fmt: skip

    within = [write_seed(seed, tau=0.0, **bounds(2.0 if seed < 4 else 2.1)) for seed in range(5)]
    ruling = rulings(within)["decay_bound"]
    assert (ruling.row.estimate, ruling.verdict, ruling.outside) == (share_estimate(4, 5), "check failed", 0)
    assert rulings(within[:4])["decay_bound"].verdict == "check passed"
    # Files of version 0.2 say that numbers of blocks that normalize bound nothing; later ones have a bound by other parameters.
    for settings, last in (({}, bounds(9.0, is_bound=False)), ({"model.normalization": "pre"}, bounds(9.0))):
        normalized = [write_seed(seed, name=f"n{len(settings)}{seed}", settings=settings, **last) for seed in range(5)]
        assert rulings(normalized)["decay_bound"].row.estimate.n == 0


def test_effective_depth_saturates_between_the_two_deepest(write_seed):
    """Of 2, 3 and 5 blocks the last two count; it grows with one seed, is not reached with another, and is 1 with the last."""
    reached = {0: (2, 2), 1: (2, 1), 2: (2, 3), 3: (3, 3), 4: (2, None), 5: (1, 1)}
    runs = []
    for seed, (middle, deepest) in reached.items():
        for blocks, depth in ((2, 1), (3, middle), (5, deepest)):
            runs.append(write_seed(seed, blocks=blocks, effective_depth=depths(depth)))
    (evidence,) = rulings(runs)["depth"].evidence
    assert evidence.estimate == share_estimate(3, 4)
    assert "with 5 blocks at most that with 3" in evidence.statistic
    # Of the runs with the most and the second most blocks.
    assert len(evidence.opposing) == 2


def test_every_loss_label_and_connection_has_its_own_claims(write_seed):
    """Only the runs that a claim is about count for it; recipes that lack the fields are of the paper's setting."""
    papers = [write_seed(seed, settings={"data.corrupt": 0.0} if seed else ()) for seed in range(2)]
    mse = write_seed(0, settings={"train.loss": "mse"})
    half, random = (write_seed(0, settings={"data.corrupt": share}) for share in (0.5, 1.0))
    plain, dense = (write_seed(0, settings={"model.connections": name}) for name in ("plain", "dense"))
    other = write_seed(0, settings={"model.kind": "transformer"})
    conv = write_seed(0, settings={"model.kind": "conv_resnet"})
    found = rulings([*papers, mse, half, random, plain, dense, other, conv])

    def runs_of(key):
        return {run for item in found[key].evidence for run in (*item.supporting, *item.opposing)}

    assert runs_of("pfc1_all") == set(map(str, [*papers, conv]))
    assert runs_of("mse_pfc1") == runs_of("mse_line_pfc2_index") == {str(mse)}
    assert runs_of("labels_last") == runs_of("labels_pfc2") == {str(random)}
    assert runs_of("plain_pfc3") == runs_of("plain_line_pfc1_projection") == {str(plain)}
    assert runs_of("dense_pfc3") == {str(dense)}
    # A transformer is no network of the paper, and has no connections to choose.
    assert not any(str(other) in runs_of(key) for key in found)


def test_collapse_on_random_labels_is_the_decades_lost_in_training(write_seed):
    runs = [write_seed(seed, settings={"data.corrupt": 1.0}) for seed in range(N)]
    ruling = rulings(runs)["labels_last"]
    # The last layer's PFC1 of the made-up runs: 0.6 to 0.9 of the start's and of the end's ratio, times one bend for both.
    table = [line.split(",") for line in (runs[0] / "measurements.csv").read_text().splitlines()]
    ends = {int(row[0]): float(row[5]) for row in table if row[3:5] == [LAST, "pfc1"]}
    assert 10**ruling.row.estimate.value == pytest.approx(ends[0] / ends[5])
    assert ruling.verdict == "holds"


def test_skip_connections_are_compared_seed_by_seed(write_seed):
    runs = []
    for seed in range(5):
        for name, straight, line in (("residual", 0.95, 0.1), ("plain", 0.5 + 0.01 * seed, 0.3), ("dense", 0.97, 0.05)):
            words = {"model.connections": name}
            runs.append(write_seed(seed, settings=words, straightness={"mean": straight}, **error(line, 0.2)))
    found = rulings(runs)
    evidence = {item.statistic: item for key in ("skips_straighten", "skips_line") for item in found[key].evidence}
    straight = evidence["straightness, residual minus plain; mean"]
    reference = stats.ttest_1samp([0.45, 0.44, 0.43, 0.42, 0.41], 0).confidence_interval(0.95)
    assert straight.estimate == pytest.approx((0.43, reference.low, reference.high, 5))
    # The runs of both networks bear on it, and those of the third do not.
    assert set(straight.supporting) == {str(run) for index, run in enumerate(runs) if index % 3 < 2}
    assert evidence["straightness, residual minus dense; mean"].estimate.value == pytest.approx(-0.02)
    assert evidence["error of baseline minus line in PFC1, residual minus plain; mean"].estimate.value == pytest.approx(0.2)
    assert evidence["error of baseline minus line in PFC1, residual minus dense; mean"].estimate.value == pytest.approx(-0.05)
    # A seed is one draw, with the mean over both comparisons.
    assert found["skips_line"].row.estimate[0::3] == (pytest.approx(0.075), 5)


def test_the_flow_of_class_means_is_compared_with_line_and_baseline(write_seed):
    runs = []
    for seed in range(5):
        places = error(0.1, 0.2)
        places["prediction_error"]["projection"]["flow"] = {"pfc2": 0.15 + seed / 100}
        runs.append(write_seed(seed, first=places, **places))
    found = rulings(runs)
    assert found["flow_line"].row.estimate.value == pytest.approx(-0.07)
    assert found["flow_baseline"].row.estimate.value == pytest.approx(0.03)


def flow(line, null, flow):
    places = error(line, null)
    places["prediction_error"]["projection"]["flow"] = {"pfc2": flow}
    return places


def test_predictions_must_beat_those_before_training(write_seed):
    """The flow leads the line by 0.04 before training, by 0.08 after it; the baseline by 0.5 and 0.28."""
    runs = [write_seed(seed, first=flow(0.3, 0.76, 0.26), **flow(0.2 + seed / 1e3, 0.4, 0.12)) for seed in range(N)]
    found = rulings(runs)
    assert [(base.name, base.value) for base in found["flow_line"].row.bases] == [("before training", pytest.approx(0.04))]
    assert found["flow_line"].verdict == "holds"
    assert [base.value for base in found["flow_baseline"].row.bases] == pytest.approx([0.5])
    assert (found["flow_baseline"].verdict, found["flow_baseline"].why) == ("undecided", "no better than before training")
    # A run whose flow was not measured then does not count.
    runs[0] = write_seed(0, name="late", **flow(0.2, 0.4, 0.12))
    assert rulings(runs)["flow_line"].row.estimate.n == N - 1


def test_skip_connections_must_do_more_than_before_training(write_seed):
    """Straighter by 0.3 before training and by 0.2 after it; the lead of the line grows from 0.1 to 0.2."""
    runs = []
    for seed in range(N):
        for name, early, late, before, after in (("residual", 0.9, 0.9, 0.3, 0.2), ("plain", 0.6, 0.7, 0.4, 0.4 + seed / 1e3)):
            settings = {"model.connections": name}
            first = {"straightness": {"mean": early}, **error(before, 0.5)}
            runs.append(write_seed(seed, settings=settings, first=first, straightness={"mean": late}, **error(after, 0.5)))
    found = rulings(runs)
    assert [base.value for base in found["skips_straighten"].row.bases] == pytest.approx([0.3])
    assert found["skips_straighten"].why == "no better than before training"
    assert [base.value for base in found["skips_line"].row.bases] == pytest.approx([0.1])
    assert found["skips_line"].verdict == "holds"


def test_row_sums_are_compared_over_optimizers_with_their_own_rates(write_seed):
    """NC0 falls by two decades under SGD and by a half to one under Adam; without weight decay it says nothing."""
    runs = []
    for seed in range(5):
        kinds = [("sgd", 0.1, 0.01, 2.0), ("adam", 0.001, 0.01, 0.5 + seed / 10), ("sgd", 0.1, 0.0, 0.0)]
        for kind, rate, decay, decades in kinds:
            words = {"train.optimizer": kind, "train.learning_rate": rate, "train.weight_decay": decay}
            run = write_seed(seed, settings=words)
            with (run / "measurements.csv").open("a", encoding="utf-8") as table:
                for epoch, value in ((0, 1.0), (5, 10.0**-decades)):
                    table.write(f"{epoch},train,3,{LAST},nc0,{value!r},\n")
            runs.append(run)
    found = rulings(runs)
    assert (found["nc0"].verdict, found["nc0"].row.estimate) == ("check passed", share_estimate(5, 5))
    assert len(found["nc0"].evidence) == 1
    (evidence,) = (item for item in found["nc0_optimizer"].evidence if item.draws)
    assert evidence.statistic == "fall of NC0 in training, sgd minus adam; mean"
    reference = stats.ttest_1samp([1.5, 1.4, 1.3, 1.2, 1.1], 0).confidence_interval(0.95)
    assert evidence.estimate == pytest.approx((1.3, reference.low, reference.high, 5))


def test_settings_are_named_by_what_was_changed(write_seed, edit):
    runs = [write_seed(seed, settings={"train.weight_decay": decay}) for decay in (0.01, 0.1) for seed in range(5)]
    for run in runs[5:]:
        edit(run / "recipe.json", lambda recipe: recipe.update(changed=["train.weight_decay=0.1"]))
    found = rulings(runs)
    assert [item.setting for item in found["pfc1_all"].evidence] == ["demo", "demo, train.weight_decay=0.1"]
    assert [item.setting for item in found["decay_energy"].evidence] == ["demo"]
    # The same words of two versions of a recipe.
    for run in runs[5:]:
        edit(run / "recipe.json", lambda recipe: recipe.update(changed=[]))
    edit(runs[5] / "recipe.json", lambda recipe: recipe["train"].update(epochs=151, weight_decay=0.01))
    edit(runs[6] / "recipe.json", lambda recipe: recipe.update(changed=["train.weight_decay=0.1"]))
    names = [item.setting for item in rulings(runs)["pfc1_all"].evidence]
    assert names == ["demo", "train.epochs=151, train.weight_decay=0.01", "demo, train.weight_decay=0.1"]
