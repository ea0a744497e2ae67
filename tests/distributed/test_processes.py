"""Two and three gloo processes: the table of one process, the same bits on all ranks, and none waits for a failed one."""

import json

import pytest
import torch

from distributed import exchanges, launch, worker
from ncollapse.groups import Processes
from ncollapse.probe import measure
from ncollapse.records import read_run
from ncollapse.studies import override, recipe_by_name, run_recipe
from ncollapse.targets import Target, measure_target

SIZES = (2, 3)
SMALL = [
    "data.name=gaussian_mixture",
    "data.per_class=20",
    "train.epochs=1",
    "model.width=16",
    "model.num_blocks=2",
    "measure.transport_samples=50",
]


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """What every rank wrote down, for every number of processes."""
    folder = tmp_path_factory.mktemp("ranks")
    run_recipe(override(recipe_by_name("demo"), SMALL), folder / "run")
    for size in SIZES:
        (folder / str(size)).mkdir()
        assert launch.together(worker.run, [(rank, size, folder / str(size)) for rank in range(size)]) == 0
    return {size: [json.loads((folder / f"{size}/{rank}.json").read_text()) for rank in range(size)] for size in SIZES}, folder


@pytest.fixture(params=SIZES, ids=lambda size: f"{size} processes")
def found(request, written):
    return written[0][request.param]


def in_one_process(case, size, **options):
    """All samples in the order of the ranks, in one process."""
    inputs, labels = worker.data()
    chosen = torch.cat([worker.positions(case, rank, size) for rank in range(size)])
    batches = [(inputs[part], labels[part]) for part in chosen.split(11)]
    return measure(worker.network(), batches, num_classes=worker.K, **options)


def assert_same_table(words, expected):
    assert [row[:4] for row in words["rows"]] == [list(row[2:6]) for row in expected.rows]
    assert [tuple(row[5]) for row in words["rows"]] == [row.flags for row in expected.rows]
    values = [float(row[4]) for row in words["rows"]]
    assert values == pytest.approx([row.value for row in expected.rows], rel=1e-12, abs=1e-14, nan_ok=True)
    assert words["n"] == expected.num_samples


@pytest.mark.parametrize(
    ("found", "case", "name"),
    [(size, case, name) for size in SIZES for case, names in worker.PAIRS[size].items() for name in names],
    indirect=["found"],
)
def test_table_is_that_of_one_process(found, case, name):
    assert_that_of_one_process(found, case, name)


@pytest.mark.slow
@pytest.mark.parametrize("size", SIZES)
def test_every_case_with_every_option(size, tmp_path):
    assert launch.together(worker.every_pair, [(rank, size, tmp_path) for rank in range(size)]) == 0
    found = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(size)]
    assert all(ranks == found[0] for ranks in found)
    for case, names in worker.EVERY_PAIR[size].items():
        for name in names:
            assert_that_of_one_process(found, case, name)


def assert_that_of_one_process(found, case, name):
    options = {key: value for key, value in worker.OPTIONS[name].items() if key != "memory_budget"}
    expected = in_one_process(case, len(found), **options)
    words = found[0][f"{case} {name}"]
    assert_same_table(words, expected)
    assert words["chosen"] == expected.chosen
    if expected.paths is not None:
        assert words["straightness"] == pytest.approx(sorted(expected.path.straightness.tolist()), rel=1e-12)
        assert words["position"] == pytest.approx(expected.path.position(), rel=1e-12)
        assert words["energy"] == pytest.approx(expected.path.energy, rel=1e-12)
        assert words["pfc1"] == pytest.approx(expected.geodesic.pfc1().tolist(), rel=1e-12, nan_ok=True)
        assert words["pfc3"] == pytest.approx(expected.line.pfc3().tolist(), rel=1e-12, nan_ok=True)
        assert words["violating"] == pytest.approx(float(expected.line.violating_pairs), nan_ok=True)
        assert words["arcs"] == pytest.approx(expected.arcs.lengths.flatten().tolist(), rel=1e-12, abs=1e-14)


def test_all_ranks_are_identical_to_the_bit(found):
    shared = [name for name in found[0] if name not in {"alone", "crossing"} and not name.startswith("error")]
    assert len(shared) == sum(map(len, worker.PAIRS[len(found)].values())) + 9
    for name in shared:
        assert all(ranks[name] == found[0][name] for ranks in found), name


def test_passes_are_one_decision(found):
    assert all(ranks["uneven kept"]["passes"] == 1 for ranks in found)
    assert all(ranks["uneven second_pass"]["passes"] == 2 for ranks in found)
    # Three layers of 8 float64 numbers a sample: rank 0 has 7 or 13 samples and could keep them.
    assert all(ranks["uneven one_over_budget"]["passes"] == 2 for ranks in found)
    assert all(ranks["uneven kept"]["kept"] == 3 * 8 * 8 * worker.N for ranks in found)
    assert all(ranks["uneven second_pass"]["kept"] == 0 for ranks in found)


def test_without_a_group_each_measures_its_own(found):
    assert [ranks["alone"]["n"] for ranks in found] == [
        len(worker.positions("uneven", rank, len(found))) for rank in range(len(found))
    ]
    batches = worker.batches_of("uneven", 1, len(found))
    assert_same_table(found[1]["alone"], measure(worker.network(), batches, num_classes=worker.K))


