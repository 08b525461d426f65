"""The tables of a results tree: their columns and types, and what may stand in their rows.

A tree is a folder that others can write to, so a file in it may hold anything. What `decode` and
`sound` return has the columns and types given here and rows that make sense one by one; what
doesn't is left out, with a line that says why. Imports neither torch nor Ray.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from metaphase.core import schema
from metaphase.core.cell import SETTINGS, Cell
from metaphase.core.settings import neutral_of

COMPACT = "compact-"  # a merged file, `compact-*.parquet`; all others hold one cell, <cell_id>
# Columns that files of earlier versions lack: settings with what their cells were trained with.
LATER = {"numerics": None, **neutral_of(Cell)}
# What reading a file's content raises where it isn't what was written.
UNREADABLE = (pa.ArrowException, OSError, ValueError, KeyError)

_INTEGERS = (
    "step",
    "steps_trained",
    "n",
    "position",
    "diverged_at",
    "plateau_steps",
    "num_parameters",
    "state_size",
    "numerics",
)
_TEXTS = ("cell_id", "sweep", "split", "status", "error", "device", "versions", "yardstick")


def _column(name: str) -> pa.Field:
    """Column of a result: a number unless it is listed. Types are fixed; values may be null."""
    if name in _TEXTS:
        return pa.field(name, pa.string())
    return pa.field(name, pa.int64() if name in _INTEGERS else pa.float64())


_TYPES = {"int": pa.int64(), "float": pa.float64(), "bool": pa.bool_(), "text": pa.string()}


def _setting(name: str) -> pa.Field:
    """Column of a setting of Cell; `schema.to_column` makes a list a text."""
    return pa.field(name, _TYPES[SETTINGS[name].column])


CELLS = pa.schema(
    [
        _column("cell_id"),
        _column("sweep"),
        *map(_setting, SETTINGS),
        *(_column(name) for name in schema.CELL_RESULT_COLUMNS),
    ]
)
HISTORY = pa.schema([_column(name) for name in schema.HISTORY_COLUMNS])
CURVES = pa.schema([_column(name) for name in schema.CURVES_COLUMNS])
YARDSTICKS = pa.schema(
    [_setting(name) if name in SETTINGS else _column(name) for name in schema.YARDSTICK_COLUMNS]
)
SCHEMAS = {"cells": CELLS, "history": HISTORY, "curves": CURVES, "yardsticks": YARDSTICKS}

STATUSES = (schema.DONE, schema.DIVERGED, schema.FAILED)

# Columns that no two rows of a file share, and that are never null.
KEYS = {
    "cells": ("cell_id",),
    "history": ("cell_id", "step", "split"),
    "curves": ("cell_id", "split", "position"),
    "yardsticks": (*schema.YARDSTICK_SETTINGS, "split", "yardstick", "position"),
}
# Columns without which a row of a trained cell says nothing: never null in it, and in that of a
# cell that is `done` not NaN either.
_RESULTS = ("chance", "n", *schema.statistics_columns((schema.SEEN, schema.UNSEEN)))
_FILLED = {
    "cells": ("status", *SETTINGS),
    "history": schema.HISTORY_COLUMNS,
    "curves": schema.CURVES_COLUMNS,
    "yardsticks": schema.YARDSTICK_COLUMNS,
}


class TableError(ValueError):
    """A file that isn't one of this table's. The message is one line."""


def is_own(name: str) -> bool:
    """Whether a table's file holds one cell, by which it is named, and isn't a merged one."""
    return not name.startswith(COMPACT)


def decode(
    table: str,
    data: bytes,
    columns: Iterable[str] | None = None,
    required: Iterable[str] | None = None,
) -> pa.Table:
    """The content of a file, its columns in the types of `SCHEMAS[table]`; columns that the schema
    doesn't know come after them, those of plain numbers and texts.

    Args:
        table: one of SCHEMAS.
        data: the file.
        columns: read only these of the schema's; None: all there are.
        required: columns without which it is not one of the table's; None: those of the schema,
            or `columns`, but `LATER`.

    Raises:
        UNREADABLE: it isn't Parquet, is damaged, lacks a column, has one twice or of another type.
    """
    expected = SCHEMAS[table]
    wanted = expected.names if columns is None else list(columns)
    with pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True) as file:
        there = file.schema_arrow.names
        chosen = None if columns is None else [name for name in wanted if name in there]
        rows = file.read(columns=chosen, use_threads=False)  # a third of read_table's time
    if rows.schema.equals(pa.schema([expected.field(name) for name in wanted])):
        return rows
    names = rows.column_names
    held = set(names)
    if len(held) < len(names):
        raise TableError("it has two columns of one name")
    if required is None:
        required = [name for name in wanted if name not in LATER]
    missing = [name for name in required if name not in held]
    if missing:
        raise TableError(f"it lacks the columns {', '.join(missing)}")
    made = {name: _cast(rows.column(name), expected.field(name)) for name in wanted if name in held}
    for name in wanted:
        if name not in made and LATER.get(name) is not None:
            field = expected.field(name)
            made[name] = pa.chunked_array([[LATER[name]] * rows.num_rows], field.type)
    known = set(expected.names)
    others = {name: rows[name] for name in names if name not in known}
    return pa.table(made | {name: c for name, c in others.items() if _is_plain(c.type)})


def _is_plain(kind: pa.DataType) -> bool:
    tests = (pa.types.is_boolean, pa.types.is_integer, pa.types.is_floating, pa.types.is_string)
    return any(test(kind) for test in tests)


def _cast(column: pa.ChunkedArray, field: pa.Field) -> pa.ChunkedArray:
    """The same values in the field's type: narrower numbers, dictionaries and the like are taken,
    whatever would have to be interpreted isn't."""
    if column.type.equals(field.type):
        return column
    kind = column.type
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
        column = column.cast(kind)
    integer, floating = pa.types.is_integer(kind), pa.types.is_floating(kind)
    if pa.types.is_null(kind):
        fits = True
    elif pa.types.is_integer(field.type):
        fits = integer or floating
        if floating:  # as pandas writes integers of which some are null
            column = pc.if_else(pc.is_nan(column), pa.scalar(None, kind), column)
    elif pa.types.is_floating(field.type):
        fits = integer or floating
    elif pa.types.is_string(field.type):
        fits = pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
        fits = fits or pa.types.is_string(kind)
        listed = pa.types.is_list(kind) and pa.types.is_string(kind.value_type)
        if (
            listed and field.name in SETTINGS and SETTINGS[field.name].kind is tuple
        ):  # as earlier versions wrote what `to_column` joins
            column, fits = pc.binary_join(column, ","), True
    else:
        fits = kind.equals(field.type)
    if not fits:
        raise TableError(f"its column {field.name} is {_short(kind)}, not {field.type}")
    try:
        return column.cast(field.type)
    except pa.ArrowException:
        raise TableError(f"its column {field.name} holds what doesn't fit {field.type}") from None


