"""When Tune is told to end all trials."""

import pickle
import socket
import types

import pytest

from sweeps import driver
from sweeps.driver import Interrupt


@pytest.fixture
def lease():
    return types.SimpleNamespace(lost=False, lock=open)  # not to be pickled


@pytest.fixture
def interrupt(lease):
    made = Interrupt(lease)
    made.progress = types.SimpleNamespace(running={0, 1}, config_error=None)
    return made


def test_it_goes_on_until_someone_asks(interrupt):
    assert not interrupt.stop_all()


def test_what_runs_when_it_is_asked_is_waited_for_and_nothing_else(interrupt):
    interrupt.asked = True
    assert not interrupt.stop_all()
    interrupt.progress.running = {1, 2}  # pack 2 has begun meanwhile
    assert not interrupt.stop_all()
    interrupt.progress.running = {2, 3}
    assert interrupt.stop_all()


def test_it_does_not_wait_for_ever(interrupt, monkeypatch):
    monkeypatch.setattr(driver, "STOP_SECONDS", -1.0)
    interrupt.asked = True
    assert interrupt.stop_all()


def test_another_drivers_sweep_and_missing_data_end_it_at_once(interrupt, lease):
    lease.lost = True
    assert interrupt.stop_all()
    lease.lost = False
    interrupt.progress.config_error = "dataset: no network"
    assert interrupt.stop_all()


def test_tune_can_store_it(interrupt):
    pickle.dumps(interrupt)


def test_a_cluster_that_is_not_there_is_one_line(monkeypatch):
    monkeypatch.setattr(driver, "ANSWER_SECONDS", 0.2)
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{listening.getsockname()[1]}"
        for nobody in (address, f"ray://{address}"):
            with pytest.raises(ConnectionError, match=r"^RAY_ADDRESS: no Ray answers at .*; start"):
                driver._check_answers(nobody)
        listening.listen()
        driver._check_answers(address)
    driver._check_answers("auto")
