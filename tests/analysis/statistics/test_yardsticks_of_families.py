"""Yardsticks and comparisons of sweeps whose families have no images."""

from __future__ import annotations

from dataclasses import replace

import pytest

from metaphase.analysis import load
from metaphase.analysis.commands import compare
from metaphase.analysis.figures import learning_curves
from metaphase.analysis.questions import known_algorithms
from metaphase.analysis.statistics import yardsticks as yards
from metaphase.analysis.statistics.phases import classify
from metaphase.core.cell import Cell
from metaphase.sweeps.commands import yardsticks as command
from metaphase.sweeps.store.results import Results
from tests.tools.synthetic import make_results

SHAPE = {"sequence_length": 16, "eval_sequences": 512, "token_format": "shifted"}
URNS = Cell.from_dict({"task_family": "balls_and_urns", "symbols": 3, **SHAPE})
MORE = Cell.from_dict({"task_family": "balls_and_urns", "symbols": 4, **SHAPE})
LINES = Cell.from_dict({"task_family": "linear_regression", "dimension": 2, **SHAPE})


@pytest.fixture
def sweep(tmp_path):
    path = tmp_path / "s"
    for base in (URNS, MORE, LINES):
        cells = make_results(path, (8,), (1, 16), (0,), lambda cell: "memorizing", base=base)
        for key, (cell, split) in command.tables([replace(cells[0], eval_sequences=512)]).items():
            command.compute(Results(str(tmp_path), "s"), key, cell, split, "", "cpu")
    return path


def test_only_rows_of_the_cells_own_family_and_settings_are_joined(sweep):
    stored, cells = load.load_yardsticks(sweep), load.load_cells(sweep)
    mine = yards.of_cells(stored, cells[cells["symbols"] == 3])
    assert set(mine["symbols"]) == {3}
    assert set(mine["yardstick"]) == {"label_counts", "bigram_counts", "chance"}
    assert len(yards.of_cells(stored, cells)) == len(stored)
    lines = yards.curves_table(stored, cells[cells["dimension"] == 2], "unseen")
    assert set(lines["yardstick"]) == {"nearest_neighbour", "ridge", "chance"}


def test_they_are_told_by_family_beside_its_best_cell(sweep):
    cells = load.load_cells(sweep)
    [answer] = known_algorithms.find(cells, load.load_yardsticks(sweep))
    told = answer.table.groupby("dataset")["yardstick"].apply(set)
    assert set(told.index) == {
        "balls_and_urns symbols=3",
        "balls_and_urns symbols=4",
        "linear_regression",
    }
    assert "bigram_counts" in told["balls_and_urns symbols=4"]
    assert answer.text.count("best cell") == 3
    assert " to balls" not in answer.text


def test_they_are_drawn_with_learning_curves(sweep):
    cells = load.load_cells(sweep)
    urns = classify(cells[cells["symbols"] == 3])
    drawn = learning_curves.figure(
        load.load_curves(sweep), urns, yardsticks=load.load_yardsticks(sweep)
    )
    assert "bigram counts" in {text.get_text() for text in drawn.legends[0].get_texts()}


def test_images_are_not_compared_with(sweep, capsys):
    assert compare.main([str(sweep)]) == 1
    out, err = capsys.readouterr()
    assert out.count("no images; the reference: MNIST") == 3
    assert "no finished transformer cells to compare" in err


def test_a_sweep_of_several_families_has_its_conditions_in_common_with_itself(
    sweep, tmp_path, capsys
):
    assert compare.main([str(sweep), str(sweep)]) == 0
    assert capsys.readouterr().out.count("2 grid points in common") == 3
    make_results(tmp_path / "images", (8,), (1, 16), (0,))
    for sides in ([sweep, tmp_path / "images"], [tmp_path / "images", sweep]):
        assert compare.main([*map(str, sides)]) == 1
        assert "no condition in common: they differ in" in capsys.readouterr().err
