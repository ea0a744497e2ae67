"""A battery for what you bring: the laws of a metric of your own, and the proofs that a network is measured right."""

from ncollapse.testing.metric_laws import check_metric
from ncollapse.testing.network_laws import check_network
from ncollapse.testing.report import Law, Report

__all__ = ["Law", "Report", "check_metric", "check_network"]
