"""The trials of a run: handed to Ray Tune, stopped cleanly when somebody asks, and judged when they
were given up."""

from __future__ import annotations

import contextlib
import logging
import signal
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ray import tune

from metaphase.core.cell import Cell
from metaphase.sweeps.execution.progress import Progress
from metaphase.sweeps.execution.worker import Job, PackTrial
from metaphase.sweeps.planning.packs import Pack
from metaphase.sweeps.store.lease import Lease
from metaphase.sweeps.store.results import Results

logger = logging.getLogger(__name__)

MAX_FAILURES = 2  # times a pack is tried again, its worker or node lost or an error raised
SPLIT = 8  # a pack given up is divided by this, until the cell to blame is alone
STOP_SECONDS = 300.0  # that workers may take for their checkpoints, asked to stop


class Interrupt(tune.Stopper):
    """Whether someone asked to stop. Tune asks it whether to go on, and once it isn't to, gives
    trials 10 seconds: so those that run are waited for, until they have told of their checkpoints.
    Those that start meanwhile end at their first look at the lease."""

    def __init__(self, lease: Lease) -> None:
        self.asked = False
        self.progress: Progress | None = None  # of the trials that run
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
    before: dict[int, Any] = {}

    def stop(number: int, frame: Any) -> None:
        interrupt.asked = True
        for restored, handler in before.items():
            signal.signal(restored, handler)
        lease.stop_workers()  # they see it within a second or so

    for caught in (signal.SIGINT, signal.SIGTERM):
        before[caught] = signal.signal(caught, stop)
    try:
        yield interrupt
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def fit(job: Job, progress: Progress, interrupt: Interrupt, scratch: Path) -> None:
    """One trial a pack, in their order, through Ray Tune, which wants a folder: `scratch`."""
    resources = {"cpu": 1.0, "gpu": 1.0} if job.device == "cuda" else {"cpu": 1.0}
    interrupt.progress = progress
    try:
        tune.Tuner(
            tune.with_resources(tune.with_parameters(PackTrial, job=job), resources),
            param_space={"pack": tune.grid_search(list(range(len(job.packs))))},
            tune_config=tune.TuneConfig(reuse_actors=True),
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


def judge(
    results: Results, packs: Sequence[Pack], errors: dict[int, str], finished: dict[str, str]
) -> tuple[list[Cell], int | None]:
    """Of packs that were given up: records cells that were alone as failed, and returns those to
    be tried again, with the most cells in a pack. Packs that got further than where they began
    are not to blame: they go on as they are, unless others have to be divided."""
    again: list[Cell] = []
    sizes = []
    steps = results.checkpoints.steps()
    for index, error in errors.items():
        cells = packs[index].cells
        left = [cell for cell in cells if cell.cell_id not in finished]
        further = any(steps.get(cell.cell_id, 0) > packs[index].step for cell in left)
        if further or len(left) < len(cells):
            again += left
        elif len(cells) > 1:
            again += left
            sizes.append(-(-len(cells) // SPLIT))
        else:
            for cell in left:
                logger.error("%s failed: %s", cell.cell_id, error)
                results.write_failure(cell, error)
    return again, max(sizes, default=None)
