"""Names and columns of a run directory, frozen: whoever reads runs in years to come finds them so. Some are reserved."""

from ncollapse.records import EpochRecord, Row, file_names
from ncollapse.records.rows import CLASS_COLUMNS, PAIR_COLUMNS, known_columns

FILES = """
recipe.json status.json environment.json glossary.json history.csv measurements.csv depth.json objective.json
checkpoint.safetensors recording.json report.html compare.html manifest.json figures previous damaged samples.safetensors
layers.csv layers.html classes.csv pairs.csv features.json .lock sweep.json claims.json
""".split()


def test_file_names():
    assert [value for name, value in vars(file_names).items() if name.isupper() and isinstance(value, str)] == FILES
    assert set(FILES) > set(file_names.OF_A_RUN)


def test_columns():
    assert " ".join(Row._fields) == "epoch step split depth layer metric value standard_error flags"
    assert " ".join(EpochRecord._fields) == "epoch loss accuracy learning_rate grad_norm"
    assert " ".join(CLASS_COLUMNS) == "epoch split layer class metric value"
    assert " ".join(PAIR_COLUMNS) == "epoch split layer class other metric value"


def test_a_row_shows_the_columns_that_are_known():
    row = Row.measured("train", 0, "stem", "pfc1", 0.5, None, ())
    assert known_columns([row]) == ("split", "depth", "layer", "metric", "value", "flags")
    assert known_columns([row, row._replace(epoch=3, standard_error=0.1)]) == tuple(
        name for name in Row._fields if name != "step"
    )
