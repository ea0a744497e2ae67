"""Commands and names of README and docs are true; examples run; made pages are current; links lead somewhere."""

import importlib
import re
import runpy
import shlex
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

import inline_code
import ncollapse
from ncollapse.cli import main
from ncollapse.measurement.as_run import run_of
from pages import PAGES, ROOT, blocks
from zoo.networks import NETWORKS

# The rooms that a user sees.
PUBLIC = ncollapse._ROOMS


def test_the_readme_is_one_screen_and_links_to_no_file():
    page = (ROOT / "README.md").read_text()
    assert len(page.splitlines()) <= 120
    assert re.findall(r"(?<!!)\[[^\]]*\]\((?!https://)[^)]*\)", page) == []


EXAMPLES = {
    "locally_elastic.py": "network on GeoMNIST, L-model: A = ",
    "tight_frames.py": "soft threshold 1.5",
    "amplified_gradients.py": "l = 4: stationary variance 0.15584",
    "fixed_classifier.py": "cosine between minority means",
    "largest_margin.py": "counts (12, 8, 5, 1): least half squared norms 7.365944",
    "line_and_baseline.py": "RMS error: line",
    "leaving_the_data.py": "never more spread out than the data: True",
    "minority_collapse.py": "they merge from R = 12.1924 on",
    "features_on_a_sphere.py": "K = 4, λ = 0.005: s = 3.0916069111, minimum 0.1430641596",
    "deep_features.py": "ReLU, K = 6, M = 4: low rank / deep collapse = 0.94",
    "near_collapse.py": "w = 0.6738724571, m = 1.3340397714, σ = 0.8149613578",
    "strong_collapse.py": "t = 3.0: eigenvalue 1.9975575",
    "central_path.py": "t = 200000: signals 5.8292, 5.7937, 5.7786 ",
    "normalized_networks.py": "batch norm, β = 0.5: γ = 0.8660254, α = 0.5000000, minimum 3.97213595",
    "spheres_and_balls.py": "ball, K = 10: minimum",
    "own_training.py": "decay0.005: τ = 0.",
    "residual_alignment.py": "shared frames of different blocks (RA2): 0.0",
    "unconstrained_features.py": "mse: 0.0278842712475, c < 1 holds",
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples_run(name, capsys, monkeypatch, tmp_path, request):
    path = ROOT / "examples" / name
    if name == "own_training.py":
        # Its page is drawn in tests/integrations/test_recorder.py. Here it trains for a shorter time.
        request.getfixturevalue("without_drawings")
        text, whole = path.read_text(), "EPOCHS, SAMPLES = 4, 2000"
        assert whole in text
        path = tmp_path / name
        path.write_text(text.replace(whole, "EPOCHS, SAMPLES = 2, 300"))
    figure = tmp_path / "figure.svg"
    given = {"amplified_gradients.py": [figure], "tight_frames.py": [figure], "residual_alignment.py": ["2", figure]}
    monkeypatch.setattr(sys, "argv", [name, *map(str, given.get(name, ["2"]))])
    with torch.random.fork_rng():
        runpy.run_path(str(path), run_name="__main__")
    assert EXAMPLES[name] in capsys.readouterr().out
    assert figure.exists() == (name in given)


def test_every_example_is_run():
    # One needs the extra `vision`: make test-zoo runs it.
    assert {path.name for path in (ROOT / "examples").glob("*.py")} == {*EXAMPLES, "imagenet_head.py"}


def test_the_gallery_has_every_figure_and_every_example(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    site_pages = importlib.import_module("site_pages")
    text = site_pages.gallery_page()
    for path in (ROOT / "docs" / "figures").iterdir():
        assert f"](../figures/{path.name})" in text
    for path in (ROOT / "examples").glob("*.py"):
        assert f"../../examples/{path.name}" in text
    # What makes a figure stands below it.
    assert text.index("demo_kgon.gif)") < text.index("ncollapse animate")
    assert text.index("results_kgon.png)") < text.index("m.plot(kind)")
    assert text.index("discovery.svg)") < text.index("../draw_discovery.py")
    examples = {path.stem for path in (ROOT / "examples").glob("*.py")}
    assert {*site_pages._DRAWN, *site_pages._SHOWN, *site_pages._DRAWING, *site_pages._WITHOUT} == examples
    commands = re.findall(r"Drawn by `([^`]+)`", text)
    assert len(commands) == len(site_pages._DRAWN) + len(site_pages._DRAWING)
    assert [command for command in commands if not inline_code.exists(command)] == []
    # Each picture is in the overview too, and leads to the section where it is shown.
    sections = {re.sub(r"[.,]", "", line.lower()).replace(" ", "-") for line in re.findall(r"^### (.*)", text, re.MULTILINE)}
    leads = re.findall(r"\{\.thumbnail\}\]\(#([^)]+)\)", text)
    assert set(leads) == sections - {"imagenet-head", "line-and-baseline", "own-training"}
    assert len(leads) == len([*(ROOT / "docs" / "figures").iterdir()]) + len(commands)
    assert text.count("Output</summary>") == len(examples) - 1


def test_commands_in_blocks_are_right():
    commands = [line[2:].split("  #")[0].strip() for text in blocks("console", *PAGES) for line in text.splitlines()]
    assert len(commands) > 40
    assert [command for command in commands if not inline_code.exists(command)] == []


SOLVE = [line[2:] for line in "\n".join(blocks("console", *PAGES)).splitlines() if line.startswith("$ ncollapse solve ")]


@pytest.mark.parametrize("line", SOLVE)
def test_solve_commands_run(line, capsys):
    # Figures are drawn in tests/cli/test_solve.py.
    main(shlex.split(line.split(" --figure ")[0])[1:])
    assert capsys.readouterr().out


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CHANGELOG.md"], ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        assert target.startswith("https://") or (page.parent / target).exists(), target


def test_network_page_has_every_network_of_the_opt_in_tests():
    rows = re.findall(r"^\| (\w+) \| `(\w+)` \| \d+ \|", (ROOT / "docs" / "networks.md").read_text(), flags=re.MULTILINE)
    assert rows == [(network.library, network.name) for network in NETWORKS], "run `make docs-networks`"


def test_metric_page_is_current(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "docs")
    render = runpy.run_path(str(ROOT / "docs" / "write_metrics.py"))["render"]
    assert (ROOT / "docs" / "metrics.md").read_text() == render(), "run `make docs-pages`"


def test_every_flag_and_error_has_a_cure():
    render = runpy.run_path(str(ROOT / "docs" / "write_refusals.py"))["render"]
    assert (ROOT / "docs" / "refusals.md").read_text() == render(), "run `make docs-pages`"


def test_the_page_of_what_is_reproduced_is_that_of_the_records():
    render = runpy.run_path(str(ROOT / "docs" / "write_reproduced.py"))["render"]
    assert (ROOT / "docs" / "reproduced.md").read_text() == render(), "run `make docs-pages`"


def test_figures_of_speed_are_those_of_the_benchmark():
    module = runpy.run_path(str(ROOT / "docs" / "write_records.py"))
    for path, text in module["render"]().items():
        assert path.read_text() == text, "run `make docs-pages`"
        assert "\n<!--" not in text, "Markdown shows such a line as it is"
    # Whatever a page says of the benchmark is marked, so that it is written from the records.
    for page in module["PAGES"]:
        paragraphs = [part for part in (ROOT / page).read_text().split("\n\n") if "make bench" in part or "<!--" in part]
        assert paragraphs
        assert [part for part in paragraphs if re.search(r"\d\.\d|\d×", module["MARK"].sub("", part))] == []


def test_costs_that_no_benchmark_measures_tell_their_day_and_commit():
    """Seconds, forward passes and memory in sentences without a mark."""
    mark = runpy.run_path(str(ROOT / "docs" / "write_records.py"))["MARK"]
    cost = re.compile(r"\d (?:s|GB|minutes)\b|\d forward passes")
    for page in ("integrations", "comparison", "surrogates"):
        for part in (ROOT / "docs" / f"{page}.md").read_text().split("\n\n"):
            if cost.search(mark.sub("", part)):
                assert re.search(r"[Nn]ovember 2026,\s+commit [0-9a-f]{7}", part), part


def test_diagrams_are_current():
    pictures = runpy.run_path(str(ROOT / "docs" / "draw_diagrams.py"))["pictures"]()
    assert {name for name, text in pictures.items() if (ROOT / "docs" / "figures" / name).read_text() != text} == set()


def test_every_public_name_is_in_the_reference_and_in_a_text_of_it():
    pages = {path.stem: path.read_text() for path in (ROOT / "docs" / "reference").glob("*.md")}
    prose = " ".join(pages.values())
    rooms = {name: getattr(ncollapse, name) for name in dir(ncollapse) if getattr(getattr(ncollapse, name), "__all__", None)}
    assert {name for name in rooms if name in PUBLIC and f"automodule:: ncollapse.{name}" not in pages.get(name, "")} == set()
    names = {*ncollapse.__all__, *(name for room in PUBLIC for name in rooms[room].__all__)}
    assert {name for name in names if f"`{name}`" not in prose} == set()


def test_picture_of_discovery_is_current():
    with torch.random.fork_rng():
        render = runpy.run_path(str(ROOT / "docs" / "draw_discovery.py"))["render"]
        assert (ROOT / "docs" / "figures" / "discovery.svg").read_text() == render(), "run `make docs-pages`"


def test_the_first_picture_of_the_readme_is_made_by_the_command_beside_it(tmp_path, monkeypatch):
    text = (ROOT / "README.md").read_text()
    picture, words = re.search(r"!\[[^]]*\]\(([^)]+)\)\n\n(.*?)\n\n", text, re.DOTALL).groups()
    command = shlex.split(re.search(r"`(ncollapse animate [^`]+)`", words)[1])
    assert command[-2:] == ["--out", picture]
    with Image.open(ROOT / picture) as image:
        assert (image.format, image.n_frames) == ("GIF", int(command[command.index("--frames") + 1]))
    assert (ROOT / picture).stat().st_size < 300_000
    # The run alone is another one: a small one in memory.
    labels = torch.arange(12) % 3
    features = torch.eye(4)[labels] + torch.arange(12)[:, None] % 5 / 9
    run = run_of({epoch: ncollapse.measure_features({"a": features**epoch}, labels, num_classes=3) for epoch in (1, 2)})
    monkeypatch.setattr("ncollapse.records.read_run", {Path("runs/demo"): run}.__getitem__)
    command[-1] = str(tmp_path / "new.gif")
    main(command[1:])
    with Image.open(tmp_path / "new.gif") as image:
        assert (image.format, image.n_frames) == ("GIF", 2)
