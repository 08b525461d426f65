"""The tables of a results tree that others write, kill, delete and rebuild meanwhile.

A look lists the tree and reads only the files that are new or changed since the last one. What it
returns was there at one moment: it looks again where a file that it used has gone meanwhile, and
raises an error where the storage fails, instead of leaving something out.
"""

from __future__ import annotations

import re
from typing import Literal, NamedTuple

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from metaphase.analysis.load import CELL_COLUMNS, HALF_TRAINED, ResultsError, concatenate
from metaphase.core import schema
from metaphase.core.cell import ConfigError
from metaphase.sweeps import places
from metaphase.sweeps.store import sweepfile, tables
from metaphase.sweeps.store.folders import one_line, shown
from metaphase.sweeps.store.layout import why_no_sweep
from metaphase.sweeps.store.storage import Storage
from metaphase.sweeps.store.table_files import TableFiles, is_table_file

LOOKS = 5  # times a tree is looked at anew because it changed while it was read
REQUIRED = {
    "cells": CELL_COLUMNS,
    "history": schema.HISTORY_COLUMNS,
    "curves": schema.CURVES_COLUMNS,
}


class Gone(ResultsError):
    """There is no sweep at this place, or not yet. The message is one line."""


class Look(NamedTuple):
    """What a look found.

    Attributes:
        cells: the finished cells, a row each.
        history: all evaluations, those of unfinished cells too.
        changed: whether anything is different from the look before.
    """

    cells: pd.DataFrame
    history: pd.DataFrame
    changed: bool


class Tree:
    """The tables of the sweep at a path or URI.

    Attributes:
        path: as it was given.
        storage: its files.
        notes: {a file's path: a line on what is left out of it, and why}.

    Raises:
        ConfigError: the URI can't be used.
    """

    def __init__(self, path: str):
        self.path = path
        remote = "://" in path
        place = places.checked_sweep(path) if remote else path
        self.storage = Storage(*places.parent(place), say=lambda line: self._say(line, "", ""))
        self.notes: dict[str, str] = {}
        self._files = TableFiles(self.storage, self._say)
        self._stamps: dict[str, dict[str, float]] = {}  # of each folder's files, when last read
        self._rows: dict[str, dict[str, pa.Table]] = {}
        self._last: Look | None = None

    def look(self) -> Look:
        """The tables as they are now.

        Raises:
            Gone: there is no sweep.
            ResultsError: it keeps changing while it is read.
            OSError: the storage fails.
        """
        for _ in range(LOOKS):
            try:
                found = self._look()
            except FileNotFoundError:  # merged with others, deleted, or finished, since we looked
                continue
            if found is not None:
                return found
        raise ResultsError(f"{shown(self.path)}: its files change while they are read")

    def _look(self) -> Look | None:
        """One try; None if the tree has changed meanwhile."""
        listed = {"cells": self._list("cells"), HALF_TRAINED: self._list_half_trained()}
        if not listed["cells"]:
            self._check_is_sweep()
        listed["history"] = self._list("history")
        if self._last and all(self._stamps.get(name) == now for name, now in listed.items()):
            self._last = self._last._replace(changed=False)
            return self._last
        self._update("cells", "cells", listed["cells"])
        self._update("history", HALF_TRAINED, listed[HALF_TRAINED], gone="forget")
        listed["history"] = self._list("history")  # with cells that have finished since
        self._update("history", "history", listed["history"])
        after = self._list("cells")
        if any(after.get(name) != stamp for name, stamp in listed["cells"].items()):
            return None
        cells = self._frame("cells", self._parts("cells"))
        half = self._rows.get(HALF_TRAINED, {}).values()
        history = self._frame("history", [*half, *self._parts("history")])
        order = ["architecture", "model_size", "num_tasks", "seed", "cell_id"]
        self._last = Look(
            cells.sort_values(order, ignore_index=True),
            history.sort_values(["cell_id", "step", "split"], ignore_index=True),
            changed=True,
        )
        return self._last

    def curves(self, cell_id: str) -> pd.DataFrame:
        """A finished cell's accuracies by position; no rows if there are none.

        Raises:
            OSError: the storage fails.
        """
        rows: list[pa.Table] = []
        if re.fullmatch("[0-9A-Za-z]+", cell_id):  # whatever a tree calls it, it leads nowhere else
            own = [f"{cell_id}.parquet"]
            read = self._files.read("curves", own, required=REQUIRED["curves"], gone="forget")
            rows = [part for _, part in read]
        if not rows:
            listed = {n: at for n, at in self._list("curves").items() if not tables.is_own(n)}
            self._update("curves", "curves", listed)
            mine = pa.scalar(cell_id, pa.string())
            parts = [part.filter(pc.equal(part["cell_id"], mine)) for part in self._parts("curves")]
            rows = [part for part in parts if part.num_rows]
        return self._frame("curves", rows).sort_values(["split", "position"], ignore_index=True)

    def _list(self, folder: str) -> dict[str, float]:
        infos = self.storage.infos(folder)
        return {info.path: info.modified for info in infos if is_table_file(info.path)}

    def _list_half_trained(self) -> dict[str, float]:
        infos = self.storage.infos(HALF_TRAINED, recursive=True)
        return {
            info.path: info.modified
            for info in infos
            if info.path.count("/") == 1 and info.path.endswith("/history.parquet")
        }

    def _check_is_sweep(self) -> None:
        """Raises Gone, unless there is a preset or a table."""
        if self.storage.exists(sweepfile.NAME) or self.storage.exists("cells"):
            return
        self._forget()
        why = why_no_sweep(self.storage, FileNotFoundError("no such folder"))
        raise Gone(f"{shown(self.path)}: {why}")

    def _forget(self) -> None:
        self.notes.clear()
        self._stamps.clear()
        self._rows.clear()
        self._last = None

    def _update(
        self,
        table: str,
        folder: str,
        listed: dict[str, float],
        gone: Literal["raise", "forget"] = "raise",
    ) -> None:
        """Reads the files of a folder that are new or changed, and forgets those that are gone."""
        stamps, rows = self._stamps.setdefault(folder, {}), self._rows.setdefault(folder, {})
        for name in [name for name in stamps if name not in listed]:
            del stamps[name]
            rows.pop(name, None)
            self.notes.pop(shown(f"{folder}/{name}"), None)
        new = [name for name, stamp in listed.items() if stamps.get(name) != stamp]
        for name in new:
            self.notes.pop(shown(f"{folder}/{name}"), None)
        read = self._files.read(table, new, folder=folder, required=REQUIRED[table], gone=gone)
        found = dict(read)
        for name in new:  # only now: what raises before is read again
            stamps[name] = listed[name]
            rows.pop(name, None)
        rows.update(found)

    def _parts(self, folder: str) -> list[pa.Table]:
        """Merged files first: a cell's own goes before them, as the last that has rows of it."""
        rows = self._rows.get(folder, {})
        return [rows[name] for name in sorted(rows, key=lambda name: (tables.is_own(name), name))]

    def _frame(self, table: str, parts: list[pa.Table]) -> pd.DataFrame:
        if not parts:
            return tables.SCHEMAS[table].empty_table().to_pandas()
        return concatenate(table, parts)

    def _say(self, path: str, verb: str, why: str) -> None:
        self.notes[path] = f"{path} {verb}: {why}" if verb else path


def open_tree(path: str) -> Tree:
    """The tree at a path or URI; nothing need be there.

    Raises:
        ResultsError: a URI that can't be used.
    """
    try:
        return Tree(path)
    except ConfigError as error:
        raise ResultsError(one_line(error)) from error
