"""The words: every sentence follows the files, and what is undefined or goes the wrong way is said."""

import json
import math

import pytest

from ncollapse.drawing import describe, summarize
from ncollapse.drawing.findings import findings
from ncollapse.drawing.theory_sentences import say_errors
from ncollapse.drawing.wording import counted, listed, number, percent, spelled
from ncollapse.records import Run, read_run
from run_files import keep_stage, set_train_accuracy


@pytest.fixture
def said(run_dir, edit):
    """Sentences after a change to the last record of depth.json."""

    def change_and_say(change=lambda record: None, **status):
        edit(run_dir / "depth.json", lambda content: change(content["epochs"][-1]))
        edit(run_dir / "status.json", lambda content: content.update(status))
        return describe(read_run(run_dir))

    return change_and_say


def one(sentences, start):
    (sentence,) = [sentence for sentence in sentences if sentence.startswith(start)]
    return sentence


def set_values(run_dir, metric, values):
    """Overwrite one metric over depth at the last epoch."""
    lines = (run_dir / "measurements.csv").read_text().splitlines()
    for i, line in enumerate(lines):
        epoch, split, depth, layer, name, *_ = line.split(",")
        if epoch == "150" and name == metric:
            lines[i] = f"150,{split},{depth},{layer},{name},{values[int(depth)]},"
    (run_dir / "measurements.csv").write_text("\n".join(lines) + "\n")


def test_training_and_how_far_beyond_zero_error(said):
    assert said()[0] == (
        "The train accuracy is 100.00 % at epoch 150 of 150, in eval mode: without dropout, and with the running "
        "statistics of BatchNorm if there is any. During the epoch, in training mode, it was 100.00 %. Every training sample "
        "was right first at measured epoch "
        "12 (not yet at epoch 11, the one measured before); training went on for 138 epochs after that. Weight-decay time τ = "
        "7.77 (learning rate / (1 − momentum) times weight decay, summed over the steps; deep collapse needs about 4 to 8)."
    )
    assert "for 1 epoch after that" in said(first_perfect_epoch=149)[0]
    assert "at measured epoch 0 (the first one measured);" in said(first_perfect_epoch=0)[0]


def test_the_test_accuracy_is_said_where_it_was_measured(said, run_dir):
    assert not any("test" in sentence.lower() for sentence in (said()[0], summarize(read_run(run_dir))[0]))
    with (run_dir / "measurements.csv").open("a") as table:
        table.write("150,test,5,blocks.4,accuracy,0.915,\n")
    assert "The test accuracy is 91.50 %. " in said()[0]
    run = read_run(run_dir)
    assert summarize(run)[0].startswith("Training: 100.00 % train accuracy at epoch 150 of 150, 91.50 % on the test set. ")
    assert findings(run)[0].remark.endswith("; 91.50 % on test")


def test_training_that_never_was_perfect_or_is_not_finished(said):
    sentences = said(
        first_perfect_epoch=None, train_accuracy=0.99999, state="running", epoch=160, epochs=200, weight_decay_time=None
    )
    # Nobody writes to it.
    assert sentences[0] == (
        "This run is not finished: its process has died, and it can be continued with --resume. It was last saved at "
        "epoch 160 of 200."
    )
    assert sentences[1] == "The layers were last measured at epoch 150. All that is said of them is from then."
    assert sentences[2] == (
        "The train accuracy is 99.999 % at epoch 160 of 200, in eval mode: without dropout, and with the running "
        "statistics of BatchNorm if there is any. No measured epoch has every training sample right."
    )
    assert "The train accuracy is undefined at" in said(train_accuracy=None)[2]


def test_a_failed_run_says_why(said):
    sentences = said(state="failed", reason="training needs finite losses. Lower learning_rate.", epoch=150, epochs=200)
    assert sentences[0] == (
        "This run failed: training needs finite losses. Lower learning_rate. It was last saved at epoch 150 of 200."
    )
    assert not any("is not finished" in sentence for sentence in sentences)
    assert said(state="failed", reason=None)[0].startswith("This run failed: unknown reason. It was")


