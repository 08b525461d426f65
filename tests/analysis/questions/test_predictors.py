"""Maps of the relative distance, losses beside the predictors', and the strategy model."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from metaphase.analysis.figures import loss_curves, relative_maps, style
from metaphase.analysis.load import load_cells, load_curves, load_history
from metaphase.analysis.questions import predictors, registry
from metaphase.analysis.questions import strategies as question
from metaphase.analysis.statistics import relative_distance as relative
from metaphase.analysis.statistics import strategies
from metaphase.analysis.statistics.phases import classify
from metaphase.core import phase_rules
from tests.analysis.questions import change, draw
from tests.tools import predictor_tree, synthetic


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """(classified cells, history, curves) of two sizes and MLP ratios."""
    path = tmp_path_factory.mktemp("results") / "urns"
    predictor_tree.make(
        path, (8, 32), (4, 64, 256), (0,), n=96, settings=({"mlp_ratio": 2}, {"mlp_ratio": 4})
    )
    return classify(load_cells(path)), load_history(path), load_curves(path)


@pytest.fixture(scope="module")
def answers(tree):
    cells, history, curves = tree
    found = [*predictors.find(cells, history, curves), *question.find(cells, history)]
    return {answer.name: answer for answer in found}


def test_which_answers_there_are(answers):
    of_each = ("relative_distance", "relative_distance-training", "relative_distance-context",
               "loss_curves", "strategies", "strategies_map")  # fmt: skip
    for name in of_each:
        assert {f"{name}-mlp_ratio=2", f"{name}-mlp_ratio=4"} <= set(answers), name
    assert "relative_distance-mlp_ratio" in answers
    assert len(answers) == 2 * len(of_each) + 1


def test_every_figure_can_be_drawn(answers):
    for name in ("relative_distance-mlp_ratio=2", "relative_distance-training-mlp_ratio=2",
                 "relative_distance-mlp_ratio", "strategies_map-mlp_ratio=4"):  # fmt: skip
        texts = {t.get_text() for ax in draw(answers[name]).axes for t in ax.get_yticklabels()}
        assert {"0: M", "1: G"} <= texts, name
    figure = draw(answers["loss_curves-mlp_ratio=2"])
    for ax in figure.axes:
        assert {t.get_text() for t in ax.texts} == {
            "M",
            "G",
            "none",
            "oracle",
        }  # at the ends of their lines


def test_the_table_over_training_has_every_evaluation(tree, answers):
    table = answers["relative_distance-training-mlp_ratio=2"].table
    assert len(table) == 2 * 3 * len(predictor_tree.STEPS)
    _, history, _ = tree
    of_one = history[(history["split"] == "unseen")]
    row = table.iloc[0]
    cells = tree[0].query("mlp_ratio == 2 and model_size == 8 and num_tasks == 4")
    there = of_one[of_one["cell_id"].isin(cells["cell_id"]) & (of_one["step"] == row["step"])]
    assert row["relative_distance"] == pytest.approx(there["relative_distance"].mean())


def test_means_over_seeds_count_those_without_a_number():
    rows = pd.DataFrame(
        {
            "status": "done", "num_tasks": [1, 1, 1, 2], "unseen_distance_between": 0.1,
            "unseen_relative_distance": [0.2, 0.4, np.nan, np.nan],
            "phase": ["memorizing", "generalizing", None, None],
        }
    )  # fmt: skip
    found = relative.of_cells(rows, ["num_tasks"]).set_index("num_tasks")
    assert found.loc[1, "relative_distance"] == pytest.approx(0.3)
    assert list(found["unknown"]) == [1, 1]
    assert list(found["not_computed"]) == [0, 0]
    assert list(found["seeds"]) == [3, 1]
    assert np.isnan(found.loc[2, "relative_distance"])
    assert found.loc[1, "phase"] == "memorizing"  # the least capable of those that tie
    assert pd.isna(found.loc[2, "phase"])


def test_boundaries_are_the_sides_between_tiles_of_different_phases():
    table = pd.DataFrame(
        {"num_tasks": [1, 2, 4, 1, 2, 4], "model_size": [8, 8, 8, 16, 16, 16], "seeds": 1,
         "relative_distance": 0.5, "phase": ["a", "a", "b", "a", None, "b"]}
    )  # fmt: skip
    tiles = relative_maps.tile_table(table, "num_tasks", "model_size")
    lines = relative_maps.boundary_lines(tiles)
    assert lines.tolist() == [[[1.5, 2.5], [1.5, 3.5]]]  # beside 4 tasks at size 8, alone


def test_names_at_ends_keep_apart_and_in_order():
    moved = loss_curves.spread(np.array([1.0, 1.01, 0.99, 5.0]), 0.2)
    assert (np.diff(np.sort(moved)) >= 0.2 - 1e-6).all()
    assert list(np.argsort(moved)) == [2, 0, 1, 3]
    assert moved[3] == 5.0


def test_names_at_ends_stand_above_the_axis():
    """Three predictors that end at the least loss: their names were written across the axis."""
    rows = [
        {"model_size": 8, "seed": 0, "position": t, "loss": 2.0 / t, "loss_memorizing": 0.0,
         "loss_generalizing": 0.01, "loss_oracle": 0.0}
        for t in range(1, 9)
    ]  # fmt: skip
    ax = Figure(figsize=(3, 2), dpi=100).subplots()
    loss_curves.draw(pd.DataFrame(rows), ax, {8.0: np.zeros(4)})
    ax.figure.canvas.draw()
    names = [text.get_window_extent() for text in ax.texts]
    assert len(names) == 3
    assert min(box.y0 for box in names) >= ax.bbox.y0


def test_nothing_is_told_without_predictors(tmp_path):
    synthetic.make_results(tmp_path / "s", (8,), (1, 64), (0,), n=64)
    cells = classify(load_cells(tmp_path / "s"))
    found = registry.find(cells, load_history(tmp_path / "s"), curves=load_curves(tmp_path / "s"))
    assert not [a.name for a in found if a.name.startswith(("relative", "loss", "strat"))]


def test_the_strategy_model_finds_what_made_the_data():
    rng = np.random.default_rng(0)
    keys = [(n, step) for n in (4, 16, 64, 256, 1024) for step in (100, 300, 1000, 3000, 10_000)]
    points = pd.DataFrame(keys, columns=["num_tasks", "step"])
    points = points.assign(
        model_size=8, seed=0, gain=0.3 * points["num_tasks"] ** -0.5,
        bits=points["num_tasks"] * 8 * 32.0,
    )  # fmt: skip
    truth = strategies.Strategy(alpha=0.4, beta=0.25, gamma=2.0)
    w = truth.relative_distance(points)
    assert w[points["num_tasks"] == 4].min() < 0.1
    assert w[points["num_tasks"] == 1024].max() > 0.9
    points["relative_distance"] = np.clip(w + rng.normal(0, 0.02, len(w)), 0, 1)
    found = strategies.fit(points)
    assert found.alpha == pytest.approx(truth.alpha, abs=0.1)
    assert found.beta == pytest.approx(truth.beta, abs=0.05)
    fits, told = strategies.summary(points)
    assert fits["held_out_correlation"].iloc[0] > 0.95
    assert told["held_out"].notna().all()
    shuffled = points.assign(relative_distance=rng.permutation(points["relative_distance"]))
    assert strategies.summary(shuffled)[0]["held_out_correlation"].iloc[0] < 0.6


def made_points(alpha, beta, gamma):
    """Of 11 numbers of tasks and 30 steps, with noise of 0.02."""
    rng = np.random.default_rng(0)
    grid = [
        (n, k) for n in 2 ** np.arange(2, 13) for k in np.unique(np.geomspace(20, 1e5, 30) // 1)
    ]
    found = pd.DataFrame(grid, columns=["num_tasks", "step"]).astype(int)
    found = found.assign(
        model_size=8, seed=0, gain=0.3 * found["num_tasks"] ** -0.5, bits=256.0 * found["num_tasks"]
    )
    w = strategies.Strategy(alpha, beta, gamma).relative_distance(found)
    return found.assign(relative_distance=np.clip(w + 0.02 * rng.standard_normal(len(w)), 0, 1))


@pytest.mark.parametrize("truth", [(0.9, 0.5, 1000), (0.9, 0.45, 500), (0.85, 0.55, 2000)])
def test_fits_are_as_good_as_the_truth_in_every_fold(truth):
    points = made_points(*truth)
    for fold in range(4):
        left = points[points["num_tasks"].rank(method="dense").astype(int) % 4 != fold]
        wrong = [
            np.square(found.relative_distance(left) - left["relative_distance"]).sum()
            for found in (strategies.fit(left), strategies.Strategy(*truth))
        ]
        assert wrong[0] < 1.05 * wrong[1]


def test_parameters_at_their_bounds_are_said():
    points = made_points(0.4, 0.25, 2.0)
    assert strategies.summary(points)[0]["at_bounds"].iloc[0] == ""
    backwards = points.assign(step=points["step"].max() + 1 - points["step"])
    fits, _ = strategies.summary(backwards)
    assert fits["alpha"].between(0, 1).all()
    assert fits["at_bounds"].iloc[0]
    assert "at the end of what is allowed" in question.describe(fits, "")


def test_cells_on_their_plateau_are_no_points(tree):
    cells, history, _ = tree
    all_of_them = strategies.points_table(cells, history)
    late = cells.assign(on_plateau=cells["num_tasks"] == 4)
    assert set(strategies.points_table(late, history)["num_tasks"]) == {64, 256}
    assert set(all_of_them["num_tasks"]) == {4, 64, 256}


def test_numbers_of_a_task_by_family():
    assert strategies._numbers({"task_family": "balls_and_urns", "symbols": 12}) == 12
    assert strategies._numbers({"task_family": "markov_chains", "states": 10}) == 100
    assert strategies._numbers({"task_family": "mine.py:Own@1"}) == 8


def test_phases_by_both_rules_where_both_apply(tree):
    """M beats guesses on new tasks too, so accuracy calls it generalizing."""
    cells, _, _ = tree
    accuracy = classify(cells, rule=phase_rules.load("accuracy"))
    few = cells["num_tasks"] == 4
    assert (cells.loc[few, "phase"] == "identifying").all()
    assert (accuracy.loc[few, "phase"] == "generalizing").all()
    many = (cells["num_tasks"] == 256) & (cells["model_size"] == 8)
    assert (cells.loc[many, "phase"] == "generalizing").all()


def test_tiles_without_a_number_say_why():
    table = pd.DataFrame(
        {"num_tasks": [1, 2, 2**21], "model_size": 8, "relative_distance": [0.1, np.nan, np.nan],
         "seeds": 1, "not_computed": [0, 0, 1]}
    )  # fmt: skip
    with style.context("column"):
        figure = relative_maps.figure(table, "num_tasks", "model_size")
        figure.draw_without_rendering()
    named = [t.get_text() for t in figure.legends[0].get_texts()]
    assert named == ["can't be told", "M isn't computed"]


def test_cells_with_too_many_tasks_for_m_are_shown_and_counted(tree):
    cells, _, curves = tree
    lost = cells["num_tasks"] == 256
    many = cells.assign(num_tasks=cells["num_tasks"].mask(lost, 2**21))
    of_m = [
        n for n in cells if "distance" in n and not n.endswith(("_generalizing", "_no_context"))
    ]
    many.loc[lost, [n for n in of_m if n.startswith("unseen")]] = np.nan
    found = relative.of_cells(classify(many), ["num_tasks"]).set_index("num_tasks")
    assert list(found["not_computed"] == found["seeds"]) == [False, False, True]
    assert list(found["unknown"]) == [0, 0, 0]
    gone = curves["cell_id"].isin(cells.loc[lost, "cell_id"])
    names = ["distance_between", "distance_memorizing", "relative_distance"]
    context = relative.over_context(curves.assign(**{n: curves[n].mask(gone) for n in names}), many)
    assert context.loc[context["num_tasks"] == 2**21, "not_computed"].min() == 2


def test_columns_that_hold_no_numbers_are_as_if_they_said_nothing(tmp_path):
    path = predictor_tree.make(tmp_path / "s", (8,), (4, 64), (0,), n=16)
    for table in ("cells", "history", "curves"):
        change(path, table, _spoilt)
    cells = classify(load_cells(path))
    assert cells["phase"].notna().all()  # by accuracy
    assert not list(predictors.find(cells, load_history(path), load_curves(path)))


def _spoilt(frame):
    names = [n for n in frame if "distance" in n or n.startswith("loss_")]
    return frame.assign(**dict.fromkeys(names, "much"))
