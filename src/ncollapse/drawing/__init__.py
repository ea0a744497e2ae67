"""Charts and sentences made from plain numbers. Needs no torch."""

from ncollapse.drawing.class_distances import plot_class_distances
from ncollapse.drawing.figures import plot_last_layer, plot_lines, plot_over_depth, plot_over_epochs, save_figures
from ncollapse.drawing.kgon_figure import plot_kgon, save_animation
from ncollapse.drawing.sentences import describe, summarize

__all__ = [
    "describe",
    "plot_class_distances",
    "plot_kgon",
    "plot_last_layer",
    "plot_lines",
    "plot_over_depth",
    "plot_over_epochs",
    "save_animation",
    "save_figures",
    "summarize",
]
