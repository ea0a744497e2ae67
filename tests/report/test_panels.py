"""The panels of a page: their labels have room."""

from ncollapse.drawing import style
from ncollapse.report import markup


def wide(axes):
    axes.set_yticks([0.0, 1.0], ["a label of thirty letters long", "b"])
    axes.set_xticks([0.0, 1.0], ["two\nlines", "two\nlines"])


def test_labels_of_a_panel_have_room():
    with style.house_style():
        figure = markup._laid_out(wide, 3.4)
        box = figure.get_tightbbox()
    width, height = figure.get_size_inches()
    assert box.x0 >= 0
    assert box.y0 >= 0
    assert box.x1 <= width
    assert box.y1 <= height
