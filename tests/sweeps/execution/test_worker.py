"""The worker, without Ray: what it writes, how it goes on after a crash, what it does when told."""

import dataclasses
import errno
import os

import pandas as pd
import pytest
import torch

from metaphase.core import schema
from metaphase.core.cell import Cell, ConfigError
from metaphase.core.phase_rules import outcome_of
from metaphase.sweeps.execution import pack_run, worker
from metaphase.sweeps.execution.pack_run import Job
from metaphase.sweeps.execution.worker import PackTrial
from metaphase.sweeps.planning.packs import Pack
from metaphase.sweeps.store import patience
from metaphase.sweeps.store.claim import Claim
from metaphase.sweeps.store.results import Results

CELLS = tuple(
    Cell(
        model_size=size,
        num_tasks=n,
        seed=seed,
        image_size=4,
        num_classes=5,
        sequence_length=8,
        batch_size=8,
        steps=30,
        eval_every=10,
        eval_sequences=16,
        warmup_steps=5,
    )
    for n in (1, 8)
    for seed, size in ((0, 8), (0, 12), (1, 8))
)


def start(root, cells=CELLS, driver="me"):
    """A trial as Ray Tune makes it, but in this process."""
    results = Results(str(root), "sweep")
    results.claim.take("me")
    made = object.__new__(PackTrial)
    packs = [Pack(tuple(cells), 0, 1.0)]
    made.setup({"pack": 0}, Job(str(root), "sweep", driver, "data", "cpu", packs))
    return made, results


def run(made):
    reports = [made.step()]
    while not reports[-1]["done"]:
        reports.append(made.step())
    return reports


def tables(results):
    """All numbers of a tree; wall time is no result."""
    cells = pd.read_parquet(results.local_path / "cells").drop(columns="wall_seconds")
    return {
        "cells": cells.sort_values("cell_id", ignore_index=True),
        **{
            name: pd.read_parquet(results.local_path / name).sort_values(
                ["cell_id", "split", by], ignore_index=True
            )
            for name, by in (("history", "step"), ("curves", "position"))
        },
    }


def assert_same(a, b):
    for name, table in tables(a).items():
        pd.testing.assert_frame_equal(table, tables(b)[name], check_exact=True)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    made, results = start(tmp_path_factory.mktemp("undisturbed"))
    run(made)
    return results


