"""Heat maps show the mean of finished seeds on one scale."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.collections import PolyCollection

from metaphase.analysis.figures import accuracy, outcomes, style


def test_accuracy_table_is_the_mean_of_finished_seeds(sweep):
    cells = sweep[0]
    table = accuracy.tile_table(cells, "unseen").set_index(["model_size", "num_tasks"])
    two = cells[(cells["model_size"] == 16) & (cells["num_tasks"] == 16)]
    assert table.loc[(16, 16), "accuracy"] == pytest.approx(two["unseen_last"].mean())
    assert 0.3 < table.loc[(16, 16), "accuracy"] < 0.7
    assert table.loc[(8, 256), "seeds"] == 1
    assert table.loc[(8, 256), "accuracy"] == pytest.approx(0.8, abs=0.06)
    assert np.isnan(table.loc[(16, 256), "accuracy"])
    assert table.loc[(16, 256), "seeds"] == 0


def test_seeds_stand_beside_the_mean_where_they_are_far_apart_or_unfinished(sweep):
    seeds = accuracy.seed_table(sweep[0], "unseen")
    points = {(row.model_size, row.num_tasks) for row in seeds.itertuples()}
    assert points == {(16, 16), (8, 256), (16, 256)}  # bimodal; one diverged; missing
    two = seeds[(seeds["model_size"] == 16) & (seeds["num_tasks"] == 16)]
    assert (np.diff(two["accuracy"]) > 0.15).all()  # from the bottom
    assert (two["left"] > 2.0).all()  # right of the mean
    assert list(seeds.loc[seeds["num_tasks"] == 256, "outcome"]) == [
        "generalizing", "diverged", outcomes.MISSING, outcomes.MISSING,
    ]  # fmt: skip


def test_nothing_stands_beside_the_mean_where_seeds_agree(sweep):
    alike = sweep[0][sweep[0]["num_tasks"] == 1]
    assert accuracy.seed_table(alike, "unseen").empty
    with style.context():
        assert "right part" not in accuracy.figure(alike).texts[0].get_text()


def test_accuracy_is_drawn_on_the_shared_scale_and_missing_cells_are_blank(sweep, ax):
    table = accuracy.tile_table(sweep[0], "seen")
    accuracy.draw(table, ax)
    (tiles,) = [c for c in ax.collections if isinstance(c, PolyCollection)]
    expected = style.ACCURACY_MAP(table["accuracy"].dropna().to_numpy())
    assert tiles.get_facecolor() == pytest.approx(expected)
    assert len(expected) == len(table) - 1
    values = {text.get_text() for text in ax.texts}
    assert values == {f"{a:.2f}"[1:] for a in table["accuracy"].dropna()}
    with style.context():
        figure = accuracy.figure(sweep[0])
    bar = figure.axes[-1]
    assert bar.get_ylim() == (0, 1)
    assert [line.get_ydata()[0] for line in bar.lines if line.get_color() == "white"] == [0.2]
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend == ["diverged", outcomes.MISSING]
