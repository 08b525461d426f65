"""Whether all rows of a finished cell are there: evaluations of all splits up to the last step, and
all positions of all splits."""

from __future__ import annotations

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from typing import NamedTuple

import pyarrow as pa

from metaphase.core import schema
from metaphase.core.evaluation_steps import count_evaluations
from metaphase.sweeps.store.table_files import TableFiles, not_of
from metaphase.sweeps.store.tables import SCHEMAS

_SETTINGS = (
    *("unseen_datasets", "in_weights", "eval_every", "eval_growth", "steps_trained"),
    "sequence_length",
)


def incomplete(tables: TableFiles, cell_ids: AbstractSet[str]) -> set[str]:
    """Of these finished cells, those whose rows in some table can't be read or aren't all there."""
    if not cell_ids:
        return set()
    cells = {row["cell_id"]: row for row in _keys(tables, "cells", _SETTINGS).to_pylist()}
    history = _shapes(_keys(tables, "history", ("split", "step")), "step")
    curves = _shapes(_keys(tables, "curves", ("split", "position")), "position")

    def is_whole(cell_id: str) -> bool:
        if not (cell_id in cells and cell_id in history and cell_id in curves):
            return False
        values = (cells[cell_id][name] for name in _SETTINGS)
        datasets, in_weights, every, growth, steps, length = values
        splits = len(schema.SPLITS) + (len(datasets.split(",")) if datasets else 0)
        splits += len(schema.RELABELLED) if in_weights else 0
        said = steps and every > 0 and 1 <= growth < float("inf")
        evaluations = count_evaluations(every, growth, steps) if said else 1
        fits = history[cell_id].is_whole(splits, steps, evaluations)
        return fits and curves[cell_id].is_whole(splits, length, length)

    return {cell_id for cell_id in cell_ids if not is_whole(cell_id)}


def _keys(tables: TableFiles, table: str, columns: Sequence[str]) -> pa.Table:
    """cell_id and these columns of a table's rows, each cell's from one file."""
    wanted = ["cell_id", *columns]
    parts: list[pa.Table] = []
    seen: set[str] = set()
    for _, rows in tables.read(table, tables.names(table)[::-1]):
        part = rows.select(wanted)
        ids = set(part["cell_id"].to_pylist())
        if not seen.isdisjoint(ids):  # a cell's own file, which goes before a merged one, was first
            part = part.filter(not_of(part, seen))
        seen |= ids
        parts.append(part)
    if not parts:
        return pa.schema([SCHEMAS[table].field(name) for name in wanted]).empty_table()
    return pa.concat_tables(parts)


class _Shape(NamedTuple):
    """How a cell's rows of history or curves are laid out: how many there are, the last and the
    number of steps or positions, and the number of splits."""

    rows: int
    last: int
    points: int
    splits: int

    def is_whole(self, splits: int, last: int | None, points: int | None) -> bool:
        """Whether each of at least so many splits has all of at least so many points."""
        return (
            self.rows == self.points * self.splits
            and self.splits >= splits
            and self.points >= (points or 1)
            and self.last == (last or self.last)
        )


def _shapes(keys: pa.Table, point: str) -> dict[str, _Shape]:
    """{cell_id: the shape of its rows}, `point` being "step" or "position"."""
    how = [(point, "count"), (point, "max"), (point, "count_distinct"), ("split", "count_distinct")]
    grouped = keys.group_by("cell_id").aggregate(how)
    columns = (grouped.column(f"{name}_{kind}").to_pylist() for name, kind in how)
    return {
        cell_id: _Shape(*values)
        for cell_id, *values in zip(grouped.column("cell_id").to_pylist(), *columns, strict=True)
    }
