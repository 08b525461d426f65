"""The local executor: trains packs in this process, without Ray, in threads of their own.

The thread that asks for it only waits and shows progress, so that an interrupt (Ctrl-C, a
notebook's stop button) never falls into the middle of a step or of a write. What a process has for
itself stays as it is: handlers of signals, logging, the environment, the working directory, random
states, the number of PyTorch's threads.

On a CPU as many packs are trained side by side as there are cores, one thread each: kernels let go
of Python's lock while they compute. A GPU trains one pack at a time.
"""

from __future__ import annotations

import logging
import queue
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from typing import Any

import torch

from metaphase.core import fast_paths
from metaphase.core.cell import Cell, ConfigError
from metaphase.core.devices import training_device, unused_gpus
from metaphase.sweeps.execution import proving
from metaphase.sweeps.execution.pack_run import Job, PackRun, Report
from metaphase.sweeps.execution.progress import Progress
from metaphase.sweeps.execution.rounds import MAX_FAILURES, More, Outcome, Propose, Rounds
from metaphase.sweeps.planning.hardware import cores, memory
from metaphase.sweeps.planning.packs import Pack
from metaphase.sweeps.planning.workers import Workers, cpu_workers, gpu_workers
from metaphase.sweeps.store.folders import one_line
from metaphase.sweeps.store.lease import Lease
from metaphase.sweeps.store.results import Results

logger = logging.getLogger(__name__)

LOOK_SECONDS = 0.2  # between looks whether somebody asks to stop, and at what is shown


def train(
    results: Results,
    cells: Sequence[Cell],
    *,
    lease: Lease,
    data_root: str,
    total: int,
    before: dict[str, str],
    pack_size: int | None = None,
    started: float | None = None,
    keep_models: bool | str = False,
    device: str | None = None,
    shown: bool = True,
    asked_to_stop: Callable[[], bool] = lambda: False,
    propose: Propose | None = None,
) -> Outcome:
    """Trains cells to their ends, or until it is interrupted or asked to stop. It returns once no
    thread of its own trains any more.

    A cell that can't be trained, alone, is recorded as failed.

    Args:
        results: where they are written.
        cells: what to train.
        lease: ours on the sweep.
        data_root: folder of the base data sets.
        total: cells in the sweep, for progress.
        before: {cell_id: status} of its finished cells.
        pack_size: the most cells in a pack; None: chosen by `plan`.
        started: time.monotonic() when the command began; None: now.
        keep_models: see `sweeps.execution.pack_run.Job`.
        device: a torch device; None: a GPU where there is one, else the CPU.
        shown: whether progress is printed.
        asked_to_stop: asked now and then, in the calling thread.
        propose: see `sweeps.execution.rounds.Rounds`.

    Raises:
        ConfigError: the device can't be used.
        KeyboardInterrupt: somebody interrupted; there are checkpoints of what was trained.
    """
    started = time.monotonic() if started is None else started
    chosen = usable_device(device)
    workers = _workers(chosen)
    of = cells if propose is None else propose.cells
    found = _prove(of, data_root, chosen, shown)
    rounds = Rounds(
        results, lease, data_root, total, before, pack_size, keep_models, found, propose
    )
    stopping = threading.Event()

    def failed(name: str, why: str) -> None:
        proving.remember(of, proving.environment(str(chosen)), name, why)

    def fit(job: Job, finished: dict[str, str], more: More | None) -> Progress:
        progress = Progress(results, job.packs, total, finished, shown, job.said)
        progress.works = rounds.outcome.training_seconds > 0
        job = replace(job, device=str(chosen))
        threads = _Threads(job, progress.packs, workers.count, stopping, failed)
        try:
            while threads.follow(progress):
                if asked_to_stop() or lease.lost or progress.config_error:
                    stopping.set()
                if more is not None and not threads.waiting:
                    threads.give(more(progress))
                progress.show()
        except BaseException:
            stopping.set()
            raise
        finally:
            threads.join()
            progress.close()
        return progress

    threads_of_torch = torch.get_num_threads()
    try:
        rounds.train(cells, workers, fit, stopping.is_set)
        rounds.outcome.interrupted = stopping.is_set() and asked_to_stop()
    finally:
        stopping.set()
        torch.set_num_threads(threads_of_torch)
    rounds.outcome.wall_seconds = time.monotonic() - started
    return rounds.outcome


def usable_device(name: str | None) -> torch.device:
    """The device of this name, if this process can train on it.

    Raises:
        ConfigError: it can't; one line.
    """
    if torch.get_default_dtype() != torch.float32:
        raise ConfigError(
            f"torch.get_default_dtype() is {torch.get_default_dtype()}; allowed: torch.float32"
        )
    return training_device(name)


def _workers(device: torch.device) -> Workers:
    """What packs are planned for."""
    if device.type == "cpu":
        return cpu_workers(cores(), memory())
    return gpu_workers(1, float(torch.cuda.mem_get_info(device)[0]))


