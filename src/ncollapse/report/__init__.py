"""Self-contained HTML pages made from run records.

A page makes no network request, and its content security policy forbids any; it works without JavaScript, in light and dark, on
a phone and on paper. Equal files give equal bytes. It is written whole or not at all, into a folder that is made if need be,
and its path is returned. A missing or broken file is a ReportError that names it; a page that cannot be written is an OSError.
"""

from ncollapse.report.claims_page import ledger_lines, ledger_markdown, write_claims_page
from ncollapse.report.comparison_page import write_comparison
from ncollapse.report.depth_page import write_depth_page
from ncollapse.report.layers_page import write_layers_page
from ncollapse.report.report import write_report
from ncollapse.report.run_page import write_page
from ncollapse.report.sweep_page import write_run_pages, write_sweep_page

__all__ = [
    "ledger_lines",
    "ledger_markdown",
    "write_claims_page",
    "write_comparison",
    "write_depth_page",
    "write_layers_page",
    "write_page",
    "write_report",
    "write_run_pages",
    "write_sweep_page",
]
