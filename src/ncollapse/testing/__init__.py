"""Checks of your own code: the laws that a metric must obey, and the proof that a network is measured right."""

from ncollapse.testing.metric_laws import check_metric
from ncollapse.testing.network_laws import check_network
from ncollapse.testing.report import Law, Report

__all__ = ["Law", "Report", "check_metric", "check_network"]
