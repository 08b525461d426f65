"""A search for boundaries on a sweep's results: rounds of cells, proposed by what is finished.

A round is stored before its training begins (`store.searchfile`). The next one is proposed as soon
as all rounds before it are finished, while it is under way: what becomes of its own cells counts as
unknown, also of those that are finished. Only where that leads to nothing they are waited for. So
what is proposed depends on stored rounds and finished cells alone, neither on which of them was
first nor on how often the sweep was stopped, and workers don't wait for the last cell of a round: a
run that is killed goes on with the rounds that were under way, and proposes what it would have.

What trains packs asks for more of them (`execution.rounds`): Ray Tune by a searcher
(`execution.trials`), this process without one.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from metaphase.core.cell import Cell, ConfigError
from metaphase.core.phase_rules import ROW_COLUMNS, outcome_of
from metaphase.core.phases import PHASES
from metaphase.sweeps import search_settings
from metaphase.sweeps.execution.clock import worker_seconds
from metaphase.sweeps.planning.packs import plan
from metaphase.sweeps.planning.workers import Workers
from metaphase.sweeps.preset import Sweep
from metaphase.sweeps.search.propose import Proposal, Standing, propose
from metaphase.sweeps.search.space import Known, Space, space_of
from metaphase.sweeps.search.spending import Purse, Took, operations
from metaphase.sweeps.search_settings import Search
from metaphase.sweeps.store.earlier import by_cell_id, every_id
from metaphase.sweeps.store.results import Results
from metaphase.sweeps.store.searchfile import Round, interval, read_rounds, write_rounds

FEWEST_POINTS = 3  # numbers of tasks in a row, without which there is nothing to seek
FEWEST_ROUNDS = 4  # that a budget is for, where each worker has a cell
SPENT = "the budget is spent"


@dataclass
class Seeking:
    """The search of one sweep.

    Attributes:
        search: what is sought.
        cells: the grid.
        axes: the settings that it varies.
        space: the same as arrays.
        rows: each row of it, in words.

    Raises:
        ConfigError: the grid has no axis to seek along.
    """

    search: Search
    cells: Sequence[Cell]
    axes: Sequence[str]
    space: Space = field(init=False)
    rows: list[str] = field(init=False)
    _in_vain_after: int = field(default=-1, init=False)  # rounds, the last of which is waited for
    _estimates: dict[Workers, np.ndarray] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        self.space, self.rows = space_of(self.cells, self.axes)
        for name, (x_K, _) in zip(self.rows, self.space.points, strict=True):
            if len(x_K) < FEWEST_POINTS:
                raise ConfigError(
                    f"num_tasks: {len(x_K)} in the grid at {name}, along which a boundary is "
                    f"sought; give at least {FEWEST_POINTS}, or train all cells (--no-boundary, or "
                    "boundary=False in Python)"
                )

    # --- what is known ---

    def known(self, results: Results) -> tuple[Known, Took]:
        """What the results tell, and what it took."""
        finished = by_cell_id(results.finished(), self.cells)
        columns = ("cell_id", "status", "wall_seconds", "steps_trained", *ROW_COLUMNS)
        stored = results.read_rows(
            every_id(c for c in self.cells if c.cell_id in finished), columns
        )
        rows = by_cell_id({row["cell_id"]: row for row in stored}, self.cells)
        known = Known.nothing(len(self.cells), len(self.search.phases))
        took = Took.nothing(len(self.cells))
        for i, cell in enumerate(self.cells):
            known.finished_C[i] = cell.cell_id in finished
            row = rows.get(cell.cell_id)
            if row is None:
                continue
            if row["wall_seconds"] is not None:  # of a failed cell nobody knows
                took.hours_C[i] = worker_seconds([row]) / 3600
            if row["steps_trained"] is not None:
                took.part_C[i] = min(1.0, row["steps_trained"] / cell.steps)
            outcome = outcome_of(row)
            if outcome in PHASES:
                for p, phase in enumerate(self.search.phases):
                    reached = PHASES.index(outcome) >= PHASES.index(phase)
                    known.reached_PxC[p, i] = float(reached)
        return known, took

    def share_of_operations(self, results: Results) -> float:
        """Of the grid's, what the finished cells took."""
        known, took = self.known(results)
        return operations(self.space, took, known.finished_C) / self.space.total

    def _estimate(self, workers: Workers | None) -> np.ndarray:
        """Hours of these workers that each cell takes alone; 0 where they aren't known."""
        if workers is None or self.search.kind != "hours":
            return np.zeros(len(self.cells))
        if workers not in self._estimates:
            hours = [workers.seconds([cell]) / 3600 for cell in self.cells]
            self._estimates[workers] = np.array(hours)
        return self._estimates[workers]

    # --- what comes next ---

    def on(self, results: Results) -> Proposer:
        """The search as what trains cells takes it."""
        return Proposer(self, results)

    def proposal(
        self, known: Known, took: Took, most: int, workers: Workers | None = None
    ) -> Proposal:
        """The next cells within the budget, at most `most`."""
        purse = Purse(self.search, self.space, took, self._estimate(workers))
        taken_C = known.finished_C | known.pending_C
        beyond_C = purse.beyond(taken_C)
        target = self.search.target_octaves
        found = propose(self.space, known, most, target, beyond_C)
        within = []
        for choice in found.choices:
            if not purse.beyond(taken_C)[choice.cell]:
                within.append(choice)
                taken_C[choice.cell] = True
        if within:
            return Proposal(within, found.standings)
        would = beyond_C.any() and propose(self.space, known, 1, target).choices
        return Proposal([], found.standings, SPENT if would else found.reason)

    def following(
        self,
        last_C: np.ndarray,
        known: Known,
        took: Took,
        most: int,
        workers: Workers | None = None,
    ) -> Proposal | None:
        """What comes after a round, all rounds before which are finished; None where that takes
        what becomes of its cells, and they aren't all finished.

        Args:
            last_C: the cells of that round.
            workers: what trains them, where that is known.
        """
        beside = known.with_pending(last_C), took.without(last_C)
        found = self.proposal(*beside, most, workers)
        if found.choices or not last_C.any():
            return found
        if not known.finished_C[last_C].all():
            return None
        return self.proposal(known, took, most, workers)

    def _most(self, workers: Workers) -> int:
        """Cells of a round: as many as workers are best given, unless a search had too few rounds
        to learn from."""
        share = self.search.budget if self.search.kind != "hours" else 1.0
        learning = int(share * len(self.cells)) // FEWEST_ROUNDS
        return min(workers.round_of(self.cells), max(workers.count, learning, 1))

    def of(self, cell_ids: Collection[str]) -> np.ndarray:
        """Which of the grid's cells these are."""
        return np.array([cell.cell_id in cell_ids for cell in self.cells])

    def under_way(self, rounds: Sequence[Round], known: Known) -> dict[str, float]:
        """{cell_id: octaves} of the cells of all rounds that aren't finished."""
        finished = zip(self.cells, known.finished_C, strict=True)
        left = {cell.cell_id for cell, is_finished in finished if not is_finished}
        chosen = {id_: octaves for one in rounds for id_, octaves in one.octaves.items()}
        return {id_: octaves for id_, octaves in chosen.items() if id_ in left}

    def begin_with(self, results: Results, cells: Collection[Cell]) -> None:
        """Stores a round of cells that are trained again whatever they tell, beside what is under
        way, so that a run that is stopped meanwhile goes on with them."""
        known, took = self.known(results)
        rounds = read_rounds(results)
        octaves = {cell.cell_id: 0.0 for cell in cells}
        octaves |= self.under_way(rounds, known)
        said = [self._said(standing) for standing in self.proposal(known, took, 1).standings]
        write_rounds(results, [*rounds, Round(octaves, said)])

    def next_round(
        self, results: Results, workers: Workers, given: Mapping[str, bool]
    ) -> tuple[list[Cell], str]:
        """The cells to train next, and a line that says where things stand: those that are under
        way, or a new round, which is stored. None at the end; and none for now, where cells that
        are given to workers have to be finished first.

        Args:
            workers: what trains them.
            given: {cell_id: whether it is finished} of these cells.
        """
        rounds = read_rounds(results)
        last = _not_waited_for(rounds) if len(rounds) != self._in_vain_after else {}
        running = {cell_id for cell_id, finished in given.items() if not finished}
        if any(running & one.octaves.keys() - last.keys() for one in rounds):
            return [], ""  # as can be said without a look at the results
        known, took = self.known(results)
        left = self.under_way(rounds, known)
        cells = [c for c in self.cells if c.cell_id in left and c.cell_id not in given]
        if cells:
            return cells, self._told_of(rounds, cells)
        last = _not_waited_for(rounds)
        if not left.keys() <= last.keys():
            return [], ""
        found = self.following(self.of(last), known, took, self._most(workers), workers)
        if found is None:
            self._in_vain_after = len(rounds)
            return [], ""
        said = [self._said(standing) for standing in found.standings]
        cells = [self.cells[choice.cell] for choice in found.choices]
        octaves = {  # 0 is of cells that are trained again
            self.cells[c.cell].cell_id: max(0.001, round(c.octaves, 3)) for c in found.choices
        }
        new = Round(octaves, said, found.reason)
        if cells or not rounds or rounds[-1] != new:
            write_rounds(results, [*rounds, new])
        if not cells:
            return [], f"{found.reason}; {self.told(said)}"
        told = self._told_of([*rounds, new], cells)
        # Another driver, stopped meanwhile, may have written fewer rounds than there were.
        return [cell for cell in cells if cell.cell_id not in given], told

    def is_over(self, results: Results) -> str:
        """Why there is nothing to train; empty where there is."""
        known, took = self.known(results)
        rounds = read_rounds(results)
        if self.under_way(rounds, known):
            return ""
        found = self.following(self.of(_not_waited_for(rounds)), known, took, 1)
        return found.reason if found is not None else ""

    def expected(
        self, results: Results, workers: Workers, again: Collection[Cell] = ()
    ) -> tuple[list[Cell], int, float]:
        """The cells that are trained first; and how many cells, and which share of the grid's
        operations, it needs until it ends, if phases begin in each row where they are thought to
        now, and cells take as long as is planned. What is finished counts.

        Args:
            again: cells that are trained again before all others.
        """
        known, took = self.known(results)
        again_C = self.of({cell.cell_id for cell in again})
        rounds = read_rounds(results)
        left_C = self.of(self.under_way(rounds, known)) | again_C
        most = self._most(workers)
        first = self.proposal(known, took, most, workers)
        begin = {(s.phase, s.row): s.median for s in first.standings}
        last_C = self.of(_not_waited_for(rounds))
        start: list[Cell] = []
        batch = np.flatnonzero(left_C).tolist()
        while True:
            if batch:
                cells = [self.cells[i] for i in batch]
                start = start or cells
                known.finished_C[batch] = True
                hours = sum(pack.seconds for pack in plan(cells, workers)) / 3600
                took.hours_C[batch], took.part_C[batch] = hours / len(cells), 1.0
                for p in range(len(self.search.phases)):
                    theta = [begin[p, int(self.space.row_C[i])] for i in batch]
                    known.reached_PxC[p, batch] = self.space.x_C[batch] > theta
            found = self.following(last_C, known, took, most, workers)
            assert found is not None  # all are finished
            batch = [choice.cell for choice in found.choices]
            if not batch:
                break
            last_C = np.isin(np.arange(len(self.cells)), batch)
        trained_C = known.finished_C
        share = operations(self.space, took, trained_C) / self.space.total
        return start, int(trained_C.sum()), share

    # --- in words ---

    def _told_of(self, rounds: Sequence[Round], cells: Sequence[Cell]) -> str:
        ids = {cell.cell_id for cell in cells}
        with_cells = [one for one in rounds if one.octaves]
        numbers = [n for n, one in enumerate(with_cells, 1) if ids & one.octaves.keys()]
        which = (
            f"round {numbers[0]}" if len(numbers) == 1 else f"rounds {numbers[0]} to {numbers[-1]}"
        )
        return f"{which}: {len(cells)} cells; {self.told(rounds[-1].standings)}"

    def _said(self, standing: Standing) -> dict[str, object]:
        ends = (standing.low, standing.middle, standing.high)
        low, middle, high = (round(v, 3) if math.isfinite(v) else None for v in ends)
        return {
            "phase": self.search.phases[standing.phase], "row": self.rows[standing.row],
            "low": low, "middle": middle, "high": high, "width": round(standing.width, 3),
            "done": standing.done,
        }  # fmt: skip

    def told(self, standings: Sequence[dict]) -> str:
        """Such as "generalizing begins at 2^: model_size 8 9.1-10.0, model_size 16 above 7.3"."""
        parts = []
        for phase in self.search.phases:
            rows = [f"{s['row']} {interval(s)}" for s in standings if s["phase"] == phase]
            parts.append(f"{phase} begins at 2^: {', '.join(rows)}")
        return "; ".join(parts)


