"""Results of earlier programs, in which the same settings had another identity.

A tree's files keep the identity under which they were written, in their names and in their rows.
Here they are matched with the cells of a grid (`core.cell.Cell.earlier_ids`): a cell counts as
finished, with the numerics that its row says, under whichever of its identities it is stored.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from metaphase.core.cell import Cell

if TYPE_CHECKING:
    from metaphase.sweeps.store.results import Results

T = TypeVar("T")


def stored_as(cells: Iterable[Cell], stored: Collection[str]) -> dict[str, str]:
    """{cell_id: the identity under which it is stored} of those of the cells that are stored under
    an earlier identity alone. Of several the newest goes before.

    Args:
        cells: of a grid.
        stored: identities that a tree holds something of.
    """
    cells = list(cells)
    others = set(stored).difference(cell.cell_id for cell in cells)
    if not others:
        return {}
    found: dict[str, str] = {}
    for cell in cells:
        if cell.cell_id not in stored:
            under = [id_ for id_ in cell.earlier_ids if id_ in others]
            if under:
                found[cell.cell_id] = under[0]
    return found


def by_cell_id(values: Mapping[str, T], cells: Iterable[Cell]) -> dict[str, T]:
    """Values by the identities that a tree holds -> the same, those of the cells by `cell_id`."""
    names = {stored: cell_id for cell_id, stored in stored_as(cells, values.keys()).items()}
    return {names.get(id_, id_): value for id_, value in values.items()}


def every_id(cells: Iterable[Cell]) -> set[str]:
    """All identities that the cells have, or had in earlier programs."""
    return {id_ for cell in cells for id_ in (cell.cell_id, *cell.earlier_ids)}


def adopt_checkpoints(results: Results, cells: Iterable[Cell]) -> None:
    """Gives checkpoints of these cells that lie under an earlier identity, and are of this
    program's numerics, to the cells as they are called now. One from which the cell can't go on is
    logged and removed."""
    by_id = {cell.cell_id: cell for cell in cells}
    found = stored_as(by_id.values(), results.checkpoints.steps())
    for cell_id, stored in found.items():
        state = results.checkpoints.read(stored, partial(_check_renamed, by_id[cell_id]))
        if state is not None:
            results.checkpoints.write(_renamed(state, cell_id))
        results.checkpoints.remove(stored)


def _check_renamed(cell: Cell, state: Any) -> None:
    """Raises an Exception unless the cell can go on from a state of an earlier identity."""
    from metaphase.core.training.checkpoint import check_state  # PyTorch takes seconds

    check_state(cell, _renamed(state, cell.cell_id))


def _renamed(state: dict[str, Any], cell_id: str) -> dict[str, Any]:
    """A state of an earlier identity, its history's rows too, as one of the cell's."""
    before = state["cell_id"]
    rows = [
        {**row, "cell_id": cell_id} if row["cell_id"] == before else row for row in state["history"]
    ]
    return {**state, "cell_id": cell_id, "history": rows}
