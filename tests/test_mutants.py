"""The reasons why some changes of the source cannot be noticed: each is about a statement that the source has."""

import pytest

from mutants import ARGUED, SOURCE, mutants


@pytest.mark.parametrize("file", ARGUED)
def test_what_is_argued_away_is_in_the_source(file):
    found = mutants(SOURCE / file)
    assert set(ARGUED[file]) <= {mutant.before for mutant in found} | {mutant.key for mutant in found}


def test_a_mutant_tells_its_statement_before_and_after(tmp_path):
    file = tmp_path / "small.py"
    file.write_text("def f(a, b):\n    if a < b:\n        g(a)\n    return a\n")
    assert [(mutant.line, mutant.before, mutant.after, mutant.key) for mutant in mutants(file)] == [
        (2, "if a < b:", "if not a < b:", "if not a < b:"),
        (2, "if a < b:", "if a <= b:", "if a <= b:"),
        (3, "g(a)", "None", "g(a)  ->  None"),
        (4, "return a", "return None", "return a  ->  return None"),
    ]
