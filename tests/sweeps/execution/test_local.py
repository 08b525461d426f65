"""The local executor: the same tree as Ray's, whatever happens to the process that trains it."""

import _thread
import errno
import os
import signal
import subprocess
import sys
import threading
import time

import pytest
import torch

import metaphase as mp
from metaphase.core import schema
from metaphase.core.cell import ConfigError
from metaphase.core.training.trainer import PackTrainer
from metaphase.sweeps import run
from metaphase.sweeps.execution import local, pack_run
from metaphase.sweeps.store import patience
from metaphase.sweeps.store.results import Results
from tests.docs import write_plug_ins
from tests.sweeps.execution.test_worker import assert_same, tables

CELL = {
    "image_size": 4, "num_classes": 5, "sequence_length": 8, "batch_size": 8, "steps": 30,
    "eval_every": 10, "eval_sequences": 16, "warmup_steps": 5,
}  # fmt: skip
GRID = {"model_size": [4, 8], "num_tasks": [1, 8]}
SWEEP = mp.Sweep("sweep", CELL, GRID)
LONG = mp.Sweep(
    "sweep", {**CELL, "steps": 96, "eval_every": 32}, {"model_size": [8], "num_tasks": [1, 8]}
)


@pytest.fixture(autouse=True)
def two_threads(monkeypatch):
    monkeypatch.setattr(local, "cores", lambda: 2)


@pytest.fixture
def eager(monkeypatch):
    """Writes checkpoints at every evaluation."""
    monkeypatch.setattr(pack_run, "CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setattr(pack_run, "CHECKPOINT_SHARE", 1e9)


def train(root, sweep=SWEEP, **options):
    options = {"progress": False, "pack_size": 1, **options}
    mp.run(sweep, root, **options)
    return Results(str(root), sweep.name)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    return train(tmp_path_factory.mktemp("undisturbed"))


@pytest.fixture(scope="module")
def undisturbed_long(tmp_path_factory):
    return train(tmp_path_factory.mktemp("long"), LONG)


def test_every_number_is_that_of_the_cell_alone(undisturbed):
    assert undisturbed.finished() == {cell.cell_id: schema.DONE for cell in SWEEP.cells}
    assert undisturbed.damaged(set(undisturbed.finished())) == set()
    assert undisturbed.checkpoints.steps() == {}
    assert undisturbed.claim.lease() is None
    found = tables(undisturbed)
    for cell in SWEEP.cells:
        alone = PackTrainer([cell])
        while not alone.finished:
            alone.advance()
        [(row, curves)] = alone.results()
        [stored] = found["cells"].query(f"cell_id == '{cell.cell_id}'").to_dict("records")
        for name in (f"{s}_{k}" for s in schema.SPLITS for k in ("loss", *schema.STATISTICS)):
            assert stored[name] == row[name]
        history = alone.history[0]
        for name, rows, by in (("curves", curves, "position"), ("history", history, "step")):
            mine = found[name].query(f"cell_id == '{cell.cell_id}'").to_dict("records")
            assert mine == sorted(rows, key=lambda r: (r["split"], r[by]))


def test_modules_of_ones_own_are_trained_side_by_side(tmp_path, monkeypatch):
    """What PyTorch does for modules uses state of the process: its random numbers, the module."""
    write_plug_ins(tmp_path)
    monkeypatch.chdir(tmp_path)
    own = {**CELL, "architecture": "./convolution.py:Convolution", "model_size": 8, "kernel": 4}
    sweep = mp.Sweep("sweep", own, {"seed": [0, 1, 2, 3]})
    state = torch.get_rng_state()
    monkeypatch.setattr(local, "cores", lambda: 4)
    found = tables(train(tmp_path / "results", sweep))["cells"].set_index("cell_id")
    assert torch.equal(torch.get_rng_state(), state)
    for cell in sweep.cells:
        alone = PackTrainer([cell])
        while not alone.finished:
            alone.advance()
        [(row, _)] = alone.results()
        assert found.loc[cell.cell_id, "train_loss"] == row["train_loss"]


def test_a_time_limit_is_no_error_and_the_same_call_goes_on(tmp_path, undisturbed_long):
    results = train(tmp_path, LONG, time_limit=0)
    assert results.finished() == {}
    assert results.claim.lease() is None
    assert train(tmp_path, LONG).finished() == undisturbed_long.finished()
    assert_same(results, undisturbed_long)


@pytest.mark.usefixtures("interruptible")
def test_an_interrupt_saves_and_the_same_call_goes_on(tmp_path, undisturbed_long):
    results, trained = Results(str(tmp_path), "sweep"), threading.Event()
    real_follow, real_train = local._Threads.follow, pack_run.PackTrainer.train

    def train_steps(self, count):
        real_train(self, count)
        trained.set()

    def follow(self, progress):  # as Ctrl-C: in the calling thread, while packs are trained
        if trained.wait(60):
            _thread.interrupt_main()
        return real_follow(self, progress)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(local._Threads, "follow", follow)
        patched.setattr(pack_run.PackTrainer, "train", train_steps)
        with pytest.raises(KeyboardInterrupt):
            train(tmp_path, LONG)
    assert not [t for t in threading.enumerate() if t.name.startswith("metaphase-")]
    assert all(0 < step < 96 for step in results.checkpoints.steps().values())
    assert results.checkpoints.steps()
    assert results.claim.lease() is None
    train(tmp_path, LONG)
    assert_same(results, undisturbed_long)


def test_a_command_without_ray_is_killed_and_python_goes_on(tmp_path, undisturbed_long):
    path = tmp_path / "sweep.yaml"
    path.write_text(LONG.to_yaml())
    code = """
import sys
sys.modules["ray"] = None  # whoever imports it fails
from metaphase.sweeps.execution import local, pack_run
local.cores = lambda: 2
pack_run.CHECKPOINT_SECONDS, pack_run.CHECKPOINT_SHARE = 0.0, 1e9
from metaphase.sweeps.run import main
main(sys.argv[1:])
"""
    command = [sys.executable, "-c", code, str(path), "--root", str(tmp_path)]
    command += ["--executor", "local", "--pack-size", "1", "--keep-evaluations"]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    results, end = Results(str(tmp_path), "sweep"), time.monotonic() + 120
    while not results.checkpoints.steps() and child.poll() is None and time.monotonic() < end:
        time.sleep(0.01)
    child.kill()
    assert "2 of 2 cells to train; log: " in child.communicate()[0]
    assert results.checkpoints.steps()
    assert results.models.steps()
    train(tmp_path, LONG)  # at once: the lease's process is gone
    assert_same(results, undisturbed_long)


def test_a_cell_that_cannot_be_trained_alone_fails_and_the_others_do_not(
    tmp_path, monkeypatch, undisturbed, eager
):
    bad = SWEEP.cells[1]
    real = pack_run.PackTrainer.advance

    def advance(self, should_stop=None):
        if bad in self.cells:
            raise ValueError("no such luck\nat all")
        return real(self, should_stop)

    monkeypatch.setattr(pack_run.PackTrainer, "advance", advance)
    found = mp.run(SWEEP, tmp_path, progress=False)
    results = Results(str(tmp_path), "sweep")
    assert results.finished().pop(bad.cell_id) == schema.FAILED
    [row] = results.read_rows([bad.cell_id])
    assert row["error"] == "ValueError: no such luck at all"
    assert (found.cells.status == schema.DONE).sum() == len(SWEEP.cells) - 1
    monkeypatch.undo()
    train(tmp_path, retry_failed=True)
    assert_same(results, undisturbed)


def test_a_sick_storage_and_data_that_cannot_be_had_are_no_cells_fault(tmp_path, monkeypatch):
    def fail(*arguments):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), "there")

    real = pack_run.PackRun._write_results

    def write(self, *arguments):
        monkeypatch.setattr(os, "link", fail)
        monkeypatch.setattr(os, "replace", fail)
        return real(self, *arguments)

    monkeypatch.setattr(patience, "RETRY_SECONDS", 0.01)
    monkeypatch.setattr(pack_run.PackRun, "_write_results", write)
    with pytest.raises(ConfigError, match=r"Read-only file system.*the same command continues"):
        train(tmp_path)
    monkeypatch.undo()

    def refuse(*arguments, **options):
        raise ConfigError("dataset: no network")

    with monkeypatch.context() as patched:
        patched.setattr(pack_run, "PackTrainer", refuse)
        with pytest.raises(ConfigError, match=r"^dataset: no network$"):
            train(tmp_path)
    assert Results(str(tmp_path), "sweep").finished() == {}
    assert len(train(tmp_path).finished()) == len(SWEEP.cells)


