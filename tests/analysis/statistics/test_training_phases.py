"""Phases over training: what came, what went, and what was lost."""

from __future__ import annotations

import numpy as np
import pytest

from metaphase.analysis.load import load_cells, load_history
from metaphase.analysis.statistics.phases import classify
from metaphase.analysis.statistics.training_phases import onsets, over_training
from tests.tools.synthetic import make_results


@pytest.fixture
def tables(tmp_path):
    make_results(tmp_path / "s", (8,), (1, 4096), (0, 1),
                 lambda c: "memorizing" if c.num_tasks == 1 else "generalizing")  # fmt: skip
    return load_cells(tmp_path / "s"), load_history(tmp_path / "s")


def test_the_last_evaluation_is_the_cells_own_phase(tables):
    cells, history = tables
    found = over_training(cells, history)
    last = found.groupby("cell_id").last()["phase"].astype(str)
    assert last.to_dict() == classify(cells).set_index("cell_id")["phase"].astype(str).to_dict()
    assert len(found) == 3 * 4
    assert found["model_size"].notna().all()


def test_what_is_lost_is_transient(tables):
    cells, history = tables
    flat = history["cell_id"].map(cells.set_index("cell_id")["num_tasks"]).eq(4096)
    gone = flat & (history["step"] == history["step"].max())
    history.loc[gone, ["last", "improvement"]] = [0.2, 0.0]
    early = flat & (history["step"] == 0)
    history.loc[early, ["last", "improvement"]] = [0.2, 0.0]
    found = onsets(over_training(cells, history)).set_index(["num_tasks", "phase"])
    lost = found.loc[(4096, "generalizing")]
    middle, end = sorted(history["step"].unique())[1:]
    assert (lost["onset"] == middle).all()
    assert (lost["lost_by"] == end).all()
    assert lost["transient"].all()
    kept = found.loc[(1, "memorizing")]
    assert (kept["onset"] == 0).all()
    assert kept["lost_by"].isna().all()
    assert not kept["transient"].any()


def test_evaluations_without_numbers_and_cells_in_training_are_left_out(tables):
    cells, history = tables
    history.loc[history["cell_id"] == cells["cell_id"].iloc[0], ["last", "first"]] = np.nan
    found = over_training(cells.iloc[:3], history)
    assert set(found["cell_id"]) == set(cells["cell_id"].iloc[1:3])