@dataclass(frozen=True)
class Proposer:
    """A search of a sweep on its results, as what trains cells takes it
    (`execution.rounds.Propose`)."""

    seeking: Seeking
    results: Results

    @property
    def cells(self) -> Sequence[Cell]:
        return self.seeking.cells

    def __call__(self, workers: Workers, given: Mapping[str, bool]) -> tuple[list[Cell], str]:
        return self.seeking.next_round(self.results, workers, given)


def seeking_of(
    sweep: Sweep, boundary: bool | None = None, target_octaves: Any = None, budget: Any = None
) -> Seeking | None:
    """The search of a sweep; None where all of its cells are trained.

    Args:
        boundary: whether it is searched; None: as its preset says.
        target_octaves, budget: instead of the preset's, as on a command line.

    Raises:
        ConfigError: what is said of it can't be, in one line.
    """
    search = search_settings.parse(sweep.settings.get(search_settings.KEY))
    if boundary is not None:
        search = (search or Search()) if boundary else None
    for option, value, changed in (
        ("--target-octaves", target_octaves, search_settings.with_target),
        ("--budget", budget, search_settings.with_budget),
    ):
        if value is not None and search is None:
            raise ConfigError(f"{option}: {value} is of a search; allowed: with --boundary")
        if value is not None and search is not None:
            search = changed(search, value, option)
    return None if search is None else Seeking(search, sweep.cells, sweep.axes)


def _not_waited_for(rounds: Sequence[Round]) -> dict[str, float]:
    """The cells of the last round, beside which the next one is proposed; none where some of them
    are trained again, of which something was known."""
    last = rounds[-1].octaves if rounds else {}
    return {} if 0.0 in last.values() else last
