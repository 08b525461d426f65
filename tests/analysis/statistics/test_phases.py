"""Classification of tables with known answers, near the thresholds too."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from metaphase.analysis.load import ResultsError, load_cells
from metaphase.analysis.statistics import phases
from metaphase.core.phases import PHASES
from tests.tools import synthetic
from tests.tools.synthetic import make_results


def table(**columns) -> pd.DataFrame:
    """Cells with the given statistics; what is not given is that of an untrained cell."""
    length = max(np.size(v) for v in columns.values())
    row = {
        "architecture": "transformer", "model_size": 32, "num_tasks": 16, "status": "done",
        "chance": 0.2, "n": 512, "seen_first": 0.2, "seen_first_se": 0.018,
        "seen_improvement": 0.0, "seen_improvement_se": 0.02,
        "unseen_improvement": 0.0, "unseen_improvement_se": 0.02,
    }  # fmt: skip
    frame = pd.DataFrame({k: np.broadcast_to(v, length) for k, v in (row | columns).items()})
    return frame.assign(seed=range(length), cell_id=[f"{i:016x}" for i in range(length)])


def phases_of(frame: pd.DataFrame, **settings) -> list[str]:
    return list(phases.classify(frame, **settings)["phase"].astype(str))


@pytest.mark.parametrize("phase", PHASES)
def test_simulated_cells_get_their_phase(tmp_path, phase):
    make_results(tmp_path / "s", (8, 16), (1, 16, 256), range(5), truth=lambda cell: phase)
    found = phases.classify(load_cells(tmp_path / "s"))["phase"]
    wrong = (found != phase).sum()
    assert wrong <= (1 if phase != "generalizing" else 0)  # of 30; chance calls, 1% a cell at most


def test_synthetic_statistics_are_those_of_the_meta_trainer():
    from metaphase.core.evaluation.metrics import split_metrics

    correct = np.random.default_rng(0).random((50, 24)) < 0.4
    metrics = split_metrics(
        torch.zeros(1, 50, 24), torch.tensor(correct)[None], torch.tensor([False])
    )
    row = metrics.row(0)
    expected = synthetic.statistics(correct)
    assert {k: row[k] for k in expected} == pytest.approx(expected)


@pytest.mark.parametrize("split", ["seen", "unseen"])
def test_improvement_counts_from_delta_on_if_its_interval_excludes_zero(split):
    phase = {"seen": "identifying", "unseen": "generalizing"}[split]
    improvement = np.array([0.0499, 0.0501, 0.0501, 0.2, 0.2, -0.5])
    error = np.array([0.001, 0.001, 0.025, 0.07, 0.08, 0.001])  # 0.2 / 0.07 = 2.86, / 0.08 = 2.5
    frame = table(**{f"{split}_improvement": improvement, f"{split}_improvement_se": error})
    no = "untrained"
    assert phases_of(frame, confidence=0.99) == [no, phase, no, phase, no, no]
    assert phases_of(frame, confidence=0.95) == [no, phase, phase, phase, phase, no]
    assert phases_of(frame, delta=0.1) == [no, no, no, phase, no, no]


def test_memorizing_starts_above_chance_by_delta_if_the_score_test_rejects_chance():
    first = np.array([0.2499, 0.2501, 0.30, 0.30, 0.1])
    n = np.array([100_000, 100_000, 400, 200, 400])
    # score test at 0.30 against 0.2: z = 0.1 / sqrt(0.16 / n) = 5 at 400, 3.5 at 200; 2.5 at 100
    expected = ["untrained", "memorizing", "memorizing", "memorizing", "untrained"]
    assert phases_of(table(seen_first=first, n=n)) == expected
    assert phases_of(table(seen_first=0.30, n=100)) == ["untrained"]
    assert phases_of(table(seen_first=0.30, n=100), confidence=0.95) == ["memorizing"]
    assert phases_of(table(seen_first=0.30, n=400, chance=0.27)) == ["untrained"]


def test_the_most_capable_phase_wins():
    frame = table(
        seen_first=[0.9, 0.5, 0.5, 0.9],
        seen_improvement=[0.0, 0.3, 0.3, -0.1],
        unseen_improvement=[0.0, 0.0, 0.2, 0.3],
    )
    expected = ["memorizing", "identifying", "generalizing", "generalizing"]
    assert phases_of(frame) == expected
    ordered = phases.classify(frame)["phase"]
    assert list(ordered > "memorizing") == [False, True, True, True]


def test_cells_that_did_not_finish_are_untrained_and_keep_their_status():
    frame = table(
        status=["diverged", "failed", "diverged"],
        unseen_improvement=[0.5, np.nan, np.nan],
        seen_first=[0.9, np.nan, np.nan],
        chance=[0.2, np.nan, 0.2],
        n=[512, np.nan, 512],
    )
    found = phases.classify(frame)
    assert list(found["phase"]) == ["untrained"] * 3
    assert list(found["status"]) == ["diverged", "failed", "diverged"]


def test_rows_and_index_are_kept():
    frame = table(seen_first=[0.9, 0.2]).set_index(pd.Index([7, 3]))
    found = phases.classify(frame)
    assert list(found.index) == [7, 3]
    pd.testing.assert_frame_equal(found[frame.columns], frame)


@pytest.mark.parametrize("setting", [{"delta": -0.1}, {"delta": 1.0}, {"confidence": 1.0}])
def test_impossible_settings_are_refused(setting):
    with pytest.raises(ValueError, match=f"{next(iter(setting))}: .*allowed"):
        phases.classify(table(seen_first=0.9), **setting)


def test_a_grid_point_shows_its_majority_and_ties_go_to_the_less_capable():
    frame = table(seen_first=0.2, num_tasks=[1, 1, 1, 4, 4, 16, 16, 64, 64]).assign(
        seed=[0, 1, 2, 0, 1, 0, 1, 0, 1],
        status=["done"] * 6 + ["diverged", "failed", "diverged"],
        phase=pd.Categorical(
            ["generalizing", "identifying", "generalizing", "generalizing", "memorizing",
             "identifying", "untrained", "untrained", "untrained"], list(PHASES), ordered=True,
        ),
    )  # fmt: skip
    points = phases.summarize_grid(frame).set_index("num_tasks")
    assert list(points["phase"]) == ["generalizing", "memorizing", "identifying", "untrained"]
    assert list(points["agreement"].round(3))[:3] == [0.667, 0.5, 1.0]
    assert np.isnan(points.loc[64, "agreement"])
    assert list(points["seeds"]) == [3, 2, 2, 2]
    assert list(points["unfinished"]) == [0, 0, 1, 2]
    assert list(points.loc[1, list(PHASES)]) == [0, 0, 1, 2]
    assert list(points.loc[64, list(PHASES)]) == [0, 0, 0, 0]


def test_other_settings_make_their_own_maps(tmp_path):
    make_results(
        tmp_path / "s", (8, 16), (1, 16), (0,),
        settings=({"learning_rate": 1e-3}, {"learning_rate": 3e-3}),
    )  # fmt: skip
    cells = phases.classify(load_cells(tmp_path / "s"))
    with pytest.raises(ResultsError, match="more than"):
        phases.summarize_grid(cells)
    conditions = phases.split_conditions(cells)
    assert [c for c, _ in conditions] == [{"learning_rate": 1e-3}, {"learning_rate": 3e-3}]
    assert [len(group) for _, group in conditions] == [4, 4]
    for _, group in conditions:
        assert len(phases.summarize_grid(group)) == 4


def test_settings_that_follow_an_axis_belong_to_it(tmp_path):
    make_results(tmp_path / "s", (8, 16, 32), (1, 16), (0, 1))
    cells = load_cells(tmp_path / "s")
    assert cells["key_size"].nunique() == 3  # follows the model size
    cells["steps"] = cells["num_tasks"] * 100
    cells["learning_rate"] = 1 / cells["model_size"]
    ((condition, group),) = phases.split_conditions(cells)
    assert condition == {}
    assert len(group) == 12


def test_lists_among_the_settings_and_several_architectures(tmp_path):
    make_results(tmp_path / "s", (8,), (1, 16), (0, 1))
    cells = load_cells(tmp_path / "s")
    twice = pd.concat(
        [cells, cells.assign(unseen_datasets="MNIST"),
         cells.assign(architecture="lstm")], ignore_index=True,
    )  # fmt: skip
    conditions = phases.split_conditions(twice)
    assert [tuple(c.values()) for c, _ in conditions] == [
        ("lstm", ""), ("transformer", ""), ("transformer", "MNIST")
    ]  # fmt: skip
