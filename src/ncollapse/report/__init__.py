"""Files of runs and sweeps to pictures, words and self-contained pages."""

from ncollapse.report.claims import CLAIMS, Ledger, rule_on_claims
from ncollapse.report.claims_deep import DEEP_CLAIMS
from ncollapse.report.claims_file import ledger_values
from ncollapse.report.claims_page import ledger_lines, ledger_markdown, write_claims_page
from ncollapse.report.comparison_page import write_comparison
from ncollapse.report.depth_page import write_depth_page
from ncollapse.report.figures import plot_last_layer, plot_over_depth, plot_over_epochs, save_figures
from ncollapse.report.page import write_page
from ncollapse.report.parsing import ReportError
from ncollapse.report.reading import Run, read_run
from ncollapse.report.summary import summarize
from ncollapse.report.sweep_page import write_run_pages, write_sweep_page
from ncollapse.report.sweep_reading import SWEEP_FILE

__all__ = [
    "CLAIMS",
    "DEEP_CLAIMS",
    "SWEEP_FILE",
    "Ledger",
    "ReportError",
    "Run",
    "ledger_lines",
    "ledger_markdown",
    "ledger_values",
    "plot_last_layer",
    "plot_over_depth",
    "plot_over_epochs",
    "read_run",
    "rule_on_claims",
    "save_figures",
    "summarize",
    "write_claims_page",
    "write_comparison",
    "write_depth_page",
    "write_page",
    "write_run_pages",
    "write_sweep_page",
]
