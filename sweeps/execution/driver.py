"""The driver: has Ray Tune train packs on the workers of a cluster, or of this machine."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import ray
from ray import tune

from metaphase.core.cell import Cell, ConfigError
from metaphase.core.devices import unused_gpus
from metaphase.core.process import outlived
from metaphase.sweeps.execution import logfile
from metaphase.sweeps.execution.gpus import prove
from metaphase.sweeps.execution.pack_run import Job
from metaphase.sweeps.execution.progress import Progress
from metaphase.sweeps.execution.ray_session import cluster_workers, ray_running, set_environment
from metaphase.sweeps.execution.rounds import More, Outcome, Propose, Rounds
from metaphase.sweeps.execution.scratch import scratch_folder
from metaphase.sweeps.execution.software import check_nodes, installed
from metaphase.sweeps.execution.trials import fit, interruptible
from metaphase.sweeps.execution.tune_progress import TuneProgress
from metaphase.sweeps.store.lease import Lease
from metaphase.sweeps.store.results import Results

logger = logging.getLogger(__name__)


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
    keep_models: bool | str = False,
    propose: Propose | None = None,
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
        keep_models: see `sweeps.execution.pack_run.Job`.
        propose: see `sweeps.execution.rounds.Rounds`.
    """
    started = time.monotonic() if started is None else started
    set_environment()
    rounds = Rounds(
        results, lease, data_root, total, before, pack_size, keep_models, propose=propose
    )
    with (
        outlived(),
        scratch_folder() as scratch,
        ray_running(scratch, lambda: lease.stopping) as cluster,
    ):
        software: dict[str, str] = {}
        if cluster:
            check_nodes()
            software = installed()  # machines may join later
        workers, there = cluster_workers(gpus)
        if workers.device == "cpu" and not cluster and (why := unused_gpus()):
            print(f"{why}. Cells train on the CPU", file=sys.stderr, flush=True)
        if there is not None:
            of = cells if propose is None else propose.cells
            rounds.fast_paths = prove(there, of, data_root)
        with interruptible(lease) as interrupt:

            def tune_packs(job: Job, finished: dict[str, str], more: More | None) -> Progress:
                progress = TuneProgress(results, job.packs, total, finished, said=job.said)
                progress.works = rounds.outcome.training_seconds > 0
                try:
                    fit(job, progress, interrupt, scratch, more)
                except (RuntimeError, tune.TuneError, ray.exceptions.RayError) as error:
                    logger.exception("Tune gave up")
                    line = str(error).strip().split("\n")[0]
                    if isinstance(error, ray.exceptions.RayError):  # Ray itself is gone
                        line += ". The same command continues"
                    raise ConfigError(f"Ray Tune gave up: {line}") from error
                return progress

            rounds.train(cells, workers, tune_packs, lambda: interrupt.asked, software)
            rounds.outcome.interrupted = interrupt.asked
    rounds.outcome.wall_seconds = time.monotonic() - started
    return rounds.outcome


def log_to(path: Path) -> None:
    """Sends all logs of this process to a file, away from the terminal; Ray's too."""
    logfile.log_to(path)
    ray_logger = logging.getLogger("ray")
    ray_logger.handlers.clear()
    ray_logger.propagate = True
    # It misses the CSV and JSON files that ENVIRONMENT turns off.
    logging.getLogger("ray.tune.analysis").setLevel(logging.ERROR)