def _prove(
    cells: Sequence[Cell], data_root: str, device: torch.device, shown: bool
) -> dict[str, str]:
    """Which fast paths are right and faster on a GPU; this process takes over what was found."""
    if device.type == "cpu":
        if (why := unused_gpus()) and shown:
            print(f"{why}. Cells train on the CPU", file=sys.stderr, flush=True)
        return {}
    of = proving.environment(str(device))
    found = proving.find_out(cells, of, data_root, proving.in_a_process, str(device))
    for name, why in found.failures.items() if shown else ():
        print(fast_paths.warning(name, why), file=sys.stderr, flush=True)
    fast_paths.adopt(found.verdicts)
    return found.verdicts


class _Threads:
    """Threads that train packs, each taking the next one when it is free. One ends where none
    waits; others begin when more are given.

    Attributes:
        waiting: indices of the packs that no thread has taken.

    Args:
        job: what all packs share.
        packs: what to train; those that are given later are added to them before.
        count: the most threads at a time.
        stopping: once it is set, packs are left with checkpoints, and no other begins.
        failed: told the name of a fast path that has left this process unfit for more, and why.
    """

    def __init__(
        self,
        job: Job,
        packs: Sequence[Pack],
        count: int,
        stopping: threading.Event,
        failed: Callable[[str, str], None],
    ) -> None:
        self._job, self._packs, self._count = job, packs, count
        self._stopping, self._failed = stopping, failed
        self._told: queue.SimpleQueue[tuple[str, tuple[Any, ...]]] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._running = 0
        self.waiting: deque[int] = deque()
        self.give(range(len(packs)))

    def give(self, indices: Sequence[int]) -> None:
        """Has more packs trained, dearest first; by one thread, which has results sooner the other
        way, last."""
        self.waiting.extend(indices if self._count > 1 else reversed(indices))
        self._start()

    def _start(self) -> None:
        """Starts as many threads as packs wait and may be trained at a time."""
        for _ in range(min(self._count - self._running, len(self.waiting))):
            name = f"metaphase-{len(self._threads)}"
            thread = threading.Thread(target=self._train_packs, name=name, daemon=True)
            self._threads.append(thread)
            self._running += 1
            thread.start()

    def follow(self, progress: Progress) -> bool:
        """Waits for a moment, or until there is something to tell, and tells it. Returns whether
        there is more to come."""
        try:
            what, arguments = self._told.get(timeout=LOOK_SECONDS)
        except queue.Empty:
            return self._running > 0
        if what == "over":
            self._running -= 1
            if not self._stopping.is_set():
                self._start()  # what came when it had just seen that nothing waits
        else:
            getattr(progress, what)(*arguments)
        return self._running > 0

    def join(self) -> None:
        """Waits for the threads, which save what they train when they are to stop. Another
        interrupt ends the waiting: what they write late doesn't land."""
        for thread in self._threads:
            if thread.ident is not None:  # an interrupt came before it began
                thread.join()

    def _train_packs(self) -> None:
        try:
            if self._job.device == "cpu":
                torch.set_num_threads(1)  # in this thread; others have the other cores
            error = ""
            while not self._stopping.is_set():
                try:  # after one that fails the least like it: would all of them?
                    index = self.waiting.pop() if error else self.waiting.popleft()
                except IndexError:
                    break
                self._tell("begin", index)
                error = self._train_pack(index)
                self._tell("end", index, error)
        finally:
            self._tell("over")

    def _tell(self, what: str, *arguments: Any) -> None:
        self._told.put((what, arguments))

    def _train_pack(self, index: int) -> str:
        """Trains a pack as far as it goes. Returns the error, one line, if it is given up."""
        error = ""
        for _ in range(MAX_FAILURES + 1):
            if self._stopping.is_set():
                return ""
            try:
                self._follow_pack(index)
                return ""
            except ConfigError as refused:
                report = Report(done=True, config_error=str(refused))
                self._tell("note", index, asdict(report))
                return ""
            except Exception as raised:
                logger.warning("pack %d failed", index, exc_info=True)
                error = f"{type(raised).__name__}: {one_line(raised)}"
                raised.__traceback__ = None  # its frames hold tensors
        return error

    def _follow_pack(self, index: int) -> None:
        job = self._job
        try:
            results = Results(job.root, job.sweep, job.driver)
        except OSError as error:
            raise ConfigError(one_line(error)) from error
        run = PackRun(results, job, self._packs[index].cells, self._stopping.is_set)
        done = False
        while not (done or self._stopping.is_set()):
            report = run.step()
            done = report.done
            if report.poisoned:  # it is this process, which can't be left
                report = replace(report, config_error=self._why_left(index, report))
            self._tell("note", index, asdict(report))
        run.save()

    def _why_left(self, index: int, report: Report) -> str:
        """A line about a process that is unfit for more. What failed is noted for the next one."""
        if report.too_large:
            size = -(-len(self._packs[index].cells) // 2)
            return (
                f"a pack fills the memory of {self._job.device}. In a new process the same command "
                f"goes on with packs of at most {size} cells (--pack-size, pack_size)"
            )
        why = report.switched_off[fast_paths.CAPTURE]
        self._failed(fast_paths.CAPTURE, why)
        line = fast_paths.warning(fast_paths.CAPTURE, why)
        return f"{line}. The same command goes on without, in a new process"