def test_three_lines_say_training_progress_and_prediction(run_dir, edit):
    assert summarize(read_run(run_dir)) == [
        "Training: 100.00 % train accuracy at epoch 150 of 150. Every training sample was right first at measured epoch 12.",
        "Over depth: PFC1 (within- over between-class variance) falls at every step (0.6 → 0.0288), PFC2 (class means against "
        "a simplex ETF) rises at 1 of 5 steps (0.81 → 0.275) and the nearest-center error never rises (0.065 → 0). Effective "
        "depth: 2 of 5.",
        "Straight line against the log-linear baseline: for PFC1 the line is better by a factor of 3.48; for PFC2 the baseline "
        "is better by a factor of 1.5.",
    ]
    edit(run_dir / "recipe.json", lambda content: content.update(changed=["train.epochs=20"]))
    edit(run_dir / "status.json", lambda content: content.update(state="failed", reason="full disk", first_perfect_epoch=None))
    set_values(run_dir, "pfc1", [0.6, "nan", 0.4, 0.3, 0.2, 0.0288])
    edit(run_dir / "depth.json", lambda content: content["epochs"][-1].update(effective_depth=[], prediction_error={}))
    changed, failed, training, depth, line = summarize(read_run(run_dir))
    assert changed == "Changed relative to the recipe demo: train.epochs=20."
    assert failed.startswith("This run failed: full disk.")
    assert training.endswith("No measured epoch has every training sample right.")
    assert (
        "PFC1 (within- over between-class variance) is undefined or was not measured at some layer (0.6 → 0.0288), PFC2"
        in depth
    )
    assert depth.endswith("Effective depth: undefined.")
    assert "for PFC1 no comparison, because a value is undefined;" in line


def test_the_accuracy_in_eval_mode_is_told_apart_from_that_in_training_mode(run_dir, said):
    set_train_accuracy(run_dir, 0.4, first_perfect_epoch=None)
    training = summarize(read_run(run_dir))[0]
    assert training == (
        "Training: 40.00 % train accuracy at epoch 150 of 150, in eval mode; during the epoch, in training mode, it was "
        "100.00 %. No measured epoch has every training sample right."
    )
    # Nobody noted it.
    lines = (run_dir / "history.csv").read_text().splitlines()
    epoch, loss, _, *others = lines[-1].split(",")
    (run_dir / "history.csv").write_text("\n".join([*lines[:-1], ",".join([epoch, loss, "nan", *others])]) + "\n")
    assert "training mode" not in summarize(read_run(run_dir))[0]
    assert "training mode" not in said()[0]


def test_changed_settings_come_first(said, run_dir, edit):
    assert not any(sentence.startswith("Changed") for sentence in said())
    edit(run_dir / "recipe.json", lambda content: content.update(changed=["data.name=mnist", "train.epochs=20"]))
    assert said()[0] == "Changed relative to the recipe demo: data.name=mnist, train.epochs=20."


def test_one_step_is_singular(make_run):
    run_dir = make_run("two", layers=("a", "b"), epochs=(0, 1))
    sentences = describe(read_run(run_dir))
    assert "falls at the only step of depth, from" in one(sentences, "PFC1 (")
    assert one(sentences, "Before training") == (
        "Before training, PFC1 rose at the only step, PFC2 rose at the only step and the nearest-center error rose at the "
        "only step."
    )


def test_fall_at_every_step(said, run_dir):
    set_values(run_dir, "pfc1", [0.6, 0.5, 0.4, 0.3, 0.2, 0.0288])
    assert one(said(), "PFC1 (") == (
        "PFC1 (within- over between-class variance) falls at each of the 5 steps of depth, "
        "from 0.6 at stem to 0.0288 at blocks.4."
    )


def test_rise_is_said_with_layers_and_values(said, run_dir):
    set_values(run_dir, "pfc2", [0.8, 0.7, 0.75, 0.5, 0.51, 0.3])

    def change(record):
        rises = {"violations": ["blocks.1", "blocks.3"], "tolerance": 0.05, "violations_tol": ["blocks.1"]}
        record["progression"]["pfc2"].update(rises)

    assert one(said(change), "PFC2 (") == (
        "PFC2 (distance of the class means to a simplex ETF) does not fall monotonically over depth: it rises at 2 of 5 steps, "
        "into blocks.1 (0.7 → 0.75) and blocks.3 (0.5 → 0.51). It goes from 0.8 at stem to 0.3 at blocks.4. "
        "With a relative tolerance of 0.05, it rises into blocks.1."
    )
    silent = said(lambda record: record["progression"]["pfc2"].update(tolerance=0.6, violations_tol=[]))
    assert one(silent, "PFC2 (").endswith("With a relative tolerance of 0.6, it rises at no step.")
    assert "tolerance" not in one(said(lambda r: r["progression"]["pfc2"].update(tolerance=0.0)), "PFC2 (")


def test_level_steps_are_not_called_a_fall(said, run_dir):
    set_values(run_dir, "pfc3_error", [0.06, 0.01, 0.0, 0.0, 0.0, 0.0])
    assert "never rises over the 5 steps of depth and stays level at 3 of them, from 0.06 at stem to 0" in one(
        said(), "The error"
    )


