"""The figures: what is drawn is what the files say, files are whole and equal, and the user's settings stay as they are."""

import json
import math
import re

import matplotlib as mpl
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from ncollapse.drawing import plot_last_layer, plot_over_depth, plot_over_epochs, save_figures
from ncollapse.drawing.figures import render
from ncollapse.drawing.style import SOFT, depth_colors, epoch_ticks, even_columns, fit_linear, log_ticks, short, short_layer
from ncollapse.records import ReportError, read_run
from ncollapse.records.errors import RunDirectoryError


def drawn(axes):
    """Every line of a panel as lists (x, y)."""
    return [(list(line.get_xdata()), list(line.get_ydata())) for line in axes.get_lines()]


def texts(figure):
    return [text.get_text() for axes in figure.axes for text in axes.texts]


def test_epochs_figure_draws_every_layer_on_the_right_scales(shared_run):
    run = read_run(shared_run)
    axes = plot_over_epochs(run).axes
    for panel, metric in zip(axes, ("pfc1", "pfc2", "pfc3"), strict=True):
        layers = drawn(panel)[:6]
        assert layers == [(list(run.epochs), run.over_epochs(metric, depth)) for depth in range(6)]
        assert [line.get_color() for line in panel.get_lines()[:6]] == depth_colors(6)
        assert panel.get_xscale() == "symlog"
        assert panel.get_xlabel() == "epoch"
    assert [panel.get_yscale() for panel in axes] == ["log", "log", "linear"]
    assert axes[0].get_ylabel() == "within / between-class variance"


def test_first_perfect_epoch_is_marked_and_explained_only_where_there_is_one(run_dir, edit):
    figure = plot_over_epochs(read_run(run_dir))
    assert drawn(figure.axes[0])[-1][0] == [12, 12]
    assert figure.legends[0].get_texts()[-1].get_text() == "first measured 100 % train accuracy"
    edit(run_dir / "status.json", lambda content: content.update(first_perfect_epoch=None))
    figure = plot_over_epochs(read_run(run_dir))
    assert len(drawn(figure.axes[0])) == 6
    assert figure.legends[0].get_texts()[-1].get_text() == "5  blocks.4"
    assert len(plot_last_layer(read_run(run_dir)).legends[0].get_texts()) == 4


def with_floor(run_dir, value):
    """Append what noise alone gives: a value at every layer and measured epoch."""
    run, table = read_run(run_dir), run_dir / "measurements.csv"
    lines = [
        f"{epoch},train,{depth},{name},{key}.noise,{value},\n"
        for key in ("pfc1", "pfc2", "pfc3") for epoch in run.epochs for depth, name in enumerate(run.layers)
    ]  # fmt: skip
    table.write_text(table.read_text() + "".join(lines))
    return read_run(run_dir)


def test_what_noise_alone_gives_is_drawn_over_epochs_and_over_depth(run_dir):
    run = with_floor(run_dir, 0.5)
    for figure, words in (
        (plot_over_epochs(run), "noise alone, in the color of the layer"),
        (plot_over_depth(run), "noise alone"),
    ):
        names = [text.get_text() for text in figure.legends[0].get_texts()]
        assert names.count(words) == 1
        for panel in figure.axes[:2]:
            floors = [line for line in panel.get_lines() if line.get_label() == "noise alone"]
            assert {tuple(line.get_ydata()) for line in floors} == {(0.5,) * len(floors[0].get_xdata())}
            assert {line.get_linestyle() for line in floors} == {":"}
            assert [line.get_color() for line in floors] == ([SOFT] if len(floors) == 1 else depth_colors(6))
        # Accuracies are above.
        assert [text.get_text() for text in figure.axes[2].texts if "noise" in text.get_text()] == ["noise alone: 0.5 ↓"]
    assert not any("noise" in text for text in texts(plot_last_layer(run)))


