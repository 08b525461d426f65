"""The trials of a run: handed to Ray Tune, and stopped cleanly when somebody asks."""

from __future__ import annotations

import contextlib
import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.search import Searcher

from metaphase.core import process
from metaphase.sweeps.execution.pack_run import Job
from metaphase.sweeps.execution.rounds import MAX_FAILURES, More
from metaphase.sweeps.execution.tune_progress import TuneProgress
from metaphase.sweeps.execution.worker import PackTrial
from metaphase.sweeps.store.lease import Lease

STOP_SECONDS = 300.0  # that workers may take for their checkpoints, asked to stop


class Interrupt(tune.Stopper):
    """Whether someone asked to stop. Tune asks it whether to go on, and once it isn't to, gives
    trials 10 seconds: so those that run are waited for, until they have told of their checkpoints.
    Those that start meanwhile end at their first look at the lease."""

    def __init__(self, lease: Lease) -> None:
        self.asked = False
        self.progress: TuneProgress | None = None  # of the trials that run
        self._lease = lease
        self._waited_for: set[int] | None = None
        self._give_up_at = 0.0

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune stores it to go on from; we never do

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        assert self.progress is not None
        if self._lease.lost or self.progress.config_error:
            return True
        if not self.asked:
            return False
        if self._waited_for is None:
            self._waited_for = set(self.progress.running)
            self._give_up_at = time.monotonic() + STOP_SECONDS
        return not self._waited_for & self.progress.running or time.monotonic() > self._give_up_at


@contextlib.contextmanager
def interruptible(lease: Lease) -> Iterator[Interrupt]:
    """While inside, the first Ctrl-C or SIGTERM makes the workers checkpoint and stop; the second
    does what it usually does."""
    interrupt = Interrupt(lease)

    def stop() -> None:
        interrupt.asked = True
        lease.stop_workers()  # they see it within a second or so

    with process.interruptible(stop):
        yield interrupt


class PackSearcher(Searcher):
    """Gives Tune the packs of a search, and asks for more of them when all are given."""

    def __init__(self, job: Job, order: Sequence[int], progress: TuneProgress, more: More) -> None:
        super().__init__()
        self._progress, self._more = progress, more
        self._place = {cell.cell_id: i for i, cell in enumerate(job.grid)}
        self._waiting = deque(order)
        self._live: set[str] = set()

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune stores it to go on from; we never do

    def suggest(self, trial_id: str) -> Any:
        """The config of another trial; None as long as there is none, but others are live: Tune
        asks again, about ten times a second."""
        if not self._waiting:
            self._waiting.extend(self._more(self._progress))
        if not self._waiting:  # without live ones Tune would stand still for a second at each look
            return None if self._live else self.FINISHED
        self._live.add(trial_id)
        index = self._waiting.popleft()
        cells = self._progress.packs[index].cells
        return {"pack": index, "cells": [self._place[cell.cell_id] for cell in cells]}

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        self._live.discard(trial_id)

    def save_to_dir(self, checkpoint_dir: str, session_str: str = "default") -> None:
        """Nothing is stored."""


def fit(
    job: Job, progress: TuneProgress, interrupt: Interrupt, scratch: Path, more: More | None = None
) -> None:
    """One trial a pack, in their order but for the last, which comes second: of packs that all fail
    the dearest and the cheapest tell soon whether others would. Through Ray Tune, which wants a
    folder: `scratch`. `more` is asked for further packs, of a search."""
    first, *rest = range(len(job.packs))
    order = [first, *rest[-1:], *rest[:-1]]
    resources = {"cpu": 1.0, "gpu": 1.0} if job.device == "cuda" else {"cpu": 1.0}
    space: dict[str, Any] = {}
    config = tune.TuneConfig(reuse_actors=True)
    if more is None:
        space["pack"] = tune.grid_search(order)
    else:  # with a limit to its trials, a searcher's may wait for workers, more than one
        config.search_alg = PackSearcher(job, order, progress, more)
        config.num_samples, config.max_concurrent_trials = -1, sys.maxsize
    interrupt.progress = progress
    try:
        tune.Tuner(
            tune.with_resources(tune.with_parameters(PackTrial, job=job), resources),
            param_space=space,
            tune_config=config,
            run_config=tune.RunConfig(
                name=job.sweep,
                storage_path=str(scratch / "tune"),
                stop=interrupt,
                callbacks=[progress],
                failure_config=tune.FailureConfig(max_failures=MAX_FAILURES),
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
                verbose=0,
            ),
        ).fit()
    finally:
        progress.close()
