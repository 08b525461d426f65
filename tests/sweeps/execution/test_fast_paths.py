"""Fast paths that fail while a sweep runs, and machines on which everything fails: no cell is to
blame."""

import contextlib
import itertools

import pandas as pd
import pytest
import torch

import metaphase as mp
from metaphase.core import caches, fast_paths, schema
from metaphase.core.cell import ConfigError
from metaphase.core.training import captured
from metaphase.sweeps.execution import pack_run, proving
from metaphase.sweeps.execution.progress import Progress
from metaphase.sweeps.execution.rounds import Rounds
from metaphase.sweeps.execution.worker import PackTrial
from metaphase.sweeps.planning.workers import Workers
from metaphase.sweeps.store.results import Results
from tests.sweeps.execution.test_worker import CELLS, assert_same, run, start

WHY = "RuntimeError: operation not permitted when stream is capturing"


@pytest.fixture(autouse=True)
def forgotten(monkeypatch):
    monkeypatch.setattr(fast_paths, "_off", {})


@pytest.fixture
def failing_capture(monkeypatch):
    """After 10 steps a pack's step is to be captured, and can't be."""
    real = captured.RepeatedStep.__call__

    def call(self, step, step_J, count):
        if fast_paths.is_on(fast_paths.CAPTURE) and step_J[0] >= 10:
            raise captured.CaptureFailed(RuntimeError(WHY.partition(": ")[2]), restored=True)
        real(self, step, step_J, count)

    monkeypatch.setattr(captured.RepeatedStep, "__call__", call)
    monkeypatch.setattr(pack_run, "CHECKPOINT_SECONDS", 1e9)


@contextlib.contextmanager
def another_process():
    """What is off in this process isn't in the one inside."""
    off = fast_paths._off
    fast_paths._off = {}
    try:
        yield
    finally:
        fast_paths._off = off


def test_a_process_whose_capture_failed_is_left_with_checkpoints(tmp_path, failing_capture):
    made, results = start(tmp_path)
    assert not made.step()["poisoned"]
    report = made.step()
    assert report["done"]
    assert report["poisoned"]
    assert report["switched_off"] == {fast_paths.CAPTURE: WHY}
    assert results.checkpoints.steps() == {cell.cell_id: 10 for cell in CELLS}
    made.reset_config({"pack": 0})  # the next pack isn't trained here
    assert made.step() == {**report, "fraction": 0.0, "switched_off": {}}
    assert results.checkpoints.steps() == {cell.cell_id: 10 for cell in CELLS}


def test_what_the_device_lost_is_trained_again(tmp_path, monkeypatch):
    def call(self, step, step_J, count):
        raise captured.CaptureFailed(RuntimeError("an illegal access"), restored=False)

    monkeypatch.setattr(captured.RepeatedStep, "__call__", call)
    made, results = start(tmp_path)
    assert made.step()["poisoned"]
    assert results.checkpoints.steps() == {}


