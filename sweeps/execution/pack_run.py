"""One run of a pack: its cells are trained from their newest checkpoints, and what comes of them is
written. Whatever trains packs, a Ray trial or a thread of this process, does it by this.

Numbers go from here straight to the results tree. Checkpoints there belong to cells: any later run
can go on from them, whatever pack their cells are in then.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch

from metaphase.core import fast_paths
from metaphase.core.cell import Cell, ConfigError
from metaphase.core.devices import out_of_memory
from metaphase.core.phase_rules import outcome_of
from metaphase.core.plugins import PlugIn
from metaphase.core.training.captured import CaptureFailed
from metaphase.core.training.checkpoint import check_state
from metaphase.core.training.trainer import PackTrainer
from metaphase.sweeps.planning.packs import Pack
from metaphase.sweeps.store.files import ClaimLost, StorageError
from metaphase.sweeps.store.patience import is_full
from metaphase.sweeps.store.results import Results

logger = logging.getLogger(__name__)

CLAIM_SECONDS = 1.0  # between looks at whose sweep it is, on a file system ...
REMOTE_CLAIM_SECONDS = 5.0  # ... and on an object store
HISTORY_SECONDS = 5.0  # between rewrites of the history files
CHECKPOINT_SECONDS = 30.0  # least time between checkpoints at evaluations ...
CHECKPOINT_SHARE = 0.05  # ... and the share of time that they may take
CHECKPOINT_LATEST_SECONDS = 300.0  # after which training pauses for one between evaluations

EVALUATIONS = "evaluations"  # what Job.keep_models may be beside True and False


@dataclass(frozen=True)
class Job:
    """What all packs of a run share.

    Attributes:
        root, sweep: where the results tree is.
        driver: the driver's id; packs are trained as long as the tree says that this driver runs
            the sweep.
        data_root: folder of the base data sets.
        device: name of the torch device that packs are trained on.
        packs: the packs that there are to train.
        software: what a worker's machine must have (sweeps.execution.software); empty if it is the
            driver's machine.
        keep_models: whether models of finished cells are kept; EVALUATIONS: and of all cells at
            each of their evaluations.
        plug_ins: those of the user's that cells use, with their code.
        fast_paths: which are used, and which aren't (`core.fast_paths.adopt`).
        said: what progress says beside, of a search.
        grid: the cells that further packs of a search are of.
    """

    root: str
    sweep: str
    driver: str
    data_root: str
    device: str
    packs: Sequence[Pack]
    software: Mapping[str, str] = field(default_factory=dict)
    keep_models: bool | str = False
    plug_ins: Sequence[PlugIn] = ()
    fast_paths: Mapping[str, str] = field(default_factory=dict)
    said: str = ""
    grid: Sequence[Cell] = ()


@dataclass(frozen=True)
class Report:
    """What progress needs of a step of a pack.

    Attributes:
        done: whether there is no more to do.
        fraction: the share of all steps of all its cells that is done.
        stopped: whether it is done because the sweep isn't this driver's any more.
        finished: {cell_id: phase, or status where there is none} of the cells that this step
            finished.
        training_seconds: the time that it spent training and evaluating.
        config_error: one line if no pack can go on, because the data can't be had, the storage
            fails, or the machine has other software; else None.
        switched_off: {name: why} of fast paths that have failed (`core.fast_paths`).
        poisoned: whether this process is unfit for more. What isn't finished of the pack goes on
            in another process, from its checkpoints.
        too_large: whether that is because the pack fills the device's memory: it goes on in parts.
    """

    done: bool
    fraction: float = 0.0
    stopped: bool = False
    finished: dict[str, str] = field(default_factory=dict)
    training_seconds: float = 0.0
    config_error: str | None = None
    switched_off: dict[str, str] = field(default_factory=dict)
    poisoned: bool = False
    too_large: bool = False


class PackRun:
    """Trains cells to their ends, step by step.

    Args:
        results: where they are written, in the name of the job's driver.
        job: what all packs of the run share.
        cells: of one pack.
        asked_to_leave: whether to pause and leave, with checkpoints; asked between training steps.
    """

    def __init__(
        self,
        results: Results,
        job: Job,
        cells: Sequence[Cell],
        asked_to_leave: Callable[[], bool] = lambda: False,
    ) -> None:
        self._results, self._job, self._cells = results, job, cells
        self._asked_to_leave = asked_to_leave
        self._todo: list[list[Cell]] = []  # packs; one, unless checkpoints or memory demand more
        self._states: dict[str, dict[str, Any]] = {}  # of cells that aren't in the trainer yet
        self._steps_done = dict.fromkeys((cell.cell_id for cell in cells), 0)
        self._planned = self._unsaved = False
        self._trainer: PackTrainer | None = None
        self._claim_checked = -math.inf  # so that the first step looks: it may be another's by now
        self._history_written = self._checkpointed = time.monotonic()
        self._checkpoint_interval = CHECKPOINT_SECONDS
        self._claimed = True

    def step(self) -> Report:
        """Trains to the next evaluation, or until it is asked to leave, and writes."""
        try:
            return self._step()
        except Exception as error:
            self._unsaved = False  # it may be half of a step: what isn't written is trained again
            if not isinstance(error, (ClaimLost, StorageError)):
                raise
            self._trainer = None
            self._todo = []
            if isinstance(error, ClaimLost):
                logger.warning("leaving: %s", error)
                self._claimed = False
                return self._report(stopped=True)
            logger.exception("the storage fails, which is no cell's fault: leaving")
            return self._report(config_error=self._what_fails(error))

    def _what_fails(self, error: StorageError) -> str:
        """Says in one line how the storage fails and what to do."""
        line = " ".join(str(error).split()) or type(error).__name__
        after = "No finished cell is lost; the same command continues"
        if is_full(error):
            return f"{self._results}: the disk is full ({error.strerror}). {after}, with more space"
        return f"{self._results}: the storage fails: {line}. {after}"

    def _step(self) -> Report:
        self._check_claim()
        if not self._claimed:
            self.save()
            return self._report(stopped=True)
        if not self._planned:
            self._plan()
        if not self._todo:
            return self._report()
        started = time.monotonic()
        try:
            if self._trainer is None:
                self._start(self._todo[0])
                started = time.monotonic()
            assert self._trainer is not None
            settled = any(self._trainer.finished_cells())  # before a crash, but not yet written
            evaluated = settled or self._trainer.advance(self._should_pause)
            self._unsaved = True
        except CaptureFailed as error:
            return self._leave(error)
        except RuntimeError as error:
            if not out_of_memory(error):
                raise
            self._halve(error)
            return self._report()
        except ConfigError as error:
            return self._report(config_error=str(error))
        training_seconds = time.monotonic() - started
        for cell in self._trainer.cells:
            self._steps_done[cell.cell_id] = self._trainer.step
        self._check_claim()  # an evaluation may have taken long
        if not self._claimed and self._results.claim.is_taken_from(self._job.driver):
            return self._report(training_seconds=training_seconds, stopped=True)
        finished = self._write(evaluated)
        return self._report(finished, training_seconds, stopped=not self._claimed)

    def save(self) -> None:
        """Writes checkpoints of what isn't finished, unless they are there already or the sweep is
        another driver's."""
        if self._unsaved and not self._results.claim.is_taken_from(self._job.driver):
            states = [*(self._trainer.states() if self._trainer else ()), *self._states.values()]
            try:
                self._write_checkpoints(states)
            except (ClaimLost, StorageError) as error:  # what isn't written is trained again
                logger.warning("no checkpoints: %s", error)

    def _report(
        self,
        finished: dict[str, str] | None = None,
        training_seconds: float = 0.0,
        stopped: bool = False,
        config_error: str | None = None,
        poisoned: bool = False,
        too_large: bool = False,
    ) -> Report:
        return Report(
            done=stopped or config_error is not None or not self._todo,
            fraction=sum(self._steps_done.values()) / sum(cell.steps for cell in self._cells),
            stopped=stopped,
            finished=finished or {},
            training_seconds=training_seconds,
            config_error=config_error,
            switched_off=fast_paths.failures(),
            poisoned=poisoned,
            too_large=too_large,
        )

    def _plan(self) -> None:
        """Sorts the cells by the steps of their newest whole checkpoints."""
        self._planned = True
        self._states = {}
        groups = defaultdict(list)
        for cell in self._cells:
            if self._results.is_trained(cell.cell_id):
                self._steps_done[cell.cell_id] = cell.steps
                continue
            state = self._results.checkpoints.read(cell.cell_id, partial(check_state, cell))
            if state is not None and state["step"]:  # else it is as good as none
                self._states[cell.cell_id] = state
            self._steps_done[cell.cell_id] = state["step"] if state else 0
            groups[self._steps_done[cell.cell_id]].append(cell)
        self._todo = list(groups.values())

    def _start(self, cells: list[Cell]) -> None:
        _free_memory()  # that of the pack before
        states = [self._states.pop(cell.cell_id, None) for cell in cells]
        known = [state for state in states if state is not None]
        self._trainer = PackTrainer(
            cells, device=self._job.device, data_root=self._job.data_root, states=known or None
        )
        logger.info("training %d cells from step %d", len(cells), self._trainer.step)

    def _leave(self, error: CaptureFailed) -> Report:
        """Saves what is trained, which is all that can still be done in this process."""
        too_large = error.full and len(self._todo[0]) > 1
        if not too_large:
            fast_paths.switch_off(fast_paths.CAPTURE, str(error))
        self._unsaved = error.restored
        try:
            self.save()
        except RuntimeError:  # not to be read from the device any more: it is trained again
            logger.exception("no checkpoints after a capture that failed")
        self._trainer, self._unsaved, self._todo = None, False, []
        return self._report(poisoned=True, too_large=too_large)

    def _halve(self, error: Exception) -> None:
        """The pack doesn't fit into the device's memory: its halves go on from the checkpoints."""
        cells = self._todo[0]
        if len(cells) == 1:
            raise error
        logger.warning("%d cells are too many for the device's memory; halved", len(cells))
        self._trainer = None
        self._unsaved = False
        error.__traceback__ = None  # its frames hold tensors
        gc.collect()
        _free_memory()
        middle = len(cells) // 2
        rest = self._todo[1:]
        self._plan()
        halves = []
        for half in (cells[:middle], cells[middle:]):
            by_step = defaultdict(list)
            for cell in half:
                by_step[self._steps_done[cell.cell_id]].append(cell)
            halves += list(by_step.values())
        self._todo = halves + rest

    def _write(self, evaluated: bool) -> dict[str, str]:
        """Writes what is due after `advance`. Returns {cell_id: outcome} of the cells it
        finished (`core.phase_rules.outcome_of`)."""
        trainer, now = self._trainer, time.monotonic()
        assert trainer is not None
        finished = trainer.finished_cells() if evaluated else []
        if evaluated and self._job.keep_models == EVALUATIONS:
            for cell, state in zip(trainer.cells, trainer.states(), strict=True):
                self._results.models.write(cell, state)
        if any(finished):
            return self._write_results(trainer, finished)
        if evaluated and now - self._history_written >= HISTORY_SECONDS:
            for cell, rows in zip(trainer.cells, trainer.history, strict=True):
                self._results.checkpoints.write_history(cell.cell_id, rows)
            self._history_written = time.monotonic()
        overdue = now - self._checkpointed >= self._checkpoint_interval
        if overdue or not (evaluated and self._claimed):  # paused for one, or about to stop
            self._write_checkpoints(trainer.states())
        return {}

    def _write_results(self, trainer: PackTrainer, finished: list[bool]) -> dict[str, str]:
        """Writes what is finished; the rest goes on as a smaller pack. Returns {cell_id: outcome}
        of what is written."""
        written: dict[str, str] = {}
        rest, states = [], []
        for cell, done, (row, curves), history, state in zip(
            trainer.cells,
            finished,
            trainer.results(),
            trainer.history,
            trainer.states(),
            strict=True,
        ):
            if done:
                if self._job.keep_models:
                    self._results.models.write(cell, state)
                self._results.write_result(row, history, curves)
                self._steps_done[cell.cell_id] = cell.steps
                written[cell.cell_id] = outcome_of(row)
            else:
                rest.append(cell)
                states.append(state)
        self._trainer = None
        del self._todo[0]
        self._unsaved = bool(rest)
        if rest:
            self._todo.insert(0, rest)
            self._states |= {state["cell_id"]: state for state in states}
        return written

    def _write_checkpoints(self, states: Iterable[dict[str, Any]]) -> None:
        before = time.monotonic()
        for state in states:
            if state["step"]:  # else there is nothing to go on from
                self._results.checkpoints.write(state)
        self._unsaved = False
        self._checkpointed = time.monotonic()
        taken = self._checkpointed - before
        self._checkpoint_interval = max(CHECKPOINT_SECONDS, taken / CHECKPOINT_SHARE)

    def _should_pause(self) -> bool:
        """Says, between steps, whether to pause: to stop, or because a checkpoint is overdue."""
        self._check_claim()
        latest = max(CHECKPOINT_LATEST_SECONDS, self._checkpoint_interval)
        overdue = time.monotonic() - self._checkpointed > latest
        return self._asked_to_leave() or not self._claimed or overdue

    def _check_claim(self) -> None:
        """Looks now and then whether the sweep still belongs to the driver that started this."""
        now = time.monotonic()
        seconds = CLAIM_SECONDS if self._results.local_path else REMOTE_CLAIM_SECONDS
        if self._claimed and now - self._claim_checked >= seconds:
            self._claim_checked = now
            self._claimed = self._results.claim.is_held_by(self._job.driver)


def _free_memory() -> None:
    """Gives back what trainers that nobody holds any more had on the device, graphs and all."""
    if torch.cuda.is_available():
        with contextlib.suppress(RuntimeError):  # after a capture that failed
            torch.cuda.empty_cache()