@pytest.fixture
def eager(monkeypatch):
    """Writes history and checkpoints at every evaluation."""
    monkeypatch.setattr(pack_run, "HISTORY_SECONDS", 0.0)
    monkeypatch.setattr(pack_run, "CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setattr(pack_run, "CHECKPOINT_SHARE", 1e9)


def test_it_reports_progress_and_finishes_its_cells(tmp_path):
    made, results = start(tmp_path)
    reports = run(made)
    assert [r["fraction"] for r in reports] == pytest.approx([1 / 3, 2 / 3, 1])
    assert [len(r["finished"]) for r in reports] == [0, 0, len(CELLS)]
    assert all(r["training_seconds"] > 0 for r in reports)
    assert results.finished() == {cell.cell_id: schema.DONE for cell in CELLS}
    assert results.checkpoints.steps() == {}
    found = tables(results)
    assert len(found["history"]) == len(CELLS) * 3 * 3
    assert len(found["curves"]) == len(CELLS) * 3 * 8


@pytest.mark.parametrize("steps", [1, 2])
def test_a_trial_tried_again_goes_on_from_the_checkpoints(tmp_path, undisturbed, eager, steps):
    made, results = start(tmp_path)
    for _ in range(steps):
        made.step()
    assert results.checkpoints.steps() == {cell.cell_id: 10 * steps for cell in CELLS}
    again, _ = start(tmp_path)
    reports = run(again)
    assert len(reports) == 3 - steps
    assert_same(results, undisturbed)


def test_a_torn_checkpoint_costs_its_cell_one_interval(tmp_path, undisturbed, eager):
    made, results = start(tmp_path)
    made.step()
    made.step()
    torn = results.local_path / f"checkpoints/{CELLS[1].cell_id}/20.n2.ckpt"
    torn.write_bytes(torn.read_bytes()[:-1])
    again, _ = start(tmp_path)
    assert len(run(again)) == 1 + 2  # the others from step 20, then this one from step 10
    assert_same(results, undisturbed)


def test_cells_are_packed_anew(tmp_path, undisturbed, eager):
    made, results = start(tmp_path)
    made.step()
    for cells in (CELLS[::2], CELLS[1::2]):
        again, _ = start(tmp_path, cells)
        run(again)
    assert_same(results, undisturbed)


def test_finished_cells_are_not_trained_again(tmp_path, undisturbed):
    made, results = start(tmp_path, CELLS[:2])
    run(made)
    written = (results.local_path / f"cells/{CELLS[0].cell_id}.parquet").stat().st_mtime_ns
    again, _ = start(tmp_path)
    assert set(run(again)[-1]["finished"]) == {cell.cell_id for cell in CELLS[2:]}
    assert (results.local_path / f"cells/{CELLS[0].cell_id}.parquet").stat().st_mtime_ns == written
    assert_same(results, undisturbed)


@pytest.mark.slow  # of trainers alone: tests/core/training/test_early_stopping.py
def test_cells_whose_phase_is_settled_leave_the_pack(tmp_path):
    settings = {"stop_when_decided": True, "steps": 500, "eval_every": 100, "model_size": 32}
    settings |= {"eval_sequences": 64, "batch_size": 32, "learning_rate": 3e-3}
    cells = [dataclasses.replace(CELLS[0], num_tasks=n, **settings) for n in (1, 2**20)]
    made, results = start(tmp_path / "pack", cells)
    reports = [made.step()]
    while not reports[-1]["finished"]:
        reports.append(made.step())
    (row,) = results.read_rows([cells[0].cell_id])
    assert reports[-1]["finished"] == {cells[0].cell_id: outcome_of(row)}
    assert not reports[-1]["done"]
    results.claim.take("me", stop=True)
    made._run._claim_checked -= 10
    assert made.step()["stopped"]
    assert list(results.checkpoints.steps()) == [cells[1].cell_id]
    again, _ = start(tmp_path / "pack", cells)
    assert run(again)[-1]["fraction"] == 1
    for cell in cells:
        alone, expected = start(tmp_path / "alone", [cell])
        run(alone)
    assert_same(results, expected)
    trained = tables(results)["cells"].set_index("num_tasks").steps_trained
    assert trained[1] < trained[2**20] == 500


def test_it_stops_with_a_checkpoint_when_its_driver_asks(tmp_path, undisturbed):
    made, results = start(tmp_path)
    made.step()
    results.claim.take("me", stop=True)
    made._run._claim_checked -= 10  # a check is due
    report = made.step()
    assert report["done"]
    assert report["stopped"]
    assert set(results.checkpoints.steps().values()) == {10}
    again, _ = start(tmp_path)
    run(again)
    assert_same(results, undisturbed)


@pytest.mark.parametrize("asked", ["while it evaluated", "after"])
def test_it_stops_with_a_checkpoint_right_after_an_evaluation(
    tmp_path, undisturbed, monkeypatch, asked
):
    made, results = start(tmp_path)
    if asked == "while it evaluated":
        monkeypatch.setattr(pack_run, "CLAIM_SECONDS", 0.0)
        answers = iter([True, True, False])  # at the call, at step 0, after the evaluation
        monkeypatch.setattr(Claim, "is_held_by", lambda self, driver: next(answers))
    assert made.step()["stopped"] == (asked != "after")
    made.cleanup()  # by Tune, without another step
    assert results.checkpoints.steps() == {cell.cell_id: 10 for cell in CELLS}
    monkeypatch.undo()
    again, _ = start(tmp_path)
    run(again)
    assert_same(results, undisturbed)


def test_nothing_trained_is_no_checkpoint(tmp_path, undisturbed, monkeypatch):
    made, results = start(tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(pack_run, "CLAIM_SECONDS", 0.0)
        answers = iter([True, False, False])  # at the call, at step 0
        patched.setattr(Claim, "is_held_by", lambda self, driver: next(answers))
        assert made.step()["stopped"]
    made.cleanup()
    assert results.checkpoints.steps() == {}


SICK = [errno.EROFS, errno.EACCES, errno.ENOTCONN, errno.ESTALE, errno.EIO, errno.EPERM]


@pytest.mark.parametrize("number", SICK, ids=errno.errorcode.get)
def test_a_sick_storage_is_no_cells_fault(tmp_path, monkeypatch, undisturbed, number):
    def fail(*arguments):
        raise OSError(number, os.strerror(number), "there")

    made, results = start(tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(patience, "RETRY_SECONDS", 0.01)
        for name in ("replace", "link", "rename"):
            patched.setattr(os, name, fail)
        report = run(made)[-1]
        made.cleanup()
    assert os.strerror(number) in report["config_error"]
    assert report["config_error"].endswith("the same command continues")
    assert "\n" not in report["config_error"]
    assert results.finished() == {}
    again, _ = start(tmp_path)
    run(again)
    assert_same(results, undisturbed)


def test_half_a_step_is_no_checkpoint(tmp_path, monkeypatch, eager):
    made, results = start(tmp_path)
    made.step()
    monkeypatch.setattr(pack_run.PackTrainer, "_evaluate", lambda self: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        made.step()
    made.cleanup()
    assert results.checkpoints.steps() == {cell.cell_id: 10 for cell in CELLS}


def test_it_stops_between_two_evaluations(tmp_path, monkeypatch):
    cells = [dataclasses.replace(cell, eval_every=60, steps=60) for cell in CELLS[:2]]
    whole, expected = start(tmp_path / "undisturbed", cells)
    run(whole)
    made, results = start(tmp_path / "stopped", cells)
    with monkeypatch.context() as patched:
        patched.setattr(pack_run, "CLAIM_SECONDS", 0.0)
        answers = iter([True, True, False])  # at the call, at step 0, later
        patched.setattr(Claim, "is_held_by", lambda self, driver: next(answers))
        assert made.step()["stopped"]
    (step,) = set(results.checkpoints.steps().values())
    assert 0 < step < 60
    again, _ = start(tmp_path / "stopped", cells)
    run(again)
    assert_same(results, expected)


def test_another_drivers_trial_trains_nothing(tmp_path):
    made, results = start(tmp_path, driver="an earlier one")
    assert run(made)[-1]["stopped"]
    assert results.finished() == {}


def test_training_pauses_for_an_overdue_checkpoint(tmp_path, undisturbed, monkeypatch):
    monkeypatch.setattr(pack_run, "CHECKPOINT_LATEST_SECONDS", 0.0)
    monkeypatch.setattr(pack_run, "CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setattr(pack_run, "CHECKPOINT_SHARE", 1.0)
    made, results = start(tmp_path)
    run(made)
    assert_same(results, undisturbed)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        *(
            pytest.param(RuntimeError(text), marks=pytest.mark.slow)
            for text in [
                "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
                "DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes",
            ]
        ),
    ],
)
def test_a_pack_too_large_for_the_memory_is_halved(
    tmp_path, undisturbed, eager, monkeypatch, error
):
    real = pack_run.PackTrainer.advance

    def advance(self, should_stop=None):
        if len(self.cells) > 1 and self.step >= 10:
            raise error
        return real(self, should_stop)

    monkeypatch.setattr(pack_run.PackTrainer, "advance", advance)
    made, results = start(tmp_path)
    run(made)
    assert_same(results, undisturbed)


def test_one_cell_too_large_is_an_error(tmp_path, monkeypatch):
    def advance(self, should_stop=None):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(pack_run.PackTrainer, "advance", advance)
    made, _ = start(tmp_path, CELLS[:1])
    with pytest.raises(torch.OutOfMemoryError):
        run(made)


def test_data_that_cannot_be_had_is_reported_not_raised(tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise ConfigError("dataset: no network")

    monkeypatch.setattr(pack_run, "PackTrainer", refuse)
    made, results = start(tmp_path)
    report = made.step()
    assert report["done"]
    assert report["config_error"] == "dataset: no network"
    assert results.finished() == {}


def test_a_worker_that_cannot_reach_the_results_blames_no_cell(tmp_path, monkeypatch):
    """Credentials, say, that only the driver's machine has."""

    def refuse(*arguments):
        raise ConfigError("root: can't use s3://bucket: pip install boto3")

    monkeypatch.setattr(worker, "Results", refuse)
    made, results = start(tmp_path)
    report = made.step()
    assert report["config_error"].endswith("root: can't use s3://bucket: pip install boto3")
    assert report["done"]
    made.cleanup()
    assert results.finished() == {}
