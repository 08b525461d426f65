"""Rounds of training: packs are planned and trained, what was given up is judged, and what is left
is planned again, until every cell is finished or somebody asks to stop. A search then proposes
others. What trains the packs, Ray Tune or this process, is given."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from metaphase.core import fast_paths, schema
from metaphase.core.cell import Cell
from metaphase.core.plugins import in_use_by
from metaphase.sweeps.execution.pack_run import Job
from metaphase.sweeps.execution.progress import Progress
from metaphase.sweeps.planning.packs import Pack, plan
from metaphase.sweeps.planning.workers import Workers
from metaphase.sweeps.store.lease import Lease
from metaphase.sweeps.store.results import Results

logger = logging.getLogger(__name__)

# Given the number of workers: the cells to train next, none at the end, and a line about them.
Propose = Callable[[int], tuple[Sequence[Cell], str]]

MAX_FAILURES = 2  # times a pack is tried again, its worker or node lost or an error raised
SPLIT = 8  # a pack given up is divided by this, until the cell to blame is alone


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
        propose: asked for cells whenever there are none left to train; None: that is the end.
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
        fit: Callable[[Job, dict[str, str]], Progress],
        asked_to_stop: Callable[[], bool],
        software: Mapping[str, str] | None = None,
    ) -> None:
        """Trains cells to their ends, or until asked to stop.

        A cell that can't be trained, alone, is recorded as failed.

        Args:
            cells: what to train.
            workers: what packs are planned for.
            fit: trains the packs of a job, given {cell_id: status} of the cells finished before,
                and returns what became of them.
            asked_to_stop: whether no further round begins.
            software: see `Job`.
        """
        results, outcome, before = self.results, self.outcome, self.before
        steps = results.checkpoints.steps()
        for cell_id in results.left_over(before):
            results.checkpoints.remove(cell_id)
        outcome.workers = workers.count
        pack_size, said = self.pack_size, ""
        time.sleep(max(0.0, self.lease.ready_at - time.time()))
        while not (asked_to_stop() or outcome.config_error or self.lease.lost):
            if not cells and self.propose is not None:
                cells, said = self.propose(workers.count)
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
                in_use_by(cell for pack in packs for cell in pack.cells),
                dict(self.fast_paths),
                said,
            )
            progress = fit(job, before)
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