def test_a_second_run_of_the_same_sweep_is_refused(tmp_path, undisturbed_long):
    first = threading.Thread(target=train, args=(tmp_path, LONG))
    first.start()
    results = Results(str(tmp_path), "sweep")
    while results.claim.lease() is None:
        time.sleep(0.01)
    with pytest.raises(ConfigError, match=f"is being run: by process {os.getpid()} on"):
        train(tmp_path, LONG)
    first.join()
    assert_same(results, undisturbed_long)


def test_another_drivers_sweep_is_left(tmp_path, monkeypatch):
    monkeypatch.setattr(pack_run, "CLAIM_SECONDS", 0.0)
    real, results = pack_run.PackRun._step, Results(str(tmp_path), "sweep")

    def step(self):
        report = real(self)
        results.claim.take("another")
        return report

    monkeypatch.setattr(pack_run.PackRun, "_step", step)
    with pytest.raises(ConfigError, match=r"another driver has taken over|is being run"):
        train(tmp_path, LONG)
    assert results.finished() == {}


def test_the_command_stops_at_a_signal_and_says_how_to_go_on(tmp_path, monkeypatch, capsys):
    path = tmp_path / "sweep.yaml"
    path.write_text(LONG.to_yaml())
    monkeypatch.setattr("metaphase.sweeps.execution.logfile.log_to", lambda path: None)
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    real, said = pack_run.PackTrainer.train, []

    def train_steps(self, count):
        real(self, count)
        if not said:
            said.append(os.kill(os.getpid(), signal.SIGTERM))

    monkeypatch.setattr(pack_run.PackTrainer, "train", train_steps)
    status = run.main([str(path), "--root", str(tmp_path), "--executor", "local"])
    assert status == 130
    assert "Stopped. This continues: python -m metaphase.sweeps.run" in capsys.readouterr().out
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before
    assert Results(str(tmp_path), "sweep").checkpoints.steps()


def test_a_device_that_cannot_be_used_is_refused_before_training(tmp_path):
    with pytest.raises(ConfigError, match="device: 'tpu' is no device"):
        train(tmp_path, device="tpu")
    torch.set_default_dtype(torch.float64)
    try:
        with pytest.raises(ConfigError, match=r"allowed: torch\.float32"):
            train(tmp_path)
    finally:
        torch.set_default_dtype(torch.float32)
    assert Results(str(tmp_path), "sweep").claim.lease() is None
