"""Compiled steps: the eager network within rounding, under its own names, resumed to the bit."""

import csv
import os
import shutil

import pytest
import torch
from safetensors.torch import load_file

from ncollapse.data import gaussian_mixture
from ncollapse.studies import override, recipe_by_name, run_recipe
from ncollapse.train import TrainConfig, train
from ncollapse.train.execution import check_execution
from ncollapse.train.parallel import Team

COMPILER = os.environ.get("CXX", "g++")
needs_compiler = pytest.mark.skipif(shutil.which(COMPILER) is None, reason=f"torch.compile needs the C++ compiler {COMPILER}")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # the compiler's own

# 20 samples a class of the ten digits, in batches of 120: the last one has 80.
SMALL = [
    "data.per_class=20", "train.epochs=3", "train.checkpoint_every=1", "measure.epochs=[0,1,3]", "model.width=8",
    "model.num_blocks=1", "train.batch_size=120", "measure.transport_samples=0", "train.learning_rate=0.02",
]  # fmt: skip


def small(*settings):
    return override(recipe_by_name("demo"), [*SMALL, *settings])


def values(path):
    with (path / "measurements.csv").open(newline="") as file:
        return {(r["epoch"], r["layer"], r["metric"]): float(r["value"] or "nan") for r in csv.DictReader(file)}


@needs_compiler
def test_a_compiled_run_is_the_eager_one_within_rounding_and_resumes_to_the_bit(tmp_path, monkeypatch):
    # Without vector instructions: seven programs would be compiled to find those that the compiler knows.
    monkeypatch.setattr(torch._inductor.config.cpp, "vec_isa_ok", False)
    eager = run_recipe(small(), tmp_path / "eager")
    num_before = torch._dynamo.utils.counters["frames"]["ok"]

    def as_killed(record, _epochs):
        """Keep what a run that is killed after two epochs leaves."""
        if record.epoch == 2:
            shutil.copytree(tmp_path / "compiled", tmp_path / "killed")

    compiled = run_recipe(small("train.compiled=true"), tmp_path / "compiled", on_epoch=as_killed)
    assert torch._dynamo.utils.counters["frames"]["ok"] == num_before + 2  # one for each size of batches, none to measure
    expected, found = (load_file(path / "checkpoint.safetensors") for path in (eager, compiled))
    assert found.keys() == expected.keys()
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-5, atol=1e-5)
    table, other = values(tmp_path / "eager"), values(tmp_path / "compiled")
    assert table.keys() == other.keys()
    for key in table:
        assert other[key] == pytest.approx(table[key], rel=1e-3, abs=1e-5, nan_ok=True), key
    assert (tmp_path / "killed" / "history.csv").read_bytes() != (tmp_path / "compiled" / "history.csv").read_bytes()
    run_recipe(small("train.compiled=true"), tmp_path / "killed", resume=True)
    for name in ("measurements.csv", "history.csv", "checkpoint.safetensors"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "compiled" / name).read_bytes()


def test_without_a_compiler_the_error_says_what_is_needed():
    data = gaussian_mixture(num_classes=3, dim=4, per_class=7)
    epochs = train(torch.nn.Linear(4, 3), data, TrainConfig(epochs=1, compiled=True), seed=0)
    with torch._inductor.config.patch({"cpp.cxx": (None, "no-such-compiler")}):
        words = r"needs what torch\.compile builds with: a C\+\+ compiler .*no-such-compiler.*\. Install it, or leave"
        with pytest.raises(ValueError, match=words):
            next(epochs)


def test_many_processes_train_no_compiled_network():
    team = Team(None)
    team.group, team.size = object(), 2
    with pytest.raises(ValueError, match=r"needs one process without a group, got a group of 2\. Train in one process"):
        check_execution(TrainConfig(compiled=True), torch.device("cpu"), team)
