"""The driver: hands packs to Ray Tune, follows them, and stops cleanly."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray import tune

from metaphase.core import schema
from metaphase.core.cell import Cell, ConfigError
from metaphase.core.process import outlived
from metaphase.sweeps.execution.cluster import ray_running
from metaphase.sweeps.execution.progress import Progress
from metaphase.sweeps.execution.scratch import scratch_folder
from metaphase.sweeps.execution.software import check_nodes, installed
from metaphase.sweeps.execution.worker import Job, PackTrial
from metaphase.sweeps.planning.packs import Pack, Workers, cpu_workers, gpu_workers, plan
from metaphase.sweeps.store.lease import Lease
from metaphase.sweeps.store.results import Results

logger = logging.getLogger(__name__)

# Read by Ray when it starts, by Tune when it runs; what the user has set stays.
ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",  # sends nothing to anybody
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_memory_monitor_refresh_ms": "0",  # the kernel knows better when memory is short
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # no CSV, JSON, TensorBoard: results are Parquet
    "RAY_AIR_NEW_OUTPUT": "0",  # whose quietest level still prints tables
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # `interruptible` does it
    "TUNE_GLOBAL_CHECKPOINT_S": "1000000",  # Tune's own state isn't used to go on
    "TUNE_WARN_THRESHOLD_S": "5",
}

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


@dataclass
class Outcome:
    """What a run came to.

    Attributes:
        wall_seconds: from the start of the command to after the last trial.
        training_seconds: of all workers, in training and evaluating.
        workers: how many there were.
        interrupted: by Ctrl-C or SIGTERM.
        config_error: one line, if the data can't be had or the disk is full.
        phases: counts of phases, in words.
    """

    wall_seconds: float = 0.0
    training_seconds: float = 0.0
    workers: int = 0
    interrupted: bool = False
    config_error: str | None = None
    phases: str = ""


def train(
    results: Results,
    cells: Sequence[Cell],
    *,
    lease: Lease,
    data_root: str,
    total: int,
    before: dict[str, str],
    pack_size: int | None = None,
    gpus: int | None = None,
    started: float | None = None,
) -> Outcome:
    """Trains cells to their ends, or until interrupted.

    A cell that can't be trained, alone and in a worker of its own, is recorded as failed.

    Args:
        results: where they are written.
        cells: what to train.
        lease: ours on the sweep.
        data_root: folder of the base data sets.
        total: cells in the sweep, for progress.
        before: {cell_id: status} of its finished cells.
        pack_size: the most cells in a pack; None: chosen by `plan`.
        gpus: GPUs to plan for, where the cluster gets them only when asked; None: those it has.
        started: time.monotonic() when the command began; None: now.
    """
    started = time.monotonic() if started is None else started
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    steps = results.checkpoint_steps()
    for cell_id in steps.keys() & before.keys():  # a crash came between its result and this
        if before[cell_id] != schema.FAILED:  # which goes on from them, when asked to
            results.remove_checkpoints(cell_id)
    outcome = Outcome()
    with outlived(), scratch_folder() as scratch, ray_running(scratch) as cluster:
        software: dict[str, str] = {}
        if cluster:
            check_nodes()
            software = installed()  # machines may join later
        workers = gpu_workers(gpus) if gpus else cluster_workers()
        outcome.workers = workers.count
        with interruptible(lease) as interrupt:
            time.sleep(max(0.0, lease.ready_at - time.time()))
            while cells and not (interrupt.asked or outcome.config_error or lease.lost):
                packs = plan(cells, workers, steps, pack_size)
                progress = Progress(results, packs, total, before)
                job = Job(
                    results.root,
                    results.sweep,
                    lease.driver,
                    data_root,
                    workers.device,
                    packs,
                    software,
                )
                try:
                    fit(job, progress, interrupt, scratch)
                except (RuntimeError, tune.TuneError, ray.exceptions.RayError) as error:
                    logger.exception("Tune gave up")
                    line = str(error).strip().split("\n")[0]
                    if isinstance(error, ray.exceptions.RayError):  # Ray itself is gone
                        line += ". The same command continues"
                    raise ConfigError(f"Ray Tune gave up: {line}") from error
                outcome.training_seconds += progress.training_seconds
                outcome.config_error = progress.config_error
                outcome.phases = progress.phase_counts()
                if lease.lost:
                    break  # what failed is the other driver's to judge
                before = results.finished() if progress.errors else before
                cells, size = _blame(results, packs, progress.errors, before)
                pack_size = size or pack_size
                steps = results.checkpoint_steps()
            outcome.interrupted = interrupt.asked
    outcome.wall_seconds = time.monotonic() - started
    return outcome


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


def _blame(
    results: Results, packs: Sequence[Pack], errors: dict[int, str], finished: dict[str, str]
) -> tuple[list[Cell], int | None]:
    """Of packs that were given up: records cells that were alone as failed, and returns those to
    be tried again, with the most cells in a pack. Packs that got further than where they began
    are not to blame: they go on as they are, unless others have to be divided."""
    again: list[Cell] = []
    sizes = []
    steps = results.checkpoint_steps()
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


# --- workers, signals, logs ---


def cluster_workers() -> Workers:
    """One worker a GPU where the cluster has some, else one a CPU core."""
    resources = ray.cluster_resources()
    gpus = int(resources.get("GPU", 0))
    if gpus:
        return gpu_workers(gpus)
    return cpu_workers(max(1, int(resources.get("CPU", 1))), resources.get("memory", 4e9))


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


def log_to(path: Path) -> None:
    """Sends all logs of this process to a file, away from the terminal."""
    logging.basicConfig(
        filename=path,
        encoding="utf-8",
        level=logging.INFO,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        force=True,
    )
    ray_logger = logging.getLogger("ray")
    ray_logger.handlers.clear()
    ray_logger.propagate = True
    # It misses the CSV and JSON files that ENVIRONMENT turns off.
    logging.getLogger("ray.tune.analysis").setLevel(logging.ERROR)
