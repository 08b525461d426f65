"""Learning curves: a line with a band a seed, a row of panels a split."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from metaphase.analysis.figures import accuracy, learning_curves


def test_curves_table_counts_examples_seen_and_keeps_seeds_apart(sweep, ax):
    cells, curves = sweep
    table = learning_curves.curve_table(curves, cells, "unseen")
    assert len(table) == 9 * 16
    assert set(table["examples_seen"]) == set(range(16))
    last = table[(table["num_tasks"] == 16) & (table["model_size"] == 16)].groupby("seed").last()
    assert last["accuracy"][0] == pytest.approx(0.2, abs=0.06)
    assert last["accuracy"][1] == pytest.approx(0.8, abs=0.06)
    assert ((table["low"] < table["accuracy"]) & (table["accuracy"] < table["high"])).all()
    learning_curves.draw(table[table["model_size"] == 16], ax, [1, 16], chance=0.2)
    assert [line.get_label() for line in ax.lines if line.get_label()[0] != "_"] == [
        "$2^{0}$", "$2^{4}$", "chance",
    ]  # fmt: skip
    bands = [c.get_paths() for c in ax.collections]
    assert [len(paths) for paths in bands] == [2, 2]  # a band a seed
    lines = [line for line in ax.lines if np.isnan(line.get_xdata()).any()]
    assert [list(np.flatnonzero(np.isnan(line.get_ydata()))) for line in lines] == [[16], [16]]
    drawn = np.delete(lines[1].get_ydata(), 16)
    assert list(drawn) == list(table.query("model_size == 16 and num_tasks == 16")["accuracy"])


def test_curves_of_a_number_of_tasks_that_has_no_results_leave_the_panel_as_it_is(sweep, ax):
    cells, curves = sweep
    table = learning_curves.curve_table(curves, cells, "unseen")
    learning_curves.draw(table[table["model_size"] == 16], ax, [1, 16, 256])
    assert "$2^{8}$" in ax.get_legend_handles_labels()[1]
    assert ax.get_xlim() == pytest.approx((-0.75, 15.75))
    assert ax.get_ylim() == (0, 1)


def test_figures_have_a_row_a_split_and_take_unseen_datasets(sweep):
    cells, curves = sweep
    more = curves[curves["split"] == "unseen"].assign(split="unseen/MNIST")
    others = more.assign(split="unseen/KMNIST", cell_id="of another condition")
    figure = learning_curves.figure(pd.concat([curves, more, others]), cells)
    labels = [ax.get_ylabel() for ax in figure.axes if ax.get_ylabel()]
    assert labels == [f"accuracy,\n{s} tasks" for s in ("seen", "unseen", "unseen/MNIST")]
    assert [ax.get_xlabel() for ax in figure.axes] == [""] * 4 + ["examples seen"] * 2
    assert figure.legends[0].get_title().get_text() == "number of tasks"
    bar = accuracy.figure(cells).axes[-1]
    assert bar.get_ylabel() == "accuracy at the last positions"