def test_the_note_on_noise_touches_no_number_of_a_layer(run_dir):
    table = run_dir / "measurements.csv"
    last = read_run(run_dir).epochs[-1]
    table.write_text(re.sub(rf"(?m)^({last},train,[2-5],[^,]+,pfc3),[^,]+", r"\1,1.0", table.read_text()))
    figure = plot_over_depth(with_floor(run_dir, 0.5))
    FigureCanvasAgg(figure).draw()
    note, *numbers = sorted(figure.axes[2].texts, key=lambda text: "noise" not in text.get_text())
    assert len(numbers) >= 4
    assert not any(note.get_window_extent().padded(3).overlaps(text.get_window_extent()) for text in numbers)


def test_noise_off_the_axis_is_said_and_moves_no_axis(run_dir):
    before = [axes.get_ylim() for axes in plot_over_epochs(read_run(run_dir)).axes]
    figure = plot_over_epochs(with_floor(run_dir, 55.5))
    assert [axes.get_ylim() for axes in figure.axes] == before
    assert [text for text in texts(figure) if "noise" in text] == ["noise alone: 56 ↑"] * 3
    assert "noise alone" not in [text.get_text() for text in figure.legends[0].get_texts()]


@pytest.mark.parametrize("position", ["projection", "index"])
def test_depth_figure_draws_null_line_and_layers_at_their_position(shared_run, position):
    run = read_run(shared_run)
    figure = plot_over_depth(run, position)
    record = json.loads((shared_run / "depth.json").read_text())["epochs"][-1]
    for panel, metric in zip(figure.axes, ("pfc1", "pfc2", "pfc3"), strict=True):
        null, line, *layers = drawn(panel)
        assert null == (record["null"]["t"], record["null"][metric])
        assert line == (record["curve"]["t"], record["curve"][metric])
        assert layers == [([t], [y]) for t, y in zip(record["positions"][position], run.over_depth(metric), strict=True)]
        assert panel.get_lines()[0].get_linestyle() == "--"
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names[0] == "0  stem"
    assert names[-2:] == ["straight line", "baseline (log-linear)"]


def test_unknown_position_lists_the_known_ones(shared_run):
    with pytest.raises(
        ReportError, match=r"depth\.json: needed a position of index, projection.*got 'time'. Choose one of these"
    ):
        plot_over_depth(read_run(shared_run), "time")


def test_layers_without_value_or_place_are_left_out(run_dir, edit):
    def change(content):
        content["epochs"][-1]["positions"]["projection"][2] = None
        content["epochs"][-1]["curve"]["pfc3"] = None

    edit(run_dir / "depth.json", change)
    axes = plot_over_depth(read_run(run_dir)).axes
    assert [x for (x,), _ in drawn(axes[0])[2:]] == [(i / 5) ** 1.4 for i in (0, 1, 3, 4, 5)]
    assert len(drawn(axes[2])) == 1 + 5  # no line, only the null and the layers


def test_last_layer_figure_draws_nc1_to_nc4(shared_run):
    run = read_run(shared_run)
    axes = plot_last_layer(run).axes
    expected = [["nc1"], ["nc2_equinorm", "nc2_equiangularity", "nc2_max_angle"], ["nc3"], ["nc4_mismatch"]]
    for panel, metrics in zip(axes, expected, strict=True):
        assert [ys for _, ys in drawn(panel)[:-1]] == [run.over_epochs(metric, 5) for metric in metrics]
    assert [panel.get_yscale() for panel in axes] == ["log", "linear", "log", "linear"]
    assert axes[3].get_title(loc="left") + axes[3].get_title() == "NC4 mismatch"
    assert [line.get_label() for line in axes[1].get_lines()[:3]] == ["lengths", "cosines", "to −1/(K−1)"]
    assert [text.get_text() for text in plot_last_layer(run).legends[0].get_texts()] == [
        "lengths: spread of the lengths of class means",
        "cosines: spread of the cosines of class means",
        "to −1/(K−1): mean distance of the cosines from −1/(K−1)",
        "mismatch: share of decisions unlike the nearest center, 1 − nc4",
        "first measured 100 % train accuracy",
    ]


