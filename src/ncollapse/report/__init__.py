"""Files of a run to pictures, words and one self-contained page."""

from ncollapse.report.figures import plot_last_layer, plot_over_depth, plot_over_epochs, save_figures
from ncollapse.report.page import write_page
from ncollapse.report.parsing import ReportError
from ncollapse.report.reading import Run, read_run
from ncollapse.report.summary import summarize

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
]