def _short(kind: pa.DataType) -> str:
    text = " ".join(str(kind).split())
    return text if len(text) <= 60 else f"{text[:60]}..."


def sound(
    table: str, parts: Mapping[str, pa.Table]
) -> tuple[dict[str, pa.Table], dict[str, list[str]]]:
    """({file name: its rows} without those that can't be, {file name: what was left out and why}).

    Left out are all rows of a cell in a file where one of them has a null or an impossible value,
    or the key of another one; and files whose name is that of another cell than they hold. A file
    of which nothing is left isn't in the first of the two.

    Args:
        table: one of SCHEMAS.
        parts: from `decode`, by the files' names in the table's folder; <cell_id>/<any> is a file
            of that cell too.
    """
    if not parts:
        return {}, {}
    why: dict[str, list[str]] = {}
    good = dict(parts)
    joined = _joined(good)
    if joined is None:  # some text isn't UTF-8: which?
        for name, rows in parts.items():
            if _joined({name: rows}) is None:
                del good[name]
                why[name] = ["it holds text that is not UTF-8"]
        joined = _joined(good) if good else None
        if joined is None:
            return {}, why
    owner = "cell_id" if "cell_id" in joined.column_names else None
    for flaw, bad in _flaws(table, joined):
        if not pc.any(bad).as_py():
            continue
        for name, ids in _by_file(joined.filter(bad), owner).items():
            why.setdefault(name, []).append(
                f"{flaw} (of {len(ids)} cells)" if owner and not is_own(name) else flaw
            )
            rows = good.pop(name, None)
            if rows is not None and owner:
                keep = pc.and_(rows[owner].is_valid(), _none_of(rows[owner], ids))
                rows = rows.filter(keep)
                if rows.num_rows:
                    good[name] = rows
    if owner:
        for name in [name for name in good if is_own(name)]:
            rows, cell_id = good[name], name.split("/")[0].removesuffix(".parquet")
            if pc.any(pc.not_equal(rows[owner], cell_id)).as_py() or (
                table == "cells" and rows.num_rows != 1
            ):
                why.setdefault(name, []).append("it holds other cells than its name says")
                del good[name]
    return good, why


def statuses(name: str, rows: pa.Table) -> tuple[dict[str, tuple[str, int]], str]:
    """({cell_id: (status, numerics)}, what was left out and why, if anything was) of a file of the
    cells table. In plain Python: Arrow's functions of a value import pandas, which takes longer.

    Args:
        name: of the file.
        rows: its columns cell_id, status and, if it has it, numerics.
    """
    ids, said = rows["cell_id"].to_pylist(), rows["status"].to_pylist()
    there = "numerics" in rows.column_names
    revisions = rows["numerics"].to_pylist() if there else [None] * len(ids)
    if is_own(name) and ids != [name.removesuffix(".parquet")]:
        return {}, "it holds other cells than its name says"
    found: dict[str, tuple[str, int]] = {}
    bad = set()
    for cell_id, status, revision in zip(ids, said, revisions, strict=True):
        revision = 1 if revision is None else revision
        if not cell_id or cell_id in found or status not in STATUSES or revision < 1:
            bad.add(cell_id)
        else:
            found[cell_id] = (status, revision)
    for cell_id in bad:
        found.pop(cell_id, None)
    why = f"of {len(bad)} cells the status can't be, or is there twice" if bad else ""
    return found, why


