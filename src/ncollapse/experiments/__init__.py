"""The figures and statements of the papers as experiments: one name, one command, one page, one verdict each."""

from ncollapse.experiments.catalog import EXPERIMENTS, experiments_named
from ncollapse.experiments.experiment import PAPERS, Experiment, Found, Panel, Point, SeedFile
from ncollapse.experiments.page import write_experiment_page
from ncollapse.experiments.reproduce import Place, reproduce
from ncollapse.experiments.standing import Standing, recorded, standings
from ncollapse.experiments.work import Work

__all__ = [
    "EXPERIMENTS",
    "PAPERS",
    "Experiment",
    "Found",
    "Panel",
    "Place",
    "Point",
    "SeedFile",
    "Standing",
    "Work",
    "experiments_named",
    "recorded",
    "reproduce",
    "standings",
    "write_experiment_page",
]