def test_undefined_values_are_said(said, run_dir):
    set_values(run_dir, "pfc1", [0.6, "nan", 0.4, 0.3, "nan", 0.0288])
    assert one(said(), "PFC1 (") == (
        "PFC1 (within- over between-class variance) is undefined at blocks.0 and blocks.3, so nothing can be said about every "
        "step. It goes from 0.6 at stem to 0.0288 at blocks.4."
    )
    sentences = said(lambda record: record["progression"]["pfc1"].update(violations=["blocks.2"], tolerance=None))
    assert one(sentences, "PFC1 (").endswith("at blocks.4 and rises into blocks.2 (0.4 → 0.3).")
    set_values(run_dir, "pfc1", ["nan"] * 6)
    assert one(said(), "PFC1 (") == "PFC1 (within- over between-class variance) is undefined or was not measured."
    assert one(said(lambda record: record["progression"].pop("pfc2")), "PFC2 (").endswith("is undefined or was not measured.")


def test_one_layer_has_no_depth(make_run, edit):
    run_dir = make_run("two", layers=("a", "b"), epochs=(0, 1))
    lines = [line for line in (run_dir / "measurements.csv").read_text().splitlines() if ",1,b," not in line]
    (run_dir / "measurements.csv").write_text("\n".join(lines) + "\n")

    edit(run_dir / "depth.json", lambda content: keep_stage(content, 0, 1))
    assert one(describe(read_run(run_dir)), "PFC1 (").endswith("is 0.6 at a, the only layer, so there is no depth to compare.")


def test_start_of_training_is_counted(said, run_dir):
    rises = json.loads((run_dir / "depth.json").read_text())["epochs"][0]["progression"]
    counts = [len(rises[metric]["violations"]) for metric in ("pfc1", "pfc2", "pfc3_error")]
    assert min(counts) > 0
    words = ["all 5 steps" if count == 5 else f"{count} of 5 steps" for count in counts]
    assert one(said(), "Before training") == (
        f"Before training, PFC1 rose at {words[0]}, PFC2 rose at {words[1]} and the nearest-center error rose at {words[2]}."
    )


def test_single_epoch_has_no_start_to_compare_with(make_run, edit):
    assert not [s for s in describe(read_run(make_run("one", epochs=(3,)))) if " rose at " in s]
    run_dir = make_run("later", epochs=(2, 5))
    edit(run_dir / "depth.json", lambda content: content["epochs"][0]["progression"]["pfc1"].update(violations=[]))
    assert one(describe(read_run(run_dir)), "At epoch 2, PFC1 rose at no step, PFC2 rose at ")


def test_effective_depth_by_threshold(said):
    def change(record):
        record["effective_depth"] = [
            {"epsilon": 0.0, "depth": 5, "reached": False, "monotone_after": False},
            {"epsilon": 0.005, "depth": 2, "reached": True, "monotone_after": False},
            {"epsilon": 0.02, "depth": 1, "reached": True, "monotone_after": True},
            {"epsilon": 0.05, "depth": 1, "reached": True, "monotone_after": True},
        ]

    assert one(said(change), "Effective depth") == (
        "Effective depth (first layer whose nearest-center error is at most a threshold): not reached for the threshold 0; 2 "
        "of 5 (blocks.1) for the threshold 0.005, but the error rises above it again deeper; 1 of 5 (blocks.0) for the "
        "thresholds 0.02 and 0.05."
    )

    def agree(reached):
        found = {"depth": 1, "reached": reached, "monotone_after": reached}
        return lambda record: record.update(effective_depth=[{"epsilon": e, **found} for e in (0.0, 0.005, 0.05)])

    assert one(said(agree(True)), "Effective depth").endswith(
        "threshold): 1 of 5 (blocks.0) for every threshold from 0 to 0.05."
    )
    assert one(said(agree(False)), "Effective depth").endswith(": not reached for any threshold from 0 to 0.05.")
    assert "The effective depth was not measured." in said(lambda record: record.update(effective_depth=[]))


def test_optimal_transport_is_told_where_it_was_computed(said):
    def transport(record):
        record["energy"].update(wasserstein2=3.0, identity_cost_sample=4.0, num_samples_wasserstein=1000)

    sentence = one(said(transport), "Optimal transport score")
    assert "on 1,000 samples" in sentence
    assert sentence.endswith("1 is optimal): 0.75.")
    without = said(lambda record: record["energy"].update(wasserstein2=None))
    assert not any(sentence.startswith("Optimal transport") for sentence in without)


