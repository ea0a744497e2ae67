"""Charts and sentences made from plain numbers. Needs no torch."""

from ncollapse.drawing.figures import plot_last_layer, plot_over_depth, plot_over_epochs, save_figures
from ncollapse.drawing.summary import summarize

__all__ = ["plot_last_layer", "plot_over_depth", "plot_over_epochs", "save_figures", "summarize"]
