"""The tutorials run: each with fewer epochs here, and in full when the site is built."""

import re
from importlib.util import find_spec
from pathlib import Path

import matplotlib.pyplot as plt
import pytest
import torch

from ncollapse.studies import sweep
from ncollapse.studies.workers import work

FOLDER = Path(__file__).parents[1] / "docs" / "tutorials"
CELL = re.compile(r"```\{code-cell\}\n(:tags: \[parameters\]\n)?(.*?)```", re.DOTALL)
# What replaces the cell of parameters.
FEWER = {
    "1_first_measurement": {"epochs": 15},
    "3_is_your_resnet_straight": {"epochs": 1},
    "4_text_classifier": {"epochs": 2, "per_class": 20},
    "5_imbalanced_classes": {"epochs": 60, "ratios": [5, 13]},
    "6_which_layers_can_go": {"epochs": 5},
    "7_surrogate_models": {"steps": 200},
    "8_a_sweep_and_a_claim": {
        "settings": [
            "train.epochs=10",
            "data.per_class=10",
            "model.width=16",
            "model.num_blocks=1",
            "measure.transport_samples=20",
        ],
        "decays": "train.weight_decay=1e-3",
        "seeds": 2,
        "workers": 1,
    },
}
# What each tells its reader.
TOLD = {
    "1_first_measurement": lambda n: n["after"].curve("pfc1")[-1] < n["after"].curve("pfc1")[0] < n["before"].curve("pfc1")[-1],
    "3_is_your_resnet_straight": lambda n: len(n["m"].path_layers) == 6 and 0 < n["m"].path.straightness.mean() < 1,
    "4_text_classifier": lambda n: len(n["m"].layers) >= 4 and "tokens read at cls" in n["m"].chosen,
    "5_imbalanced_classes": lambda n: 12 < n["threshold"] < 13 and n["cosines"][5:, 5:].mean() > n["cosines"][:5, :5].mean(),
    "6_which_layers_can_go": lambda n: n["logits"].shape == (128, 10),
    "7_surrogate_models": lambda n: 0 <= n["rough"].value - n["solution"].value <= n["rough"].gap and n["unequal"].gap < 1e-9,
    "8_a_sweep_and_a_claim": lambda n: n["ruling"].verdict == "not testable here" and n["ruling"].evidence[0].estimate.n == 2,
}


@pytest.mark.parametrize("name", FEWER)
def test_tutorials_run(name, tmp_path, monkeypatch, capsys):
    if name == "4_text_classifier" and find_spec("transformers") is None:
        pytest.skip("needs the extra `text`: make test-integrations runs it")
    cells = CELL.findall((FOLDER / f"{name}.md").read_text())
    (given,) = (code for tag, code in cells if tag)
    names = dict(FEWER[name])
    assert {line.split(" = ")[0] for line in given.splitlines()} == set(names)
    monkeypatch.chdir(tmp_path)
    # The processes of a sweep have tests of their own.
    monkeypatch.setattr(sweep, "run_locally", lambda tasks, *_: [work(task) for task in tasks])
    with torch.random.fork_rng():
        for tag, code in cells:
            if not tag:
                exec(code.replace("%matplotlib inline\n", ""), names)
    plt.close("all")
    assert TOLD[name](names)


def test_every_tutorial_is_run():
    # Where there are no files of Fashion-MNIST: tests/integrations/test_own_training.py.
    assert {path.stem for path in FOLDER.glob("*.md")} == {*FEWER, "2_your_own_training"}
