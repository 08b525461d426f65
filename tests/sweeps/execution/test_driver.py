"""When Tune is told to end all trials."""

import pickle
import types

import pytest

from metaphase.sweeps.execution import trials
from metaphase.sweeps.execution.trials import Interrupt


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
    monkeypatch.setattr(trials, "STOP_SECONDS", -1.0)
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
