"""The blocks of docs/integrations.md run as they stand."""

import contextlib
import io
import re
from pathlib import Path

import pytest
import torch

PAGE = (Path(__file__).parents[2] / "docs" / "integrations.md").read_text()
BLOCKS = dict(re.findall(r"^## ([^\n]+)\n(?:(?!^## ).)*?```python\n(.*?)```", PAGE, flags=re.DOTALL | re.MULTILINE))
NEEDS = {"Lightning": ["lightning.pytorch"], "Hugging Face transformers": ["transformers", "accelerate"]}
FILES = {
    "A plain loop": "plain.csv",
    "Features batch by batch": None,
    "Lightning": "neural_collapse.csv",
    "Hugging Face transformers": "bert/neural_collapse.csv",
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("title", FILES)
def test_a_block_runs(title, tmp_path, monkeypatch):
    for module in NEEDS.get(title, []):
        pytest.importorskip(module)
    monkeypatch.chdir(tmp_path)
    with torch.random.fork_rng(), contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(compile(BLOCKS[title], title, "exec"), {})
    if FILES[title] is None:
        assert "pfc1" in printed.getvalue()
    else:
        assert "pfc1" in (tmp_path / FILES[title]).read_text()


def test_every_block_is_run():
    assert set(BLOCKS) == set(FILES)
    assert len(BLOCKS) == PAGE.count("```python")
