"""Self-contained HTML pages made from run records."""

from ncollapse.report.claims_page import ledger_lines, ledger_markdown, write_claims_page
from ncollapse.report.comparison_page import write_comparison
from ncollapse.report.depth_page import write_depth_page
from ncollapse.report.report import write_report
from ncollapse.report.run_page import write_page
from ncollapse.report.sweep_page import write_run_pages, write_sweep_page

__all__ = [
    "ledger_lines",
    "ledger_markdown",
    "write_claims_page",
    "write_comparison",
    "write_depth_page",
    "write_page",
    "write_report",
    "write_run_pages",
    "write_sweep_page",
]