def test_crossing_pairs_are_told_where_they_were_counted(said):
    def transport(record):
        record["energy"].update(wasserstein2=3.0, identity_cost_sample=4.0, pair_violation_rate=0.0123, num_pairs=499_500)

    sentence = one(said(transport), "Optimal transport score")
    assert sentence.endswith("is optimal): 0.75. Of 499,500 pairs of samples, 6,144 would gain by a swap.")


def test_the_verdict_for_a_collapsed_end(said):
    start = "Suppose that every sample"
    assert not any(sentence.startswith(start) for sentence in said())
    sentence = one(said(lambda record: record.update(collapsed_optimality={"optimal": True, "biases": [0.5, None]})), start)
    assert sentence == (
        "Suppose that every sample ended exactly at the last layer's mean of its class. Then the network's pairing of first "
        "and last features is optimal transport, because a linear classifier with these means as weights makes no error on the "
        "first features (ties count as right)."
    )
    against = {"optimal": False, "biases": None, "cycle": [4, 9, 7], "gain": 1.234, "tolerance": 1e-12}
    sentence = one(said(lambda record: record.update(collapsed_optimality=against)), start)
    assert sentence.endswith(
        "not optimal transport. A better one takes a sample of each class in 4 → 9 → 7 → 4 and sends it to the mean of the "
        "next class: the sum of squared distances falls by 1.23."
    )


TRIVIAL = {
    "collapsed_optimality": {"optimal": True, "biases": [0.0, 0.0], "cycle": None, "gain": 0.0, "tolerance": 1e-12},
    "theorem1": {"holds": True, "correlation": 0.0, "normalized": None, "monotone": True, "argmax_t": 0.0},
    "theorem2": {"monotone": None, "intervals": [], "sufficient_a": None, "sufficient_b": None, "relative_cost": None,
                 "end_distance": None},
    "theorem3": {"guaranteed": True, "violating_pairs": 0, "num_pairs": 15660, "num_falls": 0, "num_steps": 100},
    "alignment": {"alignment": None, "guaranteed": None},
}  # fmt: skip
TRANSPORTED = {"efficiency": 0.9, "wasserstein2": 3.0, "identity_cost_sample": 3.0, "num_samples_wasserstein": 1000}


def test_a_start_in_one_point_leaves_nothing_to_say_of_line_and_transport(said, run_dir):
    for metric in ("pfc1", "pfc2", "nc1_total"):
        set_values(run_dir, metric, ["nan", 0.9, 0.8, 0.7, 0.6, 0.5])
    sentences = said(lambda record: record.update(TRIVIAL, energy=TRANSPORTED))
    assert one(sentences, "At stem") == (
        "At stem, where the straight line starts, all features coincide. There is no class information there: the line starts "
        "at one point for all samples, for which any pairing is optimal transport. Any network meets the conditions of the "
        "theorems about the line or leaves them undefined, so they say nothing about learning."
    )
    said_of_it = ("Theorem", "PFC3", "The condition for PFC3", "Put the", "Optimal transport", "The alignment")
    assert not [sentence for sentence in sentences if sentence.startswith(said_of_it)]


def test_first_class_means_in_one_point_leave_transport(said, run_dir):
    set_values(run_dir, "pfc1", ["nan", 0.9, 0.8, 0.7, 0.6, 0.5])
    sentences = said(lambda record: record.update(TRIVIAL, energy=TRANSPORTED))
    assert "starts, all class means coincide. There is no class information there: the line" in one(sentences, "At stem")
    assert one(sentences, "Optimal transport score")
    assert not [sentence for sentence in sentences if sentence.startswith(("Theorem", "PFC3"))]


def test_last_class_means_in_one_point(said, run_dir):
    set_values(run_dir, "pfc1", [0.9, 0.8, 0.7, 0.6, 0.5, "nan"])
    assert "where the straight line ends, all class means coincide" in one(said(), "At blocks.4")


def test_a_class_without_samples_is_no_point(said, run_dir):
    for metric in ("pfc1", "nc1_total"):
        set_values(run_dir, metric, ["nan"] * 6)
    sentences = said(lambda record: record.update(TRIVIAL))
    assert not any("coincide." in sentence and "At " in sentence for sentence in sentences)
    assert one(sentences, "Theorem 1").endswith("because a class has no samples or all class means of an end coincide.")


def test_straightness_and_energy(said):
    sentence = one(said(), "Straightness")
    assert "mean 0.961, median 0.966. Line-shape score (1 is straight): 1.05." in sentence
    assert sentence.endswith("1 is best): 0.775.")
    sentence = one(said(lambda record: record.update(straightness=None, energy={"efficiency": None})), "Straightness")
    assert "mean undefined, median undefined. Line-shape score (1 is straight): undefined." in sentence
    assert sentence.endswith("1 is best): undefined.")


