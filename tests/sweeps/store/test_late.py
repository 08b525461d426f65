"""Writes that come late: held up for longer than the lease, while another driver goes on."""

import contextlib
import os
import tempfile
import threading
import time

import pytest
import torch

from metaphase.core.cell import NUMERICS, Cell
from metaphase.core.training.stack import Stack
from metaphase.sweeps.commands import compact
from metaphase.sweeps.store import lease as leases
from metaphase.sweeps.store import object_files, patience
from metaphase.sweeps.store.files import ClaimLost, StorageError
from metaphase.sweeps.store.layout import TABLES
from metaphase.sweeps.store.lease import acquire
from metaphase.sweeps.store.local_files import WRITING
from metaphase.sweeps.store.results import Results
from metaphase.sweeps.store.tables import decode
from tests.sweeps.store.test_results import complete, state
from tests.tools.s3 import failing_s3

CELL = Cell(steps=1000, image_size=8)
ID = CELL.cell_id
OTHER = Cell(steps=1000, image_size=8, seed=1)


def merge(results, monkeypatch):
    monkeypatch.setattr(compact, "LISTING_SECONDS", 0.0)
    lease = acquire(results)
    compact.compact(results, lease)
    lease.release()


def first_rows():
    return complete(CELL)[1][:6]


def trained(cell):
    [state] = Stack([cell], torch.device("cpu")).states()
    told = {"step": cell.steps, "numerics": NUMERICS, "wall_seconds": 1.0}
    return {**state, **told, "cell_id": cell.cell_id, "history": complete(cell)[1]}


LATE = {
    "history": lambda results: results.checkpoints.write_history(ID, first_rows()),
    "checkpoint": lambda results: results.checkpoints.write(state(250, ID)),
    "result": lambda results: results.write_result(*complete(CELL)),
    "short result": lambda results: results.write_result(complete(CELL)[0], first_rows(), []),
    "failure": lambda results: results.write_failure(CELL, "it broke"),
    "model": lambda results: results.models.write(CELL, trained(CELL)),
    "deletion": lambda results: results.reopen({ID}),
}


@pytest.mark.parametrize("then", ["finished", "finished and merged", "forced"])
@pytest.mark.parametrize("what", LATE)
def test_on_a_file_system_none_lands(tmp_path, monkeypatch, what, then):
    """Stopped right before the one step by which it would take effect."""
    worker, driver = Results(str(tmp_path), "sweep"), Results(str(tmp_path), "sweep")
    if what == "deletion":
        driver.write_failure(CELL, "it broke")
    worker.claim.take("first")
    held, go_on, raised = threading.Event(), threading.Event(), []

    def holding(real):
        def step(*paths, **more):
            if threading.current_thread() is writing:
                held.set()
                assert go_on.wait(20)
            return real(*paths, **more)

        return step

    for name in ("replace", "link", "rename"):
        monkeypatch.setattr(os, name, holding(getattr(os, name)))

    def write():
        try:
            LATE[what](worker)
        except ClaimLost as error:
            raised.append(error)

    writing = threading.Thread(target=write)
    writing.start()
    assert held.wait(20)
    driver.claim.take("second")
    driver.reopen({ID})
    driver.write_result(*complete(CELL))
    if then == "finished and merged":
        driver.write_result(*complete(OTHER))
        driver.claim.release()
        merge(driver, monkeypatch)
    elif then == "forced":
        driver.remove_results({ID})
    before = sorted(p.relative_to(tmp_path) for p in tmp_path.rglob("*") if p.is_file())
    go_on.set()
    writing.join()
    assert len(raised) == 1
    assert sorted(p.relative_to(tmp_path) for p in tmp_path.rglob("*") if p.is_file()) == before
    if then != "forced":
        assert driver.damaged({ID}) == set()
        assert driver.is_trained(ID) or then == "finished and merged"


@pytest.fixture(scope="module")
def store():
    pytest.importorskip("moto.server")
    with failing_s3(0.0, hold_seconds=1.5) as store:
        yield store


@pytest.mark.parametrize("what", ["result", "short result", "failure", "history"])
def test_in_a_store_none_replaces_what_is_finished(store, monkeypatch, what):
    """The request itself is held up, and arrives when the cell is finished."""
    monkeypatch.setattr(patience, "STORE_TRIES", 1)
    root = f"s3://bucket/{what.replace(' ', '-')}"
    worker, driver = Results(root, "sweep"), Results(root, "sweep")
    worker.claim.take("first")
    store.held = 1.0

    def write():
        with contextlib.suppress(OSError):
            LATE[what](worker)

    writing = threading.Thread(target=write)
    writing.start()
    time.sleep(0.5)
    store.held = 0.0
    driver.claim.take("second", driver.claim.read()[1])
    driver.write_result(*complete(CELL))
    writing.join()
    assert store.counts["held"]
    assert driver.damaged({ID}) == set()
    assert driver.is_trained(ID)
    assert len(decode("history", driver.get(f"history/{ID}.parquet"))) == 12


def test_a_worker_that_tries_again_finds_the_sweep_taken(store, monkeypatch):
    worker, driver = Results("s3://bucket/again", "sweep"), Results("s3://bucket/again", "sweep")
    worker.claim.take("first")

    def fail(self, *arguments, **more):
        driver.claim.take("second", driver.claim.read()[1])
        raise StorageError("status 500")

    monkeypatch.setattr(object_files.ObjectFiles, "create", fail)
    with pytest.raises(ClaimLost, match="another driver has taken over"):
        worker.write_result(*complete(CELL))


