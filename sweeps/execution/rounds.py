"""Rounds of training: packs are planned and trained, what was given up is judged, and what is left
is planned again, until every cell is finished or somebody asks to stop. A search proposes others,
for workers that would be idle while the last packs are trained, and when there are none. What
trains the packs, Ray Tune or this process, is given."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from metaphase.core import fast_paths, schema
from metaphase.core.cell import Cell, ConfigError
from metaphase.core.plugins import in_use_by
from metaphase.sweeps.execution.pack_run import Job
from metaphase.sweeps.execution.progress import Progress
from metaphase.sweeps.planning.packs import Pack, plan
from metaphase.sweeps.planning.workers import Workers
from metaphase.sweeps.store.lease import Lease
from metaphase.sweeps.store.results import Results

logger = logging.getLogger(__name__)

MAX_FAILURES = 2  # times a pack is tried again, its worker or node lost or an error raised
SPLIT = 8  # a pack given up is divided by this, until the cell to blame is alone


class Propose(Protocol):
    """A search, which chooses cells by what is finished."""

    @property
    def cells(self) -> Sequence[Cell]:
        """All that it may choose."""

    def __call__(self, workers: Workers, given: Mapping[str, bool]) -> tuple[Sequence[Cell], str]:
        """The cells to train next, and a line about them. There are none at the end, and as long
        as cells that are given to workers have to be finished first.

        Args:
            workers: what trains them.
            given: {cell_id: whether it is finished} of the cells that they were given.
        """


@dataclass
class Outcome:
    """What a run came to.

    Attributes:
        wall_seconds: from the start of the command to after the last pack.
        training_seconds: of all workers, in training and evaluating.
        workers: how many there were.
        interrupted: somebody asked to stop.
        lost: another driver has taken over the sweep.
        config_error: one line, if the data can't be had or the disk is full.
        phases: counts of phases, in words.
        search: the last line about a search's cells.
    """

    wall_seconds: float = 0.0
    training_seconds: float = 0.0
    workers: int = 0
    interrupted: bool = False
    lost: bool = False
    config_error: str | None = None
    phases: str = ""
    search: str = ""


@dataclass
class Rounds:
    """A run's rounds; `train` carries them out.

    Attributes:
        results: where cells are written.
        lease: ours on the sweep.
        data_root: folder of the base data sets.
        total: cells in the sweep, for progress.
        before: {cell_id: status} of its finished cells.
        pack_size: the most cells in a pack; None: chosen by `plan`.
        keep_models: see `sweeps.execution.pack_run.Job`.
        fast_paths: see `sweeps.execution.pack_run.Job`; what fails in a round is off in the next.
        propose: asked for cells whenever no pack waits for a worker; None: what there is to train
            is given from the start.
        outcome: what the rounds have come to.
    """

    results: Results
    lease: Lease
    data_root: str
    total: int
    before: dict[str, str]
    pack_size: int | None = None
    keep_models: bool | str = False
    fast_paths: dict[str, str] = field(default_factory=dict)
    propose: Propose | None = None
    outcome: Outcome = field(default_factory=Outcome)

    def train(
        self,
        cells: Sequence[Cell],
        workers: Workers,
        fit: Callable[[Job, dict[str, str], More | None], Progress],
        asked_to_stop: Callable[[], bool],
        software: Mapping[str, str] | None = None,
    ) -> None:
        """Trains cells to their ends, or until asked to stop.

        A cell that can't be trained, alone, is recorded as failed.

        Args:
            cells: what to train.
            workers: what packs are planned for.
            fit: trains the packs of a job, given {cell_id: status} of the cells finished before,
                and returns what became of them. Of a search, it asks for more of them.
            asked_to_stop: whether no further round begins.
            software: see `Job`.
        """
        results, outcome, before = self.results, self.outcome, self.before
        steps = results.checkpoints.steps()
        for cell_id in results.left_over(before):
            results.checkpoints.remove(cell_id)
        outcome.workers = workers.count
        pack_size, said = self.pack_size, ""
        grid = () if self.propose is None else self.propose.cells
        time.sleep(max(0.0, self.lease.ready_at - time.time()))
        while not (asked_to_stop() or outcome.config_error or self.lease.lost):
            if not cells and self.propose is not None:
                cells, said = self.propose(workers, {})
                outcome.search = said
                logger.info("%s", said)
            if not cells:
                break
            packs = plan(cells, workers, steps, pack_size)
            job = Job(
                results.root,
                results.sweep,
                self.lease.driver,
                self.data_root,
                workers.device,
                packs,
                software or {},
                self.keep_models,
                in_use_by([*cells, *grid]),
                dict(self.fast_paths),
                said,
                grid,
            )
            more = None
            if self.propose is not None:
                more = More(self, self.propose, workers, pack_size, asked_to_stop, packs)
            progress = fit(job, before, more)
            packs, said = progress.packs, progress.said
            outcome.training_seconds += progress.training_seconds
            outcome.config_error = progress.config_error
            outcome.phases = progress.phase_counts()
            if self.lease.lost:
                break  # what failed is the other driver's to judge
            failed = dict(progress.switched_off)
            failed.pop(fast_paths.CPU, None)  # which each machine builds for itself
            self.fast_paths |= failed
            before = results.finished() if progress.errors or progress.left else before
            before = {**dict.fromkeys(progress.finished, schema.DONE), **before}
            cells, size = judge(results, packs, progress.errors, before)
            left = (cell for index in progress.left for cell in packs[index].cells)
            cells += [cell for cell in left if cell.cell_id not in before]
            halves = [-(-len(packs[index].cells) // 2) for index in progress.too_large]
            pack_size = min([*halves, *([size] if size else [])], default=pack_size)
            steps = results.checkpoints.steps()


class More:
    """Asks a search for packs while others are trained: as often as cells are finished, until one
    is given up or somebody asks to stop. `Rounds` judges that first.

    Args:
        rounds: these are of.
        propose: the search.
        workers, pack_size: what packs are planned for.
        asked_to_stop: whether there are no more.
        packs: those that are trained already.
    """

    def __init__(
        self,
        rounds: Rounds,
        propose: Propose,
        workers: Workers,
        pack_size: int | None,
        asked_to_stop: Callable[[], bool],
        packs: Sequence[Pack],
    ) -> None:
        self._rounds, self._propose = rounds, propose
        self._workers, self._pack_size, self._asked_to_stop = workers, pack_size, asked_to_stop
        self._given = {cell.cell_id: False for pack in packs for cell in pack.cells}
        self._seen: int | None = None  # cells that were finished when it said that there are none
        self._over = False

    def __call__(self, progress: Progress) -> Sequence[int]:
        """Indices of packs that are added to progress, to be trained beside the others; none for
        now, or none any more."""
        given_up = progress.errors or progress.left or progress.config_error  # or too large
        self._over = self._over or bool(given_up)
        if self._over or self._rounds.lease.lost or self._asked_to_stop():
            return ()
        if self._seen == len(progress.finished):
            return ()
        self._seen = len(progress.finished)
        self._given |= dict.fromkeys(progress.finished, True)
        results = self._rounds.results
        try:
            cells, said = self._propose(self._workers, self._given)
            steps = results.checkpoints.steps() if cells else {}
        except (OSError, ConfigError) as error:  # the next round asks again
            logger.warning("no more packs for now: %s", error)
            self._over = True
            return ()
        if not cells:
            return ()
        self._seen = None
        self._given |= {cell.cell_id: False for cell in cells}
        self._rounds.outcome.search = said
        logger.info("%s", said)
        return progress.add(plan(cells, self._workers, steps, self._pack_size), said)


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
