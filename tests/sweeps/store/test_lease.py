"""One driver a sweep: the second is told, a dead one is succeeded, workers obey only theirs."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from metaphase.core.cell import ConfigError
from metaphase.sweeps import run
from metaphase.sweeps.store import lease as leases
from metaphase.sweeps.store.files import Changed
from metaphase.sweeps.store.lease import acquire, is_live
from metaphase.sweeps.store.results import Results
from tests.tools import lease_races
from tests.tools.s3 import failing_s3

PRESET = "cell: {steps: 10, warmup_steps: 5, image_size: 4}\ngrid: {seed: [0, 1]}\n"


@pytest.fixture(params=["path", "store"])
def results(request, tmp_path, monkeypatch):
    """On a file system and in an object store."""
    if request.param == "path":
        return Results(str(tmp_path), "sweep")
    _, address = request.getfixturevalue("s3")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://{address}")
    return Results("s3://bucket/here", "sweep")


def claim(results, driver, **details):
    """As another process would."""
    other = Results(results.root, results.sweep)
    for _ in range(20):
        with contextlib.suppress(Changed):  # it was renewed meanwhile
            other.claim.take(driver, other.claim.read()[1], **details)
            return


def test_the_second_driver_is_told_who_is_there(results):
    mine = acquire(results)
    assert mine.ready_at == 0
    with pytest.raises(ConfigError) as refused:
        acquire(results)
    assert f"by process {os.getpid()} on " in str(refused.value)
    assert "expires in" in str(refused.value)
    assert "\n" not in str(refused.value)
    assert results.claim.is_held_by(mine.driver)
    assert not mine.lost
    mine.release()
    assert not results.claim.is_held_by(mine.driver)
    acquire(results).release()


def test_it_is_renewed_and_expires(results, monkeypatch):
    monkeypatch.setattr(leases, "RENEW_SECONDS", 0.05)
    mine = acquire(results)
    first = results.claim.lease()["expires"]
    time.sleep(0.3)
    assert results.claim.lease()["expires"] > first
    mine.release()

    elsewhere = {"host": "other", "machine": "m", "pid": 1, "born": "1", "since": time.time()}
    claim(results, "x", expires=time.time() + 60, **elsewhere)
    with pytest.raises(ConfigError, match="by process 1 on other since"):
        acquire(results)
    claim(results, "x", expires=time.time() - 1, **elsewhere)
    successor = acquire(results)
    # In a store, workers of the one before may still train, in vain.
    assert (successor.ready_at > time.time()) == (results.local_path is None)
    successor.release()


def test_workers_stop_while_the_sweep_stays_ours(results):
    mine = acquire(results)
    mine.stop_workers()
    deadline = time.monotonic() + 60
    while results.claim.is_held_by(mine.driver) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not results.claim.is_held_by(mine.driver)
    assert not results.claim.is_taken_from(mine.driver)
    with pytest.raises(ConfigError, match="is being run"):
        acquire(results)
    mine.release()


def test_a_driver_that_lost_the_sweep_leaves_it_alone(results, monkeypatch):
    monkeypatch.setattr(leases, "RENEW_SECONDS", 0.05)
    mine = acquire(results)
    claim(results, "other", expires=time.time() + 60)
    deadline = time.monotonic() + 60
    while not mine.lost and time.monotonic() < deadline:
        time.sleep(0.01)
    assert mine.lost
    assert results.claim.is_taken_from(mine.driver)
    mine.release()
    assert results.claim.is_held_by("other")


@pytest.mark.parametrize("content", [b"", b"nonsense", b"[]", b"{}", b"\xff\xfe\x00", b"3"])
def test_a_damaged_lease_is_none(results, content):
    results.put("driver", content)
    assert results.claim.lease() is None
    acquire(results).release()


@pytest.mark.skipif(sys.platform != "linux", reason="pids are compared by /proc")
def test_a_dead_process_of_this_machine_expires_at_once(tmp_path):
    code = f"""if True:
        import time
        from metaphase.sweeps.store.lease import acquire
        from metaphase.sweeps.store.results import Results
        acquire(Results({str(tmp_path)!r}, "sweep"))
        print("mine", flush=True)
        time.sleep(60)
    """
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "mine\n"
    results = Results(str(tmp_path), "sweep")
    held = results.claim.lease()
    assert held is not None
    assert held["pid"] == process.pid
    assert is_live(held)
    assert not is_live({**held, "born": "1"})  # the pid, used again
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not is_live(held)
    acquire(results).release()


@pytest.mark.skipif(sys.platform != "linux", reason="pids are compared by /proc")
def test_a_clock_that_is_set_back_ends_no_living_drivers_lease(tmp_path):
    """By hours: only the process of this machine that is proven to live has such a lease."""
    results = Results(str(tmp_path), "sweep")
    process = subprocess.Popen(["sleep", "60"])
    try:
        details = {"machine": leases._machine(), "pid": process.pid, "since": time.time() + 3000}
        born = leases._born(process.pid)
        claim(results, "x", expires=time.time() + 6 * 3600, born=born, **details)
        held = results.claim.lease()
        assert held is not None
        assert is_live(held)
        with pytest.raises(ConfigError, match=f"by process {process.pid} on "):
            acquire(results)
        assert not is_live({**held, "machine": "m"})
        assert not is_live({**held, "born": "1"})
        assert not is_live({**held, "born": leases.ALIVE})
        assert not is_live({**held, "expires": time.time() - 1})
    finally:
        process.kill()
        process.wait()
    assert not is_live(held)


@pytest.mark.parametrize("error", [FileNotFoundError, PermissionError])  # hidepid=2, hidepid=1
def test_a_process_that_proc_hides_lives(monkeypatch, error):
    """Another user's, on a machine whose /proc shows each user's own alone."""

    def hidden(path):
        raise error(path)

    def kill(pid, number):
        raise {1: PermissionError, 2: ProcessLookupError}[pid]

    lease = {"driver": "x", "machine": leases._machine(), "pid": 1, "born": "7"}
    lease["expires"] = time.time() + 60
    monkeypatch.setattr(leases, "_machine", lambda: lease["machine"])
    monkeypatch.setattr(leases, "open", hidden, raising=False)
    monkeypatch.setattr(os, "kill", kill)
    assert is_live(lease)
    assert not is_live({**lease, "pid": 2})
    assert not is_live({**lease, "pid": 0})
    assert not is_live({**lease, "born": ""})
    assert not is_live({**lease, "expires": time.time() + 3600})  # it may be another process


@pytest.mark.parametrize("where", ["path", "store"])
def test_of_those_that_start_together_one_gets_it(tmp_path, where):
    """`python -m tests.tools.lease_races` does it a thousand times."""
    if where == "path":
        found = lease_races.owners(str(tmp_path), races=4, processes=3)
    else:
        with failing_s3(0.5, faults=("slow",), slow_seconds=0.2):
            found = lease_races.owners("s3://bucket/races", races=4, processes=3)
    assert [len(drivers) for drivers in found] == [1] * 4


def test_the_command_says_it_in_one_line_and_touches_nothing(tmp_path, capsys):
    (tmp_path / "sweep.yaml").write_text(PRESET)
    results = Results(str(tmp_path / "root"), "sweep")
    mine = acquire(results)
    before = sorted(str(p) for p in (tmp_path / "root").rglob("*"))
    assert run.main([str(tmp_path / "sweep.yaml"), "--root", str(tmp_path / "root")]) == 1
    assert sorted(str(p) for p in (tmp_path / "root").rglob("*")) == before
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith(f"error: {results} is being run: by process {os.getpid()} on ")
    assert said.err.count("\n") == 1
    assert "expires in" in said.err
    mine.release()


def test_workers_write_nothing_once_the_sweep_is_anothers(tmp_path):
    from tests.sweeps.execution import test_worker as test_trial

    made, results = test_trial.start(tmp_path)
    made.step()
    results.claim.take("other")
    made._run._claim_checked -= 10
    assert made.step()["stopped"]
    assert results.checkpoints.steps() == {}
    assert results.finished() == {}


def test_released_while_it_is_renewed(results, monkeypatch):
    lease = acquire(results)
    renewing, go_on = threading.Event(), threading.Event()
    write = lease._write

    def slow_write(replaces, retry=False):
        renewing.set()
        assert go_on.wait(10)
        write(replaces, retry)

    monkeypatch.setattr(lease, "_write", slow_write)
    lease._wake.set()
    assert renewing.wait(10)
    releasing = threading.Thread(target=lease.release)
    releasing.start()
    time.sleep(0.1)
    go_on.set()
    releasing.join(10)
    assert results.claim.lease() is None