def test_a_merge_that_was_held_up_takes_nothing_away(tmp_path, monkeypatch):
    results, driver = Results(str(tmp_path), "sweep"), Results(str(tmp_path), "sweep")
    for seed in range(3):
        results.write_result(*complete(Cell(steps=250, image_size=8, seed=seed)))
    exchange = compact._exchange

    def late(a, b):
        if b.name == "cells":
            driver.claim.take("second")
            driver.write_result(*complete(CELL))
        exchange(a, b)

    monkeypatch.setattr(compact, "_exchange", late)
    monkeypatch.setattr(compact, "LISTING_SECONDS", 0.0)
    lease = acquire(results)
    with pytest.raises(OSError, match="another driver has taken over"):
        compact.compact(results, lease)
    lease.release()
    assert len(driver.finished()) == 4
    assert driver.is_trained(ID)


def test_who_holds_the_lock_and_does_not_go_on_is_named(tmp_path, monkeypatch):
    import fcntl

    from metaphase.core.cell import ConfigError

    monkeypatch.setattr(leases, "LOCK_SECONDS", 0.1)
    results = Results(str(tmp_path), "sweep")
    acquire(results).release()
    folder = os.open(results.local_path, os.O_RDONLY)
    fcntl.flock(folder, fcntl.LOCK_EX)
    with pytest.raises(ConfigError, match="holds the lock on the folder and doesn't go on"):
        acquire(results)
    os.close(folder)


def test_to_try_conditions_takes_one_object_for_good(store):
    results = Results("s3://bucket/conditions", "sweep")
    for _ in range(2):
        acquire(results).release()
    files = results.files
    there = [item["path"] for part in files._obs.list(files._store, files._base) for item in part]
    assert sorted(there) == [f"{files._base}/{name}" for name in (".conditions", "driver")]


@pytest.mark.parametrize("how", ["doesn't heed them", "doesn't know them"])
def test_a_store_without_conditions_is_told_of(store, monkeypatch, capsys, how):
    ask = store.store

    def without(environ, start_response):
        condition = [environ.pop(f"HTTP_IF_{name}", "") for name in ("NONE_MATCH", "MATCH")]
        if any(condition) and how != "doesn't heed them":
            start_response("501 Not Implemented", [("Content-Length", "0")])
            return []
        return ask(environ, start_response)

    monkeypatch.setattr(store, "store", without)
    monkeypatch.setattr(leases, "SETTLE_SECONDS", 0.1)
    monkeypatch.setattr(object_files, "REQUEST_RETRY_SECONDS", 0.1)
    results = Results(f"s3://bucket/{len(how)}", "sweep")
    lease = acquire(results)
    said = capsys.readouterr().err
    assert said.startswith(f"note: {results} is on a storage without")
    assert said.count("\n") == 1
    results.write_result(*complete(CELL))
    assert results.is_trained(ID)
    lease.release()
    assert results.claim.lease() is None


def test_expired_credentials_are_one_line(store, monkeypatch, tmp_path):
    from tests.sweeps.execution import test_worker as test_trial

    monkeypatch.setattr(patience, "FIRST_PAUSE_SECONDS", 0.001)
    made, results = test_trial.start("s3://bucket/expired")
    monkeypatch.setattr(store, "failing", 1.0)
    monkeypatch.setattr(store, "faults", ("403",))
    report = test_trial.run(made)[-1]
    assert "403 Forbidden" in report["config_error"]
    assert "\n" not in report["config_error"]
    monkeypatch.undo()
    assert results.finished() == {}


def test_what_links_lead_to_stays(tmp_path):
    """Taking over removes other drivers' folders, and nothing outside of the tree."""
    outside = tmp_path / "outside"
    (outside / "folder").mkdir(parents=True)
    (outside / "folder" / "file").write_text("mine")
    results = Results(str(tmp_path), "sweep")
    results.claim.take("first")
    (tmp_path / "sweep" / WRITING / "other").symlink_to(outside)
    Results(str(tmp_path), "sweep").claim.take("second")
    writing = tmp_path / "sweep" / WRITING
    assert [path.name for path in writing.iterdir()] == ["second"]
    (writing / "second").rmdir()
    writing.rmdir()
    writing.symlink_to(outside)
    Results(str(tmp_path), "sweep").claim.take("third")
    assert (outside / "folder" / "file").read_text() == "mine"


def test_a_folder_linked_to_another_file_system(tmp_path):
    try:
        elsewhere = tempfile.TemporaryDirectory(dir="/dev/shm")
    except OSError:
        pytest.skip("there is none")
    with elsewhere as folder:
        if os.stat(folder).st_dev == os.stat(tmp_path).st_dev:
            pytest.skip("it is the same")
        (tmp_path / "sweep").mkdir()
        for table in (*TABLES, "checkpoints"):
            (tmp_path / "sweep" / table).symlink_to(folder)
        worker = Results(str(tmp_path), "sweep")
        worker.claim.take("first")
        worker.checkpoints.write(state(250, ID))
        worker.create("cells/a.parquet", b"x")
        worker.create("cells/a.parquet", b"y")
        worker.delete("cells/a.parquet")
        worker.checkpoints.remove(ID)
        assert os.listdir(folder) == []
        Results(str(tmp_path), "sweep").claim.take("second")
        for late in (LATE["checkpoint"], LATE["failure"], lambda w: w.delete("cells/a.parquet")):
            with pytest.raises(ClaimLost):
                late(worker)
        assert all(not names for _, _, names in os.walk(folder))