def test_numbers_of_the_layers_have_a_halo(shared_run):
    numbers = [text for text in plot_over_depth(read_run(shared_run)).axes[0].texts if text.get_text().isdigit()]
    assert len(numbers) > 2
    assert all(isinstance(effect, withStroke) for text in numbers for effect in text.get_path_effects())
    assert all(text.get_path_effects() for text in numbers)


def test_lines_that_end_together_share_a_label(shared_run):
    axes = plot_over_epochs(read_run(shared_run)).axes
    assert [text.get_text() for text in axes[2].texts] == ["0", "1", "2–5"]


def test_panels_without_anything_to_draw_say_why(run_dir):
    table = run_dir / "measurements.csv"
    lines = [line for line in table.read_text().splitlines() if ",nc3," not in line]
    lines = [",".join([*line.split(",")[:5], "0.0", ""]) if ",pfc2," in line else line for line in lines]
    table.write_text("\n".join(lines) + "\n")
    run = read_run(run_dir)
    assert "zero everywhere:\nnothing to draw on a log axis" in texts(plot_over_epochs(run))
    assert "undefined or not measured\nin this run" in texts(plot_last_layer(run))


def test_zeros_are_left_out_of_a_log_axis_and_one_epoch_is_enough(make_run):
    run_dir = make_run(epochs=(1,))
    table = run_dir / "measurements.csv"
    lines = table.read_text().splitlines()
    lines[1] = "1,train,0,stem,pfc1,0.0,"
    table.write_text("\n".join(lines) + "\n")
    axes = plot_over_epochs(read_run(run_dir)).axes
    assert math.isnan(drawn(axes[0])[0][1][0])
    assert drawn(axes[0])[1][1][0] > 0


def test_saved_figures_are_whole_equal_and_without_date(make_run):
    run_dir = make_run(layers=("stem", "a", "b"), epochs=(0, 1, 9))
    run = read_run(run_dir)
    written = save_figures(run)
    names = [f"{name}.{kind}" for name in ("pfc_over_epochs", "pfc_over_depth", "nc_last_layer") for kind in ("png", "svg")]
    assert [file.relative_to(run_dir).as_posix() for file in written] == [f"figures/{name}" for name in names]
    first = {file: file.read_bytes() for file in written}
    other = {"axes.facecolor": "red", "font.size": 30, "svg.hashsalt": None, "svg.fonttype": "none", "figure.autolayout": True}
    with mpl.rc_context(other):
        before = dict(mpl.rcParams)
        save_figures(run)
        assert dict(mpl.rcParams) == before
    assert {file: file.read_bytes() for file in written} == first
    assert sorted(file.name for file in (run_dir / "figures").iterdir()) == sorted(names)
    for file, content in first.items():
        assert content.startswith(b"\x89PNG" if file.suffix == ".png" else b"<?xml")
        assert b"dc:date" not in content


def test_figures_are_not_written_through_a_link(make_run, tmp_path):
    """A run of somebody else: its links may lead to the reader's files."""
    run_dir = make_run(layers=("stem", "a"), epochs=(0, 1))
    (tmp_path / "mine").mkdir()
    (run_dir / "figures").symlink_to(tmp_path / "mine")
    with pytest.raises(RunDirectoryError, match=r"figures must be a folder, got a link to .*mine\. Remove the link"):
        save_figures(read_run(run_dir))
    assert not list((tmp_path / "mine").iterdir())


def test_a_folder_in_the_place_of_a_figure_is_told_and_leaves_no_temporary_file(make_run):
    run_dir = make_run(layers=("stem", "a", "b"), epochs=(0, 1, 9))
    (run_dir / "figures" / "pfc_over_depth.png").mkdir(parents=True)
    with pytest.raises(RunDirectoryError, match=r"pfc_over_depth\.png must be a file, got a folder"):
        save_figures(read_run(run_dir))
    assert sorted(file.name for file in (run_dir / "figures").iterdir()) == [
        "pfc_over_depth.png",
        "pfc_over_epochs.png",
        "pfc_over_epochs.svg",
    ]


