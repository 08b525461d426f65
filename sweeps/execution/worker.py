"""The worker: one Ray Tune trial trains one pack.

Ray carries only a few words of progress; Tune's checkpoints are not used
(`sweeps.execution.pack_run`).
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import platform
import signal
import sys
import time
from dataclasses import asdict
from typing import Any

import ray
import torch
from ray import tune
from ray._private import state as ray_state

from metaphase.core import fast_paths, plugins
from metaphase.core.cell import ConfigError
from metaphase.core.devices import training_device
from metaphase.sweeps.execution.logfile import LogFile
from metaphase.sweeps.execution.pack_run import Job, PackRun, Report
from metaphase.sweeps.execution.software import difference, installed
from metaphase.sweeps.store.folders import check_is_file, one_line
from metaphase.sweeps.store.results import Results

logger = logging.getLogger(__name__)

DRAIN_SECONDS = 1.0  # between looks whether Ray keeps the node


class PackTrial(tune.Trainable):
    """Trains the cells of pack config["pack"] of a job, which reaches the workers once, through
    Ray's object store; or, of packs that a search adds, the cells of the job's grid at
    config["cells"]."""

    def setup(self, config: dict[str, Any], job: Job | None = None) -> None:
        assert job is not None
        self._job = job
        self._in_step = self._leaving = self._poisoned = False
        self._drain_checked = -math.inf
        wrong = difference(job.software, installed()) if job.software else ""
        self._wrong = f"{platform.node()} {wrong}" if wrong else ""
        try:
            plugins.load_again(job.plug_ins)
            self._results = Results(job.root, job.sweep, job.driver)
        except (ConfigError, OSError) as error:  # credentials, say, that only the driver has
            self._wrong = f"{platform.node()}: {one_line(error)}"
        fast_paths.adopt(job.fast_paths)
        if job.device != "cpu" and not self._wrong:
            try:  # a machine may have joined after those that the driver asked
                training_device(job.device)
            except ConfigError as error:
                self._wrong = f"{platform.node()}: {error}"
        if job.device == "cpu":
            torch.set_num_threads(1)  # a trial has one core; its neighbours have the others
        folder = None if self._wrong else self._results.local_path
        if folder:
            _log_to(folder / "logs" / f"worker-{platform.node()}-{os.getpid()}.log")
        self.reset_config(config)
        if ray.is_initialized():  # in a process of its own
            signal.signal(signal.SIGTERM, self._told_to_leave)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Takes over the next pack, in the same process."""
        self._run: PackRun | None = None
        if not self._wrong:
            job, at = self._job, new_config.get("cells")
            cells = job.packs[new_config["pack"]].cells if at is None else [job.grid[i] for i in at]
            self._run = PackRun(self._results, job, cells, self._is_leaving)
        return True

    def step(self) -> dict[str, Any]:
        """Trains to the next evaluation, writes, and returns what progress needs (`Report`).

        If the node is to go (a spot notice, a drain, SIGTERM), this doesn't return: the process
        ends once there are checkpoints.
        """
        if self._poisoned:  # the pack is left to another process
            return asdict(Report(done=True, poisoned=True))
        if self._run is None:
            return asdict(Report(done=True, config_error=self._wrong))
        self._in_step = True
        try:
            report = self._run.step()
        finally:
            self._in_step = False
        self._poisoned = report.poisoned
        if self._is_leaving():
            self._go()
        return asdict(report)

    def cleanup(self) -> None:
        """Saves what is trained: Tune may end the trial before `step` saw that someone asked to
        stop."""
        if self._run is not None:
            self._run.save()
        self._run = None

    def _told_to_leave(self, number: int, frame: Any) -> None:
        """Handles SIGTERM. In the middle of a step it is heeded at the step's next pause."""
        self._leaving = True
        if not self._in_step:
            self._go()

    def _is_leaving(self) -> bool:
        now = time.monotonic()
        if not self._leaving and now - self._drain_checked >= DRAIN_SECONDS:
            self._drain_checked = now
            self._leaving = _node_is_drained()
        return self._leaving

    def _go(self) -> None:
        """Ends this process, so that Ray starts the trial on another node."""
        logger.info("leaving: the node is to go")
        if self._run is not None:
            self._run.save()
        sys.exit(1)


def _node_is_drained() -> bool:
    """Whether Ray has been told that this node will be gone soon."""
    if not ray.is_initialized():
        return False
    try:
        draining = ray_state.state.get_draining_nodes()  # {node id: deadline}
    except Exception as error:  # the next look asks again
        logger.warning("Ray doesn't say which nodes are to go: %s", error)
        return False
    return ray.get_runtime_context().get_node_id() in draining


def _log_to(path: os.PathLike) -> None:
    """Sends this process' log to a file, which is made when there is something to say."""
    with contextlib.suppress(OSError):
        os.makedirs(os.path.dirname(path), exist_ok=True)
        if os.path.islink(path):  # whose end somebody else has chosen
            os.unlink(path)
        if os.path.exists(path):
            check_is_file(os.fspath(path))
        logging.getLogger("metaphase").addHandler(LogFile(path, delay=True))
        logging.getLogger("metaphase").setLevel(logging.INFO)