@pytest.mark.parametrize(
    ("line", "baseline", "verdict"),
    [
        (0.067, 0.233, "the line is better by a factor of 3.48"),
        (0.2, 0.1, "the baseline is better by a factor of 2"),
        (0.1001, 0.1, "the baseline is better by a factor of 1.001"),
        (0.1, 0.1, "a tie"),
        (0.0, 0.1, "the line is exact"),
        (None, 0.1, "no comparison, because a value is undefined"),
    ],
)
def test_line_against_baseline(said, line, baseline, verdict):
    def change(record):
        record["prediction_error"] = {"projection": {"line": {"pfc1": line}, "null": {"pfc1": baseline}}}

    assert one(said(change), "PFC1 of the layers") == (
        f"PFC1 of the layers between first and last, placed at their projection on the chord: the straight line is off by "
        f"{number(line)} decades (RMS; a decade is a factor of ten), the baseline (log-linear interpolation between the two "
        f"ends) by {number(baseline)}; {verdict}."
    )


def test_two_layers_have_none_between_them(run_dir, monkeypatch):
    run = read_run(run_dir)
    monkeypatch.setattr(Run, "layers", property(lambda run: ("stem", "blocks.4")))
    for metric in ("PFC1", "PFC2"):
        assert one(describe(run), f"{metric} of the straight line") == (
            f"{metric} of the straight line cannot be compared: there is no layer between first and last."
        )
        (cell,) = (cell for cell in findings(run) if cell.name == f"{metric}: error of the straight line")
        assert (cell.value, cell.remark) == ("–", "no layer between first and last; 2 of 6 layers, stem to blocks.4")


@pytest.mark.parametrize(
    ("path", "words"),
    [
        (
            {"gap": 0.1, "exponent": 0.07, "cost": 3.2},
            "0 is the flow, 0.5 the straight line. The exponent that fits these layers best is 0.07, wherever they are placed "
            "along the path. Linear blocks that move the class means from layer to layer as here need at least 3.2 times the "
            "squared weights of the cheapest path between the same ends.",
        ),
        (
            {"gap": 0.0199, "exponent": None, "cost": None},
            "Flow and straight line differ by 0.0199 decades here, too little to tell them apart.",
        ),
        ({"gap": 0.1, "exponent": None, "cost": None}, "None of the family fits these layers."),
    ],
)
def test_the_flow_of_class_means(said, path, words):
    def change(record):
        errors = {"line": {"pfc2": 0.2}, "null": {"pfc2": 0.1}, "flow": {"pfc2": 0.05}}
        record.update(mean_path=path, prediction_error={"projection": errors})

    sentence = one(said(change), "The flow of class means is another prediction of PFC2")
    assert "is off by 0.05 decades, the straight line by 0.2, the baseline by 0.1. " in sentence
    assert sentence.endswith(words)


def test_without_a_flow_of_class_means(said):
    assert one(said(), "The flow of class means").endswith("class means of both that span K−1 dimensions.")


def test_line_against_baseline_at_the_index_is_said_too(said):
    def change(record):
        record["prediction_error"]["index"] = {"line": {"pfc1": 0.77}, "null": {"pfc1": 0.168}}

    assert one(said(change), "PFC1 of").endswith(
        " Placed at their block index l/L: 0.77 against 0.168; the baseline is better by a factor of 4.58."
    )


def test_theorem1(said):
    assert one(said(), "Theorem 1") == (
        "Theorem 1 (PFC1 along the straight line): its condition holds. The correlation of first and last centered class means "
        "is not negative: C = 12.5 (mean over classes of their inner products; 0.92 when normalized to [−1, 1]). "
        "Between the measured ends, PFC1 falls all along the line."
    )
    against = {"holds": False, "correlation": -0.18, "normalized": -0.05, "monotone": False, "argmax_t": 0.25}
    sentence = one(said(lambda record: record["theorem1"].update(against)), "Theorem 1")
    assert (
        "does not hold. The correlation of first and last centered class means is negative: C = -0.18 (mean over classes "
        "of their inner products; -0.05 when normalized to [−1, 1])"
    ) in sentence
    assert "The theorem is about a last layer that is collapsed. Between the measured ends, which need not be" in sentence
    assert sentence.endswith("PFC1 does not fall all along the line; its maximum is at t = 0.25.")
    sentence = one(said(lambda record: record["theorem1"].update(argmax_t=0.0)), "Theorem 1")
    assert sentence.endswith("PFC1 does not fall all along the line.")
    sentence = one(said(lambda record: record["theorem1"].update(holds=True)), "Theorem 1")
    assert sentence.startswith("Theorem 1 (PFC1 along the straight line): its condition holds. ")
    assert "PFC1 does not fall all along the line" in sentence
    assert "is undefined." in one(said(lambda record: record["theorem1"].update(monotone=None)), "Theorem 1")
    sentence = one(said(lambda record: record["theorem1"].update(holds=None, monotone=None)), "Theorem 1")
    undefined = "is undefined because a class has no samples or all class means of an end coincide."
    assert sentence == f"Theorem 1 (PFC1 along the straight line) {undefined}"
    # As files of earlier versions have it.
    vacuous = {"holds": True, "correlation": 0.0, "normalized": None, "monotone": True}
    assert one(said(lambda record: record["theorem1"].update(vacuous)), "Theorem 1").endswith(undefined)
    assert one(said(lambda record: record.update(theorem1=None)), "Theorem 1").endswith("was not computed.")


