"""Classification of tables with known answers, near the thresholds too."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from metaphase.analysis.load import ResultsError, load_cells
from metaphase.analysis.statistics import phases
from metaphase.core.phase_rules import outcome_of
from metaphase.core.phases import PHASES
from tests.tools import synthetic
from tests.tools.synthetic import make_results


def table(**columns) -> pd.DataFrame:
    """Cells with the given statistics; what is not given is that of an untrained cell."""
    length = max(np.size(v) for v in columns.values())
    row = {
        "architecture": "transformer", "model_size": 32, "num_tasks": 16, "status": "done",
        "chance": 0.2, "n": 512, "num_classes": 5, "sequence_length": 16, "dataset": "glyphs",
        "seen_first": 0.2, "seen_first_se": 0.018, "seen_last": 0.2, "seen_last_se": 0.012,
        "seen_improvement": 0.0, "seen_improvement_se": 0.02, "train_loss": 1.0,
        "unseen_last": 0.2, "unseen_last_se": 0.012,
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


def test_improvement_counts_from_delta_on_if_its_interval_excludes_zero():
    phase = "identifying"
    improvement = np.array([0.0499, 0.0501, 0.0501, 0.2, 0.2, -0.5])
    error = np.array([0.001, 0.001, 0.025, 0.07, 0.08, 0.001])  # 0.2 / 0.07 = 2.86, / 0.08 = 2.5
    frame = table(seen_improvement=improvement, seen_improvement_se=error, seen_last=0.5)
    no = "untrained"
    assert phases_of(frame, confidence=0.99) == [no, phase, no, phase, no, no]
    assert phases_of(frame, confidence=0.95) == [no, phase, phase, phase, phase, no]
    assert phases_of(frame, delta=0.1) == [no, no, no, phase, no, no]


def test_new_tasks_count_from_delta_above_their_level_on_if_the_interval_excludes_it():
    last = np.array([0.2499, 0.2501, 0.2501, 0.32, 0.32])
    error = np.array([0.001, 0.001, 0.03, 0.04, 0.05])
    frame = table(unseen_last=last, unseen_last_se=error, n=100)
    yes, no = "generalizing", "untrained"
    # few sequences say at least so much: with n = 100 errors below 0.04 are of several positions
    assert phases_of(frame, confidence=0.95) == [no, yes, no, yes, yes]
    assert phases_of(frame, confidence=0.99)[:4] == [no, yes, no, yes]
    assert phases_of(frame, delta=0.1) == [no, no, no, yes, yes]
    assert phases_of(frame.assign(unseen_level=0.21), confidence=0.95)[:3] == [no, no, no]
    assert phases_of(frame.assign(unseen_level=[0.19] + [np.nan] * 4))[0] == yes


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
        seen_last=[0.9, 0.8, 0.8, 0.8],
        unseen_last=[0.2, 0.2, 0.4, 0.5],
    )
    expected = ["memorizing", "identifying", "generalizing", "generalizing"]
    assert phases_of(frame) == expected
    ordered = phases.classify(frame)["phase"]
    assert list(ordered > "memorizing") == [False, True, True, True]


def test_cells_that_did_not_finish_have_no_phase_and_keep_their_status():
    frame = table(
        status=["diverged", "failed", "diverged"],
        unseen_last=[0.5, np.nan, np.nan],
        seen_first=[0.9, np.nan, np.nan],
        chance=[0.2, np.nan, 0.2],
        n=[512, np.nan, 512],
    )
    found = phases.classify(frame)
    assert found["phase"].isna().all()
    assert not found[["decided", "on_plateau"]].any().any()
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
             "identifying", None, None, None], list(PHASES), ordered=True,
        ),
        decided=[True, True, False, False, True, False, False, False, False],
        on_plateau=[False] * 9,
    )  # fmt: skip
    points = phases.summarize_grid(frame).set_index("num_tasks")
    assert list(points["phase"].astype(object)[:3]) == ["generalizing", "memorizing", "identifying"]
    assert points["phase"].isna().tolist() == [False, False, False, True]
    assert list(points["generalizing_share"])[:3] == pytest.approx([2 / 3, 0.5, 0.0])
    assert list(points["decided_share"])[:3] == pytest.approx([2 / 3, 0.5, 0.0])
    assert points.loc[64, ["untrained_share", "decided_share"]].isna().all()
    assert list(points["finished"]) == [3, 2, 1, 0]
    assert list(points["failed"]) == [0, 0, 0, 1]
    assert list(points["diverged"]) == [0, 0, 1, 1]
    assert list(points["missing"]) == [0, 1, 1, 1]
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


def test_cells_on_their_plateau_are_counted_and_keep_their_phase():
    frame = table(train_loss=[1.609, 1.609, 1.55, np.nan], unseen_last=[0.2, 0.4, 0.2, 0.2])
    found = phases.classify(frame)
    assert list(found["on_plateau"]) == [True, False, False, False]
    assert list(found["phase"]) == ["untrained", "generalizing", "untrained", "untrained"]
    assert not phases.classify(frame.drop(columns="train_loss"))["on_plateau"].any()
    assert list(phases.summarize_grid(found)["on_plateau"]) == [1]


def test_a_plateau_is_at_the_loss_without_context_of_the_tasks_trained_on():
    """The N that were drawn may lose more or less than all do that can be: as `outcome_of` says."""
    frame = table(
        train_loss=[1.45, 1.7, 1.609], guess_loss=1.609, train_loss_no_context=[1.45, 2.0, np.nan]
    )
    found = phases.classify(frame)
    assert list(found["on_plateau"]) == [True, False, True]
    assert list(found["guess_loss"]) == [1.609] * 3
    told = [outcome_of(row) == "not trained long enough" for row in frame.to_dict("records")]
    assert told == list(found["on_plateau"])


def test_levels_are_the_cells_own_or_follow_from_their_settings():
    frame = table(
        dataset=["glyphs", "digits", "SVHN", "glyphs"], unseen_level=[np.nan, np.nan, 0.33, np.nan],
        chance=[0.2, 37 / 180, 0.3, 0.25],
    ).set_index(pd.Index([5, 3, 8, 1]))  # fmt: skip
    level = phases.new_task_level(frame)
    assert list(level.index) == [5, 3, 8, 1]
    assert list(level.round(4)) == [0.2, 0.2001, 0.33, 0.25]


def test_phases_over_delta():
    frame = table(unseen_last=[0.24, 0.3, 0.45])
    found = phases.by_delta(frame).pivot(index="seed", columns="delta", values="phase")
    assert tuple(found.columns) == phases.DELTAS
    generalizing = (found.astype(object) == "generalizing").sum(axis=1)
    assert list(generalizing) == [2, 4, 7]


def test_the_row_and_the_table_of_a_stored_tree_of_before_agree():
    """Its files say neither level nor loss of a guess; nothing is trained again."""
    tree = Path(__file__).parents[3] / "results/reference/quickstart"
    cells = load_cells(tree)
    found = phases.classify(cells.drop(columns=["unseen_level", "guess_loss"], errors="ignore"))
    assert list(found["unseen_level"].round(3).unique()) == [0.2]
    outcome = found["phase"].astype(object).mask(found["on_plateau"], "not trained long enough")
    assert [outcome_of(row) for row in cells.to_dict("records")] == list(outcome)
    plateau = found[found["on_plateau"]]
    assert set(plateau["model_size"]) == {4}
    assert set(plateau["num_tasks"]) == {1024, 4096}


def test_the_level_of_a_split_is_that_of_its_images():
    cells = table(seen_last=[0.5, 0.5], chance=0.1135, num_classes=10, sequence_length=100,
                  unseen_level=0.102)  # fmt: skip
    assert phases.level_of_split(cells, "seen").tolist() == [0.1135] * 2
    assert phases.level_of_split(cells, "unseen").tolist() == [0.102] * 2
    assert phases.level_of_split(cells, "unseen/SVHN").to_numpy() == pytest.approx(0.181, abs=0.002)
    assert phases.level_of_split(cells, "unseen/mine").tolist() == [0.102] * 2
