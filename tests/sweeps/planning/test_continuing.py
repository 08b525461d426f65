"""Cells with more steps go on from kept models, and equal cells that were never stopped."""

import dataclasses

import pytest

from metaphase.core.training.trainer import PackTrainer
from metaphase.sweeps.execution.pack_run import Job
from metaphase.sweeps.execution.worker import PackTrial
from metaphase.sweeps.planning.continuing import adopt_models, continued_steps
from metaphase.sweeps.planning.packs import Pack
from metaphase.sweeps.store.results import Results
from tests.conftest import small_cell
from tests.sweeps.execution.test_worker import assert_same, run

SETTINGS = {"eval_every": 6, "eval_growth": 1.4, "eval_sequences": 8, "identity_share": 0.5}
SETTINGS |= {"identity_steps": 12, "gradient_clip": 0.5, "weight_decay": 0.1}


def cells(steps, **settings):
    return [
        small_cell(steps=steps, seed=seed, model_size=size, **SETTINGS, **settings)
        for seed, size in ((0, 8), (1, 8), (0, 12))
    ]


def train(root, cells):
    """A run without Ray, which keeps models."""
    results = Results(str(root), "sweep")
    results.claim.take("me")
    adopt_models(results, cells)
    steps = results.checkpoints.steps()
    by_step = {}
    for cell in cells:
        by_step.setdefault(steps.get(cell.cell_id, 0), []).append(cell)
    packs = [Pack(tuple(members), step, 1.0) for step, members in by_step.items()]
    job = Job(str(root), "sweep", "me", "data", "cpu", packs, keep_models=True)
    for number in range(len(packs)):
        trial = object.__new__(PackTrial)
        trial.setup({"pack": number}, job)
        run(trial)
    return results


@pytest.fixture
def steps_trained(monkeypatch):
    """(first step, last step) of each stretch that was trained."""
    told, real = [], PackTrainer.train

    def train(self, count):
        told.append((self.step, self.step + count))
        real(self, count)

    monkeypatch.setattr(PackTrainer, "train", train)
    return told


def only(results, cells):
    results.remove_results(results.finished().keys() - {cell.cell_id for cell in cells})
    return results


def test_a_longer_cell_equals_one_that_was_never_stopped(tmp_path, steps_trained, capsys):
    whole = train(tmp_path / "whole", cells(30))
    assert min(steps_trained)[0] == 0
    train(tmp_path / "parts", cells(5))  # before the first evaluation
    train(tmp_path / "parts", cells(17))  # 17 isn't a step at which the longer one is evaluated
    steps_trained.clear()
    capsys.readouterr()
    parts = Results(str(tmp_path / "parts"), "sweep")
    assert set(continued_steps(parts, cells(30)).values()) == {17}
    parts = train(tmp_path / "parts", cells(30))
    assert "3 cells go on from kept models." in capsys.readouterr().out
    assert steps_trained[0] == (17, steps_trained[0][1])
    assert len(parts.models.steps()) == 9
    assert_same(only(parts, cells(30)), whole)


def test_a_schedule_that_depends_on_steps_is_trained_from_the_start(tmp_path, capsys):
    settings = {"learning_rate_schedule": "triangle"}
    results = train(tmp_path, cells(4, **settings))
    adopt_models(results, cells(8, **settings))
    assert results.checkpoints.steps() == {}
    assert continued_steps(results, cells(8, **settings)) == {}
    assert "3 cells are trained from their first step, though" in capsys.readouterr().out


def test_what_differs_in_more_than_steps_or_is_shorter_does_not_go_on(tmp_path):
    results = train(tmp_path, cells(4))
    assert continued_steps(results, cells(8, num_tasks=3)) == {}
    assert continued_steps(results, cells(3)) == {}


def test_files_with_names_of_no_models_are_left_out(tmp_path, monkeypatch):
    results = train(tmp_path, cells(4))
    kept = {cell.cell_id: [4] for cell in cells(4)}
    for cell_id in kept:
        for step in ("0", "00", "04", "00000004"):
            (results.local_path / "models" / cell_id / f"{step}.safetensors").write_bytes(b"")
    assert results.models.steps() == kept
    assert set(continued_steps(results, cells(8)).values()) == {4}
    monkeypatch.setattr(results.models, "steps", lambda: {"f" * 16: [0]})  # no cell has so few
    assert continued_steps(results, cells(8)) == {}


def test_a_damaged_model_costs_its_training_and_no_number(tmp_path, steps_trained, capsys):
    [cell, *_] = cells(8)
    shorter = dataclasses.replace(cell, steps=4)
    whole = train(tmp_path / "whole", [cell])
    results = train(tmp_path / "parts", [shorter])
    path = results.local_path / "models" / shorter.cell_id / "4.safetensors"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)
    steps_trained.clear()
    parts = train(tmp_path / "parts", [cell])
    assert "is damaged; it is removed" in capsys.readouterr().out
    assert not path.exists()
    assert steps_trained[0][0] == 0
    assert_same(only(parts, [cell]), whole)


def test_results_that_are_lost_come_back_from_the_cells_own_model(tmp_path, steps_trained):
    results = train(tmp_path / "a", cells(8))
    whole = train(tmp_path / "b", cells(8))
    results.reopen({cell.cell_id for cell in cells(8)})
    assert results.finished() == {}
    steps_trained.clear()
    assert_same(train(tmp_path / "a", cells(8)), whole)
    assert steps_trained == []
