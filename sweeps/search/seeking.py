"""A search for boundaries on a sweep's results: rounds of cells, proposed by what is finished.

A round is stored before its training begins (`store.searchfile`), and the next one is proposed
when all of its cells are finished. So what is proposed depends on finished cells alone, neither on
which of them was first nor on how often the sweep was stopped: a run that is killed goes on with
the round that was under way. It is no searcher of Ray Tune's: Tune would have to be told of
results, where here workers write them; its trials are packs of cells; and a search without Ray is
the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from metaphase.core.cell import Cell, ConfigError, stream_key
from metaphase.core.phase_rules import ROW_COLUMNS, outcome_of
from metaphase.core.phases import PHASES
from metaphase.sweeps import search_settings
from metaphase.sweeps.execution.clock import worker_seconds
from metaphase.sweeps.preset import Sweep
from metaphase.sweeps.search.propose import Proposal, Standing, propose
from metaphase.sweeps.search.space import Known, Space
from metaphase.sweeps.search_settings import Search
from metaphase.sweeps.store.earlier import by_cell_id, every_id
from metaphase.sweeps.store.results import Results
from metaphase.sweeps.store.searchfile import Round, interval, num_rounds, read_rounds, write_rounds

FEWEST_POINTS = 3  # numbers of tasks in a row, without which there is nothing to seek
CELLS_A_WORKER = 4  # in a round: so that packs are worth training, and rounds are several
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

    def __post_init__(self) -> None:
        self.space, self.rows = space_of(self.cells, self.axes)
        if any(len(x_K) < FEWEST_POINTS for x_K, _ in self.space.points):
            raise ConfigError(
                f"num_tasks: a boundary is sought along it; give at least {FEWEST_POINTS} values "
                "in the grid, or train all cells (--no-boundary)"
            )

    # --- what is known ---

    def known(self, results: Results) -> tuple[Known, float]:
        """What the results tell, and the hours of workers that it took."""
        finished = by_cell_id(results.finished(), self.cells)
        columns = ("cell_id", "status", "wall_seconds", *ROW_COLUMNS)
        rows = results.read_rows(every_id(c for c in self.cells if c.cell_id in finished), columns)
        outcomes = by_cell_id({row["cell_id"]: outcome_of(row) for row in rows}, self.cells)
        known = Known.nothing(len(self.cells), len(self.search.phases))
        for i, cell in enumerate(self.cells):
            known.finished_C[i] = cell.cell_id in finished
            outcome = outcomes.get(cell.cell_id)
            if outcome in PHASES:
                for p, phase in enumerate(self.search.phases):
                    reached = PHASES.index(outcome) >= PHASES.index(phase)
                    known.reached_PxC[p, i] = float(reached)
        return known, worker_seconds(rows) / 3600

    def spent(self, finished_C: np.ndarray, hours: float) -> float:
        """How much of the budget's kind these cells took."""
        if self.search.kind == "hours":
            return hours
        if self.search.kind == "cells":
            return float(finished_C.mean())
        return self.operations(np.flatnonzero(finished_C)) / self.space.total

    def operations(self, cells: np.ndarray) -> float:
        """Of training these cells, each stream's common part once."""
        space = self.space
        _, at = np.unique(space.stream_C[cells], return_index=True)
        shared = space.shared_C[cells]
        return float((space.cost_C[cells] - shared).sum() + shared[at].sum())

    def share_of_operations(self, finished: Collection[str]) -> float:
        """Of the grid's, what the finished cells took."""
        cells = [i for i, cell in enumerate(self.cells) if cell.cell_id in finished]
        return self.operations(np.array(cells, dtype=int)) / self.space.total

    # --- what comes next ---

    def proposal(self, known: Known, hours: float, most: int) -> Proposal:
        """The next cells within the budget, at most `most`."""
        found = propose(self.space, known, most, self.search.target_octaves)
        done_C, within = known.finished_C.copy(), []
        for choice in found.choices:
            if self.search.kind == "hours":
                if hours >= self.search.budget:
                    break
            else:
                done_C[choice.cell] = True
                if self.spent(done_C, hours) > self.search.budget + 1e-9:
                    break
            within.append(choice)
        reason = "" if within else SPENT if found.choices else found.reason
        return Proposal(within, found.standings, reason)

    def under_way(self, results: Results, finished_C: np.ndarray) -> list[Cell]:
        """The cells of the last round that aren't finished."""
        rounds = read_rounds(results)
        proposed = rounds[-1].octaves if rounds else {}
        return [
            cell
            for cell, finished in zip(self.cells, finished_C, strict=True)
            if cell.cell_id in proposed and not finished
        ]

    def begin_with(self, results: Results, cells: Collection[Cell]) -> None:
        """Stores a round of cells that are trained again whatever they tell, beside what is under
        way, so that a run that is stopped meanwhile goes on with them."""
        known, hours = self.known(results)
        rounds = read_rounds(results)
        octaves = {cell.cell_id: 0.0 for cell in cells}
        for cell in self.under_way(results, known.finished_C):
            octaves[cell.cell_id] = rounds[-1].octaves[cell.cell_id]
        said = [self._said(standing) for standing in self.proposal(known, hours, 1).standings]
        write_rounds(results, [*rounds, Round(octaves, said)])

    def next_round(self, results: Results, workers: int) -> tuple[list[Cell], str]:
        """The cells to train next, none at the end, and a line that says where things stand. A new
        round is stored."""
        known, hours = self.known(results)
        left, rounds = self.under_way(results, known.finished_C), read_rounds(results)
        if left:
            said = rounds[-1].standings
            return left, f"round {num_rounds(rounds)}: {len(left)} cells; {self.told(said)}"
        found = self.proposal(known, hours, max(1, workers) * CELLS_A_WORKER)
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
        return cells, f"round {num_rounds(rounds) + 1}: {len(cells)} cells; {self.told(said)}"

    def is_over(self, results: Results) -> str:
        """Why there is nothing to train; empty where there is."""
        known, hours = self.known(results)
        if self.under_way(results, known.finished_C):
            return ""
        found = self.proposal(known, hours, 1)
        return "" if found.choices else found.reason

    def expected(
        self, results: Results, workers: int, estimate: Callable[[Sequence[Cell]], float]
    ) -> tuple[list[Cell], int, float]:
        """The cells that the next round trains; and how many cells, and which share of the grid's
        operations, it needs until it ends, if phases begin in each row where they are thought to
        now. What is finished counts.

        Args:
            estimate: hours of workers that the training of cells takes.
        """
        known, hours = self.known(results)
        left = self.under_way(results, known.finished_C)
        most = max(1, workers) * CELLS_A_WORKER
        first = self.proposal(known, hours, most)
        begin = {(s.phase, s.row): _middle(s) for s in first.standings}
        ids = {cell.cell_id for cell in left}
        batch = [i for i, cell in enumerate(self.cells) if cell.cell_id in ids]
        batch = batch or [choice.cell for choice in first.choices]
        start = [self.cells[i] for i in batch]
        while batch:
            known.finished_C[batch] = True
            if self.search.kind == "hours":
                hours += estimate([self.cells[i] for i in batch])
            for p in range(len(self.search.phases)):
                theta = [begin[p, int(self.space.row_C[i])] for i in batch]
                known.reached_PxC[p, batch] = self.space.x_C[batch] > theta
            batch = [choice.cell for choice in self.proposal(known, hours, most).choices]
        trained = np.flatnonzero(known.finished_C)
        return start, len(trained), self.operations(trained) / self.space.total

    # --- in words ---

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


