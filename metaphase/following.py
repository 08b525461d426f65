"""Follows a sweep's results tree while others write it: what `metaphase watch` and `serve` show.

Whatever happens to the tree, there is a line to say about it: it isn't there yet, is deleted, or
its storage fails. What was seen last is kept meanwhile, and never mixed with later parts.
"""

from __future__ import annotations

import dataclasses
import logging
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from metaphase.analysis import labels
from metaphase.analysis.load import ResultsError
from metaphase.analysis.serving.snapshot import IN_TRAINING, MISSING, Grid, Snapshot, take
from metaphase.analysis.serving.tree import Gone, Look, open_tree
from metaphase.core.cell import Cell, ConfigError
from metaphase.sweeps import places
from metaphase.sweeps.commands import status
from metaphase.sweeps.store import searchfile
from metaphase.sweeps.store.folders import one_line, shown
from metaphase.sweeps.store.lease import describe
from metaphase.sweeps.store.results import Results
from metaphase.sweeps.store.sweepfile import has_settings

logger = logging.getLogger(__name__)

EVERY_SECONDS = 2.0  # between looks
LONGEST_PAUSE = 10.0  # seconds, after looks that take long, if looks needn't be rarer anyway


@dataclass(frozen=True)
class View:
    """What there is to show.

    Attributes:
        snapshot: the last one that could be taken; None: none yet, or the sweep is gone.
        line: what is in the way of a newer one; empty: nothing.
        version: rises with every change of the two.
    """

    snapshot: Snapshot | None = None
    line: str = ""
    version: int = 0


class Follower:
    """Looks at the sweep at a path or URI.

    Attributes:
        path: as it was given.
        tree: its tables.
        view: what the last look came to.

    Raises:
        ResultsError: the URI can't be used.
    """

    def __init__(self, path: str):
        self.path = path
        self.tree = open_tree(path)
        self.view = View(line=f"{shown(path)}: looking")
        self._results = Results.at(path)
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._grid: Grid | None = None
        self._had_settings = False
        self._importing: threading.Thread | None = None

    def look(self, patient: bool = True) -> View:
        """Looks once. Nothing that a tree or its storage may do raises an error.

        Args:
            patient: whether the import of what estimates the time left is waited for, which takes
                seconds, once; otherwise it goes on beside further looks, which do without.
        """
        try:
            found = self.tree.look()
            grid = self._look_at_grid(found, patient)
            if found.changed or grid != self._grid or self.view.line or not self.view.snapshot:
                notes = list(self.tree.notes.values())
                snapshot = take(self.path, found.cells, found.history, grid, notes)
                self._show(snapshot)
            self._grid = grid
        except Gone as error:
            self._had_settings = False
            self._show(None, f"waiting: {one_line(error)}")
        except (ResultsError, ConfigError, OSError) as error:
            self._show(self.view.snapshot, f"{one_line(error)}; looking again")
        except Exception as error:  # of a file that nobody has thought of: the next look may do
            logger.exception("%s", self.path)
            what = f"{type(error).__name__}: {one_line(error)}"
            self._show(self.view.snapshot, f"{shown(self.path)}: {what}; looking again")
        return self.view

    def start(
        self, seen: Callable[[View], None] = lambda view: None, every: float = EVERY_SECONDS
    ) -> None:
        """Looks again and again, in a thread of its own, until `stop`."""

        def follow() -> None:
            while not self._stop.is_set():
                began = time.monotonic()
                seen(self.look(patient=False))
                self._stop.wait(pause(every, time.monotonic() - began))

        self._thread = threading.Thread(target=follow, name="follow", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Looks no more, once the look that is under way is over; doesn't wait for that."""
        self._stop.set()

    def _show(self, snapshot: Snapshot | None, line: str = "") -> None:
        before = self.view
        if (snapshot, line) != (before.snapshot, before.line):
            self.view = View(snapshot, line, before.version + 1)

    def _can_estimate(self) -> bool:
        """Whether what estimates the time left is imported. A thread of its own does that, once
        there is something to see."""
        if self._importing is None and self.view.snapshot is not None:
            self._importing = threading.Thread(target=_import_estimator, name="import", daemon=True)
            self._importing.start()
        return self._importing is not None and not self._importing.is_alive()

    def _look_at_grid(self, found: Look, patient: bool) -> Grid:
        """What the preset and the lease say, given the tables.

        Raises:
            ConfigError: something in the tree is where it can't be, or the preset can't be read.
            OSError: the storage fails.
        """
        _, name = places.parent(self.path)
        if not has_settings(self._results):
            if self._had_settings:  # else what isn't trained yet would be left out without a word
                raise ResultsError(f"{shown(self.path)}: sweep.yaml is gone")
            return Grid(name)
        self._had_settings = True
        cells, evaluated = found.cells, found.history.groupby("cell_id")["step"].max().to_dict()
        said = dict(zip(cells["cell_id"], cells["status"], strict=True))
        revisions = dict.fromkeys(said, 1)  # aren't shown
        state = status.look(self._results, (said, revisions))
        steps = {
            cell.cell_id: max(state.steps.get(cell.cell_id, 0), evaluated.get(cell.cell_id, 0))
            for cell in state.sweep.cells
        }
        state = dataclasses.replace(state, steps=steps)
        unfinished = {
            cell: IN_TRAINING if state.states[cell.cell_id] == status.RUNNING else MISSING
            for cell in state.sweep.cells
            if state.states[cell.cell_id] in (status.RUNNING, status.MISSING)
        }
        lease, left = state.lease, None
        if lease is not None and unfinished and (patient or self._can_estimate()):
            left = state.seconds_left()
        running = [cell for cell, said in unfinished.items() if said == IN_TRAINING]
        return Grid(
            state.sweep.name,
            state.sweep.description,
            unfinished,
            describe(lease).partition(";")[0] if lease is not None else None,
            left,
            _packs(running, steps),
            state.sweep.cells if self._results.exists(searchfile.NAME) else (),
        )


def pause(every: float, taken: float) -> float:
    """Seconds to wait after a look that took so long: it shall take a third of a core at most,
    but what is seen shall not grow older than `LONGEST_PAUSE` for that."""
    return max(every, min(2 * taken, LONGEST_PAUSE))


def _import_estimator() -> None:
    from metaphase.core.training import cost  # noqa: F401 - PyTorch, for `planning.workers`


def _packs(running: list[Cell], steps: dict[str, int]) -> tuple[str, ...]:
    """A line for the cells in training that are equally far, which is how packs are trained."""
    packs: dict[tuple[int, int], list[Cell]] = {}
    for cell in running:
        packs.setdefault((steps[cell.cell_id], cell.steps), []).append(cell)
    return tuple(
        f"{len(cells)} cells at step {step:,} of {last:,}: model size "
        f"{_span(c.model_size for c in cells)}, tasks {_span(c.num_tasks for c in cells)}"
        for (step, last), cells in sorted(packs.items(), key=lambda pack: -pack[0][0])
    )


def _span(values: Iterable[int]) -> str:
    ordered = sorted(set(values))
    low, high = labels.power_of_two(ordered[0]), labels.power_of_two(ordered[-1])
    return low if low == high else f"{low} to {high}"
