"""Phases over training: onset, loss, transience, and the cells as of a step."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from metaphase.analysis.load import load_cells, load_history
from metaphase.analysis.statistics import training_phases
from metaphase.analysis.statistics.phases import classify
from tests.analysis.questions import draw, find
from tests.tools.synthetic import make_results

STEPS = (100, 200, 400, 800)
GENERALIZES = {"lasting": (0, 1, 1, 1), "transient": (0, 1, 1, 0), "never": (0, 0, 0, 0)}


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    """A cell of each kind, at 1, 4 and 16 tasks; what isn't generalizing is identifying."""
    path = tmp_path_factory.mktemp("training") / "s"
    kinds = dict(zip((1, 4, 16), GENERALIZES, strict=True))
    make_results(
        path, (8,), tuple(kinds), (0,),
        lambda c: "generalizing" if GENERALIZES[kinds[c.num_tasks]][-1] else "identifying",
    )  # fmt: skip
    cells = load_cells(path)
    for cell_id, tasks in zip(cells["cell_id"], cells["num_tasks"], strict=True):
        file = path / "history" / f"{cell_id}.parquet"
        last = pd.read_parquet(file).query("step == step.max()")
        parts = []
        for step, reached in zip(STEPS, GENERALIZES[kinds[tasks]], strict=True):
            rows = last.assign(step=step)
            seen = rows[rows["split"] == "seen"].iloc[0]
            value = seen["last"] if reached else seen["first"]
            unseen = rows["split"] == "unseen"
            rows.loc[unseen, ["first", "last"]] = seen["first"], value
            rows.loc[unseen, "improvement"] = value - seen["first"]
            parts.append(rows)
        pd.concat(parts).to_parquet(file, index=False)
    return path


def classified(path):
    return classify(training_phases.evaluations(load_cells(path), load_history(path)))


def test_every_evaluation_is_classified_by_the_one_rule(sweep):
    table = classified(sweep).sort_values(["num_tasks", "step"])
    assert list(table["step"]) == list(STEPS) * 3
    want = [reached for kind in GENERALIZES.values() for reached in kind]
    assert list(table["phase"] == "generalizing") == [bool(reached) for reached in want]
    assert (table["steps_trained"] == table["step"]).all()


def test_onset_loss_and_transience(sweep):
    found = training_phases.onsets(classified(sweep)).set_index(["num_tasks", "phase"])
    assert found.loc[(1, "generalizing"), "onset"] == 200
    assert pd.isna(found.loc[(1, "generalizing"), "lost"])
    assert found.loc[(4, "generalizing"), ["onset", "lost"]].tolist() == [200, 800]
    assert (16, "generalizing") not in found.index
    transient = found.groupby("num_tasks")["transient"].first()
    assert transient.to_dict() == {1: False, 4: True, 16: False}
    assert found.loc[(4, "identifying"), "onset"] == 100  # where it begins, though it comes back
    [line] = training_phases.transient_text(found.reset_index())
    assert line.endswith("4 tasks, seed 0: generalized at step 200, lost it by step 800")


def test_as_of_a_step_takes_each_cells_last_evaluation_until_then(sweep):
    cells, history = load_cells(sweep), load_history(sweep)
    then = classify(training_phases.as_of(cells, history, 399)).set_index("num_tasks")
    assert then["phase"].tolist()[:2] == ["generalizing", "generalizing"]
    assert (then["steps_trained"] == 200).all()
    assert training_phases.as_of(cells, history, 99).empty
    late = history[(history["step"] > 200) | (history["cell_id"] != cells["cell_id"][0])]
    assert len(training_phases.as_of(cells, late, 200)) == 2


def test_known_tasks_under_other_labels_are_as_of_the_step_too(sweep):
    cells, history = load_cells(sweep).assign(in_weights_last=0.9), load_history(sweep)
    rows = history[history["split"] == "seen"]
    rows = rows.assign(split="in_weights", last=rows["step"] / 1000)
    then = training_phases.as_of(cells, pd.concat([history, rows]), 399)
    assert (then["in_weights_last"] == 0.2).all()


def test_a_cell_is_done_until_it_diverges(sweep):
    cells = load_cells(sweep).assign(status="diverged", diverged_at=300, plateau_steps=250.0)
    table = training_phases.evaluations(cells, load_history(sweep))
    until = table["step"] < 300
    assert (table["status"] == np.where(until, "done", "diverged")).all()
    assert (table["plateau_steps"].notna() == (table["step"] >= 250)).all()


def test_it_is_told_and_drawn(sweep):
    answer = find(sweep)["training"]
    assert "lost it by step 800" in answer.text
    figure = draw(answer)
    [ax] = figure.axes
    low, high = ax.get_xlim()  # log10 of steps
    assert 10**low < 800 < 10**high
    figure.draw_without_rendering()
    texts = [tick.label1.get_text() for tick in ax.xaxis.get_major_ticks()]
    assert {"200", "500"} & set(texts)
    assert ax.get_title() == "model size 8"
    assert len(ax.collections[0].get_paths()) == 3 * len(STEPS)
