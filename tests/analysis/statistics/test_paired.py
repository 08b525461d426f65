"""Two sweeps: differences paired by seed, transitions side by side."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from metaphase.analysis.commands import compare, compare_sweeps
from metaphase.analysis.load import ResultsError, load_cells
from metaphase.analysis.statistics import paired
from metaphase.analysis.statistics.phases import classify
from metaphase.analysis.statistics.transitions import estimate_transitions
from metaphase.core.phase_rules import NO_PHASE
from metaphase.core.thresholds import UNCLEAR
from tests.tools.synthetic import make_results

TASKS = [4**k for k in range(7)]


def after(log2_num_tasks):
    def truth(cell):
        return "generalizing" if np.log2(cell.num_tasks) > log2_num_tasks else "identifying"

    return truth


@pytest.fixture(scope="module")
def sweeps(tmp_path_factory):
    root = tmp_path_factory.mktemp("two")
    make_results(root / "a", (8, 16), TASKS, (0, 1, 2), after(5))
    make_results(root / "b", (8, 16, 32), TASKS, (1, 2, 3), after(9), random_seed=1)
    return root / "a", root / "b"


def test_points_are_paired_by_seed(sweeps):
    a, b = (classify(load_cells(path)) for path in sweeps)
    points = paired.compare_points(a, b)
    assert (points["seeds"] == 2).all()  # 1 and 2
    assert set(points["model_size"]) == {8, 16}
    at = points.set_index(["model_size", "num_tasks"]).loc[(8, 256)]
    own, other = (
        cells.query("model_size == 8 and num_tasks == 256").set_index("seed")["unseen_last"]
        for cells in (a, b)
    )
    differences = (other - own).dropna()
    assert at["unseen_difference"] == pytest.approx(differences.mean())
    half = 12.706 * differences.std() / np.sqrt(2)  # t with 1 degree of freedom
    assert at["unseen_high"] - at["unseen_low"] == pytest.approx(2 * half, rel=1e-3)
    assert at["phases_first"] == "2 generalizing"
    assert at["phases_second"] == "2 identifying"
    with pytest.raises(ResultsError, match="no cell in common"):
        paired.compare_points(a[a["seed"] == 0], b)


def test_transitions_stand_side_by_side(sweeps):
    found = [estimate_transitions(classify(load_cells(path))) for path in sweeps]
    table = paired.compare_transitions(*found)
    rows = table[(table["begins"] == "generalizing") & (table["model_size"] == 8)]
    row = rows.iloc[0]
    assert row["first"] == pytest.approx(5, abs=0.5)
    assert row["second"] == pytest.approx(9, abs=0.5)
    assert row["low"] < row["shift"] < row["high"]
    assert row["shift"] == row["second"] - row["first"]
    beside = [row["shift"] - row["low"], row["high"] - row["shift"]]
    assert max(beside) < 4  # octaves, two gaps of the grid
    alone = table[table["model_size"] == 32]
    assert alone["first"].isna().all()


def test_seeds_without_a_phase_are_counted(sweeps):
    a, b = (classify(load_cells(path)) for path in sweeps)
    a.loc[a["seed"] == 1, "phase"] = None
    points = paired.compare_points(a, b).set_index(["model_size", "num_tasks"])
    assert points.loc[(8, 256), "phases_first"] == f"1 generalizing, 1 {NO_PHASE}"


def test_nothing_is_claimed_of_a_transition_that_is_unclear(sweeps):
    found = [estimate_transitions(classify(load_cells(path))) for path in sweeps]
    found[0]["clear"] = False
    table = paired.compare_transitions(*found)
    rows = table[table["model_size"] == 8]
    assert rows[["first", "first_low", "first_high", "shift"]].isna().all(axis=None)
    assert (rows["first_censored"] == UNCLEAR).all()
    assert rows["second_censored"].isin(["", "above", "below"]).all()


def test_one_seed_in_common_tells_no_intervals(sweeps, tmp_path, capsys):
    make_results(tmp_path / "c", (8,), TASKS, (3,), after(5))
    compare.main([str(sweeps[1]), str(tmp_path / "c"), "--out", str(tmp_path / "out")])
    assert "no intervals, as no point has 2 seeds in common" in capsys.readouterr().out


def test_the_command_writes_both_sides(sweeps, capsys):
    a, b = sweeps
    assert compare.main([str(a), str(b), "--width", "column"]) == 0
    out = capsys.readouterr().out
    assert "b beside a: 14 grid points in common" in out
    assert "generalizing begins 2^5" in out
    points = pd.read_csv(a / "compare-b.csv")
    assert len(points) == 14
    assert len(pd.read_csv(a / "compare-b-transitions.csv")) >= 6
    assert (a / "figures" / "compare-b.png").read_bytes()[1:4] == b"PNG"
    assert compare.main([str(a), str(b), "--reference", "kirsch2022-figure2"]) == 1
    assert capsys.readouterr().err.count("\n") == 1


def test_confidence_decides_the_phases_of_both_sides(sweeps, monkeypatch, capsys):
    asked = []
    classify = compare_sweeps.phases.classify

    def recorded(cells, delta, confidence, **more):
        asked.append(confidence)
        return classify(cells, delta, confidence, **more)

    monkeypatch.setattr(compare_sweeps.phases, "classify", recorded)
    a, b = map(str, sweeps[:2])
    assert compare.main([a, b, "--confidence", "0.5"]) == 0
    assert asked == [0.5, 0.5]
    assert compare.main([a, "--confidence", "0.5"]) == 1
    assert capsys.readouterr().err.startswith("error: --confidence: published numbers have")


def test_conditions_are_paired_by_what_tells_them_apart(sweeps, tmp_path, capsys):
    settings = ({"learning_rate": 1e-3}, {"learning_rate": 3e-3})
    make_results(tmp_path / "c", (8,), (1, 16), (0, 1), after(2), settings=settings)
    make_results(tmp_path / "d", (8,), (1, 16), (0, 1), after(2), settings=settings[1:])
    assert compare.main([str(tmp_path / "c"), str(tmp_path / "d")]) == 0
    assert (tmp_path / "c" / "compare-d-learning_rate=0.003.csv").exists()
    assert not (tmp_path / "c" / "compare-d-learning_rate=0.001.csv").exists()
    make_results(
        tmp_path / "e", (8,), (1, 16), (0, 1), after(2), settings=({"learning_rate": 0.1},)
    )
    assert compare.main([str(tmp_path / "c"), str(tmp_path / "e")]) == 1
    assert "no condition in common" in capsys.readouterr().err