def test_theorem2(said):
    assert one(said(), "Theorem 2") == (
        "Theorem 2 (PFC2 along the straight line): by the exact test, PFC2 does not fall all along the line; it rises for t = "
        "0 to 0.08. The relative transport cost is 0.95 (distance of first and last class means over the length of the last). "
        "The theorem's two sufficient conditions, (A) and (B), assume that the last layer is an exact simplex ETF. Its PFC2 is "
        "0.27, so they do not apply here."
    )
    good = {"monotone": True, "intervals": [], "sufficient_a": True, "sufficient_b": None, "end_distance": 1e-8}
    sentence = one(said(lambda record: record["theorem2"].update(good)), "Theorem 2")
    assert sentence.startswith("Theorem 2 (PFC2 along the straight line): by the exact test, PFC2 falls all along the line. ")
    assert "an exact simplex ETF. It is one up to rounding. Both look at" in sentence
    assert "(A) holds: the first- and" in sentence
    assert "(B) is undefined: the" in sentence
    sentence = one(said(lambda record: record["theorem2"].update(end_distance=None, relative_cost=None)), "Theorem 2")
    assert "The relative transport cost is undefined (" in sentence
    assert sentence.endswith(" Its distance from one is undefined.")
    sentence = one(said(lambda record: record["theorem2"].update(monotone=None)), "Theorem 2")
    assert sentence.endswith("is undefined because a class has no samples or all class means of an end coincide.")
    assert one(said(lambda record: record.update(theorem2=None)), "Theorem 2").endswith("was not computed.")


def test_theorem3(said):
    assert one(said(), "PFC3 along") == (
        "PFC3 along the straight line: suppose that every sample ended at the last layer's mean of its class. Then PFC3 might "
        "fall along the line: 3 of 15,660 pairs of a sample and a wrong class can turn from right to wrong. With the measured "
        "last features, it falls at 24 of 100 steps."
    )
    good = {"guaranteed": True, "violating_pairs": 0}
    sentence = one(said(lambda record: record["theorem3"].update(good)), "PFC3 along")
    assert "PFC3 cannot fall along the line: 0 of 15,660 pairs" in sentence
    assert sentence.endswith("it falls at 24 of 100 steps.")
    sentence = one(said(lambda record: record["theorem3"].update(num_falls=0)), "PFC3 along")
    assert sentence.endswith(" With the measured last features, it never falls in 100 steps.")
    sentence = one(said(lambda record: record["theorem3"].update(num_falls=None)), "PFC3 along")
    assert sentence.endswith("was not recorded.")
    undefined = {"guaranteed": None, "violating_pairs": None}
    sentence = one(said(lambda record: record["theorem3"].update(undefined)), "The condition for PFC3")
    assert sentence.endswith("is undefined because a class has no samples.")
    assert one(said(lambda record: record.update(theorem3=None)), "The condition for PFC3").endswith("was not computed.")


def test_findings_have_the_same_cells_for_every_run(make_run, edit):
    plain, poor = make_run("plain"), make_run("poor")
    set_train_accuracy(poor, 0.5, first_perfect_epoch=None)

    def change(content):
        content["epochs"][-1].update(effective_depth=[], straightness=None, energy=None, prediction_error={}, progression={})

    edit(poor / "depth.json", change)
    cells, others = findings(read_run(plain)), findings(read_run(poor))
    assert [cell.name for cell in cells] == [cell.name for cell in others]
    assert {cell.name: cell[1:] for cell in cells} == {
        "Train accuracy": ("100.00 %", "first perfect at measured epoch 12"),
        "PFC1": ("0.6 → 0.0288", "never rises over depth"),
        "PFC2": ("0.81 → 0.275", "rises into layer blocks.1"),
        "Nearest-center error": ("0.065 → 0", "never rises over depth"),
        "Effective depth": ("2", "nearest-center error at most 0.005"),
        "Straightness": ("0.961", "energy efficiency 0.775"),
        "PFC1: error of the straight line": ("0.067 decades", "baseline 0.233: the line is better by a factor of 3.48"),
        "PFC2: error of the straight line": ("0.021 decades", "baseline 0.014: the baseline is better by a factor of 1.5"),
    }
    assert others[0][1:] == ("50.00 %", "perfect at no measured epoch")
    assert others[4][1:] == ("undefined", "")
    assert others[5][1:] == ("undefined", "energy efficiency undefined")
    assert others[6][1:] == ("undefined decades", "baseline undefined: no comparison, because a value is undefined")


