"""What may stand in the rows of a results tree's tables: rows that make no sense are left out, with
a line that says why."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from metaphase.core import schema
from metaphase.core.cell import ABSENT, SETTINGS
from metaphase.core.settings import NONE, Setting
from metaphase.core.tasks import PROJECTED_IMAGES
from metaphase.sweeps.store.tables import FILLED, KEYS, RESULTS, SCHEMAS, STATUSES, is_own

# What a cell_id may be. Files and folders are named by it, so it must lead nowhere else.
CELL_ID = "[0-9A-Za-z_-]{1,64}"


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
        named = cell_id and re.fullmatch(CELL_ID, cell_id)
        if not named or cell_id in found or status not in STATUSES or revision < 1:
            bad.add(cell_id)
        else:
            found[cell_id] = (status, revision)
    for cell_id in bad:
        found.pop(cell_id, None)
    why = f"of {len(bad)} cells the cell_id or status can't be, or is there twice" if bad else ""
    return found, why


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
    for name in dict.fromkeys((*KEYS[table], *FILLED[table])):
        if name in there and rows[name].null_count:
            yield f"{name} is null", rows[name].is_null()
    if "cell_id" in there:
        named = pc.match_substring_regex(rows["cell_id"], rf"\A{CELL_ID}\z")
        yield "its cell_id can't be one", pc.fill_null(pc.invert(named), False)
    if table == "cells" and "task_family" in there:
        of_images = pc.equal(rows["task_family"], PROJECTED_IMAGES)
        for name in (name for name in SETTINGS if name in ABSENT and name in there):
            if rows[name].null_count:
                yield f"{name} is null", pc.and_(of_images, rows[name].is_null())
    if "status" in there:
        known = functools.reduce(pc.or_, (pc.equal(rows["status"], s) for s in STATUSES))
        yield "its status is none that there is", pc.fill_null(pc.invert(known), False)
        trained = pc.fill_null(pc.not_equal(rows["status"], schema.FAILED), False)
        done = pc.fill_null(pc.equal(rows["status"], schema.DONE), False)
        for name in (name for name in RESULTS if name in there):
            yield f"{name} is null", pc.and_(trained, rows[name].is_null())
            if pa.types.is_floating(rows[name].type):
                nan = pc.fill_null(pc.is_nan(rows[name]), False)
                yield f"{name} is not a number", pc.and_(done, nan)
    for name in (name for name in rows.column_names if name in SETTINGS):
        outside = list(_out_of_bounds(SETTINGS[name], rows[name]))
        if outside:
            yield f"{name} is out of range", pc.fill_null(functools.reduce(pc.or_, outside), False)
    for name in rows.column_names:
        if bounds := schema.bounds(name):
            low, high = bounds
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


def _out_of_bounds(setting: Setting, column: pa.ChunkedArray) -> Iterable[pa.ChunkedArray]:
    """Which values are beyond each bound that the setting has, and aren't what a cell has that
    doesn't use or doesn't know it."""
    others = [value for value in (setting.unused, setting.absent) if value is not NONE]
    above, below = setting.exclusive
    for bound, beyond in (
        (setting.least, pc.less_equal if above else pc.less),
        (setting.greatest, pc.greater_equal if below else pc.greater),
    ):
        if bound is not None:
            bad = beyond(column, bound)
            yield functools.reduce(pc.and_, (pc.not_equal(column, v) for v in others), bad)


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
