"""What maps show of the points that a search didn't train."""

import numpy as np
import pandas as pd
import pytest

import metaphase as mp
from metaphase.analysis import load, phase_plot
from metaphase.analysis.commands import report
from metaphase.analysis.figures import outcomes, phase_map, style
from metaphase.analysis.statistics.phases import classify
from metaphase.analysis.statistics.untrained import expected
from metaphase.core.phases import PHASES
from metaphase.sweeps.search_settings import Search
from metaphase.sweeps.store.results import Results
from metaphase.sweeps.store.searchfile import NAME
from metaphase.sweeps.store.sweepfile import write_settings
from tests.sweeps.search.test_seeking import BEGINS, SWEEP, train


@pytest.fixture
def searched(tmp_path):
    train(tmp_path, Search(budget=0.3))
    write_settings(Results(str(tmp_path), "sweep"), SWEEP.settings)
    return str(tmp_path / "sweep")


def test_what_is_expected_is_what_neighbours_say(searched):
    cells, grid = classify(load.load_cells(searched)), load.load_grid(searched)
    assert len(grid) == len(SWEEP.cells)
    found = expected(cells, grid, {})
    there = set(zip(cells["model_size"], cells["num_tasks"], strict=True))
    points = {(c.model_size, c.num_tasks) for c in SWEEP.cells}
    assert set(zip(found["model_size"], found["num_tasks"], strict=True)) == points - there
    assert len(there) < len(points)
    assert found["share"].between(1 / 3, 1).all()
    sure = found[found["share"] >= 0.8]
    assert len(sure) >= 0.5 * len(found)
    truth = np.log2(sure["num_tasks"]) > sure["model_size"].map(BEGINS)
    assert ((sure["phase"] == "generalizing") == truth).mean() > 0.9
    # A size of which nothing was trained learns from the others, and is less certain.
    without = expected(cells[cells["model_size"] != 8], grid, {})
    alone = without[without["model_size"] == 8]
    assert len(alone) == 9
    beside = found[found["model_size"] == 8]
    both = alone.merge(beside, on=["model_size", "num_tasks"], suffixes=("", "_known"))
    assert both["share"].mean() < both["share_known"].mean()
    assert expected(cells.assign(status="failed"), grid, {}).empty


def test_settings_are_compared_as_tables_have_them(searched):
    cells, grid = classify(load.load_cells(searched)), load.load_grid(searched)
    names = "glyphs,random"
    both = pd.concat([grid.assign(unseen_datasets=names), grid.assign(unseen_datasets="glyphs")])
    plain = expected(cells, grid, {})
    for value in (names, ["glyphs", "random"]):
        pd.testing.assert_frame_equal(expected(cells, both, {"unseen_datasets": value}), plain)
    assert expected(cells, both, {"unseen_datasets": "digits"}).empty
    absent = pd.concat([grid.assign(symbols=np.nan), grid.assign(symbols=3.0, num_tasks=2**20)])
    pd.testing.assert_frame_equal(expected(cells, absent, {"symbols": None}), plain)
    assert expected(cells, None, {}) is None


def test_maps_tell_it_from_data(searched):
    cells, grid = classify(load.load_cells(searched)), load.load_grid(searched)
    found = expected(cells, grid, {})
    table = phase_map.tile_table(cells, found)
    bands = table["outcome"] == outcomes.UNTRAINED_POINT
    assert bands.sum() == len(found)
    assert (~bands).sum() == len(cells)
    assert set(table["model_size"]) == {4, 8, 16}
    assert table["num_tasks"].nunique() == 9
    with style.context():
        figure = phase_map.figure(cells, None, "s", expected=found)
    texts = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert texts[-1] == outcomes.UNTRAINED_POINT
    light = [
        face
        for collection in figure.axes[0].collections
        for face in collection.get_facecolors()
        if 0 < face[3] < 1
    ]
    assert len(light) == len(found)
    assert max(face[3] for face in light) <= 0.4


def test_commands_and_python_show_it_for_searches_alone(searched, tmp_path, capsys):
    assert phase_plot.main([searched]) == 0
    out = capsys.readouterr().out
    assert "g, m expected, not trained" in out
    lines = [line.split("|")[1].split() for line in out.splitlines() if "|" in line]
    assert {len(line) for line in lines} == {9}
    assert {"g", "m"} < {mark for line in lines for mark in line}
    phases = pd.read_csv(f"{searched}/phases.csv")
    assert len(phases) == len(load.load_cells(searched))  # none but what was trained
    assert report.main([searched]) == 0
    with open(f"{searched}/report.html") as page:
        assert "expected, not trained" in page.read()
    assert "expected, not trained" in mp.load(searched).text_map()
    (tmp_path / "sweep" / NAME).unlink()
    capsys.readouterr()
    assert load.load_grid(searched) is None
    assert phase_plot.main([searched]) == 0
    assert "expected" not in capsys.readouterr().out


def test_a_preset_that_cant_be_read_is_said_and_left_out(searched, tmp_path):
    with open(f"{searched}/sweep.yaml", "a") as file:
        file.write("x: 1\n")
    with pytest.warns(load.ResultsWarning, match="search.json: .*checksum"):
        assert load.load_grid(searched) is None


def test_every_phase_has_a_small_letter():
    from metaphase.analysis.labels import LETTERS

    assert len({LETTERS[phase].lower() for phase in PHASES}) == len(PHASES)
