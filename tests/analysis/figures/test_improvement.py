"""What examples bring: a panel a model size, and the phases shaded behind it."""

from __future__ import annotations

import pytest

from metaphase.analysis.figures import improvement, style
from metaphase.analysis.load import load_cells
from metaphase.analysis.statistics.phases import classify
from metaphase.core.phases import DELTA
from tests.tools.synthetic import make_results


def test_improvement_table_and_lines(sweep, ax):
    cells = sweep[0]
    table = improvement.seed_table(cells, improvement.LEARNED)
    assert len(table) == (cells["status"] == "done").sum() == 9
    row = cells[(cells["model_size"] == 8) & (cells["num_tasks"] == 256) & (cells["seed"] == 0)]
    mine = table[(table["model_size"] == 8) & (table["num_tasks"] == 256)]
    level = row["unseen_level"].item()
    assert mine["effect"].item() == row["unseen_last"].item() - level
    assert mine["low"].item() == row["unseen_last_low"].item() - level < mine["effect"].item()
    rows = table[table["model_size"] == 16]
    improvement.draw(rows, ax, "num_tasks", improvement.LEARNED)
    means = rows.groupby("num_tasks")["effect"].mean()
    assert list(ax.lines[-1].get_ydata()) == pytest.approx(list(means))


def test_the_phase_is_what_is_drawn_above_delta(sweep):
    """The drawn numbers and their intervals are those of the rule, on classes of unequal sizes."""
    cells = classify(sweep[0].assign(unseen_level=0.24))
    keys = ["model_size", "num_tasks", "seed"]
    above = {}
    for effect in improvement.NAMES:
        table = improvement.seed_table(cells, effect).set_index(keys)
        above[effect] = (table["effect"] > DELTA) & (table["low"] > 0)
    phase = table["phase"]
    assert set(phase) == {"memorizing", "identifying", "generalizing"}
    learned = above[improvement.LEARNED]
    assert (learned == (phase == "generalizing")).all()
    both = above[improvement.IMPROVED] & above[improvement.AHEAD]
    assert ((both & ~learned) == (phase == "identifying")).all()


def test_shades_join_equal_neighbours(tmp_path):
    make_results(
        tmp_path / "s", (8, 16), [2**k for k in range(8)], (0,),
        lambda c: "untrained" if c.model_size == 8
        else ("memorizing" if c.num_tasks < 4 else "identifying" if c.num_tasks < 32
              else "generalizing"),
    )  # fmt: skip
    shades = improvement.shade_table(classify(load_cells(tmp_path / "s")))
    of_16 = shades[shades["model_size"] == 16]
    expected = [("memorizing", -0.5, 1.5), ("identifying", 1.5, 4.5), ("generalizing", 4.5, 7.5)]
    assert list(zip(of_16["phase"], of_16["left"], of_16["right"], strict=True)) == expected
    assert len(shades) == 4


def test_no_size_is_left_out_and_a_single_number_of_tasks_has_sizes_on_x(tmp_path):
    sizes = [2**k for k in range(1, 10)]
    make_results(tmp_path / "many", sizes, (1, 16), (0,), n=64)
    with style.context():
        figure = improvement.figure(classify(load_cells(tmp_path / "many")), confidence=0.9)
    assert [ax.get_title() for ax in figure.axes] == [f"model size {size}" for size in sizes]
    assert "90% intervals" in figure.texts[0].get_text()
    make_results(tmp_path / "column", sizes, (16,), (0, 1), n=64)
    with style.context():
        figure = improvement.figure(classify(load_cells(tmp_path / "column")))
    [ax] = figure.axes
    assert ax.get_xlabel() == "model size"
    assert sorted(ax.lines[4].get_xdata()) == pytest.approx([k - 0.12 for k in range(1, 10)])