def concatenate(parts: Sequence[pa.Table]) -> tuple[pa.Table, list[str]]:
    """(all rows, the columns left out of them). A column that some parts lack is null there; one
    that no schema knows and whose types in the parts don't go together is left out."""
    kinds: dict[str, pa.DataType] = {}
    odd = []
    for part in parts:
        for field in part.schema:
            known = kinds.setdefault(field.name, field.type)
            if field.name not in odd and not known.equals(field.type):
                try:
                    fields = [pa.schema([(field.name, kind)]) for kind in (known, field.type)]
                    unified = pa.unify_schemas(fields, promote_options="permissive")
                    kinds[field.name] = unified.field(0).type
                except pa.ArrowException:
                    odd.append(field.name)
    if odd:
        parts = [part.drop_columns([n for n in odd if n in part.column_names]) for part in parts]
    alike = all(part.schema.equals(parts[0].schema) for part in parts)
    options: Literal["none", "permissive"] = "none" if alike else "permissive"  # which is slow
    return pa.concat_tables(parts, promote_options=options), odd


def _joined(parts: Mapping[str, pa.Table]) -> pa.Table | None:
    """All rows with their file's name as column `_FILE`; None if some text isn't UTF-8."""
    known = {name for columns in SCHEMAS.values() for name in columns.names}
    tables = []
    for name, rows in parts.items():
        rows = rows.select([column for column in rows.column_names if column in known])
        tables.append(rows.append_column(_FILE, pa.repeat(name, rows.num_rows)))
    joined = pa.concat_tables(tables, promote_options="default")
    try:
        joined.validate(full=True)
    except pa.ArrowException:
        return None
    return joined


_FILE = "file name"


def _flaws(table: str, rows: pa.Table) -> Iterable[tuple[str, pa.ChunkedArray]]:
    """(what is wrong, which rows: boolean) for all that can be wrong with a row."""
    there = set(rows.column_names)
    for name in dict.fromkeys((*KEYS[table], *_FILLED[table])):
        if name in there and rows[name].null_count:
            yield f"{name} is null", rows[name].is_null()
    if "status" in there:
        known = functools.reduce(pc.or_, (pc.equal(rows["status"], s) for s in STATUSES))
        yield "its status is none that there is", pc.fill_null(pc.invert(known), False)
        trained = pc.fill_null(pc.not_equal(rows["status"], schema.FAILED), False)
        done = pc.fill_null(pc.equal(rows["status"], schema.DONE), False)
        for name in (name for name in _RESULTS if name in there):
            yield f"{name} is null", pc.and_(trained, rows[name].is_null())
            if pa.types.is_floating(rows[name].type):
                nan = pc.fill_null(pc.is_nan(rows[name]), False)
                yield f"{name} is not a number", pc.and_(done, nan)
    for name in rows.column_names:
        low, high = _range(name)
        if low is not None:
            outside = pc.or_(pc.less(rows[name], low), pc.greater(rows[name], high))
            yield f"{name} is out of range", pc.fill_null(outside, False)
    keys = [_FILE, *(name for name in KEYS[table] if name in there)]
    if len(keys) == 1 + len(KEYS[table]):
        counted = rows.select(keys).group_by(keys).aggregate([([], "count_all")])
        if counted.num_rows < rows.num_rows:
            twice = counted.filter(pc.greater(counted["count_all"], 1)).select(keys)
            numbered = rows.select(keys).append_column("row", pa.array(range(rows.num_rows)))
            again = numbered.join(twice, keys, join_type="inner")["row"]
            yield "a row of it is there twice", pc.is_in(numbered["row"], again.combine_chunks())


def _range(name: str) -> tuple[float, float] | tuple[None, None]:
    """The least and the greatest value of a result's column."""
    end = name.rpartition("_")[2]
    if end == "se" or end in ("accuracy", schema.FIRST, schema.LAST, "chance"):
        return 0.0, 1.0
    if end == schema.IMPROVEMENT:
        return -1.0, 1.0
    if name in ("step", "steps_trained", "diverged_at", "plateau_steps"):
        return 0, 2**31
    if name in ("n", "position", "numerics"):
        return 1, 2**53
    return None, None


def _by_file(rows: pa.Table, owner: str | None) -> dict[str, list[Any]]:
    """{file name: the cells whose rows these are}."""
    found: dict[str, list[Any]] = {}
    names = rows[_FILE].to_pylist()
    owners = rows[owner].to_pylist() if owner else [None] * len(names)
    for name, cell_id in dict.fromkeys(zip(names, owners, strict=True)):
        found.setdefault(name, []).append(cell_id)
    return found


def _none_of(column: pa.ChunkedArray, values: list[Any]) -> pa.ChunkedArray:
    return pc.invert(pc.is_in(column, pa.array([v for v in values if v is not None], pa.string())))
