"""Files of runs and sweeps to pictures, words and self-contained pages."""

from ncollapse.report.figures import plot_last_layer, plot_over_depth, plot_over_epochs, save_figures
from ncollapse.report.page import write_page
from ncollapse.report.parsing import ReportError
from ncollapse.report.reading import Run, read_run
from ncollapse.report.summary import summarize
from ncollapse.report.sweep_page import write_sweep_page

__all__ = [
    "ReportError",
    "Run",
    "plot_last_layer",
    "plot_over_depth",
    "plot_over_epochs",
    "read_run",
    "save_figures",
    "summarize",
    "write_page",
    "write_sweep_page",
]
