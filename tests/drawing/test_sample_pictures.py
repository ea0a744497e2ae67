"""The heat map and the paths of samples: cells and lines are those of the numbers."""

import math
import re
from dataclasses import replace

import matplotlib as mpl
import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex

import ncollapse as nc
from ncollapse.drawing.heat_map import heat_map_svg
from ncollapse.drawing.sample_paths import sample_paths_svg
from ncollapse.measurement.as_run import run_of
from ncollapse.records import read_run


def test_every_cell_has_the_color_of_its_value(shared_run):
    run = read_run(shared_run)
    svg = heat_map_svg(run)
    cells = re.findall(r'fill="(#\w{6})"><title>([^<]*)</title>', svg)
    assert len(cells) == len(run.epochs) * len(run.measured_layers)
    values = [run.value("pfc1", depth, epoch) for epoch in run.epochs for depth in range(len(run.measured_layers))]
    low, high = min(values), max(values)
    for (color, _), value in zip(cells, values, strict=True):
        assert color == to_hex(mpl.colormaps["viridis"](math.log(value / low) / math.log(high / low)))
    assert cells[0][1] == f"{run.measured_layers[0]}, epoch 0: {values[0]:.3g}"


def test_without_positive_values_there_is_no_heat_map(shared_run):
    run = read_run(shared_run)
    rows = tuple(row._replace(value=0.0) if row.metric == "pfc1" else row for row in run.rows)
    assert heat_map_svg(replace(run, rows=rows)) == ""


@pytest.fixture(scope="module")
def samples():
    labels = torch.arange(3).repeat(10)
    draw = torch.Generator().manual_seed(0)
    layers = {name: torch.randn(30, 5, generator=draw) for name in "abc"}
    return run_of({0: nc.measure_features(layers, labels, num_classes=3, path=True)}).samples


def test_paths_are_those_of_four_samples_of_each_class(samples):
    svg = sample_paths_svg(samples)
    # The words stand at the ends of the chord.
    chord = re.search(r'class="straight" d="M([\d.]+) [\d.]+L([\d.]+) ', svg).groups()
    words = dict(re.findall(r'<text x="(\d+)"[^>]*>(\w+) layer', svg))
    assert {name: int(x) for x, name in words.items()} == {"first": round(float(chord[0])), "last": round(float(chord[1]))}
    drawn = [np.array([p.split() for p in d.split("L")], dtype=float) for d in re.findall(r'<path d="M([^"]*)"', svg)]
    found = samples.epochs[0]
    rows = [row for k in range(3) for row in np.flatnonzero(found.labels == k)[:4]]
    assert len(drawn) == 12
    (start, end) = drawn[0][0], drawn[0][-1]
    unit = end[0] - start[0]
    for points, row in zip(drawn, rows, strict=True):
        expected = start + found.paths[row].astype(float) * unit * [1, -1]
        assert np.abs(points - expected).max() < 0.002 * unit
    assert "NaN" not in svg


def test_paths_far_from_straight_are_drawn_smaller_and_a_single_step_is_not_drawn(samples):
    far = replace(samples.epochs[0], paths=samples.epochs[0].paths * np.array([1, 50], dtype=np.float16))
    svg = sample_paths_svg(replace(samples, epochs={0: far}))
    assert int(re.search(r'viewBox="0 0 640 (\d+)"', svg)[1]) <= 420
    # The words at the ends of a short chord do not meet.
    assert re.findall(r'text-anchor="(\w+)">(\w+) layer', svg) == [("end", "first"), ("start", "last")]
    ends = replace(samples.epochs[0], paths=samples.epochs[0].paths[:, [0, -1]])
    assert sample_paths_svg(replace(samples, epochs={0: ends})) == ""


def test_without_paths_nothing_is_drawn(samples):
    epoch = replace(samples.epochs[0], paths=np.zeros((30, 0, 2), dtype=np.float16))
    assert sample_paths_svg(replace(samples, epochs={0: epoch})) == ""
    lost = replace(samples.epochs[0], paths=np.full((30, 3, 2), np.nan, dtype=np.float16))
    assert sample_paths_svg(replace(samples, epochs={0: lost})) == ""