def test_names_are_never_read_as_formulas(make_run):
    run = read_run(make_run(layers=("$\\bad$", "_hidden", "model.encoder.layers.11.output.dense.norm")))
    figure = plot_over_epochs(run)
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names[:3] == ["0  $\\bad$", "1  _hidden", "2  m.e.l.11.output.dense.norm"]
    assert render(figure, "svg").startswith(b"<?xml")


def test_legend_of_a_very_deep_network_is_thinned(make_run):
    run = read_run(make_run(layers=tuple(f"b{i}" for i in range(40)), epochs=(0, 1)))
    names = [text.get_text() for text in plot_over_epochs(run).legends[0].get_texts()]
    assert len(names) <= 13
    assert (names[0], names[-1]) == ("0  b0", "39  b39")


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0.25, 0.95, [0.3, 0.5, 0.7]),
        (0.02, 1.0, [0.02, 0.05, 0.1, 0.2, 0.5, 1.0]),
        (1e-8, 1.0, [1e-8, 1e-6, 1e-4, 1e-2, 1.0]),
        (0.9, 1.1, [0.9, 1.0]),
        (2.1, 4.5, [3.0, 4.0]),
    ],
)
def test_log_ticks_are_round_and_few(low, high, ticks):
    assert log_ticks(low, high) == ticks


@pytest.mark.parametrize(
    ("first", "last", "ticks"),
    [
        (0, 0, [0]),
        (0, 1, [0, 1]),
        (0, 5, [0, 1, 5]),
        (0, 150, [0, 1, 3, 10, 30, 150]),
        (0, 350, [0, 1, 3, 10, 30, 100, 350]),
        (1, 150, [1, 3, 10, 30, 150]),
        (5, 40, [5, 10, 40]),
        (7, 1000, [7, 30, 100, 300, 1000]),
    ],
)
def test_epoch_ticks_are_between_first_and_last_epoch(first, last, ticks):
    assert epoch_ticks(first, last) == ticks


def test_the_axis_of_epochs_begins_at_the_first_measured_one(shared_run, make_run):
    assert plot_over_epochs(read_run(shared_run)).axes[0].get_xlim() == (0, 150)
    axes = plot_over_epochs(read_run(make_run("late", epochs=(5, 20, 40)))).axes[0]
    assert axes.get_xlim() == (5, 40)
    assert axes.get_xticks()[0] == 5


@pytest.mark.parametrize(("count", "columns"), [(0, 1), (1, 1), (5, 5), (6, 6), (7, 4), (8, 4), (9, 5), (13, 5)])
def test_rows_of_pictures_are_even(count, columns):
    assert even_columns(count, 6) == columns


def test_colors_of_depth_are_distinct_and_long_names_give_way_in_the_middle():
    for dark in (False, True):
        assert len(set(depth_colors(12, dark=dark))) == 12
    assert len(depth_colors(1)) == 1
    assert short("abcdefghij", 5) == "ab…ij"
    assert short("abcde", 5) == "abcde"


def test_names_of_layers_keep_their_number_and_their_end():
    assert short_layer("bert.encoder.layer.0") == "bert.encoder.layer.0"
    assert short_layer("distilbert.transformer.layer.11") == "d.transformer.layer.11"
    assert short_layer("distilbert.transformer.layer.11.output_layer_norm", 27) == "d.t.l.11.output_layer_norm"
    assert short_layer("a" * 30, 5) == "aa…aa"


@pytest.mark.parametrize(
    ("values", "ends_at_0"), [((0.0, 0.02), True), ((0.001, 0.02), True), ((0.0, 0.0), True), ((-0.1, 1.0), False)]
)
def test_no_axis_goes_below_0_unless_a_value_does(values, ends_at_0):
    axes = Figure().subplots()
    fit_linear(axes, values)
    low, high = axes.get_ylim()
    assert (low == 0) == ends_at_0
    assert low <= min(values) < high


def test_shares_that_all_are_1_are_at_the_top():
    axes = Figure().subplots()
    fit_linear(axes, (1.0, 1.0, 1.0))
    assert axes.get_ylim() == (0.95, pytest.approx(1.003))
