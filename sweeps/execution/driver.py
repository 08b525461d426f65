"""The driver: plans packs, has Ray Tune train them, and plans again what was left over, until every
cell is finished or somebody asks to stop."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import ray
from ray import tune

from metaphase.core import plugins, schema
from metaphase.core.cell import Cell, ConfigError
from metaphase.core.process import outlived
from metaphase.sweeps.execution.progress import Progress
from metaphase.sweeps.execution.ray_session import cluster_workers, ray_running, set_environment
from metaphase.sweeps.execution.scratch import scratch_folder
from metaphase.sweeps.execution.software import check_nodes, installed
from metaphase.sweeps.execution.trials import fit, interruptible, judge
from metaphase.sweeps.execution.worker import Job
from metaphase.sweeps.planning.packs import plan
from metaphase.sweeps.planning.workers import gpu_workers
from metaphase.sweeps.store.lease import Lease
from metaphase.sweeps.store.results import Results

logger = logging.getLogger(__name__)


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
    keep_models: bool = False,
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
        keep_models: whether models of the cells that are finished are kept.
    """
    started = time.monotonic() if started is None else started
    set_environment()
    steps = results.checkpoints.steps()
    for cell_id in steps.keys() & before.keys():  # a crash came between its result and this
        if before[cell_id] != schema.FAILED:  # which goes on from them, when asked to
            results.checkpoints.remove(cell_id)
    outcome = Outcome()
    with (
        outlived(),
        scratch_folder() as scratch,
        ray_running(scratch, lambda: lease.stopping) as cluster,
    ):
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
                    keep_models,
                    plugins.in_use_by(cell for pack in packs for cell in pack.cells),
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
                cells, size = judge(results, packs, progress.errors, before)
                pack_size = size or pack_size
                steps = results.checkpoints.steps()
            outcome.interrupted = interrupt.asked
    outcome.wall_seconds = time.monotonic() - started
    return outcome


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
