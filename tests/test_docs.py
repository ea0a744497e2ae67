"""The README's example and commands run; the metric page is that of the registry; links lead somewhere."""

import contextlib
import io
import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ncollapse.cli.main import _parser
from zoo.networks import NETWORKS

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def test_example_prints_what_the_readme_says():
    (code,) = blocks("python")
    assert len([line for line in code.splitlines() if line.strip()]) == 12
    printed = io.StringIO()
    with torch.random.fork_rng(), contextlib.redirect_stdout(printed):
        exec(compile(code, "README.md", "exec"), {})
    (expected,) = [text for text in blocks("text") if text.startswith("4 layers")]
    (words, *table), (expected_words, *expected_table) = printed.getvalue().splitlines(), expected.splitlines()
    assert words == expected_words
    assert [line.split()[0] for line in table] == [line.split()[0] for line in expected_table]
    numbers, expected_numbers = ([float(x) for line in rows[1:] for x in line.split()[1:]] for rows in (table, expected_table))
    # A thousand steps of training let the rounding of another processor grow into the second digit.
    assert numbers == pytest.approx(expected_numbers, rel=0.1)


EXAMPLES = {
    "locally_elastic.py": "network on GeoMNIST, L-model: A = ",
    "tight_frames.py": "soft threshold 1.5",
    "amplified_gradients.py": "l = 4: stationary variance 0.15584",
    "fixed_classifier.py": "cosine between minority means",
    "largest_margin.py": "counts (12, 8, 5, 1): least half squared norms 7.365944",
    "line_and_null.py": "RMS error: line",
    "leaving_the_data.py": "never more spread out than the data: True",
    "minority_collapse.py": "they merge from R = 12.1924 on",
    "features_on_a_sphere.py": "K = 4, λ = 0.005: s = 3.0916069111, minimum 0.1430641596",
    "deep_features.py": "ReLU, K = 6, M = 4: low rank / deep collapse = 0.94",
    "near_collapse.py": "w = 0.6738724571, m = 1.3340397714, σ = 0.8149613578",
    "strong_collapse.py": "t = 3.0: eigenvalue 1.9975575",
    "central_path.py": "t = 200000: signals 5.8292, 5.7937, 5.7786 ",
    "normalized_networks.py": "batch norm, β = 0.5: γ = 0.8660254, α = 0.5000000, minimum 3.97213595",
    "spheres_and_balls.py": "ball, K = 10: minimum",
    "unconstrained_features.py": "mse: 0.0278842712475, c < 1 holds",
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples_run(name):
    result = subprocess.run([sys.executable, ROOT / "examples" / name, "2"], capture_output=True, text=True, check=True)
    assert EXAMPLES[name] in result.stdout


def test_every_example_is_run():
    # One needs the extra `vision`: make test-zoo runs it.
    assert {path.name for path in (ROOT / "examples").glob("*.py")} == {*EXAMPLES, "imagenet_head.py"}


def test_commands_parse():
    commands = [line.removeprefix("$ ").split("  #")[0] for text in blocks("console") for line in text.splitlines()]
    ours = [shlex.split(command)[1:] for command in commands if command.startswith("ncollapse ")]
    assert len(ours) >= 7
    for words in ours:
        assert _parser().parse_args(words).command == words[0]
    makefile = (ROOT / "Makefile").read_text()
    for target in [command.split()[1] for command in commands if command.startswith("make ")]:
        assert f"\n{target}:" in makefile


DOCS = ("claims", "integrations", "metrics", "networks", "processes", "surrogates", "theory")
PAGES = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", *(f"docs/{name}.md" for name in DOCS)]


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    text = (ROOT / page).read_text()
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        assert target.startswith("https://") or ((ROOT / page).parent / target).exists(), target


def test_network_page_has_every_network_of_the_opt_in_tests():
    rows = re.findall(r"^\| (\w+) \| `(\w+)` \| \d+ \|", (ROOT / "docs" / "networks.md").read_text(), flags=re.MULTILINE)
    assert rows == [(network.library, network.name) for network in NETWORKS], "run `make docs-networks`"


def test_metric_page_is_current():
    render = runpy.run_path(str(ROOT / "docs" / "write_metrics.py"))["render"]
    assert (ROOT / "docs" / "metrics.md").read_text() == render(), "run `make docs`"
