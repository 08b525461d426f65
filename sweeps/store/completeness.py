"""Whether all rows of a finished cell are there: evaluations of all splits up to the last step, and
all positions of all splits. The files of a cell say it in their seals."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any, NamedTuple

import pyarrow as pa

from metaphase.core import schema
from metaphase.core.cell import SETTINGS
from metaphase.core.evaluation_steps import count_evaluations
from metaphase.core.phases import NO_CONTEXT_LOSS
from metaphase.sweeps.store import seals
from metaphase.sweeps.store.soundness import CELL_ID, sound
from metaphase.sweeps.store.table_files import TableFiles, not_of
from metaphase.sweeps.store.tables import FILLED, RESULTS, SCHEMAS, STATUSES, is_own

_SETTINGS = (
    *("unseen_datasets", "in_weights", "eval_every", "eval_growth", "steps_trained"),
    "sequence_length",
)
# What tells, almost always, that a cell left its plateau (`core.phases.on_plateau`).
_LOSSES = ("train_loss", "guess_loss", "dataset", "num_classes", "chance")
_FACTS = ("cell_id", "status", "numerics", *_SETTINGS, *_LOSSES)
_POINTS = {"history": "step", "curves": "position"}
_TYPES = {pa.string(): (str,), pa.int64(): (int,), pa.float64(): (float,), pa.bool_(): (bool,)}
_KINDS = {name: _TYPES[SCHEMAS["cells"].field(name).type] for name in _FACTS}
_INT64 = 2**63


def facts_about(table: str, cell_id: str, rows: pa.Table) -> dict[str, Any] | None:
    """What a seal says of a cell's rows of a table; None if some of them make no sense.

    Args:
        table: "cells", "history" or "curves".
        cell_id: of the cell.
        rows: all of them.
    """
    if sound(table, {f"{cell_id}.parquet": rows})[1] or not rows.num_rows:
        return None
    facts = {"table": table, "cell_id": cell_id}
    if table == "cells":
        names = [*_FACTS, *{NO_CONTEXT_LOSS}.intersection(rows.column_names)]
        [row] = rows.select(names).to_pylist()
        return {**facts, **row}
    point = _POINTS[table]
    return {**facts, "shape": _shapes(rows.select(["cell_id", "split", point]), point)[cell_id]}


def sealed_facts(table: str, name: str, content: bytes) -> dict[str, Any] | None:
    """What the seal of a table's file says; None if it has none that is right, it is that of
    another table or cell than the file's name and place say, or says what a sound row can't, or
    less than is asked for, as one of another program may."""
    facts, cell_id = seals.facts_of(content), name.removesuffix(".parquet")
    if not facts or facts.get("cell_id") != cell_id or facts.get("table") != table:
        return None
    if not is_own(name) or not re.fullmatch(CELL_ID, cell_id):
        return None
    return facts if (_tells_a_row(facts) if table == "cells" else _tells_a_shape(facts)) else None


def _tells_a_row(facts: Mapping[str, Any]) -> bool:
    """Whether a sound row of the cells table may have these values."""
    trained = facts.get("status") != schema.FAILED
    if type(facts.get(NO_CONTEXT_LOSS, 0.0)) not in (float, type(None)):
        return False
    for name, kinds in _KINDS.items():
        value = facts.get(name)
        if value is None:
            if name not in facts or name in FILLED["cells"] or (trained and name in RESULTS):
                return False
        elif type(value) not in kinds or (int in kinds and not -_INT64 <= value < _INT64):
            return False
    return facts["status"] in STATUSES and (facts["numerics"] is None or facts["numerics"] >= 1)


def _tells_a_shape(facts: Mapping[str, Any]) -> bool:
    shape = facts.get("shape")
    if not isinstance(shape, list) or len(shape) != len(_Shape._fields):
        return False
    return all(type(value) is int for value in shape)


def incomplete(tables: TableFiles, cell_ids: AbstractSet[str]) -> set[str]:
    """Of these finished cells, those whose rows in some table can't be read or aren't all there."""
    if not cell_ids:
        return set()
    sealed, keys = _read(tables, "cells", _SETTINGS)
    cells = {row["cell_id"]: row for row in keys.to_pylist()} | sealed
    history, curves = (_shapes_in(tables, table) for table in _POINTS)

    def is_whole(cell_id: str) -> bool:
        if not (cell_id in cells and cell_id in history and cell_id in curves):
            return False
        values = (cells[cell_id][name] for name in _SETTINGS)
        datasets, in_weights, every, growth, steps, length = values
        splits = len(schema.SPLITS) + (len(datasets.split(",")) if datasets else 0)
        splits += len(schema.RELABELLED) if in_weights else 0
        said = steps and every > 0 and 1 <= growth <= (SETTINGS["eval_growth"].greatest or 1)
        evaluations = count_evaluations(every, growth, steps) if said else 1
        fits = history[cell_id].is_whole(splits, steps, evaluations)
        return fits and curves[cell_id].is_whole(splits, length, length)

    return {cell_id for cell_id in cell_ids if not is_whole(cell_id)}


def _shapes_in(tables: TableFiles, table: str) -> dict[str, _Shape]:
    """{cell_id: the shape of its rows} of a table."""
    sealed, keys = _read(tables, table, ("split", _POINTS[table]))
    shapes = {cell_id: _Shape(*facts["shape"]) for cell_id, facts in sealed.items()}
    return _shapes(keys, _POINTS[table]) | shapes


def _read(
    tables: TableFiles, table: str, columns: Sequence[str]
) -> tuple[dict[str, dict[str, Any]], pa.Table]:
    """({cell_id: facts} of sealed files, cell_id and these columns of the other files' rows), each
    cell's from one file."""
    wanted = ["cell_id", *columns]
    parts: list[pa.Table] = []
    sealed: dict[str, dict[str, Any]] = {}

    def is_sealed(name: str, content: bytes) -> bool:
        facts = sealed_facts(table, name, content)
        if facts is not None:
            sealed[facts["cell_id"]] = facts
        return facts is not None

    seen: set[str] = set()
    # A cell's own file goes before a merged one.
    for _, rows in tables.read(table, tables.names(table)[::-1], known=is_sealed):
        part = rows.select(wanted)
        ids = set(part["cell_id"].to_pylist())
        there = seen | sealed.keys()
        if not there.isdisjoint(ids):
            part = part.filter(not_of(part, there))
        seen |= ids
        parts.append(part)
    if not parts:
        return sealed, pa.schema([SCHEMAS[table].field(name) for name in wanted]).empty_table()
    return sealed, pa.concat_tables(parts)


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
