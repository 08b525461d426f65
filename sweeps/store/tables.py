"""The tables of a results tree: their columns, and Parquet files of them, written and read.

A tree is a folder that others can write to, so a file in it may hold anything. What `decode`
returns has the columns and types given here, and what `soundness.sound` leaves of it has rows that
make sense one by one. Neither torch nor Ray is imported.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from metaphase.core import schema
from metaphase.core.cell import ABSENT, SETTINGS, Cell
from metaphase.core.settings import neutral_of
from metaphase.sweeps.store import seals

_MERGED = "compact-"  # begins the name of a file of many cells; all others hold one, <cell_id>
# Columns that files of earlier versions lack: settings with what their cells were trained with,
# results with null.
LATER = {
    **dict.fromkeys(("numerics", "unseen_level", "guess_loss", "own_settings", "switched_off")),
    **dict.fromkeys(schema.RELABELLED_COLUMNS),
    **{name: schema.to_column(value) for name, value in neutral_of(Cell).items()},
}
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
_TEXTS = (
    *("cell_id", "sweep", "split", "status", "error", "device", "versions", "yardstick"),
    *("own_settings", "switched_off"),
)


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
_FIELDS = {table: {field.name: field for field in columns} for table, columns in SCHEMAS.items()}

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
RESULTS = ("chance", "n", *schema.statistics_columns((schema.SEEN, schema.UNSEEN)))
FILLED = {
    "cells": ("status", *(name for name in SETTINGS if name not in ABSENT)),
    "history": schema.HISTORY_COLUMNS,
    "curves": schema.CURVES_COLUMNS,
    "yardsticks": schema.YARDSTICK_COLUMNS,
}


class TableError(ValueError):
    """A file that isn't one of this table's. The message is one line."""


def is_own(name: str) -> bool:
    """Whether a table's file holds one cell, by which it is named, and isn't a merged one."""
    return not name.startswith(_MERGED)


def merged_name(cell_ids: Iterable[str]) -> str:
    """The name of a file that holds these cells."""
    digest = hashlib.sha256(" ".join(sorted(cell_ids)).encode()).hexdigest()[:16]
    return f"{_MERGED}{digest}.parquet"


def to_table(rows: Sequence[Mapping[str, Any]], columns: pa.Schema) -> pa.Table:
    """Rows of a table with these columns, and behind them those of plug-ins: their settings,
    metrics, and what predictors tell. Of the last a file has all columns, null or not, so that
    readers who take the columns of the first file miss none."""
    more: dict[str, pa.DataType] = {}
    untold: set[str] = set()
    for row in rows:
        for name in row.keys() - set(columns.names) - more.keys():
            if row[name] is None:
                untold.add(name)
                continue
            more[name] = _TYPES[
                {bool: "bool", int: "int", float: "float"}.get(type(row[name]), "text")
            ]
    # Others are of no type: a column that isn't there is read as null.
    for name in filter(schema.OF_PREDICTORS.fullmatch, untold - more.keys()):
        more[name] = _TYPES["float"]
    fields = [pa.field(name, kind) for name, kind in sorted(more.items())]
    return pa.Table.from_pylist(list(rows), schema=pa.schema([*columns, *fields]))


def encode(rows: pa.Table, facts: Mapping[str, Any] | None = None) -> bytes:
    """A Parquet file of these rows. Every page has a checksum. The footer has none, so no
    statistics are written into it, which a reader would believe. Pages hold plain values: the
    dictionaries of a cell's few rows take more bytes and twice the time to read.

    Args:
        rows: of a table.
        facts: seals the file with them (`store.seals`).
    """
    sink = io.BytesIO()
    with pq.ParquetWriter(
        sink, rows.schema, write_page_checksum=True, write_statistics=False, use_dictionary=False
    ) as file:
        file.write_table(rows)
        if facts is not None:
            file.add_key_value_metadata(seals.entry(facts))
    return sink.getvalue() if facts is None else seals.signed(sink.getvalue())


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
        columns: read only these, as far as the schema or the file knows them; None: all there are.
        required: columns without which it is not one of the table's; None: those of the schema,
            or `columns`, but `LATER`.

    Raises:
        UNREADABLE: it isn't Parquet, is damaged, lacks a column, has one twice or of another type.
    """
    fields = _FIELDS[table]
    asked = list(fields) if columns is None else list(columns)
    wanted = [name for name in asked if name in fields]
    expected = SCHEMAS[table] if columns is None else pa.schema([fields[name] for name in wanted])
    with pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True) as file:
        chosen = None
        if columns is not None:
            stored = set(file.schema_arrow.names)
            chosen = [name for name in asked if name in stored]
        rows = file.read(columns=chosen, use_threads=False)  # a third of read_table's time
    rows = rows.replace_schema_metadata()
    if rows.schema.equals(expected):
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
    there = dict(zip(names, rows.columns, strict=True))
    made = {name: _cast(there[name], fields[name]) for name in wanted if name in held}
    for name in wanted:
        if name not in made and LATER.get(name) is not None:
            made[name] = pa.chunked_array([[LATER[name]] * rows.num_rows], fields[name].type)
    others = {name: column for name, column in there.items() if name not in fields}
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