def test_findings_list_the_layers_that_a_metric_rises_into(run_dir, edit):
    def change(content):
        content["epochs"][-1]["progression"]["pfc2"]["violations"] = ["blocks.0", "blocks.1"]

    edit(run_dir / "depth.json", change)
    (cell,) = (cell for cell in findings(read_run(run_dir)) if cell.name == "PFC2")
    assert cell.remark == "rises into layers blocks.0 and blocks.1"


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("digits", [3, 4, 9])
@pytest.mark.parametrize("gap", [1e-2, 3.3e-4, 4e-7, 4.9e-11])
@pytest.mark.parametrize("bound", [1, 8])
def test_no_number_reads_as_a_bound_that_it_does_not_reach(bound, gap, digits, sign):
    for value in (sign * (bound - gap), sign * (bound + gap)):
        said = number(value, digits)
        assert (float(said) < sign * bound) == (value < sign * bound)
        assert float(said) != sign * bound
        assert float(said) == pytest.approx(value, rel=0.5 * 10.0 ** (1 - digits))


def test_bounds_that_are_reached_read_as_such():
    assert [number(value) for value in (1.0, -1.0, 1 + 4e-15, 9.0)] == ["1", "-1", "1", "9"]
    assert [percent(value) for value in (1.0, 1 - 1e-15, 0.0, 0.5)] == ["100.00 %", "100.00 %", "0.00 %", "50.00 %"]
    assert [percent(value) for value in (0.9999, 0.99999, 1 - 1e-8, 1e-7)] == [
        "99.99 %",
        "99.999 %",
        "99.999999 %",
        "0.00001 %",
    ]


@pytest.mark.parametrize(("digits", "value", "said"), [
    (3, 0.0005, "0.0005"), (3, 5e-5, "5e-5"), (4, 5e-5, "5e-5"), (3, 192.25, "192"), (2, 192.25, "192"), (4, 19225.0, "19225"),
    (3, 999.7, "999.7"), (3, 2.5e6, "2.5e+6"), (3, math.nan, "undefined"), (3, -math.inf, "-∞"), (3, 1e-10, "1e-10"),
])  # fmt: skip
def test_a_number_has_one_spelling(digits, value, said):
    assert number(value, digits) == said


def test_settings_are_spelled_like_numbers():
    words = ("5e-4", "0.0005", "5e-05", "train.weight_decay=5E-4".lower(), "0.5, 1e-3", "1000000", "blocks.0", "v1.2.3", "1e4")
    assert [*map(spelled, words)] == [
        "0.0005", "0.0005", "5e-5", "train.weight_decay=0.0005", "0.5, 0.001", "1000000", "blocks.0", "v1.2.3", "10000",
    ]  # fmt: skip


def test_words_for_numbers_and_lists():
    assert [number(value) for value in (None, 0.0, 0.028791, 1e-9, 12345.6)] == ["undefined", "0", "0.0288", "1e-9", "12346"]
    assert [counted(count, "step") for count in (0, 1, 2, 1000)] == ["0 steps", "1 step", "2 steps", "1,000 steps"]
    assert [listed(["a", "b", "c"][:n]) for n in range(4)] == ["", "a", "a and b", "a, b and c"]
    assert listed(list("abcdefgh"), "or") == "a, b, c, d, e, f or 2 more"


def test_alignment_is_told_and_whether_it_binds(said):
    def aligned(guaranteed):
        return lambda record: record.update(alignment={"alignment": 0.917, "guaranteed": guaranteed})

    assert not any(sentence.startswith("The alignment") for sentence in said())
    sentence = one(said(aligned(False)), "The alignment of first and last class means")
    assert "class means is 0.917 (1: no rotation brings them nearer). " in sentence
    assert sentence.endswith("the last layer is an exact simplex ETF, PFC2 cannot rise along the line. That is not so here.")
    sentence = one(said(aligned(True)), "The alignment of first and last class means")
    assert sentence.endswith(
        "The last layer is a simplex ETF too, so PFC2 cannot rise along the line, whatever the transport cost."
    )