def test_a_pack_that_is_too_large_to_be_captured_goes_on_in_halves(tmp_path, monkeypatch):
    """In other processes, and captures stay on."""
    real, sizes = captured.RepeatedStep.__call__, []

    def call(self, step, step_J, count):
        replicas = sum(len(stack.cells) for stack in step.__self__.stacks)
        sizes.append(replicas)
        if replicas > 1:
            raise captured.CaptureFailed(RuntimeError("previous error"), True, full=True)
        real(self, step, step_J, count)

    monkeypatch.setattr(captured.RepeatedStep, "__call__", call)
    results, jobs = go_through(tmp_path, len(CELLS))
    assert max(len(pack.cells) for pack in jobs[0].packs) > 1
    assert all(job.fast_paths == {} for job in jobs)
    most = [max(len(pack.cells) for pack in job.packs) for job in jobs]
    assert most[-1] == 1
    assert all(after <= -(-before // 2) for before, after in itertools.pairwise(most))
    assert len(results.finished()) == len(CELLS)
    assert schema.FAILED not in results.finished().values()


def test_a_single_cell_that_is_too_large_to_be_captured_goes_on_without(tmp_path, monkeypatch):
    def call(self, step, step_J, count):
        raise captured.CaptureFailed(RuntimeError("previous error"), True, full=True)

    monkeypatch.setattr(captured.RepeatedStep, "__call__", call)
    made, _ = start(tmp_path, CELLS[:1])
    report = made.step()
    assert (report["poisoned"], report["too_large"]) == (True, False)
    assert report["switched_off"] == {fast_paths.CAPTURE: "RuntimeError: previous error"}


def go_through(tmp_path, pack_size):
    """Has Rounds train CELLS as Ray Tune's workers do it: one takes all packs of a round."""
    results = Results(str(tmp_path), "sweep")
    results.claim.take("me")
    lease = type("Lease", (), {"driver": "me", "lost": False, "ready_at": 0.0})()
    rounds = Rounds(results, lease, "data", len(CELLS), {}, pack_size=pack_size)
    jobs = []

    def fit(job, before, more):
        jobs.append(job)
        progress = Progress(results, job.packs, len(CELLS), before)
        with another_process():
            trial = object.__new__(PackTrial)
            trial.setup({"pack": 0}, job)
            for index in range(len(job.packs)):
                trial.reset_config({"pack": index})
                progress.begin(index)
                for report in run(trial):
                    progress.note(index, report)
                progress.end(index)
        return progress

    rounds.train(CELLS, Workers(1), fit, lambda: False)
    assert rounds.outcome.config_error is None
    return results, jobs


def test_the_next_round_goes_on_without(tmp_path, failing_capture, tmp_path_factory, capsys):
    """As Ray Tune's workers do it: one takes all packs of a round."""
    made, undisturbed = start(tmp_path_factory.mktemp("undisturbed"))
    with another_process():
        fast_paths.adopt({fast_paths.CAPTURE: WHY})
        run(made)
    results, jobs = go_through(tmp_path, 2)
    assert [job.fast_paths for job in jobs] == [{}, {fast_paths.CAPTURE: WHY}]
    assert_same(results, undisturbed)
    off = pd.read_parquet(results.local_path / "cells")["switched_off"]
    assert set(off) == {f"{fast_paths.CAPTURE}: {WHY}"}
    said = capsys.readouterr().err.splitlines()
    assert said == [fast_paths.warning(fast_paths.CAPTURE, WHY)]


def test_a_process_of_ones_own_that_cant_be_left_says_so(tmp_path, failing_capture, monkeypatch):
    """And notes it: the same command ends in the same way otherwise."""
    monkeypatch.setattr(caches, "folders", lambda: iter([tmp_path]))
    monkeypatch.setattr("metaphase.sweeps.execution.local.cores", lambda: 1)  # as with a GPU
    cell = {f: getattr(CELLS[0], f) for f in ("image_size", "num_classes", "sequence_length",
            "batch_size", "steps", "eval_every", "eval_sequences", "warmup_steps")}  # fmt: skip
    sweep = mp.Sweep("sweep", cell, {"num_tasks": [1, 8]})
    with pytest.raises(ConfigError, match="goes on without, in a new process"):
        mp.run(sweep, tmp_path, progress=False)
    known = proving.find_out(sweep.cells, proving.environment("cpu"), "data", run=None)
    assert known.verdicts == {fast_paths.CAPTURE: WHY}
    results = Results(str(tmp_path), "sweep")
    assert results.finished() == {}
    assert list(results.checkpoints.steps().values()) == [10, 10]


def all_fail(monkeypatch, error):
    def advance(self, should_stop=None):
        raise error

    monkeypatch.setattr(pack_run.PackTrainer, "advance", advance)


SWEEP = mp.Sweep(
    "sweep",
    {"image_size": 4, "num_classes": 5, "sequence_length": 8, "batch_size": 8, "steps": 20,
     "eval_every": 10, "eval_sequences": 16, "warmup_steps": 5},
    {"num_tasks": [1, 8], "seed": [0, 1, 2, 3]},
)  # fmt: skip


@pytest.mark.parametrize("pack_size", [1, 8])
def test_a_machine_on_which_everything_fails_blames_no_cell(tmp_path, monkeypatch, pack_size):
    all_fail(monkeypatch, RuntimeError("No CUDA GPUs are available (0x7f3)"))
    with pytest.raises(ConfigError, match=r"all failed alike, .*No CUDA GPUs are available"):
        mp.run(SWEEP, tmp_path, progress=False, pack_size=pack_size)
    assert Results(str(tmp_path), "sweep").finished() == {}


def test_full_memory_is_a_cells_own_affair(tmp_path, monkeypatch):
    all_fail(monkeypatch, torch.OutOfMemoryError("CUDA out of memory"))
    mp.run(SWEEP, tmp_path, progress=False, pack_size=1)
    assert set(Results(str(tmp_path), "sweep").finished().values()) == {schema.FAILED}


@pytest.mark.parametrize("seeds", [(2, 3), (0, 1)])
def test_cells_that_fail_first_are_to_blame_where_others_are_trained(tmp_path, monkeypatch, seeds):
    """Whichever end of the packs' order they are at, and with one worker."""
    real = pack_run.PackTrainer.advance
    bad = {cell for cell in SWEEP.cells if cell.seed in seeds}

    def advance(self, should_stop=None):
        if bad & set(self.cells):
            raise ValueError("no such luck")
        return real(self, should_stop)

    monkeypatch.setattr(pack_run.PackTrainer, "advance", advance)
    monkeypatch.setattr("metaphase.sweeps.execution.local.cores", lambda: 1)
    mp.run(SWEEP, tmp_path, progress=False, pack_size=1)
    found = Results(str(tmp_path), "sweep").finished()
    assert {c.cell_id for c in bad} == {i for i, said in found.items() if said == schema.FAILED}
