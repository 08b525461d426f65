"""Learning curves: a line a seed, a panel a split and model size, nothing left out."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import LineCollection

from metaphase.analysis.figures import learning_curves, style
from metaphase.analysis.load import load_cells, load_curves
from metaphase.analysis.statistics.phases import classify
from tests.tools.synthetic import make_results


def test_curves_table_counts_examples_seen_and_keeps_seeds_apart(sweep, ax):
    cells, curves = sweep
    table = learning_curves.curve_table(curves, cells, "unseen")
    assert len(table) == 9 * 16
    assert set(table["examples_seen"]) == set(range(16))
    last = table[(table["num_tasks"] == 16) & (table["model_size"] == 16)].groupby("seed").last()
    assert last["accuracy"][0] == pytest.approx(0.2, abs=0.06)
    assert last["accuracy"][1] == pytest.approx(0.8, abs=0.06)
    assert ((table["low"] < table["accuracy"]) & (table["accuracy"] < table["high"])).all()
    rows = table[table["model_size"] == 16]
    learning_curves.draw(rows, ax, style.sequence_colors([1.0, 16.0]), True, chance=0.2)
    [lines] = [c for c in ax.collections if isinstance(c, LineCollection)]
    drawn = [segment[:, 1].tolist() for segment in lines.get_segments()]
    assert drawn == [
        rows[(rows["num_tasks"] == n) & (rows["seed"] == seed)]["accuracy"].tolist()
        for n in (1, 16) for seed in (0, 1)
    ]  # fmt: skip
    assert len(ax.collections) == 1 + 4  # a band a seed
    assert ax.get_ylim() == (0, 1)


def test_smoothing_keeps_the_ends_and_straight_lines():
    line = np.linspace(0.1, 0.9, 100)
    assert learning_curves.smoothed(line, 11) == pytest.approx(line)
    step = np.repeat([0.0, 1.0], 10)
    smooth = learning_curves.smoothed(np.stack([step, step]), 5)
    assert smooth[0] == pytest.approx(smooth[1])
    assert smooth[0, 8:12] == pytest.approx([0.2, 0.4, 0.6, 0.8])
    assert (smooth[0, 0], smooth[0, -1]) == (0, 1)


def test_every_size_and_number_of_tasks_is_drawn(tmp_path):
    sizes, tasks = [2**k for k in range(1, 10)], [2**k for k in range(12)]
    make_results(tmp_path / "s", sizes, tasks, (0,), n=64)
    with style.context():
        figure = learning_curves.figure(
            load_curves(tmp_path / "s"), classify(load_cells(tmp_path / "s"))
        )
    panels = [ax for ax in figure.axes if ax.collections and ax.get_ylim() == (0, 1)]
    assert len(panels) == 2 * len(sizes)
    drawn = [len(ax.collections[0].get_segments()) for ax in panels]
    assert drawn == [len(tasks)] * len(panels)
    assert figure.axes[-1].get_ylabel() == "number of tasks, log2"  # a colour bar
    assert "running means" not in figure.texts[0].get_text()  # of 16 positions
    assert "left out" in figure.texts[0].get_text()


def test_figures_have_a_row_a_split_and_take_unseen_datasets(sweep):
    cells, curves = sweep
    more = curves[curves["split"] == "unseen"].assign(split="unseen/MNIST")
    others = more.assign(split="unseen/KMNIST", cell_id="of another condition")
    with style.context():
        figure = learning_curves.figure(pd.concat([curves, more, others]), cells)
    labels = [ax.get_ylabel() for ax in figure.axes if ax.get_ylabel()]
    assert labels == [f"accuracy,\n{s}" for s in ("seen", "unseen", "unseen/MNIST")]
    assert [ax.get_xlabel() for ax in figure.axes] == [""] * 4 + ["examples seen"] * 2
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names == ["2^0 tasks", "2^4 tasks", "2^8 tasks", "chance"]