def test_the_bound_of_the_energy_is_told_and_whether_weight_decay_reaches_it(said, run_dir, edit):
    def bounds(**entries):
        blocks = [{"block": f"blocks.{i}", "energy": 1.0 + i, "by_moment": 6.0, "by_weights": 9.0} for i in range(2)]
        return lambda record: record.update(weight_decay={"blocks": blocks, **entries})

    def recipe(normalization, decay):
        edit(run_dir / "recipe.json", lambda content: content["model"].update(normalization=normalization))
        edit(run_dir / "recipe.json", lambda content: content["train"].update(decay=decay))

    start = "The energy E‖f(h)‖² of all blocks together is 0.25 times the bound that their parameters and inputs set."
    for normalization, decay, end in [
        ("none", "weights", "inputs set."),
        ("pre", "all", "the layer behind it. Weight decay acts on all of them."),
        ("mid", "weights", "does not act on scale and shift, so it does not limit the energy (train.decay=all would)."),
    ]:
        recipe(normalization, decay)
        assert one(said(bounds()), start).endswith(end)
    # What version 0.2 wrote about blocks that normalize bounds nothing.
    assert not any(sentence.startswith("The energy E") for sentence in said(bounds(is_bound=False)))


def test_the_nearest_hypothesis_about_pfc2_is_told(said):
    found = {"misalignment": 0.3, "ratio_defect": 0.4, "etf_distance": 0.25, "etf_sufficient": True, "polar_distance": 0.6,
             "radius": 0.001, "guaranteed": False}  # fmt: skip

    def sentence(**changes):
        return one(said(lambda record: record.update(flattening=found | changes)), "Flattening theorem")

    assert not any(words.startswith("Flattening") for words in said())
    assert (
        "miss this by 0.5 of their length (0.3 in the singular vectors, 0.4 in the values). The theorem tolerates at most 0.001"
        in (sentence())
    )
    assert "is 0.25 (if they reached it, condition (A) or (B) would hold). The theorem of the" in sentence()
    assert sentence().endswith("from that the distance is 0.6. So Theorem 2 comes nearest to applying.")
    assert sentence(etf_sufficient=False).endswith("So the flattening theorem comes nearest to applying.")
    assert sentence(etf_sufficient=None, etf_distance=None, polar_distance=None).endswith(
        "flattening theorem comes nearest to applying."
    )
    held = sentence(misalignment=0.0, ratio_defect=0.0005, guaranteed=True)
    assert held.endswith("The theorem tolerates 0.001, so PFC2 cannot rise along the line.")


def test_where_the_line_breaks_is_told_by_cause_and_block(said):
    blocks = ("blocks.0", "blocks.1", "blocks.2", "blocks.3", "blocks.4")
    excess = {
        "energy": 15.0, "speed": [2.0, 0.0, 0.0, 0.5, 0.0], "bend": [0.0, 1.0, 0.25, 0.0, 0.0], "identity_cost": 11.25,
        "wasserstein2": 10.0, "step_wasserstein2": [0.9, 0.4, 0.4, 0.4, 0.4],
    }  # fmt: skip
    assert not any(sentence.startswith("The paths spend") for sentence in said())
    sentence = one(said(lambda record: record.update(excess=excess)), "The paths spend")
    assert sentence.startswith("The paths spend 1.5 times the energy of a geodesic with even steps")
    assert f"uneven steps 0.5 (0.8 of it at {blocks[0]}), bends 0.25 (0.8 of it at {blocks[1]}), " in sentence
    assert "not optimal 0.25. The Wasserstein-2 distances between consecutive layers add up to 1.1 times" in sentence
    still = excess | {"energy": 10.0, "speed": [0.0] * 5, "bend": [0.0] * 5, "identity_cost": 10.0}
    assert not any(sentence.startswith("The paths spend") for sentence in said(lambda record: record.update(excess=still)))


def test_what_a_random_pairing_costs_is_told(said):
    costs = {"wasserstein2": 100.0, "identity_cost_sample": 101.0, "random_cost_sample": 110.0, "num_samples_wasserstein": 900}
    sentence = one(said(lambda record: record["energy"].update(costs)), "Optimal transport score")
    assert "A random pairing costs 1.1 times the best." in sentence


def test_captions_of_two_layers_compare_nothing():
    assert say_errors(None, None) == "nothing to compare with the lines"
    assert say_errors(0.0669, 0.2424) == "off by 0.0669 decades (line), 0.242 (baseline)"
    assert say_errors(0.0669, 0.2424, 0.0123) == "off by 0.0669 decades (line), 0.242 (baseline), 0.0123 (flow of class means)"
