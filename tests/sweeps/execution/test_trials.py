"""Packs of a search as trials of Ray Tune: given one after the other, more as they are proposed."""

import json
import pickle
import types

import ray
from ray.tune.search import Searcher

import metaphase as mp
from metaphase.sweeps import run
from metaphase.sweeps.execution import driver, local
from metaphase.sweeps.execution.trials import PackSearcher
from metaphase.sweeps.planning.packs import Pack
from metaphase.sweeps.store.results import Results
from metaphase.sweeps.store.searchfile import read_rounds
from tests.sweeps.execution.test_rounds import SWEEP
from tests.sweeps.execution.test_worker import assert_same


def test_tune_is_given_packs_until_there_are_none():
    cells = SWEEP.cells
    packs = [Pack((cells[i], cells[i + 1]), 0, 1.0) for i in (6, 0, 2)]
    answers = [[2], [], [], []]
    job = types.SimpleNamespace(grid=cells)
    progress = types.SimpleNamespace(packs=packs)
    made = PackSearcher(job, [1, 0], progress, lambda progress: answers.pop(0))
    assert made.suggest("a") == {"pack": 1, "cells": [0, 1]}
    assert json.dumps(made.suggest("b")) == '{"pack": 0, "cells": [6, 7]}'
    assert made.suggest("c") == {"pack": 2, "cells": [2, 3]}
    made.on_trial_complete("a", {})
    made.on_trial_complete("b", error=True)
    assert made.suggest("d") is None  # another may still lead to more
    made.on_trial_complete("c")
    assert made.suggest("d") == Searcher.FINISHED
    pickle.dumps(made)


def test_a_search_through_ray_is_that_of_one_process(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(driver, "log_to", lambda path: None)
    monkeypatch.setattr(local, "cores", lambda: 2)
    mp.run(SWEEP, tmp_path / "here", progress=False)
    preset = tmp_path / "sweep.yaml"
    preset.write_text(SWEEP.to_yaml())
    ray.init(num_cpus=2, include_dashboard=False, object_store_memory=10**8, log_to_driver=False)
    try:
        monkeypatch.setenv("RAY_ADDRESS", ray.get_runtime_context().gcs_address)
        arguments = [str(preset), "--root", str(tmp_path / "ray"), "--pack-size", "1"]
        assert run.main(arguments) == 0
    finally:
        ray.shutdown()
    assert "the budget is spent; generalizing begins at 2^" in capsys.readouterr().out
    here, there = (Results(str(tmp_path / root), "sweep") for root in ("here", "ray"))
    assert read_rounds(there) == read_rounds(here)
    assert_same(there, here)
