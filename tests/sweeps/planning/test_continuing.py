"""Cells with more steps go on from kept models, and equal cells that were never stopped."""

import dataclasses

import pytest

from metaphase.core.cell import Cell
from metaphase.core.training import checkpoint
from metaphase.core.training.trainer import PackTrainer
from metaphase.sweeps.execution.pack_run import Job
from metaphase.sweeps.execution.worker import PackTrial
from metaphase.sweeps.planning.continuing import adopt_models, continued_steps
from metaphase.sweeps.planning.packs import Pack, plan
from metaphase.sweeps.planning.workers import cpu_workers
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


FAMILIES = {
    "regression": {"task_family": "linear_regression", "dimension": 2},
    "urns": {"task_family": "balls_and_urns", "symbols": 3, "token_format": "shifted"},
    "chains": {"task_family": "markov_chains", "states": 3, "token_format": "shifted"},
    "items": {"task_family": "noisy_items"},
}


@pytest.mark.parametrize("family", FAMILIES)
def test_cells_with_predictors_go_on_too(tmp_path, family, steps_trained, capsys):
    def longer(steps):
        settings = {"eval_every": 3, "eval_sequences": 8, "batch_size": 8, "model_size": 8}
        settings |= {"num_layers": 1, "num_heads": 1, "sequence_length": 4, "num_tasks": 4}
        return [Cell.from_dict({**settings, **FAMILIES[family], "steps": steps})]

    whole = train(tmp_path / "whole", longer(9))
    results = train(tmp_path / "parts", longer(4))
    model = results.models.load(longer(4)[0].cell_id)
    assert model.cell == longer(4)[0]
    steps_trained.clear()
    capsys.readouterr()
    parts = train(tmp_path / "parts", longer(9))
    assert capsys.readouterr().out == "1 cells go on from kept models.\n"
    assert steps_trained[0][0] == 4
    assert len(parts.models.steps()) == 2
    assert_same(only(parts, longer(9)), whole)


def test_a_sound_model_that_cant_be_gone_on_from_stays(tmp_path, monkeypatch, capsys):
    """Whatever a later version refuses is still somebody's model."""
    [cell, *_] = cells(8)
    shorter = dataclasses.replace(cell, steps=4)
    results = train(tmp_path, [shorter])

    def refuse(cell, state):
        raise ValueError("it is of numerics 9")

    monkeypatch.setattr(checkpoint, "check_state", refuse)
    adopt_models(results, [cell])
    assert "can't be gone on from: it is of numerics 9" in capsys.readouterr().out
    assert results.models.steps() == {shorter.cell_id: [4]}


def test_cells_at_their_last_step_are_planned(tmp_path):
    """Their models were kept, and the run ended before their results were written."""
    there, half = cells(8), cells(8, num_tasks=3)
    results = train(tmp_path, there)
    results.reopen({cell.cell_id for cell in there})
    steps = continued_steps(results, there)
    assert set(steps.values()) == {8}
    for some in (there, there[:1], [*there, *half]):
        packs = plan(some, cpu_workers(2, 8e9), steps)
        assert sorted(c.cell_id for p in packs for c in p.cells) == sorted(c.cell_id for c in some)


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
