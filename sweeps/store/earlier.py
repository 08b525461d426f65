"""Results of earlier programs, in which the same settings had another identity.

A tree's files keep the identity under which they were written, in their names and in their rows.
Here they are matched with the cells of a grid (`core.cell.Cell.earlier_ids`): a cell counts as
finished, with the numerics that its row says, under whichever of its identities it is stored.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import TYPE_CHECKING, TypeVar

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
    program's numerics, to the cells as they are called now."""
    for cell_id, stored in stored_as(cells, results.checkpoints.steps()).items():
        state = results.checkpoints.read(stored)
        if state is not None:
            rows = [{**row, "cell_id": cell_id} for row in state.get("history", ())]
            results.checkpoints.write({**state, "cell_id": cell_id, "history": rows})
        results.checkpoints.remove(stored)
