"""Reads and merges the files of a results tree's tables: thousands of small Parquet files, some of
them perhaps missing, torn, or of somebody else's making.

All that reads tables does it here, the analysis too; neither torch nor Ray is imported.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from concurrent.futures import ThreadPoolExecutor
from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc

from metaphase.sweeps.store.folders import one_line, shown
from metaphase.sweeps.store.soundness import sound
from metaphase.sweeps.store.storage import Storage
from metaphase.sweeps.store.tables import (
    UNREADABLE,
    concatenate,
    decode,
    encode,
    is_own,
)

logger = logging.getLogger(__name__)

FILES_AT_ONCE = 1000  # whose rows are looked through together
READERS = 16  # files that are fetched at once from where that is waiting

Say = Callable[[str, str, str], None]
"""Gets a file's path, "can't be read" or "is left out", and why, as texts fit for a terminal."""


class TableFiles:
    """The files of the tables of one sweep.

    Args:
        storage: where they are.
        say: is called for each file of which something is left out.
        failing: what becomes of a file at which the storage fails: its error is raised, or the file
            is left out as one whose content can't be read.
    """

    def __init__(
        self, storage: Storage, say: Say, failing: Literal["raise", "leave out"] = "raise"
    ):
        self._storage, self._say, self._failing = storage, say, failing

    def names(self, table: str) -> list[str]:
        """Names of a table's files: merged ones first, so that a cell's own file, which goes before
        them, comes last."""
        found = [i.path for i in self._storage.infos(table) if is_table_file(i.path)]
        return sorted(found, key=lambda name: (is_own(name), name))

    def fetch(self, folder: str, names: Sequence[str]) -> Iterator[bytes | OSError]:
        """The content of each file in a folder, in their order, or what its reading raised. Many
        are fetched at once from an object store, which answers late."""

        def get(name: str) -> bytes | OSError:
            try:
                return self._storage.get(f"{folder}/{name}")
            except OSError as error:
                return error

        if self._storage.local_path:
            yield from map(get, names)
            return
        with ThreadPoolExecutor(READERS) as pool:
            yield from pool.map(get, names)

    def read(
        self,
        table: str,
        names: Sequence[str],
        *,
        folder: str | None = None,
        required: Iterable[str] | None = None,
        gone: Literal["raise", "leave out", "forget"] = "leave out",
        flawed: set[str] | None = None,
        known: Callable[[str, bytes], bool] | None = None,
    ) -> Iterator[tuple[str, pa.Table]]:
        """(name, its rows) of a table's files, in their order. One whose content can't be read, and
        rows that make no sense (`soundness.sound`), are left out.

        Args:
            table: one of tables.SCHEMAS.
            names: of the files.
            folder: where they are; None: in that of the table.
            required: as for `tables.decode`.
            gone: what becomes of a file that isn't there any more: FileNotFoundError is raised, or
                it is left out, or left out without a word.
            flawed: names of files of which something is left out are added to it.
            known: gets the name and the content of each file; one for which it returns True needs
                no reading, and is left out without a word.

        Raises:
            OSError: the storage fails.
        """
        flawed = set() if flawed is None else flawed
        folder = folder or table
        for start in range(0, len(names), FILES_AT_ONCE):
            part = names[start : start + FILES_AT_ONCE]
            found: dict[str, pa.Table] = {}
            for name, content in zip(part, self.fetch(folder, part), strict=True):
                if isinstance(content, FileNotFoundError):
                    if gone == "raise":
                        raise content
                    if gone == "forget":
                        continue
                elif isinstance(content, OSError) and self._failing == "raise":
                    raise content
                try:
                    if isinstance(content, OSError):
                        raise content
                    if known is not None and known(name, content):
                        continue
                    found[name] = decode(table, content, required=required)
                except UNREADABLE as error:
                    flawed.add(name)
                    self._say(shown(f"{folder}/{name}"), "can't be read", one_line(error))
            good, why = sound(table, found)
            for name, reasons in why.items():
                flawed.add(name)
                more = f" and {len(reasons) - 3} more" if len(reasons) > 3 else ""
                reason = "; ".join(reasons[:3]) + more
                self._say(shown(f"{folder}/{name}"), "is left out", reason)
            yield from ((name, good[name]) for name in part if name in good)

    def by_cell(
        self,
        table: str,
        names: Iterable[str],
        cell_ids: AbstractSet[str],
        merged: bool = False,
        flawed: set[str] | None = None,
    ) -> tuple[dict[str, pa.Table], set[str]]:
        """({cell_id: its rows} of the cells asked for, the files that hold nothing else). With
        `merged`, all cells of merged files too. `flawed` as for `read`."""
        found: dict[str, pa.Table] = {}
        whole: set[str] = set()
        names = [n for n in names if not is_own(n) or n.removesuffix(".parquet") in cell_ids]
        names.sort(key=lambda name: (is_own(name), name))  # a cell's own file goes before
        for name, rows in self.read(table, names, flawed=flawed):
            if is_own(name):
                found[name.removesuffix(".parquet")] = rows
                whole.add(name)
                continue
            starts: dict[str, list[int]] = defaultdict(list)
            for i, cell_id in enumerate(rows["cell_id"].to_pylist()):
                starts[cell_id].append(i)
            for cell_id in starts if merged else starts.keys() & cell_ids:
                found[cell_id] = rows.take(pa.array(starts[cell_id], pa.int64()))
            if merged or starts.keys() <= cell_ids:
                whole.add(name)
        return found, whole

    def write_merged(self, path: str, tables: Sequence[pa.Table]) -> None:
        """Writes rows of many cells as one file."""
        merged, left_out = concatenate(tables)
        if left_out:
            logger.warning(
                "%s/%s lacks the columns %s: types differ", self._storage, path, left_out
            )
        self._storage.put(path, encode(merged), durable=True)

    def keep_damaged(self, table: str, name: str) -> None:
        """Copies a file to `_<name>.damaged`, which readers of a folder leave out."""
        data = self._storage.get(f"{table}/{name}")
        self._storage.put(f"{table}/_{name}.damaged", data, durable=True)


def is_table_file(name: str) -> bool:
    """Whether a file in a table's folder is one of the table, and isn't in the making."""
    return name.endswith(".parquet") and name[0] not in "._"


def not_of(rows: pa.Table, cell_ids: AbstractSet[str]) -> pa.ChunkedArray:
    """Which rows are of other cells than these."""
    return pc.invert(pc.is_in(rows["cell_id"], pa.array(cell_ids, pa.string())))
