"""The page as a file that holds all it shows: `metaphase report --interactive`."""

from __future__ import annotations

from metaphase.analysis import load
from metaphase.analysis.serving import document, page, snapshot
from metaphase.core.cell import ConfigError
from metaphase.core.phase_rules import Rule
from metaphase.core.phases import CONFIDENCE, DELTA
from metaphase.sweeps import places
from metaphase.sweeps.store import earlier, folders, searchfile, sweepfile
from metaphase.sweeps.store.storage import Storage

FILE = "interactive.html"


def render(
    path: str, delta: float = DELTA, confidence: float = CONFIDENCE, rule: Rule | None = None
) -> str:
    """The page of the sweep at `path`, as of now.

    Args:
        path: the sweep's folder or URI.
        delta, confidence, rule: see `analysis.statistics.phases.classify`.

    Raises:
        ResultsError: the results can't be read, or no cell is finished yet.
    """
    cells, history = load.load_cells(path), load.load_history(path)
    grid, notes = _grid(path, set(cells["cell_id"]))
    taken = snapshot.take(path, cells, history, grid, notes, delta, confidence, rule)
    told = document.overview(taken)
    return page.html([told], [document.all_curves(load.load_curves(path), told["cells"]["id"])])


def _grid(path: str, finished: set[str]) -> tuple[snapshot.Grid, list[str]]:
    """What the stored preset says, and lines on what it can't."""
    root, name = places.parent(path)
    try:
        storage = Storage(root, name)
        if not sweepfile.has_settings(storage):
            return snapshot.Grid(name), []
        sweep = sweepfile.read_sweep(storage)
        search = sweep.cells if storage.exists(searchfile.NAME) else ()
    except (ConfigError, OSError) as error:
        return snapshot.Grid(name), [folders.one_line(error)]
    known = earlier.by_cell_id(dict.fromkeys(finished), sweep.cells)
    left = {cell: snapshot.MISSING for cell in sweep.cells if cell.cell_id not in known}
    return snapshot.Grid(sweep.name, sweep.description, left, search=search), []
