"""Yardsticks beside cells: the right rows are joined, pooled over seeds, and shown."""

from __future__ import annotations

import itertools
from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from metaphase.analysis import load, phase_plot
from metaphase.analysis.commands import report_page
from metaphase.analysis.figures import learning_curves, style, yardstick_lines
from metaphase.analysis.questions import generalization
from metaphase.analysis.statistics import yardsticks as yards
from metaphase.analysis.statistics.phases import classify
from metaphase.core import schema
from metaphase.sweeps.store.results import Results
from tests.analysis.figures.colour_vision import VISION, seen_lab
from tests.tools.synthetic import BASE, make_results

ACCURACY = {"nearest_neighbour": 0.6, "ridge": 0.5, "logistic": 0.55, "mlp": 0.52,
            "label_counts": 0.25, "chance": 0.2}  # fmt: skip


def rows(cell, split="unseen", shift=0.0, n=512):
    """A table as `metaphase yardsticks` stores it, straight lines from 0.2 on."""
    settings = {name: getattr(cell, name) for name in schema.YARDSTICK_SETTINGS}
    T = cell.sequence_length
    return [
        {
            **settings, "split": split, "yardstick": name, "position": t, "n": n,
            "accuracy": 0.2 + (last - 0.2) * (t - 1) / (T - 1) + shift,
            "accuracy_se": 0.0 if name == "chance" else 0.02,
        }
        for name, last in ACCURACY.items() for t in range(1, T + 1)
    ]  # fmt: skip


@pytest.fixture
def sweep(tmp_path):
    path = tmp_path / "s"
    cells = make_results(path, (8, 16), (1, 16, 256), (0, 1), lambda cell: "generalizing")
    results = Results(str(tmp_path), "s")
    for seed, shift in ((0, -0.1), (1, 0.1)):
        cell = replace(cells[0], seed=seed)
        results.write_yardsticks(f"{seed}", rows(cell, shift=shift))
        results.write_yardsticks(f"{seed}b", rows(cell, "unseen/KMNIST", shift))
    results.write_yardsticks("other", rows(replace(cells[0], seed=2)))
    results.write_yardsticks("longer", rows(cells[0], n=1024))
    return path


def test_nothing_stored_is_an_empty_table(tmp_path):
    make_results(tmp_path / "s", (8,), (1,), (0,))
    found = load.load_yardsticks(tmp_path / "s")
    assert found.empty
    assert tuple(found.columns) == schema.YARDSTICK_COLUMNS
    cells = load.load_cells(tmp_path / "s")
    assert yards.curves_table(found, cells, "unseen").empty
    assert yards.last_table(found, cells).empty
    assert phase_plot.main([str(tmp_path / "s")]) == 0


def test_only_the_cells_own_sequences_are_joined(sweep):
    stored = load.load_yardsticks(sweep)
    assert len(stored) == 6 * 6 * 16
    mine = yards.of_cells(stored, load.load_cells(sweep))
    assert set(mine["seed"]) == {0, 1}
    assert set(mine["n"]) == {512}
    assert len(mine) == 4 * 6 * 16


def test_curves_are_pooled_over_seeds(sweep):
    table = yards.curves_table(load.load_yardsticks(sweep), load.load_cells(sweep), "unseen")
    assert len(table) == 6 * 16
    nearest = table[table["yardstick"] == "nearest_neighbour"].set_index("examples_seen")
    assert nearest.loc[15, "accuracy"] == pytest.approx(0.6)
    assert nearest.loc[0, "accuracy"] == pytest.approx(0.2)
    half = 1.959964 * 0.02 / np.sqrt(2)
    assert nearest.loc[15, "high"] - 0.6 == pytest.approx(half, rel=1e-5)


def test_last_is_over_the_last_tenth(sweep):
    table = yards.last_table(load.load_yardsticks(sweep), load.load_cells(sweep))
    assert list(table["yardstick"].unique()) == [name for name in yards.NAMES if name in ACCURACY]
    nearest = table[table["yardstick"] == "nearest_neighbour"].set_index("tested_on")
    assert set(nearest.index) == {"digits", "KMNIST"}
    assert nearest.loc["KMNIST", "accuracy"] == pytest.approx(0.2 + 0.4 * 14.5 / 15)  # 15, 16
    assert set(table["seeds"]) == {2}


def test_they_are_drawn_on_unseen_tasks_and_told(sweep, capsys):
    cells = classify(load.load_cells(sweep))
    stored = load.load_yardsticks(sweep)
    figure = learning_curves.figure(load.load_curves(sweep), cells, "s", stored)
    names = {yards.NAMES[name] for name in ACCURACY} - {"chance"}
    per_panel = [{line.get_label() for line in ax.lines} & names for ax in figure.axes]
    assert per_panel == [set(), set(), names, names]  # seen: none; unseen: all
    assert names < {text.get_text() for text in figure.legends[0].get_texts()}
    plt.close("all")
    assert phase_plot.main([str(sweep)]) == 0
    out = capsys.readouterr().out
    assert "nearest neighbour" in out
    assert "label counts" in out
    assert len(pd.read_csv(sweep / "yardsticks.csv")) == 12
    assert "logistic regression" in report_page.render(str(sweep))


def test_yardsticks_differ_in_dashes_symbols_and_colours_for_every_vision():
    looks = list(yardstick_lines.LOOKS.values())
    assert list(yardstick_lines.LOOKS) == [name for name in yards.NAMES if name != yards.CHANCE]
    assert len({look["marker"] for look in looks}) == len({look["ls"] for look in looks}) == 6
    curves = style.sequence_colors(range(7)).values()
    for vision in VISION:
        mine = [seen_lab(look["color"], vision) for look in looks]
        others = [seen_lab(color, vision) for color in curves]
        for a, b in itertools.combinations(mine, 2):
            assert np.linalg.norm(a - b) > 10, vision  # 2.3 is just seen
        if vision == "usual":  # otherwise told apart by dashes and symbols
            for a, b in itertools.product(mine, others):
                assert np.linalg.norm(a - b) > 25


def test_generalization_shows_them_below_the_models(sweep):
    cells = load.load_cells(sweep)
    history = load.load_history(sweep)
    other = history[history["split"] == "unseen"].assign(split="unseen/KMNIST")
    table = generalization.generalization_table(cells, pd.concat([history, other]))
    text = generalization.describe(table, yards.last_table(load.load_yardsticks(sweep), cells))
    assert "transformer size 8" in text
    [line] = [line for line in text.splitlines() if "nearest neighbour" in line]
    assert line.count("0.587") == 2


def test_synthetic_cells_have_the_settings_that_are_joined():
    assert {*schema.YARDSTICK_SETTINGS, "eval_sequences"} <= set(BASE.to_dict())