def _middle(standing: Standing) -> float:
    """The median, or the end of the grid that it lies beyond."""
    if math.isfinite(standing.middle):
        return standing.middle
    return math.inf if standing.low > -math.inf else -math.inf


def space_of(cells: Sequence[Cell], axes: Sequence[str]) -> tuple[Space, list[str]]:
    """A grid as a space, and its rows in words: their values of the axes."""
    from metaphase.core.training.cost import flops_per_step, input_flops  # PyTorch takes seconds

    named = [key for key in axes if key not in ("num_tasks", "seed")] or ["model_size"]
    row_of: dict[str, int] = {}
    family_of: dict[tuple, int] = {}
    streams: dict[tuple, int] = {}
    family_R, size_R, row_C, stream_C = [], [], [], []
    for cell in cells:
        row = ", ".join(f"{key} {getattr(cell, key, None)}" for key in named)
        if row not in row_of:
            row_of[row] = len(row_of)
            others = tuple(str(getattr(cell, key, None)) for key in named if key != "model_size")
            family_R.append(family_of.setdefault(others, len(family_of)))
            size_R.append(cell.model_size)
        row_C.append(row_of[row])
        stream_C.append(streams.setdefault(stream_key(cell), len(streams)))
    x_C = np.log2([float(cell.num_tasks) for cell in cells])
    cost_C = np.array([cell.steps * flops_per_step(cell) for cell in cells])
    shared_C = np.array([cell.steps * input_flops(cell) for cell in cells])
    rows = np.array(row_C), x_C, cost_C, np.array(stream_C), shared_C
    return Space(*rows, np.array(family_R), np.array(size_R)), list(row_of)