def test_another_split_is_decided_by_the_reference_of_all(found):
    train = in_one_process("uneven", len(found))
    inputs, labels = worker.data()
    expected = measure(worker.network(), [(inputs + 0.3, labels)], num_classes=worker.K, split="test", reference=train)
    assert_same_table(found[0]["reference"], expected)


def test_running_means_are_those_of_the_first_process(found):
    inputs, labels = worker.data()
    model = worker.Normalized().double()
    model.norm.running_mean.fill_(0.0)
    model.norm.running_var.fill_(1.0)
    assert_same_table(found[0]["buffers"], measure(model, [(inputs, labels)], num_classes=worker.K))


def test_a_recorder_writes_once_what_all_have_measured(found, written):
    folder = written[1] / str(len(found))
    run = read_run(folder / "recorded")
    assert [repr(row.value) for row in run.rows] == [row[4] for row in found[0]["recorder"]["rows"]]
    assert (run.epochs, run.status.state, found[0]["recorder"]["n"]) == ((1,), "finished", worker.N)
    assert [path.name for path in folder.glob("recorded*")] == ["recorded"]


@pytest.mark.parametrize("name", ["dealt", "one_batch", "shuffled"])
def test_batches_are_dealt_out(found, name):
    expected = measure(worker.network(), list(getattr(worker, name)()), num_classes=worker.K)
    assert_same_table(found[0][f"by_name {name}"], expected)


def test_a_run_directory_in_float32_is_that_of_one_process(found, written):
    # Batches that are dealt out whole round in the network as they do in one process.
    assert_same_table(found[0]["run directory"], measure_target(Target(str(written[1] / "run"), split="test", batch_size=64)))


def test_tensors_and_texts_of_every_size_arrive_whole(found):
    assert found[0]["exchanges"] == exchanges.expected(len(found))


def test_what_crosses_depends_on_classes_and_widths_alone(found):
    size, classes, width = len(found), worker.MANY, worker.WIDE
    rank = min(classes - 1, width)
    decisions = 2 * rank**2 + classes * rank + 6 * classes
    moments = classes * width + 2 * classes
    up, down = 8 * 2 * (moments + decisions), 8 * (2 * (moments + width * rank + decisions) + classes * (width + 1))
    assert up + down <= 8 * (2 * (9 * classes * width + 16 * classes) + classes * (width + 1))
    for position, (few, many) in enumerate(ranks["crossing"] for ranks in found):
        # Headers, of 64 bytes a tensor, and words are below a tenth.
        assert few == many
        assert down <= few["broadcast"] < 1.1 * down
        assert few["recv"] - (size - 1) * up in range(10000 * size) if position == 0 else few["recv"] == 0
        assert few["send"] - up in range(10000) if position > 0 else few["send"] == 0
        assert few["all_gather"] < 10000 * size


def test_still_in_step_after_errors(found):
    assert found[0]["after"] == found[0]["uneven kept"]


ERRORS = {
    "nan": (
        "ValueError",
        "Rank {last} of {size}: Features must be finite, got NaN or inf at layer 'stem' in batch 1, of class ",
    ),
    "label": ("ValueError", "Rank 0 of {size}: labels must be in [0, 4), got 7 at position 3 in batch 0."),
    "one_time": ("ValueError", "Rank {last} of {size}: The features exceed the memory budget"),
    "model_raises": ("RuntimeError", "Rank {last} of {size}: RuntimeError: out of luck"),
    "other_layers": ("ValueError", 'Layers and their dimensions must be the same on all processes, got [["stem", 8], ["blocks'),
    "no_such_layer": ("ValueError", "Rank {last} of {size}: layers must name or match modules, got 'stam'. Near: stem."),
    "other_network": ("ValueError", "The parameters must be the same on all processes, got others on rank 1 than on rank 0"),
    "other_arguments": (
        "ValueError",
        'Arguments must be the same on all processes, got [4, "all", 0, "class", "train", false, [',
    ),
    "no_data": ("ValueError", "There is no data: the loader yielded no batch with a label that counts."),
    "all_batches_wrong": ("TypeError", "Rank 0 of {size}: Batch 0: batches must yield (inputs, labels) or a mapping"),
    "other_batches": ("ValueError", "The labels in the batches of worker:in_own_order must be the same on all processes, got "),
    "options": ("ValueError", "Rank 0 of {size}: Data worker:dealt does not say how many classes it has. Pass --num-classes K"),
    "reference_of_one": ("ValueError", "The reference's layers, samples, classes and dimensions must be the same"),
}


@pytest.mark.parametrize("name", ERRORS)
def test_an_error_ends_all_ranks(found, name):
    kind, words = ERRORS[name]
    words = words.format(last=len(found) - 1, size=len(found))
    for ranks in found:
        got, text, seconds = ranks[f"error {name}"]
        assert got == kind
        assert text.startswith(words)
        assert text == found[0][f"error {name}"][1]
        assert seconds < 10
    if name == "all_batches_wrong":
        assert found[0][f"error {name}"][1].endswith(f"(ranks {', '.join(map(str, range(len(found))))} failed)")


def test_what_is_no_group_is_refused():
    with pytest.raises(TypeError, match=r"group must be a torch.distributed process group or None, got str. Pass torch"):
        Processes("world")
    with pytest.raises(ValueError, match="group must contain this process, got a group of others"):
        Processes(torch.distributed.GroupMember.NON_GROUP_MEMBER)
