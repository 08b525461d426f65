"""Improvement within the sequence, and the phases shaded behind it."""

from __future__ import annotations

from metaphase.analysis.figures import improvement
from metaphase.analysis.load import load_cells
from metaphase.analysis.statistics.phases import classify
from tests.tools.synthetic import make_results


def test_improvement_table_and_lines(sweep, ax):
    cells = sweep[0]
    table = improvement.seed_table(cells, "unseen")
    assert len(table) == (cells["status"] == "done").sum() == 9
    row = cells[(cells["model_size"] == 8) & (cells["num_tasks"] == 256) & (cells["seed"] == 0)]
    mine = table[(table["model_size"] == 8) & (table["num_tasks"] == 256)]
    assert mine["improvement"].item() == row["unseen_improvement"].item()
    assert mine["low"].item() == row["unseen_improvement_low"].item() < mine["improvement"].item()
    improvement.draw(table, ax, improvement.shade_table(cells))
    lines = {line.get_label(): line for line in ax.lines if line.get_label()[0] != "_"}
    means = table[table["model_size"] == 16].groupby("num_tasks")["improvement"].mean()
    assert list(lines["$2^{4}$"].get_ydata()) == list(means)
    assert [t.get_text() for t in ax.texts] == ["M", "I"]


def test_shades_join_equal_neighbours_of_the_largest_model_size(tmp_path):
    make_results(
        tmp_path / "s", (8, 16), [2**k for k in range(8)], (0,),
        lambda c: "untrained" if c.model_size == 8
        else ("memorizing" if c.num_tasks < 4 else "identifying" if c.num_tasks < 32
              else "generalizing"),
    )  # fmt: skip
    shades = improvement.shade_table(classify(load_cells(tmp_path / "s")))
    expected = [("memorizing", -0.5, 1.5), ("identifying", 1.5, 4.5), ("generalizing", 4.5, 7.5)]
    found = zip(shades["phase"], shades["left"], shades["right"], strict=True)
    assert list(found) == expected
    assert (shades["model_size"] == 16).all()
