"""The blocks of docs/integrations.md run as they stand."""

import re
from pathlib import Path

import pytest

import fresh
from ncollapse.data import DataNotFoundError
from ncollapse.data.text_sets import WORDNET, find_text_set

PAGE = (Path(__file__).parents[2] / "docs" / "integrations.md").read_text()
BLOCKS = dict(re.findall(r"^## ([^\n]+)\n(?:(?!^## ).)*?```python\n(.*?)```", PAGE, flags=re.DOTALL | re.MULTILINE))
NEEDS = {
    "torchmetrics": ["torchmetrics"],
    "Lightning": ["lightning.pytorch"],
    "Hugging Face transformers": ["transformers", "accelerate"],
    "A causal language model": ["transformers"],
    "A Trainer on WordNet's glosses": ["transformers", "accelerate"],
}
FILES = {
    "From your own training to a page": "runs/mine/measurements.csv",
    "Checkpoints of a finished training": "runs/checkpoints/measurements.csv",
    "A plain PyTorch loop": "plain.csv",
    "Features that you compute yourself, batch by batch": None,
    "torchmetrics": None,
    "Lightning": "neural_collapse.csv",
    "Hugging Face transformers": "bert/neural_collapse.csv",
    "A causal language model": "gpt2.csv",
    "A Trainer on WordNet's glosses": "runs/glosses/measurements.csv",
    "Batches": None,
}
# The page says that a second call goes on.
TWICE = {"Checkpoints of a finished training"}


@pytest.mark.parametrize("title", FILES)
def test_a_block_runs(title, tmp_path):
    for module in NEEDS.get(title, []):
        pytest.importorskip(module)
    if "wordnet" in BLOCKS[title]:
        try:
            find_text_set(WORDNET, "train", None)
        except DataNotFoundError as error:
            pytest.skip(str(error))
    # Fresh, so that it imports all that it uses.
    code = BLOCKS[title] * (2 if title in TWICE else 1)
    printed = fresh.python("-c", code, here=tmp_path, imported=fresh.OF_PAGES)
    assert "pfc1" in (printed if FILES[title] is None else (tmp_path / FILES[title]).read_text())


def test_every_block_is_run():
    assert set(BLOCKS) == set(FILES)
    assert len(BLOCKS) == PAGE.count("```python")
